"""Names, keys and conversions that the writer and the reader of clip sets share."""

from __future__ import annotations

import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geodiff.errors import ClipSetError
from geodiff.files import read_npz, write_npz
from geodiff.geometry import cv_to_gl, gl_to_cv
from geodiff.head.identity import HASH_KEY, hash_array
from geodiff.head.model import HeadModel
from geodiff.types import POSE_WIDTHS, Camera, HeadParams

#: Raised when a reader of the old version would misread the new one.
SCHEMA_VERSION = 1

META = "clipset.json"
TRANSFORMS = "transforms.json"
CANONICAL = "canonical_flame_param.npz"
EXPRESSION = "expression.safetensors"
SPLITS = ("train", "val", "test")
INDEXINGS = ("multiview", "monocular")

Index = tuple[int, int]


def frame_name(t: int, c: int) -> str:
    return f"{t:05d}_{c:02d}.png"


def default_splits(frames: list[Index]) -> dict[str, list[Index]]:
    """Training, validation and test frames as (timestep, camera).

    One frame in ten is for validation, spread so that every view and every time stays in the training part; of clips
    with 32 timesteps and more the last sixteenth is for the test.
    """
    times = sorted({t for t, _ in frames})
    late = set(times[len(times) - len(times) // 16 :]) if len(times) >= 32 else set()
    order = {t: i for i, t in enumerate(times)}
    splits: dict[str, list[Index]] = {name: [] for name in SPLITS}
    for t, c in frames:
        if t in late:
            splits["test"].append((t, c))
        elif (order[t] + 3 * c) % 10 == 9:
            splits["val"].append((t, c))
        else:
            splits["train"].append((t, c))
    return splits


def camera_to_json(camera: Camera) -> dict[str, Any]:
    """VHAP's keys: intrinsics in pixels, field of view in radians, camera-to-world matrix with OpenGL axes."""
    fx, fy = float(camera.K[0, 0]), float(camera.K[1, 1])
    return {
        "cx": float(camera.K[0, 2]),
        "cy": float(camera.K[1, 2]),
        "fl_x": fx,
        "fl_y": fy,
        "h": int(camera.height),
        "w": int(camera.width),
        "camera_angle_x": 2.0 * math.atan(camera.width / (2.0 * fx)),
        "camera_angle_y": 2.0 * math.atan(camera.height / (2.0 * fy)),
        "transform_matrix": cv_to_gl(camera.viewmat.double().cpu()).tolist(),
    }


def camera_from_json(values: dict[str, Any], where: str) -> Camera:
    """The inverse of `camera_to_json`; the field of view stands in for focal lengths, the centre for cx and cy.

    Raises ClipSetError when a key is missing or the matrix is no rigid transform.
    """
    try:
        width, height = int(values["w"]), int(values["h"])
        fx = float(values["fl_x"]) if "fl_x" in values else width / (2 * math.tan(float(values["camera_angle_x"]) / 2))
        fy = float(values.get("fl_y", fx))
        cx, cy = float(values.get("cx", width / 2)), float(values.get("cy", height / 2))
        transform = torch.tensor(values["transform_matrix"], dtype=torch.float64)
    except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise ClipSetError(f"{where} must give w, h, fl_x and transform_matrix, and it does not ({error!r})") from error
    numbers = torch.tensor([fx, fy, cx, cy, float(width), float(height)])
    if transform.shape != (4, 4) or not torch.isfinite(transform).all() or not torch.isfinite(numbers).all():
        raise ClipSetError(f"{where} must give a finite 4x4 transform_matrix and finite intrinsics, and it does not")
    rotation = transform[:3, :3]
    rigid = torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-3)
    if not rigid or torch.linalg.det(rotation) <= 0 or min(fx, fy, width, height) <= 0:
        raise ClipSetError(f"{where} must give a rigid camera with positive size and focal length, and it does not")
    K = torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    return Camera(gl_to_cv(transform).float(), K, width, height)


def write_params(path: Path, params: HeadParams, num_vertices: int, head: HeadModel | None = None) -> None:
    """One timestep's parameters (T = 1) under VHAP's names and with its shapes; with its hash where `head` is given."""
    known = {} if head is None else {HASH_KEY: hash_array(head)}
    write_npz(path, **_params_to_arrays(params, num_vertices), **known)


def write_canonical(path: Path, params: HeadParams, num_vertices: int, head: HeadModel | None = None) -> None:
    """VHAP's canonical pose: everything zero but shape, offsets and a slightly open jaw."""
    still = HeadParams.zeros(params.shape.shape[0], params.expr.shape[1])
    jaw = torch.tensor([[0.3, 0.0, 0.0]])
    own = still.replace(shape=params.shape, static_offset=params.static_offset, jaw_pose=jaw)
    write_params(path, own, num_vertices, head)


def _params_to_arrays(params: HeadParams, num_vertices: int) -> dict[str, np.ndarray]:
    arrays = {name: getattr(params, name)[:1] for name in ("expr", *POSE_WIDTHS)}
    offset = params.static_offset
    arrays["shape"] = params.shape
    arrays["static_offset"] = torch.zeros(1, num_vertices, 3) if offset is None else offset[None]
    return {name: np.ascontiguousarray(value.detach().cpu().float().numpy()) for name, value in arrays.items()}


def read_params(path: Path) -> HeadParams:
    """Parameters of one file; a static offset that is zero everywhere is None. Raises ClipSetError or InputError."""
    arrays = read_npz(path)
    missing = [name for name in ("shape", "expr", *POSE_WIDTHS) if name not in arrays]
    if missing:
        raise ClipSetError(f"{path} must hold the head parameters shape, expr and pose, and {missing[0]} is missing")
    values = {}
    for name in ("expr", *POSE_WIDTHS):
        rows = _numbers(arrays[name], name, path)
        values[name] = rows.reshape(-1, rows.shape[-1] if rows.ndim else 1)
        if name in POSE_WIDTHS and values[name].shape[1] != POSE_WIDTHS[name]:
            raise ClipSetError(f"{path} must hold {name} with {POSE_WIDTHS[name]} values, not {values[name].shape[1]}")
    counts = {rows.shape[0] for rows in values.values()}
    if len(counts) != 1:
        raise ClipSetError(f"{path} must hold one number of frames for all parameters, not {sorted(counts)}")
    kept = None
    if "static_offset" in arrays:
        offset = _numbers(arrays["static_offset"], "static_offset", path)
        if offset.numel() % 3:
            raise ClipSetError(
                f"{path} must hold static_offset with three values a vertex, not {tuple(offset.shape)}: track it again"
            )
        kept = offset.reshape(-1, 3) if offset.any() else None
    return HeadParams(shape=_numbers(arrays["shape"], "shape", path).reshape(-1), static_offset=kept, **values)


def _numbers(array: np.ndarray, name: str, path: Path) -> torch.Tensor:
    """A float32 tensor of an array of finite numbers. Raises ClipSetError for any other."""
    if array.dtype.kind not in "fiub" or (array.size == 0 and name == "expr"):
        raise ClipSetError(f"{path} must hold {name} as numbers, not {array.dtype} {array.shape}: track it again")
    if not np.isfinite(array).all():
        raise ClipSetError(f"{path} must hold finite head parameters, and {name} is not: generate or track it again")
    return torch.as_tensor(array.astype(np.float32))


@lru_cache(maxsize=4)
def _real_folder(absolute: str) -> str:
    return os.path.realpath(absolute)


def inside(folder: Path, relative: Any, where: str) -> Path:
    """`folder / relative`, when that stays in the folder. Raises ClipSetError."""
    if not isinstance(relative, str) or not relative:
        raise ClipSetError(f"{where} must name a file, and it gives {relative!r}")
    path = folder / relative
    real = os.path.realpath(path)
    if os.path.isabs(relative) or not real.startswith(_real_folder(os.path.abspath(folder)) + os.sep):
        raise ClipSetError(
            f"{where} must name files inside the clip set, and {relative!r} leads out of it: copy them in"
        )
    return path
