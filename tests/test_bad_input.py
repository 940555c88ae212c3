"""Input that cannot be used: one sentence, exit code 2, and what was there before is still there."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geodiff import cli
from geodiff.clipset import ClipSet
from geodiff.files import read_json
from geodiff.media import read_image


@pytest.fixture(autouse=True)
def _away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEODIFF_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def face(astronaut: np.ndarray) -> np.ndarray:
    """A portrait, (384, 384, 3) uint8."""
    return astronaut[:384, 32:416]


def generate(ref: str, *more: str) -> int:
    return cli.run(["generate", "--ref", ref, "--preset", "test", "--out", "clips", *more])


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def truncated(path: Path, face: np.ndarray) -> None:
    Image.fromarray(face).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])


BAD: dict[str, tuple[Callable[[Path, np.ndarray], object], str]] = {
    "no face": (lambda p, f: Image.fromarray(f[:90, :90] // 4).save(p), "face"),
    "plain": (lambda p, f: Image.new("RGB", (300, 300), (90, 120, 60)).save(p), "face"),
    "truncated": (truncated, "must be a readable image"),
    "text": (lambda p, f: p.write_text("hello"), "must be a readable image"),
    "empty": (lambda p, f: p.touch(), "is empty"),
    "one pixel": (lambda p, f: Image.new("RGB", (1, 1)).save(p), "at least 64 pixels"),
    "missing": (lambda p, f: None, "does not exist"),
    "folder": (lambda p, f: p.mkdir(), "is a folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_portraits_that_cannot_be_used(
    name: str, face: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = BAD[name]
    make(tmp_path / "a.png", face)
    assert generate("a.png") == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert len(told) == 1 and words in told[0]
    assert not (tmp_path / "clips" / "clipset.json").exists()


def save_gray(path: Path, face: np.ndarray) -> None:
    Image.fromarray(face).convert("L").save(path)


def save_alpha(path: Path, face: np.ndarray) -> None:
    Image.fromarray(np.dstack([face, np.full(face.shape[:2], 255, np.uint8)])).save(path)


def save_rotated(path: Path, face: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(np.ascontiguousarray(np.rot90(face, -1))).save(path, exif=exif)


def save_huge(path: Path, face: np.ndarray) -> None:
    canvas = Image.new("RGB", (12_000, 3_000), (255, 255, 255))
    canvas.paste(Image.fromarray(face).resize((3_000, 3_000)), (4_500, 0))
    canvas.save(path, format="JPEG")


@pytest.mark.parametrize("save", [save_gray, save_alpha, save_rotated, save_huge])
def test_odd_but_good_portraits_are_tracked(
    save: Callable[[Path, np.ndarray], None], face: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "a.png", face)
    assert cli.run(["track", "a.png", "--preset", "test", "--out", "t"]) == 0
    assert read_json(tmp_path / "t" / "run.json")["results"]["landmark_error"] < 0.05
    told = capsys.readouterr().err
    assert ("is 12000x3000 pixels and is used at 4096x1024" in told) == (save is save_huge)
    overlay = read_image(tmp_path / "t" / "overlay.png")
    assert overlay.shape[0] == (1024 if save is save_huge else 384), "upright and at working size"


def test_of_several_faces_the_largest_is_taken_with_a_word(
    face: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = np.asarray(Image.fromarray(face).resize((256, 256)))
    both = np.full((384, 640, 3), 255, np.uint8)
    both[:, :384] = face
    both[100:356, 384:] = small
    Image.fromarray(both).save(tmp_path / "a.png")
    centres = {}
    for name, more in (("largest", []), ("second", ["--face", "1"])):
        assert cli.run(["track", "a.png", "--preset", "test", "--out", name, *more]) == 0
        told = capsys.readouterr().err
        assert ("2 faces" in told) == (name == "largest") and (name != "largest" or "--face" in told)
        clips = ClipSet.open(tmp_path / name)
        camera, params = clips.camera(0), clips.params
        centres[name] = float((camera.K @ (camera.viewmat[:3, :3] @ params.translation[0] + camera.viewmat[:3, 3]))[0])
    assert centres["second"] > centres["largest"]
    assert cli.run(["track", "a.png", "--preset", "test", "--out", "third", "--face", "7"]) == 2
    assert "7" in capsys.readouterr().err


def test_what_was_there_stays(face: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished clip set survives another portrait, other settings, unknown keys and a full disk."""
    Image.fromarray(face).save(tmp_path / "a.png")
    Image.fromarray(face[:, ::-1]).save(tmp_path / "b.png")
    assert generate("a.png") == 0
    before = snapshot(tmp_path / "clips")
    for words, arguments in (
        ("another portrait or other settings", ["b.png"]),
        ("another portrait or other settings", ["a.png", "--seed", "5"]),
        ("did you mean", ["a.png", "veiws=2"]),
        ("the preset must be one of", ["a.png", "--preset", "tset"]),
        ("does not exist", ["c.png"]),
    ):
        assert generate(*arguments) == 2
        assert words in capsys.readouterr().err
        assert snapshot(tmp_path / "clips") == before, arguments
    assert cli.run(["reconstruct", "clips", "--method", "nothing"]) == 2


def test_a_killed_generation_goes_on(
    face: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(face).save(tmp_path / "a.png")
    from geodiff.clipset import ClipSetWriter

    finish_view = ClipSetWriter.finish_view

    def killed_at_the_second(self, view: int, *rest: object) -> None:
        if view == 1:
            raise KeyboardInterrupt
        finish_view(self, view, *rest)

    monkeypatch.setattr(ClipSetWriter, "finish_view", killed_at_the_second)
    assert generate("a.png") == 130
    assert cli.run(["reconstruct", "clips"]) == 2
    assert "holds 1 of 2 views: run its `geodiff generate` again" in capsys.readouterr().err
    first = (tmp_path / "clips" / "images" / "00000_00.png").stat().st_mtime_ns
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert generate("a.png") == 0
    assert (tmp_path / "clips" / "images" / "00000_00.png").stat().st_mtime_ns == first
    assert ClipSet.open(tmp_path / "clips").num_cameras == 2


def test_a_full_disk_is_told_and_nothing_finished_is_lost(
    face: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(face).save(tmp_path / "a.png")
    save = Image.Image.save
    written: list[object] = []

    def fills_up(self, target, *args, **kwargs) -> None:
        written.append(target)
        if len(written) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, target, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", fills_up)
    assert generate("a.png") == 2
    assert "the disk is full" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert not list((tmp_path / "clips").rglob(".*.png")), "no temporary files are left"
    assert generate("a.png") == 0


def test_an_output_that_is_a_file(face: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(face).save(tmp_path / "a.png")
    (tmp_path / "clips").write_text("mine")
    assert generate("a.png") == 2
    assert "clips" in capsys.readouterr().err
    assert (tmp_path / "clips").read_text() == "mine"
