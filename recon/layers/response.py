"""What each Gaussian does beside its triangle when the expression moves and turns the surface there.

A Gaussian that is bound to a triangle goes where the triangle goes, in one colour. The edge of the hair does not follow
a raised brow, and skin that turns under a fixed light or is pressed together changes its shade. All of that is local
and nearly linear, so every Gaussian has two matrices: from the movement of its triangle to its own place on it, and
from the turn and the stretch of its triangle to its colour. Unlike a function of the whole face's expression they say
the same of expressions that were never seen; there is nothing like them in GeoDiff4D.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from geodiff.errors import InputError
from geodiff.head.model import HeadModel
from geodiff.head.rigging import triangle_frames
from geodiff.types import HeadParams
from recon.layers.posing import FastHead
from recon.layers.response_kernel import answered_fast, changes_of_triangles
from recon.layers.rigged import Fields

#: What changes of a triangle, and how much of that moves Gaussians; the rest colours them.
_COLUMNS, _MOVING = 7, 3
#: Name and width of the field: a Gaussian's columns of three numbers, one after the other.
FIELD, WIDTH = "response", 3 * _COLUMNS
#: Name under which the shape is stored that the surface has, without what refinement learnt.
_SHAPE = "identity.shape"
#: Change of a triangle's area, as a share, beyond which its stretch is held.
_STRETCH = 0.6


@dataclass(frozen=True)
class ResponseConfig:
    """reach: how far the movement of a triangle counts, in its own lengths."""

    enabled: bool = False
    reach: float = 6.0


class Surface:
    """What expression, jaw and eyes do to the triangles of one identity's head; its pose does nothing.

    reach: as in ResponseConfig.
    """

    def __init__(self, head: HeadModel, identity: HeadParams, reach: float) -> None:
        self.identity = identity
        self._head, self._reach = head, reach
        self._still = head.zeros().replace(shape=identity.shape)
        self._fast = FastHead(head, identity.static_offset)
        self._rest = self._fast.vertices(self._still).detach()
        frames = triangle_frames(self._rest[None], head.faces)
        self._rotations, self._lengths = frames.rotations[0], frames.scales[0].clamp_min(1e-6)[:, None]
        self._normals, self._areas = _normals(self._rest, head.faces)

    @torch.no_grad()
    def changes(self, params: HeadParams) -> Tensor:
        """(F, 7) of one frame (T = 1): movement of each triangle in its axes and lengths at rest, change of its unit
        normal in the head's axes, and by which share its area grew."""
        moving = {name: getattr(params, name).detach() for name in ("expr", "jaw_pose", "eyes_pose")}
        vertices = self._fast.vertices(self._still.replace(**moving))
        return self._fast_changes(vertices) if vertices.device.type == "cpu" else self.plain_changes(vertices)

    def plain_changes(self, vertices: Tensor) -> Tensor:
        """`changes` of vertices (V, 3) that expression, jaw and eyes have moved."""
        shift = (vertices - self._rest)[self._head.faces].mean(1)
        local = (shift[:, None] @ self._rotations)[:, 0] / self._lengths
        local = local * (self._reach / local.norm(dim=1, keepdim=True).clamp_min(self._reach))
        normals, areas = _normals(vertices, self._head.faces)
        stretch = (areas / self._areas.clamp_min(1e-12) - 1).clamp(-_STRETCH, _STRETCH)
        return torch.cat([local, normals - self._normals, stretch[:, None]], 1)

    def _fast_changes(self, vertices: Tensor) -> Tensor:
        found = torch.empty(len(self._areas), _COLUMNS)
        known = self._rest, self._rotations, self._lengths[:, 0], self._normals, self._areas
        arrays = [t.contiguous().numpy() for t in (vertices, self._head.faces, *known)]
        changes_of_triangles(*arrays, np.array([self._reach, _STRETCH], np.float32), found.numpy())
        return found

    def to(self, device: torch.device | str) -> Surface:
        return Surface(self._head.to(device), self.identity.to(device), self._reach)


@dataclass(frozen=True)
class Response:
    """The matrices (N, WIDTH) of a fitted avatar's Gaussians, and the surface that they answer."""

    matrices: Tensor
    surface: Surface

    def applied(self, fields: Fields, params: HeadParams, binding: Tensor) -> Fields:
        """Fields of N Gaussians in a frame (T = 1). params: what the head is posed by. binding: (N,) triangles."""
        return respond(fields, self.matrices, self.surface.changes(params), binding)

    def of(self, rows: Tensor) -> Response:
        """That of some Gaussians."""
        return replace(self, matrices=self.matrices[rows])

    def to(self, device: torch.device | str) -> Response:
        return Response(self.matrices.to(device), self.surface.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """What the avatar's file must hold."""
        return {FIELD: self.matrices, _SHAPE: self.surface.identity.shape}

    @staticmethod
    def read(
        tensors: dict[str, Tensor], head: HeadModel, identity: HeadParams, config: ResponseConfig, count: int,
        origin: object,
    ) -> Response:  # fmt: skip
        """That of an avatar's file with `count` Gaussians. Raises InputError where it is missing or of other ones."""
        matrices, shape = tensors.get(FIELD), tensors.get(_SHAPE)
        if matrices is None or shape is None or matrices.shape != (count, WIDTH):
            raise InputError(
                f"{origin} must hold {FIELD} of {count} x {WIDTH} numbers and {_SHAPE}, and it does not: reconstruct "
                "the avatar again"
            )
        return Response(matrices, Surface(head, identity.replace(shape=shape), config.reach))


def first_matrices(count: int) -> Tensor:
    """(N, WIDTH) of Gaussians that go with their triangles."""
    return torch.zeros(count, WIDTH)


def respond(fields: Fields, matrices: Tensor, changes: Tensor, binding: Tensor, moving: Tensor | None = None) -> Fields:
    """Fields of N Gaussians with what they do beside their triangles; differentiable in the matrices (N, WIDTH).

    changes: (F, 7) of `Surface.changes`. binding: (N,) triangles. moving: (N, 2) bool, whose place and whose colour may
    change; None for all.
    """
    if moving is None:
        moving = torch.ones(len(binding), 2, dtype=torch.bool, device=binding.device)
    means, colors = fields["means"], fields["sh_dc"][:, 0]
    fast = matrices.device.type == "cpu" and matrices.dtype == torch.float32
    means, colors = (answered_fast if fast else answered)(matrices, means, colors, changes, binding, moving)
    return {**fields, "means": means, "sh_dc": colors[:, None]}


def answered(
    matrices: Tensor, means: Tensor, colors: Tensor, changes: Tensor, binding: Tensor, moving: Tensor
) -> tuple[Tensor, Tensor]:
    """Means and colours (N, 3) of N Gaussians after `changes`; the rest as in `respond`."""
    answers = matrices.view(-1, _COLUMNS, 3) * changes[binding][:, :, None]
    move, color = answers[:, :_MOVING].sum(1), answers[:, _MOVING:].sum(1)
    return means + move * moving[:, :1], colors + color * moving[:, 1:]


def _normals(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Unit normals (F, 3) and doubled areas (F,) of triangles; a normal of 0 where there is no area."""
    a, b, c = vertices[faces].unbind(1)
    cross = torch.linalg.cross(b - a, c - a)
    area = cross.norm(dim=1)
    return cross / area.clamp_min(1e-12)[:, None], area
