"""Photographs of single faces with their expressions, as `scripts/train_refiner.py` makes them: one archive a person.

Each person stands in a few pictures at any angle, every one with another expression, so that thousands of identities
take little room: what an expression encoder needs most to tell an expression from a face.

Of expressions it is told what they show: the common movements of the landmarks, in the order of how much they move.
Dozens of weights that hardly move anything would drown jaw, lids and brows.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from geodiff.errors import InputError
from geodiff.files import read_npz, write_npz
from geodiff.head.model import HeadModel
from geodiff.tracking.groups import EYES

#: The crop that is kept, with a margin for shifts: half its side in units of the face's frame (`tracking.aligned`), and
#: its pixels.
KEPT_REACH, KEPT_PIXELS = 2.6, 136
#: Half the side of the crops that the expression encoder is driven with (`conditioning.face_camera`), same units.
DRIVING_REACH = 1.81
#: Number of an archive's person, five digits.
PATTERN = "[0-9][0-9][0-9][0-9][0-9].npz"
#: Archive with `shown` (E, 3 L): by how much, in metres, an expression at full strength moves each landmark at rest.
SHOWN_FILE = "expressions.npz"
#: How much movements of the eyes' landmarks count; a shut lid moves by a few millimetres only.
EYES_COUNT = 3.0
#: Common movements that are told apart, and the expressions they are found in.
MOVEMENTS, SOME = 24, 6000


def write_shown(folder: Path, head: HeadModel) -> None:
    """Record what the expressions of the people's head show."""
    assert head.landmarks is not None
    count = np.ones(len(head.landmarks.indices), np.float32)
    count[np.isin(head.landmarks.indices.numpy(), EYES)] = EYES_COUNT
    moved = head.landmarks.points(head.expr_basis, head.faces).numpy() * count[:, None]
    write_npz(folder / SHOWN_FILE, shown=moved.reshape(len(moved), -1).astype(np.float32))


def movements(expressions: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """(N, K) expressions (N, E) as coefficients of their common movements (principal components of expressions times
    shown (E, 3 L)), one standard deviation of the largest as unit."""
    some = expressions[np.random.default_rng(0).permutation(len(expressions))[:SOME]]
    moved = (some - some.mean(0)) @ shown
    _, spread, directions = np.linalg.svd(moved, full_matrices=False)
    unit = max(float(spread[0]), 1e-9) / np.sqrt(len(some))
    common = shown @ directions[: min(MOVEMENTS, len(shown))].T
    return ((expressions - some.mean(0)) @ common / unit).astype(np.float32)


def face_file(folder: Path, person: int) -> Path:
    return folder / f"{person:05d}.npz"


def is_faces(folder: Path) -> bool:
    return any(folder.glob(PATTERN))


def read_faces(folder: Path, held_out_every: int, held_out: bool, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops (N, size, size, 3) uint8 as the encoder is driven with, and the `movements` (N, K) they show.

    held_out: every so many people, or all others. Raises InputError where a file is not what it should be, or none is
    left.
    """
    crops, expressions, chosen = [], [], []
    for path in sorted(folder.glob(PATTERN)):
        arrays = read_npz(path)
        if not {"crop", "expression"} <= arrays.keys() or arrays["crop"].shape[1:] != (KEPT_PIXELS, KEPT_PIXELS, 4):
            raise InputError(
                f"{path} must hold `crop` (N, {KEPT_PIXELS}, {KEPT_PIXELS}, 4) and `expression`, and it does not: make "
                "the photographs anew with scripts/train_refiner.py"
            )
        expressions.append(arrays["expression"])
        mine = (int(path.stem) % held_out_every == held_out_every - 1) == held_out
        chosen += [mine] * len(arrays["crop"])
        if mine:
            crops += [driving_crop(crop, size) for crop in arrays["crop"]]
    if not crops:
        raise InputError(f"{folder} must hold photographs of people that are {_kind(held_out)}, and there are none")
    told = movements(np.concatenate(expressions), _shown(folder))
    return np.stack(crops), told[np.array(chosen)]


def _shown(folder: Path) -> np.ndarray:
    if not (folder / SHOWN_FILE).is_file():
        raise InputError(
            f"{folder / SHOWN_FILE} must tell what expressions show, and it is missing: run scripts/train_refiner.py "
            "on this folder again"
        )
    return read_npz(folder / SHOWN_FILE)["shown"]


def driving_crop(kept: np.ndarray, size: int) -> np.ndarray:
    """The middle of a kept crop (S, S, 4) as a driving crop (size, size, 3)."""
    margin = round(KEPT_PIXELS * (1 - DRIVING_REACH / KEPT_REACH) / 2)
    inner = np.ascontiguousarray(kept[margin : KEPT_PIXELS - margin, margin : KEPT_PIXELS - margin, :3])
    return cv2.resize(inner, (size, size), interpolation=cv2.INTER_AREA)


def _kind(held_out: bool) -> str:
    return "held out" if held_out else "learned from"
