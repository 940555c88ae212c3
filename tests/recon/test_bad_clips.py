"""Clip sets that cannot be used, or not all of them: the real command, one sentence, nothing lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_clips import write_clips

from geodiff import cli
from geodiff.clipset import ClipSet
from geodiff.files import read_json, read_npz, write_json, write_npz
from geodiff.head import identity
from geodiff.head.model import HeadModel

SIZE = 48
ONE = "00001_02.png"


@pytest.fixture(autouse=True)
def _small_head(small_head: HeadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "load_head", lambda spec: small_head)
    # The video of the finished avatar takes longer than all the rest.
    monkeypatch.setattr("recon.reconstruct.animate", lambda *arguments: None)


def run(clips: Path, out: Path) -> int:
    settings = ["gaussians=900", "iterations=2"]
    return cli.run(["reconstruct", str(clips), "--preset", "test", "--out", str(out), *settings])


def edit(path: Path, change: Callable[[dict], None]) -> None:
    content = read_json(path)
    change(content)
    write_json(path, content)


def without_frame(folder: Path) -> None:
    """Neither listed nor there."""
    for path in folder.glob("transforms*.json"):
        edit(path, lambda c: c.update(frames=[f for f in c["frames"] if not f["file_path"].endswith(ONE)]))
    for kind in ("images", "fg_masks", "normals"):
        (folder / kind / ONE).unlink()


def blank(folder: Path, names: list[str]) -> None:
    for name in names:
        Image.new("L", (SIZE, SIZE)).save(folder / "fg_masks" / name)


def spoiled_normals(folder: Path, rows: slice) -> None:
    """What programs write for NaN: black."""
    for path in (folder / "normals").iterdir():
        pixels = np.asarray(Image.open(path)).copy()
        pixels[rows] = 0
        Image.fromarray(pixels).save(path)


def nan_parameters(folder: Path) -> None:
    path = folder / "flame_param" / "00001.npz"
    arrays = read_npz(path)
    write_npz(path, **{**arrays, "expr": np.full_like(arrays["expr"], np.nan)})


def other_head(folder: Path) -> None:
    edit(folder / "clipset.json", lambda c: c["head"].update(hash="0123456789abcdef"))


def nan_camera(folder: Path) -> None:
    text = (folder / "transforms.json").read_text()
    content = json.loads(text)
    content["frames"][3]["transform_matrix"][0][3] = float("nan")
    (folder / "transforms.json").write_text(json.dumps(content))


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing image": (lambda p: (p / "images" / ONE).unlink(), "is missing"),
    "missing parameters": (lambda p: (p / "flame_param" / "00001.npz").unlink(), "is missing"),
    "half an image": (lambda p: (p / "images" / ONE).write_bytes(b"\x89PNG\r\n\x1a\n"), "is damaged"),
    "image of another size": (lambda p: Image.new("RGB", (40, SIZE)).save(p / "images" / ONE), "must be 48x48 pixels"),
    "mask of another size": (lambda p: Image.new("L", (40, SIZE)).save(p / "fg_masks" / ONE), "must be 48x48 pixels"),
    "normals of another size": (lambda p: Image.new("RGB", (9, 9)).save(p / "normals" / ONE), "must be 48x48 pixels"),
    "no mask shows a head": (lambda p: blank(p, [f.name for f in (p / "fg_masks").iterdir()]), "are empty"),
    "NaN for normals": (lambda p: spoiled_normals(p, slice(0, SIZE)), "must hold unit vectors"),
    "NaN for parameters": (nan_parameters, "must hold finite"),
    "NaN for a camera": (nan_camera, "finite"),
    "another head": (other_head, "was made with the head model"),
    "no folder": (lambda p: shutil.rmtree(p), "does not exist"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, words = REFUSED[name]
    folder, out = tmp_path / "clips", tmp_path / "avatar"
    shutil.copytree(clips, folder)
    spoil(folder)
    out.mkdir()
    (out / "avatar.json").write_text("what was there before")
    assert run(folder, out) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("Error", "Fault"))]
    assert len(told) == 1 and told[0].startswith("Error: ") and words in told[0]
    assert (out / "avatar.json").read_text() == "what was there before"


HANDLED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a frame less": (without_frame, ""),
    "some empty masks": (lambda p: blank(p, [ONE, "00002_02.png"]), "2 frames have an empty mask and are left out"),
    "a view of empty masks": (lambda p: blank(p, [f"0000{t}_01.png" for t in range(4)]), "4 frames have an empty mask"),
    "a few spoiled normals": (lambda p: spoiled_normals(p, slice(24, 25)), "holds no normals and is filled up"),
}


@pytest.mark.parametrize("name", HANDLED)
def test_handled(name: str, tmp_path: Path, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, words = HANDLED[name]
    folder, out = tmp_path / "clips", tmp_path / "avatar"
    shutil.copytree(clips, folder)
    spoil(folder)
    assert run(folder, out) == 0
    assert words in capsys.readouterr().err and (out / "avatar.json").exists()
    assert not words or any(words in note for note in read_json(out / "run.json")["notes"])


@pytest.mark.parametrize(("steps", "yaws"), [(1, (0.0,)), (4, (0.0,)), (1, (0.0, 40.0))])
def test_one_frame_or_one_view_is_enough(
    tmp_path: Path, small_head: HeadModel, steps: int, yaws: tuple[float, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    clips = write_clips(tmp_path / "clips", small_head, SIZE, steps, yaws)
    assert run(clips, tmp_path / "avatar") == 0 and (tmp_path / "avatar" / "avatar.json").exists()
    assert ("one view only" in capsys.readouterr().err) == (len(yaws) == 1)


def test_repaired_normals_are_those_beside(tmp_path: Path, clips: Path, small_head: HeadModel) -> None:
    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)
    spoiled_normals(folder, slice(24, 25))
    whole, repaired = (ClipSet.open(path, small_head).clip(0) for path in (clips, folder))
    told: list[str] = []
    source = ClipSet.open(folder, small_head)
    source.tell = told.append
    found = source.clips()[0]
    assert len(told) == 1 and whole.normals is not None and found.normals is not None and repaired.normals is not None
    inside = whole.masks > 127
    off = np.abs(found.normals.astype(int) - whole.normals)[inside]
    assert not repaired.normals[:, 24].any() and off.mean() < 1.0
    assert (found.normals[:, 24][~inside[:, 24]] == 128).all()
