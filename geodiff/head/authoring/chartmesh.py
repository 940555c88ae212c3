"""A graded, mirror-symmetric triangulation of the planar chart, with closed rings around the eyes and the mouth.

One half (u >= 0) is triangulated and mirrored. Points repel or attract along the edges of their Delaunay triangulation
until edges have the wanted lengths, after Persson and Strang, "A Simple Mesh Generator in MATLAB" (2004).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import Delaunay, cKDTree

from geodiff.head.authoring.landmarks import Landmarks, RoughSkin, SolvedSkin, curve_angles, curve_points

#: Vertices on each rim, and the curves that the rings around it pass through, with the number of steps to each.
MOUTH_RIM, EYE_RIM, NECK_RIM = 56, 40, 48
MOUTH_RINGS = (("lip_wet", 2), ("lip_mid", 2), ("lip_contour", 2))
EYE_RINGS = (("edge", 2), ("fold", 2), ("outer", 2))
#: Wanted edge length near landmarks of each kind, metres; it grows by GROWTH per metre of distance.
EDGE_LENGTHS = {
    ("lid_",): 0.0021,
    ("mouth_rim", "lip_"): 0.0026,
    ("nose",): 0.0020,
    ("ear",): 0.0026,
    ("brow", "cheek", "chin", "jaw"): 0.0028,
    ("forehead",): 0.0040,
}
GROWTH = 0.19
LONGEST = 0.015


@dataclass(frozen=True)
class ChartMesh:
    """points: (V, 2) chart positions. faces: (F, 3), outward in space. mirror: (V,). rims: opening -> its loop of
    vertices, counter-clockwise in the chart, the first one lowest. rings: closed curves of vertices that the skin shall
    be smooth along.
    """

    points: np.ndarray
    faces: np.ndarray
    mirror: np.ndarray
    rims: dict[str, np.ndarray]
    rings: list[np.ndarray]


class SizeField:
    """Wanted edge length in chart units at any chart position."""

    def __init__(self, landmarks: Landmarks, skin: RoughSkin | SolvedSkin) -> None:
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


def ring_stack(landmarks: Landmarks, rim: str, curves: list[tuple[str, int]], angles: np.ndarray) -> list[np.ndarray]:
    """Rings (N, 2) from a rim outwards, through each curve in turn, its number of steps apart."""
    stack = [curve_points(landmarks, rim, angles)]
    for curve, steps in curves:
        inner, outer = stack[-1], curve_points(landmarks, curve, angles)
        stack += [inner + (outer - inner) * (step / steps) for step in range(1, steps + 1)]
    return stack


def _symmetric(loop: np.ndarray) -> np.ndarray:
    """A loop around the midline, its first point lowest, made mirror-symmetric."""
    return 0.5 * (loop + np.roll(loop[::-1], 1, 0) * [-1, 1])


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
    """Points of the right half-disc by a quadtree with cells half as wide as the wanted edges, and those lengths."""
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


def build_chart_mesh(landmarks: Landmarks, skin: RoughSkin | SolvedSkin, rounds: int = 40, seed: int = 0) -> ChartMesh:
    """Triangulate the chart of these landmarks, with edges measured on a skin that is known roughly."""
    size = SizeField(landmarks, skin)
    angles = curve_angles(landmarks, "mouth_rim", MOUTH_RIM)
    angles = 0.5 * (angles + np.r_[0.0, 2 * np.pi - angles[:0:-1]])
    mouth_rings = [_symmetric(ring) for ring in ring_stack(landmarks, "mouth_rim", list(MOUTH_RINGS), angles)]
    angles = curve_angles(landmarks, "neck_rim", NECK_RIM)
    neck = _symmetric(curve_points(landmarks, "neck_rim", 0.5 * (angles + np.r_[0.0, 2 * np.pi - angles[:0:-1]])))
    neck /= np.linalg.norm(neck, axis=1, keepdims=True)
    angles = curve_angles(landmarks, "eye_left_rim", EYE_RIM)
    eye_curves = [(f"eye_left_{name}", steps) for name, steps in EYE_RINGS]
    eye_rings = ring_stack(landmarks, "eye_left_rim", eye_curves, angles)

    half_mouth = np.concatenate([ring[: MOUTH_RIM // 2 + 1] for ring in mouth_rings])
    fixed = np.concatenate([half_mouth, np.concatenate(eye_rings), neck[: NECK_RIM // 2 + 1]])
    fixed[np.abs(fixed[:, 0]) < 1e-9, 0] = 0.0
    outer = mouth_rings[-1]
    midline = [_midline(size, -1.0, outer[0, 1]), _midline(size, outer[MOUTH_RIM // 2, 1], 1.0)]
    fixed = np.concatenate([fixed, *midline])
    cut = [mouth_rings[-1], eye_rings[-1]]
    candidates, wanted = _candidates(size)
    kept = ~inside_polygon(candidates, cut[0]) & ~inside_polygon(candidates, cut[1])
    moving = _thin_out(candidates[kept], wanted[kept], fixed, seed)
    moving = _relax(moving, fixed, size(fixed), size, cut, rounds)
    return _mirrored(np.concatenate([fixed, moving]), mouth_rings, eye_rings)


def _mirrored(half: np.ndarray, mouth_rings: list[np.ndarray], eye_rings: list[np.ndarray]) -> ChartMesh:
    """Triangulate the half, drop the holes, mirror, and name the rims. The half begins with mouth, eye, neck."""
    triangles = Delaunay(half).simplices
    corners = half[triangles]
    centres = corners.mean(1)
    signed = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    triangles = np.where(signed[:, None] > 0, triangles, triangles[:, ::-1])
    hole = inside_polygon(centres, mouth_rings[0]) | inside_polygon(centres, eye_rings[0]) | (np.abs(signed) < 1e-14)
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
    rings = []
    for number in range(len(mouth_rings)):
        part = number * per_ring + np.arange(per_ring)
        rings.append(np.concatenate([part, mirror[part[1:-1]][::-1]]))
    first = len(mouth_rings) * per_ring
    for number in range(len(eye_rings)):
        loop = first + number * EYE_RIM + np.arange(EYE_RIM)
        rings += [loop, np.roll(mirror[loop][::-1], 1)]
    neck = first + len(eye_rings) * EYE_RIM + np.arange(NECK_RIM // 2 + 1)
    rims = {
        "mouth": rings[0],
        "eye_left": rings[len(mouth_rings)],
        "eye_right": rings[len(mouth_rings) + 1],
        "neck": np.concatenate([neck, mirror[neck[1:-1]][::-1]]),
    }
    return ChartMesh(points, faces.astype(np.int64), mirror, rims, rings)
