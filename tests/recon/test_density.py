"""Density control keeps bindings, caps the number, and never empties a triangle."""

from __future__ import annotations

import pytest
import torch

from geodiff.errors import ConfigError
from geodiff.geometry import orbit_camera
from recon.layers.density import DensityConfig, DensityStats, choose, grow_and_prune

BINDING = torch.tensor([0, 0, 1, 2, 2, 2])


def _fields(opacity: torch.Tensor) -> dict[str, torch.Tensor]:
    n = len(opacity)
    quats = torch.zeros(n, 4)
    quats[:, 0] = 1
    return {
        "means": torch.arange(3.0 * n).view(n, 3), "quats": quats, "log_scales": torch.zeros(n, 3),
        "opacity_logits": torch.logit(opacity), "sh_dc": torch.zeros(n, 1, 3), "sh_rest": torch.zeros(n, 0, 3),
    }  # fmt: skip


def _choose(opacity: list[float], total: list[float], scale: float = 0.001, cap: int = 100, growth: float = 1.0):
    fields = _fields(torch.tensor(opacity))
    stats = DensityStats(torch.tensor(total), torch.ones(6))
    config = DensityConfig(max_gaussians=cap, growth=growth, gradient=0.5)
    return fields, choose(fields, BINDING, torch.full((6, 3), scale), stats, config, 3)


def test_the_last_of_a_triangle_stays() -> None:
    _, (keep, clone, split) = _choose([0.001, 0.9, 0.001, 0.001, 0.002, 0.003], [0.0] * 6)
    assert keep.tolist() == [False, True, True, False, False, True]
    assert not clone.any() and not split.any()


def test_small_ones_are_cloned_and_large_ones_split() -> None:
    gradient = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    _, (_, clone, split) = _choose([0.9] * 6, gradient)
    assert clone.tolist() == [True, False, False, True, False, False] and not split.any()
    fields, choice = _choose([0.9] * 6, gradient, scale=0.01)
    assert choice[2].tolist() == [True, False, False, True, False, False]
    grown, source = grow_and_prune(fields, *choice, torch.Generator().manual_seed(0))
    assert len(source) == 8 and BINDING[source].tolist() == [0, 1, 2, 2, 0, 2, 0, 2]
    torch.testing.assert_close(grown["log_scales"][4:].exp(), torch.full((4, 3), 1 / 1.6))
    torch.testing.assert_close(grown["means"][:4], fields["means"][[1, 2, 4, 5]])
    assert not torch.allclose(grown["means"][4], grown["means"][6])


def test_the_cap_holds_and_the_strongest_grow() -> None:
    fields, (keep, clone, split) = _choose([0.9] * 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], cap=8)
    assert clone.tolist() == [False] * 4 + [True, True]
    grown, source = grow_and_prune(fields, keep, clone, split, torch.Generator())
    assert len(source) == 8 and grown["sh_rest"].shape == (8, 0, 3)


def test_screen_gradient_is_that_of_the_projection() -> None:
    """World gradients of a function of pixels give back its pixel gradient, in half images."""
    camera = orbit_camera(0.4, 0.2, 1.0, torch.zeros(3), 300.0, 64, 64)
    means = torch.randn(20, 3) * 0.05
    stats = DensityStats.zeros(20)
    rotation, shift = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
    leaf = means.clone().requires_grad_()
    local = leaf @ rotation.T + shift
    pixels = camera.K[0, 0] * local[:, :2] / local[:, 2:].detach()
    weights = torch.randn(20, 2)
    (pixels * weights).sum().backward()
    stats.add(leaf.grad, means, camera)
    torch.testing.assert_close(stats.mean(), weights.norm(dim=1) * 32, rtol=1e-4, atol=1e-4)


def test_rounds_need_iterations_between_them() -> None:
    with pytest.raises(ConfigError, match="density.every must be at least 1, got 0"):
        DensityConfig(every=0)
