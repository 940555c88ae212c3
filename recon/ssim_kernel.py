"""Structural similarity and its gradient in one pass on the CPU (numba): the fast twin of `metrics.image.ssim_map`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from geodiff.metrics.image import SSIM_C1, SSIM_C2, gaussian_window, ssim_map
from geodiff.raster import threads
from geodiff.raster.compiled import kept

_W0, _W1, _W2, _W3, _W4, _W5 = (np.float32(w) for w in gaussian_window()[:6])
_C1, _C2 = np.float32(SSIM_C1), np.float32(SSIM_C2)


@kept(fastmath=True)
def _blur(source, target):  # noqa: ANN001, ANN202
    """target = window * source along both axes, zero outside. Both (H, W) float32.

    The taps are written out, so that a row is one vectorised expression with a single store.
    """
    height, width = source.shape
    padded = np.zeros((height + 10, width), np.float32)
    padded[5:-5] = source
    column = np.zeros(width + 10, np.float32)
    inner = column[5 : width + 5]
    for y in range(height):
        p0, p1, p2, p3, p4 = padded[y], padded[y + 1], padded[y + 2], padded[y + 3], padded[y + 4]
        p5, p6, p7, p8, p9, p10 = (
            padded[y + 5], padded[y + 6], padded[y + 7], padded[y + 8], padded[y + 9], padded[y + 10],
        )  # fmt: skip
        for x in range(width):
            inner[x] = (
                _W0 * (p0[x] + p10[x]) + _W1 * (p1[x] + p9[x]) + _W2 * (p2[x] + p8[x])
                + _W3 * (p3[x] + p7[x]) + _W4 * (p4[x] + p6[x]) + _W5 * p5[x]
            )  # fmt: skip
        row = target[y]
        for x in range(width):
            row[x] = (
                _W0 * (column[x] + column[x + 10]) + _W1 * (column[x + 1] + column[x + 9])
                + _W2 * (column[x + 2] + column[x + 8]) + _W3 * (column[x + 3] + column[x + 7])
                + _W4 * (column[x + 4] + column[x + 6]) + _W5 * column[x + 5]
            )  # fmt: skip


@kept(fastmath=True)
def _channel(x, y, gradient):  # noqa: ANN001, ANN202
    """Sum of SSIM over one channel (H, W) and its gradient with respect to x, written to `gradient`."""
    height, width = x.shape
    mx, my, mxx = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    myy, mxy = np.empty_like(x), np.empty_like(x)
    _blur(x, mx)
    _blur(y, my)
    _blur(x * x, mxx)
    _blur(y * y, myy)
    _blur(x * y, mxy)
    total = 0.0
    for i in range(height):
        row_sum = np.float32(0.0)
        for j in range(width):
            a, b = mx[i, j], my[i, j]
            lum_top, lum_low = 2 * a * b + _C1, a * a + b * b + _C1
            con_top = 2 * (mxy[i, j] - a * b) + _C2
            con_low = mxx[i, j] - a * a + myy[i, j] - b * b + _C2
            inverse = np.float32(1.0) / (lum_low * con_low)
            value = lum_top * con_top * inverse
            row_sum += value
            by_xx = -value / con_low
            by_xy = 2 * lum_top * inverse
            mx[i, j] = 2 * b * con_top * inverse - 2 * a * value / lum_low - 2 * a * by_xx - b * by_xy
            mxx[i, j] = by_xx
            mxy[i, j] = by_xy
        total += row_sum
    _blur(mx, my)
    _blur(mxx, myy)
    _blur(mxy, mx)
    for i in range(height):
        for j in range(width):
            gradient[i, j] = my[i, j] + 2 * x[i, j] * myy[i, j] + y[i, j] * mx[i, j]
    return total


class _MeanSSIM(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:  # noqa: ANN001
        a, b = x.detach().contiguous().numpy(), y.detach().contiguous().numpy()
        gradient = np.empty_like(a)
        total = sum(threads.each(_channel, [(a[c], b[c], gradient[c]) for c in range(a.shape[0])]))
        ctx.save_for_backward(torch.from_numpy(gradient / np.float32(a.size)))
        return x.new_tensor(total / a.size)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN001
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None


def mean_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean structural similarity, differentiable in x. x, y: (C, H, W) float32 in 0..1."""
    if x.device.type == "cpu" and x.dtype == torch.float32:
        return _MeanSSIM.apply(x, y)
    return ssim_map(x, y).mean()
