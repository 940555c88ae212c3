"""Lips and lids that meet: small corrections that close the gap between an opening's upper and lower edge."""

from __future__ import annotations

import numpy as np

#: Distance from the corners over which a correction fades out, metres.
CORNER = 0.003


def halves(edge: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of the upper and the lower half of a closed edge (N, 3) that starts at the bottom, no corners."""
    count = len(edge)
    left, right = int(np.argmax(edge[:, 0])), int(np.argmin(edge[:, 0]))
    first, second = sorted((left, right))
    upper = np.arange(first + 1, second)
    lower = np.r_[np.arange(second + 1, count), np.arange(0, first)]
    return upper, lower


def closing_shift(edge: np.ndarray, overlap: float, upper_share: float) -> np.ndarray:
    """(N,) vertical shift of each vertex of a closed edge (N, 3) that makes its upper and lower half meet.

    overlap: how far the halves pass each other, metres. upper_share: how much of the way the upper half goes.
    """
    upper, lower = halves(edge)
    shift = np.zeros(len(edge))
    low_x, high_x = edge[:, 0].min(), edge[:, 0].max()
    fade = np.clip(np.minimum(edge[:, 0] - low_x, high_x - edge[:, 0]) / CORNER, 0, 1)
    for own, other, share in ((upper, lower, upper_share), (lower, upper, 1 - upper_share)):
        order = other[np.argsort(edge[other, 0])]
        across = np.interp(edge[own, 0], edge[order, 0], edge[order, 1])
        gap = edge[own, 1] - across
        sign = 1.0 if own is upper else -1.0
        shift[own] = -share * (gap + sign * overlap)
    return shift * fade


def close_rings(
    positions: np.ndarray,
    rings: list[np.ndarray],
    contact: int,
    fading: list[float],
    overlap: float,
    upper_share: float,
) -> np.ndarray:
    """(V, 3) displacement that closes an opening at one of its rings; the other rings follow by their share of it.

    positions: (V, 3). rings: loops of vertices from the rim outwards. contact: number of the ring that meets.
    fading: share of the shift that each ring takes.
    """
    shift = closing_shift(positions[rings[contact]], overlap, upper_share)
    moved = np.zeros_like(positions)
    for ring, share in zip(rings, fading, strict=True):
        moved[ring, 1] += share * shift
    return moved
