"""Losses of avatar optimisation. Each is a pure function and a mean, so that weights do not depend on sizes."""

from __future__ import annotations

import torch
from torch import Tensor

from recon.ssim_kernel import mean_ssim


def photometric_loss(image: Tensor, truth: Tensor, dssim_weight: float) -> Tensor:
    """(1 - w) L1 + w D-SSIM, with D-SSIM = 1 - SSIM (3D Gaussian splatting, equation 7). image, truth: (H, W, 3)."""
    l1 = (image - truth).abs().mean()
    if dssim_weight == 0:
        return l1
    similarity = mean_ssim(image.permute(2, 0, 1).contiguous(), truth.permute(2, 0, 1).contiguous())
    return (1 - dssim_weight) * l1 + dssim_weight * (1 - similarity)


def normal_loss(rendered: Tensor, normals: Tensor, mask: Tensor) -> Tensor:
    """GeoDiff4D, equation 2: L1 between the rendered normals and alpha n over the foreground.

    rendered: (H, W, 3) splatted over zero. normals: (H, W, 3) in -1..1. mask: (H, W, 1) in 0..1.
    """
    inside = (mask > 0.5).to(rendered.dtype)
    return ((rendered - mask * normals).abs() * inside).sum() / (3 * inside.sum()).clamp_min(1.0)


def mask_loss(alpha: Tensor, mask: Tensor) -> Tensor:
    """L1 between the rendered alpha and the foreground mask, (H, W, 1) each."""
    return (alpha - mask).abs().mean()


def position_loss(means: Tensor, threshold: Tensor | float) -> Tensor:
    """GaussianAvatars, equation 4: how far local means leave their triangle's neighbourhood.

    means: (N, 3) in units of the triangle's scale. threshold: (N,) or scalar, free distance in the same units.
    """
    return torch.relu(means.square().sum(-1).add(1e-12).sqrt() - threshold).mean()


def scale_loss(scales: Tensor, threshold: Tensor | float) -> Tensor:
    """GaussianAvatars, equation 5: how much local scales (N, 3) exceed the threshold, (N, 1) or scalar."""
    return torch.relu(scales - threshold).square().sum(-1).add(1e-12).sqrt().mean()
