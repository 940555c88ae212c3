"""Image similarity inside a mask: PSNR, SSIM at one and at several scales, and how much fine detail there is."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor

from geodiff.metrics.checks import NotMeasured, check_pair

#: Window and constants of Wang et al. 2004 for images in 0..1.
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
#: Exponents of the five scales of MS-SSIM, finest first (Wang et al. 2003, section 3.2).
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
#: The shorter side that leaves room for the window at the coarsest scale.
MS_SSIM_SIDE = SSIM_WINDOW * 2 ** (len(MS_SSIM_WEIGHTS) - 1)
#: Standard deviation of the blur that parts fine detail from the rest, in pixels of an image of 256.
DETAIL_SIGMA = 1.0


def gaussian_window(size: int = SSIM_WINDOW, sigma: float = SSIM_SIGMA) -> np.ndarray:
    """(size,) float32 weights of a normalised Gaussian."""
    offsets = np.arange(size) - (size - 1) / 2
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    return (weights / weights.sum()).astype(np.float32)


def ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity at every pixel (Wang et al. 2004, equation 13), differentiable.

    x, y: (C, H, W) in 0..1. Returns (C, H, W). Pixels outside the image count as zero in both.
    """
    luminance, structure = ssim_parts(x, y)
    return luminance * structure


def ssim_parts(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of `ssim_map` (C, H, W): luminance, and contrast times structure (Wang et al. 2004, section
    III)."""
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
    return luminance, (2 * covariance + SSIM_C2) / (variance + SSIM_C2)


def ssim(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean structural similarity over the mask (Wang et al. 2004), 1 for equal images.

    image, truth: (H, W, 3) in 0..1; mask: (H, W) bool, or all pixels. Raises ValueError for other shapes, values that
    are not finite and an empty mask.
    """
    check_pair(image, truth, mask)
    similarity = ssim_map(_planes(image), _planes(truth)).mean(0).numpy()
    return float(similarity.mean() if mask is None else similarity[mask].mean())


def ms_ssim(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Multi-scale structural similarity (Wang et al. 2003, equation 7), 1 for equal images.

    Five scales, each half the one before (mean of 2x2 pixels); contrast and structure count at all of them, luminance
    at the coarsest. Pixels whose window leaves the image are left out, at a coarser scale those of which half or less
    lies in the mask, and negative means count as zero. With no mask this is torchmetrics'
    `multiscale_structural_similarity_index_measure` but for the border of its coarsest scale.

    image, truth: (H, W, 3) in 0..1; mask: (H, W) bool, or all pixels. Raises ValueError as `ssim`, NotMeasured when the
    image or the mask is too small for the coarsest scale.
    """
    check_pair(image, truth, mask)
    if min(truth.shape[:2]) < MS_SSIM_SIDE:
        raise NotMeasured(f"frames must have {MS_SSIM_SIDE} pixels a side for five scales, these have less")
    x, y = _planes(image), _planes(truth)
    inside = torch.ones(x.shape[1:]) if mask is None else torch.as_tensor(mask, dtype=torch.float32)
    border, result = SSIM_WINDOW // 2, 1.0
    for scale, exponent in enumerate(MS_SSIM_WEIGHTS):
        if scale:
            x, y, inside = (torch.nn.functional.avg_pool2d(a[None], 2)[0] for a in (x, y, inside[None]))
            inside = inside[0]
        luminance, structure = (part.mean(0)[border:-border, border:-border] for part in ssim_parts(x, y))
        chosen = inside[border:-border, border:-border] > 0.5
        if not chosen.any():
            raise NotMeasured("the region is too small for five scales")
        value = (luminance * structure if scale == len(MS_SSIM_WEIGHTS) - 1 else structure)[chosen].mean()
        result *= max(0.0, float(value)) ** exponent
    return result


def psnr(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB over the mask, at most 100. image, truth: (H, W, 3) in 0..1.

    Raises ValueError for other shapes, values that are not finite and an empty mask.
    """
    check_pair(image, truth, mask)
    squared = np.square(image.astype(np.float64) - truth.astype(np.float64)).mean(-1)
    error = float(squared.mean() if mask is None else squared[mask].mean())
    return min(100.0, -10.0 * math.log10(max(error, 1e-10)))


def high_frequency_ratio(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Energy of fine detail as a share of the truth's: 1 is right, below 1 is blurred, above 1 is noisy or too sharp.

    Detail is what a Gaussian blur takes away (the finest band of a Laplacian pyramid, Burt and Adelson 1983), with a
    standard deviation of 1/256 of the image's side, so that the same content counts at any size. Energy is its mean
    square over the mask and the channels. Noise can stand in for detail: read it beside LPIPS and PSNR.

    image, truth: (H, W, 3) in 0..1. Raises ValueError as `ssim`, NotMeasured where the truth has no detail.
    """
    check_pair(image, truth, mask)
    energy, true_energy = (_detail_energy(a, mask) for a in (image, truth))
    # Below a quarter of the rounding of 8 bits there is nothing to compare with.
    if true_energy < (0.25 / 255) ** 2:
        raise NotMeasured("the truth has no fine detail there")
    return energy / true_energy


def _detail_energy(image: np.ndarray, mask: np.ndarray | None) -> float:
    pixels = np.ascontiguousarray(image, dtype=np.float32)
    sigma = DETAIL_SIGMA * max(pixels.shape[:2]) / 256
    blurred = cv2.GaussianBlur(pixels, (0, 0), max(sigma, 0.5), borderType=cv2.BORDER_REFLECT_101)
    squared = np.square(pixels.astype(np.float64) - blurred).mean(-1)
    return float(squared.mean() if mask is None else squared[mask].mean())


def evaluation_mask(matte: np.ndarray, dilation: float = 0.02) -> np.ndarray:
    """The region that metrics are measured in: the true matte dilated by a share of the image's side.

    matte: (H, W) in 0..1. Returns (H, W) bool.
    """
    return cv2.dilate((matte > 0.5).astype(np.uint8), _disc(matte, dilation)) > 0


def interior_mask(matte: np.ndarray, erosion: float = 0.02) -> np.ndarray:
    """The true matte eroded by a share of the image's side: detail of the head without the edge of its silhouette,
    which outweighs it.

    matte: (H, W) in 0..1. Returns (H, W) bool.
    """
    return cv2.erode((matte > 0.5).astype(np.uint8), _disc(matte, erosion)) > 0


def _disc(matte: np.ndarray, share: float) -> np.ndarray:
    radius = max(1, round(share * max(matte.shape)))
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _planes(image: np.ndarray) -> Tensor:
    """(H, W, 3) array -> (3, H, W) float32 tensor."""
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)), dtype=torch.float32)
