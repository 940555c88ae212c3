"""The measured landmarks: reading them, and the smooth first guess of the skin between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline, LinearNDInterpolator, NearestNDInterpolator, RBFInterpolator


@dataclass(frozen=True)
class Landmarks:
    """L named anatomical points, metres in head axes.

    names: L names, `region_side_number`. curves: per landmark the closed curve that it lies on ("mouth_rim", "lip_wet",
    "eye_left_edge", ...) or "". chart: (L, 2) position in the chart, NaN inside the mouth and eyes. mean: (L, 3).
    identity: (M, L, 3) displacement of one standard deviation. expression: (E, L, 3), full strength.
    """

    names: tuple[str, ...]
    curves: np.ndarray
    chart: np.ndarray
    mean: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    expression_names: tuple[str, ...]

    @property
    def on_skin(self) -> np.ndarray:
        """(L,) bool: landmarks of the outer skin, those with a chart position."""
        return np.isfinite(self.chart[:, 0])

    def find(self, *prefixes: str) -> np.ndarray:
        """Indices of the landmarks whose name begins with one of the prefixes."""
        return np.array([i for i, name in enumerate(self.names) if name.startswith(prefixes)], dtype=int)

    def index(self, name: str) -> int:
        return self.names.index(name)


def read_landmarks(path: Path) -> Landmarks:
    """Read the measurement file; left and right are made exactly symmetric in chart and mean position."""
    with np.load(path, allow_pickle=False) as data:
        names = tuple(data["names"].tolist())
        arrays = {key: data[key] for key in ("curves", "chart", "mean", "identity", "expression", "expression_names")}
    twin = mirror_of(names)
    mean = arrays["mean"].astype(np.float64)
    chart = arrays["chart"].astype(np.float64)
    return Landmarks(
        names,
        arrays["curves"],
        0.5 * (chart + chart[twin] * [-1, 1]),
        0.5 * (mean + mean[twin] * [-1, 1, 1]),
        arrays["identity"].astype(np.float64),
        arrays["expression"].astype(np.float64),
        tuple(arrays["expression_names"].tolist()),
    )


def mirror_of(names: tuple[str, ...]) -> np.ndarray:
    """(L,) index of each landmark's partner on the other side; a midline landmark is its own."""
    position = {name: i for i, name in enumerate(names)}
    swap = {"left": "right", "right": "left"}
    return np.array([position["_".join(swap.get(word, word) for word in name.split("_"))] for name in names])


def curve_spline(landmarks: Landmarks, curve: str) -> tuple[np.ndarray, np.ndarray]:
    """A closed curve through its landmarks, densely: angles about the middle (N,), increasing from 0 (lowest) to 2 pi,
    and rows (N, 5) of chart position and place in space.
    """
    members = np.flatnonzero(landmarks.curves == curve)
    centre = opening_centre(landmarks, curve)
    offset = landmarks.chart[members] - centre
    angle = np.arctan2(offset[:, 0], -offset[:, 1]) % (2 * np.pi)
    order = members[np.argsort(angle)]
    points = np.concatenate([landmarks.chart[order], landmarks.mean[order]], 1)
    points = np.concatenate([points, points[:1]])
    knots = np.r_[np.sort(angle), np.sort(angle)[0] + 2 * np.pi]
    # Parameter: a blend of angle and length, so that neither crowded nor far landmarks make the curve swing.
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points[:, 2:], axis=0), axis=1))]
    parameter = 0.5 * (knots - knots[0]) / (2 * np.pi) + 0.5 * length / length[-1]
    dense = CubicSpline(parameter, points, bc_type="periodic")(np.linspace(0, 1, 2400, endpoint=False))
    offset = dense[:, :2] - centre
    turn = np.arctan2(offset[:, 0], -offset[:, 1]) % (2 * np.pi)
    order = np.argsort(turn)
    return turn[order], dense[order]


def opening_centre(landmarks: Landmarks, curve: str) -> np.ndarray:
    """(2,) chart position of the middle of the opening that a curve goes around."""
    kind = "mouth_rim" if curve.startswith(("mouth", "lip")) else curve.rsplit("_", 1)[0] + "_rim"
    chart = landmarks.chart[landmarks.curves == kind]
    return 0.5 * (chart.min(0) + chart.max(0))


def curve_angles(landmarks: Landmarks, curve: str, count: int) -> np.ndarray:
    """(count,) angles that divide a closed curve into parts of equal length in space; the first is 0, at the bottom."""
    turn, dense = curve_spline(landmarks, curve)
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(np.r_[dense, dense[:1]][:, 2:], axis=0), axis=1))]
    return np.interp(np.linspace(0, length[-1], count, endpoint=False), length, np.r_[turn, turn[0] + 2 * np.pi])


def curve_points(landmarks: Landmarks, curve: str, angles: np.ndarray) -> np.ndarray:
    """(N, 2) chart positions of a closed curve at some angles."""
    turn, dense = curve_spline(landmarks, curve)
    return np.stack([np.interp(angles, turn, dense[:, axis], period=2 * np.pi) for axis in range(2)], 1)


class RoughSkin:
    """Thin-plate interpolation of the landmarks over the chart: good enough to begin with."""

    def __init__(self, landmarks: Landmarks) -> None:
        skin = landmarks.on_skin
        self._surface = RBFInterpolator(landmarks.chart[skin], landmarks.mean[skin], kernel="thin_plate_spline")
        # Step of the derivative: well below the distance to the nearest landmark, which varies a hundredfold.
        gaps = np.linalg.norm(landmarks.chart[skin][:, None] - landmarks.chart[skin][None], axis=-1)
        np.fill_diagonal(gaps, np.inf)
        self._spacing = RBFInterpolator(landmarks.chart[skin], np.log(gaps.min(1)), kernel="linear", smoothing=1.0)

    def __call__(self, chart: np.ndarray) -> np.ndarray:
        """(N, 2) chart positions -> (N, 3) metres."""
        return self._surface(chart)

    def scale(self, chart: np.ndarray) -> np.ndarray:
        """(N, 2) -> (N,) metres of surface per unit of chart."""
        step = 0.3 * np.exp(self._spacing(chart))[:, None]
        across = (self(chart + step * [1, 0]) - self(chart - step * [1, 0])) / (2 * step)
        along = (self(chart + step * [0, 1]) - self(chart - step * [0, 1])) / (2 * step)
        return np.sqrt(0.5 * ((across**2).sum(1) + (along**2).sum(1)))


class SolvedSkin:
    """The skin of a triangulation that has been solved, looked up by chart position."""

    def __init__(self, chart: np.ndarray, faces: np.ndarray, vertices: np.ndarray) -> None:
        corners, flat = vertices[faces], chart[faces]
        # Largest stretch of each triangle: the larger singular value of its Jacobian.
        basis = np.stack([flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]], -1)
        edges = np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], -1)
        stretch = np.linalg.norm(edges @ np.linalg.inv(basis), ord=2, axis=(1, 2))
        total, count = np.zeros(len(chart)), np.zeros(len(chart))
        np.add.at(total, faces.ravel(), np.repeat(np.log(stretch), 3))
        np.add.at(count, faces.ravel(), 1.0)
        self._lookup = LinearNDInterpolator(chart, np.c_[vertices, total / count])
        self._nearest = NearestNDInterpolator(chart, np.c_[vertices, total / count])

    def _at(self, chart: np.ndarray) -> np.ndarray:
        found = self._lookup(chart)
        outside = ~np.isfinite(found[:, 0])
        found[outside] = self._nearest(chart[outside])
        return found

    def __call__(self, chart: np.ndarray) -> np.ndarray:
        return self._at(chart)[:, :3]

    def scale(self, chart: np.ndarray) -> np.ndarray:
        return np.exp(self._at(chart)[:, 3])
