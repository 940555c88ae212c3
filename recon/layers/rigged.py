"""Gaussians bound to the triangles of a head: their learnable fields, how they are posed, and where they lie."""

from __future__ import annotations

import torch
from torch import Tensor

from geodiff.geometry import matrix_to_quat, quat_to_matrix
from geodiff.head.model import HeadModel
from geodiff.head.rigging import BoundFrames, to_world, triangle_frames
from geodiff.types import POSE_WIDTHS, Camera, Gaussians, HeadParams
from recon.layers.harmonics import evaluate_harmonics
from recon.ply import Splats

#: Learnable fields of N bound Gaussians: means (N, 3) and log_scales (N, 3) in units of the triangle's scale, quats
#: (N, 4) wxyz, opacity_logits (N,), sh_dc (N, 1, 3), sh_rest (N, K - 1, 3).
Fields = dict[str, Tensor]


def fields_of(splats: Splats) -> Fields:
    """Stored Gaussians -> learnable fields."""
    return {
        "means": splats.means,
        "quats": splats.quats,
        "log_scales": splats.log_scales,
        "opacity_logits": splats.opacity_logits,
        "sh_dc": splats.sh[:, :1].contiguous(),
        "sh_rest": splats.sh[:, 1:].contiguous(),
    }


def splats_of(fields: Fields, binding: Tensor) -> Splats:
    """Learnable fields -> Gaussians to store."""
    sh = torch.cat([fields["sh_dc"], fields["sh_rest"]], 1).detach()
    rest = {name: fields[name].detach() for name in ("means", "quats", "log_scales", "opacity_logits")}
    return Splats(**rest, sh=sh, binding=binding)


def pose_fields(fields: Fields, bound: BoundFrames, camera: Camera | None) -> Gaussians:
    """World Gaussians with colours (N, 3) as seen from the camera (or their mean over all directions)."""
    means, quats, scales = to_world(fields["means"], fields["quats"], fields["log_scales"].exp(), bound)
    sh, directions = fields["sh_dc"], None
    if fields["sh_rest"].shape[1]:
        sh = torch.cat([sh, fields["sh_rest"]], 1)
        if camera is not None:
            directions = torch.nn.functional.normalize(means.detach() - camera.center, dim=-1)
    colors = evaluate_harmonics(sh, directions)
    return Gaussians(means, quats, scales, torch.sigmoid(fields["opacity_logits"]), colors)


def frame_vectors(params: HeadParams) -> Tensor:
    """(T, D) all per-frame parameters side by side."""
    return torch.cat([getattr(params, name) for name in ("expr", *POSE_WIDTHS)], 1)


class FaceFrames:
    """Triangle frames of many time steps, computed once for the triangles in use.

    Time steps with the same parameters share their entry. Memory: 32 bytes a triangle and distinct time step.
    """

    def __init__(self, head: HeadModel, params: HeadParams, used: Tensor, chunk: int = 8) -> None:
        """used: (U,) int64 triangle numbers, sorted."""
        vectors, self._entry = torch.unique(frame_vectors(params), dim=0, return_inverse=True)
        first = torch.full((len(vectors),), params.num_frames, dtype=torch.int64, device=vectors.device)
        order = torch.arange(params.num_frames, device=vectors.device)
        first.scatter_reduce_(0, self._entry, order, "amin")
        distinct = params.frames(first)
        faces = head.faces[used]
        self._slot = torch.full((head.faces.shape[0],), -1, dtype=torch.int64, device=faces.device)
        self._slot[used] = torch.arange(len(used), device=faces.device)
        parts = []
        for start in range(0, len(vectors), chunk):
            frames = triangle_frames(head.vertices(distinct.frames(slice(start, start + chunk))), faces)
            parts.append((matrix_to_quat(frames.rotations), frames.origins, frames.scales))
        self._quats, self._origins, self._scales = (torch.cat(p) for p in zip(*parts, strict=True))

    def bound(self, t: int, binding: Tensor) -> BoundFrames:
        """Frames of the parents of N Gaussians at time step t. binding: (N,) triangle numbers, all of them in use."""
        entry, slot = self._entry[t], self._slot[binding]
        quats = self._quats[entry][slot]
        return BoundFrames(quats, quat_to_matrix(quats), self._origins[entry][slot], self._scales[entry][slot])


def bound_frames(head: HeadModel, params: HeadParams, binding: Tensor) -> BoundFrames:
    """Frames of the parents of N Gaussians for parameters of one frame; differentiable in the parameters."""
    used, slot = torch.unique(binding, return_inverse=True)
    frames = triangle_frames(head.vertices(params), head.faces[used])
    rotations = frames.rotations[0]
    return BoundFrames(
        matrix_to_quat(rotations)[slot], rotations[slot], frames.origins[0][slot], frames.scales[0][slot]
    )
