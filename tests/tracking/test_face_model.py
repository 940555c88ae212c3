"""The fit's own landmark model agrees with `HeadModel`, and its Jacobian with finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from heads import ellipsoid_head
from scipy.spatial.transform import Rotation
from tracking.marked_head import marked_head

from geodiff.errors import HeadModelError
from geodiff.geometry import project
from geodiff.tracking.face_model import FaceModel, FrameState
from geodiff.tracking.fit import FitConfig, FitState, LandmarkFitter

SIZE = (320, 240)
MIDDLE = np.array(SIZE) / 2


def some_state(face: FaceModel, seed: int = 0) -> tuple[float, np.ndarray, FrameState]:
    rng = np.random.default_rng(seed)
    state = FrameState(
        rotation=Rotation.from_rotvec(rng.normal(0, 0.3, 3)).as_matrix(),
        centre=MIDDLE + rng.normal(0, 10, 2),
        log_scale=float(np.log(700.0)),
        expr=rng.uniform(0, 1, face.num_expr),
        gaze=rng.normal(0, 0.2, 4),
        jaw=0.1,
    )
    return float(np.log(500.0)), rng.normal(0, 1, face.num_shape), state


@pytest.mark.parametrize(("jaw", "tolerance"), [(0.0, 2e-3), (0.1, 0.3)])
def test_projection_agrees_with_the_head_model(jaw: float, tolerance: float) -> None:
    """An open jaw is less exact: a landmark moves with its triangle's mean weights, the mesh with each corner's."""
    head = marked_head()
    fitter = LandmarkFitter(head, SIZE, FitConfig())
    log_focal, shape, state = some_state(fitter.face)
    state.jaw = jaw
    pixels = fitter.face.project(log_focal, shape, state, MIDDLE)
    params = fitter.face.params(log_focal, shape, [state], MIDDLE)
    assert params.translation[0, 2] < 0
    camera = fitter.camera(FitState(log_focal, shape, [state]))
    expected, depth = project(head.landmark_points(params)[0], camera)
    assert (depth > 0).all()
    np.testing.assert_allclose(pixels, expected.numpy(), atol=tolerance)


@pytest.mark.parametrize("seed", [0, 1])
def test_jacobian_agrees_with_differences(seed: int) -> None:
    face = FaceModel(marked_head())
    log_focal, shape, state = some_state(face, seed)
    pixels, by_shared, by_frame = face.jacobian(log_focal, shape, state, MIDDLE)
    assert by_shared is not None
    step = 1e-6

    def moved(column: int, shared: bool) -> np.ndarray:
        if shared and column == 0:
            return face.project(log_focal + step, shape, state, MIDDLE)
        if shared:
            return face.project(log_focal, shape + step * np.eye(len(shape))[column - 1], state, MIDDLE)
        vector = state.vector
        vector[column] += step
        return face.project(log_focal, shape, state.moved(vector), MIDDLE)

    for jacobian, shared in ((by_shared, True), (by_frame, False)):
        for column in range(jacobian.shape[2]):
            numeric = (moved(column, shared) - pixels) / step
            tolerance = 2e-2 * max(1, abs(numeric).max() * 0.02)
            np.testing.assert_allclose(jacobian[:, :, column], numeric, rtol=1e-3, atol=tolerance)


def test_a_head_without_landmarks_is_refused() -> None:
    head = ellipsoid_head()
    object.__setattr__(head, "landmarks", None)
    with pytest.raises(HeadModelError, match="needs a head model with a landmark embedding, but .* has none; make one"):
        FaceModel(head)


def test_landmarks_on_the_eyeballs_follow_the_gaze() -> None:
    face = FaceModel(marked_head())
    log_focal, shape, state = some_state(face)
    straight = FrameState(np.eye(3), MIDDLE, np.log(700.0), 0 * state.expr, np.zeros(4), 0.0)
    aside = FrameState(np.eye(3), MIDDLE, np.log(700.0), 0 * state.expr, np.array([0.3, 0, 0.3, 0]), 0.0)
    change = face.project(log_focal, 0 * shape, aside, MIDDLE) - face.project(log_focal, 0 * shape, straight, MIDDLE)
    assert (change[468:, 0] > 1).all()
    assert np.abs(change[:468]).max() < 1e-6
    assert torch.equal(torch.as_tensor(face.indices), torch.arange(478))
