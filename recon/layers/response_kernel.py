"""What Gaussians do beside their triangles, on the CPU (numba): the fast twin of `recon.layers.response.answered`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from geodiff.raster.compiled import kept


@kept()
def _forward(matrices, changes, binding, moving, means, colors, out_means, out_colors):  # noqa: ANN001, ANN202
    for n in range(binding.shape[0]):
        for i in range(3):
            out_means[n, i], out_colors[n, i] = means[n, i], colors[n, i]
        change, row = changes[binding[n]], matrices[n]
        if moving[n, 0]:
            for j in range(3):
                for i in range(3):
                    out_means[n, i] += row[3 * j + i] * change[j]
        if moving[n, 1]:
            for j in range(3, 7):
                for i in range(3):
                    out_colors[n, i] += row[3 * j + i] * change[j]


@kept()
def _backward(changes, binding, moving, by_means, by_colors, by_matrices):  # noqa: ANN001, ANN202
    for n in range(binding.shape[0]):
        change, row = changes[binding[n]], by_matrices[n]
        for j in range(7):
            for i in range(3):
                if j < 3:
                    row[3 * j + i] = by_means[n, i] * change[j] if moving[n, 0] else np.float32(0)
                else:
                    row[3 * j + i] = by_colors[n, i] * change[j] if moving[n, 1] else np.float32(0)


class _Answered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrices, means, colors, changes, binding, moving):  # noqa: ANN001, ANN205
        given = [t.detach().contiguous().numpy() for t in (changes, binding, moving)]
        fields = [t.detach().contiguous().numpy() for t in (means, colors)]
        out = [np.empty_like(field) for field in fields]
        _forward(matrices.detach().contiguous().numpy(), *given, *fields, *out)
        ctx.given, ctx.shape = given, matrices.shape
        return torch.from_numpy(out[0]), torch.from_numpy(out[1])

    @staticmethod
    def backward(ctx, *grads):  # noqa: ANN001, ANN205
        by_means, by_colors = (grad.contiguous() for grad in grads)
        by_matrices = None
        if ctx.needs_input_grad[0]:
            by_matrices = torch.empty(ctx.shape)
            _backward(*ctx.given, by_means.numpy(), by_colors.numpy(), by_matrices.numpy())
        return by_matrices, by_means, by_colors, None, None, None


def answered_fast(
    matrices: Tensor, means: Tensor, colors: Tensor, changes: Tensor, binding: Tensor, moving: Tensor
) -> tuple[Tensor, Tensor]:
    """As `recon.layers.response.answered`; float32 on the CPU."""
    return _Answered.apply(matrices, means, colors, changes, binding, moving)  # type: ignore[no-any-return]


@kept()
def changes_of_triangles(vertices, faces, rest, axes, lengths, normals, areas, limits, out):  # noqa: ANN001, ANN202
    """out (F, 7) float32 of `Surface.changes`.

    vertices, rest: (V, 3). faces: (F, 3). axes: (F, 3, 3), lengths: (F,), normals: (F, 3) and areas: (F,) of the
    triangles at rest. limits: (2,) of the movement and of the stretch.
    """
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        x, y, z = np.float32(0), np.float32(0), np.float32(0)
        for corner in (a, b, c):
            x += vertices[corner, 0] - rest[corner, 0]
            y += vertices[corner, 1] - rest[corner, 1]
            z += vertices[corner, 2] - rest[corner, 2]
        share = 1 / (3 * lengths[f])
        size = np.sqrt(x * x + y * y + z * z) * share
        share *= limits[0] / max(size, limits[0])
        for i in range(3):
            out[f, i] = (x * axes[f, 0, i] + y * axes[f, 1, i] + z * axes[f, 2, i]) * share
        o, u, v = vertices[a], vertices[b], vertices[c]
        ux, uy, uz = u[0] - o[0], u[1] - o[1], u[2] - o[2]
        vx, vy, vz = v[0] - o[0], v[1] - o[1], v[2] - o[2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        area = np.sqrt(nx * nx + ny * ny + nz * nz)
        scale = 1 / max(area, np.float32(1e-12))
        out[f, 3], out[f, 4], out[f, 5] = (
            nx * scale - normals[f, 0], ny * scale - normals[f, 1], nz * scale - normals[f, 2],
        )  # fmt: skip
        stretch = area / max(areas[f], np.float32(1e-12)) - 1
        out[f, 6] = min(max(stretch, -limits[1]), limits[1])
