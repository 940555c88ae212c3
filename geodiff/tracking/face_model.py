"""A head model restricted to its landmarks, with the derivatives that the fit needs. NumPy, float64.

With the neck at rest every landmark is rigid with the skull except those that the jaw and the eyeballs carry, so the
model is linear in shape and expression up to three small rotations and the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from geodiff.errors import HeadModelError
from geodiff.geometry import vertex_normals
from geodiff.head.model import JOINTS, HeadModel
from geodiff.types import HeadParams

#: Joints whose rotation the fit knows, after the skull: the jaw and both eyes.
MOVING = ("jaw", "left_eye", "right_eye")
#: OpenCV axes of a camera that stands at the origin and looks along the world's -z.
FLIP = np.array([1.0, -1.0, -1.0])


@dataclass
class FrameState:
    """The unknowns of one frame.

    rotation: (3, 3) of the head. centre: (2,) pixels at which the model's origin is seen. log_scale: logarithm of
    pixels per metre there. expr: (E,). gaze: (4,) yaw and pitch of the left, then of the right eye, radians. jaw:
    radians.
    """

    rotation: np.ndarray
    centre: np.ndarray
    log_scale: float
    expr: np.ndarray
    gaze: np.ndarray
    jaw: float

    @property
    def vector(self) -> np.ndarray:
        """(6 + E + 5,) all unknowns but the rotation, which is moved by its first three entries, zero here."""
        return np.concatenate([np.zeros(3), self.centre, [self.log_scale], self.expr, self.gaze, [self.jaw]])

    def moved(self, vector: np.ndarray) -> FrameState:
        """The state with these values; the first three entries turn the rotation (axis-angle, from the left)."""
        return FrameState(
            rotation=Rotation.from_rotvec(vector[:3]).as_matrix() @ self.rotation,
            centre=vector[3:5].copy(),
            log_scale=float(vector[5]),
            expr=vector[6:-5].copy(),
            gaze=vector[-5:-1].copy(),
            jaw=float(vector[-1]),
        )


class FaceModel:
    """The landmarks of a head model as a function of its parameters, with the Jacobian."""

    def __init__(self, head: HeadModel) -> None:
        marks = head.landmarks
        if marks is None:
            raise HeadModelError(
                f"tracking needs a head model with a landmark embedding, but {head.name!r} has none; make one with "
                "scripts/embed_landmarks.py."
            )
        corners, weights = head.faces[marks.faces].numpy(), marks.barycentrics.double().numpy()
        self.indices = marks.indices.numpy()
        self.mean = np.einsum("lk,lkc->lc", weights, head.template.double().numpy()[corners])
        # (L, 3, S) and (L, 3, E): the order in which the Jacobian multiplies them.
        self.shape = np.ascontiguousarray(_combined(head.shape_basis, corners, weights).transpose(1, 2, 0))
        self.expr = np.ascontiguousarray(_combined(head.expr_basis, corners, weights).transpose(1, 2, 0))
        self.normals = vertex_normals(head.template, head.faces).double().numpy()[corners[:, 0]]
        skinning = np.einsum("lk,lkj->lj", weights, head.skinning.double().numpy()[corners])
        self.skinning = np.stack([skinning[:, JOINTS.index(name)] for name in MOVING], 1)
        self.moving = [np.flatnonzero(column) for column in self.skinning.T]
        regressor = head.joint_regressor.double().numpy()
        self.joints = regressor @ head.template.double().numpy()
        shape = head.shape_basis.double().numpy()
        self.joint_shape = np.stack([regressor @ mode for mode in shape]) if len(shape) else np.zeros((0, 5, 3))
        # FLAME's pose correctives of the jaw: nine of the thirty-six columns (neck, jaw, eyes).
        self.jaw_basis = None if head.pose_basis is None else _combined(head.pose_basis[9:18], corners, weights)
        if self.jaw_basis is not None:
            self.moving[0] = np.arange(len(self.mean))

    @property
    def num_shape(self) -> int:
        return self.shape.shape[2]

    @property
    def num_expr(self) -> int:
        return self.expr.shape[2]

    def local(self, shape: np.ndarray, state: FrameState) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks (L, 3) before the head's pose, and their local rotations (L, 3, 3)."""
        points = self._unposed(shape, state)
        turns = moving_rotations(state)
        blended = np.eye(3) + np.tensordot(self.skinning, turns - np.eye(3), 1)
        return self._posed(points, shape, turns), blended

    def _unposed(self, shape: np.ndarray, state: FrameState) -> np.ndarray:
        return self.mean + np.dot(self.shape, shape) + np.dot(self.expr, state.expr)

    def _posed(
        self, points: np.ndarray, shape: np.ndarray, turns: np.ndarray, rows: slice | np.ndarray = slice(None)
    ) -> np.ndarray:
        """(L, 3) landmarks turned by the jaw and the eyes; turns: (3, 3, 3). `rows` picks landmarks."""
        points = points[rows]
        if self.jaw_basis is not None:
            points = points + np.tensordot((turns[0] - np.eye(3)).ravel(), self.jaw_basis[:, rows], 1)
        joints = self.joints[2:] + np.tensordot(shape, self.joint_shape[:, 2:], 1)
        shift = points.copy()
        for joint, turn in enumerate(turns):
            shift += self.skinning[rows, joint, None] * ((points - joints[joint]) @ (turn - np.eye(3)).T)
        return shift

    def project(self, log_focal: float, shape: np.ndarray, state: FrameState, middle: np.ndarray) -> np.ndarray:
        """(L, 2) pixels; middle: (2,) the image's principal point."""
        points = self.local(shape, state)[0]
        return _pinhole(_camera(points, log_focal, state, middle), log_focal, middle)

    def jacobian(
        self, log_focal: float, shape: np.ndarray, state: FrameState, middle: np.ndarray, shared: bool = True
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Pixels (L, 2), and their derivatives.

        By log focal and shape: (L, 2, 1 + S), None unless `shared`. By the frame's vector: (L, 2, 11 + E).
        """
        points, blended = self.local(shape, state)
        seen = _camera(points, log_focal, state, middle)
        focal, depth = np.exp(log_focal), seen[:, 2]
        pixels = _pinhole(seen, log_focal, middle)
        # d(pixels) / d(camera space), (L, 2, 3)
        lens = np.zeros((len(points), 2, 3))
        lens[:, 0, 0] = lens[:, 1, 1] = focal / depth
        lens[:, :, 2] = -focal * seen[:, :2] / depth[:, None] ** 2
        turned = (lens * FLIP) @ state.rotation  # d(pixels) / d(local points)
        carried = turned @ blended
        scale, away = np.exp(state.log_scale), np.exp(log_focal - state.log_scale)

        by_shared = None
        if shared:
            turns = np.eye(3) - moving_rotations(state)
            pull = np.einsum("jab,sjb->jas", turns, self.joint_shape[:, 2:])
            by_shared = np.zeros((len(points), 2, 1 + self.num_shape))
            by_shared[:, :, 0] = pixels - middle + away * lens[:, :, 2]
            by_shared[:, :, 1:] = carried @ self.shape + turned @ np.tensordot(self.skinning, pull, 1)

        frame = np.zeros((len(points), 2, 11 + self.num_expr))
        rotated = points @ state.rotation.T
        frame[:, :, :3] = np.cross(rotated[:, None], lens * FLIP)
        frame[:, :, 3:5] = lens[:, :, :2] / scale
        frame[:, :, 5] = -(lens[:, :, :2] @ ((state.centre - middle) / scale)) - away * lens[:, :, 2]
        frame[:, :, 6:-5] = carried @ self.expr
        self._turn_columns(frame, turned, points, shape, state)
        return pixels, by_shared, frame

    def _turn_columns(
        self, frame: np.ndarray, turned: np.ndarray, points: np.ndarray, shape: np.ndarray, state: FrameState
    ) -> None:
        """Fill the columns of gaze and jaw by differences, on the landmarks that they move."""
        unposed, vector, step = self._unposed(shape, state), state.vector, 1e-5
        for column, joint in zip(range(-5, 0), (1, 1, 2, 2, 0), strict=True):
            rows = self.moving[joint]
            ahead = vector.copy()
            ahead[column] += step
            moved = self._posed(unposed, shape, moving_rotations(state.moved(ahead)), rows)
            frame[rows, :, column] = (turned[rows] @ ((moved - points[rows]) / step)[..., None])[..., 0]

    def facing(self, state: FrameState) -> np.ndarray:
        """(L,) cosine between a landmark's normal (of the mean face) and the direction to the camera."""
        return (self.normals @ state.rotation.T)[:, 2]

    def params(self, log_focal: float, shape: np.ndarray, states: list[FrameState], middle: np.ndarray) -> HeadParams:
        """`HeadParams` of the frames for a camera at the origin that looks along -z."""
        root = self.joints[0] + np.tensordot(shape, self.joint_shape[:, 0], 1)
        rotations = np.stack([s.rotation for s in states])
        origins = np.stack([_translation(log_focal, s, middle) for s in states])
        # The fit turns the head about the model's origin, the head model about its root joint.
        translations = origins + rotations @ root - root
        gaze = np.stack([s.gaze for s in states])
        zero = np.zeros(len(states))
        eyes = np.stack([-gaze[:, 1], gaze[:, 0], zero, -gaze[:, 3], gaze[:, 2], zero], 1)
        jaw = np.stack([[s.jaw, 0.0, 0.0] for s in states])
        values = {
            "shape": shape,
            "expr": np.stack([s.expr for s in states]),
            "rotation": Rotation.from_matrix(rotations).as_rotvec(),
            "translation": translations,
            "neck_pose": np.zeros((len(states), 3)),
            "jaw_pose": jaw,
            "eyes_pose": eyes,
        }
        return HeadParams(**{name: torch.as_tensor(value, dtype=torch.float32) for name, value in values.items()})


def moving_rotations(state: FrameState) -> np.ndarray:
    """(3, 3, 3) rotations of the jaw, the left and the right eye."""
    left, right = state.gaze[:2], state.gaze[2:]
    vectors = np.array([[state.jaw, 0, 0], [-left[1], left[0], 0], [-right[1], right[0], 0]])
    return Rotation.from_rotvec(vectors).as_matrix()


def _translation(log_focal: float, state: FrameState, middle: np.ndarray) -> np.ndarray:
    """(3,) where the model's origin lies in the world."""
    lateral = (state.centre - middle) / np.exp(state.log_scale)
    return np.array([lateral[0], -lateral[1], -np.exp(log_focal - state.log_scale)])


def _camera(points: np.ndarray, log_focal: float, state: FrameState, middle: np.ndarray) -> np.ndarray:
    """(L, 3) camera space, OpenCV axes."""
    return (points @ state.rotation.T + _translation(log_focal, state, middle)) * FLIP


def _pinhole(seen: np.ndarray, log_focal: float, middle: np.ndarray) -> np.ndarray:
    return middle + np.exp(log_focal) * seen[:, :2] / seen[:, 2:]


def _combined(basis: torch.Tensor, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B, L, 3) a basis (B, V, 3) at the landmarks."""
    picked = basis[:, torch.as_tensor(corners)].double().numpy()
    return np.einsum("lk,blkc->blc", weights, picked)
