"""scripts/measure_proposals.py: proposals from all sides against the truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from script_modules import load_script

from geodiff.conditioning import Condition, Conditioner
from geodiff.media import read_image


def test_a_person_is_measured_from_all_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script("measure_proposals")
    sheet = tmp_path / "sheet.png"
    assert script.main(["--people", "1", "--size", "64", "--workers", "1", "--sheet", str(sheet)]) == 0
    told = capsys.readouterr().out
    assert "1 people: normals" in told and "ears" in told
    assert read_image(sheet, min_side=1).shape[1] >= 64 * 2 * len(script.VIEWS)


def test_too_few_people_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load_script("measure_proposals").main(["--people", "0"])
    assert ended.value.code == 2 and "at least 1" in capsys.readouterr().err


def test_proposals_are_held_against_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("measure_proposals")
    own = script.measured("builtin", "builtin", script.FIRST, 64)
    assert own.psnr.mean() > 14 and own.overlap > 0.85 and own.normals < 35
    assert own.errors[:, 1].all(), "every kind of surface is seen from some side"
    render = Conditioner.render

    def blank(self: Conditioner, *given: object) -> Condition:
        shown = render(self, *given)
        return replace(shown, proposal=np.ones_like(shown.proposal))

    monkeypatch.setattr(Conditioner, "render", blank)
    white = script.measured("builtin", "builtin", script.FIRST, 64)
    assert (white.psnr < own.psnr - 1).all() and white.normals == own.normals and white.overlap == own.overlap
    assert (white.errors[:, 0] > own.errors[:, 0]).all() and (white.errors[:, 1] == own.errors[:, 1]).all()
