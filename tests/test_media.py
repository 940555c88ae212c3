from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geodiff import files, media
from geodiff.errors import InputError, StorageError


@pytest.fixture
def picture() -> np.ndarray:
    y, x = np.mgrid[:80, :96]
    return np.stack([x * 2, y * 3, np.full_like(x, 40)], -1).astype(np.uint8)


def test_png_round_trip(tmp_path: Path, picture: np.ndarray) -> None:
    media.write_image(tmp_path / "deep" / "a.png", picture)
    assert np.array_equal(media.read_image(tmp_path / "deep" / "a.png"), picture)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]


def test_exif_rotation_is_applied(tmp_path: Path, picture: np.ndarray) -> None:
    image = Image.fromarray(picture)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate by 90 degrees clockwise to show
    image.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(media.read_image(tmp_path / "a.png"), np.rot90(picture, -1))


def test_alpha_lies_on_white(tmp_path: Path, picture: np.ndarray) -> None:
    alpha = np.zeros(picture.shape[:2], np.uint8)
    alpha[:, 48:] = 255
    Image.fromarray(np.dstack([picture, alpha])).save(tmp_path / "a.png")
    read = media.read_image(tmp_path / "a.png")
    assert (read[:, :48] == 255).all()
    assert np.array_equal(read[:, 48:], picture[:, 48:])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "YCbCr", "I;16", "F"])
def test_every_mode_becomes_rgb(tmp_path: Path, picture: np.ndarray, mode: str) -> None:
    gray = Image.fromarray(picture).convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(np.asarray(gray).astype(np.float32) / 255)
    else:
        image = Image.fromarray(picture).convert(mode)
    suffix = ".png" if mode in ("L", "LA", "P", "1", "I;16") else ".tif"
    image.save(tmp_path / f"a{suffix}")
    read = media.read_image(tmp_path / f"a{suffix}")
    assert read.shape == (80, 96, 3) and read.dtype == np.uint8
    if mode in ("L", "LA", "I;16", "F"):
        assert np.abs(read[..., 0].astype(int) - np.asarray(gray)).max() <= 1


def test_palette_with_transparency_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (80, 80), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "a.png", transparency=0)
    assert (media.read_image(tmp_path / "a.png") == 255).all()


def test_one_pixel_is_refused_with_the_rule(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"at least 64 pixels on its short side, and .*a\.png has 1x1: take a larger"):
        media.read_image(tmp_path / "a.png")


def test_very_large_images_are_scaled_down_with_a_note(tmp_path: Path) -> None:
    Image.new("RGB", (12_000, 3_000), (9, 99, 199)).save(tmp_path / "a.jpg")
    notes: list[str] = []
    read = media.read_image(tmp_path / "a.jpg", note=notes.append)
    assert read.shape == (1024, 4096, 3)
    assert notes == ["a.jpg is 12000x3000 pixels and is used at 4096x1024"]


def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (200, 200)).save(tmp_path / "a.png")
    monkeypatch.setattr(media, "MAX_PIXELS", 10_000)
    with pytest.raises(InputError, match="scale it down"):
        media.read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_truncated_files_are_refused(tmp_path: Path, name: str, astronaut: np.ndarray) -> None:
    Image.fromarray(astronaut).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="must be a readable image"):
        media.read_image(tmp_path / name)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    (tmp_path / "empty.png").touch()
    for path, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "a.png", "cannot be decoded"),
        (tmp_path / "empty.png", "is empty"),
        (tmp_path / "none.png", "does not exist"),
        (tmp_path / ("x" * 300), "cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            media.read_image(path)


def test_a_full_disk_keeps_what_was_there(tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    media.write_image(tmp_path / "a.png", picture)

    def full(*_args, **_kwargs) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(StorageError, match="the disk is full"):
        media.write_image(tmp_path / "a.png", 255 - picture)
    monkeypatch.undo()
    assert np.array_equal(media.read_image(tmp_path / "a.png"), picture)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_an_output_below_a_file_is_refused(tmp_path: Path, picture: np.ndarray) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(StorageError, match="taken"):
        media.write_image(tmp_path / "taken" / "a.png", picture)


def test_video_round_trip_of_odd_sizes(tmp_path: Path) -> None:
    frames = [np.full((65, 71, 3), 20 * t, np.uint8) for t in range(7)]
    media.write_video(tmp_path / "a.mp4", iter(frames), fps=12.5)
    video = media.read_video(tmp_path / "a.mp4")
    read = video.read()
    assert video.fps == pytest.approx(12.5) and video.count == 7
    assert read.shape == (7, 66, 72, 3)
    assert np.abs(read.astype(int) - np.arange(7)[:, None, None, None] * 20).max() <= 4
    assert len(list(video)) == 7, "a video can be read again"
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_video_reading_can_stop_early(tmp_path: Path) -> None:
    media.write_video(tmp_path / "a.mp4", (np.zeros((64, 64, 3)) for _ in range(20)), fps=25)
    assert media.read_video(tmp_path / "a.mp4").read(limit=3).shape[0] == 3


def test_broken_videos_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), np.uint8)
    media.write_video(tmp_path / "a.mp4", noise, fps=25)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.mp4").write_text("hello")
    for name in ("a.mp4", "text.mp4", "none.mp4"):
        with pytest.raises(InputError):
            list(media.read_video(tmp_path / name))


def test_frames_of_changing_size_are_a_fault(tmp_path: Path) -> None:
    frames = [np.zeros((64, 64, 3), np.uint8), np.zeros((64, 32, 3), np.uint8)]
    with pytest.raises(ValueError, match="one shape"):
        media.write_video(tmp_path / "a.mp4", frames)
    assert not list(tmp_path.iterdir())


def test_npz_and_json_are_read_without_running_code(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", a=np.array([{"x": 1}], dtype=object))
    (tmp_path / "bad.json").write_text("{")
    for read, name in ((files.read_npz, "bad.npz"), (files.read_json, "bad.json"), (files.read_npz, "none.npz")):
        with pytest.raises(InputError):
            read(tmp_path / name)
    files.write_npz(tmp_path / "a.npz", a=np.arange(3))
    assert files.read_npz(tmp_path / "a.npz")["a"].tolist() == [0, 1, 2]
    files.write_json(tmp_path / "a.json", {"a": np.float32(0.5), "b": Path("x"), "c": np.arange(2)})
    assert files.read_json(tmp_path / "a.json") == {"a": 0.5, "b": "x", "c": [0, 1]}
