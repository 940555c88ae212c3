"""The contract of the Gaussian rasteriser, on CUDA."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from raster.test_gaussians import (  # noqa: F401
    test_a_splat_looks_as_computed_by_hand,
    test_alpha_is_held_below_one_and_faint_alpha_is_nothing,
    test_any_size,
    test_backgrounds_fill_what_is_free,
    test_equals_the_reference_forward_and_backward,
    test_gradients_over_views_add_up,
    test_nearer_splats_cover_farther_ones,
    test_no_gradient_flows_through_a_held_alpha,
    test_nothing_visible,
    test_pixels_stop_when_nothing_more_shines_through,
    test_random_scenes,
    test_values_that_are_not_finite_are_refused,
    test_views_are_independent,
)

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and torch built for it"),
    pytest.mark.skipif(importlib.util.find_spec("gsplat") is None, reason="needs gsplat: pip install geodiff[cuda]"),
]


@pytest.fixture(scope="module")
def backend() -> str:
    return "cuda"
