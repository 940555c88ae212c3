"""PSNR and SSIM against known values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from geodiff.metrics.image import evaluation_mask, psnr, ssim, ssim_map


def _pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 48)[:, None, None] * np.ones((1, 40, 3))
    return ramp, np.clip(ramp + rng.normal(0, 0.1, ramp.shape), 0, 1)


def test_psnr_of_a_known_error() -> None:
    image = np.zeros((4, 4, 3))
    assert psnr(image, image + 0.1) == pytest.approx(20.0)
    assert psnr(image, image) == 100.0


def test_mask_limits_what_is_measured() -> None:
    image, truth = np.zeros((8, 8, 3)), np.zeros((8, 8, 3))
    truth[0] = 1.0
    mask = np.zeros((8, 8), bool)
    mask[4:] = True
    assert psnr(image, truth, mask) == 100.0
    with pytest.raises(ValueError, match="at least one pixel"):
        psnr(image, truth, np.zeros((8, 8), bool))


def test_ssim_agrees_with_scikit_image_inside_the_border() -> None:
    image, truth = _pair()
    inner = np.zeros(image.shape[:2], bool)
    inner[6:-6, 6:-6] = True
    _, similarity = structural_similarity(
        image, truth, data_range=1.0, channel_axis=2, gaussian_weights=True, sigma=1.5, full=True,
        use_sample_covariance=False, truncate=3.5,
    )  # fmt: skip
    assert ssim(image, truth, inner) == pytest.approx(similarity[inner].mean(), abs=2e-3)
    assert ssim(truth, truth) == pytest.approx(1.0)


def test_ssim_map_is_differentiable() -> None:
    x = torch.rand(1, 12, 12, dtype=torch.float64, requires_grad=True)
    y = torch.rand(1, 12, 12, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: ssim_map(a, y).mean(), (x,))


def test_evaluation_mask_grows_by_the_share_of_the_side() -> None:
    matte = np.zeros((100, 100))
    matte[50, 50] = 1.0
    grown = evaluation_mask(matte)
    assert grown[50].sum() == 5 and grown[:, 50].sum() == 5
