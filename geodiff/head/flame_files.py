"""FLAME's own arrays from the model file that its users have, checked and brought to one layout.

Read are the published pickles (`generic_model.pkl` of 2020, `flame2023.pkl`, `flame2023_no_jaw.pkl`, under any name)
and the same arrays in an .npz or .safetensors file that someone has converted them to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from geodiff.errors import HeadModelError
from geodiff.head.flame_pickle import read_pickle
from geodiff.head.model import PARENTS
from geodiff.head.stored import array

#: The arrays that a FLAME model must hold.
KEYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")
#: Model files that are looked for in a folder, in this order.
NAMES = tuple(
    f"{stem}.{suffix}"
    for suffix in ("pkl", "npz", "safetensors")
    for stem in ("flame2023", "generic_model", "flame2023_no_jaw", "FLAME_NEUTRAL", "flame2020")
)
#: Where the shape basis ends and the expression basis begins.
NUM_SHAPE = 300
#: Column of the skinning weights and number of the joint.
JAW = 2
#: Parents of the joints in a file that has no jaw joint at all: root, neck, eyes.
PARENTS_WITHOUT_JAW = (-1, 0, 1, 1)
#: Plausible height of the template in metres; its files are in metres.
HEIGHT = (0.15, 0.8)


@dataclass(frozen=True)
class FlameArrays:
    """FLAME's arrays with five joints, float32 and int64.

    template: (V, 3). faces: (F, 3). shape: (S, V, 3). expression: (E, V, 3). pose: (36, V, 3). regressor: (5, V).
    weights: (V, 5). jaw: whether the jaw joint moves anything; where it does not, the mouth opens by expressions.
    """

    file: Path
    template: np.ndarray
    faces: np.ndarray
    shape: np.ndarray
    expression: np.ndarray
    pose: np.ndarray
    regressor: np.ndarray
    weights: np.ndarray
    jaw: bool


def find_flame(path: Path) -> Path:
    """The model file that `path` names, or the first in the folder that it names. Raises HeadModelError."""
    if path.is_dir():
        for name in NAMES:
            if (path / name).is_file():
                return path / name
        raise HeadModelError(
            f"a FLAME folder holds generic_model.pkl or flame2023.pkl, but {path} has neither; name the model's file."
        )
    if not path.is_file():
        raise HeadModelError(
            f"a FLAME head needs its model file, but {path} does not exist; download it from the FLAME website."
        )
    return path


def read_flame(path: Path) -> FlameArrays:
    """The arrays of the model file `path`, checked. Raises HeadModelError."""
    arrays = _read(path)
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise HeadModelError(
            f"a FLAME model holds {', '.join(KEYS)}, but {path} lacks {', '.join(missing)}; use the published file."
        )
    _check_shapes(path, arrays)
    _check_values(path, arrays)
    if len(arrays["kintree_table"][0]) == len(PARENTS_WITHOUT_JAW):
        arrays = _with_jaw(arrays)
    weights = arrays["weights"].astype(np.float32)
    basis = np.transpose(arrays["shapedirs"], (2, 0, 1)).astype(np.float32)
    split = NUM_SHAPE if basis.shape[0] > NUM_SHAPE else max(basis.shape[0] - 100, 0)
    return FlameArrays(
        file=path,
        template=arrays["v_template"].astype(np.float32),
        faces=arrays["f"].astype(np.int64),
        shape=np.ascontiguousarray(basis[:split]),
        expression=np.ascontiguousarray(basis[split:]),
        pose=np.ascontiguousarray(np.transpose(arrays["posedirs"], (2, 0, 1)), dtype=np.float32),
        regressor=arrays["J_regressor"].astype(np.float32),
        weights=weights,
        jaw=bool(weights[:, JAW].max() > 0.01),
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays in the file by their names, unchecked."""
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as archive:
                names = archive.files if isinstance(archive, np.lib.npyio.NpzFile) else []
                return {key: archive[key] for key in names if key in KEYS}
        except (OSError, ValueError, EOFError, BadZipFile, MemoryError, NotImplementedError) as error:
            raise HeadModelError(
                f"a FLAME model in an .npz archive is plain arrays, but {path} cannot be read as such ({error}); name "
                "the published .pkl file, which is read without running anything in it."
            ) from error
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return {key: value for key, value in load_file(path).items() if key in KEYS}
        except (OSError, SafetensorError, ValueError) as error:
            raise HeadModelError(
                f"a FLAME model in a .safetensors file is plain arrays, but {path} cannot be read as such ({error}); "
                "name the published .pkl file."
            ) from error
    values: dict[str, Any] = read_pickle(path)
    try:
        return {key: array(value) for key, value in values.items() if key in KEYS}
    except HeadModelError as error:
        raise HeadModelError(f"{error} ({path})") from error


def _check_shapes(path: Path, arrays: dict[str, np.ndarray]) -> None:
    table = arrays["kintree_table"]
    found = tuple(table[0, 1:].astype(np.int64).tolist()) if table.ndim == 2 and len(table) else ()
    # The root's parent is stored as 2^32 - 1.
    if found not in (PARENTS[1:], PARENTS_WITHOUT_JAW[1:]):
        raise HeadModelError(
            f"FLAME's joints after the root (neck, jaw, left and right eye) have the parents {PARENTS[1:]}, but in "
            f"{path} they are {found}; this is another model, use FLAME 2020 or 2023."
        )
    joints = len(found) + 1
    count = arrays["v_template"].shape[0] if arrays["v_template"].ndim else 0
    expected = {
        "v_template": (count, 3), "f": (None, 3), "shapedirs": (count, 3, None),
        "posedirs": (count, 3, 9 * (joints - 1)), "J_regressor": (joints, count), "weights": (count, joints),
    }  # fmt: skip
    for key, shape in expected.items():
        have = arrays[key].shape
        fits = len(have) == len(shape) and all(want in (None, size) for want, size in zip(shape, have, strict=True))
        if not fits or not all(have):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise HeadModelError(
                f"FLAME's {key} has the shape ({wanted}), but in {path} it is {have}; use the published file."
            )


def _check_values(path: Path, arrays: dict[str, np.ndarray]) -> None:
    for key in KEYS:
        if arrays[key].dtype.kind not in "fiu" or not np.isfinite(arrays[key]).all():
            raise HeadModelError(f"FLAME's {key} holds finite numbers, but in {path} it does not; download it again.")
    count = len(arrays["v_template"])
    if arrays["f"].min() < 0 or arrays["f"].max() >= count:
        raise HeadModelError(
            f"FLAME's triangles join its {count} vertices, but in {path} some point beyond them; use another file."
        )
    height = float(np.ptp(arrays["v_template"][:, 1]))
    if not HEIGHT[0] < height < HEIGHT[1]:
        raise HeadModelError(
            f"FLAME's template is {HEIGHT[0]} to {HEIGHT[1]} m high, but in {path} it is {height:.3g}; convert it to "
            "metres."
        )
    sums = arrays["weights"].sum(1)
    if arrays["weights"].min() < -1e-3 or np.abs(sums - 1).max() > 1e-2:
        raise HeadModelError(
            f"FLAME's skinning weights are positive and add up to 1 at each vertex, but in {path} they do not; "
            "download it again."
        )


def _with_jaw(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A jaw joint that moves nothing, where the file has none: it lies on the neck joint."""
    regressor = np.insert(arrays["J_regressor"], JAW, arrays["J_regressor"][1], axis=0)
    pose = np.insert(arrays["posedirs"], [9 * (JAW - 1)] * 9, 0.0, axis=2)
    weights = np.insert(arrays["weights"], JAW, 0.0, axis=1)
    return {**arrays, "J_regressor": regressor, "posedirs": pose, "weights": weights}
