"""Lips and lids that meet: small corrections that close the gap between an opening's upper and lower edge."""

from __future__ import annotations

from dataclasses import dataclass

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
    for own, other, share in ((upper, lower, upper_share), (lower, upper, 1 - upper_share)):
        order = other[np.argsort(edge[other, 0])]
        across = np.interp(edge[own, 0], edge[order, 0], edge[order, 1])
        gap = edge[own, 1] - across
        sign = 1.0 if own is upper else -1.0
        shift[own] = -share * (gap + sign * overlap)
    return shift * corner_fade(edge)


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


def columns(edge: np.ndarray) -> list[tuple[int, int, list[tuple[int, float]]]]:
    """Which vertex of a closed edge (N, 3) meets what: its number, +1 above or -1 below, and the vertices across with
    their weights. Corners have no column.
    """
    upper, lower = halves(edge)
    found = []
    for own, other, sign in ((upper, lower, 1), (lower, upper, -1)):
        order = other[np.argsort(edge[other, 0])]
        for vertex in own:
            place = np.interp(edge[vertex, 0], edge[order, 0], np.arange(len(order)))
            low = min(int(place), len(order) - 2)
            share = float(place) - low
            found.append((int(vertex), sign, [(int(order[low]), 1 - share), (int(order[low + 1]), share)]))
    return found


def corner_fade(edge: np.ndarray) -> np.ndarray:
    """(N,) 0 at the corners of a closed edge (N, 3), 1 further than `CORNER` from them."""
    return np.clip(np.minimum(edge[:, 0] - edge[:, 0].min(), edge[:, 0].max() - edge[:, 0]) / CORNER, 0, 1)


@dataclass(frozen=True)
class ContactRows:
    """Rows of a head's contacts over all of its V vertices: measure and respond (K, V, 3), rest (K,); see
    `geodiff.head.contact`."""

    measure: np.ndarray
    rest: np.ndarray
    respond: np.ndarray


def contact_rows(
    positions: np.ndarray,
    rings: list[np.ndarray],
    contact: int,
    way_back: dict[int, np.ndarray],
    tolerance: float,
) -> ContactRows:
    """Contacts of one opening. positions: (V, 3) at rest. rings: loops of vertices from the rim outwards.

    way_back: for +1 (upper edge) and -1 (lower edge) how each ring's vertices (R, N, 3) move per metre of missing gap;
    an edge that is not in it stays. tolerance: how far the edges may pass each other, metres.
    """
    edge = positions[rings[contact]]
    fade = corner_fade(edge)
    chosen = [column for column in columns(edge) if column[1] in way_back]
    measure, respond = np.zeros((2, len(chosen), len(positions), 3))
    for row, (vertex, sign, across) in enumerate(chosen):
        measure[row, rings[contact][vertex], 1] += sign
        for other, weight in across:
            measure[row, rings[contact][other], 1] -= sign * weight
        for ring, move in zip(rings, way_back[sign], strict=True):
            respond[row, ring[vertex]] += fade[vertex] * move[vertex]
    return ContactRows(measure, np.full(len(chosen), tolerance), respond)
