"""Flicker of still, moving and shimmering videos; JOD where its packages are installed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data

from geodiff.metrics import video
from geodiff.metrics.checks import NotMeasured
from geodiff.metrics.video import estimate_motion, flicker, jod, why_no_jod


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """(3, 96, 96, 3) uint8: a picture that moves two pixels a frame."""
    picture = cv2.resize(skimage.data.astronaut(), (128, 128), interpolation=cv2.INTER_AREA)
    return np.stack([picture[8:104, 2 * i : 2 * i + 96] for i in range(3)])


def _floats(frame: np.ndarray) -> np.ndarray:
    return frame.astype(np.float32) / 255


def test_a_still_video_does_not_flicker(frames: np.ndarray) -> None:
    still = estimate_motion(frames[0], frames[0])
    assert still.visible.all()
    assert flicker(_floats(frames[0]), _floats(frames[0]), still) == 0.0


def test_motion_is_not_flicker(frames: np.ndarray) -> None:
    first, second = _floats(frames[0]), _floats(frames[1])
    moved = estimate_motion(frames[0], frames[1])
    middle = np.zeros(first.shape[:2], bool)
    middle[16:80, 16:80] = True
    flow = moved.target - np.stack(np.meshgrid(np.arange(96.0), np.arange(96.0)), -1)
    assert np.median(flow[middle], 0) == pytest.approx([-2, 0], abs=0.2)
    unexplained = flicker(first, second, moved, middle)
    plain = 255 * np.sqrt(np.square(first - second)[middle].mean())
    assert unexplained < 0.5 * plain


def test_shimmer_is_measured_as_it_is(frames: np.ndarray) -> None:
    first = np.full((96, 96, 3), 0.5, np.float32)
    still = estimate_motion(frames[0], frames[0])
    assert flicker(first, first + 10 / 255, still) == pytest.approx(10.0, abs=1e-3)
    half = np.zeros((96, 96), bool)
    half[:48] = True
    brighter = first.copy()
    brighter[48:] += 0.1
    assert flicker(first, brighter, still, half) == 0.0


def test_wrong_frames_are_told(frames: np.ndarray) -> None:
    first = _floats(frames[0])
    still = estimate_motion(frames[0], frames[0])
    with pytest.raises(ValueError, match="one shape"):
        flicker(first, first[:50], still)
    with pytest.raises(ValueError, match="finite"):
        flicker(first, first * np.nan, still)
    with pytest.raises(ValueError, match="at least one pixel"):
        flicker(first, first, still, np.zeros((96, 96), bool))
    with pytest.raises(ValueError, match="one shape"):
        estimate_motion(frames[0], frames[0][:50])
    with pytest.raises(ValueError, match="uint8 of one shape"):
        jod(frames, frames[:2], 25.0, "fvvdp")
    with pytest.raises(ValueError, match="frame rate"):
        jod(frames, frames, 0.0, "fvvdp")
    with pytest.raises(NotMeasured, match="at least 10 frames a second, these have 4"):
        jod(frames, frames, 4.0, "fvvdp")


@pytest.mark.parametrize("predictor", ["fvvdp", "cvvdp"])
def test_jod_is_ten_for_equal_videos_or_says_why_not(frames: np.ndarray, predictor: str) -> None:
    reason = why_no_jod(predictor)
    if reason is not None:
        assert predictor in reason
        with pytest.raises(NotMeasured, match=predictor):
            jod(frames, frames, 25.0, predictor)
        return
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 2.0) for frame in frames])
    assert jod(frames, frames, 25.0, predictor) == pytest.approx(10.0)
    assert 1 < jod(blurred, frames, 25.0, predictor) < 9.5


def test_a_predictor_that_fails_is_told(frames: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def predict(self, *arguments: object, **options: object) -> None:
            raise IndexError("out of bounds")

    monkeypatch.setattr(video, "_load", lambda predictor: Broken())
    with pytest.raises(NotMeasured, match="pyfvvdp failed .out of bounds."):
        jod(frames, frames, 25.0, "fvvdp")
    monkeypatch.setattr(Broken, "predict", lambda self, *arguments, **options: (np.float32(8.5), {}))
    assert jod(frames, frames, 25.0, "fvvdp") == 8.5
