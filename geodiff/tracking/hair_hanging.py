"""Hair that hangs beside the face, from the outline of one side: whether it does, and down to where."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from geodiff.geometry import smoothstep
from geodiff.tracking.hair_rays import ROW

#: Metres: a gap between mesh and matte that counts as none.
NO_GAP = 0.003
#: Metres below a visible ear over which hair must hang to be seen there, and the mean evidence of both sides from which
#: it does. (A beard fills less of them.)
HANG, BELOW_EARS = 0.05, 0.6
#: Below the ears the shoulders begin where the outline widens by more than this many metres a metre, for likelihoods of
#: hair at the outline: hair may flare, and what surely is hair is no shoulder.
FLARE = {0.6: 1.0, 0.65: 1.8, 0.7: 1.8, 0.8: 5.0}
#: Rays between hair and the picture's lower border that still mean that the border cuts it off.
TO_BORDER = 4
#: Likelihoods from which a ray meets hair, below ears that are seen and below ears that hair covers: that ends at a jaw
#: more rarely than its colour becomes uncertain there.
LEAST = (0.5, 0.25)


def widest(edge: np.ndarray) -> np.ndarray:
    """(n,) metres a metre by which outlines whose likelihood of hair is `edge` (n,) widen downwards at most."""
    return np.interp(edge, list(FLARE), list(FLARE.values()))


def hung(hair: np.ndarray, known: np.ndarray, covered: float) -> float:
    """How many rays of one side, from the top down, hair (n,) 0..1 reaches; infinite where the picture's border cuts it
    off. known: (n,) bool, rays that begin inside the picture. covered: 0 or 1 whether hair covers this side's ear."""
    last = np.flatnonzero(hair > LEAST[int(covered > 0.5)])
    if not len(last):
        return 0.0
    ahead = known[last[-1] : last[-1] + 1 + TO_BORDER]
    return float(last[-1] + 1) if ahead.all() and len(ahead) > TO_BORDER else float("inf")


def below_ears(gap: np.ndarray, colour: np.ndarray, visible: np.ndarray) -> float:
    """0..1, nan where no ear is seen: whether hair hangs beside the neck on one side, below an ear that is seen: over
    how much of the HANG metres below the ear the gap is wide and has the hair's colour."""
    ear = np.flatnonzero(visible)
    if not len(ear):
        return float("nan")
    under = slice(ear[-1] + 2, ear[-1] + 2 + round(HANG / ROW))
    if not len(gap[under]):
        return float("nan")
    return float(((gap[under] > 2 * NO_GAP) * smoothstep(colour[under], 0.4, 0.7)).mean())


def hanging(person: np.ndarray, gap: np.ndarray, colour: np.ndarray, flare: np.ndarray) -> np.ndarray:
    """(n,) 0..1 whether the matte beside the rays of one side, from the top down, is hair: down to where it ends, where
    other colours begin, or where the shoulders do. person, gap: (n,) metres. flare: (n,) as of
    `widest`."""
    smooth = ndimage.uniform_filter1d(np.where(gap > NO_GAP, colour, 1.0), 5)
    believed = np.minimum.accumulate(smoothstep(smooth, 0.3, 0.6))
    outline = ndimage.gaussian_filter1d(person, 1.5)
    window = 6
    widening = np.zeros(len(person))
    widening[:-window] = (outline[window:] - outline[:-window]) / (window * ROW)
    level = np.arange(len(person)) * ROW
    flared = np.cumsum((widening > flare) & (level > 0.04)) > 0
    none = ndimage.uniform_filter1d((gap < NO_GAP).astype(float), 5) > 0.9
    begun = np.cumsum(gap > 2 * NO_GAP) > 2
    ended = np.cumsum(none & begun & (level > 0.06)) > 3
    return believed * ~flared * ~ended
