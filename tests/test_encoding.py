"""Videos as other programs see them: decoded by ffmpeg, laid over backgrounds."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from geodiff.encoding import Sound, codec_for, ffmpeg_program, sound_codec, straight, write_sequence, write_video
from geodiff.errors import ConfigError, InputError
from geodiff.media import read_image, read_video

SIZE = 64


def disc(shift: int = 0) -> np.ndarray:
    """(64, 64, 4) premultiplied: a bright orange disc with a soft rim on nothing."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    alpha = np.clip((22 - np.hypot(x - 32 - shift, y - 32)) / 6, 0, 1)[..., None]
    colour = np.array([1.0, 0.7, 0.2]) * (0.9 + 0.1 * np.sin(x / 9))[..., None]
    return np.concatenate([np.clip(colour, 0, 1) * alpha, alpha], -1).astype(np.float32)


def decoded(path: Path, count: int, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    """(T, H, W, 4) float of a video or a sequence of pictures, straight."""
    decoder = ["-c:v", "libvpx-vp9"] if path.suffix == ".webm" else []
    source = str(path) if path.suffix else str(path / "%05d.png")
    command = [ffmpeg_program(), "-v", "error", *decoder, "-i", source, "-f", "rawvideo", "-pix_fmt", "rgba", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(count, size[1], size[0], 4) / 255


def laid_over(frame: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    return frame[..., :3] * frame[..., 3:] + (1 - frame[..., 3:]) * np.array(colour)


@pytest.mark.parametrize(("name", "worst", "mean"), [("a.mov", 5, 0.8), ("a.webm", 16, 1.5), ("a", 1.6, 0.5)])
def test_transparency_over_two_backgrounds(tmp_path: Path, name: str, worst: float, mean: float) -> None:
    """What a compositor gets from the file is what would have been rendered over its background: no rims."""
    truth = [disc(shift) for shift in range(3)]
    path = tmp_path / name
    frames = (straight(frame) for frame in truth)
    write_video(path, frames, 25.0) if path.suffix else write_sequence(path, frames)
    found = decoded(path, 3)
    for colour in ((1.0, 1.0, 1.0), (0.0, 0.2, 0.0)):
        for frame, wanted in zip(found, truth, strict=True):
            ideal = wanted[..., :3] + (1 - wanted[..., 3:]) * np.array(colour)
            off = 255 * np.abs(laid_over(frame, colour) - ideal)
            assert off.max() <= worst and off.mean() <= mean
    rim = (truth[0][..., 3] > 0.05) & (truth[0][..., 3] < 0.6)
    # Straight colours are as bright at the rim as inside; premultiplied ones, or a dark rim, would fall with alpha.
    assert found[0][rim][:, 0].min() > 0.75


def test_straight_colours_go_on_outside() -> None:
    frame = straight(disc())
    assert frame.shape == (SIZE, SIZE, 4) and frame[0, 0, 3] == 0
    np.testing.assert_allclose(frame[0, 0, :3], [0.95, 0.66, 0.19], atol=0.06)
    np.testing.assert_allclose(frame[..., :3] * frame[..., 3:], disc()[..., :3], atol=1 / 128)
    assert np.isfinite(straight(np.zeros((5, 7, 4), np.float32))).all()


def test_files_that_hold_no_transparency_are_refused() -> None:
    for name in ("a.mp4", "a.mkv", "a.gif"):
        with pytest.raises(ConfigError, match="with transparency must end in one of .mov, .webm"):
            codec_for(name, alpha=True)
    with pytest.raises(ConfigError, match="the name of a video must end in one of"):
        codec_for("a.txt", alpha=False)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.mov", "a.mkv"])
def test_colours_survive_and_are_told_to_players(tmp_path: Path, name: str) -> None:
    colours = np.array([[255, 0, 0], [0, 200, 40], [30, 60, 220], [128, 128, 128]], np.uint8)
    frame = np.repeat(np.repeat(colours.reshape(2, 2, 3), 32, 0), 32, 1)
    write_video(tmp_path / name, [frame] * 2)
    read = read_video(tmp_path / name).read()[0].astype(int)
    for y, x in ((16, 16), (16, 48), (48, 16), (48, 48)):
        assert np.abs(read[y, x] - frame[y, x]).max() <= 6
    told = subprocess.run([ffmpeg_program(), "-i", str(tmp_path / name)], capture_output=True).stderr.decode()
    assert "tv, bt709" in told and "unknown" not in told


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of pictures with a tone."""
    path = tmp_path_factory.mktemp("sound") / "heard.mp4"
    command = [ffmpeg_program(), "-v", "error", "-f", "lavfi", "-i", "testsrc=s=64x64:r=25:d=1", "-f", "lavfi"]
    command += ["-i", "sine=d=1", "-c:v", "libx264", "-c:a", "aac", "-shortest", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.webm", "opus"), ("a.mov", "aac")])
def test_sound_is_copied_and_as_long_as_the_pictures(tmp_path: Path, heard: Path, name: str, codec: str) -> None:
    frames = [np.zeros((64, 64, 3), np.uint8)] * 10
    write_video(tmp_path / name, frames, 25.0, sound=Sound(heard, 0.4))
    assert sound_codec(tmp_path / name) == codec and read_video(tmp_path / name).count == 10
    if codec == "aac":
        assert packets(tmp_path / name)[:5] == packets(heard)[:5], "copied, not coded again"
    loudness = subprocess.run(
        [ffmpeg_program(), "-v", "error", "-i", str(tmp_path / name), "-vn", "-f", "s16le", "-ac", "1", "-"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    samples = np.frombuffer(loudness, np.int16)
    assert 0.35 < len(samples) / (48_000 if codec == "opus" else 44_100) < 0.5 and np.abs(samples).max() > 1000


def packets(path: Path) -> list[str]:
    """Checksums of the coded sound."""
    command = [ffmpeg_program(), "-v", "error", "-i", str(path), "-vn", "-c", "copy", "-f", "framemd5", "-"]
    lines = subprocess.run(command, capture_output=True, check=True).stdout.decode().splitlines()
    return [line.split(",")[-1] for line in lines if not line.startswith("#")]


def test_silent_files_and_short_sounds(tmp_path: Path, heard: Path) -> None:
    write_video(tmp_path / "silent.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3)
    assert sound_codec(tmp_path / "silent.mp4") is None
    write_video(tmp_path / "a.mp4", [np.zeros((64, 64, 3))] * 3, sound=Sound(tmp_path / "silent.mp4", 1.0))
    assert sound_codec(tmp_path / "a.mp4") is None
    write_video(tmp_path / "b.mp4", [np.zeros((64, 64, 3))] * 50, sound=Sound(heard, 2.0))
    assert read_video(tmp_path / "b.mp4").count == 50, "pictures go on where the sound ends"


def test_sequences_appear_whole_and_replace_only_sequences(tmp_path: Path) -> None:
    frames = [np.full((9, 7, 3), 80 * t, np.uint8) for t in range(3)]
    write_sequence(tmp_path / "s", frames)
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    assert read_image(tmp_path / "s" / "00002.png", min_side=1)[0, 0].tolist() == [160, 160, 160]

    def broken() -> Iterator[np.ndarray]:
        yield frames[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sequence(tmp_path / "s", broken())
    assert len(list((tmp_path / "s").iterdir())) == 3 and [p.name for p in tmp_path.iterdir()] == ["s"]
    write_sequence(tmp_path / "s", frames[:1])
    assert [p.name for p in (tmp_path / "s").iterdir()] == ["00000.png"]
    (tmp_path / "s" / "notes.txt").touch()
    with pytest.raises(InputError, match="holds notes.txt"):
        write_sequence(tmp_path / "s", frames)
