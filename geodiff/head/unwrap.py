"""Texture coordinates for a mesh that comes without any: pieces that face one way, laid flat beside one another."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

#: The ways a piece can face, and how much each is preferred: the front takes what it can, so that a face is one piece.
DIRECTIONS = np.array([[0, 0, 1], [0, 0, -1], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], np.float64)
PREFERENCE = np.array([1.6, 1.0, 1.0, 1.0, 1.0, 1.0])
#: Axes of the plane that a piece is laid on: right and up as one looks at it.
PLANES = np.array(
    [[[1, 0, 0], [0, 1, 0]], [[-1, 0, 0], [0, 1, 0]], [[0, 0, -1], [0, 1, 0]], [[0, 0, 1], [0, 1, 0]],
     [[1, 0, 0], [0, 0, -1]], [[1, 0, 0], [0, 0, 1]]], np.float64
)  # fmt: skip
#: Free space around each piece, share of the map's side: two texels of 512.
GAP = 0.004
#: Least cosine between a triangle's normal and the way its piece faces.
LEAST = 0.15


def unwrap(vertices: np.ndarray, faces: np.ndarray, height: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """uvs (U, 2) and faces_uv (F, 3) for vertices (V, 3) and triangles (F, 3); v stays below `height`.

    All pieces have one scale. Pieces do not overlap; within a piece only a fold that faces the same way twice would.
    """
    vertices = np.asarray(vertices, np.float64)
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)
    way = _ways(normals, faces)
    piece = _pieces(faces, way)
    # A vertex has a place in each piece that it belongs to.
    keys, faces_uv = np.unique(faces.astype(np.int64) + piece[:, None] * len(vertices), return_inverse=True)
    owner, vertex = keys // len(vertices), keys % len(vertices)
    facing = np.zeros(piece.max() + 1, np.int64)
    facing[piece] = way
    flat = np.einsum("uac,uc->ua", PLANES[facing[owner]], vertices[vertex])
    low = np.full((len(facing), 2), np.inf)
    high = np.full((len(facing), 2), -np.inf)
    np.minimum.at(low, owner, flat)
    np.maximum.at(high, owner, flat)
    places, scale = _pack(high - low, height)
    return (flat - low[owner]) * scale + places[owner], faces_uv.reshape(-1, 3)


def _ways(normals: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F,) row of DIRECTIONS for each triangle, made smooth: what most of the neighbours have, where it is near."""
    cosines = normals @ DIRECTIONS.T
    liking = np.where(cosines > LEAST, cosines * PREFERENCE, cosines - 1)
    near = _adjacency(faces)
    way = liking.argmax(1)
    for _ in range(6):
        votes = np.stack([near @ (way == k).astype(np.float64) for k in range(len(DIRECTIONS))], 1)
        way = (liking + 0.25 * votes).argmax(1)
    return way


def _pieces(faces: np.ndarray, way: np.ndarray) -> np.ndarray:
    """(F,) number of the piece: triangles that hang together and face one way."""
    near = _adjacency(faces).tocoo()
    same = way[near.row] == way[near.col]
    kept = sparse.coo_matrix((near.data[same], (near.row[same], near.col[same])), shape=near.shape)
    return connected_components(kept, directed=False)[1].astype(np.int64)


def _adjacency(faces: np.ndarray) -> sparse.csr_matrix:
    """(F, F): 1 where two triangles share an edge."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    number = np.unique(edges, axis=0, return_inverse=True)[1].ravel()
    rows = np.tile(np.arange(len(faces)), 3)
    incidence = sparse.csr_matrix((np.ones(len(rows)), (rows, number)), shape=(len(faces), number.max() + 1))
    near = (incidence @ incidence.T).tocsr()
    near.setdiag(0)
    near.eliminate_zeros()
    return near


def _pack(sizes: np.ndarray, height: float) -> tuple[np.ndarray, float]:
    """Lower left corners (P, 2) of boxes of the given sizes (P, 2), and the scale at which they fit into the map: in
    shelves, the highest first."""
    order = np.argsort(-sizes[:, 1], kind="stable")
    low, high = 0.0, min(1.0, height) / max(float(sizes.max()), 1e-9)
    best, scale = np.zeros_like(sizes), 0.0
    for _ in range(30):
        trial = (low + high) / 2
        places = _shelves(sizes[order] * trial, height)
        if places is None:
            high = trial
            continue
        low = scale = trial
        best[order] = places
    return best, scale


def _shelves(sizes: np.ndarray, height: float) -> np.ndarray | None:
    places = np.zeros_like(sizes)
    x, y, shelf = GAP, GAP, 0.0
    for row, (wide, high) in enumerate(sizes):
        if x + wide + GAP > 1.0:
            x, y, shelf = GAP, y + shelf + GAP, 0.0
        if wide + 2 * GAP > 1.0 or y + high + GAP > height:
            return None
        places[row] = x, y
        x, shelf = x + wide + GAP, max(shelf, high)
    return places
