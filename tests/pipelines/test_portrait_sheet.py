"""scripts/portrait_sheet.py: what it shows of photographs, and of those that it cannot use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from script_modules import load_script

from geodiff.head import load_head
from geodiff.media import read_image, write_image


def test_a_row_for_each_photograph_with_a_face(
    astronaut: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("portrait_sheet")
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    write_image(photographs / "one.png", astronaut)
    write_image(photographs / "wall.png", np.full((80, 80, 3), 90, np.uint8))
    sheet = tmp_path / "sheet.png"
    assert script.main([str(photographs), "--sheet", str(sheet), "--size", "96"]) == 2
    assert "wall.png" in capsys.readouterr().err
    pictures = len(script.VIEWS) + 3
    shown = read_image(sheet, min_side=1)
    assert shown.shape[1] >= 96 * pictures and 96 <= shown.shape[0] < 2 * 96


def test_a_laugh_shows_teeth_close_up(astronaut: np.ndarray, tmp_path: Path) -> None:
    """The last picture is the mouth, magnified, and what it shows is not what the one before it shows."""
    script = load_script("portrait_sheet")
    write_image(tmp_path / "one.png", astronaut)
    row = script.portrait_row(tmp_path / "one.png", load_head("builtin"), 96)
    still, laugh = row[-2:]
    assert still.shape == laugh.shape == (96, 96, 3)
    assert np.abs(still - laugh).max() > 0.3
    # No background: the mouth fills the picture.
    assert (laugh[20:76, 20:76].min(-1) > 0.99).mean() < 0.05


def test_a_folder_without_photographs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script("portrait_sheet")
    assert script.main([str(tmp_path), "--sheet", str(tmp_path / "sheet.png")]) == 2
    assert "must hold images" in capsys.readouterr().err and not (tmp_path / "sheet.png").exists()
