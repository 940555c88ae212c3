"""CAP4D's `fit.npz` and camera paths, read and written.

Its head is FLAME's without a jaw joint. The skinned head is moved as a whole, v' = R v + t about the world's origin,
is turned by diag(1, -1, -1) into OpenCV's axes, and then goes through `extr` (world to camera). The last expression
coefficient is none of FLAME's but moves both lids. `neck_rot` turns the trunk against the head, `eye_rot` both eyes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geodiff.errors import InputError
from geodiff.files import read_npz, write_npz
from geodiff.head.model import HeadModel
from geodiff.media import image_size
from geodiff.tracking.importers.arrays import camera, floats, numbers, rigid
from geodiff.tracking.importers.result import Tracking, neck_to_trunk, offsets_beside_cap4d
from geodiff.types import Camera, HeadParams

SOURCE = "CAP4D"
#: Widths of its shape and expression vectors; the last expression is the lids'.
NUM_SHAPE, NUM_EXPR = 150, 65
#: Name of the last expression coefficient, whose shape moves the lids and comes with CAP4D.
BLINK = "blink"
INTRINSICS = ("fx", "fy", "cx", "cy")
#: Keys that tell its file from others.
KEYS = frozenset({"extr", "fx", "expr", "rot", "tra"})
#: From the world of its vertices into OpenCV's axes.
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


def matches(path: Path) -> bool:
    """Whether a path is a fit file of CAP4D or a folder of one of its two kinds (`read_cap4d`). It may be damaged."""
    if path.is_dir():
        return (path / "fit.npz").is_file() or ((path / "images").is_dir() and any((path / "flame").glob("*.npz")))
    if path.suffix != ".npz" or not path.is_file():
        return False
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
            names = set(arrays.files)
    except Exception:  # a damaged archive: its reader says so, if no other format takes it
        return path.name == "fit.npz"
    return len(KEYS & names) >= 3


def read_cap4d(path: Path) -> Tracking:
    """CAP4D's fit of T frames from C cameras: a fit.npz, or the folder with it and its images/CAMERA, bg/CAMERA.

    A folder without fit.npz is what its avatar fitter reads: images/ and flame/, one cropped picture and one fit each.
    Driving files have no shape: it is zero. The parameters follow CAP4D's convention; `Tracking.on` tells them in
    FLAME's terms. Raises InputError.
    """
    file = path / "fit.npz" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        return _read_crops(path)
    tracking = _from_arrays(read_npz(file), file)
    images, masks = (
        _files(file.parent / folder, tracking.camera_ids, tracking.num_frames) for folder in ("images", "bg")
    )
    return replace(tracking, images=images, masks=masks)


def _read_crops(folder: Path) -> Tracking:
    """The frames of an avatar fitter's folder: every one has a camera of its own, cut to its picture."""
    files = sorted((folder / "flame").glob("*.npz"))
    pictures = sorted(p for p in (folder / "images").iterdir() if p.suffix.lower() in _PICTURES)
    if len(files) != len(pictures):
        raise InputError(f"{folder} must hold one picture for each of {len(files)} fits, not {len(pictures)}")
    parts, cameras = [], []
    for file, picture in zip(files, pictures, strict=True):
        arrays, where = read_npz(file), str(file)
        part = _from_arrays(arrays, file)
        if part.num_frames != 1 or part.num_cameras != 1:
            raise InputError(f"{where} must hold one frame of one camera, not {part.num_frames}: export it again")
        left, top, right, bottom = numbers(arrays, "crop_box", (4,), where)
        width, height = image_size(picture)
        if right <= left or bottom <= top:
            raise InputError(f"{where} must hold crop_box as x0, y0, x1, y1 with an area: export it again")
        across, down = width / (right - left), height / (bottom - top)
        K = part.cameras[0].K.double().numpy()
        cut = (across * K[0, 0], down * K[1, 1], across * (K[0, 2] - left), down * (K[1, 2] - top))
        cameras.append(camera(part.cameras[0].viewmat.numpy(), cut, width, height, where))
        parts.append(part)
    first = parts[0]
    if any(
        len(p.params.shape) != len(first.params.shape) or p.params.expr.shape != first.params.expr.shape for p in parts
    ):
        raise InputError(f"{folder / 'flame'} must hold fits of one head, and their widths differ: export them again")
    return replace(
        first,
        params=HeadParams.concatenate([part.params for part in parts]),
        cameras=cameras,
        timesteps=np.arange(len(parts)),
        images=list(pictures),
        valid=None,
        codes={BLINK: torch.cat([part.codes[BLINK] for part in parts])},
    )


def _from_arrays(arrays: Mapping[str, Any], file: Path) -> Tracking:
    where = str(file)
    expr = numbers(arrays, "expr", (None, None), where)
    frames = len(expr)
    pose = {name: numbers(arrays, name, (frames, 3), where) for name in ("rot", "tra")}
    for name in ("eye_rot", "neck_rot", "jaw_rot"):
        pose[name] = numbers(arrays, name, (frames, 3), where) if name in arrays else np.zeros((frames, 3))
    if expr.shape[1] < 2:
        raise InputError(f"{where} must hold expr of shape (any, {NUM_EXPR}), not {expr.shape}: export it again")
    shape = numbers(arrays, "shape", (None,), where) if "shape" in arrays else np.zeros(NUM_SHAPE)
    cameras = _cameras(arrays, where)
    names = _camera_names(arrays, len(cameras), where)
    params = HeadParams(
        shape=floats(shape),
        expr=floats(expr[:, :-1]),
        rotation=floats(pose["rot"]),
        translation=floats(pose["tra"]),
        neck_pose=floats(pose["neck_rot"]),
        jaw_pose=floats(pose["jaw_rot"]),
        eyes_pose=floats(np.concatenate([pose["eye_rot"], pose["eye_rot"]], 1)),
    )
    notes = [] if "shape" in arrays else [f"{file.name} moves a head without saying whose: its shape is the mean"]
    return Tracking(
        params=params,
        cameras=cameras,
        source=SOURCE,
        camera_ids=names,
        timesteps=np.arange(frames),
        fps=_rate(arrays, where),
        valid=_valid(arrays, frames, len(cameras)),
        codes={BLINK: floats(expr[:, -1:])},
        convention="cap4d",
        notes=tuple(notes),
    )


def read_orbit(path: Path) -> list[Camera]:
    """The cameras of a path: extr (T, 4, 4), fx, fy, cx, cy (T, 1), resolution (2,) height and width.

    They are in the world of `read_cap4d`'s parameters. Raises InputError.
    """
    arrays = read_npz(path)
    return orbit_from_arrays(arrays, str(path))


def orbit_from_arrays(arrays: Mapping[str, Any], where: str) -> list[Camera]:
    """`read_orbit` of arrays that are already read; where: their file, for messages."""
    extr = rigid(numbers(arrays, "extr", (None, 4, 4), where), "extr", where)
    height, width = (int(v) for v in numbers(arrays, "resolution", (2,), where))
    rows = np.stack([_column(arrays, name, len(extr), where) for name in INTRINSICS], 1)
    return [camera(e @ FLIP, tuple(row), width, height, where) for e, row in zip(extr, rows, strict=True)]


def write_orbit(path: Path, cameras: list[Camera], fps: float | None = None) -> Path:
    """Writes a camera path as CAP4D reads it. The cameras share one size."""
    extra = {} if fps is None else {"fps": np.array(fps)}
    sizes = {(c.height, c.width) for c in cameras}
    if len(sizes) != 1:
        raise InputError(f"a camera path must have one size, and it has {len(sizes)}: write one file for each")
    return write_npz(path, **_camera_arrays(cameras), resolution=np.array(sizes.pop()), **extra)


def write_cap4d(path: Path, tracking: Tracking, head: HeadModel | None = None) -> tuple[str, ...]:
    """Writes a tracking as CAP4D's fit file; returns sentences about what the format has no place for.

    head: the FLAME model of the parameters; needed unless they are in CAP4D's convention already. What `read_cap4d`
    read is written back without loss. Raises InputError where the parameters cannot be told in CAP4D's terms.
    """
    params, lost = tracking.params, []
    if tracking.head != "flame":
        raise InputError(
            f"CAP4D's file holds parameters of FLAME, and these belong to the head {tracking.head!r}: convert them "
            "with `geodiff track RESULT --convert flame:PATH` first"
        )
    if tracking.convention != "cap4d":
        if head is None:
            raise InputError(
                "CAP4D turns heads about another point than FLAME: name the FLAME model as --head flame:PATH"
            )
        if tracking.convention != "flame":
            params = tracking.on(head).params
        params = neck_to_trunk(params, head)
        if (left := offsets_beside_cap4d(params, head)) > 1e-6:
            lost.append(f"offsets of the head's surface, {1e3 * left:.2f} mm on average")
    if len(tracking.cameras) != tracking.num_cameras:
        raise InputError("CAP4D's cameras stand still, and these move: write their path with write_orbit beside a fit")
    eyes = params.eyes_pose.reshape(-1, 2, 3)
    if not torch.equal(eyes[:, 0], eyes[:, 1]):
        lost.append("the difference between the eyes")
    blink = tracking.codes.get(BLINK, torch.zeros(params.num_frames, 1))
    if tracking.eyelids is not None and bool(tracking.eyelids.any()):
        lost.append("the eyelids")
    if bool(params.jaw_pose.any()):
        lost.append("the jaw's rotation in its own model, which has no jaw joint; it is written as jaw_rot")
    for name, values, width in (("shape", params.shape, NUM_SHAPE), ("expr", params.expr, NUM_EXPR - 1)):
        if bool(values[..., width:].any()):
            lost.append(f"{name} coefficients beyond {width}")
    expr = torch.cat([_cut(params.expr, NUM_EXPR - 1), blink], 1)
    arrays: dict[str, np.ndarray] = {
        **_camera_arrays(tracking.cameras),
        "resolutions": np.array([[c.height, c.width] for c in tracking.cameras]),
        "camera_order": np.array(tracking.camera_ids),
        "shape": _cut(params.shape, NUM_SHAPE).numpy(),
        "expr": expr.numpy(),
        "rot": params.rotation.numpy(),
        "tra": params.translation.numpy(),
        "eye_rot": (eyes[:, 0] if torch.equal(eyes[:, 0], eyes[:, 1]) else eyes.mean(1)).numpy(),
    }
    for name, value in (("neck_rot", params.neck_pose), ("jaw_rot", params.jaw_pose)):
        if bool(value.any()):
            arrays[name] = value.numpy()
    if tracking.fps is not None:
        arrays["fps"] = np.array(tracking.fps)
    if tracking.valid is not None:
        arrays["valid_mask"] = np.ascontiguousarray(tracking.valid.T)
    write_npz(path, **arrays)
    return tuple(f"CAP4D's file has no place for {what}" for what in lost)


def _cut(values: torch.Tensor, width: int) -> torch.Tensor:
    kept = values[..., :width]
    return torch.nn.functional.pad(kept, (0, width - kept.shape[-1])).float()


def _camera_arrays(cameras: list[Camera]) -> dict[str, np.ndarray]:
    flip = FLIP.astype(np.float32)
    Ks = np.stack([c.K.numpy() for c in cameras])  # noqa: N806
    places = zip(INTRINSICS, ((0, 0), (1, 1), (0, 2), (1, 2)), strict=True)
    return {
        "extr": np.stack([c.viewmat.numpy() @ flip for c in cameras]),
        **{name: np.ascontiguousarray(Ks[:, i, j][:, None]) for name, (i, j) in places},
    }


def _cameras(arrays: Mapping[str, Any], where: str) -> list[Camera]:
    extr = rigid(numbers(arrays, "extr", (None, 4, 4), where), "extr", where)
    sizes = numbers(arrays, "resolutions", (len(extr), 2), where)
    rows = np.stack([_column(arrays, name, len(extr), where) for name in INTRINSICS], 1)
    return [
        camera(e @ FLIP, tuple(row), int(width), int(height), where)
        for e, row, (height, width) in zip(extr, rows, sizes, strict=True)
    ]


def _column(arrays: Mapping[str, Any], name: str, count: int, where: str) -> np.ndarray:
    """(count,) values of one intrinsic; one value stands for all."""
    found = np.asarray(arrays.get(name, np.zeros(0)))
    flat = numbers({name: found.reshape(-1)} if name in arrays else {}, name, (None,), where)
    if len(flat) not in (1, count):
        raise InputError(f"{where} must hold {name} for each of {count} cameras, not {len(flat)}: export it again")
    return np.broadcast_to(flat, (count,))


def _camera_names(arrays: Mapping[str, Any], count: int, where: str) -> list[str]:
    names = [str(name) for name in np.atleast_1d(arrays.get("camera_order", [f"cam{c}" for c in range(count)]))]
    if len(names) != count or len(set(names)) != count:
        raise InputError(f"{where} must name each of its {count} cameras once in camera_order, and it does not")
    return names


def _rate(arrays: Mapping[str, Any], where: str) -> float | None:
    if "fps" not in arrays:
        return None
    rate = float(numbers({"fps": np.asarray(arrays["fps"]).reshape(-1)}, "fps", (1,), where)[0])
    return rate if rate > 0 else None


def _valid(arrays: Mapping[str, Any], frames: int, cameras: int) -> np.ndarray | None:
    """(T, C) bool of valid_mask, which has one row a camera."""
    found = np.asarray(arrays.get("valid_mask", np.zeros(0)))
    return found.T.astype(bool) if found.shape == (cameras, frames) and found.dtype.kind in "bui" else None


def _files(folder: Path, cameras: list[str], frames: int) -> list[Path | None] | None:
    """Pictures of all frames, camera by camera in their own folders; None where a camera has another number."""
    found = []
    for name in cameras:
        place = folder / name
        if Path(name).name != name or not place.is_dir():
            return None
        files = sorted(p for p in place.iterdir() if p.suffix.lower() in _PICTURES)
        if len(files) != frames:
            return None
        found.append(files)
    return [files[t] for t in range(frames) for files in found]
