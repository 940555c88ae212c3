"""Normal error and mask overlap against known values."""

from __future__ import annotations

import numpy as np
import pytest

from geodiff.metrics.geometry import mask_iou, normal_angular_error


def test_angle_between_tilted_normals() -> None:
    truth = np.zeros((4, 4, 3))
    truth[..., 2] = 1.0
    tilted = np.zeros_like(truth)
    tilted[..., 0], tilted[..., 2] = np.sin(np.radians(30)), np.cos(np.radians(30))
    assert normal_angular_error(tilted * 0.7, truth) == pytest.approx(30.0, abs=1e-6)
    assert normal_angular_error(np.zeros_like(truth), truth) == pytest.approx(90.0)


def test_background_is_left_out() -> None:
    truth = np.zeros((2, 2, 3))
    assert np.isnan(normal_angular_error(truth, truth))
    truth[0, 0, 2] = 1.0
    assert normal_angular_error(truth, truth) == pytest.approx(0.0)


def test_iou() -> None:
    a, b = np.zeros((4, 4)), np.zeros((4, 4))
    assert mask_iou(a, b) == 1.0
    a[:2], b[1:3] = 1.0, 1.0
    assert mask_iou(a, b) == pytest.approx(1 / 3)
