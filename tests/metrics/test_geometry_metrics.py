"""Normal error and mask overlap against known values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

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


@settings(deadline=None)
@given(degrees=st.floats(0.5, 170.0), around=st.integers(0, 2))
def test_turned_normals_give_the_angle(degrees: float, around: int) -> None:
    truth = np.zeros((3, 3, 3))
    truth[..., (around + 1) % 3] = 1.0
    turn = Rotation.from_rotvec(np.radians(degrees) * np.eye(3)[around])
    turned = turn.apply(truth.reshape(-1, 3)).reshape(truth.shape)
    assert normal_angular_error(turned, truth) == pytest.approx(degrees, abs=1e-4)


def test_wrong_maps_are_told() -> None:
    normals = np.zeros((4, 4, 3))
    with pytest.raises(ValueError, match="one shape"):
        normal_angular_error(normals, normals[:3])
    with pytest.raises(ValueError, match="finite"):
        normal_angular_error(np.full((4, 4, 3), np.nan), normals)
    with pytest.raises(ValueError, match="at least one pixel"):
        normal_angular_error(normals, normals, np.zeros((4, 4), bool))
    with pytest.raises(ValueError, match="one shape"):
        mask_iou(np.zeros((4, 4)), np.zeros((4, 5)))
    with pytest.raises(ValueError, match="finite"):
        mask_iou(np.full((4, 4), np.inf), np.zeros((4, 4)))
