from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from geodiff.errors import InputError
from geodiff.files import read_json
from geodiff.runs import RunRecord


@dataclass
class Config:
    views: int = 3
    weights: Path = Path("a/b")


def test_a_run_is_recorded(tmp_path: Path) -> None:
    inputs, weights = {"ref": Path("x.png")}, {"unet": "ff"}
    with RunRecord(tmp_path, "generate", Config(), seed=7, preset="test", inputs=inputs, weights=weights) as run:
        assert read_json(tmp_path / "run.json")["status"] == "running"
        for _ in range(2):
            with run.stage("track"):
                pass
        run.note("no masks")
        run.note("no masks")
        run.result(psnr=20.0)
    record = read_json(tmp_path / "run.json")
    assert record["config"] == {"views": 3, "weights": "a/b"}
    assert record["status"] == "done" and record["seed"] == 7 and record["weights"] == {"unet": "ff"}
    assert record["versions"]["torch"] and record["peak_memory_mb"]["process"] > 10
    assert set(record["stages"]) == {"track"} and record["notes"] == ["no masks"] and record["results"]["psnr"] == 20


@pytest.mark.parametrize(("error", "status"), [(InputError("no face"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_a_failed_run_says_so_and_its_timings_are_kept(tmp_path: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), RunRecord(tmp_path, "generate", {}) as run:
        with run.stage("track"):
            pass
        raise error
    assert read_json(tmp_path / "run.json")["status"] == status
    with RunRecord(tmp_path, "generate", {}) as run, run.stage("sample"):
        pass
    assert set(read_json(tmp_path / "run.json")["stages"]) == {"track", "sample"}


def test_a_failed_run_leaves_a_finished_record_alone(tmp_path: Path) -> None:
    with RunRecord(tmp_path, "generate", {"a": 1}):
        pass
    with pytest.raises(InputError), RunRecord(tmp_path, "generate", {"a": 2}) as run:
        with run.stage("track"):
            pass
        raise InputError("other settings")
    record = read_json(tmp_path / "run.json")
    assert record["status"] == "done" and record["config"] == {"a": 1} and record["stages"] == {}
    with RunRecord(tmp_path, "generate", {"a": 3}, name="b.run.json"):
        pass
    assert read_json(tmp_path / "b.run.json")["config"] == {"a": 3}
