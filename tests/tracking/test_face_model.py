"""The fit's own landmark model agrees with `HeadModel`, and its Jacobian with finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from heads import ellipsoid_head
from scipy.spatial.transform import Rotation
from tracking.marked_head import marked_head

from geodiff.errors import HeadModelError
from geodiff.geometry import project
from geodiff.head.model import HeadModel
from geodiff.tracking.face_model import FaceModel, FrameStates
from geodiff.tracking.fit import FitConfig, FitState, LandmarkFitter

SIZE = (320, 240)
MIDDLE = np.array(SIZE) / 2


def some_state(face: FaceModel, seed: int = 0, frames: int = 1) -> tuple[float, np.ndarray, FrameStates]:
    rng = np.random.default_rng(seed)
    state = FrameStates(
        rotation=Rotation.from_rotvec(rng.normal(0, 0.3, (frames, 3))).as_matrix(),
        centre=MIDDLE + rng.normal(0, 10, (frames, 2)),
        log_scale=np.full(frames, np.log(700.0)),
        expr=rng.uniform(0, 1, (frames, face.num_expr)),
        gaze=rng.normal(0, 0.2, (frames, 4)),
        jaw=np.full(frames, 0.1),
    )
    return float(np.log(500.0)), rng.normal(0, 1, face.num_shape), state


@pytest.mark.parametrize(("jaw", "tolerance"), [(0.0, 2e-3), (0.1, 0.3)])
def test_projection_agrees_with_the_head_model(jaw: float, tolerance: float) -> None:
    """An open jaw is less exact: a landmark moves with its triangle's mean weights, the mesh with each corner's."""
    head = marked_head()
    fitter = LandmarkFitter(head, SIZE, FitConfig())
    log_focal, shape, state = some_state(fitter.face, frames=2)
    state = replace(state, jaw=np.full(2, jaw))
    pixels = fitter.face.project(log_focal, shape, state, MIDDLE)
    params = fitter.face.params(log_focal, shape, state, MIDDLE)
    assert (params.translation[:, 2] < 0).all()
    camera = fitter.camera(FitState(log_focal, shape, state))
    expected, depth = project(head.landmark_points(params), camera)
    assert (depth > 0).all()
    np.testing.assert_allclose(pixels, expected.numpy(), atol=tolerance)


def corrective_head() -> HeadModel:
    """The marked head with pose correctives, as FLAME has them."""
    head = marked_head()
    generator = torch.Generator().manual_seed(1)
    return replace(head, pose_basis=0.003 * torch.randn(36, head.num_vertices, 3, generator=generator))


def test_pose_correctives_of_the_jaw_agree_with_the_head_model() -> None:
    head = corrective_head()
    fitter = LandmarkFitter(head, SIZE, FitConfig())
    log_focal, shape, state = some_state(fitter.face, frames=2)
    state = replace(state, jaw=np.array([0.02, 0.05]), gaze=np.zeros((2, 4)))
    pixels = fitter.face.project(log_focal, shape, state, MIDDLE)
    params = fitter.face.params(log_focal, shape, state, MIDDLE)
    expected, _ = project(head.landmark_points(params), fitter.camera(FitState(log_focal, shape, state)))
    np.testing.assert_allclose(pixels, expected.numpy(), atol=0.15)
    plain = fitter.face.project(log_focal, shape, replace(state, jaw=np.zeros(2)), MIDDLE)
    assert np.abs(plain - pixels).max() > 0.3


@pytest.mark.parametrize("correctives", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_jacobian_agrees_with_differences(seed: int, correctives: bool) -> None:
    face = FaceModel(corrective_head() if correctives else marked_head())
    log_focal, shape, state = some_state(face, seed)
    by_shared, by_frame = face.jacobian(log_focal, shape, state, MIDDLE)
    pixels = face.project(log_focal, shape, state, MIDDLE)
    assert by_shared is not None
    step = 1e-6

    def moved(column: int, shared: bool) -> np.ndarray:
        if shared and column == 0:
            return face.project(log_focal + step, shape, state, MIDDLE)
        if shared:
            return face.project(log_focal, shape + step * np.eye(len(shape))[column - 1], state, MIDDLE)
        vector = state.vector
        vector[:, column] += step
        return face.project(log_focal, shape, state.moved(vector), MIDDLE)

    for jacobian, shared in ((by_shared, True), (by_frame, False)):
        for column in range(jacobian.shape[3]):
            numeric = (moved(column, shared) - pixels) / step
            tolerance = 2e-2 * max(1, abs(numeric).max() * 0.02)
            np.testing.assert_allclose(jacobian[..., column], numeric, rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("shared", [True, False])
def test_the_kernel_agrees_with_the_jacobian(shared: bool) -> None:
    face = FaceModel(marked_head())
    log_focal, shape, state = some_state(face, frames=3)
    rng = np.random.default_rng(0)
    whitening = rng.normal(size=(3, len(face.mean), 2, 2))
    residuals = rng.normal(size=(3, len(face.mean), 2))
    matrix, gradient = face.gauss_newton(log_focal, shape, state, MIDDLE, shared, whitening, residuals)
    by_shared, by_frame = face.jacobian(log_focal, shape, state, MIDDLE, shared, whitening)
    rows = by_frame if by_shared is None else np.concatenate([by_frame, by_shared], 3)
    rows = rows.reshape(3, -1, rows.shape[3])
    expected = rows.transpose(0, 2, 1) @ rows
    size = np.sqrt(np.einsum("tnn->tn", expected))
    assert np.abs((matrix - expected) / (size[:, :, None] * size[:, None] + 1e-9)).max() < 1e-4
    expected = (rows.transpose(0, 2, 1) @ residuals.reshape(3, -1, 1))[..., 0]
    np.testing.assert_allclose(gradient / (size + 1e-9), expected / (size + 1e-9), atol=1e-3)


def test_a_head_without_landmarks_is_refused() -> None:
    head = ellipsoid_head()
    object.__setattr__(head, "landmarks", None)
    with pytest.raises(HeadModelError, match="needs a head model with a landmark embedding, but .* has none; make one"):
        FaceModel(head)


def test_landmarks_on_the_eyeballs_follow_the_gaze() -> None:
    face = FaceModel(marked_head())
    log_focal, shape, state = some_state(face)
    still = FrameStates(
        rotation=np.eye(3)[None],
        centre=MIDDLE[None],
        log_scale=np.log([700.0]),
        expr=0 * state.expr,
        gaze=np.zeros((1, 4)),
        jaw=np.zeros(1),
    )
    aside = replace(still, gaze=np.array([[0.3, 0, 0.3, 0]]))
    change = face.project(log_focal, 0 * shape, aside, MIDDLE) - face.project(log_focal, 0 * shape, still, MIDDLE)
    assert (change[0, 468:, 0] > 1).all()
    assert np.abs(change[0, :468]).max() < 1e-6
    assert torch.equal(torch.as_tensor(face.indices), torch.arange(478))
