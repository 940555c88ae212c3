"""The avatar on a web page, playing a motion (viser)."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import torch

from geodiff.conditioning import head_frame
from geodiff.errors import MissingDependencyError
from geodiff.geometry import quat_to_matrix
from geodiff.types import Drive
from recon.avatar import Avatar
from recon.cameras import DISTANCE
from recon.drives import load_drive

#: Scene units of the page in a metre. It holds covariances in half precision, which square metres of a few square
#: millimetres would fall through.
UNIT = 20.0
#: Vertical, radians: the head fills the page about as it fills a generated view.
FIELD_OF_VIEW = 0.42


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
    center = UNIT * head_frame(avatar.head, avatar.neutral().params).center.double().numpy()

    def look(client: Any) -> None:
        client.camera.position = center + np.array([0.0, 0.0, UNIT * DISTANCE])
        client.camera.look_at = center
        client.camera.fov = FIELD_OF_VIEW

    server.on_client_connect(look)
    start = time.monotonic()
    try:
        for t in itertools.cycle(range(motion.num_frames)):
            shown = time.monotonic()
            # Nobody looks: nothing is posed, but the first frame for who comes.
            if t == 0 or server.get_clients():
                _show(server, avatar, motion.frame(t))
            time.sleep(max(0.0, 1 / motion.fps - (time.monotonic() - shown)))
            if seconds is not None and time.monotonic() - start > seconds:
                return
    finally:
        server.stop()


def _show(server: Any, avatar: Avatar, drive: Drive) -> None:
    posed = avatar.pose(drive)
    server.scene.add_gaussian_splats(
        "/avatar",
        centers=UNIT * posed.means.numpy(),
        covariances=UNIT**2 * covariances(posed.quats, posed.scales).numpy(),
        rgbs=posed.colors[:, :3].clamp(0, 1).numpy(),
        opacities=posed.opacities[:, None].numpy(),
    )
