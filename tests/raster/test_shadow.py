"""Shadow maps and how much of the sky a head's vertices see."""

from __future__ import annotations

import numpy as np
import pytest
from heads import ellipsoid_head

from geodiff.head import load_head
from geodiff.raster.shadow import ShadowMap, ambient_occlusion, shadow_test


@pytest.mark.parametrize("direction", [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.6, 0.8), (0.0, -0.6, -0.8)])
def test_shadow_falls_behind(direction: tuple[float, float, float]) -> None:
    head, towards = ellipsoid_head(), np.array(direction, np.float32)
    shadow = ShadowMap.make(head.template, head.faces, towards)
    lit = shadow_test(shadow, np.stack([0.25 * towards, -0.25 * towards]))
    assert lit == pytest.approx([1.0, 0.0], abs=1e-5)


def test_a_ball_sees_all_of_its_sky_and_hollows_see_less() -> None:
    assert ambient_occlusion(ellipsoid_head())[ellipsoid_head().regions["scalp"].numpy()].mean() > 0.8
    head = load_head("builtin")
    occlusion, ears = ambient_occlusion(head), head.regions["ears"].numpy()
    assert occlusion.shape == (head.num_vertices,) and occlusion.min() > 0 and occlusion.max() <= 1
    assert np.percentile(occlusion[ears], 5) < 0.7 * np.percentile(occlusion[ears], 80)
    assert occlusion[head.regions["mouth_interior"].numpy()].mean() < 0.5
    assert ambient_occlusion(head) is occlusion, "made once"
