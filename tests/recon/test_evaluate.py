"""Clip sets and avatars measured against true frames."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from sample_clips import sample_clips, write_clips

from geodiff.clipset import ClipSetSpec, ClipSetWriter
from geodiff.errors import ClipSetError, ConfigError
from geodiff.head.model import HeadModel
from recon.evaluate import evaluate

#: All that the sample clips can be measured by and that takes no face.
NAMES = (
    "psnr", "ssim", "high_frequency", "psnr_full", "ssim_full", "high_frequency_full", "normal_degrees", "mask_iou",
    "flicker", "flicker_truth", "cross_view", "cross_view_truth",
)  # fmt: skip


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory, small_head: HeadModel) -> Path:
    return write_clips(tmp_path_factory.mktemp("truth") / "set", small_head, size=64, steps=3, yaws=(0.0, 25.0, -25.0))


@pytest.fixture(scope="module")
def blurred(tmp_path_factory: pytest.TempPathFactory, small_head: HeadModel) -> Path:
    """The same frames, their images blurred, and the second view's texture moved by two pixels."""
    folder = tmp_path_factory.mktemp("blurred") / "set"
    spec = ClipSetSpec(3, 3, "sample", "test", domains=("image", "normal"), head_spec="builtin")
    writer = ClipSetWriter(folder, spec, small_head)
    for clip in sample_clips(small_head, 64, 3, (0.0, 25.0, -25.0)):
        for image in clip.images:
            image[:] = cv2.GaussianBlur(np.roll(image, 2 * (clip.camera_index == 1), 1), (0, 0), 1.2)
        writer.write_view(clip)
    writer.finish()
    return folder


def test_clips_are_perfect_against_themselves(truth: Path, small_head: HeadModel) -> None:
    result = evaluate(truth, truth, head=small_head, every_frame=True, metrics=NAMES)
    assert result.frames == 9 and result.not_measured == {}
    for name, value in {"psnr": 100, "ssim": 1, "high_frequency": 1, "normal_degrees": 0, "mask_iou": 1}.items():
        assert result.mean[name] == pytest.approx(value, abs=1e-6)
    assert result.mean["flicker"] == result.mean["flicker_truth"]
    assert result.mean["cross_view"] == result.mean["cross_view_truth"]
    assert result.entries["cross_view"].count == 3 and result.entries["flicker"].count == 6


def test_blur_and_inconsistency_cost(tmp_path: Path, truth: Path, blurred: Path, small_head: HeadModel) -> None:
    shares: list[float] = []
    out = tmp_path / "metrics.json"
    result = evaluate(
        blurred, truth, out, small_head, True, lambda stage, share: shares.append(share), ["high_frequency", *NAMES]
    )
    assert result.mean["high_frequency"] < 0.5 and result.mean["psnr"] < 40
    assert result.mean["cross_view"] > result.mean["cross_view_truth"]
    assert result.views[1]["psnr"] < result.views[2]["psnr"]
    assert shares[-1] == 1.0 and shares == sorted(shares)
    record = json.loads(out.read_text())
    assert record["schema"] == 2 and record["target"] == str(blurred) and record["against"] == str(truth)
    assert record["mean"] == pytest.approx(result.mean) and set(record["metrics"]) == set(NAMES)
    assert record["views"]["1"]["psnr"] == pytest.approx(result.views[1]["psnr"])
    assert out.with_suffix(".md").read_text() == result.markdown()


def test_an_unknown_head_costs_only_what_needs_it(truth: Path) -> None:
    # The clips say "builtin", and were made with another head: nothing can pose it.
    result = evaluate(truth, truth, every_frame=True, metrics=["psnr", "cross_view"])
    assert result.mean == {"psnr": 100.0}
    assert "cannot be posed" in result.not_measured["cross_view"]


def test_the_portrait_is_the_source(truth: Path, small_head: HeadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geodiff.metrics.identity.load_arcface", lambda folder: None)
    result = evaluate(truth, truth, head=small_head, every_frame=True, metrics=["csim"])
    assert result.not_measured == {"csim": "neither clip set holds the portrait that the result was made from"}


def test_mistakes_are_told(tmp_path: Path, truth: Path, small_head: HeadModel) -> None:
    with pytest.raises(ConfigError, match="did you mean 'psnr'"):
        evaluate(truth, truth, head=small_head, metrics=["psnr_"])
    other = write_clips(tmp_path / "small", small_head, size=32, steps=2, yaws=(0.0,))
    with pytest.raises(ClipSetError, match="one size"):
        evaluate(other, truth, head=small_head, every_frame=True, metrics=["psnr"])
