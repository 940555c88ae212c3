"""Where hair can be on a head, and which way it stands: what the picture does not change."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import splu

from geodiff.head.model import HeadModel
from geodiff.types import HeadParams

#: Metres from scalp and ears over which the skin around them goes along; the forehead's skin hardly does.
AROUND, FOREHEAD = 0.03, 0.012
#: Metres around an ear that are smoothed away with it.
EAR_FOOT = 0.013
#: Metres by which an ear stands out from the surface that its foot spans: the rest of the region is skull.
EAR_OUT = 0.004
#: Metres inside the scalp's front border over which hair rises, so that it does not end in a step like a cap's rim.
FRINGE = 0.03
#: Rounds in which that freedom is smoothed over neighbours.
SMOOTHED = 4
#: Degrees from the front, about the vertical through the ears, from which the neck goes along.
NECK_FROM, NECK_FULL = 55.0, 85.0


class HairSurface:
    """The shaped head at rest as hair sees it; arrays over all V vertices.

    rest: (V, 3) metres. centre: (3,) middle of the skull. outward: (V, 3) unit directions, away from the centre above
    it and horizontal below it. free: (V,) 0..1 how freely a vertex moves. unseen: (V,) 0..1 where a frontal picture
    shows no outline, ahead: (V,) 0..1 the part of it that lies in front. area: (V,) metres squared. graph: (V, V) 1
    between neighbours. ears: two (V,) masks, left and right, of what stands out; feet: of the whole regions and the
    skin close around them. flattened: (V, 3) offsets that smooth the ears away.
    """

    def __init__(self, head: HeadModel, params: HeadParams) -> None:
        self.rest = head.shaped(params, expression=False, offsets=False)[0].double().numpy()
        self.size = head.num_vertices
        self.faces = head.faces.numpy()
        self.mirror = head.mirror.numpy()
        regions = {name: mask.numpy() for name, mask in head.regions.items()}
        self.scalp, self.neck = regions["scalp"], regions["neck"]
        side = self.rest[:, 0] - np.median(self.rest[:, 0])
        around = [regions["ears"] & (side > 0), regions["ears"] & (side <= 0)]
        edges = self.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
        length = np.linalg.norm(self.rest[edges[:, 0]] - self.rest[edges[:, 1]], axis=1) + 1e-9
        inner = regions["eyeballs"] | regions["teeth"] | regions["mouth_interior"]
        outside = ~inner[edges].any(1)
        lengths = sparse.coo_matrix((length[outside], tuple(edges[outside].T)), (self.size, self.size)).tocsr()
        self.feet = [_distance(lengths, np.flatnonzero(ear)) < EAR_FOOT for ear in around]
        self.centre = self._centre(regions)
        self.outward = self._outward()
        self.graph = _adjacency(edges, self.size)
        self.flattened = self._flattened()
        out = np.linalg.norm(self.flattened, axis=1) > EAR_OUT
        self.ears = [ear & out for ear in around]
        self.area = self._area()
        self.free = self._free(regions, inner, lengths)
        depth = (self.rest - self.centre)[:, 2] / 0.05
        self.unseen = np.clip(np.abs(depth), 0, 1) ** 2 * self.free * np.where(depth < 0, 1.0, self.scalp)
        self.ahead = np.clip(depth, 0, 1)

    def _centre(self, regions: dict[str, np.ndarray]) -> np.ndarray:
        scalp = self.rest[self.scalp] if self.scalp.any() else self.rest
        middle = (scalp.min(0) + scalp.max(0)) / 2
        if regions["ears"].any():
            middle[1] = 0.35 * scalp[:, 1].max() + 0.65 * self.rest[regions["ears"], 1].mean()
        return middle

    def _outward(self) -> np.ndarray:
        direction = self.rest - self.centre
        # Below the middle of the skull hair stands off sideways; it does not grow downwards into the neck.
        direction[:, 1] = np.maximum(direction[:, 1], 0.0)
        return direction / np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-6)

    def _area(self) -> np.ndarray:
        a, b, c = (self.rest[self.faces[:, i]] for i in range(3))
        whole = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6
        return np.bincount(self.faces.ravel(), np.repeat(whole, 3), self.size) + 1e-9

    def _free(self, regions: dict[str, np.ndarray], inner: np.ndarray, lengths: sparse.csr_matrix) -> np.ndarray:
        """(V,) 0..1: full on the scalp and the ears, falling over the skin around them; sides and back of the neck."""
        local = self.rest - self.centre
        angle = np.degrees(np.arctan2(np.abs(local[:, 0]), local[:, 2]))
        hair = self.scalp | regions["ears"]
        away = _distance(lengths, np.flatnonzero(hair))
        front = _smooth(60.0 - angle, 0.0, 30.0)
        around = 1 - _smooth(away / (AROUND + front * (FOREHEAD - AROUND)), 0.0, 1.0)
        neck = self._neck(angle, lengths)
        free = np.where(hair, 1.0, np.maximum(around, neck))
        # Above the forehead hair rises slowly from the hairline.
        face = np.flatnonzero(regions["face"] & ~hair)
        if len(face):
            risen = _smooth(_distance(lengths, face) / FRINGE, -0.3, 1.0)
            free = np.where(self.scalp, 1 - front * (1 - risen), free)
        # Region borders zigzag; ridges would grow from them.
        neighbours = sparse.diags(1.0 / np.maximum(np.asarray(self.graph.sum(1)).ravel(), 1.0)) @ self.graph
        for _ in range(SMOOTHED):
            free = 0.5 * free + 0.5 * (neighbours @ free)
        free[(free < 1e-3) | inner | regions["lips"] | regions["eyes"]] = 0.0
        # Transcendental functions of arrays differ in the last bit with where the arrays lie; runs are to be alike.
        return free.round(9)

    def _neck(self, angle: np.ndarray, lengths: sparse.csr_matrix) -> np.ndarray:
        """(V,) 0..1 for the neck: its sides and back, down to where it widens into the shoulders."""
        a, b, c = (self.rest[self.faces[:, i]] for i in range(3))
        normals = np.zeros((self.size, 3))
        for corner in range(3):
            np.add.at(normals, self.faces[:, corner], np.cross(b - a, c - a))
        up = normals[:, 1] / np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
        below = self.neck & (self.rest[:, 1] < self.centre[1])
        shoulder = np.flatnonzero(below & (up > 0.6))
        border = np.flatnonzero(below & (self.rest[:, 1] < self.rest[self.neck, 1].min(initial=0.0) + 0.012))
        stops = np.union1d(shoulder, border)
        clear = _smooth(_distance(lengths, stops) / 0.04, 0.0, 1.0) if len(stops) else 1.0
        return below * _smooth(angle, NECK_FROM, NECK_FULL) * clear

    def _flattened(self) -> np.ndarray:
        """Offsets (V, 3) that smooth the ears away: the surface that the rim of an ear's foot spans (uniform weights,
        so no triangle folds: Tutte 1963)."""
        offsets = np.zeros_like(self.rest)
        laplacian = (sparse.diags(np.asarray(self.graph.sum(1)).ravel()) - self.graph).tocsr()
        for ear in self.feet:
            if ear.any() and (self.graph[ear][:, ~ear]).nnz:
                right = -(laplacian[ear][:, ~ear] @ self.rest[~ear])
                offsets[ear] = splu(laplacian[ear][:, ear].tocsc()).solve(right) - self.rest[ear]
        return offsets

    def tied(self) -> sparse.csr_matrix:
        """A graph Laplacian (V, V) that holds the offsets within each ear together, so that it keeps its shape."""
        links = self.graph.tocoo()
        ears = self.ears[0] | self.ears[1]
        strength = sparse.coo_matrix((1.0 * (ears[links.row] & ears[links.col]), (links.row, links.col)), links.shape)
        return (sparse.diags(np.asarray(strength.sum(1)).ravel()) - strength).tocsr()


def _adjacency(edges: np.ndarray, size: int) -> sparse.csr_matrix:
    both = np.concatenate([edges, edges[:, ::-1]])
    graph = sparse.coo_matrix((np.ones(len(both)), tuple(both.T)), (size, size)).tocsr()
    graph.data[:] = 1.0
    return graph


def _distance(lengths: sparse.csr_matrix, sources: np.ndarray, limit: float = 0.12) -> np.ndarray:
    """(V,) metres along the surface to the nearest source, at most `limit`."""
    if not len(sources):
        return np.full(lengths.shape[0], limit)
    away = dijkstra(lengths, directed=False, indices=sources, min_only=True, limit=limit)
    return np.minimum(away, limit)


def _smooth(x: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
