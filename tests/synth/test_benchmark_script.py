"""scripts/benchmark.py from the command line to its tables, with tiny random networks."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from script_modules import load_script

from geodiff.synth.bench.definition import BenchConfig


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmark")


def test_a_run_ends_in_tables_and_pictures(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"photo": 256, "texture": 128, "supersample": 1, "views": 2, "steps": 2, "held_views": 1, "held_steps": 1}
    quick = BenchConfig.quick
    monkeypatch.setattr(BenchConfig, "quick", staticmethod(lambda **changes: quick(**changes, **small)))
    arguments = [
        "--generator", "random:test", "--preset", "test", "--quick", "--people", "1", "--size", "64", "--out",
        str(tmp_path), "--metrics", "psnr,normal_degrees,mask_iou", "--kinds", "tracked", "--avatar", "iterations=5",
        "--workers", "1",
    ]  # fmt: skip
    assert script.main(arguments) == 0
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(found["summary"]) == {"self", "cross", "normals", "avatar"}
    assert found["methods"] == {"self": "random:test", "cross": "random:test", "avatar": "geodiff4d"}
    assert found["summary"]["self"]["tracked"]["proposal"]["all"]["psnr"]["count"] == 1
    text = (tmp_path / "benchmark.md").read_text()
    assert "## Cross-reenactment" in text and "random:test, tracked" in text
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in ("self", "cross", "avatar"))

    monkeypatch.setattr(script.NetworkMethod, "__call__", lambda *_: pytest.fail("finished parts are made again"))
    assert script.main(arguments) == 0
    again = json.loads((tmp_path / "benchmark.json").read_text())
    assert again["frames"] == found["frames"]


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["--tasks", "selfie"], "the tasks must be one of self"),
        (["--people", "17"], "--people must be 1 to 16"),
        (["--shots", "0"], "--shots must be at least 1"),
        (["--metrics", "psnrr"], "did you mean 'psnr'"),
    ],
)
def test_wrong_arguments_are_told(
    script: ModuleType, arguments: list[str], rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([*arguments, "--generator", "proposal", "--out", str(tmp_path)]) == 2
    assert rule in capsys.readouterr().err


def test_a_run_needs_a_folder(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--generator", "proposal"]) == 2
    assert "--out must name a folder" in capsys.readouterr().err
