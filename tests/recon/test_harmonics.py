"""Spherical harmonics: orthonormal, and constant where they should be."""

from __future__ import annotations

import pytest
import torch

from recon.layers.harmonics import evaluate_harmonics, harmonics_basis, harmonics_degree


def test_basis_is_orthonormal_on_the_sphere() -> None:
    # A Fibonacci lattice integrates these polynomials closely.
    n = 20_000
    i = torch.arange(n, dtype=torch.float64) + 0.5
    z, angle = 1 - 2 * i / n, i * 2.399963229728653
    radius = (1 - z * z).sqrt()
    directions = torch.stack([radius * angle.cos(), radius * angle.sin(), z], -1)
    basis = harmonics_basis(directions, 3)
    gram = basis.T @ basis * (4 * torch.pi / n)
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=1e-3, rtol=0)


def test_mean_colour_does_not_depend_on_the_view() -> None:
    sh = torch.randn(5, 4, 3)
    seen = evaluate_harmonics(sh, torch.nn.functional.normalize(torch.randn(5, 3), dim=-1))
    still = evaluate_harmonics(sh, None)
    assert not torch.allclose(seen, still)
    torch.testing.assert_close(still, evaluate_harmonics(sh[:, :1], None))


def test_incomplete_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="1, 4, 9 or 16, got 5"):
        harmonics_degree(5)
