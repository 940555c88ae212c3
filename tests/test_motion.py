from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodiff.errors import ConfigError, InputError
from geodiff.files import write_npz
from geodiff.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from geodiff.motion import (
    ARKIT_NAMES,
    MOTIONS,
    SLOWEST_FPS,
    builtin_motion,
    condensed_motion,
    in_place,
    load_motion,
    save_motion,
)
from geodiff.types import HeadParams


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(MOTIONS)), frames=st.integers(1, 200), fps=st.sampled_from([10.0, 25.0, 30.0]))
def test_any_number_of_frames(name: str, frames: int, fps: float) -> None:
    motion = builtin_motion(name, frames, fps)
    assert motion.num_frames == frames and motion.fps == fps
    assert motion.rotation.shape == (frames, 3) and motion.gaze.shape == (frames, 2)
    assert set(motion.weights) <= set(ARKIT_NAMES)
    for weights in motion.weights.values():
        assert weights.shape == (frames,) and weights.min() >= 0 and weights.max() <= 1
    assert np.isfinite(motion.rotation).all() and np.abs(motion.rotation).max() < np.radians(12)
    assert np.abs(motion.gaze).max(initial=0) < np.radians(20)


def test_talking_looks_like_talking() -> None:
    motion = builtin_motion("talk")
    assert 6 <= motion.num_frames / motion.fps <= 12
    jaw, blink = motion.weights["jawOpen"], motion.weights["eyeBlinkLeft"]
    assert jaw.max() > 0.45 and jaw.min() < 0.02
    openings = ((jaw[1:] > 0.15) & (jaw[:-1] <= 0.15)).sum() / (motion.num_frames / motion.fps)
    assert 1.0 < openings < 5.0, "syllables a second"
    shut = (blink[1:] > 0.9) & (blink[:-1] <= 0.9)
    assert 2 <= shut.sum() <= 6 and blink.max() > 0.97
    assert (blink > 0.5).mean() < 0.15
    for name in ("mouthPucker", "mouthFunnel", "mouthSmileLeft", "mouthPressLeft", "browInnerUp"):
        assert motion.weights[name].max() > 0.2, name
    assert np.abs(np.diff(jaw)).max() < 0.4, "no jump between frames"
    assert np.abs(np.diff(motion.rotation, axis=0)).max() < np.radians(1.0)
    assert np.abs(motion.rotation[0]).max() < 1e-6


def test_blinks_close_faster_than_they_open() -> None:
    blink = builtin_motion("talk", 2000, fps=200).weights["eyeBlinkLeft"]
    speed = np.diff(blink)
    assert (speed > 1e-4).sum() < 0.7 * (speed < -1e-4).sum()


def test_seeds_decide() -> None:
    first, same, other = (builtin_motion("talk", 60, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.weights["jawOpen"], same.weights["jawOpen"])
    assert not np.array_equal(first.weights["jawOpen"], other.weights["jawOpen"])


@pytest.mark.parametrize("frames", [8, 16, 32, 96, None])
def test_range_of_motion_covers_the_face(frames: int | None) -> None:
    weights = builtin_motion("range_of_motion", frames).weights
    least = {"jawOpen": 0.8, "eyeBlinkLeft": 0.95, "eyeBlinkRight": 0.95, "mouthSmileLeft": 0.8, "browInnerUp": 0.8}
    for name, height in least.items():
        assert weights[name].max() >= height, (name, weights[name].max())
        assert weights[name].min() == 0
    still = np.stack(list(weights.values())).sum(0)
    assert still[0] == 0, "it starts neutral"
    if frames is None:
        assert {"cheekPuff", "jawForward", "mouthFrownLeft"} <= set(weights)


def test_neutral_is_still() -> None:
    motion = builtin_motion("neutral", 5)
    assert not motion.weights and not motion.rotation.any() and not motion.gaze.any()


def test_unknown_motion() -> None:
    with pytest.raises(ConfigError, match="one of talk, range_of_motion, neutral, not 'tlak'; did you mean 'talk'"):
        builtin_motion("tlak")
    with pytest.raises(ValueError):
        builtin_motion("talk", 0)


def test_motion_files_round_trip(tmp_path: Path) -> None:
    motion = builtin_motion("talk", 40, fps=30)
    read = load_motion(save_motion(tmp_path / "m.npz", motion))
    assert read.fps == 30 and set(read.weights) == set(motion.weights)
    for name, weights in motion.weights.items():
        assert np.array_equal(read.weights[name], weights)
    assert np.array_equal(read.rotation, motion.rotation) and np.array_equal(read.gaze, motion.gaze)
    assert load_motion(save_motion(tmp_path / "n.npz", builtin_motion("neutral", 3))).num_frames == 3


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.zeros(3)}, "weights and names"),
        ({"weights": np.zeros((3, 2)), "names": np.array(["jawOpen"])}, r"must be \(frames, 1 names\)"),
        ({"weights": np.zeros((3, 1)), "names": np.array(["jawOpne"])}, "did you mean 'jawOpen'"),
        ({"weights": np.full((3, 1), np.nan), "names": np.array(["jawOpen"])}, "finite"),
        ({"weights": np.zeros((3, 1)), "names": np.array(["jawOpen"]), "gaze": np.zeros((2, 2))}, "gaze"),
        ({"weights": np.zeros((3, 1)), "names": np.array(["jawOpen"]), "fps": np.zeros(2)}, "fps as one number"),
    ],
)
def test_wrong_motion_files(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    write_npz(tmp_path / "m.npz", **arrays)
    with pytest.raises(InputError, match=words):
        load_motion(tmp_path / "m.npz")


def test_few_frames_tell_the_whole_speech() -> None:
    natural, short = builtin_motion("talk"), condensed_motion("talk", 16)
    assert short.num_frames == 16
    assert short.weights["eyeBlinkLeft"].max() > 0.9 and short.weights["jawOpen"].max() > 0.45
    np.testing.assert_array_equal(short.rotation[-1], natural.rotation[-1])
    assert short.fps == SLOWEST_FPS
    long = condensed_motion("talk", natural.num_frames // 2)
    assert long.num_frames / long.fps == pytest.approx(natural.num_frames / natural.fps)
    assert condensed_motion("talk", 2 * natural.num_frames).fps == natural.fps


def test_poses_are_shown_slowly() -> None:
    few = condensed_motion("range_of_motion", 16)
    assert few.fps == SLOWEST_FPS
    for name, weights in builtin_motion("range_of_motion", 16).weights.items():
        np.testing.assert_array_equal(few.weights[name], weights)
    assert SLOWEST_FPS < condensed_motion("range_of_motion", 96).fps < 25


def test_turns_since_the_first_frame() -> None:
    """A nod filmed from the side and from below is a nod."""
    nods = torch.tensor([[0.0, 0, 0], [0.3, 0, 0], [-0.2, 0, 0]])
    seen_from = axis_angle_to_matrix(torch.tensor([-0.3, 0.9, 0.2]))
    filmed = matrix_to_axis_angle(seen_from @ axis_angle_to_matrix(nods))
    params = HeadParams.zeros(2, 2, 3).replace(rotation=filmed, neck_pose=filmed, translation=torch.ones(3, 3))
    moved = in_place(params)
    torch.testing.assert_close(moved.rotation, nods, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.neck_pose, nods, atol=1e-5, rtol=0)
    assert not moved.translation.any()
