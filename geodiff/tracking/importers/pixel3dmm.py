"""Pixel3DMM's tracking folders: `checkpoint/%05d.frame`, one file a frame, beside `mesh/%05d.ply`.

Its head is FLAME's, skinned with the root at rest (neck, jaw and eyes turn), then moved as a whole, v' = R v + t about
the world's origin. The camera is world-to-camera with OpenGL's axes (x right, y up, looking along -z); a picture of 256
pixels has the focal length 256 fl and the principal point 128.5 (pp + 1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geodiff.errors import InputError
from geodiff.files import read_torch
from geodiff.geometry import matrix_to_axis_angle
from geodiff.tracking.importers.arrays import camera, floats, numbers, rigid
from geodiff.tracking.importers.result import Tracking, still
from geodiff.types import HeadParams

SOURCE = "Pixel3DMM"
#: Pixels of the side of the picture that its intrinsics are told for.
SIDE = 256
#: Largest frame file that is read, bytes; real ones have some kilobytes.
MAX_BYTES = 64 << 20
#: From OpenGL's camera axes into OpenCV's.
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
#: What a frame may hold beside numbers, texts, lists, dictionaries and tensors: plain numeric arrays. The function that
#: makes an empty one has other names in NumPy 1 and 2.
_DTYPES = ("b1", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
_MAKE_ARRAY = np.zeros(1).__reduce__()[0]
_ADMITTED: list[Any] = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(name)) for name in _DTYPES),
    *((_MAKE_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


def matches(path: Path) -> bool:
    """Whether a path is a tracking folder of Pixel3DMM. It may still be damaged."""
    return path.is_dir() and any((path / "checkpoint").glob("*.frame"))


def read_pixel3dmm(path: Path) -> Tracking:
    """Pixel3DMM's tracking of T frames. Pictures are not part of its folder. Raises InputError."""
    files = sorted((path / "checkpoint").glob("*.frame"))
    if not files:
        raise InputError(
            f"a folder of {SOURCE} holds checkpoint/*.frame, and {path} does not: name the tracking folder"
        )
    frames = [_Frame(file) for file in files]
    by_rows = _layout(frames, path)
    widths = {(len(frame.shape), len(frame.expr)) for frame in frames}
    if len(widths) > 1:
        raise InputError(f"{path} must hold frames of one run, and their widths differ: track it again")
    # Its variant for FLAME 2023, which has no jaw joint, fits a jaw rotation and does not apply it.
    jawless = "_FLAME23" in path.name
    jaw = np.zeros((len(frames), 3)) if jawless else _turns([frame.jaw for frame in frames], by_rows)
    eyes = [_turns([frame.eyes[i : i + 6] for frame in frames], by_rows) for i in (0, 6)]
    params = HeadParams(
        shape=floats(frames[0].shape),
        expr=floats(np.stack([frame.expr for frame in frames])),
        rotation=floats(_turns([frame.turn for frame in frames], by_rows)),
        translation=floats(np.stack([frame.shift for frame in frames])),
        neck_pose=floats(_turns([frame.neck for frame in frames], by_rows)),
        jaw_pose=floats(jaw),
        eyes_pose=floats(np.concatenate(eyes, 1)),
    )
    notes = []
    if max(np.abs(frame.shape - frames[0].shape).max() for frame in frames) > 1e-4:
        notes.append(f"the frames of {path.name} differ in shape; the first one's is taken")
    return Tracking(
        params=params,
        cameras=still([frame.camera for frame in frames], 1),
        source=SOURCE,
        camera_ids=["0"],
        timesteps=np.array([_number(file, i) for i, file in enumerate(files)]),
        eyelids=floats(np.stack([frame.eyelids for frame in frames])),
        convention="origin",
        notes=tuple(notes),
    )


class _Frame:
    """One frame's arrays, checked: vectors, and a `Camera`."""

    def __init__(self, file: Path) -> None:
        self.where = where = str(file)
        content = load_frame(file)
        flame, view = _part(content, "flame", where), _part(content, "camera", where)
        self.shape, self.expr = (numbers(flame, name, (None,), where) for name in ("shape", "exp"))
        self.shift, self.eyelids = numbers(flame, "t", (3,), where), numbers(flame, "eyelids", (2,), where)
        self.turn, self.neck, self.jaw = (numbers(flame, name, (6,), where) for name in ("R", "neck", "jaw"))
        self.eyes = numbers(flame, "eyes", (12,), where)
        sixes = np.concatenate([self.turn, self.neck, self.jaw, self.eyes]).reshape(-1, 2, 3)
        if np.linalg.norm(np.cross(sixes[:, 0], sixes[:, 1]), axis=1).min() < 1e-6:
            raise InputError(f"{where} must hold rotations, and one of R, neck, jaw and eyes is none: track it again")
        self.matrix = None
        if "R_rotation_matrix" in flame:
            found = numbers(flame, "R_rotation_matrix", (3, 3), where)
            self.matrix = rigid(found, "R_rotation_matrix", where)
        height, width = numbers(content, "img_size", (2,), where)
        pose = np.eye(4)
        pose[:3, :3] = rigid(numbers(view, "R_base_0", (3, 3), where), "R_base_0", where)
        pose[:3, 3] = numbers(view, "t_base_0", (3,), where)
        focal = SIDE * float(np.ravel(numbers(view, "fl", (1,), where))[0])
        point = (numbers(view, "pp", (2,), where) + 1.0) * (SIDE / 2 + 0.5)
        x, y = width / SIDE, height / SIDE
        intrinsics = (x * focal, y * focal, x * float(point[0]), y * float(point[1]))
        self.camera = camera(FLIP @ pose, intrinsics, int(width), int(height), where)


def load_frame(file: Path) -> dict[str, Any]:
    """What a frame file holds; tensors become arrays. Nothing in the file is run. Raises InputError."""
    if file.is_file() and file.stat().st_size > MAX_BYTES:
        raise InputError(f"a frame of {SOURCE} has at most {MAX_BYTES >> 20} MiB, and {file} is larger")
    try:
        with torch.serialization.safe_globals(_ADMITTED):
            content = read_torch(file)
    except ValueError as error:
        raise InputError(
            f"a frame of {SOURCE} holds arrays alone, and {file} cannot be read as one ({error}): "
            "use files that the tracker wrote"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"a frame of {SOURCE} is a dictionary, and {file} holds a {type(content).__name__}")
    return content


def _part(content: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    part = content.get(name)
    if not isinstance(part, dict):
        raise InputError(
            f"{where} must hold the dictionary {name!r}, and it does not: it may come from another version of "
            f"{SOURCE}; track it again"
        )
    return {str(k): v.detach().cpu().numpy() if isinstance(v, torch.Tensor) else v for k, v in part.items()}


def rotations_from_6d(values: np.ndarray, by_rows: bool = True) -> np.ndarray:
    """(T, 6) -> (T, 3, 3): two vectors made orthonormal (Zhou et al. 2019, section 4.2), and their cross product.

    by_rows: the vectors are the first rows of the matrix, as in PyTorch3D and Pixel3DMM; else its first columns.
    """
    first = values[:, :3] / np.linalg.norm(values[:, :3], axis=1, keepdims=True)
    second = values[:, 3:] - (first * values[:, 3:]).sum(1, keepdims=True) * first
    second = second / np.linalg.norm(second, axis=1, keepdims=True)
    return np.stack([first, second, np.cross(first, second)], 1 if by_rows else 2)


def _layout(frames: list[_Frame], path: Path) -> bool:
    """Whether the six numbers of a rotation are rows, told from the matrix that is stored beside them."""
    stored = [(frame.turn, frame.matrix) for frame in frames if frame.matrix is not None]
    if not stored:
        return True
    turns, matrices = (np.stack(part) for part in zip(*stored, strict=True))
    for by_rows in (True, False):
        if np.abs(rotations_from_6d(turns, by_rows) - matrices).max() < 1e-3:
            return by_rows
    raise InputError(
        f"R and R_rotation_matrix must be one rotation, and those of {path} are two: it may come from another version "
        f"of {SOURCE}; track it again"
    )


def _turns(values: list[np.ndarray], by_rows: bool) -> np.ndarray:
    """(T, 3) axis-angle of T rotations of six numbers."""
    matrices = torch.from_numpy(rotations_from_6d(np.stack(values), by_rows))
    return matrix_to_axis_angle(matrices).numpy()


def _number(file: Path, default: int) -> int:
    digits = re.search(r"\d+", file.stem)
    return int(digits[0]) if digits else default
