"""Camera paths around an avatar."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from geodiff.clipset import ClipSet
from geodiff.clipset.layout import camera_from_json
from geodiff.conditioning import framed_camera, head_frame
from geodiff.config import choose
from geodiff.errors import ClipSetError, ConfigError, InputError
from geodiff.files import read_json, read_npz
from geodiff.tracking.importers.cap4d import orbit_from_arrays
from geodiff.types import Camera
from recon.avatar import Avatar
from recon.drives import Performance

#: Metres from the head's centre, as for a portrait taken from across a table.
DISTANCE = 1.0
#: The camera that filmed the drive.
DRIVING = "drive"


class Stand(NamedTuple):
    """Where a camera stands: degrees, and metres from the head's centre."""

    yaw: float = 0.0
    elevation: float = 0.0
    distance: float = DISTANCE


#: Named paths: part of the path 0..1 -> where the camera stands. All of them close.
PATHS: dict[str, Callable[[float], Stand]] = {
    "front": lambda s: Stand(),
    "orbit": lambda s: Stand(45.0 * math.sin(2 * math.pi * s), 10.0 * math.sin(4 * math.pi * s)),
    "swing": lambda s: Stand(75.0 * math.sin(2 * math.pi * s)),
    "turntable": lambda s: Stand(360.0 * s),
    "dolly": lambda s: Stand(distance=1.05 + 0.35 * math.cos(2 * math.pi * s)),
}


class FrameSize(NamedTuple):
    """Pixels of a picture. free: a file's cameras may keep their own shape, the longer side being as given."""

    width: int
    height: int
    free: bool = False

    @staticmethod
    def square(size: int) -> FrameSize:
        return FrameSize(size, size, free=True)


class CameraPath(Sequence[Camera]):
    """One camera for each frame, made when it is asked for."""

    def __init__(self, frames: int, make: Callable[[int], Camera]) -> None:
        self._frames, self._make = frames, make

    def __len__(self) -> int:
        return self._frames

    @overload
    def __getitem__(self, index: int) -> Camera: ...
    @overload
    def __getitem__(self, index: slice) -> list[Camera]: ...
    def __getitem__(self, index: int | slice) -> Camera | list[Camera]:
        if isinstance(index, slice):
            return [self._make(t) for t in range(*index.indices(self._frames))]
        if not -self._frames <= index < self._frames:
            raise IndexError(index)
        return self._make(index % self._frames)


def view_camera(avatar: Avatar, yaw: float, elevation: float, size: int) -> Camera:
    """A camera around the avatar at rest, framed as generated views are. yaw, elevation: degrees."""
    frame = head_frame(avatar.head, avatar.neutral().params)
    return framed_camera(frame, math.radians(yaw), math.radians(elevation), DISTANCE, size)


def camera_path(
    avatar: Avatar, spec: str, num_frames: int, size: int | FrameSize, performance: Performance | None = None
) -> CameraPath:
    """One camera for each frame.

    spec: a name of PATHS; "fixed" or "fixed:YAW,ELEVATION[,METRES]" in degrees; "drive", the camera that filmed the
    performance; a clip set's folder, whose views follow each other, or "FOLDER#C" for view C alone; a JSON file of
    cameras (transforms.json, or a list of such frames); or an npz file: CAP4D's orbit (extr, fx, fy, cx, cy,
    resolution) or ours (viewmats (T, 4, 4), Ks (T, 3, 3), size (2,) width and height). A file's path is repeated where
    it is too short. Heads are framed by the shorter side. Files' pictures are shown whole, in the middle.
    Raises ConfigError for an unknown name, InputError or ClipSetError for an unusable file.
    """
    wanted = FrameSize.square(size) if isinstance(size, int) else size
    if spec == DRIVING:
        return _listed(_driving(performance), num_frames, wanted)
    suffix, folder = Path(spec).suffix.lower(), Path(spec.rpartition("#")[0] or spec)
    if Path(spec).is_dir() or ("#" in spec and folder.is_dir()):
        return _toured(spec, num_frames, wanted)
    if suffix in (".npz", ".json"):
        center = head_frame(avatar.head, avatar.neutral().params).center
        cameras = read_cameras(spec, center) if suffix == ".npz" else read_camera_list(spec)
        return _listed(cameras, num_frames, wanted)
    stand = _named(spec)
    frame = head_frame(avatar.head, avatar.neutral().params)
    side = min(wanted.width, wanted.height)

    def make(t: int) -> Camera:
        yaw, elevation, distance = stand(t / num_frames)
        # The lens is that of the usual distance: nearer cameras see the head larger.
        camera = framed_camera(frame, math.radians(yaw), math.radians(elevation), distance, side)
        K = camera.K.clone()
        K[0, 0], K[1, 1] = K[0, 0] * DISTANCE / distance, K[1, 1] * DISTANCE / distance
        return _within(replace(camera, K=K), wanted.width, wanted.height)

    return CameraPath(num_frames, make)


def _named(spec: str) -> Callable[[float], Stand]:
    name, _, numbers = spec.partition(":")
    if name != "fixed":
        return PATHS[choose("camera path", spec, [*PATHS, "fixed:YAW,ELEVATION", DRIVING, "or a file"])]
    try:
        stand = Stand(*(float(number) for number in numbers.split(",") if numbers))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"a fixed camera reads fixed:YAW,ELEVATION,METRES, as in fixed:30,-10,1.2, and {spec!r} does not: "
            "correct it"
        ) from error
    if not all(math.isfinite(value) for value in stand) or not 0.2 <= stand.distance <= 100:
        raise ConfigError(f"a fixed camera must stand 0.2 to 100 metres away, got {spec!r}: correct it")
    return lambda s: stand


def _driving(performance: Performance | None) -> list[Camera]:
    if performance is None or performance.cameras is None:
        raise InputError(
            "--camera drive needs a drive that was filmed (a video, a clip set or a tracking result), and this one was "
            f"not: choose one of {', '.join(PATHS)}"
        )
    return performance.cameras


def _listed(cameras: list[Camera], num_frames: int, size: FrameSize) -> CameraPath:
    width, height = _target(cameras[0], size)
    return CameraPath(num_frames, lambda t: _within(cameras[t % len(cameras)], width, height))


def _toured(spec: str, num_frames: int, size: FrameSize) -> CameraPath:
    """The cameras of a clip set, moved to where they stand to a head at rest."""
    folder, mark, view = spec.rpartition("#") if "#" in spec and not Path(spec).is_dir() else (spec, "", "")
    clips = ClipSet.open(folder)
    if mark and not (view.isdigit() and int(view) < clips.num_cameras):
        raise ConfigError(
            f"{folder} has the views 0 to {clips.num_cameras - 1}, and {spec!r} names another: choose one of them"
        )
    views = [int(view)] if mark else list(range(clips.num_cameras))
    times = {c: [time for time, camera in clips.frames if camera == c] for c in views}
    first = clips.params.frame(0)
    width, height = _target(clips.camera(views[0]), size)

    def make(t: int) -> Camera:
        c = views[t * len(views) // num_frames]
        time = times[c][t % len(times[c])]
        return _within(clips.head.canonicalise(first, clips.camera(c, time))[1], width, height)

    return CameraPath(num_frames, make)


def read_camera_list(path: str | Path) -> list[Camera]:
    """The cameras of a JSON file, in its order: as transforms.json holds them, or a list of objects like its frames.

    Raises InputError where it is none.
    """
    content: Any = read_json(path)
    shared = {k: v for k, v in content.items() if k != "frames"} if isinstance(content, dict) else {}
    frames = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise InputError(f"{path} must list cameras as transforms.json does, and it lists none: see docs/animate.md")
    try:
        return [camera_from_json({**shared, **frame}, f"camera {i} of {path}") for i, frame in enumerate(frames)]
    except ClipSetError as error:
        raise InputError(str(error)) from error


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
        if not len(viewmats) or not np.isfinite(viewmats).all() or not np.isfinite(Ks).all() or min(width, height) < 1:
            raise ValueError("no cameras, or not finite ones")
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


def _target(camera: Camera, size: FrameSize) -> tuple[int, int]:
    """Pixels of the pictures of a file's cameras."""
    if not size.free:
        return size.width, size.height
    scale = size.width / max(camera.width, camera.height)
    return max(1, round(camera.width * scale)), max(1, round(camera.height * scale))


def _within(camera: Camera, width: int, height: int) -> Camera:
    """The whole view of a camera in the middle of a picture, which shows more of the scene where shapes differ."""
    scale = min(width / camera.width, height / camera.height)
    if abs(camera.width * scale - width) < 1 and abs(camera.height * scale - height) < 1:
        return camera.resized(width, height)
    K = camera.K.clone()
    K[:2] = K[:2] * scale
    K[0, 2] += (width - camera.width * scale) / 2
    K[1, 2] += (height - camera.height * scale) / 2
    return replace(camera, K=K, width=width, height=height)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float32))
