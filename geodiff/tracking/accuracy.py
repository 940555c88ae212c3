"""How far a tracked head is from the true one, when the truth is known.

Both heads may be of different models. What their rest poses mean differs by a fixed rotation and shift, which is
estimated once from the two templates (`TemplateOffset`), never from tracked results.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from geodiff.geometry import project, vertex_normals
from geodiff.head.model import JOINTS, HeadModel
from geodiff.tracking.groups import INNER_FACE
from geodiff.types import Camera, HeadParams

#: Landmark numbers in the middle of the upper and the lower lid: right eye, left eye; and of the inner lips.
LIDS = ((159, 145), (386, 374))
LIPS = (13, 14)


@dataclass(frozen=True)
class PosedHead:
    """A head with parameters (T = 1) in a camera."""

    head: HeadModel
    params: HeadParams
    camera: Camera

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3) from the head's rest pose to the camera."""
        root = self.head.joint_transforms(self.params)[0, 1]
        return (self.camera.viewmat[:3, :3] @ root[:3, :3]).double().numpy()

    @property
    def eye_centre(self) -> np.ndarray:
        """(3,) middle of the two eyeballs' centres in the camera, metres."""
        eyes = [JOINTS.index(name) for name in ("left_eye", "right_eye")]
        rest = self.head.joints(self.params)[eyes].mean(0)
        root = self.head.joint_transforms(self.params)[0, 1]
        world = root[:3, :3] @ rest + root[:3, 3]
        return (self.camera.viewmat[:3, :3] @ world + self.camera.viewmat[:3, 3]).double().numpy()

    def landmarks(self, local: bool = False) -> np.ndarray:
        """(478, 3) landmark points in the world, or with the head at rest; nan where the head has none."""
        assert self.head.landmarks is not None
        params = self._at_rest() if local else self.params
        points = np.full((478, 3), np.nan)
        points[self.head.landmarks.indices.numpy()] = self.head.landmark_points(params)[0].numpy()
        return points

    def movement(self) -> np.ndarray:
        """(468, 3) metres by which expression and jaw move the skin's landmarks, with the head at rest."""
        rest = self._at_rest().replace(eyes_pose=torch.zeros_like(self.params.eyes_pose))
        calm = rest.replace(expr=torch.zeros_like(rest.expr), jaw_pose=torch.zeros_like(rest.jaw_pose))
        moved, still = (PosedHead(self.head, params, self.camera).landmarks(True)[:468] for params in (rest, calm))
        return moved - still

    def gaze(self) -> np.ndarray:
        """(2, 3) unit vectors in which the left and the right eyeball look, with the head at rest.

        Taken from the eyeballs' vertices, since some heads turn their eyes by expressions as well as by joints.
        """
        head = self.head
        vertices = head.vertices(self._at_rest(), offsets=False)[0].double().numpy()
        rest = head.shaped(self.params, expression=False, offsets=False)[0].double().numpy()
        balls = head.regions["eyeballs"].numpy()
        rays = []
        for side in (1, -1):
            ball = balls & (side * rest[:, 0] > 0)
            rays.append(similarity(rest[ball], vertices[ball], scaled=False)[0] @ np.array([0.0, 0.0, 1.0]))
        return np.stack(rays)

    def _at_rest(self) -> HeadParams:
        zero = torch.zeros_like(self.params.rotation)
        return self.params.replace(rotation=zero, translation=zero, neck_pose=zero)


@dataclass(frozen=True)
class TemplateOffset:
    """rotation: (3, 3) and shift (3,) that take the tracking head's rest pose to the true head's."""

    rotation: np.ndarray
    shift: np.ndarray

    @staticmethod
    def between(head: HeadModel, truth: HeadModel) -> TemplateOffset:
        """From the inner face's landmarks of the two mean faces (Kabsch)."""
        rows = list(INNER_FACE)
        camera = Camera(torch.eye(4), torch.eye(3), 1, 1)
        own, other = (PosedHead(h, h.zeros(), camera).landmarks()[rows] for h in (head, truth))
        both = np.isfinite(own).all(1) & np.isfinite(other).all(1)
        rotation, shift, _ = similarity(own[both], other[both], scaled=False)
        return TemplateOffset(rotation, shift)


def similarity(source: np.ndarray, target: np.ndarray, scaled: bool = True) -> tuple[np.ndarray, np.ndarray, float]:
    """Rotation (3, 3), shift (3,) and scale with target ~ scale * rotation @ source + shift (Umeyama 1991)."""
    middle, goal = source.mean(0), target.mean(0)
    u, s, vt = np.linalg.svd((target - goal).T @ (source - middle))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = float((s * sign).sum() / ((source - middle) ** 2).sum()) if scaled else 1.0
    return rotation, goal - scale * rotation @ middle, scale


def measure(truth: PosedHead, found: PosedHead, offset: TemplateOffset) -> dict[str, float]:
    """Errors of a tracked head.

    pose: degrees between the rotations, the templates' offset taken off (raw_pose: left in; pitch, yaw, roll: by how
    much the tracked head is turned too far about the camera's axes, right, down and ahead). position: mm between the
    eyes' midpoints; direction: degrees between the rays to them; distance, focal: their errors in percent. landmarks:
    distance of the two heads' inner-face landmarks in the image, percent of the outer eye corners' distance on the
    true face seen from the front. mesh: mean mm from the true face's surface to the fitted one after similarity
    alignment. expression: mean mm by which the landmarks' movements by the expression differ; moved: by which the true
    ones move. lids, lips: mm by which their gaps differ (the eyes' mean); gaze: degrees, the eyes' mean.
    """
    turn = found.rotation @ offset.rotation.T
    here, there = found.eye_centre, truth.eye_centre
    far, near = np.linalg.norm(there), np.linalg.norm(here)
    true_marks, marks = truth.landmarks(True), found.landmarks(True)
    scale = np.linalg.norm(true_marks[33] - true_marks[263]) * float(truth.camera.K[0, 0]) / far
    rows = list(INNER_FACE)
    seen = [project(torch.from_numpy(h.landmarks()[rows]).float(), h.camera)[0].numpy() for h in (truth, found)]
    return {
        "pose": _angle(truth.rotation, turn),
        "raw_pose": _angle(truth.rotation, found.rotation),
        **dict(zip(("pitch", "yaw", "roll"), _turned(truth.rotation, turn), strict=True)),
        "position": 1000 * float(np.linalg.norm(here - there)),
        "direction": float(np.degrees(np.arccos(np.clip(here @ there / far / near, -1, 1)))),
        "distance": 100 * abs(float(near / far) - 1),
        "distance_signed": 100 * (float(near / far) - 1),
        "focal": 100 * abs(float(found.camera.K[0, 0] / truth.camera.K[0, 0]) - 1),
        "focal_signed": 100 * (float(found.camera.K[0, 0] / truth.camera.K[0, 0]) - 1),
        "landmarks": 100 * float(np.nanmean(np.linalg.norm(seen[0] - seen[1], axis=1))) / float(scale),
        "mesh": 1000 * face_distance(truth, found),
        **_expression_error(truth, found, offset),
        "lids": float(np.mean([abs(_gap(true_marks, pair) - _gap(marks, pair)) for pair in LIDS])),
        "lids_signed": float(np.mean([_gap(marks, pair) - _gap(true_marks, pair) for pair in LIDS])),
        "lips": abs(_gap(true_marks, LIPS) - _gap(marks, LIPS)),
        "lips_signed": _gap(marks, LIPS) - _gap(true_marks, LIPS),
        "gaze": _gaze_error(truth, found, offset),
    }


def face_distance(truth: PosedHead, found: PosedHead, rounds: int = 6) -> float:
    """Mean metres from the true face region's vertices to the fitted head's surface, aligned by a similarity that
    starts at the landmarks and follows the nearest points."""
    face = face_skin(truth.head)
    target = truth.head.vertices(truth.params, offsets=False)[0].double().numpy()[face]
    own = found.head
    triangles = own.faces[~inner_faces(own)].numpy()
    vertices = own.vertices(found.params, offsets=False)[0].double().numpy()
    rows = list(INNER_FACE)
    a, b = found.landmarks()[rows], truth.landmarks()[rows]
    both = np.isfinite(a).all(1) & np.isfinite(b).all(1)
    rotation, shift, scale = similarity(a[both], b[both])
    moved = scale * vertices @ rotation.T + shift
    for _ in range(rounds):
        nearest = nearest_on_mesh(target, moved, triangles)
        away = np.linalg.norm(nearest - target, axis=1)
        kept = away <= np.quantile(away, 0.95)
        rotation, shift, scale = similarity(nearest[kept], target[kept])
        moved = scale * moved @ rotation.T + shift
    return float(np.linalg.norm(nearest_on_mesh(target, moved, triangles) - target, axis=1).mean())


def inner_faces(head: HeadModel) -> torch.Tensor:
    """(F,) bool: triangles of eyeballs, teeth and the inside of the mouth."""
    inner = head.regions["eyeballs"] | head.regions["teeth"] | head.regions["mouth_interior"]
    return inner[head.faces].any(-1)


def nearest_on_mesh(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray, candidates: int = 10) -> np.ndarray:
    """(N, 3) nearest points on a mesh, of the triangles whose middles are nearest (Ericson 2005, 5.1.5)."""
    corners = vertices[faces]
    near = cKDTree(corners.mean(1)).query(points, k=candidates)[1]
    a, b, c = (corners[near, k] for k in range(3))
    p = points[:, None]
    normal = np.cross(b - a, c - a)
    area = np.maximum((normal**2).sum(-1), 1e-24)
    weights = np.stack([(np.cross(c - b, p - b) * normal).sum(-1), (np.cross(a - c, p - c) * normal).sum(-1),
                        (np.cross(b - a, p - a) * normal).sum(-1)], -1) / area[..., None]  # fmt: skip
    inside = (weights >= 0).all(-1)
    plane = (weights[..., None] * np.stack([a, b, c], -2)).sum(-2)
    found = [np.where(inside[..., None], plane, np.inf)]
    for start, end in ((a, b), (b, c), (c, a)):
        edge = end - start
        along = np.clip(((p - start) * edge).sum(-1) / np.maximum((edge**2).sum(-1), 1e-24), 0, 1)
        found.append(start + along[..., None] * edge)
    every = np.concatenate(found, 1)
    best = np.argmin(((every - p) ** 2).sum(-1), axis=1)
    return every[np.arange(len(points)), best]


@lru_cache(maxsize=4)
def face_skin(head: HeadModel) -> np.ndarray:
    """Numbers of the face region's vertices that nothing covers in the template seen along its normal: no sockets, no
    inside of the nose or the mouth."""
    regions = head.regions
    mask = regions["face"] & ~(regions["eyeballs"] | regions["teeth"] | regions["mouth_interior"])
    vertices = head.template.double().numpy()
    normals = vertex_normals(head.template, head.faces).double().numpy()
    chosen = np.flatnonzero(mask.numpy())
    tree = cKDTree(vertices)
    covered = np.zeros(len(chosen), bool)
    for step in (0.004, 0.008, 0.014, 0.022):
        ahead = vertices[chosen] + step * normals[chosen]
        distance, index = tree.query(ahead)
        covered |= (distance < 0.6 * step) & ((normals[index] * normals[chosen]).sum(1) < -0.3)
    return chosen[~covered]


def _gaze_error(truth: PosedHead, found: PosedHead, offset: TemplateOffset) -> float:
    cosine = ((found.gaze() @ offset.rotation.T) * truth.gaze()).sum(1)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())


def _expression_error(truth: PosedHead, found: PosedHead, offset: TemplateOffset) -> dict[str, float]:
    true = truth.movement()
    apart = found.movement() @ offset.rotation.T - true
    both = np.isfinite(apart).all(1)
    lengths = [1000 * float(np.linalg.norm(values[both], axis=1).mean()) for values in (apart, true)]
    return dict(zip(("expression", "moved"), lengths, strict=True))


def _gap(marks: np.ndarray, pair: tuple[int, int]) -> float:
    return 1000 * float(np.linalg.norm(marks[pair[0]] - marks[pair[1]]))


def _turned(truth: np.ndarray, found: np.ndarray) -> list[float]:
    """Degrees about x, y and z that turn (3, 3) truth into found."""
    vector: list[float] = np.degrees(Rotation.from_matrix(found @ truth.T).as_rotvec()).tolist()
    return vector


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(a @ b.T) - 1) / 2, -1, 1))))
