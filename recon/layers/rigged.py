"""Gaussians bound to the triangles of a head: their learnable fields, how they are posed, and where they lie."""

from __future__ import annotations

import torch
from torch import Tensor

from geodiff.geometry import matrix_to_quat
from geodiff.head.model import HeadModel
from geodiff.head.rigging import BoundFrames, to_world, triangle_frames
from geodiff.types import POSE_WIDTHS, Camera, Gaussians, HeadParams
from recon.layers.harmonics import evaluate_harmonics
from recon.layers.pose_kernel import pose_bound
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


def pose_fields(fields: Fields, vertices: Tensor, faces: Tensor, binding: Tensor, camera: Camera | None) -> Gaussians:
    """World Gaussians with colours (N, 3) as seen from the camera (or their mean over all directions).

    vertices: (V, 3) posed head. faces: (F, 3). binding: (N,) int64 triangles. Differentiable in fields and vertices.
    """
    local = fields["means"], fields["quats"], fields["log_scales"]
    if vertices.device.type == "cpu" and vertices.dtype == torch.float32:
        means, quats, scales = pose_bound(vertices, faces, binding, *local)
    else:
        means, quats, scales = to_world(*local[:2], local[2].exp(), bound_frames(vertices, faces, binding))
    sh, directions = fields["sh_dc"], None
    if fields["sh_rest"].shape[1]:
        sh = torch.cat([sh, fields["sh_rest"]], 1)
        if camera is not None:
            directions = torch.nn.functional.normalize(means.detach() - camera.center, dim=-1)
    colors = evaluate_harmonics(sh, directions)
    return Gaussians(means, quats, scales, torch.sigmoid(fields["opacity_logits"]), colors)


def bound_frames(vertices: Tensor, faces: Tensor, binding: Tensor) -> BoundFrames:
    """Frames of the parents of N Gaussians on posed vertices (V, 3); differentiable in them."""
    used, slot = torch.unique(binding, return_inverse=True)
    frames = triangle_frames(vertices[None], faces[used])
    rotations = frames.rotations[0]
    return BoundFrames(
        matrix_to_quat(rotations)[slot], rotations[slot], frames.origins[0][slot], frames.scales[0][slot]
    )


def frame_vectors(params: HeadParams) -> Tensor:
    """(T, D) all per-frame parameters side by side."""
    return torch.cat([getattr(params, name) for name in ("expr", *POSE_WIDTHS)], 1)


class PosedHeads:
    """A head posed once for all time steps; those with the same parameters share their entry."""

    def __init__(self, head: HeadModel, params: HeadParams, chunk: int = 8) -> None:
        vectors, self._entry = torch.unique(frame_vectors(params), dim=0, return_inverse=True)
        first = torch.full((len(vectors),), params.num_frames, dtype=torch.int64, device=vectors.device)
        order = torch.arange(params.num_frames, device=vectors.device)
        first.scatter_reduce_(0, self._entry, order, "amin")
        distinct = params.frames(first)
        starts = range(0, len(vectors), chunk)
        self._vertices = torch.cat([head.vertices(distinct.frames(slice(s, s + chunk))) for s in starts])

    def vertices(self, t: int) -> Tensor:
        """(V, 3) metres at time step t."""
        return self._vertices[self._entry[t]]
