"""Videos of a head with known motion: steady, without lag, blinks whole, bridged where nothing is seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from tracking.filmed import FPS, Film, film, jitter, lag

from geodiff.geometry import project
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.tracking.settings import TrackConfig
from geodiff.tracking.smooth import SmoothConfig
from geodiff.tracking.video import VideoTrack, bridged, fit_footage, person_shots

LIDS = ("eyeBlinkLeft", "eyeBlinkRight")


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("builtin")


@pytest.fixture(scope="module")
def filmed(head: HeadModel) -> Film:
    return film(head)


@pytest.fixture(scope="module")
def track(filmed: Film, head: HeadModel) -> VideoTrack:
    return fit_footage(filmed.footage(), head, TrackConfig(), FPS)


def weights(params: object, head: HeadModel, *names: str) -> np.ndarray:
    columns = [head.expression_names.index(name) for name in names]
    return params.expr[:, columns].numpy()  # type: ignore[attr-defined]


def test_jitter_is_at_most_half_of_the_landmarks(track: VideoTrack, filmed: Film, head: HeadModel) -> None:
    assert head.landmarks is not None
    rows = head.landmarks.indices.numpy()
    pixels = project(head.landmark_points(track.params), track.camera)[0].numpy()
    ratio = jitter(pixels - filmed.points[:, rows]) / jitter(filmed.noise[:, rows])
    assert ratio < 0.25, f"the bound is 0.5; measured {ratio:.3f}"
    turns = track.params.rotation.numpy() - filmed.params.rotation.numpy()
    alone = fit_footage(filmed.footage(), head, TrackConfig(steadiness=0.0), FPS)
    turns_alone = alone.params.rotation.numpy() - filmed.params.rotation.numpy()
    assert jitter(turns) < 0.4 * jitter(turns_alone), "steadier than frames fitted on their own"
    assert np.degrees(np.abs(turns - np.median(turns, 0)).mean()) < 0.3


def test_nothing_lags(track: VideoTrack, filmed: Film, head: HeadModel) -> None:
    """The bound is one frame."""
    for axis in (0, 1):
        away = lag(track.params.rotation.numpy()[:, axis], filmed.params.rotation.numpy()[:, axis])
        assert abs(away) < 0.2, f"rotation about axis {axis}: {away:.2f} frames"
    found, truth = (weights(params, head, "jawOpen")[:, 0] for params in (track.params, filmed.params))
    assert abs(lag(found, truth)) < 0.3


def test_blinks_are_kept(track: VideoTrack, filmed: Film, head: HeadModel) -> None:
    """Blinks of three to five frames keep at least 80% of their weights' amplitude and of the lids' way."""
    assert head.landmarks is not None
    found, truth = (weights(params, head, *LIDS) for params in (track.params, filmed.params))
    for first, length in filmed.blinks:
        part = slice(first, first + length)
        kept = (found[part].max(0) - np.median(found, 0)) / truth[part].max(0)
        assert kept.min() >= 0.8, f"blink at {first}, {length} frames long: {kept}"

    place = {int(mark): row for row, mark in enumerate(head.landmarks.indices)}

    def openings(params: object) -> np.ndarray:
        points = head.landmark_points(params).numpy()  # type: ignore[arg-type]
        pairs = [(place[159], place[145]), (place[386], place[374])]
        return np.stack([np.linalg.norm(points[:, a] - points[:, b], axis=1) for a, b in pairs], 1)

    found, truth = openings(track.params), openings(filmed.params)
    for first, length in filmed.blinks:
        part = slice(first, first + length)
        way = (np.median(found, 0) - found[part].min(0)) / (np.median(truth, 0) - truth[part].min(0))
        assert way.min() >= 0.8


def test_parameters_stay_within_their_bounds(head: HeadModel) -> None:
    wild = film(head, frames=40, noise=0.06, seed=3)
    track = fit_footage(wild.footage(), head, TrackConfig(), FPS)
    assert float(track.params.expr.min()) >= 0.0 and float(track.params.expr.max()) <= 1.0
    assert float(track.params.shape.abs().max()) <= 3.0
    assert float(track.params.eyes_pose.abs().max()) <= 0.7 + 1e-6
    assert torch.isfinite(track.params.rotation).all()


def test_windows_change_nothing(track: VideoTrack, filmed: Film, head: HeadModel) -> None:
    """A long shot is solved in pieces that fit together."""
    config = TrackConfig(smooth=SmoothConfig(window=64, ahead=16))
    pieces = fit_footage(filmed.footage(), head, config, FPS)
    away = (
        Rotation.from_rotvec(pieces.params.rotation.numpy()) * Rotation.from_rotvec(track.params.rotation.numpy()).inv()
    )
    assert np.degrees(away.magnitude()).max() < 0.3
    assert np.abs(pieces.params.expr.numpy() - track.params.expr.numpy()).mean() < 0.01


def test_lost_frames_are_bridged(filmed: Film, head: HeadModel) -> None:
    lost = np.zeros(60, bool)
    lost[[0, 1, 20, 21, 22, 23, 24, 58, 59]] = True
    short = replace(filmed, points=filmed.points[:60], noise=filmed.noise[:60])
    notes: list[str] = []
    track = fit_footage(short.footage(lost=lost), head, TrackConfig(), FPS, note=notes.append)
    assert (track.found == ~lost).all() and np.isnan(track.errors[lost]).all()
    assert track.face(20) is None and track.face(19) is not None
    assert np.isnan(track.landmarks[lost]).all() and np.isfinite(track.boxes).all()
    assert notes == ["the face was lost in 9 of 60 frames; they are bridged"]
    turns = Rotation.from_rotvec(track.params.rotation.numpy())
    arc = (turns[25] * turns[19].inv()).magnitude()
    steps = [(turns[t + 1] * turns[t].inv()).magnitude() for t in range(19, 25)]
    np.testing.assert_allclose(steps, arc / 6, atol=1e-4)
    for name in ("expr", "translation", "eyes_pose"):
        values = getattr(track.params, name).numpy()
        np.testing.assert_allclose(values[22], (values[19] + values[25]) / 2, atol=1e-5)
        assert (values[0] == values[2]).all() and (values[59] == values[57]).all(), "ends hold still"


def test_landmarks_that_are_no_face_count_as_lost(filmed: Film, head: HeadModel) -> None:
    """A detector makes up a mesh where it sees none; its neighbours must not be pulled along."""
    noise = filmed.noise[:60].copy()
    noise[[20, 21, 40]] += np.random.default_rng(1).normal(0, 0.4 * filmed.eyes, (3, 478, 2))
    notes: list[str] = []
    short = replace(filmed, points=filmed.points[:60], noise=noise)
    track = fit_footage(short.footage(), head, TrackConfig(), FPS, note=notes.append)
    assert np.flatnonzero(~track.found).tolist() == [20, 21, 40]
    assert notes == ["the face was lost in 3 of 60 frames; they are bridged"]
    away = np.degrees(np.abs(track.params.rotation.numpy() - filmed.params.rotation.numpy()[:60]))
    assert away.max() < 1.5


def test_shots_are_smoothed_apart(filmed: Film, head: HeadModel) -> None:
    """The head jumps at a cut, and the frames on both sides of it stay what they were."""
    order = np.r_[0:30, 75:105]
    cut = replace(filmed, points=filmed.points[order], noise=filmed.noise[order])
    shot = np.repeat([0, 1], 30)
    notes: list[str] = []
    track = fit_footage(cut.footage(shot), head, TrackConfig(), FPS, note=notes.append)
    assert notes == ["the film has 1 cut; nothing is smoothed across them"]
    assert (track.shot == shot).all()
    truth = filmed.params.rotation.numpy()[order]
    away = np.degrees(np.abs(track.params.rotation.numpy() - truth))
    assert away[28:32].max() < 1.5 and np.degrees(np.abs(truth[30] - truth[29])).max() > 10


def test_shots_of_somebody_else_count_as_lost(filmed: Film, head: HeadModel) -> None:
    shot = np.repeat([0, 1, 2], [40, 10, 10])
    footage = replace(filmed, points=filmed.points[:60], noise=filmed.noise[:60]).footage(shot)
    looks = [np.eye(2, 1024, dtype=np.float32)[row : row + 1] for row in (0, 1, 0)]
    footage = replace(footage, looks=looks)
    assert person_shots(footage) == [0, 2]
    notes: list[str] = []
    track = fit_footage(footage, head, TrackConfig(), FPS, note=notes.append)
    assert (track.found == (shot != 1)).all()
    assert "10 frames show somebody else than the longest shot does; they count as lost" in notes
    expr = track.params.expr.numpy()
    assert (expr[40:45] == expr[39]).all() and (expr[45:50] == expr[50]).all(), "held at the nearer side"


def test_bridges_do_not_leave_a_shot(head: HeadModel) -> None:
    params = head.zeros(2).replace(translation=torch.tensor([[0.0, 0, -1], [1.0, 0, -1]]))
    inside = bridged(params, np.array([0, 4]), np.zeros(5, int)).translation[:, 0].tolist()
    assert inside == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    across = bridged(params, np.array([0, 4]), np.array([0, 0, 0, 1, 1])).translation[:, 0].tolist()
    assert across == [0, 0, 0, 1, 1]
