"""Rotations there and back."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodiff.geometry import axis_angle_to_matrix, matrix_to_axis_angle

AXES = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda axis: math.hypot(*axis) > 0.1)


@settings(max_examples=100, deadline=None)
@given(axis=AXES, angle=st.floats(0, math.pi - 1e-3))
def test_axis_angles_come_back(axis: tuple[float, float, float], angle: float) -> None:
    turn = angle * torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0)
    torch.testing.assert_close(matrix_to_axis_angle(axis_angle_to_matrix(turn)), turn, atol=1e-7, rtol=0)


@settings(max_examples=100, deadline=None)
@given(axis=AXES, angle=st.floats(0, 20))
def test_the_axis_angle_of_a_matrix_is_that_rotation(axis: tuple[float, float, float], angle: float) -> None:
    turn = angle * torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0)
    matrix = axis_angle_to_matrix(turn)
    found = matrix_to_axis_angle(matrix)
    assert float(found.norm()) <= math.pi + 1e-9
    torch.testing.assert_close(axis_angle_to_matrix(found), matrix, atol=1e-7, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_rotation_and_half_turns(dtype: torch.dtype) -> None:
    still = torch.eye(3, dtype=dtype).expand(2, 3, 3)
    assert torch.equal(matrix_to_axis_angle(still), torch.zeros(2, 3, dtype=dtype))
    half = matrix_to_axis_angle(torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=dtype)))
    torch.testing.assert_close(half.abs(), torch.tensor([0.0, math.pi, 0.0], dtype=dtype))
