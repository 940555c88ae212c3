"""A head model restricted to its landmarks, with the derivatives that the fit needs. NumPy, float64,
many frames at once.

With the neck at rest every landmark is rigid with the skull except those that the jaw and the eyeballs carry, so the
model is linear in shape and expression up to three small rotations and the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeVar

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from geodiff.errors import HeadModelError
from geodiff.geometry import vertex_normals
from geodiff.head.model import JOINTS, HeadModel
from geodiff.tracking.kernels import frame_normals
from geodiff.types import HeadParams

#: Joints whose rotation the fit knows, after the skull: the jaw and both eyes.
MOVING = ("jaw", "left_eye", "right_eye")
#: OpenCV axes of a camera that stands at the origin and looks along the world's -z.
FLIP = np.array([1.0, -1.0, -1.0])


class Moving(Protocol):
    """What moves in the faces of T frames: expr (T, E), gaze (T, 4), jaw (T,), as in `FrameStates`."""

    @property
    def expr(self) -> np.ndarray: ...
    @property
    def gaze(self) -> np.ndarray: ...
    @property
    def jaw(self) -> np.ndarray: ...


_Frames = TypeVar("_Frames", bound="PerFrame")


@dataclass(frozen=True)
class PerFrame:
    """Arrays of which each has a row for every one of T frames."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self: _Frames, index: slice | np.ndarray | list[int]) -> _Frames:
        """Some of the frames, by a slice or an array."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @classmethod
    def concatenate(cls: type[_Frames], parts: Sequence[_Frames]) -> _Frames:
        """The frames of several, one after the other."""
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})

    def where(self: _Frames, chosen: np.ndarray, other: _Frames) -> _Frames:
        """The states of `other` in the frames `chosen` (T,) bool, one's own in the rest."""
        return self.concatenate([self, other])[np.arange(len(self)) + len(self) * chosen]


@dataclass(frozen=True)
class FrameStates(PerFrame):
    """The unknowns of T frames.

    rotation: (T, 3, 3) of the head. centre: (T, 2) pixels at which the model's origin is seen. log_scale: (T,)
    logarithm of pixels per metre there. expr: (T, E). gaze: (T, 4) yaw and pitch of the left, then of the right eye,
    radians. jaw: (T,) radians.
    """

    rotation: np.ndarray
    centre: np.ndarray
    log_scale: np.ndarray
    expr: np.ndarray
    gaze: np.ndarray
    jaw: np.ndarray

    @property
    def vector(self) -> np.ndarray:
        """(T, 6 + E + 5) all unknowns but the rotation, which is moved by its first three entries, zero here."""
        columns = (np.zeros((len(self), 3)), self.centre, self.log_scale[:, None], self.expr, self.gaze)
        return np.concatenate([*columns, self.jaw[:, None]], 1)

    def moved(self, vector: np.ndarray) -> FrameStates:
        """The states with these values; the first three entries turn the rotation (axis-angle, from the left)."""
        return FrameStates(
            rotation=Rotation.from_rotvec(vector[:, :3]).as_matrix() @ self.rotation,
            centre=vector[:, 3:5].copy(),
            log_scale=vector[:, 5].copy(),
            expr=vector[:, 6:-5].copy(),
            gaze=vector[:, -5:-1].copy(),
            jaw=vector[:, -1].copy(),
        )


@dataclass(frozen=True)
class _Sight:
    """What derivatives are made of: points (T, L, 3) before the head's pose, the same `seen` in camera space, and
    derivatives (T, L, 2, 3) of the whitened pixels by the latter (lens), by the former (turned), and by the landmarks
    before jaw and eyes turn (carried)."""

    points: np.ndarray
    seen: np.ndarray
    lens: np.ndarray
    turned: np.ndarray
    carried: np.ndarray


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
        self.turning = np.flatnonzero(self.skinning.any(1))
        self._expr_rows = np.ascontiguousarray(self.expr.transpose(1, 2, 0), np.float32)
        self._flat_expr = np.ascontiguousarray(self.expr.transpose(2, 0, 1).reshape(self.expr.shape[2], -1))
        regressor = head.joint_regressor.double().numpy()
        self.joints = regressor @ head.template.double().numpy()
        shape = head.shape_basis.double().numpy()
        self.joint_shape = np.stack([regressor @ mode for mode in shape]) if len(shape) else np.zeros((0, 5, 3))
        # FLAME's pose correctives of the jaw: nine of the thirty-six columns (neck, jaw, eyes).
        self.jaw_basis = None if head.pose_basis is None else _combined(head.pose_basis[9:18], corners, weights)
        if self.jaw_basis is not None:
            self.moving[0] = self.turning = np.arange(len(self.mean))

    @property
    def num_shape(self) -> int:
        return self.shape.shape[2]

    @property
    def num_expr(self) -> int:
        return self.expr.shape[2]

    def local(self, shape: np.ndarray, states: FrameStates) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks (T, L, 3) before the head's pose, and the local rotations (T, M, 3, 3) of those in `turning`."""
        points = self._unposed(shape, states)
        turns = moving_rotations(states)
        blended = np.eye(3) + np.einsum("lj,tjab->tlab", self.skinning[self.turning], turns - np.eye(3))
        return self._posed(points, shape, turns), blended

    def _unposed(self, shape: np.ndarray, states: FrameStates) -> np.ndarray:
        mean = self.mean + np.dot(self.shape, shape)
        return mean + np.einsum("te,ec->tc", states.expr, self._flat_expr).reshape(len(states), *mean.shape)

    def _posed(self, points: np.ndarray, shape: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """(T, L, 3) landmarks turned by the jaw and the eyes; turns: (T, 3, 3, 3)."""
        moved = points.copy()
        moved[:, self.turning] = self._turned(points, shape, turns, self.turning)
        return moved

    def _turned(self, points: np.ndarray, shape: np.ndarray, turns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """`_posed` of the landmarks `rows` (R,) alone: (T, R, 3)."""
        bent, points = turns - np.eye(3), points[:, rows]
        if self.jaw_basis is not None:
            points = points + np.tensordot(bent[:, 0].reshape(-1, 9), self.jaw_basis[:, rows], 1)
        joints = self.joints[2:] + np.tensordot(shape, self.joint_shape[:, 2:], 1)
        moved = points.copy()
        for joint in range(len(MOVING)):
            moved += self.skinning[rows, joint, None] * ((points - joints[joint]) @ bent[:, joint].transpose(0, 2, 1))
        return moved

    def project(self, log_focal: float, shape: np.ndarray, states: FrameStates, middle: np.ndarray) -> np.ndarray:
        """(T, L, 2) pixels; middle: (2,) the image's principal point."""
        points = self.local(shape, states)[0]
        return _pinhole(_camera(points, log_focal, states, middle), log_focal, middle)

    def jacobian(
        self,
        log_focal: float,
        shape: np.ndarray,
        states: FrameStates,
        middle: np.ndarray,
        shared: bool = True,
        whitening: np.ndarray | None = None,
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Derivatives of the pixels (T, L, 2), multiplied from the left by `whitening` (T, L, 2, 2) where it is given.

        By log focal and shape: (T, L, 2, 1 + S), None unless `shared`. By the frames' vectors: (T, L, 2, 11 + E).
        """
        sight = self._sight(log_focal, shape, states, middle, whitening)
        frame = np.empty((*sight.points.shape[:2], 2, 11 + self.num_expr))
        rigid = self._rigid_columns(sight, log_focal, shape, states, middle)
        frame[..., :6], frame[..., -5:] = rigid[..., :6], rigid[..., 6:]
        frame[..., 6:-5] = sight.carried @ self.expr
        by_shared = self._shared_columns(sight, log_focal, shape, states, middle, whitening) if shared else None
        return by_shared, frame

    def gauss_newton(
        self,
        log_focal: float,
        shape: np.ndarray,
        states: FrameStates,
        middle: np.ndarray,
        shared: bool,
        whitening: np.ndarray,
        residuals: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """J^T J (T, N, N) and J^T r (T, N) of the whitened derivatives by the frames' vectors and the shared unknowns.

        residuals: (T, L, 2). N is 11 + E, and 1 + S more if `shared`. The same as by `jacobian`, quicker, to the
        precision of float32.
        """
        sight = self._sight(log_focal, shape, states, middle, whitening)
        columns = self._rigid_columns(sight, log_focal, shape, states, middle)
        if shared:
            others = self._shared_columns(sight, log_focal, shape, states, middle, whitening)
            columns = np.concatenate([columns, others], 3)
        width = columns.shape[3] + self.num_expr
        matrix, gradient = np.zeros((len(states), width, width)), np.zeros((len(states), width))
        single = [
            np.ascontiguousarray(array, np.float32)
            for array in (
                sight.carried.transpose(0, 2, 3, 1),
                columns.transpose(0, 3, 2, 1),
                residuals.transpose(0, 2, 1),
            )
        ]
        frame_normals(single[0], self._expr_rows, single[1], single[2], 6, matrix, gradient)
        return matrix, gradient

    def _sight(
        self, log_focal: float, shape: np.ndarray, states: FrameStates, middle: np.ndarray, whitening: np.ndarray | None
    ) -> _Sight:
        points, blended = self.local(shape, states)
        seen = _camera(points, log_focal, states, middle)
        lens = _lens(seen, np.exp(log_focal), whitening)
        turned = ((lens * FLIP).reshape(len(points), -1, 3) @ states.rotation).reshape(lens.shape)
        carried = turned.copy()
        carried[:, self.turning] = turned[:, self.turning] @ blended
        return _Sight(points, seen, lens, turned, carried)

    def _rigid_columns(
        self, sight: _Sight, log_focal: float, shape: np.ndarray, states: FrameStates, middle: np.ndarray
    ) -> np.ndarray:
        """(T, L, 2, 11) derivatives by rotation, centre, log scale, gaze and jaw."""
        lens, scale = sight.lens, np.exp(states.log_scale)[:, None, None]
        columns = np.zeros((*lens.shape[:3], 11))
        rotated = sight.points @ states.rotation.transpose(0, 2, 1)
        columns[..., :3] = np.cross(rotated[:, :, None], lens * FLIP)
        columns[..., 3:5] = lens[..., :2] / scale[..., None]
        lateral = ((states.centre - middle) / scale[:, 0])[:, None, None]
        columns[..., 5] = -(lens[..., :2] * lateral).sum(-1) - np.exp(log_focal) / scale * lens[..., 2]
        self._turn_columns(columns, sight, shape, states)
        return columns

    def _shared_columns(
        self,
        sight: _Sight,
        log_focal: float,
        shape: np.ndarray,
        states: FrameStates,
        middle: np.ndarray,
        whitening: np.ndarray | None,
    ) -> np.ndarray:
        """(T, L, 2, 1 + S) derivatives by log focal and shape."""
        aside = _pinhole(sight.seen, log_focal, middle) - middle
        if whitening is not None:
            aside = (whitening @ aside[..., None])[..., 0]
        columns = np.empty((*sight.lens.shape[:3], 1 + self.num_shape))
        columns[..., 0] = aside + np.exp(log_focal - states.log_scale)[:, None, None] * sight.lens[..., 2]
        columns[..., 1:] = sight.carried @ self.shape
        # Joints move with the shape, and what turns about them as well.
        turns, rows = np.eye(3) - moving_rotations(states), self.turning
        pull = np.einsum("tjab,sjb->tjas", turns, self.joint_shape[:, 2:])
        columns[:, rows, :, 1:] += sight.turned[:, rows] @ np.einsum("lj,tjas->tlas", self.skinning[rows], pull)
        return columns

    def _turn_columns(self, columns: np.ndarray, sight: _Sight, shape: np.ndarray, states: FrameStates) -> None:
        """Fill the columns of gaze and jaw by differences, on the landmarks that they move."""
        unposed, vector, step = self._unposed(shape, states), states.vector, 1e-5
        for column, joint in zip(range(-5, 0), (1, 1, 2, 2, 0), strict=True):
            rows = self.moving[joint]
            ahead = vector.copy()
            ahead[:, column] += step
            moved = self._turned(unposed, shape, moving_rotations(states.moved(ahead)), rows)
            change = (moved - sight.points[:, rows]) / step
            columns[..., column][:, rows] = (sight.turned[:, rows] * change[:, :, None]).sum(-1)

    def facing(self, states: FrameStates) -> np.ndarray:
        """(T, L) cosine between a landmark's normal (of the mean face) and the camera's axis."""
        return states.rotation[:, 2] @ self.normals.T

    def params(self, log_focal: float, shape: np.ndarray, states: FrameStates, middle: np.ndarray) -> HeadParams:
        """`HeadParams` of the frames for a camera at the origin that looks along -z."""
        return self.placed(shape, states.rotation, translation(log_focal, states, middle), states)

    def placed(self, shape: np.ndarray, rotation: np.ndarray, origin: np.ndarray, states: Moving) -> HeadParams:
        """`HeadParams` of heads whose model's origin is turned by rotation (T, 3, 3) and lies at origin (T, 3)."""
        root = self.joints[0] + np.tensordot(shape, self.joint_shape[:, 0], 1)
        # The fit turns the head about the model's origin, the head model about its root joint.
        translations = origin + rotation @ root - root
        gaze, zero = states.gaze, np.zeros(len(rotation))
        values = {
            "shape": shape,
            "expr": states.expr,
            "rotation": Rotation.from_matrix(rotation).as_rotvec(),
            "translation": translations,
            "neck_pose": np.zeros((len(rotation), 3)),
            "jaw_pose": np.stack([states.jaw, zero, zero], 1),
            "eyes_pose": np.stack([-gaze[:, 1], gaze[:, 0], zero, -gaze[:, 3], gaze[:, 2], zero], 1),
        }
        return HeadParams(**{name: torch.as_tensor(value, dtype=torch.float32) for name, value in values.items()})


def moving_rotations(states: FrameStates) -> np.ndarray:
    """(T, 3, 3, 3) rotations of the jaw, the left and the right eye."""
    vectors = np.zeros((len(states), 3, 3))
    vectors[:, 0, 0] = states.jaw
    vectors[:, 1:, 0] = -states.gaze[:, 1::2]
    vectors[:, 1:, 1] = states.gaze[:, ::2]
    return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(-1, 3, 3, 3)


def translation(log_focal: float, states: FrameStates, middle: np.ndarray) -> np.ndarray:
    """(T, 3) where the model's origin lies in the world."""
    lateral = (states.centre - middle) / np.exp(states.log_scale)[:, None]
    return np.stack([lateral[:, 0], -lateral[:, 1], -np.exp(log_focal - states.log_scale)], 1)


def _camera(points: np.ndarray, log_focal: float, states: FrameStates, middle: np.ndarray) -> np.ndarray:
    """(T, L, 3) camera space, OpenCV axes."""
    turned = points @ states.rotation.transpose(0, 2, 1)
    return (turned + translation(log_focal, states, middle)[:, None]) * FLIP


def _pinhole(seen: np.ndarray, log_focal: float, middle: np.ndarray) -> np.ndarray:
    return middle + np.exp(log_focal) * seen[..., :2] / seen[..., 2:]


def _lens(seen: np.ndarray, focal: float, whitening: np.ndarray | None) -> np.ndarray:
    """(T, L, 2, 3) derivatives of the pixels by the points (T, L, 3) in camera space, whitened."""
    lens = np.zeros((*seen.shape[:2], 2, 3))
    lens[..., 0, 0] = lens[..., 1, 1] = focal / seen[..., 2]
    lens[..., 2] = -focal * seen[..., :2] / seen[..., 2:] ** 2
    return lens if whitening is None else whitening @ lens


def _combined(basis: torch.Tensor, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B, L, 3) a basis (B, V, 3) at the landmarks."""
    picked = basis[:, torch.as_tensor(corners)].double().numpy()
    return np.einsum("lk,blkc->blc", weights, picked)
