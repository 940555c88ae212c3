"""Neck, shoulders and chest of a head: where they can move, and the smooth ways in which they do.

All of it depends on the head alone, so it is made once for each head and kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import eigsh

from geodiff.geometry import smoothstep
from geodiff.head.model import HeadModel
from geodiff.tracking.hair_surface import _adjacency, _distance

#: Metres along the surface, from face, ears and scalp downwards, over which the neck becomes free to move.
CLEAR = 0.04
#: Vertices that must be free for a bust to be fitted at all, and the number of its modes.
LEAST, MODES = 60, 100
#: Metres: the length that a bump must have to cost as much as it wins (`Bust.energy`), and one that keeps what is half
#: free where it is.
PLATE, HOLD = 0.007, 0.02
#: Weight of a uniform graph's squared differences against the integral of the squared gradient, and of that integral.
GRAPH, MEMBRANE = 0.58, 0.0008
#: Half widths (metres) at which the neck begins to become shoulders, and is.
NECK_WIDTH = (0.075, 0.11)


@dataclass(frozen=True)
class Bust:
    """A head's bust at rest; F of its V vertices are free.

    index: (F,) vertices. slot: (V,) place in `index`, F where a vertex is not free. free: (V,) 0..1 how freely a
    vertex moves. area: (F,) metres squared. modes: (F + 1, M) smooth fields, the last row zero. energy: (M,) what one
    of them costs (metres, against an outline's squared distance times its length). odd, even: (M, M) quadratic forms
    of a field's part that mirroring at the face's middle changes, for components that change their sign and that do
    not. radial: (F, 3) unit, horizontal, away from the neck's axis. narrow: (F,) 1 on the neck, 0 on the shoulders.
    sideways: (F,) 0..1 how much a vertex lies beside the axis rather than before or behind it. height: (F,) metres.
    """

    index: np.ndarray
    slot: np.ndarray
    free: np.ndarray
    area: np.ndarray
    modes: np.ndarray
    energy: np.ndarray
    odd: np.ndarray
    even: np.ndarray
    radial: np.ndarray
    narrow: np.ndarray
    sideways: np.ndarray
    height: np.ndarray


_busts: WeakKeyDictionary[HeadModel, list[Bust]] = WeakKeyDictionary()


def bust_of(head: HeadModel) -> Bust | None:
    """The bust of a head; None where it has none to speak of."""
    if head not in _busts:
        made = _made(head)
        _busts[head] = [] if made is None else [made]
    return next(iter(_busts[head]), None)


def _made(head: HeadModel) -> Bust | None:
    place, faces = head.template.double().numpy(), head.faces.numpy()
    size = len(place)
    edges = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    graph = _adjacency(edges, size)
    free = _free(head, place, edges)
    index = np.flatnonzero(free > 0)
    if len(index) < LEAST:
        return None
    a, b, c = (place[faces[:, i]] for i in range(3))
    whole = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6
    area = np.bincount(faces.ravel(), np.repeat(whole, 3), size) + 1e-9
    area = np.maximum(area, 0.2 * np.median(area[index]))
    laplacian = (sparse.diags(np.asarray(graph.sum(1)).ravel()) - graph) * GRAPH
    stiff = MEMBRANE * laplacian + PLATE**3 * laplacian.T @ sparse.diags(1.0 / area) @ laplacian
    held = area * (1 - free) ** 2 / np.maximum(free, 1e-3) / HOLD
    stiff = (stiff + sparse.diags(held)).tocsr()[index][:, index].tocsc()
    mass = area[index]
    energy, modes = _softest(stiff, mass, min(MODES, len(index) // 4))
    slot = np.full(size, len(index))
    slot[index] = np.arange(len(index))
    padded = np.concatenate([modes, np.zeros((1, modes.shape[1]))])
    swap = modes.T @ (mass[:, None] * padded[slot[head.mirror.numpy()[index]]])
    same = np.eye(len(energy))
    axis = np.array([np.median(place[:, 0]), 0.0, _axis_depth(place[index])])
    away = (place[index] - axis) * np.array([1.0, 0.0, 1.0])
    length = np.maximum(np.linalg.norm(away, axis=1), 1e-6)
    return Bust(
        index, slot, free, mass, padded, energy, (same + swap).T @ (same + swap), (same - swap).T @ (same - swap),
        away / length[:, None], 1 - smoothstep(_half_width(place[index]), *NECK_WIDTH), np.abs(away[:, 0]) / length,
        place[index, 1],
    )  # fmt: skip


def _softest(stiff: sparse.csc_matrix, mass: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` fields (F, M) that cost least for their size, and their costs (M,): orthonormal under `mass` (F,)."""
    root = np.sqrt(mass)
    scaled = sparse.diags(1 / root) @ stiff @ sparse.diags(1 / root)
    tiny = 1e-9 * float(scaled.diagonal().max())
    start = np.ones(len(mass))
    energy, vectors = eigsh((scaled + tiny * sparse.identity(len(mass))).tocsc(), count, sigma=0.0, v0=start)
    # A mode has either sign: the larger entry decides, so that runs agree.
    sign = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(count)])
    return np.maximum(energy, 0.0), vectors * sign / root[:, None]


def _free(head: HeadModel, place: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(V,) 0..1: none on face, ears and scalp, all of it CLEAR metres below them."""
    regions = {name: mask.numpy() for name, mask in head.regions.items()}
    neck = regions["neck"] & ~(regions["scalp"] | regions["ears"] | regions["lips"] | regions["eyes"])
    if not neck.any():
        return np.zeros(len(place))
    inner = regions["eyeballs"] | regions["teeth"] | regions["mouth_interior"]
    span = np.linalg.norm(place[edges[:, 0]] - place[edges[:, 1]], axis=1) + 1e-9
    outer = ~inner[edges].any(1)
    lengths = sparse.coo_matrix((span[outer], tuple(edges[outer].T)), (len(place), len(place))).tocsr()
    away = _distance(lengths, np.flatnonzero(~neck & ~inner))
    free = np.where(neck, smoothstep(away / CLEAR, 0.0, 1.0), 0.0)
    free[free < 1e-3] = 0.0
    return free.round(9)


def _half_width(bust: np.ndarray) -> np.ndarray:
    """(F,) metres: how wide the bust is to each side at each vertex's height."""
    levels = np.linspace(bust[:, 1].min(), bust[:, 1].max(), 40)
    widths = [np.abs(bust[np.abs(bust[:, 1] - y) < 0.012, 0]).max(initial=0.0) for y in levels]
    return np.interp(bust[:, 1], levels, widths)


def _axis_depth(bust: np.ndarray) -> float:
    """Metres: z of the neck's middle, over its upper half."""
    upper = bust[bust[:, 1] > np.median(bust[:, 1])]
    return float((upper[:, 2].min() + upper[:, 2].max()) / 2)
