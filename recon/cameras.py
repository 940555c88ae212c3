"""Camera paths around an avatar."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from geodiff.conditioning import framed_camera, head_frame
from geodiff.config import choose
from geodiff.errors import InputError
from geodiff.files import read_npz
from geodiff.tracking.importers.cap4d import orbit_from_arrays
from geodiff.types import Camera
from recon.avatar import Avatar

#: Metres from the head's centre, as for a portrait taken from across a table.
DISTANCE = 1.0

#: Named paths: part of the path 0..1 -> yaw and elevation in degrees. All of them close.
PATHS: dict[str, Callable[[float], tuple[float, float]]] = {
    "front": lambda s: (0.0, 0.0),
    "orbit": lambda s: (45.0 * math.sin(2 * math.pi * s), 10.0 * math.sin(4 * math.pi * s)),
    "swing": lambda s: (75.0 * math.sin(2 * math.pi * s), 0.0),
    "turntable": lambda s: (360.0 * s, 0.0),
}


def view_camera(avatar: Avatar, yaw: float, elevation: float, size: int) -> Camera:
    """A camera around the avatar at rest, framed as generated views are. yaw, elevation: degrees."""
    frame = head_frame(avatar.head, avatar.neutral().params)
    return framed_camera(frame, math.radians(yaw), math.radians(elevation), DISTANCE, size)


def camera_path(avatar: Avatar, spec: str, num_frames: int, size: int) -> list[Camera]:
    """One camera for each frame.

    spec: a name of PATHS, or an npz file: CAP4D's orbit (extr, fx, fy, cx, cy, resolution) or ours (viewmats (T, 4, 4),
    Ks (T, 3, 3), size (2,) width and height). A file's path is repeated where it is too short, and scaled to `size`
    pixels on its longer side. Raises ConfigError for an unknown name, InputError for an unusable file.
    """
    if spec.endswith(".npz"):
        center = head_frame(avatar.head, avatar.neutral().params).center
        cameras = read_cameras(spec, center)
        return [_scaled(cameras[t % len(cameras)], size) for t in range(num_frames)]
    path = PATHS[choose("camera path", spec, PATHS)]
    return [view_camera(avatar, *path(t / num_frames), size) for t in range(num_frames)]


def read_cameras(path: str | Path, center: Tensor) -> list[Camera]:
    """The cameras of an npz file, see `camera_path`.

    center: (3,) of the avatar's head. CAP4D's paths circle the place where its tracker found a head, so they are moved
    there; ours are in the avatar's own world.
    """
    arrays = read_npz(path)
    try:
        if "extr" in arrays:
            return _moved(orbit_from_arrays(arrays, str(path)), center)
        width, height = (int(v) for v in arrays["size"].reshape(2))
        viewmats, Ks = arrays["viewmats"].reshape(-1, 4, 4), arrays["Ks"].reshape(-1, 3, 3)  # noqa: N806
        return [Camera(_tensor(v), _tensor(K), width, height) for v, K in zip(viewmats, Ks, strict=True)]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"a camera path must hold viewmats, Ks and size, or CAP4D's extr, fx, fy, cx, cy and resolution, and "
            f"{path} does not ({error}): choose one of {', '.join(PATHS)} instead"
        ) from error


def _moved(cameras: list[Camera], center: Tensor) -> list[Camera]:
    """The same cameras with the point that they look at (nearest to all optical axes) moved to `center`."""
    origins = torch.stack([camera.center for camera in cameras]).double()
    axes = torch.stack([camera.viewmat[2, :3] for camera in cameras]).double()
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    system = across.sum(0)
    if float(torch.linalg.eigvalsh(system)[0]) < 1e-6 * len(cameras):
        # Parallel axes meet nowhere; the head stands at the usual distance on the first one.
        focus = origins[0] + DISTANCE * axes[0]
    else:
        focus = torch.linalg.solve(system, (across @ origins[:, :, None])[:, :, 0].sum(0))
    shift = torch.eye(4)
    shift[:3, 3] = focus.float() - center
    return [replace(camera, viewmat=camera.viewmat @ shift) for camera in cameras]


def _scaled(camera: Camera, size: int) -> Camera:
    scale = size / max(camera.width, camera.height)
    return camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float32))
