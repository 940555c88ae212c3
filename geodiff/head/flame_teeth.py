"""Teeth for FLAME, which has none: two arches of 60 vertices behind the lips, with the counts of VHAP's.

VHAP appends 120 vertices, 168 triangles and 120 texture coordinates to FLAME (5143, 10,144 and 5238 in all), and its
exports carry static offsets of that size. Rows, triangles and their corners stand here in the same order, so that such
offsets, and Gaussians that are bound to triangles, belong to the same teeth; where the vertices lie at rest is our own
(a parabolic arch measured on the lips), because VHAP's places follow from its own list of lip vertices.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from geodiff.errors import HeadModelError
from geodiff.head.flame_files import JAW, FlameArrays

#: Vertices of a row, from the person's left to the right.
COLUMNS = 15
#: Rows in the order of their vertices: (upper or lower, root or edge, front or back).
ROWS = (
    ("upper", "root", "front"), ("lower", "root", "front"), ("upper", "edge", "front"), ("lower", "edge", "front"),
    ("upper", "root", "back"), ("upper", "edge", "back"), ("lower", "root", "back"), ("lower", "edge", "back"),
)  # fmt: skip
#: Strips of triangles between two rows in the order of their triangles: first row, second row, whether the winding is
#: turned, and whether the diagonals, which lean one way on the left half and the other on the right, are exchanged.
STRIPS = (
    (0, 2, False, False), (4, 5, True, False), (5, 2, True, True),
    (3, 1, False, True), (6, 7, False, False), (7, 3, False, True),
)  # fmt: skip
NUM_TEETH = COLUMNS * len(ROWS)

#: Measures in metres: gap between lips' front and teeth, height of a tooth, thickness at edge and root, gap between the
#: arches, and how far the upper front teeth stand before the lower.
BEHIND, HEIGHT, EDGE, ROOT, GAP, OVERBITE = 0.014, 0.009, 0.002, 0.005, 0.0006, 0.0015


def add_teeth(flame: FlameArrays, lips: np.ndarray) -> FlameArrays:
    """FLAME with teeth behind its lips. lips: (V,) bool. The upper teeth follow the neck joint, the lower the jaw;
    where the jaw joint is inert they follow the chin's expressions. All follow the lips' shape modes.

    Raises HeadModelError where the lips are too few to measure.
    """
    rows = np.flatnonzero(lips)
    if len(rows) < 8:
        raise HeadModelError(
            f"teeth are placed behind FLAME's lips, but {flame.file} has {len(rows)} vertices there; put "
            "FLAME_masks.pkl beside it, or use flame:PATH without teeth."
        )
    mouth = flame.template[rows].astype(np.float64)
    teeth = _places(mouth)
    near = cKDTree(mouth[:, :2]).query(teeth[:, :2], k=8)[1]

    def followed(basis: np.ndarray) -> np.ndarray:
        """(M, 120, 3): the mean motion of the lips around each tooth, the same for all rows of a column."""
        moved = basis[:, rows][:, near].mean(2).reshape(len(basis), len(ROWS), COLUMNS, 3).mean(1, keepdims=True)
        return np.broadcast_to(moved, (len(basis), len(ROWS), COLUMNS, 3)).reshape(len(basis), NUM_TEETH, 3)

    lower = np.repeat([jaw == "lower" for jaw, _, _ in ROWS], COLUMNS)
    weights = np.zeros((NUM_TEETH, flame.weights.shape[1]), np.float32)
    weights[~lower, 1] = 1.0
    weights[lower, JAW if flame.jaw else 1] = 1.0
    expression = np.zeros((len(flame.expression), NUM_TEETH, 3), np.float32)
    if not flame.jaw:
        below = flame.template[:, 1] - mouth[:, 1].mean()
        chin = (np.abs(flame.template[:, 0]) < 0.015) & (below < -0.02) & (below > -0.05)
        chin &= flame.template[:, 2] > mouth[:, 2].max() - 0.025
        if chin.any():
            expression[:, lower] = flame.expression[:, chin].mean(1, keepdims=True)
    return replace(
        flame,
        template=_joined(flame.template, teeth, 0),
        faces=np.concatenate([flame.faces, triangles() + len(flame.template)]),
        shape=_joined(flame.shape, followed(flame.shape), 1),
        expression=_joined(flame.expression, expression, 1),
        pose=_joined(flame.pose, np.zeros((len(flame.pose), NUM_TEETH, 3)), 1),
        regressor=_joined(flame.regressor, np.zeros((len(flame.regressor), NUM_TEETH)), 1),
        weights=np.concatenate([flame.weights, weights]),
    )


def triangles() -> np.ndarray:
    """(168, 3) triangles over the 120 vertices of the teeth."""
    faces = []
    for first, second, turned, exchanged in STRIPS:
        for i in range(COLUMNS - 1):
            a, b = first * COLUMNS + i, second * COLUMNS + i
            left = i < COLUMNS // 2
            if left != exchanged:
                pair = [(a, b + 1, b), (a, a + 1, b + 1)]
                turned_pair = [(a, b, b + 1), (a, b + 1, a + 1)]
            else:
                pair = [(a, a + 1, b), (a + 1, b + 1, b)]
                turned_pair = [(a, b, a + 1), (a + 1, b, b + 1)]
            faces += turned_pair if turned else pair
    return np.array(faces, np.int64)


def texture() -> np.ndarray:
    """(120, 2) texture coordinates of the teeth: a band below the upper border of the map, a line for each row."""
    u = np.linspace(0.62, 0.38, COLUMNS)
    # Along each arch from the front's root over the edge to the back's, so that strips lie beside one another.
    around = (("root", "front"), ("edge", "front"), ("edge", "back"), ("root", "back"))
    order = {(jaw, *side): 4 * (jaw == "lower") + i for jaw in ("upper", "lower") for i, side in enumerate(around)}
    v = np.linspace(0.992, 0.957, len(ROWS))
    return np.concatenate([np.stack([u, np.full(COLUMNS, v[order[row]])], 1) for row in ROWS])


def _places(mouth: np.ndarray) -> np.ndarray:
    """(120, 3) vertices at rest, from the lips' vertices (N, 3)."""
    half, centre = 0.475 * float(np.ptp(mouth[:, 0])), float(mouth[:, 0].max() + mouth[:, 0].min()) / 2
    middle = mouth[np.abs(mouth[:, 0] - centre) < 0.4 * half]
    level, front = mouth[:, 1].mean(), middle[:, 2].max() - BEHIND
    x = np.linspace(half, -half, COLUMNS)
    bow = front - 0.9 * half * (x / half) ** 2
    rows = []
    for jaw, end, side in ROWS:
        up = 1.0 if jaw == "upper" else -1.0
        y = level + up * (GAP / 2 + (HEIGHT if end == "root" else 0.0))
        back = OVERBITE if jaw == "lower" else 0.0
        back += (EDGE if end == "edge" else ROOT) if side == "back" else 0.0
        # Behind the front row the arch is narrower by what it lies deeper.
        narrow = 1 - back / (2 * half)
        rows.append(np.stack([centre + x * narrow, np.full(COLUMNS, y), bow - back], 1))
    return np.concatenate(rows)


def _joined(array: np.ndarray, more: np.ndarray, axis: int) -> np.ndarray:
    return np.concatenate([array, more.astype(array.dtype)], axis)
