"""Triangle-bound Gaussians -> world and back on the CPU (numba): the fast twin of `geodiff.head.rigging.to_world`.

Gradients go to the local fields and to the vertices of the mesh. A triangle's frame has seven degrees of freedom: its
rotation's gradient is gathered as a torque about its origin, from what turns its Gaussians' means and axes, and handed
to the three vertices at once.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from geodiff.raster.compiled import kept

#: Columns of a triangle's frame: axes a0, a1, a2 (9), origin (3), scale, quaternion (4), first edge's length, other
#: edge along a0 and along a2.
_FRAME = 20
_EPS = np.float32(1e-12)


@kept()
def _quaternion(m, q):  # noqa: ANN001, ANN202
    """Quaternion (4,) wxyz of a rotation (3, 3)."""
    trace = m[0, 0] + m[1, 1] + m[2, 2]
    if trace >= m[0, 0] and trace >= m[1, 1] and trace >= m[2, 2]:
        q[0], q[1], q[2], q[3] = 1 + trace, m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    elif m[0, 0] >= m[1, 1] and m[0, 0] >= m[2, 2]:
        q[0], q[1] = m[2, 1] - m[1, 2], 1 + 2 * m[0, 0] - trace
        q[2], q[3] = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]
    elif m[1, 1] >= m[2, 2]:
        q[0], q[2] = m[0, 2] - m[2, 0], 1 + 2 * m[1, 1] - trace
        q[1], q[3] = m[0, 1] + m[1, 0], m[1, 2] + m[2, 1]
    else:
        q[0], q[3] = m[1, 0] - m[0, 1], 1 + 2 * m[2, 2] - trace
        q[1], q[2] = m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    length = max(np.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]), _EPS)
    for i in range(4):
        q[i] /= length


@kept()
def _frames(vertices, faces, used, frames):  # noqa: ANN001, ANN202
    """frames (F, _FRAME) of the triangles in use; vertices (V, 3), faces (F, 3), used (F,) bool."""
    axes = np.empty((3, 3), np.float32)
    for f in range(faces.shape[0]):
        if not used[f]:
            continue
        v0, v1, v2 = vertices[faces[f, 0]], vertices[faces[f, 1]], vertices[faces[f, 2]]
        frame = frames[f]
        ex, ey, ez = v1[0] - v0[0], v1[1] - v0[1], v1[2] - v0[2]
        hx, hy, hz = v2[0] - v0[0], v2[1] - v0[1], v2[2] - v0[2]
        edge = max(np.sqrt(ex * ex + ey * ey + ez * ez), _EPS)
        a0x, a0y, a0z = ex / edge, ey / edge, ez / edge
        nx, ny, nz = a0y * hz - a0z * hy, a0z * hx - a0x * hz, a0x * hy - a0y * hx
        high = max(np.sqrt(nx * nx + ny * ny + nz * nz), _EPS)
        nx, ny, nz = nx / high, ny / high, nz / high
        bx, by, bz = a0y * nz - a0z * ny, a0z * nx - a0x * nz, a0x * ny - a0y * nx
        axes[0, 0], axes[1, 0], axes[2, 0] = a0x, a0y, a0z
        axes[0, 1], axes[1, 1], axes[2, 1] = nx, ny, nz
        axes[0, 2], axes[1, 2], axes[2, 2] = bx, by, bz
        for i in range(3):
            for j in range(3):
                frame[3 * i + j] = axes[i, j]
            frame[9 + i] = (v0[i] + v1[i] + v2[i]) / np.float32(3)
        along = bx * hx + by * hy + bz * hz
        frame[12] = (edge + abs(along)) / 2
        _quaternion(axes, frame[13:17])
        frame[17], frame[18], frame[19] = edge, a0x * hx + a0y * hy + a0z * hz, along


@kept()
def _forward(frames, binding, means, quats, log_scales, out_means, out_quats, out_scales):  # noqa: ANN001, ANN202
    for n in range(binding.shape[0]):
        r = frames[binding[n]]
        s = r[12]
        x, y, z = means[n, 0], means[n, 1], means[n, 2]
        for i in range(3):
            out_means[n, i] = (r[3 * i] * x + r[3 * i + 1] * y + r[3 * i + 2] * z) * s + r[9 + i]
            out_scales[n, i] = np.exp(log_scales[n, i]) * s
        bw, bx, by, bz = quats[n, 0], quats[n, 1], quats[n, 2], quats[n, 3]
        length = max(np.sqrt(bw * bw + bx * bx + by * by + bz * bz), _EPS)
        bw, bx, by, bz = bw / length, bx / length, by / length, bz / length
        aw, ax, ay, az = r[13], r[14], r[15], r[16]
        out_quats[n, 0] = aw * bw - ax * bx - ay * by - az * bz
        out_quats[n, 1] = aw * bx + ax * bw + ay * bz - az * by
        out_quats[n, 2] = aw * by - ax * bz + ay * bw + az * bx
        out_quats[n, 3] = aw * bz + ax * by - ay * bx + az * bw


@kept()
def _backward(  # noqa: ANN202
    frames, binding, means, quats, log_scales, world_quats, world_scales,  # noqa: ANN001
    by_means, by_quats, by_scales, d_means, d_quats, d_scales, d_frames,  # noqa: ANN001
):  # fmt: skip
    """Gradients of the fields, and per triangle d_frames (F, 7): torque, of the origin, of the scale."""
    for n in range(binding.shape[0]):
        f = binding[n]
        r, d = frames[f], d_frames[f]
        s = r[12]
        gx, gy, gz = by_means[n, 0], by_means[n, 1], by_means[n, 2]
        x, y, z = means[n, 0], means[n, 1], means[n, 2]
        for j in range(3):
            d_means[n, j] = s * (r[j] * gx + r[3 + j] * gy + r[6 + j] * gz)
        px = r[0] * x + r[1] * y + r[2] * z
        py = r[3] * x + r[4] * y + r[5] * z
        pz = r[6] * x + r[7] * y + r[8] * z
        d[3] += gx
        d[4] += gy
        d[5] += gz
        by_scale = gx * px + gy * py + gz * pz
        for i in range(3):
            d_scales[n, i] = by_scales[n, i] * world_scales[n, i]
            by_scale += by_scales[n, i] * np.exp(log_scales[n, i])
        d[6] += by_scale
        ww, wx, wy, wz = world_quats[n, 0], world_quats[n, 1], world_quats[n, 2], world_quats[n, 3]
        qw, qx, qy, qz = by_quats[n, 0], by_quats[n, 1], by_quats[n, 2], by_quats[n, 3]
        half = np.float32(0.5)
        d[0] += s * (py * gz - pz * gy) + half * (ww * qx - qw * wx + wy * qz - wz * qy)
        d[1] += s * (pz * gx - px * gz) + half * (ww * qy - qw * wy + wz * qx - wx * qz)
        d[2] += s * (px * gy - py * gx) + half * (ww * qz - qw * wz + wx * qy - wy * qx)
        aw, ax, ay, az = r[13], -r[14], -r[15], -r[16]
        lw = aw * qw - ax * qx - ay * qy - az * qz
        lx = aw * qx + ax * qw + ay * qz - az * qy
        ly = aw * qy - ax * qz + ay * qw + az * qx
        lz = aw * qz + ax * qy - ay * qx + az * qw
        bw, bx, by, bz = quats[n, 0], quats[n, 1], quats[n, 2], quats[n, 3]
        length = max(np.sqrt(bw * bw + bx * bx + by * by + bz * bz), _EPS)
        bw, bx, by, bz = bw / length, bx / length, by / length, bz / length
        radial = lw * bw + lx * bx + ly * by + lz * bz
        d_quats[n, 0] = (lw - radial * bw) / length
        d_quats[n, 1] = (lx - radial * bx) / length
        d_quats[n, 2] = (ly - radial * by) / length
        d_quats[n, 3] = (lz - radial * bz) / length


@kept()
def _to_vertices(frames, faces, used, d_frames, d_vertices):  # noqa: ANN001, ANN202
    """Spreads the triangles' gradients over their vertices.

    With e = v1 - v0 and h = v2 - v0 = h0 a0 + h2 a2, a turn of the frame is w2 = a1.de / |e|, w1 = -a2.de / |e| and
    w0 = (w2 h0 - a1.dh) / h2; the scale follows |e| and |h2|.
    """
    for f in range(faces.shape[0]):
        if not used[f]:
            continue
        r, d = frames[f], d_frames[f]
        edge, h0, h2 = r[17], r[18], r[19]
        if edge < np.float32(1e-9) or abs(h2) < np.float32(1e-9):
            continue
        t0 = r[0] * d[0] + r[3] * d[1] + r[6] * d[2]
        t1 = r[1] * d[0] + r[4] * d[1] + r[7] * d[2]
        t2 = r[2] * d[0] + r[5] * d[1] + r[8] * d[2]
        sign = np.float32(1.0) if h2 > 0 else np.float32(-1.0)
        scale = np.float32(0.5) * d[6]
        for i in range(3):
            a0, a1, a2 = r[3 * i], r[3 * i + 1], r[3 * i + 2]
            by_e = a1 * (t0 * h0 / h2 + t2) / edge - a2 * t1 / edge + scale * (a0 - sign * h0 * a2 / edge)
            by_h = -a1 * t0 / h2 + sign * scale * a2
            third = d[3 + i] / np.float32(3)
            d_vertices[faces[f, 0], i] += third - by_e - by_h
            d_vertices[faces[f, 1], i] += third + by_e
            d_vertices[faces[f, 2], i] += third + by_h


class _PoseBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vertices, faces, binding, means, quats, log_scales):  # noqa: ANN001, ANN205
        arrays = [t.detach().contiguous().numpy() for t in (vertices, faces, binding, means, quats, log_scales)]
        points, triangles, owner, local, turns, logs = arrays
        used = np.zeros(len(triangles), np.bool_)
        used[owner] = True
        frames = np.empty((len(triangles), _FRAME), np.float32)
        _frames(points, triangles, used, frames)
        out = np.empty_like(local), np.empty_like(turns), np.empty_like(logs)
        _forward(frames, owner, local, turns, logs, *out)
        ctx.kept = (arrays, used, frames, out)
        return tuple(torch.from_numpy(array) for array in out)

    @staticmethod
    def backward(ctx, *grads):  # noqa: ANN001, ANN205
        (points, triangles, owner, local, turns, logs), used, frames, out = ctx.kept
        given = [g.contiguous().numpy() for g in grads]
        fields = np.empty_like(local), np.empty_like(turns), np.empty_like(logs)
        by_frame = np.zeros((len(triangles), 7), np.float32)
        _backward(frames, owner, local, turns, logs, out[1], out[2], *given, *fields, by_frame)
        by_vertex = None
        if ctx.needs_input_grad[0]:
            by_vertex = np.zeros_like(points)
            _to_vertices(frames, triangles, used, by_frame, by_vertex)
        return (
            None if by_vertex is None else torch.from_numpy(by_vertex), None, None,
            *(torch.from_numpy(field) for field in fields),
        )  # fmt: skip


def pose_bound(
    vertices: Tensor, faces: Tensor, binding: Tensor, means: Tensor, quats: Tensor, log_scales: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """World means (N, 3) in metres, unit quaternions (N, 4) and scales (N, 3) of Gaussians bound to triangles.

    vertices: (V, 3) posed, metres. faces: (F, 3) int64. binding: (N,) int64. means: (N, 3) in units of the triangle's
    scale. quats: (N, 4) wxyz of any length. log_scales: (N, 3). Float32 on the CPU; differentiable in vertices, means,
    quats and log_scales.
    """
    return _PoseBound.apply(vertices, faces, binding, means, quats, log_scales)


@kept()
def _facing(quats, scales, means, center, turn, axes, out):  # noqa: ANN001, ANN202
    """out (N, 3): the shortest axis in the rows of turn (3, 3), towards center; axes (N,) int8: its number + 1 and
    sign."""
    for n in range(quats.shape[0]):
        k = 0
        if scales[n, 1] < scales[n, k]:
            k = 1
        if scales[n, 2] < scales[n, k]:
            k = 2
        w, x, y, z = quats[n, 0], quats[n, 1], quats[n, 2], quats[n, 3]
        if k == 0:
            a, b, c = 1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)
        elif k == 1:
            a, b, c = 2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)
        else:
            a, b, c = 2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)
        away = a * (means[n, 0] - center[0]) + b * (means[n, 1] - center[1]) + c * (means[n, 2] - center[2])
        sign = -1 if away > 0 else 1
        axes[n] = sign * (k + 1)
        for i in range(3):
            out[n, i] = sign * (turn[i, 0] * a + turn[i, 1] * b + turn[i, 2] * c)


@kept()
def _facing_backward(quats, axes, turn, grads, out):  # noqa: ANN001, ANN202
    """out (N, 4): gradients of the quaternions."""
    for n in range(quats.shape[0]):
        sign = np.float32(1.0) if axes[n] > 0 else np.float32(-1.0)
        k = abs(axes[n]) - 1
        g, h, m = grads[n, 0] * sign, grads[n, 1] * sign, grads[n, 2] * sign
        a = 2 * (turn[0, 0] * g + turn[1, 0] * h + turn[2, 0] * m)
        b = 2 * (turn[0, 1] * g + turn[1, 1] * h + turn[2, 1] * m)
        c = 2 * (turn[0, 2] * g + turn[1, 2] * h + turn[2, 2] * m)
        w, x, y, z = quats[n, 0], quats[n, 1], quats[n, 2], quats[n, 3]
        if k == 0:
            out[n, 0], out[n, 1] = z * b - y * c, y * b + z * c
            out[n, 2], out[n, 3] = -2 * y * a + x * b - w * c, -2 * z * a + w * b + x * c
        elif k == 1:
            out[n, 0], out[n, 1] = -z * a + x * c, y * a - 2 * x * b + w * c
            out[n, 2], out[n, 3] = x * a + z * c, -w * a - 2 * z * b + y * c
        else:
            out[n, 0], out[n, 1] = y * a - x * b, z * a - w * b - 2 * x * c
            out[n, 2], out[n, 3] = w * a + z * b - 2 * y * c, x * a + y * b


class _FacingAxes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, quats, scales, means, center, turn):  # noqa: ANN001, ANN205
        arrays = [t.detach().contiguous().numpy() for t in (quats, scales, means, center, turn)]
        axes, out = np.empty(len(arrays[0]), np.int8), np.empty_like(arrays[1])
        _facing(*arrays, axes, out)
        ctx.kept = (arrays[0], axes, arrays[4])
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx, *grads):  # noqa: ANN001, ANN205
        quats, axes, turn = ctx.kept
        out = np.empty_like(quats)
        _facing_backward(quats, axes, turn, grads[0].contiguous().numpy(), out)
        return torch.from_numpy(out), None, None, None, None


def facing_axes(quats: Tensor, scales: Tensor, means: Tensor, center: Tensor, turn: Tensor) -> Tensor:
    """(N, 3) shortest axes, turned towards a point and into other axes; differentiable in the quaternions.

    quats: (N, 4) unit wxyz. scales, means: (N, 3). center: (3,). turn: (3, 3) from the world to the wanted axes.
    """
    return _FacingAxes.apply(quats, scales, means, center, turn)
