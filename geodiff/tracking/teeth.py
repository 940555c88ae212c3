"""What is seen between parted lips: teeth that meet, or how far apart they are.

Lips part because the jaw drops or because they are drawn from the teeth, as in a smile. Landmarks of lips and chin
hardly tell which, since a chin may be long; teeth do.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from geodiff.media import LUMA

#: Landmarks of the upper and the lower lip's inner edge, from corner to corner, one above the other.
UPPER = [191, 80, 81, 82, 13, 312, 311, 310, 415]
LOWER = [95, 88, 178, 87, 14, 317, 402, 318, 324]
#: Landmarks of the cheeks, where skin has its usual colour.
CHEEKS = [205, 425, 50, 280, 187, 411]
#: Places of the lips' edges between which the mouth is looked at, columns there and rows from lip to lip.
MIDDLE, COLUMNS, ROWS = (1.5, 6.5), 33, 24
#: Brightness from which a colour that is no redder than skin is that of teeth: as a share of the skin's, and of the
#: brightest in the mouth; how much redder teeth may be (red less blue, as a share of all).
BRIGHT, BRIGHTEST, REDDER = 0.45, 0.55, 0.02
#: Shares of the mouth that teeth take, and distances of the lips as shares of the outer eye corners', from which teeth
#: begin to tell and tell all that they can; and of the rows from which they tell less, and nothing: an open jaw is
#: plain without them.
TOOTHED, PARTED, APART = (0.4, 0.65), (0.03, 0.07), (0.02, 0.06)
#: Share of the mouth, over the lower lip, that the lip's own edge takes.
EDGE = 0.15


@dataclass(frozen=True)
class Bite:
    """opening: pixels from the upper to the lower teeth, as far as lips show it. sure: 0..1, 0 where no teeth are
    seen."""

    opening: float = 0.0
    sure: float = 0.0


def seen_bite(image: np.ndarray, points: np.ndarray, eyes: float) -> Bite:
    """image: (H, W, 3) uint8 RGB. points: (478, 2) landmarks as the detector sees them. eyes: pixels from one outer eye
    corner to the other."""
    upper, lower = points[UPPER].astype(np.float64), points[LOWER].astype(np.float64)
    parted = float(np.linalg.norm(lower[4] - upper[4]))
    width = float(np.clip((parted / max(eyes, 1e-6) - PARTED[0]) / (PARTED[1] - PARTED[0]), 0, 1))
    if width == 0:
        return Bite()
    colors, skin = _between(image, upper, lower), _skin(image, points, eyes)
    light, usual = colors @ LUMA, float(skin @ LUMA)
    red, usually = (c[..., 0] - c[..., 2] for c in (colors, skin))
    redness, usual_redness = red / (colors.sum(-1) + 0.03), usually / (skin.sum() + 0.03)
    least = max(BRIGHT * usual, BRIGHTEST * float(np.quantile(light, 0.95)))
    teeth = (light > least) & (redness < usual_redness + REDDER)
    # What is below the first tooth of a column and no tooth is the gap between the rows, or the lower lip's edge.
    below = np.maximum.accumulate(teeth, axis=0)
    gap = max(0.0, float((below & ~teeth).mean()) - EDGE)
    toothed = float(np.clip((teeth.mean() - TOOTHED[0]) / (TOOTHED[1] - TOOTHED[0]), 0, 1))
    near = float(np.clip((APART[1] - parted * gap / eyes) / (APART[1] - APART[0]), 0, 1))
    return Bite(parted * gap, width * toothed * near)


def _between(image: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """(ROWS, COLUMNS, 3) 0..1 colours from the upper lip to the lower."""
    along = np.linspace(*MIDDLE, COLUMNS)
    first, last = (
        np.stack([np.interp(along, np.arange(len(edge)), edge[:, axis]) for axis in range(2)], 1)
        for edge in (upper, lower)
    )
    down = np.linspace(0, 1, ROWS)[:, None, None]
    return _sampled(image, first + (last - first) * down)


def _skin(image: np.ndarray, points: np.ndarray, eyes: float) -> np.ndarray:
    """(3,) 0..1 the usual colour of the cheeks."""
    reach = 0.04 * eyes
    offsets = reach * np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, 5)]), -1).reshape(1, -1, 2)
    return np.median(_sampled(image, points[CHEEKS][:, None] + offsets).reshape(-1, 3), 0)


def _sampled(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(H, W, 3) 0..1 at places (H, W, 2) in pixels."""
    at = (places - 0.5).astype(np.float32)
    taken = cv2.remap(image, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return taken.astype(np.float32) / 255
