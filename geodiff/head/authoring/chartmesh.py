"""A graded, mirror-symmetric triangulation of the planar chart, with closed rings around the eyes and the mouth.

One half (u >= 0) is triangulated and mirrored. Points repel or attract along the edges of their Delaunay triangulation
until edges have the wanted lengths, after Persson and Strang, "A Simple Mesh Generator in MATLAB" (2004).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import Delaunay, cKDTree

from geodiff.head.authoring.landmarks import Landmarks, RoughSkin, hole_curve

#: Vertices on each rim and number of rings around it.
MOUTH_RIM, MOUTH_RINGS = 56, 5
EYE_RIM, EYE_RINGS = 40, 5
NECK_RIM = 48
#: Wanted edge length near landmarks of each kind, metres; it grows by GROWTH per metre of distance.
EDGE_LENGTHS = {
    ("lid_margin", "eyelid"): 0.0021,
    ("inner_lip", "lip_"): 0.0023,
    ("nose",): 0.0027,
    ("ear",): 0.0026,
    ("brow", "cheek", "chin", "jaw"): 0.0055,
}
GROWTH = 0.22
LONGEST = 0.0135


@dataclass(frozen=True)
class ChartMesh:
    """points: (V, 2) chart positions. faces: (F, 3), outward in space. mirror: (V,). rims: opening -> its loop of vertices,
    counter-clockwise in the chart, the first one lowest.
    """

    points: np.ndarray
    faces: np.ndarray
    mirror: np.ndarray
    rims: dict[str, np.ndarray]


class SizeField:
    """Wanted edge length in chart units at any chart position, tabulated on a log-polar grid for speed."""

    def __init__(self, landmarks: Landmarks, skin: RoughSkin) -> None:
        self._landmarks, self._skin = landmarks, skin
        self._trees = {
            length: cKDTree(landmarks.mean[np.intersect1d(landmarks.find(*kinds), np.flatnonzero(landmarks.on_skin))])
            for kinds, length in EDGE_LENGTHS.items()
        }

    def metric(self, chart: np.ndarray) -> np.ndarray:
        """(N,) wanted edge length in metres."""
        points = self._skin(chart)
        wanted = np.full(len(chart), LONGEST)
        for length, tree in self._trees.items():
            wanted = np.minimum(wanted, length + GROWTH * tree.query(points)[0])
        return wanted

    def __call__(self, chart: np.ndarray) -> np.ndarray:
        return self.metric(chart) / np.maximum(self._skin.scale(chart), 1e-6)


def ring_stack(loop: np.ndarray, size: np.ndarray, rings: int) -> list[np.ndarray]:
    """The loop (N, 2), counter-clockwise, and `rings` offsets of it outwards; size (N,): the width of the first ring."""
    stack = [loop]
    width = _smooth_cyclic(size, 4)
    for _ in range(rings):
        tangent = np.roll(stack[-1], -1, 0) - np.roll(stack[-1], 1, 0)
        normal = np.stack([tangent[:, 1], -tangent[:, 0]], 1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        moved = stack[-1] + normal * width[:, None]
        stack.append(moved + 0.25 * (0.5 * (np.roll(moved, -1, 0) + np.roll(moved, 1, 0)) - moved))
        width = width * 1.12
    return stack


def _smooth_cyclic(values: np.ndarray, rounds: int) -> np.ndarray:
    for _ in range(rounds):
        values = 0.5 * values + 0.25 * (np.roll(values, 1) + np.roll(values, -1))
    return values


def inside_polygon(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """(N,) bool, even-odd rule."""
    x, y = points[:, :1], points[:, 1:]
    x0, y0 = polygon[:, 0], polygon[:, 1]
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    crosses = (y0 > y) != (y1 > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        where = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
    return (crosses & (x < where)).sum(1) % 2 == 1


def _candidates(size: SizeField) -> tuple[np.ndarray, np.ndarray]:
    """Points of the right half-disc by a quadtree whose cells are half as wide as the wanted edges, with those lengths."""
    cells = np.stack(np.meshgrid(np.arange(8) / 8 + 1 / 16, np.arange(16) / 8 - 1 + 1 / 16), -1).reshape(-1, 2)
    width, done = 1 / 8, []
    while len(cells):
        cells = cells[(np.linalg.norm(cells, axis=1) < 1 + width)]
        wanted = size(cells)
        fine = width <= 0.55 * wanted
        done.append(np.c_[cells[fine], wanted[fine]])
        quarter = width / 4
        offsets = quarter * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
        cells = (cells[~fine][:, None] + offsets).reshape(-1, 2)
        width /= 2
    found = np.concatenate(done)
    found = found[np.linalg.norm(found[:, :2], axis=1) < 1]
    return found[:, :2], found[:, 2]


def _thin_out(candidates: np.ndarray, size: np.ndarray, fixed: np.ndarray, seed: int) -> np.ndarray:
    """Poisson-disc choice: no two points nearer than 0.8 of the wanted length."""
    order = np.random.default_rng(seed).permutation(len(candidates))
    candidates, size = candidates[order], size[order]
    free = cKDTree(fixed).query(candidates)[0] > 0.75 * size
    free &= candidates[:, 0] > 0.45 * size
    tree = cKDTree(candidates)
    chosen = []
    for i in range(len(candidates)):
        if free[i]:
            chosen.append(i)
            free[tree.query_ball_point(candidates[i], 0.8 * size[i])] = False
    return candidates[chosen]


def _midline(size: SizeField, low: float, high: float) -> np.ndarray:
    """Points of the midline between two chart heights (exclusive), spaced as wanted."""
    dense = np.linspace(low, high, 3000)
    density = 1 / size(np.stack([np.zeros_like(dense), dense], 1))
    count = np.r_[0, np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(dense))]
    number = max(int(round(count[-1])), 1)
    heights = np.interp(np.arange(1, number) * count[-1] / number, count, dense)
    return np.stack([np.zeros_like(heights), heights], 1)


def _relax(
    moving: np.ndarray, fixed: np.ndarray, keep: np.ndarray, size: SizeField, holes: list[np.ndarray], rounds: int
) -> np.ndarray:
    """Spring relaxation of the moving points among the fixed ones; `keep`: wanted lengths at the fixed points."""
    wanted_moving = size(moving)
    for step in range(rounds):
        if step % 10 == 0:
            wanted_moving = size(moving)
        points = np.concatenate([moving, fixed])
        wanted = np.concatenate([wanted_moving, keep])
        triangles = Delaunay(points).simplices
        pairs = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
        pairs = np.unique(pairs, axis=0)
        vector = points[pairs[:, 0]] - points[pairs[:, 1]]
        length = np.linalg.norm(vector, axis=1)
        goal = 1.15 * 0.5 * (wanted[pairs[:, 0]] + wanted[pairs[:, 1]])
        push = np.maximum(goal - length, 0)[:, None] * vector / np.maximum(length, 1e-12)[:, None]
        force = np.zeros_like(points)
        np.add.at(force, pairs[:, 0], push)
        np.add.at(force, pairs[:, 1], -push)
        shift = 0.2 * force[: len(moving)]
        limit = 0.3 * wanted_moving[:, None]
        moved = moving + np.clip(shift, -limit, limit)
        bad = (np.linalg.norm(moved, axis=1) > 0.998) | (moved[:, 0] < 0.4 * wanted_moving)
        for hole in holes:
            bad |= inside_polygon(moved, hole)
        moving = np.where(bad[:, None], moving, moved)
    return moving


def build_chart_mesh(landmarks: Landmarks, rounds: int = 50, seed: int = 0) -> ChartMesh:
    """Triangulate the chart of these landmarks."""
    skin = RoughSkin(landmarks)
    size = SizeField(landmarks, skin)
    mouth = hole_curve(landmarks, "mouth", MOUTH_RIM)
    mouth = 0.5 * (mouth + np.roll(mouth[::-1], 1, 0) * [-1, 1])
    neck = hole_curve(landmarks, "neck", NECK_RIM)
    neck = 0.5 * (neck + np.roll(neck[::-1], 1, 0) * [-1, 1])
    neck /= np.linalg.norm(neck, axis=1, keepdims=True)
    eye = hole_curve(landmarks, "eye_left", EYE_RIM)
    mouth_rings = ring_stack(mouth, 0.8 * size(mouth), MOUTH_RINGS)
    eye_rings = ring_stack(eye, 0.75 * size(eye), EYE_RINGS)

    half_mouth = np.concatenate([ring[: MOUTH_RIM // 2 + 1] for ring in mouth_rings])
    half_neck = neck[: NECK_RIM // 2 + 1]
    fixed = np.concatenate([half_mouth, np.concatenate(eye_rings), half_neck])
    fixed[np.abs(fixed[:, 0]) < 1e-9, 0] = 0.0
    outer = mouth_rings[-1]
    midline = np.concatenate(
        [_midline(size, -1.0, outer[0, 1]), _midline(size, outer[MOUTH_RIM // 2, 1], 1.0)]
    )
    fixed = np.concatenate([fixed, midline])
    cut = [mouth_rings[-1], eye_rings[-1]]
    candidates, wanted = _candidates(size)
    kept = ~inside_polygon(candidates, cut[0]) & ~inside_polygon(candidates, cut[1])
    moving = _thin_out(candidates[kept], wanted[kept], fixed, seed)
    moving = _relax(moving, fixed, size(fixed), size, cut, rounds)
    return _mirrored(np.concatenate([fixed, moving]), len(mouth_rings), mouth, eye)


def _mirrored(half: np.ndarray, mouth_rings: int, mouth: np.ndarray, eye: np.ndarray) -> ChartMesh:
    """Triangulate the half, drop the holes, mirror, and name the rims. The half begins with mouth, eye, neck."""
    triangles = Delaunay(half).simplices
    corners = half[triangles]
    centres = corners.mean(1)
    signed = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    triangles = np.where(signed[:, None] > 0, triangles, triangles[:, ::-1])
    hole = inside_polygon(centres, mouth) | inside_polygon(centres, eye) | (np.abs(signed) < 1e-14)
    triangles = triangles[~hole]
    on_line = half[:, 0] == 0.0
    twin = np.arange(len(half))
    twin[~on_line] = len(half) + np.arange((~on_line).sum())
    points = np.concatenate([half, half[~on_line] * [-1, 1]])
    faces = np.concatenate([triangles, twin[triangles][:, ::-1]])
    mirror = np.arange(len(points))
    mirror[: len(half)] = twin
    mirror[twin[~on_line]] = np.flatnonzero(~on_line)

    per_ring = MOUTH_RIM // 2 + 1
    first = np.arange(per_ring)
    eye_first = mouth_rings * per_ring + np.arange(EYE_RIM)
    neck_first = mouth_rings * per_ring + (EYE_RINGS + 1) * EYE_RIM + np.arange(NECK_RIM // 2 + 1)
    rims = {
        "mouth": np.concatenate([first, mirror[first[1:-1]][::-1]]),
        "eye_left": eye_first,
        "eye_right": np.roll(mirror[eye_first][::-1], 1),
        "neck": np.concatenate([neck_first, mirror[neck_first[1:-1]][::-1]]),
    }
    return ChartMesh(points, faces.astype(np.int64), mirror, rims)
