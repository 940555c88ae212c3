"""Where each part lies in the texture: the skin on top, cut along the back of the head; the rest in a strip below."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from geodiff.head.authoring.parts import Part
from geodiff.head.authoring.skin import Skin
from geodiff.head.authoring.surface import cotangent_laplacian

#: Height of the strip of small islands and the margin between islands.
STRIP, MARGIN = 0.14, 0.006
CELLS = {
    "eyeball_left": (0.0, 0.0, 1 / 7, 1.0), "eyeball_right": (1 / 7, 0.0, 2 / 7, 1.0),
    "teeth_upper": (2 / 7, 0.0, 3 / 7, 1.0), "teeth_lower": (3 / 7, 0.0, 4 / 7, 1.0),
    "tongue": (4 / 7, 0.0, 5 / 7, 1.0), "bag": (5 / 7, 0.0, 6 / 7, 1.0),
    "bust": (6 / 7, 2 / 3, 1.0, 1.0), "socket_left": (6 / 7, 1 / 3, 1.0, 2 / 3),
    "socket_right": (6 / 7, 0.0, 1.0, 1 / 3),
}  # fmt: skip


def place(part: Part) -> np.ndarray:
    """(U, 2) the part's texture coordinates in the whole texture."""
    left, low, right, high = CELLS[part.name]
    corner = np.array([left + MARGIN, STRIP * low + MARGIN])
    extent = np.array([right - left - 2 * MARGIN, STRIP * (high - low) - 2 * MARGIN])
    return corner + part.uv * extent


def back_seam(skin: Skin) -> np.ndarray:
    """Vertices of the midline from the nape's rim up to the crown, in this order."""
    midline = np.flatnonzero(skin.mirror == np.arange(len(skin.mirror)))
    edges: dict[int, set[int]] = {int(v): set() for v in midline}
    on_line = np.isin(skin.faces, midline)
    for face, flags in zip(skin.faces, on_line, strict=True):
        members = [int(v) for v in face[flags]]
        for a in members:
            edges[a].update(b for b in members if b != a)
    rim = skin.rims["neck"]
    current = int(rim[len(rim) // 2])
    path = [current]
    crown = skin.vertices[midline, 1].max()
    while skin.vertices[current, 1] < crown - 1e-9:
        ahead = [v for v in edges[current] if v not in path and v not in rim]
        current = max(ahead, key=lambda v: skin.vertices[v, 1] - 1e-3 * len(path))
        path.append(current)
    return np.array(path)


def skin_layout(skin: Skin, importance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texture coordinates (U, 2) and triangles (F, 3) of the skin. importance: (V,) texture area per surface area."""
    seam = back_seam(skin)
    vertices = skin.vertices
    faces = skin.faces.copy()
    # The seam but its upper end is doubled: triangles on the person's right take the copies.
    copy = np.arange(len(vertices))
    copy[seam[:-1]] = len(vertices) + np.arange(len(seam) - 1)
    right = vertices[skin.faces].mean(1)[:, 0] < 0
    faces[right] = copy[faces[right]]
    doubled = np.concatenate([vertices, vertices[seam[:-1]]])
    weight = np.concatenate([importance, importance[seam[:-1]]])

    filled: list[np.ndarray] = [faces]
    extra: list[np.ndarray] = []
    for name in ("mouth", "eye_left", "eye_right"):
        rim = skin.rims[name]
        middle = len(doubled) + len(extra)
        extra.append(vertices[rim].mean(0))
        filled.append(np.stack([rim, np.roll(rim, -1), np.full(len(rim), middle)], 1))
    points = np.concatenate([doubled, extra])
    weight = np.concatenate([weight, np.ones(3)])
    whole = np.concatenate(filled)

    rim = skin.rims["neck"]
    half = len(rim) // 2
    # Counter-clockwise: bottom edge from the person's right to left, up the left copy of the seam, down the right copy.
    bottom_left = np.r_[copy[rim[half]], rim[half + 1 :]]
    bottom = np.concatenate([bottom_left, rim[: half + 1]])
    if vertices[rim[1], 0] < 0:
        bottom = np.concatenate([[copy[rim[half]]], rim[1:half][::-1], rim[:1], rim[half + 1 :][::-1], [rim[half]]])
    up, down = seam[1:], copy[seam[:-1]][::-1][:-1]
    pinned = np.concatenate([bottom, up, down])
    aspect = 1 - STRIP
    border = np.concatenate([_bottom_border(points[bottom]), _seam_border(points[seam], aspect)])
    flat = flat_map(points, whole, pinned, border, weight[whole].mean(1))[: len(doubled)]
    u = MARGIN + flat[:, 0] * (1 - 2 * MARGIN)
    v = STRIP + MARGIN + flat[:, 1] * (1 - 2 * MARGIN / aspect)
    return np.stack([u, v], 1), faces


def _bottom_border(points: np.ndarray) -> np.ndarray:
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    return np.stack([length / length[-1], np.zeros(len(points))], 1)


def _seam_border(seam: np.ndarray, height: float) -> np.ndarray:
    """Positions of seam[1:] up the right side and over the top to its middle, then their mirror images back down."""
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(seam, axis=0), axis=1))]
    along = length / length[-1] * (height + 0.5)
    side = np.stack([np.ones_like(along), along], 1)
    top = np.stack([1 - (along - height), np.full_like(along, height)], 1)
    path = np.where((along <= height)[:, None], side, top)
    # One vertex must sit in the corner, or the border would cut it.
    path[np.argmin(np.abs(along - height))] = [1.0, height]
    climb = path[1:]
    back = climb[:-1][::-1] * [-1, 1] + [1, 0]
    return np.concatenate([climb, back])


def flat_map(
    vertices: np.ndarray,
    faces: np.ndarray,
    pinned: np.ndarray,
    border: np.ndarray,
    importance: np.ndarray,
    rounds: int = 8,
) -> np.ndarray:
    """Map a disc-like mesh (V, 3) into a convex border without overlap (V, 2), after Tutte and Floater.

    pinned: (P,) vertices of the border; border: (P, 2) their positions on a convex polygon. importance: (F,) wanted
    texture area per surface area. Positive spring weights keep the map one-to-one; they are changed in rounds to give
    each triangle its share.
    """
    stiffness, _ = cotangent_laplacian(vertices, faces, floor=0.05)
    weights = sparse.coo_matrix(-stiffness)
    off = weights.row != weights.col
    rows, columns, springs = weights.row[off], weights.col[off], weights.data[off]
    free = np.setdiff1d(np.arange(len(vertices)), pinned)
    edges = vertices[faces]
    wanted = np.linalg.norm(np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0]), axis=1) * importance
    wanted = np.maximum(wanted / wanted.sum(), 1e-9)
    incidence = sparse.coo_matrix(
        (np.ones(3 * len(faces)), (faces.ravel(), np.repeat(np.arange(len(faces)), 3))),
        shape=(len(vertices), len(faces)),
    ).tocsr()
    flat = np.zeros((len(vertices), 2))
    for _ in range(rounds):
        matrix = sparse.coo_matrix((springs, (rows, columns)), shape=(len(vertices),) * 2).tocsr()
        laplacian = (sparse.diags(np.asarray(matrix.sum(1)).ravel()) - matrix).tocsr()
        flat[pinned] = border
        flat[free] = splu(sparse.csc_matrix(laplacian[free][:, free])).solve(-(laplacian[free][:, pinned] @ border))
        corners = flat[faces]
        area = np.abs(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
        excess = (incidence @ (area / area.sum())) / np.maximum(incidence @ wanted, 1e-12)
        factor = np.clip(excess, 0.05, 20) ** 0.35
        springs = springs * np.sqrt(factor[rows] * factor[columns])
    return flat
