"""What crosses the boundaries between rooms: small frozen dataclasses of tensors.

Units are metres, radians and seconds; axes as in `geodiff.geometry`. Tensors are float32 unless a field says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    viewmat: (4, 4) world-to-camera, OpenCV axes (x right, y down, z forward), metres.
    K: (3, 3) intrinsics in pixels; pixel centres lie at +0.5.
    width, height: image size in pixels.
    """

    viewmat: Tensor
    K: Tensor
    width: int
    height: int

    @property
    def center(self) -> Tensor:
        """(3,) camera position in the world."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]

    def to(self, device: torch.device | str) -> Camera:
        return replace(self, viewmat=self.viewmat.to(device), K=self.K.to(device))

    def resized(self, width: int, height: int) -> Camera:
        """The same view sampled on another pixel grid."""
        scale = torch.diag(torch.tensor([width / self.width, height / self.height, 1.0], device=self.K.device))
        return replace(self, K=scale @ self.K, width=width, height=height)


#: Names of the per-frame fields of `HeadParams` and their widths where those do not depend on the head.
POSE_WIDTHS = {"rotation": 3, "translation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6}


@dataclass(frozen=True)
class HeadParams:
    """Parameters of a head model for T frames, under FLAME's names.

    shape: (S,) identity coefficients, in standard deviations; shared by all frames.
    expr: (T, E) expression coefficients.
    rotation, neck_pose, jaw_pose: (T, 3) axis-angle, radians. rotation turns about the root joint.
    eyes_pose: (T, 6) axis-angle of the left, then the right eye.
    translation: (T, 3) metres.
    static_offset: (V, 3) metres added to the shaped template, or None.
    """

    shape: Tensor
    expr: Tensor
    rotation: Tensor
    translation: Tensor
    neck_pose: Tensor
    jaw_pose: Tensor
    eyes_pose: Tensor
    static_offset: Tensor | None = None

    @property
    def num_frames(self) -> int:
        return self.expr.shape[0]

    @staticmethod
    def zeros(num_shape: int, num_expr: int, num_frames: int = 1) -> HeadParams:
        pose = {name: torch.zeros(num_frames, width) for name, width in POSE_WIDTHS.items()}
        return HeadParams(shape=torch.zeros(num_shape), expr=torch.zeros(num_frames, num_expr), **pose)

    def frame(self, t: int) -> HeadParams:
        """The parameters of frame t alone (T = 1)."""
        return self.frames(slice(t, t + 1))

    def frames(self, index: slice | Tensor) -> HeadParams:
        per_frame: dict[str, Any] = {name: getattr(self, name)[index] for name in ("expr", *POSE_WIDTHS)}
        return replace(self, **per_frame)

    def replace(self, **changes: Tensor | None) -> HeadParams:
        values: dict[str, Any] = changes
        return replace(self, **values)

    def to(self, device: torch.device | str) -> HeadParams:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: None if v is None else v.to(device) for k, v in values.items()}
        return HeadParams(**moved)

    def detach(self) -> HeadParams:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: None if v is None else v.detach() for k, v in values.items()}
        return HeadParams(**moved)

    @staticmethod
    def concatenate(parts: list[HeadParams]) -> HeadParams:
        """Frames of several parameter sets of one person, one after the other (shape and offsets of the first)."""
        merged = {name: torch.cat([getattr(p, name) for p in parts]) for name in ("expr", *POSE_WIDTHS)}
        return replace(parts[0], **merged)


@dataclass(frozen=True)
class Gaussians:
    """N anisotropic 3D Gaussians, in gsplat's names.

    means: (N, 3) metres. quats: (N, 4) wxyz, need not be normalised. scales: (N, 3) standard deviations in metres
    (linear, positive). opacities: (N,) in 0..1. colors: (N, C), any number of channels, already evaluated for the
    camera where they depend on it.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor

    def __len__(self) -> int:
        return self.means.shape[0]

    def to(self, device: torch.device | str) -> Gaussians:
        return Gaussians(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class Clip:
    """The frames of one camera.

    images: (T, H, W, 3) uint8 RGB on white. normals: (T, H, W, 3) uint8 as (n + 1) / 2, or None.
    masks: (T, H, W) uint8 0..255. camera: where they were seen from. params: HeadParams of T frames.
    camera_index: number of the view. timesteps: (T,) int numbers of the frames in the sequence.
    cameras: one a frame where the view moves, `camera` being the first; None where it stands still.
    """

    images: np.ndarray
    masks: np.ndarray
    camera: Camera
    params: HeadParams
    camera_index: int
    timesteps: np.ndarray
    normals: np.ndarray | None = None
    cameras: list[Camera] | None = None

    def frame_cameras(self) -> list[Camera]:
        """The camera of each of the T frames."""
        return self.cameras or [self.camera] * len(self.timesteps)


@dataclass(frozen=True)
class Drive:
    """What moves an avatar: head parameters of T frames and named codes of the same length.

    codes: for instance {"expression_latent": (T, tokens, width)}; methods take the codes that they know.
    """

    params: HeadParams
    codes: dict[str, Tensor] = field(default_factory=dict)
    fps: float = 25.0

    @property
    def num_frames(self) -> int:
        return self.params.num_frames

    def frame(self, t: int) -> Drive:
        return Drive(self.params.frame(t), {k: v[t : t + 1] for k, v in self.codes.items()}, self.fps)


@dataclass(frozen=True)
class Motion:
    """A head-independent motion: ARKit-named weights, head pose and gaze of T frames.

    weights: name -> (T,) in 0..1. rotation: (T, 3) axis-angle of the head. gaze: (T, 2) yaw and pitch of both eyes,
    radians, positive to the person's left and up.
    """

    weights: dict[str, np.ndarray]
    rotation: np.ndarray
    gaze: np.ndarray
    fps: float = 25.0

    @property
    def num_frames(self) -> int:
        return int(self.rotation.shape[0])

    def frame(self, t: int) -> Motion:
        """The motion of frame t alone (T = 1)."""
        part = slice(t, t + 1)
        weights = {name: values[part] for name, values in self.weights.items()}
        return replace(self, weights=weights, rotation=self.rotation[part], gaze=self.gaze[part])


@dataclass(frozen=True)
class Portrait:
    """A photograph as it was read: image (H, W, 3) uint8 RGB, and where it came from."""

    image: np.ndarray
    path: Path | None = None
