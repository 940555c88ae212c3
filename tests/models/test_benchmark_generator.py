"""The benchmark of the generator: what it predicts of the full network, and that it runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from script_modules import load_script

from geodiff.models.networks import FULL
from geodiff.models.sampling import SamplingConfig


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmark_generator")


def test_the_full_network_in_low_memory_fits_16_gb(script: ModuleType) -> None:
    found = script.predict(FULL, script.SETTINGS["bf16-low"], 512, 16, SamplingConfig())
    assert found.card() < 12
    assert found.weights == pytest.approx(2.59, abs=0.02)
    # 135 without the reference's keys, which widen every spatial attention.
    assert 130 < found.denoise < 150


def test_a_measured_row(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    out = tmp_path / "rows.json"
    sizes = ["--model", "test", "--device", "cpu", "--steps", "1", "--frames", "4"]
    monkeypatch.setattr(
        sys, "argv", ["benchmark_generator.py", *sizes, "--settings", "fp32", "fp32-low", "--json", str(out)]
    )
    script.main()
    rows = json.loads(out.read_text())["rows"]
    assert set(rows) == {"fp32", "fp32-low"}
    assert all(values["measured"]["seconds"] > 0 for values in rows.values())
    assert rows["fp32-low"]["measured"]["peak"] < rows["fp32"]["measured"]["peak"]
    assert rows["fp32-low"]["predicted"]["weights"] < rows["fp32"]["predicted"]["weights"]
    assert "| fp32-low |" in capsys.readouterr().out
