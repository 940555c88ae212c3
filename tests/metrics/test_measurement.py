"""The registry, and a measurement of frames from the first to the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from geodiff.errors import ConfigError
from geodiff.metrics import registry
from geodiff.metrics.checks import NotMeasured
from geodiff.metrics.measurement import Measurement
from geodiff.metrics.picture import Pair, Picture
from geodiff.metrics.registry import METRICS, Metric, Setup, choose_metrics
from geodiff.metrics.table import number

SIZE = 64
QUICK = ("psnr", "ssim", "high_frequency", "psnr_full", "normal_degrees", "mask_iou", "flicker", "flicker_truth")


@pytest.fixture(autouse=True)
def _no_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEODIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def _truth(c: int = 0) -> Picture:
    rng = np.random.default_rng(c)
    matte = np.zeros((SIZE, SIZE), np.float32)
    matte[12:52, 12:52] = 1.0
    image = np.where(matte[..., None] > 0, rng.uniform(0.2, 0.8, (SIZE, SIZE, 3)), 1.0).astype(np.float32)
    normals = np.zeros((SIZE, SIZE, 3), np.float32)
    normals[matte > 0, 2] = 1.0
    return Picture(image, matte, normals)


def _blurred(picture: Picture) -> Picture:
    image = ndimage.gaussian_filter(picture.image, (1, 1, 0))
    return Picture(image, picture.alpha, picture.normals)


def test_a_perfect_result() -> None:
    measurement = Measurement(QUICK)
    for t in range(3):
        for c in range(2):
            measurement.add(Pair(_truth(c), _truth(c), t, c))
    table = measurement.finish()
    assert table.frames == 6
    assert table.mean == pytest.approx({
        "psnr": 100, "ssim": 1, "high_frequency": 1, "psnr_full": 100, "normal_degrees": 0, "mask_iou": 1,
        "flicker": 0, "flicker_truth": 0,
    })  # fmt: skip
    assert table.entries["psnr"].count == 6 and table.entries["flicker"].count == 4
    assert table.not_measured == {} and set(table.views) == {0, 1}


def test_blur_and_views_show_in_the_table() -> None:
    measurement = Measurement(QUICK)
    for t in range(2):
        measurement.add(Pair(_truth(0), _truth(0), t, 0))
        measurement.add(Pair(_blurred(_truth(1)), _truth(1), t, 1))
    table = measurement.finish()
    assert table.views[0]["high_frequency"] == 1 and table.views[1]["high_frequency"] < 0.5
    assert table.mean["psnr"] == pytest.approx((table.views[0]["psnr"] + table.views[1]["psnr"]) / 2)
    rows = {row[0]: row for row in table.rows()}
    assert rows["metric"] == ["metric", "better", "mean", "worst view", "measured"]
    assert rows["PSNR (dB)"][1] == "higher" and rows["PSNR (dB)"][3].endswith("(view 1)")
    assert rows["fine detail / truth"][1] == "near 1" and rows["fine detail / truth"][3].endswith("(view 1)")
    assert rows["flicker of the truth (levels)"][1] == "reference"
    text = table.markdown()
    assert text.count("| --- |") >= 2 and "| view | PSNR (dB) |" in text
    record = json.loads(json.dumps(table.record()))
    assert record["schema"] == 2 and record["frames"] == 4 and record["views"]["1"]["ssim"] < 1
    assert record["metrics"]["psnr"] == {
        "heading": "PSNR", "unit": "dB", "better": "higher", "scope": "frame", "count": 4, "mean": table.mean["psnr"],
    }  # fmt: skip


def test_what_cannot_be_measured_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    measurement = Measurement(None, Setup(weights=tmp_path / "nothing"))
    bare = Picture(_truth().image)
    measurement.add(Pair(bare, bare, 0, 0))
    table = measurement.finish()
    assert set(table.entries) == set(METRICS) and set(table.mean) == {"psnr_full", "ssim_full", "high_frequency_full"}
    reasons = table.not_measured
    assert reasons["psnr"] == "the truth has no foreground masks"
    assert reasons["ms_ssim_full"] == "frames must have 176 pixels a side for five scales, these have less"
    assert "nothing" in reasons["lpips"] and "nothing" in reasons["csim"]
    assert reasons["normal_degrees"] == "the truth has no normal maps"
    assert reasons["akd"] == reasons["aed"] == "no face was found in the true frame"
    assert "consecutive" in reasons["flicker"]
    assert reasons["cross_view"] == "no head mesh of the true frames is known"
    row = next(row for row in table.rows() if row[0] == "AKD (px at 512)")
    assert row[2] == "not measured: no face was found in the true frame" and row[4] == "0"


def test_gaps_in_time_are_no_steps() -> None:
    measurement = Measurement(["flicker"])
    for t in (0, 2, 3):
        measurement.add(Pair(_truth(), _truth(), t, 0))
    assert measurement.finish().entries["flicker"].count == 1
    with pytest.raises(ValueError, match="order of time"):
        measurement = Measurement(["psnr"])
        measurement.add(Pair(_truth(), _truth(), 1, 0))
        measurement.add(Pair(_truth(), _truth(), 0, 0))


def test_the_longest_run_of_a_view_is_its_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[list[int]] = []

    def measure(pairs, setup) -> float:
        lengths.append([pair.t for pair in pairs])
        return float(len(pairs))

    monkeypatch.setitem(METRICS, "jod", Metric("jod", "JOD", "", "higher", "clip", measure))
    measurement = Measurement(["jod"])
    for t in (0, 2, 3, 4, 7, 8):
        measurement.add(Pair(_truth(), _truth(), t, 0))
    assert measurement.finish().mean == {"jod": 3.0} and lengths == [[2, 3, 4]]


def test_short_clips_and_lost_faces_have_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(_truth(), _truth())
    with pytest.raises(NotMeasured, match="4 consecutive"):
        METRICS["jod"].measure([pair] * 3, Setup())
    monkeypatch.setattr(Picture, "landmarks", np.zeros((478, 2), np.float32))
    assert METRICS["faces_found"].measure([pair], Setup()) == 1.0
    assert METRICS["mlmd"].measure([pair], Setup()) == 0.0
    monkeypatch.setattr(Picture, "landmarks", None)
    with pytest.raises(NotMeasured, match="true frame"):
        METRICS["faces_found"].measure([pair], Setup())


def test_the_source_gives_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    class Network:
        def embed(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
            return image.reshape(-1, 3).mean(0).astype(np.float64)

    monkeypatch.setattr(registry.identity, "load_arcface", lambda folder: Network())
    monkeypatch.setattr(Picture, "landmarks", np.zeros((478, 2), np.float32))
    names = ["csim", "csim_truth"]
    measurement = Measurement(names, Setup(source=_truth(0)))
    measurement.add(Pair(_truth(0), _truth(1)))
    table = measurement.finish()
    assert table.mean["csim"] == pytest.approx(1.0) and table.mean["csim_truth"] < 1
    alone = Measurement(names)
    alone.add(Pair(_truth(0), _truth(0)))
    assert alone.finish().not_measured == {"csim": "neither clip set holds the portrait that the result was made from"}


def test_pairs_must_fit() -> None:
    with pytest.raises(ValueError, match="one shape"):
        Pair(Picture(np.zeros((8, 8, 3))), Picture(np.zeros((8, 9, 3))))
    with pytest.raises(ValueError, match="finite"):
        Pair(Picture(np.full((8, 8, 3), np.nan)), Picture(np.zeros((8, 8, 3))))
    thin = Pair(Picture(np.zeros((8, 8, 3))), Picture(np.zeros((8, 8, 3)), np.zeros((8, 8))))
    with pytest.raises(NotMeasured, match="empty"):
        _ = thin.region


def test_unknown_names_are_told() -> None:
    with pytest.raises(ConfigError, match="did you mean 'psnr'"):
        choose_metrics(["psn"])
    with pytest.raises(ConfigError, match="choose from psnr, ssim"):
        choose_metrics(["zebra"])
    with pytest.raises(ConfigError, match="at least one"):
        choose_metrics([])
    assert [metric.name for metric in choose_metrics(["ssim", "psnr"])] == ["psnr", "ssim"]


def test_numbers_keep_their_digits() -> None:
    assert [number(v) for v in (27.32, 0.0137, 0.0, -0.5)] == ["27.320", "0.0137", "0.000", "-0.500"]
