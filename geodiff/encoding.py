"""Moving pictures out: H.264, ProRes 4444, VP9, sequences of PNGs; with transparency, and the sound of another file.

Frames with four channels carry transparency. All three formats that can keep it (ProRes 4444 as it is in use, VP9 in
WebM, PNG by its specification) hold *straight* alpha: a colour says what a pixel's own part is, not what is left of it
after it was faded. So a player multiplies by alpha once, and where alpha falls to zero the colours must go on: black
there would show as a dark rim as soon as a codec mixes neighbouring pixels. `straight` makes such frames.
"""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from geodiff.errors import ConfigError, InputError
from geodiff.files import atomic_write, make_folder, storage_errors

#: How colours become luma and chroma, written into the file, so that players agree.
_COLOURS = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "range": "tv"}
#: Pictures of a sequence.
_PICTURE = "{:05d}.png"
#: Alpha below which a pixel's own colour cannot be told from rounding.
_FAINT = 1 / 128


@dataclass(frozen=True)
class Codec:
    """How a container's pictures are coded. even: whether both sides must be. sound: what is copied as it is, and what
    everything else becomes."""

    options: dict[str, Any]
    even: bool
    sound: tuple[tuple[str, ...], str]


_AAC = (("aac", "mp3", "ac3", "eac3", "alac"), "aac")
_OPUS = (("opus", "vorbis"), "libopus")
_H264 = {"vcodec": "libx264", "pix_fmt": "yuv420p", "preset": "fast", "bf": 0}
_VP9 = {"vcodec": "libvpx-vp9", "video_bitrate": 0, "deadline": "good", "cpu-used": 4, "row-mt": 1, "auto-alt-ref": 0}

OPAQUE: dict[str, Codec] = {
    ".mp4": Codec({**_H264, "movflags": "+faststart"}, True, _AAC),
    ".m4v": Codec({**_H264, "movflags": "+faststart"}, True, _AAC),
    ".mov": Codec({**_H264, "movflags": "+faststart"}, True, (("pcm_s16le", *_AAC[0]), "aac")),
    ".mkv": Codec(_H264, True, ((*_AAC[0], *_OPUS[0]), "aac")),
    ".avi": Codec(_H264, True, (("mp3", "ac3"), "libmp3lame")),
    ".webm": Codec({**_VP9, "pix_fmt": "yuv420p"}, True, _OPUS),
}
TRANSPARENT: dict[str, Codec] = {
    ".mov": Codec(
        {"vcodec": "prores_ks", "profile:v": "4444", "pix_fmt": "yuva444p10le", "vendor": "apl0"}, False,
        (("pcm_s16le", *_AAC[0]), "aac"),
    ),
    ".webm": Codec({**_VP9, "pix_fmt": "yuva420p"}, True, _OPUS),
}  # fmt: skip


@dataclass(frozen=True)
class Sound:
    """The sound of a file, its first so many seconds."""

    path: Path
    seconds: float


def to_uint8(image: np.ndarray) -> np.ndarray:
    """uint8 as it is, bool as 0 and 255, floats from 0..1."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == bool:
        return image.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"an image must be uint8, bool or float in 0..1, not {image.dtype}")
    return (np.clip(np.nan_to_num(image), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def straight(premultiplied: np.ndarray) -> np.ndarray:
    """Premultiplied colours and alpha (H, W, 4) float 0..1 -> straight ones, whose colours go on where alpha is zero.

    What lies outside takes the mean colour of what is near, farther away of what is in a wider circle: each level of a
    pyramid fills what finer ones left empty.
    """
    alpha = premultiplied[..., 3:].astype(np.float32)
    known = (alpha > _FAINT).astype(np.float32)
    colour = np.clip(premultiplied[..., :3] / np.maximum(alpha, _FAINT), 0.0, 1.0).astype(np.float32)
    return np.concatenate([_filled(colour * known, known[..., 0]), alpha], -1)


def _filled(weighted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) of weighted ones, empty places from the next coarser level."""
    height, width = weight.shape
    mean = weighted / np.maximum(weight, 1e-6)[..., None]
    if weight.min() > 0 or max(height, width) == 1:
        return mean
    size = ((width + 1) // 2, (height + 1) // 2)
    coarse = _filled(
        cv2.resize(weighted, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], 3),
        cv2.resize(weight, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0]),
    )
    around = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, 3)
    return np.where(weight[..., None] > 0, mean, around)


def write_video(
    path: Path | str, frames: Iterable[np.ndarray], fps: float = 25.0, *, crf: int = 17, sound: Sound | None = None
) -> Path:
    """Writes frames, uint8 or float 0..1, as a video that plays everywhere, atomically; one frame is held at a time.

    (H, W, 3): H.264, or VP9 for .webm. (H, W, 4), colours straight: ProRes 4444 for .mov, VP9 for .webm; a ConfigError
    for other names. sound: copied beside the pictures, coded anew only where the container cannot hold it.
    Odd sizes get one repeated row or column where the codec needs even ones. Raises StorageError when the disk is full.
    """

    def write(temporary: Path) -> None:
        iterator = iter(frames)
        try:
            first = to_uint8(np.asarray(next(iterator)))
        except StopIteration:
            raise ValueError("a video needs at least one frame") from None
        codec = codec_for(temporary, first.shape[2] == 4)
        _encode(temporary, first, iterator, codec, {"framerate": f"{fps:.6g}", "crf": crf}, sound)

    return atomic_write(path, write)


def codec_for(path: Path | str, alpha: bool) -> Codec:
    """How a file of this name is coded. Raises ConfigError where it cannot hold the frames."""
    suffix = Path(path).suffix.lower()
    codecs = TRANSPARENT if alpha else OPAQUE
    if suffix not in codecs:
        kind = "a video with transparency" if alpha else "a video"
        raise ConfigError(
            f"the name of {kind} must end in one of {', '.join(codecs)}, and {Path(path).name} does not: "
            "choose another --out, or a folder for a sequence of PNGs"
        )
    return codecs[suffix]


def write_sequence(folder: Path | str, frames: Iterable[np.ndarray]) -> Path:
    """Writes frames (H, W, 3) or (H, W, 4) as `00000.png`, `00001.png`, ... into a folder that appears when whole.

    A folder that holds nothing but an earlier sequence is replaced; any other is refused with an InputError.
    """
    target = Path(folder)
    strange = next((p.name for p in target.iterdir() if not _is_picture(p)), None) if target.is_dir() else None
    if strange is not None:
        raise InputError(
            f"a sequence of pictures needs a folder of its own, and {target} holds {strange}: choose another --out"
        )
    make_folder(target.parent)
    with storage_errors(target):
        staged = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            for number, frame in enumerate(frames):
                pixels = to_uint8(np.asarray(frame))
                order = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
                done, data = cv2.imencode(".png", cv2.cvtColor(pixels, order), [cv2.IMWRITE_PNG_COMPRESSION, 4])
                if not done:
                    raise OSError(f"frame {number} cannot be coded as PNG")
                (staged / _PICTURE.format(number)).write_bytes(data.tobytes())
            staged.chmod(0o755)
            if target.is_dir():
                shutil.rmtree(target)
            staged.replace(target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return target


def _is_picture(path: Path) -> bool:
    return path.suffix == ".png" and path.stem.isdigit()


def sound_codec(path: Path | str) -> str | None:
    """The codec of a file's first sound track, None where it has none."""
    process = subprocess.run([ffmpeg_program(), "-hide_banner", "-nostdin", "-i", str(path)], capture_output=True)
    found = re.search(r"Stream #\S+ *Audio: (\w+)", process.stderr.decode("utf-8", "replace"))
    return found[1] if found else None


def _encode(
    path: Path, first: np.ndarray, rest: Iterator[np.ndarray], codec: Codec, rates: dict[str, Any], sound: Sound | None
) -> None:
    command = _command(path, _padded(first, codec).shape, codec, rates, sound)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    errors = Drain(process.stderr)
    assert process.stdin is not None
    try:
        frame: np.ndarray | None = first
        while frame is not None:
            pixels = to_uint8(np.asarray(frame))
            if pixels.shape != first.shape:
                raise ValueError(f"all frames of a video must have one shape, and {pixels.shape} follows {first.shape}")
            process.stdin.write(np.ascontiguousarray(_padded(pixels, codec)).data)
            frame = next(rest, None)
        process.stdin.close()
        process.wait()
    except BrokenPipeError:
        process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        if not process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        text = errors.summary()
        errors.close()
    if process.returncode:
        if "No space left" in text:
            raise OSError(errno.ENOSPC, "No space left on device")
        raise OSError(f"ffmpeg could not write {path.name}{text}")


def _padded(pixels: np.ndarray, codec: Codec) -> np.ndarray:
    height, width = pixels.shape[:2]
    if not codec.even or not (height % 2 or width % 2):
        return pixels
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _command(path: Path, shape: tuple[int, ...], codec: Codec, rates: dict[str, Any], sound: Sound | None) -> list[str]:
    import ffmpeg

    height, width, channels = shape
    stream = ffmpeg.input(
        "pipe:", format="rawvideo", pix_fmt="rgba" if channels == 4 else "rgb24", s=f"{width}x{height}",
        framerate=rates["framerate"],
    ).filter("scale", out_color_matrix="bt709", out_range="tv", flags="accurate_rnd+full_chroma_int")  # fmt: skip
    stream = stream.filter("setparams", **_COLOURS)
    options = dict(codec.options)
    if codec.options["vcodec"] != "prores_ks":
        options["crf"] = rates["crf"]
    streams = [stream]
    kind = sound_codec(sound.path) if sound is not None else None
    if sound is not None and kind is not None:
        streams.append(ffmpeg.input(str(sound.path), t=f"{sound.seconds:.6f}").audio)
        kept, otherwise = codec.sound
        options["acodec"] = "copy" if kind in kept else otherwise
    stream = ffmpeg.output(*streams, str(path), **options)
    return stream.global_args("-loglevel", "error", "-threads", "2").overwrite_output().compile(cmd=ffmpeg_program())


class Drain:
    """Reads a pipe in the background, so that a talkative ffmpeg cannot block."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._text = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        self._text = self._pipe.read()

    def summary(self) -> str:
        """The last line, in brackets; empty where nothing was said."""
        self._thread.join(timeout=5)
        lines = self._text.decode("utf-8", "replace").strip().splitlines()
        return f" ({lines[-1].strip()[:120]})" if lines else ""

    def close(self) -> None:
        self._thread.join(timeout=5)
        self._pipe.close()


def ffmpeg_program() -> str:
    """The ffmpeg program that the imageio-ffmpeg wheel carries (or IMAGEIO_FFMPEG_EXE)."""
    from imageio_ffmpeg import get_ffmpeg_exe

    return get_ffmpeg_exe()
