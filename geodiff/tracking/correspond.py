"""One head model's shape fitted to another's surface, and which point of the one is which point of the other.

The target's template and shape modes are fitted to the source's neutral surface: nearest points along the source's
normals (iterative closest points), the landmarks that both heads embed as anchors against sliding, a prior of one
standard deviation on every mode, and bounds. The rigid motion between the two heads' canonical frames is found along.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import RBFInterpolator
from scipy.spatial.transform import Rotation

from geodiff.errors import HeadModelError
from geodiff.geometry import orbit_camera
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.tracking.surfaces import Nearest, Surface, vertex_normals
from geodiff.types import HeadParams

#: How much a vertex of a region counts in the fit of the shape; the last region that holds it decides. The scalp's and
#: the neck's surfaces are where models differ most and where faces differ least.
SHAPE_WEIGHTS = {"scalp": 0.3, "neck": 0.03, "face": 1.0, "ears": 0.6, "eyes": 1.0, "lips": 1.0}
#: Parts inside the head, which have no counterpart on every head.
INNER = ("eyeballs", "teeth", "mouth_interior")
#: Side in pixels and distance in head sizes of the views that tell the outer surface.
VIEW_SIZE, VIEW_DISTANCE = 400, 8.0
#: MediaPipe's landmarks from here on lie on the irises.
IRIS = 468


@dataclass(frozen=True)
class ShapeConfig:
    """points: how many of the target's vertices take part. rounds: of closest points. bound: coefficients stay within
    so many standard deviations. noise: standard deviation of a point's distance from the surface, metres; evidence:
    how many independent points the surface counts for against the prior. slide: weight of distances along the surface
    against those across it. anchors: weight of the landmarks against the surface, at the first and at the last round.
    reach: pairs further apart than this are none, metres.
    """

    points: int = 4000
    rounds: int = 12
    bound: float = 3.0
    noise: float = 1e-3
    evidence: float = 2000.0
    slide: float = 0.1
    anchors: tuple[float, float] = (1.0, 0.15)
    reach: float = 0.015


@dataclass(frozen=True)
class Match:
    """One identity on two heads.

    shape: (S,) of the target. rotation (3, 3), shift (3,) metres: source's canonical frame to the target's. vertices:
    (K,) of the target that have a counterpart, faces (K,) and barycentrics (K, 3) where it lies on the source, weights:
    (K,), of sum 1, by area and trust.
    """

    shape: np.ndarray
    rotation: np.ndarray
    shift: np.ndarray
    vertices: np.ndarray
    faces: np.ndarray
    barycentrics: np.ndarray
    weights: np.ndarray

    def to_target(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the source's canonical frame in the target's."""
        return points @ self.rotation.T + self.shift

    def on_source(self, values: np.ndarray, source: HeadModel) -> np.ndarray:
        """(..., K, C) values (..., V, C) of the source's vertices at the counterparts."""
        corners = source.faces.numpy()[self.faces]
        parts = [values[..., corners[:, k], :] * self.barycentrics[:, k, None] for k in range(3)]
        return parts[0] + parts[1] + parts[2]


@lru_cache(maxsize=8)
def outer_triangles(head: HeadModel) -> np.ndarray:
    """(F',) numbers of the triangles of the outer surface: those that are seen, with their neighbours, from somewhere
    around the mean head, and belong to none of the inner parts.

    Not every source names its inner parts: FLAME's mouth and eye sockets are skin to it.
    """
    inner = np.zeros(head.num_vertices, bool)
    for name in INNER:
        inner |= head.regions[name].numpy()
    faces = head.faces.numpy()
    corners = head.template[head.faces]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    middle = (head.template.amax(0) + head.template.amin(0)) / 2
    size = float((head.template.amax(0) - head.template.amin(0)).max())
    seen = np.zeros(head.num_vertices, bool)
    for elevation in (-20.0, 20.0, 70.0):
        for yaw in range(0, 360, 60):
            focal = 0.9 * VIEW_SIZE * VIEW_DISTANCE
            camera = orbit_camera(
                np.radians(yaw), np.radians(elevation), VIEW_DISTANCE * size, middle, focal, VIEW_SIZE, VIEW_SIZE
            )
            found = np.unique(mesh.rasterize(head.template, head.faces, camera).face)
            found = found[found >= 0]
            towards = ((camera.center - corners[found, 0]) * normals[found]).sum(-1).numpy() > 0
            seen[faces[found[towards]]] = True
    return np.flatnonzero(seen[faces].any(1) & ~inner[faces].any(1))


def skin_faces(head: HeadModel) -> np.ndarray:
    """(F', 3) triangles of the outer surface."""
    return head.faces.numpy()[outer_triangles(head)]


def region_weights(head: HeadModel, weights: dict[str, float]) -> np.ndarray:
    """(V,) weight of each vertex of the outer surface by its regions, zero elsewhere."""
    values = np.zeros(head.num_vertices)
    for name, weight in weights.items():
        values[head.regions[name].numpy()] = weight
    outer = np.zeros(head.num_vertices, bool)
    outer[skin_faces(head)] = True
    return np.where(outer, values, 0.0)


def vertex_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V,) a third of the area of the triangles around each vertex."""
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 6
    return np.bincount(faces.ravel(), np.repeat(area, 3), len(vertices))


def match_heads(source: HeadModel, params: HeadParams, target: HeadModel, config: ShapeConfig | None = None) -> Match:
    """Fits the target to the source's neutral, offset-free surface of the identity `params.shape`.

    Raises HeadModelError where the two surfaces do not come near each other.
    """
    return _Matcher(source, params, target, config or ShapeConfig()).run()


class _Matcher:
    """The state of one fit: which target vertices take part, and the source's surface."""

    def __init__(self, source: HeadModel, params: HeadParams, target: HeadModel, config: ShapeConfig) -> None:
        self.source, self.target, self.config = source, target, config
        neutral = source.shaped(params.frame(0), expression=False, offsets=False)[0]
        self.neutral = neutral.double().numpy()
        self.surface = Surface(self.neutral, skin_faces(source))
        self.template = target.template.double().numpy()
        self.faces = skin_faces(target)
        self.basis = target.shape_basis.double().numpy()
        self.kept, self.weights = self._sample()
        #: (K, 3, S) the modes at the vertices that take part.
        self.moves = np.ascontiguousarray(self.basis[:, self.kept].transpose(1, 2, 0))
        self.marks, self.mark_basis, self.mark_goals = self._landmarks()

    def _sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (K,) that take part and their weights (K,), of sum 1."""
        head = self.target
        weights = region_weights(head, SHAPE_WEIGHTS) * vertex_areas(self.template, head.faces.numpy())
        kept = np.flatnonzero(weights)
        if len(kept) > self.config.points:
            # Every n-th along the order of the mesh is spread well enough, and the same every time.
            kept = kept[np.linspace(0, len(kept) - 1, self.config.points).astype(int)]
        return kept, weights[kept] / weights[kept].sum()

    def _landmarks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Landmarks that both heads embed: target's (L, 3), its modes there (S, L, 3), source's (L, 3)."""
        ours, theirs = self.target.landmarks, self.source.landmarks
        if ours is None or theirs is None:
            return np.zeros((0, 3)), np.zeros((len(self.basis), 0, 3)), np.zeros((0, 3))
        common, here, there = np.intersect1d(ours.indices.numpy(), theirs.indices.numpy(), return_indices=True)
        here, there = here[common < IRIS], there[common < IRIS]
        corners = self.target.faces[ours.faces].numpy()[here]
        weight = ours.barycentrics.double().numpy()[here]
        goals = (self.neutral[self.source.faces[theirs.faces].numpy()[there]]
                 * theirs.barycentrics.double().numpy()[there][:, :, None]).sum(1)  # fmt: skip
        basis = (self.basis[:, corners] * weight[:, :, None]).sum(2)
        return (self.template[corners] * weight[:, :, None]).sum(1), basis, goals

    def run(self) -> Match:
        rotation, shift = self._first_guess()
        shape = np.zeros(len(self.basis))
        first, last = self.config.anchors
        for number in range(self.config.rounds):
            share = number / max(1, self.config.rounds - 1)
            anchors = first * (last / first) ** share
            shape, rotation, shift = self._round(shape, rotation, shift, anchors)
        return self._match(shape, rotation, shift)

    def _first_guess(self) -> tuple[np.ndarray, np.ndarray]:
        """Rotation (3, 3) and shift (3,) from landmarks, or else from eyes, ears and the regions' middles."""
        if len(self.marks) >= 10:
            return rigid_motion(self.mark_goals, self.marks)
        return rigid_motion(_anchors(self.source, self.neutral), _anchors(self.target, self.template))

    def _round(
        self, shape: np.ndarray, rotation: np.ndarray, shift: np.ndarray, anchors: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs the surfaces and solves for shape and a small rigid motion of the source in the target's frame."""
        c = self.config
        whole = self.template + np.tensordot(shape, self.basis, 1)
        points = whole[self.kept]
        found, normals = self._pair(whole, rotation, shift)
        trust = np.where(found.distances < c.reach, self.weights, 0.0)
        if trust.sum() < 0.2:
            raise HeadModelError(
                f"conversion needs heads whose surfaces meet, and {100 * trust.sum():.0f}% of {self.target.name!r} "
                f"lies near {self.source.name!r}: check the units and axes of both models"
            )
        goals = found.points @ rotation.T + shift
        # Distances count fully across the surface and a little along it.
        metric = trust[:, None, None] * (normals[:, :, None] * normals[:, None] + c.slide * np.eye(3))
        moves = np.concatenate([self.moves, -_rigid_basis(goals).transpose(1, 2, 0)], 2)
        size = moves.shape[2]
        weighed = (metric @ moves).reshape(-1, size)
        hessian = weighed.T @ moves.reshape(-1, size)
        gradient = weighed.T @ (goals - points).ravel()
        if len(self.marks):
            goals = self.mark_goals @ rotation.T + shift
            current = self.marks + np.tensordot(shape, self.mark_basis, 1)
            moves = np.concatenate([self.mark_basis, -_rigid_basis(goals)]).reshape(size, -1)
            hessian += anchors / len(self.marks) * moves @ moves.T
            gradient += anchors / len(self.marks) * moves @ (goals - current).ravel()
        step = self._solve(hessian, gradient, shape)
        turn = Rotation.from_rotvec(step[-6:-3]).as_matrix()
        return shape + step[:-6], turn @ rotation, turn @ shift + step[-3:]

    def _solve(self, hessian: np.ndarray, gradient: np.ndarray, shape: np.ndarray) -> np.ndarray:
        """(S + 6,) the step with the prior added, within bounds: modes that would leave them are held there and the
        others solved again."""
        c, modes = self.config, len(shape)
        scale = c.evidence / c.noise**2
        hessian = scale * hessian + np.diag(np.r_[np.ones(modes), np.full(6, 1e-6 * scale)])
        gradient = scale * gradient - np.r_[shape, np.zeros(6)]
        step, held = np.zeros(modes + 6), np.zeros(modes + 6, bool)
        for _ in range(8):
            free = ~held
            right = gradient[free] - hessian[np.ix_(free, held)] @ step[held]
            step[free] = np.linalg.solve(hessian[np.ix_(free, free)], right)
            beyond = np.zeros_like(held)
            beyond[:modes] = np.abs(shape + step[:modes]) > c.bound + 1e-9
            step[:modes] = np.clip(shape + step[:modes], -c.bound, c.bound) - shape
            if not beyond.any():
                break
            held |= beyond
        return step

    def _pair(
        self, whole: np.ndarray, rotation: np.ndarray, shift: np.ndarray, quick: bool = True
    ) -> tuple[Nearest, np.ndarray]:
        """Nearest points of the source, in its own frame, and their normals in the target's."""
        normals = vertex_normals(whole, self.faces)[self.kept]
        found = self.surface.nearest((whole[self.kept] - shift) @ rotation, normals @ rotation, quick=quick)
        return found, self.surface.normals[found.faces] @ rotation.T

    def _match(self, shape: np.ndarray, rotation: np.ndarray, shift: np.ndarray) -> Match:
        """The final pairs: what is left of the landmarks' distances is carried over the surface first, so that lids and
        lips meet their counterparts."""
        fitted = self.template + np.tensordot(shape, self.basis, 1)
        whole = fitted.copy()
        if len(self.marks) >= 10:
            current = self.marks + np.tensordot(shape, self.mark_basis, 1)
            gap = self.mark_goals @ rotation.T + shift - current
            spread = RBFInterpolator(
                current, gap, neighbors=40, kernel="linear", smoothing=1e-3, degree=0
            )(fitted[self.kept])  # fmt: skip
            near = np.linalg.norm(fitted[self.kept][:, None] - current[None, ::8], axis=-1).min(1)
            whole[self.kept] += spread * np.exp(-((near / 0.03) ** 2))[:, None]
        found, _ = self._pair(whole, rotation, shift, quick=False)
        paired = found.distances < 0.5 * self.config.reach
        trust = self.weights * np.where(paired, np.exp(-((np.where(paired, found.distances, 0.0) / 0.004) ** 2)), 0.0)
        kept = np.flatnonzero(trust)
        triangles = outer_triangles(self.source)[found.faces[kept]]
        return Match(
            shape=shape, rotation=rotation, shift=shift, vertices=self.kept[kept], faces=triangles,
            barycentrics=found.barycentrics[kept], weights=trust[kept] / trust[kept].sum(),
        )  # fmt: skip


def rigid_motion(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) and shift (3,) that take points (N, 3) nearest to others, in least squares (Kabsch 1976)."""
    u, _, vt = np.linalg.svd((before - before.mean(0)).T @ (after - after.mean(0)))
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))])
    rotation = vt.T @ sign @ u.T
    return rotation, after.mean(0) - rotation @ before.mean(0)


def _anchors(head: HeadModel, vertices: np.ndarray) -> np.ndarray:
    """(7, 3) places that every head has: both eyes, the lips, both ears, the face and the top of the head."""
    joints = head.joint_regressor.double().numpy() @ vertices

    def middle(name: str) -> np.ndarray:
        chosen = head.regions[name].numpy()
        return vertices[chosen].mean(0) if chosen.any() else vertices.mean(0)

    across = (joints[3] - joints[4]) / max(float(np.linalg.norm(joints[3] - joints[4])), 1e-9)
    ears = head.regions["ears"].numpy()
    if not ears.any():
        return np.stack([joints[3], joints[4], middle("lips"), middle("face"), middle("scalp")])
    side = (vertices - joints[3:].mean(0)) @ across > 0
    return np.stack(
        [joints[3], joints[4], middle("lips"), vertices[ears & side].mean(0), vertices[ears & ~side].mean(0),
         middle("face"), middle("scalp")]
    )  # fmt: skip


def _rigid_basis(points: np.ndarray) -> np.ndarray:
    """(6, K, 3) infinitesimal rotations about the origin, then translations, of points (K, 3)."""
    turns = np.stack([np.cross(axis, points) for axis in np.eye(3)])
    return np.concatenate([turns, np.broadcast_to(np.eye(3)[:, None], turns.shape)])
