"""PSNR, SSIM, MS-SSIM and fine detail against known values."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from geodiff.metrics.checks import NotMeasured
from geodiff.metrics.image import (
    evaluation_mask,
    high_frequency_ratio,
    interior_mask,
    ms_ssim,
    psnr,
    ssim,
    ssim_map,
)


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


def _astronaut(size: int = 192) -> np.ndarray:
    picture = cv2.resize(skimage.data.astronaut(), (size, size), interpolation=cv2.INTER_AREA)
    return picture.astype(np.float32) / 255


def test_psnr_agrees_with_scikit_image() -> None:
    image, truth = _pair()
    assert psnr(image, truth) == pytest.approx(peak_signal_noise_ratio(truth, image, data_range=1.0), abs=1e-6)


def test_ms_ssim_agrees_with_torchmetrics() -> None:
    truth = _astronaut()
    blurred = ndimage.gaussian_filter(truth, (1.5, 1.5, 0), mode="reflect")
    # torchmetrics 1.9.0, multiscale_structural_similarity_index_measure(blurred, truth, data_range=1.0), which mirrors
    # the image at its border where the coarsest scale is left without it here.
    assert ms_ssim(blurred, truth) == pytest.approx(0.956034, abs=1e-4)
    assert ms_ssim(truth, truth) == pytest.approx(1.0)


def test_ms_ssim_in_a_mask_sees_only_what_is_there() -> None:
    truth = _astronaut(256)
    spoiled = truth.copy()
    spoiled[:, :16] = 0.5
    mask = np.zeros(truth.shape[:2], bool)
    # Sixteen pixels a step at the coarsest scale, five steps the window's half: out of reach of the spoiled part.
    mask[:, 112:] = True
    assert ms_ssim(spoiled, truth, mask) == pytest.approx(1.0)
    assert ms_ssim(spoiled, truth) < 0.99


def test_ms_ssim_needs_room() -> None:
    with pytest.raises(NotMeasured, match="176 pixels"):
        ms_ssim(_astronaut(160), _astronaut(160))
    dot = np.zeros((192, 192), bool)
    dot[96, 96] = True
    with pytest.raises(NotMeasured, match="too small"):
        ms_ssim(_astronaut(), _astronaut(), dot)


@settings(max_examples=8, deadline=None)
@given(sigma=st.floats(0.6, 4.0), noise=st.floats(0.03, 0.2))
def test_blur_loses_detail_and_noise_adds_it(sigma: float, noise: float) -> None:
    truth = _astronaut(96)
    blurred = ndimage.gaussian_filter(truth, (sigma, sigma, 0))
    noisy = truth + np.random.default_rng(0).normal(0, noise, truth.shape)
    assert high_frequency_ratio(truth, truth) == 1.0
    assert high_frequency_ratio(blurred, truth) < 0.9 < 1.0 < high_frequency_ratio(noisy, truth)


def test_detail_of_twice_the_contrast_has_four_times_the_energy() -> None:
    truth = _astronaut(96)
    assert high_frequency_ratio(2 * truth - 0.5, truth) == pytest.approx(4.0, rel=1e-4)
    with pytest.raises(NotMeasured, match="no fine detail"):
        high_frequency_ratio(truth, np.full_like(truth, 0.5))


def test_detail_is_measured_in_the_mask() -> None:
    truth = _astronaut(96)
    half = truth.copy()
    half[:, 48:] = ndimage.gaussian_filter(truth, (3, 3, 0))[:, 48:]
    left = np.zeros((96, 96), bool)
    left[:, :40] = True
    assert high_frequency_ratio(half, truth, left) == pytest.approx(1.0)
    assert high_frequency_ratio(half, truth, ~left) < 0.7


def test_interior_mask_shrinks_by_the_share_of_the_side() -> None:
    matte = np.zeros((100, 100))
    matte[20:80, 30:70] = 1.0
    assert interior_mask(matte).sum() == 56 * 36


@pytest.mark.parametrize("metric", [psnr, ssim, ms_ssim, high_frequency_ratio])
def test_wrong_input_is_told(metric) -> None:
    image = _astronaut()
    with pytest.raises(ValueError, match="one shape"):
        metric(image, image[:-1])
    with pytest.raises(ValueError, match="one shape"):
        metric(image[..., 0], image[..., 0])
    spoiled = image.copy()
    spoiled[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="measured map must be finite"):
        metric(spoiled, image)
    with pytest.raises(ValueError, match="true map must be finite"):
        metric(image, spoiled)
    with pytest.raises(ValueError, match="at least one pixel"):
        metric(image, image, np.zeros(image.shape[:2], bool))
    with pytest.raises(ValueError, match="must be bool"):
        metric(image, image, np.ones(image.shape[:2], np.float32))
