"""The avatar on a web page, playing a motion (viser)."""

from __future__ import annotations

import itertools
import time

import torch

from geodiff.errors import MissingDependencyError
from geodiff.geometry import quat_to_matrix
from geodiff.types import Drive
from recon.avatar import Avatar
from recon.drives import load_drive


def covariances(quats: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """(N, 3, 3) covariance matrices of Gaussians. quats: (N, 4) wxyz; scales: (N, 3)."""
    axes = quat_to_matrix(quats) * scales[:, None, :]
    return axes @ axes.transpose(1, 2)


def view(avatar: Avatar, drive: str = "builtin:talk", port: int = 8080, seconds: float | None = None) -> None:
    """Serves the avatar on http://localhost:PORT until interrupted, or for so many seconds.

    Raises MissingDependencyError where viser is not installed.
    """
    try:
        import viser
    except ImportError as error:
        raise MissingDependencyError(
            "`geodiff view` needs the package viser, which is not installed: run pip install 'geodiff[view]'"
        ) from error
    motion = load_drive(avatar, drive)
    server = viser.ViserServer(port=port)
    server.scene.set_up_direction("+y")
    start = time.monotonic()
    for t in itertools.cycle(range(motion.num_frames)):
        shown = time.monotonic()
        _show(server, avatar, motion.frame(t))
        time.sleep(max(0.0, 1 / motion.fps - (time.monotonic() - shown)))
        if seconds is not None and time.monotonic() - start > seconds:
            server.stop()
            return


def _show(server: object, avatar: Avatar, drive: Drive) -> None:
    posed = avatar.pose(drive)
    server.scene.add_gaussian_splats(  # type: ignore[attr-defined]
        "/avatar",
        centers=posed.means.numpy(),
        covariances=covariances(posed.quats, posed.scales).numpy(),
        rgbs=posed.colors[:, :3].clamp(0, 1).numpy(),
        opacities=posed.opacities[:, None].numpy(),
    )
