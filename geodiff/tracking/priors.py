"""What is usual of faces before anything is seen of them: expressions, jaws and gazes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from geodiff.head.model import HeadModel
from geodiff.tracking.systems import Normals

if TYPE_CHECKING:
    from geodiff.tracking.fit import FitConfig

#: Names that begin so belong to expressions with weights in 0..1, as ARKit's; others are in standard deviations.
WEIGHT_PREFIXES = ("brow", "cheek", "eye", "jaw", "mouth", "nose", "tongue", "pupil")
#: Expressions that are often seen at full strength.
WIDE = ("eyeBlinkLeft", "eyeBlinkRight", "jawOpen")
#: Standard deviations of the difference between both eyes' yaw and pitch, radians.
_VERGENCE = np.array([0.04, 0.02])


class PosedFrames(Protocol):
    """Unknowns of T frames, however their poses are told: `FrameStates`, or `WorldStates` before known cameras.

    vector: (T, 11 + E), six of the pose first, the last four of the gaze and the jaw's. gaze: (T, 4).
    """

    @property
    def vector(self) -> np.ndarray: ...
    @property
    def gaze(self) -> np.ndarray: ...


@dataclass(frozen=True)
class FramePriors:
    """Of each frame's vector (11 + E,): bounds, and standard deviations about 0. Poses are free."""

    lower: np.ndarray
    upper: np.ndarray
    spread: np.ndarray

    @staticmethod
    def of(head: HeadModel, config: FitConfig) -> FramePriors:
        arkit = np.array([name.startswith(WEIGHT_PREFIXES) for name in head.expression_names])
        lower = np.where(arkit, 0.0, -config.bound)
        upper = np.where(arkit, 1.0, config.bound)
        wide = np.isin(head.expression_names, WIDE)
        spread = np.select([wide, arkit], [config.wide_spread, config.arkit_spread], 1.0) / config.expr_prior
        opens = "jawOpen" in head.expression_names
        jaw = (0.0, 0.0) if opens else (-0.02, 0.5)
        free = np.full(6, np.inf)
        return FramePriors(
            np.concatenate([-free, lower, np.full(4, -0.7), [jaw[0]]]),
            np.concatenate([free, upper, np.full(4, 0.7), [jaw[1]]]),
            np.concatenate([free, spread, np.full(4, config.gaze_spread), [0.15]]),
        )

    @property
    def free(self) -> np.ndarray:
        """(11 + E,) bool: unknowns that can take more than one value."""
        return self.lower < self.upper

    def energies(self, frames: PosedFrames) -> np.ndarray:
        """(T,) energy by frame."""
        usual: np.ndarray = ((frames.vector / self.spread) ** 2).sum(1)
        return usual + (_squint(frames) ** 2).sum(1)

    def add(self, normals: Normals, frames: PosedFrames) -> None:
        """Adds half of the energy's gradient and its matrix."""
        normals.gradient.frames += frames.vector / self.spread**2
        diagonal = np.einsum("tdd->td", normals.frames)  # a view
        diagonal += self.spread**-2.0
        squint = _squint(frames)
        for axis, spread in enumerate(_VERGENCE):
            left, right = axis - 5, axis - 3
            normals.frames[:, [left, right, left, right], [left, right, right, left]] += (
                np.array([1, 1, -1, -1]) / spread**2
            )
            normals.gradient.frames[:, left] += squint[:, axis] / spread
            normals.gradient.frames[:, right] -= squint[:, axis] / spread


def _squint(frames: PosedFrames) -> np.ndarray:
    """(T, 2) difference of both eyes' yaw and pitch, in standard deviations: they look the same way."""
    return (frames.gaze[:, :2] - frames.gaze[:, 2:]) / _VERGENCE
