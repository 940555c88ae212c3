"""Pseudo ground truth: estimated normals become a clip set's own, in our axes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sample_clips import sample_clips, write_clips
from script_modules import load_script

from geodiff.clipset import ClipSet
from geodiff.head import load_head

#: theirs = MATRIX @ ours: y down first, x last, z away from the camera.
MATRIX = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]], np.float32)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("estimate_normals")


class Oracle:
    """Knows the true normals of every picture of a set, and gives them in axes of its own."""

    def __init__(self, clips: ClipSet, truth: dict[tuple[int, int], np.ndarray]) -> None:
        self.known = {clips.frame(t, c).image.tobytes(): normals for (t, c), normals in truth.items()}

    def __call__(self, image: np.ndarray) -> np.ndarray:
        vectors = self.known[np.rint(image * 255).astype(np.uint8).tobytes()].astype(np.float32) / 127.5 - 1
        vectors = np.where(np.linalg.norm(vectors, axis=-1, keepdims=True) > 0.5, vectors, 0)
        return vectors @ MATRIX.T


def test_a_set_without_normals_gets_them_and_a_second_run_finds_nothing_to_do(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = load_head("builtin")
    folder = write_clips(tmp_path / "clips", head, steps=2, yaws=(-20.0, 20.0), normals=False)
    clips = ClipSet.open(folder)
    assert not clips.has_normals
    truth = {
        (t, clip.camera_index): clip.normals[t] for clip in sample_clips(head, 48, 2, (-20.0, 20.0)) for t in range(2)
    }
    oracle = Oracle(clips, truth)
    monkeypatch.setattr(script.NormalEstimator, "open", lambda path: oracle)
    monkeypatch.setattr(sys, "argv", ["estimate", str(folder), "network.onnx"])
    script.main()

    found = ClipSet.open(folder)
    assert found.has_normals
    for (t, c), expected in truth.items():
        frame = found.frame(t, c)
        sure = frame.mask == 255
        difference = frame.normal[sure].astype(int) - expected[sure]
        assert np.abs(difference).mean() < 1.5
        assert (np.abs(frame.normal[frame.mask == 0].astype(int) - 128) <= 1).all()
    assert script.estimate(found, oracle, script.measure_axes(found, oracle, 3)) == 0
    with pytest.raises(script.InputError, match="has normal maps already"):
        script.main()
