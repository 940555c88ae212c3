"""Checks that the readers of other tools' files share: one sentence for whatever is wrong with an array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from geodiff.errors import InputError
from geodiff.types import Camera

#: Longest sequence that is read, frames; more means that a file is not what it seems.
MAX_FRAMES = 200_000


def numbers(arrays: Mapping[str, Any], name: str, shape: tuple[int | None, ...], where: str) -> np.ndarray:
    """The array `name` in float64, finite and of this shape (None: any length).

    A leading axis of length one may be missing or too much. where: the file, for the message. Raises InputError.
    """
    if name not in arrays:
        raise InputError(f"{where} must hold {name}, and it does not: export it again, or name another file")
    array = np.asarray(arrays[name])
    if array.dtype.kind not in "fiub":
        raise InputError(f"{where} must hold {name} as numbers, not {array.dtype}: export it again")
    if array.ndim == len(shape) + 1 and array.shape[0] == 1:
        array = array[0]
    elif array.ndim == len(shape) - 1 and shape[0] in (None, 1):
        array = array[None]
    if array.ndim != len(shape) or any(s not in (None, n) for s, n in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if s is None else str(s) for s in shape)
        raise InputError(
            f"{where} must hold {name} of shape ({wanted}), not {np.asarray(arrays[name]).shape}: it may come from "
            "another version of the tool; export it again"
        )
    if array.shape[0] > MAX_FRAMES or array.size == 0:
        raise InputError(f"{where} must hold {name} with 1 to {MAX_FRAMES} rows, not {array.shape}: export it again")
    if not np.isfinite(array).all():
        raise InputError(f"{where} must hold finite numbers, and {name} has NaN or infinity: track it again")
    return array.astype(np.float64)


def rigid(matrices: np.ndarray, name: str, where: str) -> np.ndarray:
    """Checks that matrices (..., 3, 3) or (..., 4, 4) are rotations, or rigid transforms. Raises InputError."""
    turn = matrices[..., :3, :3]
    off = np.abs(turn @ np.swapaxes(turn, -1, -2) - np.eye(3)).max()
    if off > 1e-3 or np.linalg.det(turn).min() < 0:
        raise InputError(f"{where} must hold {name} as rotations, and it is off by {off:.2g}: export it again")
    if matrices.shape[-1] == 4 and np.abs(matrices[..., 3, :] - [0, 0, 0, 1]).max() > 1e-6:
        raise InputError(f"{where} must hold {name} as rigid transforms, and its last row is another: export it again")
    return matrices


def camera(viewmat: np.ndarray, intrinsics: tuple[float, ...], width: int, height: int, where: str) -> Camera:
    """A `Camera` of a (4, 4) world-to-camera matrix and fx, fy, cx, cy. Raises InputError."""
    fx, fy, cx, cy = intrinsics
    if min(fx, fy) <= 0 or not (1 <= width <= 1 << 16 and 1 <= height <= 1 << 16):
        raise InputError(
            f"{where} must hold cameras with a positive focal length and size, not {fx:g}, {fy:g} and {width}x{height}"
            ": export it again"
        )
    K = torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=torch.float32)
    return Camera(torch.from_numpy(viewmat.astype(np.float32)), K, width, height)


def floats(array: np.ndarray) -> torch.Tensor:
    """A float32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
