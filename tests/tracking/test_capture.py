"""Heads before known cameras: the world's unknowns, their derivatives, and what comes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from tracking.marked_head import marked_head

from geodiff.errors import FaceError
from geodiff.geometry import orbit_camera, project
from geodiff.head.model import HeadModel
from geodiff.tracking.capture import CaptureFitter, Sight, fit_capture
from geodiff.tracking.capture_problem import CaptureProblem, CaptureState
from geodiff.tracking.descent import descend
from geodiff.tracking.fit import FitConfig
from geodiff.tracking.refine import Look
from geodiff.tracking.settings import TrackConfig
from geodiff.tracking.systems import Normals, Unknowns
from geodiff.tracking.world import Station, WorldStates, add_seen
from geodiff.types import Camera, HeadParams

YAWS = (-50.0, -20.0, 5.0, 30.0, 85.0)


def rig(yaws: tuple[float, ...] = YAWS, scale: float = 1.0) -> list[Camera]:
    """Cameras about the origin, each with a lens of its own and off-centre; scale: metres in their unit."""
    cameras = []
    for n, yaw in enumerate(yaws):
        camera = orbit_camera(
            math.radians(yaw), math.radians(6.0 * (n % 3) - 5), 0.8 + 0.1 * n, torch.zeros(3), 500 + 40 * n, 420, 360
        )
        K, viewmat = camera.K.clone(), camera.viewmat.clone()
        K[0, 2] += 7.0 * n - 10
        K[1, 2] -= 3.0 * n
        K[1, 1] *= 1.0 + 0.05 * n  # pixels that are not square
        viewmat[:3, 3] /= scale
        cameras.append(replace(camera, K=K, viewmat=viewmat))
    return cameras


def scene(head: HeadModel, times: int = 3, seed: int = 0) -> HeadParams:
    rng = np.random.default_rng(seed)
    return head.zeros(times).replace(
        shape=torch.as_tensor(rng.uniform(-1.5, 1.5, head.num_shape), dtype=torch.float32),
        expr=torch.as_tensor(rng.uniform(0.1, 0.7, (times, head.num_expr)), dtype=torch.float32),
        rotation=torch.as_tensor(rng.normal(0, 0.12, (times, 3)), dtype=torch.float32),
        translation=torch.as_tensor(rng.normal(0, 0.03, (times, 3)), dtype=torch.float32),
    )


def looks(
    head: HeadModel, truth: HeadParams, cameras: list[Camera], scale: float = 1.0, noise: float = 0.0
) -> dict[tuple[int, int], Sight]:
    """What each camera sees: the true landmarks, projected; cameras' unit is `scale` metres."""
    rng, points = np.random.default_rng(5), head.landmark_points(truth) / scale
    seen = {}
    for c, camera in enumerate(cameras):
        pixels = project(points, camera)[0].double().numpy()
        for t in range(len(pixels)):
            seen[t, c] = Sight(Look(pixels[t] + rng.normal(0, noise, pixels[t].shape) if noise else pixels[t]))
    return seen


def config(**changes: float) -> TrackConfig:
    known = {"noise": 0.002, "shape_prior": 0.1, "expr_prior": 0.1, **changes}
    return TrackConfig(fit=FitConfig(**known))  # type: ignore[arg-type]


def apart(head: HeadModel, found: HeadParams, truth: HeadParams) -> float:
    """Millimetres between the landmarks of two heads in one world."""
    return 1e3 * float((head.landmark_points(found) - head.landmark_points(truth)).norm(dim=-1).mean())


def test_recovers_where_the_head_is_and_how_it_looks() -> None:
    head = marked_head()
    truth = scene(head)
    track = fit_capture(looks(head, truth, rig()), 3, rig(), head, config())
    assert track.found.all() and apart(head, track.params, truth) < 0.5
    assert np.nanmax(track.errors) < 0.004
    turns = Rotation.from_rotvec(track.params.rotation.numpy()) * Rotation.from_rotvec(truth.rotation.numpy()).inv()
    assert np.degrees(turns.magnitude()).max() < 0.5
    assert np.isnan(track.errors[:, 4]).all(), "a camera at 85 degrees counted"
    assert abs(track.angles[:, 4].mean() - 85) < 15
    assert torch.allclose(track.cameras[1].viewmat, rig()[1].viewmat, atol=5e-3)


def test_several_cameras_know_the_distance_that_one_guesses() -> None:
    head = marked_head()
    truth = scene(head, times=1, seed=3)
    far = truth.replace(translation=truth.translation + torch.tensor([0.0, 0.0, -0.5]))
    cameras = rig()
    seen = looks(head, far, cameras, noise=0.5)
    errors = []
    for views in ((2,), (0, 1, 2, 3)):
        own = {cell: look for cell, look in seen.items() if cell[1] in views}
        errors.append(apart(head, fit_capture(own, 1, cameras, head).params, far))
    assert errors[1] < 3 and errors[1] < 0.5 * errors[0], errors


@pytest.mark.parametrize("scale", [0.001, 20.0])
def test_cameras_in_any_unit_end_in_metres(scale: float) -> None:
    head = marked_head()
    truth, cameras = scene(head), rig(scale=scale)
    track = fit_capture(looks(head, truth, cameras, scale), 3, cameras, head, config(shape_prior=1.0))
    away = [(camera.center - rig()[c].center).norm() for c, camera in enumerate(track.cameras)]
    assert max(away) < 0.08, "a head's size tells the unit to some percent"
    pixels = project(head.landmark_points(track.params), track.cameras[1])[0].numpy()
    goal = np.stack([looks(head, truth, cameras, scale)[t, 1].look.points for t in range(3)])
    assert np.abs(pixels - goal).mean() < 1.0


def test_a_time_that_nobody_saw_lies_between_its_neighbours() -> None:
    head = marked_head()
    truth = scene(head, times=3)
    seen = {cell: look for cell, look in looks(head, truth, rig()).items() if cell[0] != 1}
    track = fit_capture(seen, 3, rig(), head, config())
    assert track.found.tolist() == [True, False, True]
    between = (track.params.translation[0] + track.params.translation[2]) / 2
    assert torch.allclose(track.params.translation[1], between, atol=1e-5)


def test_a_known_person_keeps_shape_and_scale() -> None:
    head = marked_head()
    truth, cameras = scene(head, times=4), rig()
    seen = looks(head, truth, cameras)
    first = fit_capture({cell: look for cell, look in seen.items() if cell[0] < 2}, 2, cameras, head, config())
    later = {(t - 2, c): look for (t, c), look in seen.items() if t >= 2}
    track = fit_capture(later, 2, cameras, head, config(), known=first)
    assert torch.equal(track.params.shape, first.params.shape)
    assert apart(head, track.params, truth.frames(slice(2, 4))) < 1.0


def test_a_person_known_in_millimetres_is_found_by_one_camera() -> None:
    head = marked_head()
    truth, cameras = scene(head, times=3), rig(scale=0.001)
    seen = looks(head, truth, cameras, 0.001)
    first = fit_capture({cell: look for cell, look in seen.items() if cell[0] < 2}, 2, cameras, head, config())
    alone = fit_capture({(0, 2): seen[2, 2]}, 1, cameras, head, config(), known=first)
    size = math.exp(first.state.log_scale) / 0.001
    later = truth.frame(2)
    apart_mm = 1e3 * (head.landmark_points(alone.params) / size - head.landmark_points(later)).norm(dim=-1).mean()
    assert apart_mm < 15, "within what one camera can tell"


def test_heads_behind_a_camera_are_refused() -> None:
    head, cameras = marked_head(), rig((0.0,))
    fitter = CaptureFitter(looks(head, scene(head, times=1), cameras, noise=1.0), 1, cameras, head, config(noise=0.02))
    problem = CaptureProblem(fitter.fitter, fitter.counted(fitter.start), False, fitter.usual_scale)
    behind = fitter.start.frames.vector
    behind[:, 3:6] += 3 * (cameras[0].center.numpy() - behind[:, 3:6])
    there = replace(fitter.start, frames=fitter.start.frames.moved(behind))
    assert problem.energies(there)[0] > 1e6 > problem.energies(fitter.start)[0]


def test_without_any_face_the_remedy_is_named() -> None:
    with pytest.raises(FaceError, match="use cameras that see the face"):
        fit_capture({}, 2, rig(), marked_head())


def some_state(head: HeadModel, times: int, seed: int) -> CaptureState:
    rng = np.random.default_rng(seed)
    frames = WorldStates(
        rotation=Rotation.from_rotvec(rng.normal(0, 0.2, (times, 3))).as_matrix(),
        origin=rng.normal(0, 0.05, (times, 3)),
        expr=rng.uniform(0.1, 0.6, (times, head.num_expr)),
        gaze=rng.normal(0, 0.1, (times, 4)),
        jaw=np.zeros(times),
    )
    return CaptureState(0.03, rng.normal(0, 0.5, head.num_shape), frames)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), yaw=st.floats(-170, 170), scale=st.floats(0.2, 5))
def test_a_camera_sees_what_projection_says(seed: int, yaw: float, scale: float) -> None:
    """Seen poses, projected as the fit does, are the world's heads projected by the camera."""
    head = marked_head()
    state = replace(some_state(head, 2, seed), log_scale=math.log(scale))
    camera = rig((yaw,), scale)[0]
    station = Station.of(camera)
    face = CaptureFitter(looks(head, scene(head, 1), rig()), 1, rig(), head, config()).face
    seen = station.seen(state.frames, state.log_scale)
    own = face.project(station.log_focal, state.shape, seen, station.middle)
    params = face.placed(state.shape, state.frames.rotation, state.frames.origin, state.frames)
    unit = torch.ones(4, 4)
    unit[:3, 3] = scale
    goal = project(head.landmark_points(params), replace(camera, viewmat=camera.viewmat * unit))[0].numpy()
    np.testing.assert_allclose(own / [1.0, station.stretch], goal, atol=0.05)
    rotation, away = station.placed(seen)
    np.testing.assert_allclose(rotation, state.frames.rotation, atol=1e-6)
    np.testing.assert_allclose(away, state.frames.origin - scale * station.center, atol=1e-5)


def differences(slope: np.ndarray, moved: Callable[[float], np.ndarray]) -> None:
    """That a slope is the difference quotient of what `moved` returns."""
    np.testing.assert_allclose((moved(1e-6) - moved(-1e-6)) / 2e-6, slope, rtol=1e-4, atol=1e-3)


def test_slopes_of_the_seen_pose_are_its_differences() -> None:
    head = marked_head()
    state = some_state(head, 3, 1)
    station = Station.of(rig(scale=0.7)[3])
    slopes = station.slopes(state.frames, state.log_scale)
    seen = station.seen(state.frames, state.log_scale)

    def pose(frames: WorldStates, log_scale: float) -> np.ndarray:
        own = station.seen(frames, log_scale)
        turn = Rotation.from_matrix(own.rotation @ seen.rotation.transpose(0, 2, 1)).as_rotvec()
        return np.concatenate([turn, own.centre, own.log_scale[:, None]], 1)

    for column in range(6):

        def stepped(step: float, column: int = column) -> np.ndarray:
            vector = state.frames.vector
            vector[:, column] += step
            return pose(state.frames.moved(vector), state.log_scale)

        differences(slopes[:, :, column], stepped)
    differences(slopes[:, :, 6], lambda step: pose(state.frames, state.log_scale + step))


def test_what_cameras_saw_adds_up_as_one_large_jacobian_does() -> None:
    rng = np.random.default_rng(0)
    times, local, shape, rows = 4, 13, 3, np.array([0, 3])
    zeros = Normals(np.zeros((1 + shape,) * 2), np.zeros((times, local, 1 + shape)), np.zeros((times, local, local)),
                    Unknowns(np.zeros(1 + shape), np.zeros((times, local))))  # fmt: skip
    whole = np.zeros((times * local + 1 + shape,) * 2)
    gradient = np.zeros(len(whole))
    for _ in range(2):  # cameras
        frames, common = rng.normal(size=(2, 20, local)), rng.normal(size=(2, 20, 1 + shape))
        residuals, slopes = rng.normal(size=(2, 20)), rng.normal(size=(2, 6, 7))
        seen = Normals(
            np.einsum("tra,trb->ab", common, common), np.einsum("tra,trb->tab", frames, common),
            np.einsum("tra,trb->tab", frames, frames),
            Unknowns(np.einsum("tra,tr->a", common, residuals), np.einsum("tra,tr->ta", frames, residuals)),
        )  # fmt: skip
        add_seen(zeros, rows, seen, slopes)
        for n, t in enumerate(rows):
            jacobian = np.zeros((20, len(whole)))
            own = frames[n].copy()
            own[:, :6] = own[:, :6] @ slopes[n, :, :6]
            jacobian[:, t * local : (t + 1) * local] = own
            jacobian[:, times * local] = frames[n, :, :6] @ slopes[n, :, 6]
            jacobian[:, times * local + 1 :] = common[n, :, 1:]
            whole += jacobian.T @ jacobian
            gradient += jacobian.T @ residuals[n]
    blocks = [whole[t * local : (t + 1) * local] for t in range(times)]
    np.testing.assert_allclose(zeros.frames, [b[:, t * local : (t + 1) * local] for t, b in enumerate(blocks)])
    np.testing.assert_allclose(zeros.cross, [b[:, times * local :] for b in blocks], atol=1e-9)
    np.testing.assert_allclose(zeros.shared, whole[times * local :, times * local :])
    told = np.concatenate([zeros.gradient.frames.ravel(), zeros.gradient.shared])
    np.testing.assert_allclose(told, gradient, atol=1e-9)


def test_every_round_lowers_the_energy() -> None:
    head, cameras = marked_head(), rig()
    fitter = CaptureFitter(looks(head, scene(head, times=2), cameras), 2, cameras, head, config(noise=0.03))
    problem = CaptureProblem(fitter.fitter, fitter.counted(fitter.start), True, fitter.usual_scale)
    state, energies = fitter.start, []
    for _ in range(6):
        energies.append(problem.energies(state).sum())
        state = descend(problem, state, False, 1, 0.0)
    assert all(b <= a for a, b in zip(energies, energies[1:], strict=False)) and energies[-1] < 0.1 * energies[0]
