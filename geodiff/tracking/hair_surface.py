"""Where hair can be on a head, and which way it stands: what the picture does not change."""

from __future__ import annotations

import copy

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import splu

from geodiff.geometry import smoothstep
from geodiff.head.model import HeadModel
from geodiff.types import HeadParams

#: Metres from scalp and ears over which the skin around them goes along; the forehead's skin hardly does.
AROUND, FOREHEAD = 0.03, 0.012
#: Metres around an ear that are smoothed away with it.
EAR_FOOT = 0.013
#: Metres by which an ear's rim stands out from the surface that its foot spans (the skull bulges less), and metres
#: around such a rim that are ear as well: the rest of the region is skull.
EAR_OUT, EAR_WIDE = 0.010, 0.006
#: Metres inside the scalp's front border over which hair rises, so that it does not end in a step like a cap's rim.
FRINGE = 0.03
#: Rounds in which that freedom is smoothed over neighbours.
SMOOTHED = 4
#: Rounds at most in which offsets where triangles turn over are evened out, and what share of them stays each time.
UNFOLDED, TAKEN_BACK = 40, 0.96
#: Degrees from the front, about the vertical through the ears, from which the neck goes along.
NECK_FROM, NECK_FULL = 55.0, 85.0
#: Metres over which neck and shoulders stop going along: before the shoulders, above the mesh's lower border, and at
#: the tips of hair that hangs over the shoulders.
CLEAR, BORDER, TIPS = 0.04, 0.012, 0.04


class HairSurface:
    """The shaped head at rest as hair sees it; arrays over all V vertices.

    rest: (V, 3) metres. centre: (3,) middle of the skull. outward: (V, 3) unit directions, away from the centre above
    it and horizontal below it. free: (V,) 0..1 how freely a vertex moves. unseen: (V,) 0..1 where a frontal picture
    shows no outline, ahead: (V,) 0..1 the part of it that lies in front, behind_neck: (V,) 0..1 what hair that hangs
    down the back covers. area: (V,) metres squared. graph: (V, V) 1 between neighbours; around: (V, V) the mean over
    them. ears: two (V,) masks, left and right, of what stands out; feet: of the whole regions and the skin close around
    them. flattened: (V, 3) offsets that smooth the ears away.
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
        self.around = (sparse.diags(1.0 / np.maximum(np.asarray(self.graph.sum(1)).ravel(), 1.0)) @ self.graph).tocsr()
        self.flattened = self._flattened()
        out = np.linalg.norm(self.flattened, axis=1) > EAR_OUT
        self.ears = [ear & (_distance(lengths, np.flatnonzero(ear & out)) < EAR_WIDE) for ear in around]
        self.area = self._area()
        self._still = inner | regions["lips"] | regions["eyes"]
        self._grown = self._hair(regions, lengths)
        self._neck, self._shoulders = self._below(lengths)
        self._release(self._neck)
        self.ahead = np.clip((self.rest - self.centre)[:, 2] / 0.05, 0, 1)
        self.behind_neck = np.clip((self.centre - self.rest)[:, 1] / 0.05 - 1, 0, 1) * (1 - self.ahead)

    def hanging(self, low: float) -> HairSurface:
        """The same surface with neck and shoulders, sides and back, free to move down to a height `low` (metres, at
        rest), where hair that hangs over them ends."""
        lowered = copy.copy(self)
        clear = smoothstep(self.rest[:, 1] - low, -TIPS, 0.0)
        lowered._release(np.maximum(self._neck, self._shoulders * clear))
        return lowered

    def moving(self) -> np.ndarray:
        """(F,) bool: triangles that can move."""
        return (self.free > 0.25)[self.faces].any(1)

    def _release(self, below: np.ndarray) -> None:
        """Decide who moves. below: (V,) 0..1, of neck and shoulders."""
        free = np.maximum(self._grown, below)
        # Region borders zigzag; ridges would grow from them.
        for _ in range(SMOOTHED):
            free = 0.5 * free + 0.5 * (self.around @ free)
        free[(free < 1e-3) | self._still] = 0.0
        # Transcendental functions of arrays differ in the last bit with where the arrays lie; runs are to be alike.
        self.free = free.round(9)
        depth = (self.rest - self.centre)[:, 2] / 0.05
        self.unseen = np.clip(np.abs(depth), 0, 1) ** 2 * self.free * np.where(depth < 0, 1.0, self.scalp)

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
        whole = np.linalg.norm(_face_normals(self.rest, self.faces), axis=1) / 6
        return np.bincount(self.faces.ravel(), np.repeat(whole, 3), self.size) + 1e-9

    def _hair(self, regions: dict[str, np.ndarray], lengths: sparse.csr_matrix) -> np.ndarray:
        """(V,) 0..1: scalp and ears, falling over the skin around them."""
        angle = self._angle()
        hair = self.scalp | regions["ears"]
        away = _distance(lengths, np.flatnonzero(hair))
        front = smoothstep(60.0 - angle, 0.0, 30.0)
        free = np.where(hair, 1.0, 1 - smoothstep(away / (AROUND + front * (FOREHEAD - AROUND)), 0.0, 1.0))
        # Above the forehead hair rises slowly from the hairline.
        face = np.flatnonzero(regions["face"] & ~hair)
        if len(face):
            risen = smoothstep(_distance(lengths, face) / FRINGE, -0.3, 1.0)
            free = np.where(self.scalp, 1 - front * (1 - risen), free)
        return free

    def _below(self, lengths: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """Two (V,) 0..1: sides and back of the neck down to where it widens into the shoulders, and of both."""
        normals = np.zeros((self.size, 3))
        for corner in range(3):
            np.add.at(normals, self.faces[:, corner], _face_normals(self.rest, self.faces))
        up = normals[:, 1] / np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
        below = self.neck & (self.rest[:, 1] < self.centre[1])
        border = np.flatnonzero(below & (self.rest[:, 1] < self.rest[self.neck, 1].min(initial=0.0) + BORDER))
        stops = np.union1d(np.flatnonzero(below & (up > 0.6)), border)
        sides = below * smoothstep(self._angle(), NECK_FROM, NECK_FULL)
        return (
            sides * (smoothstep(_distance(lengths, stops) / CLEAR, 0.0, 1.0) if len(stops) else 1.0),
            sides * (smoothstep(_distance(lengths, border) / CLEAR, 0.0, 1.0) if len(border) else 1.0),
        )

    def _angle(self) -> np.ndarray:
        """(V,) degrees from the front, about the vertical through the middle of the skull."""
        local = self.rest - self.centre
        return np.degrees(np.arctan2(np.abs(local[:, 0]), local[:, 2]))

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

    def unfolded(self, amount: np.ndarray, base: np.ndarray) -> np.ndarray:
        """Amounts (V,) along `outward`, evened out where a triangle outside the ears would turn over.

        base: (V, 3) offsets that are there before.
        """
        own = ~(self.feet[0] | self.feet[1])[self.faces].any(1) & (self.free > 0)[self.faces].any(1)
        faces, still = self.faces[own], self.rest + base
        upright = _face_normals(still, faces)
        for _ in range(UNFOLDED):
            over = (_face_normals(still + amount[:, None] * self.outward, faces) * upright).sum(1) <= 0
            if not over.any():
                break
            bent = np.zeros(self.size, bool)
            bent[faces[over]] = True
            bent = ((self.graph @ bent.astype(float)) > 0) & (self.free > 0)
            amount = np.where(bent, TAKEN_BACK * (0.3 * amount + 0.7 * (self.around @ amount)), amount)
        return amount

    def smoothed_away(self, covered: np.ndarray) -> np.ndarray:
        """Offsets (V, 3) that smooth the covered ears away; covered: (2,) 0..1."""
        share = np.max([one * foot for one, foot in zip(covered, self.feet, strict=True)], axis=0)
        return share[:, None] * self.flattened

    def tied(self, covered: np.ndarray) -> sparse.csr_matrix:
        """A graph Laplacian (V, V) that holds the offsets within each ear together that is not `covered` (2,), so that
        it keeps its shape."""
        links = self.graph.tocoo()
        ears = np.any([ear & (one < 0.5) for one, ear in zip(covered, self.ears, strict=True)], axis=0)
        strength = sparse.coo_matrix((1.0 * (ears[links.row] & ears[links.col]), (links.row, links.col)), links.shape)
        return (sparse.diags(np.asarray(strength.sum(1)).ravel()) - strength).tocsr()


def _face_normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3) normals of triangles, as long as twice their areas."""
    a, b, c = (points[faces[:, i]] for i in range(3))
    return np.cross(b - a, c - a)


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
