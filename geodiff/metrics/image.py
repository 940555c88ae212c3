"""Image similarity inside a mask: PSNR and SSIM."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor

#: Window and constants of Wang et al. 2004 for images in 0..1.
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def gaussian_window(size: int = SSIM_WINDOW, sigma: float = SSIM_SIGMA) -> np.ndarray:
    """(size,) float32 weights of a normalised Gaussian."""
    offsets = np.arange(size) - (size - 1) / 2
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    return (weights / weights.sum()).astype(np.float32)


def ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity at every pixel (Wang et al. 2004, equation 13), differentiable.

    x, y: (C, H, W) in 0..1. Returns (C, H, W). Pixels outside the image count as zero in both.
    """
    channels = x.shape[0]
    window = torch.as_tensor(gaussian_window(), dtype=x.dtype, device=x.device)
    moments = torch.cat([x, y, x * x, y * y, x * y])[None]
    half, groups = SSIM_WINDOW // 2, 5 * channels
    kernel = window.expand(groups, 1, -1)
    moments = torch.nn.functional.conv2d(moments, kernel[:, :, None, :], padding=(0, half), groups=groups)
    moments = torch.nn.functional.conv2d(moments, kernel[:, :, :, None], padding=(half, 0), groups=groups)
    mx, my, mxx, myy, mxy = moments[0].split(channels)
    variance = (mxx - mx * mx) + (myy - my * my)
    covariance = mxy - mx * my
    luminance = (2 * mx * my + SSIM_C1) / (mx * mx + my * my + SSIM_C1)
    return luminance * (2 * covariance + SSIM_C2) / (variance + SSIM_C2)


def ssim(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean structural similarity over the mask. image, truth: (H, W, 3) in 0..1; mask: (H, W) bool, or all pixels."""
    x, y = (torch.as_tensor(np.ascontiguousarray(a.transpose(2, 0, 1)), dtype=torch.float32) for a in (image, truth))
    similarity = ssim_map(x, y).mean(0).numpy()
    return float(similarity.mean() if mask is None else _masked(similarity, mask).mean())


def psnr(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB over the mask, at most 100. image, truth: (H, W, 3) in 0..1."""
    squared = np.square(image.astype(np.float64) - truth.astype(np.float64)).mean(-1)
    error = float(squared.mean() if mask is None else _masked(squared, mask).mean())
    return min(100.0, -10.0 * math.log10(max(error, 1e-10)))


def evaluation_mask(matte: np.ndarray, dilation: float = 0.02) -> np.ndarray:
    """The region that metrics are measured in: the true matte dilated by a share of the image's side.

    matte: (H, W) in 0..1. Returns (H, W) bool.
    """
    radius = max(1, round(dilation * max(matte.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate((matte > 0.5).astype(np.uint8), disc) > 0


def _masked(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if not mask.any():
        raise ValueError("the mask must contain at least one pixel to measure a metric in, this one is empty")
    return values[mask]
