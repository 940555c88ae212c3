"""Landmarks of one head on another, found by fitting the surface of the one to that of the other.

For heads that come without an embedding of MediaPipe's landmarks (FLAME's files name at most 105 of the 478): the
bundled head's shape modes and a similarity are fitted to the other's template by iterative closest points, with
landmarks that the other does name as anchors; then each missing landmark is put on the nearest triangle that faces the
same way. Deterministic, two seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from geodiff.geometry import vertex_normals
from geodiff.head.model import HeadModel, LandmarkEmbedding

#: MediaPipe's landmarks from here on lie on the irises.
IRIS = 468
EYE_JOINTS = (3, 4)
#: Lips and lids end this far from the fitted surface, metres.
DETAIL = 0.005


@dataclass(frozen=True)
class RegistrationConfig:
    """rounds: of closest points. noise: standard deviation of a point's distance to the other surface, metres, once the
    shapes have come near. evidence: how many independent points the surface counts for. anchor: weight of an anchor
    against a point of the surface. reach: furthest pair at the first and at the last round, metres. enough:
    share of the source's points that must have a partner in the end.
    """

    rounds: int = 20
    noise: float = 1.5e-3
    evidence: float = 400.0
    anchor: float = 3.0
    reach: tuple[float, float] = (0.030, 0.008)
    enough: float = 0.7


@dataclass(frozen=True, eq=False)
class Registration:
    """A head onto which another one has been fitted.

    landmarks: MediaPipe's, on the head. vertices, normals: (V, 3) float64 of the fitted source.
    """

    landmarks: LandmarkEmbedding
    vertices: np.ndarray
    normals: np.ndarray


def register(
    head: HeadModel,
    source: HeadModel,
    anchors: LandmarkEmbedding | None = None,
    config: RegistrationConfig | None = None,
) -> Registration | None:
    """`source` fitted to `head`, with MediaPipe's landmarks of the one on the other; those that `anchors` names stay
    where it puts them. None where the surfaces do not come near.

    Both heads must have their eye joints where their eyes are, and look along +z. Raises ValueError where the source
    has no landmarks.
    """
    if source.landmarks is None:
        raise ValueError(f"the head model {source.name!r} has no landmark embedding")
    config = config or RegistrationConfig()
    fit = _Fit(head, source)
    pinned = _pinned(head, source, anchors)
    for step in range(config.rounds):
        share = step / max(config.rounds - 1, 1)
        reach = config.reach[0] * math.pow(config.reach[1] / config.reach[0], share)
        # Pose first, then the modes, which would otherwise take the place of a turn.
        fit.step(reach, config, pinned, modes=share > 0.2)
    if fit.paired < config.enough:
        return None
    vertices, normals = fit.vertices(), fit.normals()
    return Registration(_landmarks(head, source, anchors, vertices, normals), vertices, normals)


def _landmarks(
    head: HeadModel, source: HeadModel, anchors: LandmarkEmbedding | None, vertices: np.ndarray, normals: np.ndarray
) -> LandmarkEmbedding:
    assert source.landmarks is not None
    corners = source.faces[source.landmarks.faces].numpy()
    inner = source.landmarks.barycentrics.double().numpy()
    points = np.einsum("lk,lkc->lc", inner, vertices[corners])
    directions = np.einsum("lk,lkc->lc", inner, normals[corners])
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-9)
    index = source.landmarks.indices.numpy()
    faces, weights = _put_back(head, (points, directions), index >= IRIS)
    if anchors is not None:
        row = {int(mark): i for i, mark in enumerate(anchors.indices)}
        for i, mark in enumerate(index.tolist()):
            if mark in row:
                faces[i], weights[i] = int(anchors.faces[row[mark]]), anchors.barycentrics[row[mark]].numpy()
    return LandmarkEmbedding(
        source.landmarks.indices.clone(), torch.as_tensor(faces), torch.as_tensor(weights, dtype=torch.float32)
    )


def transfer_regions(head: HeadModel, source: HeadModel, registration: Registration) -> dict[str, np.ndarray]:
    """Region masks (V,) of `head`'s skin: those of the fitted source's nearest vertex that faces the same way."""
    inner = source.regions["eyeballs"] | source.regions["teeth"] | source.regions["mouth_interior"]
    skin = np.flatnonzero(~inner.numpy())
    # A centimetre apart counts as much as facing away by sixty degrees.
    own = np.concatenate([registration.vertices, 0.01 * registration.normals], 1)[skin]
    points, normals = head.template.double().numpy(), vertex_normals(head.template, head.faces).double().numpy()
    nearest = skin[cKDTree(own).query(np.concatenate([points, 0.01 * normals], 1))[1]]
    inner = head.regions["eyeballs"] | head.regions["teeth"] | head.regions["mouth_interior"]
    # What lies deeper than the source's lips and lids reach belongs to neither.
    near = np.linalg.norm(points - registration.vertices[nearest], axis=1) < DETAIL
    found = {}
    for name in ("face", "lips", "eyes", "scalp", "ears", "neck"):
        found[name] = source.regions[name].numpy()[nearest] & ~inner.numpy()
        if name in ("lips", "eyes"):
            found[name] &= near
    return found


def _pinned(head: HeadModel, source: HeadModel, anchors: LandmarkEmbedding | None) -> tuple[np.ndarray, ...]:
    """Source corners (A, 3), their weights (A, 3) and targets (A, 3) of the landmarks that both heads name."""
    assert source.landmarks is not None
    if anchors is None:
        return np.zeros((0, 3), np.int64), np.zeros((0, 3)), np.zeros((0, 3))
    common = np.intersect1d(source.landmarks.indices.numpy(), anchors.indices.numpy())
    mine = [int(np.flatnonzero(source.landmarks.indices.numpy() == mark)[0]) for mark in common]
    theirs = [int(np.flatnonzero(anchors.indices.numpy() == mark)[0]) for mark in common]
    targets = anchors.points(head.template, head.faces).double().numpy()[theirs]
    return (
        source.faces[source.landmarks.faces[mine]].numpy(),
        source.landmarks.barycentrics[mine].double().numpy(),
        targets,
    )


class _Fit:
    """The source's modes and a similarity, moved towards the head step by step."""

    def __init__(self, head: HeadModel, source: HeadModel) -> None:
        self.template = source.template.double().numpy()
        self.basis = source.shape_basis.double().numpy()
        self.faces = source.faces
        outer = source.regions["face"] | source.regions["lips"] | source.regions["eyes"] | source.regions["ears"]
        self.used = np.flatnonzero((outer & ~source.regions["eyeballs"]).numpy())
        self.target = head.template.double().numpy()
        inner = head.regions["eyeballs"] | head.regions["teeth"] | head.regions["mouth_interior"]
        self.skin = np.flatnonzero(~inner.numpy())
        self.target_normals = vertex_normals(head.template, head.faces).double().numpy()
        self.tree = cKDTree(self.target[self.skin])
        eyes = (head.joint_regressor @ head.template)[list(EYE_JOINTS)].double().numpy()
        own = (source.joint_regressor @ source.template)[list(EYE_JOINTS)].double().numpy()
        apart = [float(np.linalg.norm(pair[0] - pair[1])) for pair in (eyes, own)]
        self.scale = apart[0] / max(apart[1], 1e-6)
        self.rotation = np.eye(3)
        self.shift = eyes.mean(0) - self.scale * own.mean(0)
        self.weights = np.zeros(len(self.basis))
        self.paired = 0.0

    def shaped(self) -> np.ndarray:
        return self.template + np.einsum("s,svc->vc", self.weights, self.basis)

    def vertices(self) -> np.ndarray:
        return self.scale * self.shaped() @ self.rotation.T + self.shift

    def normals(self) -> np.ndarray:
        return vertex_normals(torch.as_tensor(self.vertices()), self.faces).numpy()

    def step(self, reach: float, config: RegistrationConfig, pinned: tuple[np.ndarray, ...], modes: bool) -> None:
        """One round: pairs of near points that face the same way, then least squares (point to plane)."""
        vertices, normals = self.vertices(), self.normals()
        points, facing = vertices[self.used], normals[self.used]
        distance, nearest = self.tree.query(points, k=4)
        nearest = self.skin[nearest]
        agreement = np.einsum("nc,nkc->nk", facing, self.target_normals[nearest])
        best = (distance + 0.01 * (1 - agreement)).argmin(1)[:, None]
        partner = np.take_along_axis(nearest, best, 1)[:, 0]
        gap = np.take_along_axis(distance, best, 1)[:, 0]
        good = (gap < reach) & (np.take_along_axis(agreement, best, 1)[:, 0] > 0.5)
        self.paired = float(good.mean())
        rows = self.used[good]
        plane = self.target_normals[partner[good]]
        residual = np.einsum("nc,nc->n", plane, self.target[partner[good]] - vertices[rows])
        moves = self._moves(vertices, rows, modes)
        system, wanted = [np.einsum("mnc,nc->nm", moves, plane)], [residual]
        strength = [np.full(len(rows), config.evidence / max(len(rows), 1))]
        corners, weights, targets = pinned
        if len(targets):
            at = np.einsum("ak,akc->ac", weights, vertices[corners])
            moved = np.einsum("ak,makc->amc", weights, self._moves(vertices, corners, modes))
            system.append(moved.transpose(0, 2, 1).reshape(-1, moved.shape[1]))
            wanted.append((targets - at).reshape(-1))
            strength.append(np.full(3 * len(targets), config.anchor))
        matrix, right = np.concatenate(system), np.concatenate(wanted)
        # Distances that are large because the fit is still far count for less.
        noise = math.hypot(config.noise, 0.3 * reach if reach > 1.5 * config.reach[1] else 0.0)
        scaled = matrix * (np.concatenate(strength) / noise**2)[:, None]
        count = moves.shape[0] - 7
        prior = np.r_[np.full(7, 1e-6), np.ones(count)]
        current = np.r_[np.zeros(7), self.weights[:count]]
        normal = matrix.T @ scaled + np.diag(prior)
        self._apply(np.linalg.solve(normal, scaled.T @ right - prior * current))

    def _moves(self, vertices: np.ndarray, rows: np.ndarray, modes: bool) -> np.ndarray:
        """(7 + S, ..., 3): how vertices move with a turn, a shift, the logarithm of the scale and the modes."""
        points = vertices[rows]
        turns = [np.cross(axis, points - self.shift) for axis in np.eye(3)]
        shifts = [np.broadcast_to(axis, points.shape) for axis in np.eye(3)]
        moves = np.stack([*turns, *shifts, points - self.shift])
        if not modes:
            return moves
        return np.concatenate([moves, self.scale * self.basis[:, rows] @ self.rotation.T])

    def _apply(self, change: np.ndarray) -> None:
        self.rotation = Rotation.from_rotvec(change[:3]).as_matrix() @ self.rotation
        self.shift = self.shift + change[3:6]
        self.scale *= math.exp(min(max(float(change[6]), -0.1), 0.1))
        self.weights[: len(change) - 7] += change[7:]


def _put_back(
    head: HeadModel, landmarks: tuple[np.ndarray, np.ndarray], iris: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (L,) and barycentrics (L, 3) of the head's nearest points to landmarks (positions and normals (L, 3));
    irises go on the eyeballs and the rest on the skin."""
    vertices, triangles = head.template.double().numpy(), head.faces.numpy()
    corners = vertices[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    balls = head.regions["eyeballs"][head.faces].all(-1).numpy()
    inside = (head.regions["teeth"] | head.regions["mouth_interior"])[head.faces].any(-1).numpy()
    faces, weights = np.zeros(len(iris), np.int64), np.zeros((len(iris), 3))
    for group, allowed in ((iris, balls), (~iris, ~balls & ~inside)):
        rows = np.flatnonzero(allowed)
        if not len(rows) or not group.any():
            continue
        points, facing = landmarks[0][group], landmarks[1][group]
        near = rows[cKDTree(corners[rows].mean(1)).query(points, k=min(24, len(rows)))[1].reshape(len(points), -1)]
        inner = closest_barycentrics(corners[near], points[:, None])
        gap = np.linalg.norm(np.einsum("lfk,lfkc->lfc", inner, corners[near]) - points[:, None], axis=-1)
        # A lip's inner side lies near its outer side: what faces elsewhere is further away than it seems.
        gap = gap + 0.006 * (1 - np.einsum("lfc,lc->lf", normals[near], facing))
        best = gap.argmin(1)
        faces[group] = near[np.arange(len(best)), best]
        weights[group] = inner[np.arange(len(best)), best]
    return faces, weights


def closest_barycentrics(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(..., 3) barycentrics of the points of triangles (..., 3, 3) that are closest to points (..., 3)."""
    a, b, c = (corners[..., k, :] for k in range(3))
    ab, ac, ap = b - a, c - a, points - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    area = np.maximum(d00 * d11 - d01 * d01, 1e-24)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    inner = np.stack([1 - v - w, v, w], -1)
    best, answer = np.full(v.shape, np.inf), inner
    for i, j in ((0, 1), (1, 2), (2, 0)):
        start, side = corners[..., i, :], corners[..., j, :] - corners[..., i, :]
        t = np.clip(((points - start) * side).sum(-1) / np.maximum((side * side).sum(-1), 1e-24), 0, 1)
        gap = np.linalg.norm(points - start - t[..., None] * side, axis=-1)
        edge = np.zeros_like(inner)
        edge[..., i], edge[..., j] = 1 - t, t
        answer = np.where(((inner < 0).any(-1) & (gap < best))[..., None], edge, answer)
        best = np.minimum(best, gap)
    return answer
