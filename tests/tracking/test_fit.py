"""The damped least squares fit recovers what projected landmarks were made from, and stays inside its bounds."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from tracking.marked_head import marked_head

from geodiff.geometry import project
from geodiff.head.model import HeadModel
from geodiff.tracking.face_model import FaceModel
from geodiff.tracking.fit import FitConfig, LandmarkFitter, fit_landmarks
from geodiff.tracking.systems import Unknowns
from geodiff.tracking.witnesses import Bitten, Moved, Turned, Witness
from geodiff.types import Camera, HeadParams

SIZE = (400, 300)


def scene(head: HeadModel, focal: float = 600.0, distance: float = 0.9, rotation: tuple[float, ...] = (0.1, -0.3, 0.05),
          frames: int = 1, seed: int = 0) -> tuple[HeadParams, Camera, np.ndarray]:  # fmt: skip
    rng = np.random.default_rng(seed)
    K = torch.tensor([[focal, 0, SIZE[0] / 2], [0, focal, SIZE[1] / 2], [0, 0, 1]])
    camera = Camera(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])), K, *SIZE)
    turns = np.array(rotation) + 0.1 * np.arange(frames)[:, None]
    params = head.zeros(frames).replace(
        shape=torch.as_tensor(rng.uniform(-1.5, 1.5, head.num_shape), dtype=torch.float32),
        expr=torch.as_tensor(rng.uniform(0.1, 0.7, (frames, head.num_expr)), dtype=torch.float32),
        rotation=torch.as_tensor(turns, dtype=torch.float32),
        translation=torch.tensor([[0.02, -0.03, -distance]]).repeat(frames, 1),
    )
    return params, camera, project(head.landmark_points(params), camera)[0].numpy()


def test_recovers_pose_identity_and_expression() -> None:
    head = marked_head()
    truth, camera, points = scene(head)
    fit = fit_landmarks(points[0], SIZE, head, FitConfig(noise=0.002, shape_prior=0.1, expr_prior=0.1))
    assert fit.error < 0.004
    away = Rotation.from_rotvec(fit.params.rotation.numpy()) * Rotation.from_rotvec(truth.rotation.numpy()).inv()
    assert np.degrees(away.magnitude()).max() < 1.5
    np.testing.assert_allclose(fit.params.translation[0, :2], truth.translation[0, :2], atol=0.01)
    assert fit.params.static_offset is None
    assert float(fit.camera.K[0, 2]) == SIZE[0] / 2


def test_frames_share_identity_and_focal_length() -> None:
    head = marked_head()
    truth, camera, points = scene(head, frames=4)
    fit = fit_landmarks(points, SIZE, head, FitConfig(noise=0.005, shape_prior=0.3, expr_prior=0.3))
    assert fit.params.num_frames == 4 and fit.errors.shape == (4,)
    assert fit.params.shape.shape == (head.num_shape,)
    assert fit.errors.max() < 0.01


@settings(max_examples=8, deadline=None)
@given(yaw=st.floats(-0.6, 0.6), pitch=st.floats(-0.3, 0.3), seed=st.integers(0, 99))
def test_noise_and_outliers_are_borne(yaw: float, pitch: float, seed: int) -> None:
    head = marked_head()
    truth, camera, points = scene(head, rotation=(pitch, yaw, 0.0), seed=seed)
    rng = np.random.default_rng(seed)
    points = points[0] + rng.normal(0, 0.5, points[0].shape)
    wild = rng.choice(np.setdiff1d(np.arange(468), [33, 263]), 15, replace=False)
    points[wild] += rng.normal(0, 40, (15, 2))
    fit = fit_landmarks(points, SIZE, head)
    away = Rotation.from_rotvec(fit.params.rotation.numpy()) * Rotation.from_rotvec(truth.rotation.numpy()).inv()
    assert np.degrees(away.magnitude()).max() < 8


def seen_turned(truth: HeadParams, camera: Camera, points: np.ndarray, spread: float = 0.03) -> Turned:
    """The true rotations (T, 3, 3) along the rays through the landmarks' means."""
    middles = points.mean(1)
    rays = np.column_stack([(middles - np.array(SIZE) / 2) * [1, -1] / float(camera.K[0, 0]), -np.ones(len(points))])
    turns = [Rotation.align_vectors([ray], [[0, 0, -1]])[0].as_matrix() for ray in rays]
    own = Rotation.from_rotvec(truth.rotation.numpy()).as_matrix()
    return Turned(np.stack(turns).transpose(0, 2, 1) @ own, middles, np.array(SIZE) / 2, np.full(len(points), spread))


def test_a_rotation_that_is_known_otherwise_is_heeded() -> None:
    head, errors = marked_head(), []
    for seed in range(6):
        truth, camera, points = scene(head, focal=300.0, distance=0.5, seed=seed)
        truth = truth.replace(translation=truth.translation + torch.tensor([[0.12, 0.05, 0.0]]))
        points = project(head.landmark_points(truth), camera)[0].numpy()
        turned = seen_turned(truth, camera, points, spread=0.0009)
        # Landmarks that err together, as a nod does.
        wrong = points[0] + np.random.default_rng(seed).normal(0, 1, points[0].shape)
        wrong[:, 1] += 0.06 * (wrong[:, 1] - wrong[:, 1].mean()) * np.sign(wrong[:, 1] - wrong[:, 1].mean())
        # The ray through an off-centre face depends on the focal length.
        config = FitConfig(field_of_view=67.4, focal_spread=0.02, distance=0.5)
        fits = [fit_landmarks(wrong, SIZE, head, config, known) for known in ((), (turned,))]
        goal = Rotation.from_rotvec(truth.rotation.numpy()).inv()
        errors.append([(Rotation.from_rotvec(fit.params.rotation.numpy()) * goal).magnitude()[0] for fit in fits])
    before, after = np.degrees(np.mean(errors, 0))
    assert after < 0.5 * before, errors


def added_slopes(fitter: LandmarkFitter, points: np.ndarray, witness: Witness, axis: int | str) -> tuple[float, float]:
    """Half of the slope of a witness's energy along one unknown, by differences, and as it is added to the normals."""
    seen, state = fitter.observe(points), fitter.start(points)
    if isinstance(axis, str):
        sides = [replace(state, log_focal=state.log_focal + sign * 1e-5) for sign in (1, -1)]
    else:
        step = np.zeros((1, state.frames.vector.shape[1]))
        step[0, axis] = 1e-5
        sides = [replace(state, frames=state.frames.moved(state.frames.vector + sign * step)) for sign in (1, -1)]
    slopes = [
        np.subtract(*(fitter._energies(seen, side, None, known)[0] for side in sides)) for known in ((witness,), ())
    ]
    normals = [fitter._normals(seen, state, True, None, known) for known in ((witness,), ())]
    added = [n.gradient.shared[0] if isinstance(axis, str) else n.gradient.frames[0, axis] for n in normals]
    return float(slopes[0] - slopes[1]) / 4e-5, float(added[0] - added[1])


@pytest.mark.parametrize("axis", [0, 1, 2, "focal"])
def test_the_gradient_of_a_known_rotation_is_its_energys(axis: int | str) -> None:
    head = marked_head()
    truth, camera, points = scene(head)
    points = points + [120.0, -60.0]
    witness = seen_turned(truth, camera, points, spread=0.015)
    slope, added = added_slopes(LandmarkFitter(head, SIZE, FitConfig()), points, witness, axis)
    # The rotations are small: their axis-angle vectors nearly add up.
    assert abs(slope) > 1
    assert added == pytest.approx(slope, rel=0.1)


def seen_moved(head: HeadModel, truth: HeadParams, spread: float) -> Moved:
    """All coefficients of the true expressions, as the head's own landmarks show them."""
    face = FaceModel(head)
    reading = np.insert(face.expr.reshape(-1, face.num_expr), face.num_expr, 0.0, axis=1)
    told = np.insert(truth.expr.numpy().astype(np.float64), face.num_expr, 0.0, axis=1)
    loose = np.zeros((len(told), 0, len(reading)))
    return Moved.known(reading, told @ reading.T, np.full((len(told), len(reading)), spread), loose)


@pytest.mark.parametrize("axis", [6, 7, -1])
def test_the_gradient_of_a_known_movement_is_its_energys(axis: int) -> None:
    head = marked_head()
    truth, _, points = scene(head)
    moved = seen_moved(head, truth, 0.004)
    moved.reading[:, -1] = 0.05  # a jaw
    slope, added = added_slopes(LandmarkFitter(head, SIZE, FitConfig()), points, moved, axis)
    assert abs(slope) > 1e-3
    assert added == pytest.approx(slope, rel=1e-3)


def test_a_movement_that_is_known_otherwise_is_heeded() -> None:
    head, errors = marked_head(), []
    for seed in range(4):
        truth, _, points = scene(head, seed=seed)
        wrong = points[0] + np.random.default_rng(seed).normal(0, 6, points[0].shape)
        moved = seen_moved(head, truth, 0.0005)
        fits = [fit_landmarks(wrong, SIZE, head, witnesses=known) for known in ((), (moved,))]
        errors.append([float((fit.params.expr - truth.expr).norm()) for fit in fits])
    before, after = np.mean(errors, 0)
    assert after < 0.5 * before, errors


def test_what_may_be_wrong_does_not_count_in_a_movement() -> None:
    rng = np.random.default_rng(2)
    reading, wrong = rng.normal(size=(6, 4)), rng.normal(size=(1, 1, 6))
    spread, still = np.full((1, 6), 0.1), SimpleNamespace(expr=np.zeros((1, 3)), jaw=np.zeros(1))
    state = SimpleNamespace(frames=still)
    strict, loose = (
        Moved.known(reading, wrong[0], spread, size * wrong).energies(state)[0]  # type: ignore[arg-type]
        for size in (0.0, 1.0)
    )
    assert strict == pytest.approx((wrong**2).sum() / 0.01)
    # One standard deviation of what may be wrong, and nothing else.
    assert loose == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("axis", [6, -1])
def test_the_gradient_of_seen_teeth_is_their_energys(axis: int) -> None:
    head = marked_head()
    _, _, points = scene(head)
    reading = np.linspace(0.01, 0.03, head.num_expr + 1)
    bitten = Bitten(reading, np.array([0.004]), np.array([1 / 0.0005]))
    slope, added = added_slopes(LandmarkFitter(head, SIZE, FitConfig()), points, bitten, axis)
    assert abs(slope) > 1 and added == pytest.approx(slope, rel=1e-3)


def test_coefficients_stay_within_bounds() -> None:
    head = marked_head()
    _, _, points = scene(head)
    stretched = (points[0] - points[0].mean(0)) * [1.6, 0.7] + points[0].mean(0)
    fit = fit_landmarks(stretched, SIZE, head, FitConfig(shape_prior=0.01, expr_prior=0.01))
    assert float(fit.params.shape.abs().max()) <= 3.0 + 1e-6
    weights = [name.startswith(("jaw", "eye", "mouth", "brow")) for name in head.expression_names]
    expr = fit.params.expr[0]
    assert float(expr.abs().max()) <= 3.0 + 1e-6
    assert float(expr[weights].min()) >= 0.0 and float(expr[weights].max()) <= 1.0 + 1e-6


def test_every_step_lowers_the_energy() -> None:
    head = marked_head()
    _, _, points = scene(head)
    frames = points.astype(np.float64)
    fitter = LandmarkFitter(head, SIZE, FitConfig())
    state, energies = fitter.start(frames), []
    for _ in range(6):
        energies.append(fitter._energies(fitter.observe(frames), state, None).sum())
        state = fitter.solve(frames, state, iterations=1)
    assert all(b <= a for a, b in zip(energies, energies[1:], strict=False))


def test_gradient_agrees_with_energy() -> None:
    head = marked_head()
    _, _, points = scene(head, frames=2)
    frames = points.astype(np.float64)
    # Without robust weights the energy is a plain sum of squares, whose gradient is twice J^T r.
    fitter = LandmarkFitter(head, SIZE, FitConfig(outlier=1e6))
    seen, state = fitter.observe(frames), fitter.solve(frames, fitter.start(frames), iterations=2)
    energy = fitter._energies(seen, state, None).sum()
    gradient = fitter._normals(seen, state, True, None).gradient

    def ahead(step: float, shared: int | None = None, frame: tuple[int, int] | None = None) -> float:
        moved = Unknowns(np.zeros_like(gradient.shared), np.zeros_like(gradient.frames))
        if shared is not None:
            moved.shared[shared] = step
        if frame is not None:
            moved.frames[frame] = step
        return fitter._energies(seen, fitter._moved(state, moved), None).sum()

    for where, value in (
        *(({"shared": i}, gradient.shared[i]) for i in (0, 1, 2)),
        *(({"frame": (t, i)}, gradient.frames[t, i]) for t in (0, 1) for i in (0, 3, 5, 6, 8)),
    ):
        slope = (ahead(1e-5, **where) - ahead(-1e-5, **where)) / 2e-5
        assert slope == pytest.approx(2 * value, rel=1e-2, abs=0.05 * (1 + energy))


def test_frames_solved_together_are_those_solved_alone() -> None:
    """Without what they share, frames know nothing of one another: order and company do not matter."""
    head = marked_head()
    _, _, points = scene(head, frames=40)
    frames = points + np.random.default_rng(0).normal(0, 0.3, points.shape)
    fitter = LandmarkFitter(head, SIZE, FitConfig())
    shared = fitter.solve(frames[::10], fitter.start(frames[::10]))
    together = fitter.solve(frames, replace(shared, frames=fitter.start_frames(frames)), shared=False)
    for t in (0, 17, 39):
        one = frames[t : t + 1]
        alone = fitter.solve(one, replace(shared, frames=fitter.start_frames(one)), shared=False)
        np.testing.assert_allclose(together.frames[[t]].expr, alone.frames.expr, atol=0.02)
        np.testing.assert_allclose(together.frames[[t]].rotation, alone.frames.rotation, atol=2e-3)
    assert together.log_focal == shared.log_focal
