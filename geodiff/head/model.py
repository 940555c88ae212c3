"""The head model: linear blend skinning over shape and expression bases, with FLAME's parameter names.

One class for every source (`builtin`, `flame`, `ict`): a source fills the fields, everything else is here.
Skinning follows SMPL and FLAME (Li et al. 2017, section 3): shaped template, pose correctives, then the joints.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geodiff.geometry import axis_angle_to_matrix
from geodiff.head.contact import Contacts
from geodiff.types import Camera, HeadParams, Motion

#: The joints of every head, in this order; parents as in FLAME.
JOINTS = ("root", "neck", "jaw", "left_eye", "right_eye")
PARENTS = (-1, 0, 1, 1, 1)

#: Vertex regions that every head names. A vertex may lie in several. `eyes` is the skin around the eyes with the lids.
REGIONS = (
    "face", "lips", "eyes", "eyeballs", "teeth", "mouth_interior", "scalp", "ears", "neck",
)  # fmt: skip


@dataclass(frozen=True)
class LandmarkEmbedding:
    """Points on the surface that correspond to MediaPipe's face-mesh landmarks.

    indices: (L,) int64, MediaPipe's numbers (0..477). faces: (L,) int64 triangles. barycentrics: (L, 3).
    """

    indices: Tensor
    faces: Tensor
    barycentrics: Tensor

    def points(self, vertices: Tensor, triangles: Tensor) -> Tensor:
        """vertices (..., V, 3), triangles (F, 3) -> landmark positions (..., L, 3)."""
        corners = vertices[..., triangles[self.faces], :]
        return (corners * self.barycentrics[:, :, None]).sum(-2)


@dataclass(frozen=True, eq=False)
class HeadModel:
    """A linear head model with V vertices, F triangles, S shape modes and E expressions. Metres; y up, face towards +z.

    template: (V, 3). shape_basis: (S, V, 3), one standard deviation each. expr_basis: (E, V, 3).
    pose_basis: (36, V, 3) FLAME's pose correctives, or None. joint_regressor: (5, V). skinning: (V, 5), rows sum to 1.
    faces: (F, 3) int64. uvs: (U, 2) in 0..1, v up. faces_uv: (F, 3) int64 into uvs.
    regions: name -> (V,) bool. mirror: (V,) int64, the vertex on the other side of the face.
    landmarks: MediaPipe embedding, or None where the source has none.
    expression_names: E names; ARKit's where the source has them.
    arkit: ARKit name -> (E,) expression coefficients, for sources whose own expressions are not ARKit's; names that are
    in expression_names need no entry. arkit_jaw: ARKit name -> (3,) jaw rotation in radians, for sources that open the
    mouth by the jaw joint.
    contacts: keeps lips and lids from passing through each other, or None.
    """

    name: str
    template: Tensor
    faces: Tensor
    shape_basis: Tensor
    expr_basis: Tensor
    joint_regressor: Tensor
    skinning: Tensor
    uvs: Tensor
    faces_uv: Tensor
    regions: dict[str, Tensor]
    mirror: Tensor
    expression_names: tuple[str, ...]
    landmarks: LandmarkEmbedding | None = None
    pose_basis: Tensor | None = None
    arkit: dict[str, Tensor] = field(default_factory=dict)
    arkit_jaw: dict[str, Tensor] = field(default_factory=dict)
    contacts: Contacts | None = None

    @property
    def num_vertices(self) -> int:
        return self.template.shape[0]

    @property
    def num_shape(self) -> int:
        return self.shape_basis.shape[0]

    @property
    def num_expr(self) -> int:
        return self.expr_basis.shape[0]

    @cached_property
    def hash(self) -> str:
        """Hexadecimal digest of the arrays that decide what parameters mean; recorded in clip sets and avatars."""
        digest = hashlib.sha256()
        arrays = [self.template, self.faces, self.shape_basis, self.expr_basis, self.skinning, self.joint_regressor]
        if self.pose_basis is not None:
            arrays.append(self.pose_basis)
        if self.contacts is not None:
            arrays += self.contacts.tensors()
        for array in arrays:
            digest.update(np.ascontiguousarray(array.cpu().numpy()).tobytes())
        return digest.hexdigest()[:16]

    def zeros(self, num_frames: int = 1) -> HeadParams:
        """Neutral parameters of the right widths."""
        params = HeadParams.zeros(self.num_shape, self.num_expr, num_frames)
        return params.to(self.template.device)

    def to(self, device: torch.device | str) -> HeadModel:
        moved: dict[str, Any] = {
            f.name: value.to(device) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        for name in ("regions", "arkit", "arkit_jaw"):
            moved[name] = {key: value.to(device) for key, value in getattr(self, name).items()}
        if self.contacts is not None:
            moved["contacts"] = self.contacts.to(device)
        if self.landmarks is not None:
            marks = self.landmarks
            moved["landmarks"] = LandmarkEmbedding(
                marks.indices.to(device), marks.faces.to(device), marks.barycentrics.to(device)
            )
        return replace(self, **moved)

    def face_region(self, name: str) -> Tensor:
        """(F,) bool: triangles whose three corners lie in the region."""
        return self.regions[name][self.faces].all(-1)

    def shaped(self, params: HeadParams, expression: bool = True, offsets: bool = True) -> Tensor:
        """Unposed vertices (T, V, 3): template + shape + expression + static offsets, then the contacts."""
        shaped = self.template + torch.einsum("s,svc->vc", params.shape, self.shape_basis)
        if offsets and params.static_offset is not None:
            shaped = shaped + params.static_offset
        moved = shaped.expand(params.num_frames, -1, -1)
        touching = self.contacts
        if expression:
            weights = params.expr if touching is None else touching.limited(params.expr, params.jaw_pose)
            moved = moved + torch.einsum("te,evc->tvc", weights, self.expr_basis)
        return moved if touching is None else touching.apply(moved, params.eyes_pose, params.jaw_pose)

    def joints(self, params: HeadParams) -> Tensor:
        """(5, 3) joint positions of the shaped, expressionless head."""
        shaped = self.template + torch.einsum("s,svc->vc", params.shape, self.shape_basis)
        return self.joint_regressor @ shaped

    def joint_transforms(self, params: HeadParams) -> Tensor:
        """(T, 5, 4, 4) transforms that take unposed vertices to the world, translation included."""
        rest = self.joints(params)
        eyes = params.eyes_pose.reshape(-1, 2, 3)
        angles = torch.stack([params.rotation, params.neck_pose, params.jaw_pose, eyes[:, 0], eyes[:, 1]], 1)
        rotations = axis_angle_to_matrix(angles)
        world: list[Tensor] = []
        for joint, parent in enumerate(PARENTS):
            local = torch.zeros(rotations.shape[0], 4, 4, dtype=rotations.dtype, device=rotations.device)
            local[:, :3, :3] = rotations[:, joint]
            local[:, :3, 3] = rest[joint] - torch.einsum("tij,j->ti", rotations[:, joint], rest[joint])
            local[:, 3, 3] = 1.0
            world.append(local if parent < 0 else world[parent] @ local)
        transforms = torch.stack(world, 1)
        shift = torch.zeros_like(transforms)
        shift[:, :, :3, 3] = params.translation[:, None]
        return transforms + shift

    def vertices(self, params: HeadParams, expression: bool = True, offsets: bool = True) -> Tensor:
        """Posed vertices (T, V, 3) in the world.

        expression = False gives the posed head without its expression (and with the jaw shut), offsets = False the one
        without static offsets: together the head of the paper's pose map (section 3.2).
        """
        if not expression:
            params = params.replace(jaw_pose=torch.zeros_like(params.jaw_pose))
        unposed = self.shaped(params, expression, offsets)
        if self.pose_basis is not None:
            eyes = params.eyes_pose.reshape(-1, 2, 3)
            angles = torch.stack([params.neck_pose, params.jaw_pose, eyes[:, 0], eyes[:, 1]], 1)
            identity = torch.eye(3, dtype=angles.dtype, device=angles.device)
            feature = (axis_angle_to_matrix(angles) - identity).reshape(angles.shape[0], -1)
            unposed = unposed + torch.einsum("tp,pvc->tvc", feature, self.pose_basis)
        transforms = self.joint_transforms(params)
        blended = torch.einsum("vj,tjab->tvab", self.skinning, transforms)
        return torch.einsum("tvab,tvb->tva", blended[..., :3, :3], unposed) + blended[..., :3, 3]

    def landmark_points(self, params: HeadParams) -> Tensor:
        """(T, L, 3) landmark positions in the world. Computed on the few vertices that carry landmarks."""
        reduced, triangles = self._landmark_head
        assert self.landmarks is not None
        corners = reduced.vertices(reduced.adopt(params))[..., triangles, :]
        return (corners * self.landmarks.barycentrics[:, :, None]).sum(-2)

    @cached_property
    def _landmark_head(self) -> tuple[_ReducedHead, Tensor]:
        if self.landmarks is None:
            raise ValueError(f"the head model {self.name!r} has no landmark embedding")
        return self.reduced(self.faces[self.landmarks.faces])

    def reduced(self, vertices: Tensor) -> tuple[_ReducedHead, Tensor]:
        """A head of these vertices (any shape, int64) and those that its contacts need, and where these are in it.

        It is posed as the full head is, whose joints it keeps, and in a fraction of the time; triangles, regions and
        landmarks stay the full head's and mean nothing there.
        """
        touching = vertices[:0].flatten() if self.contacts is None else self.contacts.indices()
        kept = torch.unique(torch.cat([vertices.flatten(), touching]))
        return _ReducedHead(self, kept), torch.searchsorted(kept, vertices)

    def motion_params(self, motion: Motion, base: HeadParams) -> HeadParams:
        """A head-independent motion on this head: the identity of `base`, the motion's expressions, pose and gaze."""
        frames = motion.num_frames
        device = self.template.device
        expr = torch.zeros(frames, self.num_expr, device=device)
        jaw = torch.zeros(frames, 3, device=device)
        for name, weights in motion.weights.items():
            column = torch.as_tensor(np.asarray(weights), dtype=torch.float32, device=device)
            if name in self.expression_names:
                expr[:, self.expression_names.index(name)] += column
            elif name in self.arkit:
                expr += column[:, None] * self.arkit[name]
            if name in self.arkit_jaw:
                jaw += column[:, None] * self.arkit_jaw[name]
        gaze = torch.as_tensor(motion.gaze, dtype=torch.float32, device=device)
        eye = torch.stack([-gaze[:, 1], gaze[:, 0], torch.zeros_like(gaze[:, 0])], 1)
        return base.replace(
            expr=expr,
            jaw_pose=jaw,
            eyes_pose=torch.cat([eye, eye], 1),
            rotation=torch.as_tensor(motion.rotation, dtype=torch.float32, device=device),
            translation=base.translation[:1].expand(frames, 3),
            neck_pose=base.neck_pose[:1].expand(frames, 3),
        )

    def canonicalise(self, params: HeadParams, camera: Camera) -> tuple[HeadParams, Camera]:
        """The same picture with the head at rest: its global pose (frame 0, T = 1) moves into the camera."""
        root = self.joint_transforms(params)[0, 0]
        still = params.replace(
            rotation=torch.zeros_like(params.rotation), translation=torch.zeros_like(params.translation)
        )
        return still, replace(camera, viewmat=camera.viewmat @ root)


class _ReducedHead(HeadModel):
    """A head restricted to a few vertices that keeps the full head's joints."""

    _kept: Tensor
    _joints: Tensor
    _joint_modes: Tensor

    def __init__(self, full: HeadModel, kept: Tensor) -> None:
        values = {f.name: getattr(full, f.name) for f in fields(full)}
        values.update(
            template=full.template[kept],
            shape_basis=full.shape_basis[:, kept],
            expr_basis=full.expr_basis[:, kept],
            skinning=full.skinning[kept],
            pose_basis=None if full.pose_basis is None else full.pose_basis[:, kept],
            contacts=None if full.contacts is None else full.contacts.restricted(kept),
        )
        for name, value in values.items():
            object.__setattr__(self, name, value)
        regressor = full.joint_regressor
        object.__setattr__(self, "_kept", kept)
        object.__setattr__(self, "_joints", regressor @ full.template)
        object.__setattr__(self, "_joint_modes", torch.einsum("jv,svc->sjc", regressor, full.shape_basis))

    def adopt(self, params: HeadParams) -> HeadParams:
        """The full head's parameters, restricted to the vertices that are left."""
        if params.static_offset is None:
            return params
        return params.replace(static_offset=params.static_offset[self._kept])

    def joints(self, params: HeadParams) -> Tensor:
        return self._joints + torch.einsum("s,sjc->jc", params.shape, self._joint_modes)
