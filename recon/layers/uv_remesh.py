"""A regular mesh in a head's UV layout that never joins what the head keeps apart (GeoDiff4D, section A.2).

Every texel of a square grid that lies on a triangle becomes a vertex: that triangle and barycentrics. A cell of four
texels gives two faces; a face is kept when its corners lie on one triangle of the head, or on triangles that are within
a few steps of each other in the graph of triangles that share an edge. In UV space the lips, the lids and the seams of
the layout lie side by side; in the graph they are far apart.

Deformations are predicted on the grid and read at the head's own vertices, through kept faces alone. So one vertex has
one deformation, seams stay shut, and Gaussians stay bound to the head's triangles, as GaussianAvatars' format wants it;
the paper binds them to the grid's faces.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from geodiff.assets import cache_folder
from geodiff.errors import UserError
from geodiff.files import make_folder, read_npz, write_npz
from geodiff.head.model import HeadModel
from geodiff.head.uv import texel_map
from geodiff.raster.compiled import kept

#: The paper's bound.
MAX_HOPS = 5
#: Raised when the same head would give another grid.
_VERSION = 1


#: Rounds over which vertices without a place in a kept face take the mean of their neighbours.
_SMOOTHING = 4
ARRAYS = ("face", "barycentrics", "triangles", "first", "texels", "weights")


@dataclass(frozen=True)
class GridMesh:
    """A grid of S x S texels over a head, row 0 at v = 1; texel (r, c) is number r * S + c.

    face: (S * S,) int64 triangle of the head, -1 outside. barycentrics: (S * S, 3). triangles: (K, 3) int64 texels of
    the kept faces. first: (V + 1,), texels: (R,) int64 and weights: (R,): vertex v of the head reads the texels
    first[v] to first[v + 1] with these weights, which add up to 1; vertices of parts without a texel read none.
    """

    size: int
    face: Tensor
    barycentrics: Tensor
    triangles: Tensor
    first: Tensor
    texels: Tensor
    weights: Tensor

    def points(self, vertices: Tensor, faces: Tensor) -> Tensor:
        """(S * S, C) values of the head's vertices (V, C) at the texels, 0 outside. faces: (F, 3)."""
        corners = vertices[faces[self.face.clamp_min(0)]]
        return (corners * self.barycentrics[:, :, None]).sum(1) * (self.face >= 0)[:, None]

    def at_vertices(self, values: Tensor) -> Tensor:
        """(V, C) of values on the grid (S * S, C)."""
        if values.device.type == "cpu" and values.dtype == torch.float32:
            return _Read.apply(values, *self._matrices)
        taken = values[self.texels] * self.weights[:, None]
        rows = torch.repeat_interleave(torch.arange(len(self.first) - 1, device=values.device), self.first.diff())
        return values.new_zeros(len(self.first) - 1, values.shape[1]).index_add(0, rows, taken)

    @cached_property
    def _matrices(self) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """The reading (V, S * S) and its transpose."""
        arrays = (self.weights.numpy(), self.texels.numpy(), self.first.numpy())
        reading = sparse.csr_matrix(arrays, shape=(len(self.first) - 1, self.size**2))
        return reading, reading.T.tocsr()

    def edges(self) -> Tensor:
        """(E, 2) int64 texels that kept faces join, each pair once."""
        pairs = torch.cat([self.triangles[:, [0, 1]], self.triangles[:, [1, 2]], self.triangles[:, [2, 0]]])
        return torch.unique(pairs.sort(1).values, dim=0)

    def joined(self) -> tuple[Tensor, Tensor]:
        """(S, S - 1) and (S - 1, S) bool: texels that a kept face joins to the right and to the lower neighbour."""
        first, second = self.edges().unbind(1)
        right, below = (torch.zeros(self.size**2, dtype=torch.bool, device=first.device) for _ in range(2))
        right[first[second - first == 1]] = True
        below[first[second - first == self.size]] = True
        return right.view(self.size, -1)[:, :-1], below.view(self.size, -1)[:-1]

    def to(self, device: torch.device | str) -> GridMesh:
        return GridMesh(self.size, *(getattr(self, name).to(device) for name in ARRAYS))


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, reading, transposed):  # noqa: ANN001, ANN205
        ctx.transposed = transposed
        return torch.from_numpy(reading @ values.detach().numpy())

    @staticmethod
    def backward(ctx, *grads):  # noqa: ANN001, ANN205
        return torch.from_numpy(ctx.transposed @ grads[0].numpy()), None, None


def face_graph(faces: np.ndarray) -> sparse.csr_matrix:
    """(F, F) symmetric: triangles (F, 3) that share an edge."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    _, number = np.unique(edges, axis=0, return_inverse=True)
    rows = np.tile(np.arange(len(faces)), 3)
    incidence = sparse.csr_matrix((np.ones(len(rows), np.int8), (rows, number.ravel())))
    graph = (incidence @ incidence.T).tocsr()
    graph.setdiag(0)
    graph.eliminate_zeros()
    return graph


@kept()
def _within(starts, ends, first, neighbours, hops, near):  # noqa: ANN001, ANN202
    """near (P,) bool: whether triangles ends (P,) are within `hops` of starts (P,), by breadth-first search."""
    count = first.shape[0] - 1
    stamp = np.full(count, -1, np.int64)
    queue = np.empty(count, np.int64)
    depth = np.empty(count, np.int64)
    for pair in range(starts.shape[0]):
        goal = ends[pair]
        near[pair] = starts[pair] == goal
        head, tail = 0, 1
        queue[0], depth[0] = starts[pair], 0
        stamp[starts[pair]] = pair
        while head < tail and not near[pair]:
            current, reached = queue[head], depth[head]
            head += 1
            if reached == hops:
                break
            for k in range(first[current], first[current + 1]):
                other = neighbours[k]
                if other == goal:
                    near[pair] = True
                    break
                if stamp[other] != pair:
                    stamp[other] = pair
                    queue[tail], depth[tail] = other, reached + 1
                    tail += 1


def within_hops(graph: sparse.csr_matrix, starts: np.ndarray, ends: np.ndarray, hops: int) -> np.ndarray:
    """(P,) bool: pairs of triangles that are at most `hops` steps apart."""
    near = np.zeros(len(starts), np.bool_)
    indptr, indices = graph.indptr.astype(np.int64), graph.indices.astype(np.int64)
    _within(starts.astype(np.int64), ends.astype(np.int64), indptr, indices, hops, near)
    return near


def remesh(head: HeadModel, size: int, hops: int = MAX_HOPS) -> GridMesh:
    """The grid of a head, from the cache folder where it was made before. size: texels a side."""
    digest = hashlib.sha256(f"{_VERSION} {size} {hops} {head.hash}".encode())
    for tensor in (head.faces, head.faces_uv, head.uvs):
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    path = cache_folder() / "remesh" / f"{digest.hexdigest()[:24]}.npz"
    try:
        arrays = read_npz(path)
        found = GridMesh(size, *(torch.from_numpy(arrays[name]) for name in ARRAYS))
    except (UserError, OSError, KeyError):
        found = build(head, size, hops)
        try:
            make_folder(path.parent)
            write_npz(path, **{name: getattr(found, name).numpy() for name in ARRAYS})
        except (UserError, OSError):
            pass  # Without a cache the next run makes it again.
    return found.to(head.template.device)


def build(head: HeadModel, size: int, hops: int = MAX_HOPS) -> GridMesh:
    """The grid of a head, made anew."""
    faces, faces_uv, uvs = (t.cpu().numpy() for t in (head.faces, head.faces_uv, head.uvs))
    texels = texel_map(uvs, faces_uv, size)
    owner = texels.face.reshape(-1).astype(np.int64)
    graph = face_graph(faces)
    triangles = _kept_faces(owner, graph, size, hops)
    reading = _reading(faces, faces_uv, uvs, owner, triangles, graph, size, hops)
    arrays = (owner, texels.barycentrics.reshape(-1, 3), triangles, reading.indptr, reading.indices, reading.data)
    kinds = (np.int64, np.float32, np.int64, np.int64, np.int64, np.float32)
    return GridMesh(size, *(torch.from_numpy(a.astype(kind)) for a, kind in zip(arrays, kinds, strict=True)))


def _candidates(size: int) -> np.ndarray:
    """(2 (S - 1)^2, 3) texels of all faces: first of each cell upper left, upper right, lower left, then the others."""
    number = np.arange(size * size).reshape(size, size)
    a, b, c, d = number[:-1, :-1].ravel(), number[:-1, 1:].ravel(), number[1:, :-1].ravel(), number[1:, 1:].ravel()
    return np.stack([np.stack([a, c, b], 1), np.stack([d, b, c], 1)], 1).reshape(-1, 3)


def _kept_faces(owner: np.ndarray, graph: sparse.csr_matrix, size: int, hops: int) -> np.ndarray:
    faces = _candidates(size)
    faces = faces[(owner[faces] >= 0).all(1)]
    on = owner[faces]
    near = np.ones(len(faces), bool)
    for first, second in ((0, 1), (1, 2), (2, 0)):
        near &= within_hops(graph, on[:, first], on[:, second], hops)
    return faces[near]


def _reading(
    faces: np.ndarray, faces_uv: np.ndarray, uvs: np.ndarray, owner: np.ndarray, triangles: np.ndarray,
    graph: sparse.csr_matrix, size: int, hops: int,
) -> sparse.csr_matrix:  # fmt: skip
    """(V, S * S) weights with which head vertices read texels.

    A vertex takes the kept face that holds its place in the layout, and where none does (at the rims of islands, where
    the head is finer than the grid) the texel that is the fewest triangles away, smoothed over its neighbours.
    """
    count = int(faces.max()) + 1
    kept = np.zeros(2 * (size - 1) ** 2, bool)
    every = _candidates(size)
    number = {tuple(t): i for i, t in enumerate(every.tolist())}
    kept[[number[tuple(t)] for t in triangles.tolist()]] = True
    corner_face, vertex, place = np.repeat(np.arange(len(faces)), 3), faces.ravel(), uvs[faces_uv.ravel()]
    column, row = place[:, 0] * size - 0.5, (1 - place[:, 1]) * size - 0.5
    left = np.clip(np.floor(column).astype(int), 0, size - 2)
    top = np.clip(np.floor(row).astype(int), 0, size - 2)
    x, y = column - left, row - top
    lower = x + y > 1
    cell = 2 * (top * (size - 1) + left) + lower
    share = np.where(lower[:, None], np.stack([x + y - 1, 1 - y, 1 - x], 1), np.stack([1 - x - y, y, x], 1))
    usable = kept[cell] & (share >= 0).all(1)
    # The place may lie in a face of another island that comes close.
    usable &= within_hops(graph, corner_face, np.where(usable, owner[every[cell, 0]], corner_face), hops)
    chosen = np.full(count, -1)
    chosen[vertex[usable]] = np.flatnonzero(usable)
    found = np.flatnonzero(chosen >= 0)
    at = chosen[found]
    texel, steps = _nearest_texels(owner, graph)
    # Of the triangles around a vertex, the one with the nearest texel: written last, so it stays.
    order = np.argsort(-steps[corner_face], kind="stable")
    near = np.full(count, -1)
    near[vertex[order]] = texel[corner_face[order]]
    lost = np.flatnonzero((chosen < 0) & (near >= 0))
    rows, columns = np.concatenate([np.repeat(found, 3), lost]), np.concatenate([every[cell[at]].ravel(), near[lost]])
    data = np.concatenate([share[at].ravel(), np.ones(len(lost))])
    reading = sparse.csr_matrix((data, (rows, columns)), shape=(count, size * size))
    return _smoothed(reading, faces, chosen < 0)


def _smoothed(reading: sparse.csr_matrix, faces: np.ndarray, loose: np.ndarray) -> sparse.csr_matrix:
    """The reading, with the loose vertices (V,) at the mean of their neighbours, a few times over."""
    count = len(loose)
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = sparse.csr_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    edges = ((edges + edges.T) > 0).astype(np.float64)
    mean = sparse.diags(1 / np.maximum(np.asarray(edges.sum(1)).ravel(), 1)) @ edges
    keep = sparse.diags((~loose).astype(np.float64))
    step = (keep + sparse.diags(loose.astype(np.float64)) @ (mean + sparse.identity(count)) / 2).tocsr()
    for _ in range(_SMOOTHING):
        reading = step @ reading
    reading.data[reading.data < 1e-3] = 0
    reading.eliminate_zeros()
    total = np.asarray(reading.sum(1)).ravel()
    return (sparse.diags(1 / np.where(total > 0, total, 1)) @ reading).tocsr()


def _nearest_texels(owner: np.ndarray, graph: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """(F,) the texel fewest triangles away, -1 where there is no way to one, and (F,) how many."""
    texel = np.full(graph.shape[0], -1, np.int64)
    texel[owner[owner >= 0]] = np.flatnonzero(owner >= 0)
    steps = np.where(texel >= 0, 0, np.iinfo(np.int64).max)
    edge = np.flatnonzero(texel >= 0)
    reached = 0
    while len(edge):
        reached += 1
        begin, end = graph.indptr[edge], graph.indptr[edge + 1]
        source = np.repeat(edge, end - begin)
        target = np.concatenate([graph.indices[b:e] for b, e in zip(begin, end, strict=True)]) if len(edge) else edge
        fresh = texel[target] < 0
        edge, first = np.unique(target[fresh], return_index=True)
        texel[edge] = texel[source[fresh][first]]
        steps[edge] = reached
    return texel, steps
