"""Posing with gradients to all head parameters: against the head model, and against finite differences."""

from __future__ import annotations

import pytest
import torch

from geodiff.head.builtin import load_builtin
from geodiff.head.model import HeadModel
from geodiff.types import HeadParams
from recon.layers.posing import FastHead

NAMES = ("shape", "expr", "rotation", "translation", "neck_pose", "jaw_pose", "eyes_pose")


def _params(head: HeadModel, seed: int, expression: float = 0.3) -> HeadParams:
    generator = torch.Generator().manual_seed(seed)
    values = {name: 0.1 * torch.randn(getattr(head.zeros(), name).shape, generator=generator) for name in NAMES}
    values["expr"] = expression * torch.rand(1, head.num_expr, generator=generator)
    offset = 0.002 * torch.randn(head.num_vertices, 3, generator=generator)
    return head.zeros().replace(**values, static_offset=offset)


@pytest.mark.parametrize("seed", [0, 1])
def test_vertices_are_the_head_models(small_head: HeadModel, seed: int) -> None:
    for head in (small_head, load_builtin()):
        params = _params(head, seed)
        fast = FastHead(head, params.static_offset)
        torch.testing.assert_close(fast.vertices(params), head.vertices(params)[0], atol=1e-6, rtol=1e-5)


def test_gradients_of_all_parameters_are_the_head_models(small_head: HeadModel) -> None:
    weights = torch.randn(small_head.num_vertices, 3, generator=torch.Generator().manual_seed(2))
    found = []
    for fast in (True, False):
        params = _params(small_head, 4)
        leaves = {name: getattr(params, name).clone().requires_grad_() for name in NAMES}
        params = params.replace(**leaves)
        head = FastHead(small_head, params.static_offset)
        vertices = head.vertices(params) if fast else small_head.vertices(params)[0]
        found.append(torch.autograd.grad((vertices * weights).sum(), list(leaves.values())))
    for quick, exact in zip(*found, strict=True):
        torch.testing.assert_close(quick, exact, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    """On the bundled head, whose joints all turn something; nothing touches in this expression but the lids."""
    head = load_builtin()
    params = _params(head, 5, expression=0.05).replace(jaw_pose=torch.tensor([[0.2, 0.0, 0.0]]))
    fast = FastHead(head, params.static_offset)
    away = torch.ones(head.num_vertices, 1)
    assert head.contacts is not None
    away[head.contacts.indices()] = 0
    weights = away * torch.randn(head.num_vertices, 3, generator=torch.Generator().manual_seed(6))
    base = getattr(params, name)
    direction = torch.randn(base.shape, generator=torch.Generator().manual_seed(7))

    def value(step: float) -> torch.Tensor:
        return (fast.vertices(params.replace(**{name: base + step * direction})).double() * weights).sum()

    leaf = base.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((fast.vertices(params.replace(**{name: leaf})) * weights).sum(), leaf)
    difference = float(value(1e-2) - value(-1e-2)) / 2e-2
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=2e-2, abs=2e-3)
