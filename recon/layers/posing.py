"""One frame of a head with gradients to all of its parameters, in a fraction of the time of `HeadModel.vertices`.

The same vertices; the gradient differs in one place: how far lips and lids are pushed apart where they touch counts as
given, so that expressions pass through contacts undiminished. Where nothing touches, it is exact.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from geodiff.geometry import axis_angle_to_matrix
from geodiff.head.model import HeadModel
from geodiff.raster.compiled import kept
from geodiff.types import HeadParams


@kept()
def _skin(points, weights, moves, out):  # noqa: ANN001, ANN202
    """out (V, 3) = sum_j weights (V, J) * (moves (J, 3, 4) applied to points (V, 3))."""
    joints = weights.shape[1]
    for v in range(points.shape[0]):
        x, y, z = points[v, 0], points[v, 1], points[v, 2]
        for i in range(3):
            total = np.float32(0.0)
            for j in range(joints):
                m = moves[j, i]
                total += weights[v, j] * (m[0] * x + m[1] * y + m[2] * z + m[3])
            out[v, i] = total


@kept()
def _skin_backward(points, weights, moves, grads, by_points, by_moves):  # noqa: ANN001, ANN202
    joints = weights.shape[1]
    for v in range(points.shape[0]):
        x, y, z = points[v, 0], points[v, 1], points[v, 2]
        gx, gy, gz = grads[v, 0], grads[v, 1], grads[v, 2]
        ax, ay, az = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for j in range(joints):
            w = weights[v, j]
            if w == 0:
                continue
            m, d = moves[j], by_moves[j]
            ax += w * (m[0, 0] * gx + m[1, 0] * gy + m[2, 0] * gz)
            ay += w * (m[0, 1] * gx + m[1, 1] * gy + m[2, 1] * gz)
            az += w * (m[0, 2] * gx + m[1, 2] * gy + m[2, 2] * gz)
            for i in range(3):
                g = w * grads[v, i]
                d[i, 0] += g * x
                d[i, 1] += g * y
                d[i, 2] += g * z
                d[i, 3] += g
        by_points[v, 0], by_points[v, 1], by_points[v, 2] = ax, ay, az


class _Skin(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points, weights, moves):  # noqa: ANN001, ANN205
        arrays = [t.detach().contiguous().numpy() for t in (points, weights, moves)]
        out = np.empty_like(arrays[0])
        _skin(*arrays, out)
        ctx.arrays = arrays
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx, *grads):  # noqa: ANN001, ANN205
        points, weights, moves = ctx.arrays
        by_points, by_moves = np.empty_like(points), np.zeros(moves.shape, np.float64)
        _skin_backward(points, weights, moves, grads[0].contiguous().numpy(), by_points, by_moves)
        return torch.from_numpy(by_points), None, torch.from_numpy(by_moves.astype(np.float32))


class FastHead:
    """One head of one identity's static offsets, posed frame by frame."""

    def __init__(self, head: HeadModel, static_offset: Tensor | None) -> None:
        self.head, self.static_offset = head, static_offset
        count = head.num_vertices
        self._still = head.template if static_offset is None else head.template + static_offset
        self._shape = head.shape_basis.reshape(head.num_shape, 3 * count)
        self._expr = head.expr_basis.reshape(head.num_expr, 3 * count)
        self._joints, _ = head.reduced(head.faces[:1])
        contacts = head.contacts
        self._touching = None if contacts is None else contacts.indices()
        self._contacts = None if contacts is None else contacts.restricted(contacts.indices())
        self._poses = None if head.pose_basis is None else head.pose_basis.reshape(len(head.pose_basis), 3 * count)

    def to(self, device: torch.device | str) -> FastHead:
        return FastHead(self.head.to(device), None if self.static_offset is None else self.static_offset.to(device))

    def vertices(self, params: HeadParams, moved: Tensor | None = None) -> Tensor:
        """(V, 3) metres of one frame (T = 1), differentiable in all parameters.

        moved: (V, 3) metres added to the unposed head, before contacts.
        """
        unposed = self.unposed(params)
        if moved is not None:
            unposed = unposed + moved
        unposed = self._apart(unposed, params)
        if self._poses is not None:
            eyes = params.eyes_pose.reshape(-1, 2, 3)
            turns = axis_angle_to_matrix(torch.stack([params.neck_pose, params.jaw_pose, eyes[:, 0], eyes[:, 1]], 1))
            feature = (turns - torch.eye(3, device=turns.device)).reshape(-1)
            unposed = unposed + (feature @ self._poses).view(-1, 3)
        moves = self._joints.joint_transforms(params)[0, :, :3]
        if unposed.device.type == "cpu" and unposed.dtype == torch.float32:
            return _Skin.apply(unposed, self.head.skinning, moves)
        blended = torch.einsum("vj,jab->vab", self.head.skinning, moves)
        return torch.einsum("vab,vb->va", blended[..., :3], unposed) + blended[..., 3]

    def unposed(self, params: HeadParams) -> Tensor:
        """(V, 3) shaped head with its expression, before contacts and joints."""
        weights = params.expr
        if self.head.contacts is not None:
            weights = self.head.contacts.limited(weights, params.jaw_pose)
        return self._still + (params.shape @ self._shape + weights[0] @ self._expr).view(-1, 3)

    def _apart(self, unposed: Tensor, params: HeadParams) -> Tensor:
        if self._contacts is None or self._touching is None:
            return unposed
        with torch.no_grad():
            points = unposed[self._touching][None]
            push = self._contacts.apply(points, params.eyes_pose, params.jaw_pose) - points
            whole = torch.zeros_like(unposed)
            whole[self._touching] = push[0]
        return unposed + whole
