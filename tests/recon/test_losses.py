"""Losses against their readable twins and by hand."""

from __future__ import annotations

import pytest
import torch

from geodiff.metrics.image import ssim_map
from recon import losses
from recon.ssim_kernel import mean_ssim


@pytest.mark.parametrize("size", [(7, 9), (32, 32), (33, 50)])
def test_fast_ssim_agrees_with_its_twin_forward_and_backward(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(3, *size, generator=generator)
    x = (y + 0.1 * torch.randn(3, *size, generator=generator)).requires_grad_()
    fast = mean_ssim(x, y)
    (gradient,) = torch.autograd.grad(fast, x)
    exact = x.detach().double().requires_grad_()
    slow = ssim_map(exact, y.double()).mean()
    (expected,) = torch.autograd.grad(slow, exact)
    assert float(fast.detach()) == pytest.approx(float(slow.detach()), abs=1e-5)
    assert float((gradient - expected).norm() / expected.norm()) < 1e-3


def test_photometric_loss_of_equal_images_is_zero() -> None:
    image = torch.rand(16, 16, 3)
    assert float(losses.photometric_loss(image, image, 0.2)) == pytest.approx(0.0, abs=1e-6)
    assert float(losses.photometric_loss(image * 0, image * 0 + 0.5, 0.0)) == pytest.approx(0.5)


def test_normal_loss_counts_the_foreground_only() -> None:
    normals = torch.zeros(4, 4, 3)
    normals[..., 2] = 1.0
    mask = torch.zeros(4, 4, 1)
    mask[:2] = 1.0
    rendered = normals.clone()
    rendered[2:] = -1.0
    assert float(losses.normal_loss(rendered, normals, mask)) == 0.0
    rendered[0] = 0.0
    assert float(losses.normal_loss(rendered, normals, mask)) == pytest.approx(1 / 6)
    assert float(losses.normal_loss(rendered, normals, mask * 0)) == 0.0


def test_regularisers_are_free_up_to_their_threshold() -> None:
    means = torch.tensor([[0.5, 0.0, 0.0], [0.0, 3.0, 0.0]], requires_grad=True)
    loss = losses.position_loss(means, 1.0)
    assert float(loss.detach()) == pytest.approx(1.0, abs=1e-5)
    loss.backward()
    assert means.grad is not None and torch.isfinite(means.grad).all() and not means.grad[0].any()
    assert float(losses.position_loss(means.detach(), torch.tensor([1.0, 3.0]))) == pytest.approx(0.0, abs=1e-5)
    assert float(losses.scale_loss(torch.tensor([[0.5, 0.1, 0.6]]), 0.6)) == pytest.approx(0.0, abs=1e-5)
