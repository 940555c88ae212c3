"""scripts/clip_sheet.py: what it shows of a clip set, and in which order."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from sample_clips import YAWS, write_clips
from script_modules import load_script

from geodiff.clipset import ClipSet
from geodiff.head import load_head
from geodiff.media import read_image, write_image, write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("sheet") / "clips", load_head("builtin"))


def test_views_stand_from_one_side_to_the_other(folder: Path) -> None:
    script, clips = load_script("clip_sheet"), ClipSet.open(folder)
    rows = dict(script.view_rows(clips, 1.0))
    assert list(rows) == ["generated", "generated normals"], "no proposals were kept"
    order, last = np.argsort(YAWS), clips.num_timesteps - 1
    for shown, c in zip(rows["generated"], order, strict=True):
        assert np.array_equal(shown, clips.frame(last, int(c)).image)
    for t, c in clips.frames:
        write_image(folder / "proposals" / clips.image_file(t, c).name, np.full((16, 16, 3), 40 * c, np.uint8))
    proposals = dict(script.view_rows(clips, 0.0))["proposals"]
    assert [int(one[0, 0, 0]) for one in proposals] == [40 * int(c) for c in order]


def test_the_strip_runs_through_the_clip(folder: Path, tmp_path: Path) -> None:
    script, clips = load_script("clip_sheet"), ClipSet.open(folder)
    film = [np.full((32, 32, 3), value, np.uint8) for value in (10, 120, 240)]
    write_video(tmp_path / "drive.mp4", film, 25.0)
    rows = dict(script.strip_rows(clips, 2, tmp_path / "drive.mp4"))
    assert list(rows) == ["driving video", "front", "front, normals", "side", "side, normals"]
    assert [round(float(one.mean()), -1) for one in rows["driving video"]] == [10, 240]
    last = clips.num_timesteps - 1
    for name, yaw in (("front", 0.0), ("side", 40.0)):
        for shown, t in zip(rows[name], (0, last), strict=True):
            assert np.array_equal(shown, clips.frame(t, YAWS.index(yaw)).image)


def test_the_command_writes_both_pictures(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = load_script("clip_sheet").main
    views, strip = tmp_path / "views.png", tmp_path / "strip.png"
    assert main([str(folder), "--views", str(views), "--strip", str(strip), "--frames", "3", "--tile", "32"]) == 0
    assert read_image(views, min_side=1).shape[1] == len(YAWS) * 36 + 4
    assert read_image(strip, min_side=1).shape[1] == 3 * 36 + 4
    assert main([str(folder), "--moment", "2"]) == 2
    assert main([str(tmp_path / "none"), "--views", str(views)]) == 2
    assert re.search(r"--moment must lie between 0 and 1.*\n.*none", capsys.readouterr().err)
