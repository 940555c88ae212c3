"""The measured landmarks: reading them, and the smooth first guess of the skin between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline, RBFInterpolator


@dataclass(frozen=True)
class Landmarks:
    """L named anatomical points, metres in head axes.

    names: L names, `region_side_number`. holes: per landmark the opening whose rim it lies on ("mouth", "eye_left",
    "eye_right", "neck") or "". chart: (L, 2) position in the planar chart, NaN inside the mouth and eyes. mean: (L, 3).
    identity: (M, L, 3) displacement of one standard deviation. expression: (E, L, 3), full strength.
    """

    names: tuple[str, ...]
    holes: np.ndarray
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
        arrays = {key: data[key] for key in ("holes", "chart", "mean", "identity", "expression", "expression_names")}
    twin = mirror_of(names)
    mean = arrays["mean"].astype(np.float64)
    chart = arrays["chart"].astype(np.float64)
    return Landmarks(
        names,
        arrays["holes"],
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


class RoughSkin:
    """Thin-plate interpolation of the landmarks over the chart: good enough to measure lengths by."""

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


def hole_curve(landmarks: Landmarks, hole: str, count: int) -> np.ndarray:
    """(count, 2) chart positions along an opening's rim, equally spaced in space, counter-clockwise, the first lowest."""
    members = np.flatnonzero(landmarks.holes == hole)
    centre = landmarks.chart[members].mean(0)
    offset = landmarks.chart[members] - centre
    angle = np.arctan2(offset[:, 0], -offset[:, 1])
    order = members[np.argsort(angle)]
    start = int(np.argmin(np.abs(np.sort(angle))))
    order = np.roll(order, -start)
    closed = np.r_[order, order[:1]]
    points = np.concatenate([landmarks.chart[closed], landmarks.mean[closed]], 1)
    knots = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points[:, 2:], axis=0), axis=1))]
    curve = CubicSpline(knots, points, bc_type="periodic")
    dense = curve(np.linspace(0, knots[-1], 4001))
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(dense[:, 2:], axis=0), axis=1))]
    wanted = np.linspace(0, length[-1], count, endpoint=False)
    return np.stack([np.interp(wanted, length, dense[:, axis]) for axis in range(2)], 1)
