"""Distances of landmarks, expressions and poses against values known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geodiff.metrics.checks import NotMeasured
from geodiff.metrics.motion import (
    FACE,
    KEYPOINTS,
    MOUTH,
    Pose,
    aec,
    aed,
    akd,
    apc,
    apd,
    estimate_pose,
    flmd,
    landmark_distance,
    mlmd,
)
from geodiff.metrics.picture import Picture

POINTS = np.random.default_rng(2).uniform(0, 256, (478, 2)).astype(np.float32)


def test_sets_of_landmarks() -> None:
    assert len(KEYPOINTS) == len(set(KEYPOINTS)) == 68 and max(KEYPOINTS) < 468
    assert set(MOUTH) < set(FACE) and len(MOUTH) == 40


@settings(deadline=None)
@given(dx=st.floats(-20, 20), dy=st.floats(-20, 20))
def test_a_shift_is_measured_exactly(dx: float, dy: float) -> None:
    moved = POINTS.astype(np.float64) + [dx, dy]
    for metric in (akd, flmd, mlmd):
        # Pixels of a picture of 256 count twice at 512.
        assert metric(moved, POINTS, 256) == pytest.approx(2 * np.hypot(dx, dy), abs=1e-5)
        assert metric(moved, moved, 256) == 0.0


def test_the_mouth_alone() -> None:
    moved = POINTS.copy()
    moved[list(MOUTH), 1] += 3
    assert mlmd(moved, POINTS, 512) == pytest.approx(3.0, abs=1e-4)
    assert flmd(moved, POINTS, 512) == pytest.approx(3.0 * len(MOUTH) / len(FACE), abs=1e-4)
    assert akd(moved, POINTS, 512) == pytest.approx(3.0 * 20 / 68, abs=1e-4)


def _pose(expression: list[float], degrees: list[float]) -> Pose:
    return Pose(np.array(expression), np.radians(degrees))


def test_expression_and_pose_distances() -> None:
    a, b = _pose([0.2, 0.0, 0.4], [10, 0, 0]), _pose([0.2, 0.3, 0.1], [10, 30, 0])
    assert aed(a, b) == pytest.approx(0.2) and aed(a, a) == 0.0
    assert apd(a, b) == pytest.approx(np.radians(10)) and apd(a, a) == 0.0
    # The short way around.
    assert apd(_pose([1.0], [0, 0, 179]), _pose([1.0], [0, 0, -179])) == pytest.approx(np.radians(2 / 3))


def test_expression_and_pose_cosines() -> None:
    a, b = _pose([1.0, 0.0], [20, 0, 0]), _pose([1.0, 1.0], [0, 20, 0])
    assert aec(a, b) == pytest.approx(np.sqrt(0.5)) and aec(a, a) == pytest.approx(1.0)
    assert apc(a, b) == pytest.approx(0.0, abs=1e-12) and apc(a, a) == pytest.approx(1.0)
    with pytest.raises(NotMeasured, match="neutral"):
        aec(_pose([0.0, 0.0], [1, 1, 1]), a)
    with pytest.raises(NotMeasured, match="straight ahead"):
        apc(_pose([1.0, 0.0], [0.1, 0, 0]), a)


def test_wrong_landmarks_and_vectors_are_told() -> None:
    with pytest.raises(ValueError, match="one shape"):
        landmark_distance(POINTS, POINTS[:68], 256)
    with pytest.raises(ValueError, match="finite"):
        landmark_distance(np.full_like(POINTS, np.nan), POINTS, 256)
    with pytest.raises(ValueError, match="side above 0"):
        landmark_distance(POINTS, POINTS, 0)
    with pytest.raises(ValueError, match="one length"):
        aed(_pose([1.0], [0, 0, 0]), _pose([1.0, 2.0], [0, 0, 0]))
    with pytest.raises(ValueError, match="finite"):
        aed(_pose([np.nan], [0, 0, 0]), _pose([1.0], [0, 0, 0]))


def test_a_photograph_and_its_mirror_image(astronaut: np.ndarray) -> None:
    from geodiff.head import load_head

    head = load_head("builtin")
    face = astronaut[:320, 60:380]
    picture, mirrored = (Picture(np.ascontiguousarray(a).astype(np.float32) / 255) for a in (face, face[:, ::-1]))
    pose, other = picture.pose(head, "a"), mirrored.pose(head, "b")
    assert picture.pose(head, "a") is pose, "a picture is fitted once"
    pitch, yaw, roll = np.degrees(pose.angles)
    # A mirror keeps pitch and turns yaw and roll around.
    assert np.degrees(other.angles) == pytest.approx([pitch, -yaw, -roll], abs=4)
    assert len(pose.expression) == head.num_expr + 3
    again = estimate_pose(picture.face("a"), picture.size, head)
    assert aed(again, pose) == 0 and apd(again, pose) == 0 and aec(again, pose) == pytest.approx(1)


def test_a_wall_has_no_face() -> None:
    wall = Picture(np.full((64, 64, 3), 0.5, np.float32))
    with pytest.raises(NotMeasured, match="no face was found in the result"):
        wall.face("the result")
