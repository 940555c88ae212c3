"""What a tracker found, whichever tracker it was, in this project's names, units and axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from geodiff.errors import HeadModelError
from geodiff.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from geodiff.head.identity import HeadRecord
from geodiff.head.model import HeadModel
from geodiff.types import Camera, HeadParams

#: Vertices of FLAME, and of FLAME with VHAP's teeth, which come after FLAME's own.
FLAME_VERTICES, VHAP_VERTICES = 5023, 5143
#: The lids' expressions on FLAME heads that were loaded with `l_eyelid.npy` and `r_eyelid.npy`, Pixel3DMM's shapes.
EYELIDS = ("eyeBlinkLeft", "eyeBlinkRight")


@dataclass(frozen=True)
class Tracking:
    """A tracked person: T timesteps, seen by C cameras.

    params: HeadParams (T) under FLAME's names; metres, y up, the face towards +z. source: name of the tool.
    cameras: C views, or T * C where they move, frame t of view c at t * C + c; see `camera`. camera_ids: C names.
    timesteps: (T,) the tool's own numbers of the frames. fps: frames per second, None where the tool does not say.
    images, masks: T * C files, frame t of view c at t * C + c, None where a frame of a view is absent; or None where
    the tool keeps no pictures. valid: (T, C) bool, False where the tool found no face, or None.
    eyelids: (T, 2) weights of the lid shapes `l_eyelid.npy` and `r_eyelid.npy`, which are no part of FLAME, or None.
    codes: coefficients of shapes that only the tool's own head has, by the tool's name for them, (T, n) each.
    convention: "flame" where rotation, translation and neck_pose mean what `HeadParams` says; else the name of another
    one of CONVENTIONS, which needs the head model's joints to be told in FLAME's terms: `on` does that.
    head, head_hash: the family of models that the parameters belong to, and which one where that is recorded.
    notes: sentences about what a user should know.
    """

    params: HeadParams
    cameras: list[Camera]
    source: str
    camera_ids: list[str]
    timesteps: np.ndarray
    fps: float | None = None
    images: list[Path | None] | None = None
    masks: list[Path | None] | None = None
    valid: np.ndarray | None = None
    eyelids: Tensor | None = None
    convention: str = "flame"
    codes: dict[str, Tensor] = field(default_factory=dict)
    head: str = "flame"
    head_hash: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_frames(self) -> int:
        return self.params.num_frames

    @property
    def num_cameras(self) -> int:
        return len(self.camera_ids)

    def camera(self, t: int, c: int = 0) -> Camera:
        """The camera of view c at frame t."""
        return self.cameras[t * self.num_cameras + c if len(self.cameras) > self.num_cameras else c]

    def image(self, t: int, c: int = 0) -> Path | None:
        """The picture of frame t in view c, where there is one."""
        return None if self.images is None else self.images[t * self.num_cameras + c]

    def mask(self, t: int, c: int = 0) -> Path | None:
        """The foreground mask of frame t in view c, where there is one."""
        return None if self.masks is None else self.masks[t * self.num_cameras + c]

    def on(self, head: HeadModel) -> Tracking:
        """The same tracking as parameters of this head model: widths as the head's, rotation about its root joint.

        Coefficients that the tool did not fit are zero; the lids' go to the head's lid shapes where it has them.
        Raises HeadModelError when the parameters belong to another family of heads or are more than the head has.
        """
        if head.name != self.head:
            raise HeadModelError(
                f"parameters from {self.source} belong to a {self.head} head, and the head model {head.name!r} was "
                f"given: name theirs and convert, as in `geodiff track RESULT --head {self.head}:PATH --convert "
                f"{head.name}`"
            )
        HeadRecord(self.head, self.head_hash).check(head, f"the result of {self.source}")
        notes = self.notes
        params = self.params.replace(
            shape=_widened(self.params.shape, head.num_shape, "shape", self.source, head),
            expr=_widened(self.params.expr, head.num_expr, "expression", self.source, head),
            static_offset=_offsets(self.params.static_offset, head, self.source),
        )
        if self.eyelids is not None and set(EYELIDS) <= set(head.expression_names):
            expr = params.expr.clone()
            expr[:, [head.expression_names.index(name) for name in EYELIDS]] = self.eyelids
            params = params.replace(expr=expr)
        elif self.eyelids is not None and bool(self.eyelids.any()):
            notes = (
                *notes,
                f"{self.source} also fitted eyelids: put l_eyelid.npy and r_eyelid.npy beside the FLAME file",
            )
        if any(bool(code.any()) for code in self.codes.values()):
            notes = (*notes, f"{self.source} also fitted {', '.join(self.codes)}, which FLAME has no shape for")
        params = CONVENTIONS[self.convention](params, head)
        return replace(self, params=params, convention="flame", notes=notes)


def about_root(params: HeadParams, head: HeadModel) -> HeadParams:
    """The same pose with a rotation about the root joint, of parameters whose rotation turns about the origin.

    R v + t = R (v - J) + J + (t + R J - J), with J the root joint of the shaped head.
    """
    return params.replace(translation=params.translation + _lever(params, head))


def about_origin(params: HeadParams, head: HeadModel) -> HeadParams:
    """The inverse of `about_root`."""
    return params.replace(translation=params.translation - _lever(params, head))


def _lever(params: HeadParams, head: HeadModel) -> Tensor:
    """(T, 3) R J - J."""
    joint = head.joints(params)[0].double()
    rotations = axis_angle_to_matrix(params.rotation.double())
    return (rotations @ joint - joint).to(params.translation.dtype)


def trunk_to_neck(params: HeadParams, head: HeadModel) -> HeadParams:
    """FLAME's pose of one that turns the trunk against the head, both without a chain of joints (CAP4D's skinning).

    There the head follows R v + t and the trunk R (N (v - J) + J) + t, J being the root joint. In FLAME the trunk
    leads: its rotation is R N and the neck's N^-1. The head stays exactly where it was; the trunk moves by at most
    |N - 1| times the distance from the root joint to the neck's.
    """
    head_turn, trunk_turn = (axis_angle_to_matrix(v.double()) for v in (params.rotation, params.neck_pose))
    neck = head.joints(params)[1].double()
    kept = torch.einsum("tij,tj->ti", head_turn, neck - trunk_turn @ neck)
    turned = params.replace(
        rotation=_composed(params.rotation, params.neck_pose),
        neck_pose=-params.neck_pose,
        translation=(params.translation.double() + kept).to(params.translation.dtype),
    )
    bias = _cap4d_bias(head)
    if bias is not None:
        turned = turned.replace(static_offset=bias if params.static_offset is None else params.static_offset + bias)
    return about_root(turned, head)


def neck_to_trunk(params: HeadParams, head: HeadModel) -> HeadParams:
    """The inverse of `trunk_to_neck`, without its static offsets."""
    params = about_origin(params, head)
    turned = params.replace(rotation=_composed(params.rotation, params.neck_pose), neck_pose=-params.neck_pose)
    head_turn, trunk_turn = (axis_angle_to_matrix(v.double()) for v in (turned.rotation, turned.neck_pose))
    neck = head.joints(params)[1].double()
    kept = torch.einsum("tij,tj->ti", head_turn, neck - trunk_turn @ neck)
    return turned.replace(translation=(params.translation.double() - kept).to(params.translation.dtype))


def _composed(first: Tensor, second: Tensor) -> Tensor:
    """(T, 3) axis-angle of the product of two rotations; `first` itself where the second is none."""
    product = axis_angle_to_matrix(first.double()) @ axis_angle_to_matrix(second.double())
    still = ~second.any(-1, keepdim=True)
    return torch.where(still, first, matrix_to_axis_angle(product).to(first.dtype))


def _cap4d_bias(head: HeadModel) -> Tensor | None:
    """(V, 3) what CAP4D's skinning adds to the head at rest, or None for heads without pose correctives.

    It takes the identity twice from the rotations of neck, jaw and eyes before the correctives are summed.
    """
    if head.pose_basis is None:
        return None
    identity = torch.eye(3, dtype=head.pose_basis.dtype, device=head.pose_basis.device).reshape(1, 9)
    return -torch.einsum("p,pvc->vc", identity.repeat(4, 1).reshape(-1), head.pose_basis)


def offsets_beside_cap4d(params: HeadParams, head: HeadModel) -> float:
    """Mean length in metres of the static offsets that CAP4D's skinning does not add by itself."""
    none = torch.zeros_like(head.template)
    bias = _cap4d_bias(head)
    own = none if params.static_offset is None else params.static_offset
    return float(torch.linalg.vector_norm(own - (none if bias is None else bias), dim=-1).mean())


def still(cameras: list[Camera], views: int) -> list[Camera]:
    """One camera a view where none of the T * C moves, else all of them."""
    moves = any(
        not (torch.equal(c.viewmat, first.viewmat) and torch.equal(c.K, first.K))
        or (c.width, c.height) != (first.width, first.height)
        for v in range(views)
        for first, c in ((cameras[v], c) for c in cameras[v::views])
    )
    return cameras if moves else cameras[:views]


#: What rotation, translation and neck_pose mean to a tool -> how to say it in FLAME's terms.
CONVENTIONS: dict[str, Callable[[HeadParams, HeadModel], HeadParams]] = {
    "flame": lambda params, head: params,
    "origin": about_root,
    "cap4d": trunk_to_neck,
}


def _widened(values: Tensor, width: int, name: str, source: str, head: HeadModel) -> Tensor:
    """values (..., n) with zeros up to `width`; coefficients beyond it must be zero."""
    found = values.shape[-1]
    if found > width and bool(values[..., width:].any()):
        raise HeadModelError(
            f"the head model must have as many {name} coefficients as {source} fitted, {found}, and {head.name!r} has "
            f"{width}: name a larger {head.name} model with --head"
        )
    return torch.nn.functional.pad(values[..., :width], (0, width - min(found, width)))


def _offsets(offset: Tensor | None, head: HeadModel, source: str) -> Tensor | None:
    """Offsets of FLAME's vertices with or without VHAP's teeth, for a head with or without them."""
    if offset is None or len(offset) == head.num_vertices:
        return offset
    if {len(offset), head.num_vertices} == {FLAME_VERTICES, VHAP_VERTICES}:
        kept = offset[:FLAME_VERTICES]
        return torch.nn.functional.pad(kept, (0, 0, 0, head.num_vertices - len(kept)))
    raise HeadModelError(
        f"offsets must be of the head's {head.num_vertices} vertices, and {source}'s are of {len(offset)}: name the "
        "head model that it tracked with as --head"
    )
