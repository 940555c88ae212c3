"""Clothes of two colours, a shirt in a jacket: what is not seen of them is one or the other, not a mixture of both."""

from __future__ import annotations

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.spatial import cKDTree

from geodiff.tracking.tones import lab

#: Distance in CIELAB from which two colours are two garments', and the least share of each.
APART, LEAST_SHARE = 18.0, 0.08
#: Parts of equal size from the darkest to the lightest, whose ends are first guesses of the garments' colours.
PARTS = 14
#: Points around one that tell what it is likely to be, and the share of points, of the rarer garment as well, for which
#: they have to be right: else it is a pattern.
AROUND, COHERENT = 9, 0.8
#: Points that are looked at, at most.
LOOKED_AT = 3000


def parted(place: np.ndarray, color: np.ndarray) -> np.ndarray | None:
    """(N,) bool, which points of clothes are of the rarer of two garments; None where there is one, or a pattern.

    place: (N, 3) metres. color: (N, 3) of them, freed from shading.
    """
    if len(color) < PARTS * AROUND:
        return None
    values = lab(color)
    parts = np.array_split(np.argsort(values[:, 0], kind="stable"), PARTS)
    ends = np.array([np.median(values[part], 0) for part in (parts[0], parts[-1])])
    if np.abs(ends[1] - ends[0]).max() < 1.0:
        return None
    centres, number = kmeans2(values, ends, minit="matrix")
    second = number == np.bincount(number, minlength=2).argmin()
    if second.mean() < LEAST_SHARE or np.linalg.norm(centres[1] - centres[0]) < APART:
        return None
    looked = np.linspace(0, len(place) - 1, min(len(place), LOOKED_AT)).round().astype(int)
    around = cKDTree(place[looked]).query(place[looked], k=AROUND + 1)[1][:, 1:]
    agreed = (second[looked][around].mean(1) > 0.5) == second[looked]
    coherent = all(agreed[second[looked] == kind].mean() > COHERENT for kind in (False, True))
    return second if coherent else None
