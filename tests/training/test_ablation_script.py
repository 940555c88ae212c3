"""scripts/ablation_generator.py: variants trained alike, measured on other people, tables with what is uncertain."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from script_modules import load_script
from training_helpers import SIZE, write_set

from geodiff.files import read_json
from geodiff.training.dataset import SynthShards


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("ablation_generator")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return write_set(folder / "train", (0, 1, 2)), write_set(folder / "test", (5, 6))


def test_own_view_crops_show_the_frame_itself(script: ModuleType, sets: tuple[Path, Path]) -> None:
    source = SynthShards(sets[0], size=SIZE)
    usual, own = script.Kept(source), script.Kept(source, same_view=True)
    assert len(own) == len(source) and np.array_equal(own.rarity(), source.rarity())
    for key, value in source[3].items():
        assert torch.equal(usual[3][key], value)
        assert (key == "driving") != torch.equal(own[3][key], value)
    image = own[3]["images"][0]
    middle = image[:, SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4].mean((1, 2))
    torch.testing.assert_close(own[3]["driving"][0].mean((1, 2)), middle)


def test_variants_and_settings_are_measured_once(
    script: ModuleType,
    sets: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = ("full", "without joint representation", "without cross-view pairing")
    monkeypatch.setattr(script, "VARIANTS", {name: script.VARIANTS[name] for name in chosen})
    monkeypatch.setattr(script, "STEPS", (3,))
    monkeypatch.setattr(script, "SCALES", (1.0,))
    monkeypatch.setattr(script, "INITS", ("reference",))
    folders = ["--set", str(sets[0]), "--test-set", str(sets[1]), "--size", "32", "--steps", "1"]
    folders += ["--model", "test", "--samples", "2"]
    training = [str(tmp_path), *folders, "batch=2", "precision=no"]
    script.main(training)
    told = capsys.readouterr().out
    assert [line.split(" {")[0] for line in told.splitlines() if " {" in line] == list(chosen)
    script.main(training)
    assert " {" not in capsys.readouterr().out, "what is known is not trained again"

    script.main([str(tmp_path), *folders, "--sampling", str(tmp_path / "full" / "weights")])
    known = read_json(tmp_path / "ablation.json")
    assert list(known["sampling"]) == [
        f"start {init}, guidance 1, {steps} steps, temperature {temperature}"
        for init, steps, temperature in (("proposal", 2, 0), ("reference", 2, 1), ("proposal", 3, 0))
    ]
    for row in known["variants"].values():
        assert set(row["frames"]["tracked"]["people"]) == {5, 6} and len(row["frames"]["other"]["psnr"]) == 2
        assert row["psnr, tracked"] == pytest.approx(np.mean(row["frames"]["tracked"]["psnr"]), abs=1e-3)
    text = (tmp_path / "ablation.md").read_text()
    assert "| without cross-view pairing |" in text and "| -1.69 |" in text and "| not learned |" in text


def test_differences_are_those_of_the_same_frames(script: ModuleType) -> None:
    base = {"frames": {"tracked": {"psnr": [10.0, 20.0, 30.0], "people": [1, 1, 2]}}}
    row = {"frames": {"tracked": {"psnr": [11.0, 23.0, 30.0], "people": [1, 1, 2]}}}
    mean, error = script.difference(row, base, "tracked")
    assert mean == pytest.approx(4 / 3) and error == pytest.approx(1.0), "over people: 2 and 0"
