"""How alike colours are to a kind of surface's."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

#: Standard deviations from the face's colours (CIELAB) at which a colour begins to be no skin's, and is none; and what
#: is added to the deviations: shadows under a chin change lightness more than colour.
NO_SKIN, SHADOW = (2.2, 3.2), (14.0, 4.0, 4.0)
#: Colours of a kind that are enough to tell what it looks like.
LEAST = 12


@dataclass(frozen=True)
class Tones:
    """A kind of surface's colours: median and spread (3,) in CIELAB."""

    median: np.ndarray
    spread: np.ndarray

    @staticmethod
    def of(color: np.ndarray, least: tuple[float, float, float]) -> Tones:
        """Of colours (N, 3) in 0..1, their spread taken to be no smaller than `least`."""
        places = lab(color)
        median = np.median(places, 0)
        return Tones(median, np.hypot(1.5 * np.median(np.abs(places - median), 0), least))

    def away(self, color: np.ndarray) -> np.ndarray:
        """(N,) distance of colours (N, 3) in spreads."""
        return np.linalg.norm((lab(color) - self.median) / self.spread, axis=1)

    def surprise(self, color: np.ndarray) -> np.ndarray:
        """(N,) minus the logarithm of a normal density, up to a constant."""
        return 0.5 * self.away(color) ** 2 + np.log(self.spread).sum()


def lab(color: np.ndarray) -> np.ndarray:
    """(N, 3) 0..1 -> CIELAB, lightness in 0..100."""
    if not len(color):
        return np.zeros((0, 3))
    return cv2.cvtColor(np.ascontiguousarray(color[None], np.float32), cv2.COLOR_RGB2LAB)[0].astype(np.float64)
