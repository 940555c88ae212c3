"""Images and video in and out.

Everything that is read becomes (H, W, 3) uint8 sRGB: EXIF rotation applied, transparency laid over white, grey and
palette images expanded, 16 bits brought to 8. Everything that is written appears whole or not at all.
"""

from __future__ import annotations

import io
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from geodiff.encoding import Drain, ffmpeg_program, to_uint8
from geodiff.encoding import write_video as write_video
from geodiff.errors import InputError
from geodiff.files import atomic_write

#: Shares of red, green and blue in a colour's brightness (Rec. 601).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
#: Shortest side that an image must have to be used, in pixels.
MIN_SIDE = 64
#: Longest side that is worked with; larger images are scaled down while reading.
MAX_SIDE = 4096
#: EXIF's number of the orientation.
_ORIENTATION = 274
#: Pixels beyond which a file is refused unread: a decompression bomb, or nothing that a camera takes.
MAX_PIXELS = 400_000_000

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")

Note = Callable[[str], None]


def read_image(
    path: Path | str, *, min_side: int = MIN_SIDE, max_side: int = MAX_SIDE, note: Note | None = None
) -> np.ndarray:
    """Reads an image as (H, W, 3) uint8 RGB.

    min_side: shorter images are refused. max_side: longer ones are scaled down, and `note` is told so.
    Raises InputError for anything that is no readable image of a usable size.
    """
    image = open_image(path, min_side=min_side, max_side=max_side, note=note)
    return np.ascontiguousarray(np.asarray(_flatten(image).convert("RGB")))


def read_gray(path: Path | str) -> np.ndarray:
    """Reads a one-channel image such as a mask as (H, W) uint8. Raises InputError."""
    image = open_image(path, min_side=1, max_side=MAX_SIDE)
    return np.ascontiguousarray(np.asarray(_flatten(image).convert("L")))


def open_image(
    path: Path | str, *, min_side: int = 1, max_side: int = MAX_SIDE, note: Note | None = None
) -> Image.Image:
    """An upright, fully decoded PIL image within the limits. Raises InputError."""
    file = require_file(path, "an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as opened:
                _check_size(file, opened.size, min_side)
                if opened.format == "JPEG" and max(opened.size) > 2 * max_side:
                    opened.draft("RGB", (max_side, max_side))
                size = opened.size
                opened.load()
                image = ImageOps.exif_transpose(opened)
    except InputError:
        raise
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise InputError(
            f"{file} must be a readable image, and it cannot be decoded ({error or type(error).__name__}): "
            "save it again as PNG or JPEG"
        ) from error
    if max(image.size) > max_side:
        deep = image.mode[0] in "IF"
        image.thumbnail((max_side, max_side), Image.Resampling.BOX if deep else Image.Resampling.LANCZOS)
        if min(image.size) < min_side:
            raise InputError(
                f"{file} must not be a strip: its {size[0]}x{size[1]} pixels leave {min(image.size)} on the short side "
                "at working size; crop it to the face"
            )
        if note is not None:
            note(f"{file.name} is {size[0]}x{size[1]} pixels and is used at {image.size[0]}x{image.size[1]}")
    return image


def image_size(path: Path | str) -> tuple[int, int]:
    """Width and height of an image file, from its header alone. Raises InputError."""
    file = require_file(path, "an image")
    try:
        with Image.open(file) as opened:
            return opened.size
    except Exception as error:  # PIL raises half a dozen kinds for one cause
        raise InputError(f"{file} must be a readable image, and it is not ({error}): save it again as PNG") from error


def read_size(path: Path | str) -> tuple[int, int]:
    """Width and height that `read_image` gives a file, upright and not too large. Raises InputError."""
    width, height = image_size(path)
    with Image.open(path) as opened:
        turned = opened.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    scale = min(1.0, MAX_SIDE / max(width, height))
    width, height = round(width * scale), round(height * scale)
    return (height, width) if turned else (width, height)


def require_file(path: Path | str, kind: str) -> Path:
    """The path, when it names an existing, non-empty file. Raises InputError."""
    file = Path(path)
    try:
        if file.is_dir():
            raise InputError(f"{kind} is needed and {file} is a folder: name a file in it")
        if not file.exists():
            raise InputError(f"{kind} is needed and {file} does not exist: check the path")
        if file.stat().st_size == 0:
            raise InputError(f"{kind} is needed and {file} is empty: copy or download it again")
        with file.open("rb"):
            return file
    except OSError as error:
        raise InputError(f"{kind} is needed and {file} cannot be read ({error.strerror}): check the path") from error


def _check_size(file: Path, size: tuple[int, int], min_side: int) -> None:
    width, height = size
    if min(size) < min_side:
        raise InputError(
            f"an image needs at least {min_side} pixels on its short side, and {file} has {width}x{height}: "
            "take a larger one"
        )
    if width * height > MAX_PIXELS:
        raise InputError(
            f"an image may have at most {MAX_PIXELS // 1_000_000} million pixels, and {file} has {width}x{height}: "
            "scale it down"
        )


def _flatten(image: Image.Image) -> Image.Image:
    """Any PIL mode -> RGB or L with 8 bits, transparency laid over white."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_deep(np.asarray(image))
    if image.mode == "P" or (image.mode in ("L", "RGB", "1") and "transparency" in image.info):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("LA", "PA", "La", "RGBa", "RGBA"):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode in ("RGB", "L"):
        return image
    return image.convert("RGB")


def _from_deep(values: np.ndarray) -> Image.Image:
    """Grey images deeper than 8 bits: 16-bit range for integers, 0..1 for floats that stay within it."""
    deep = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if np.issubdtype(values.dtype, np.floating):
        top = 1.0 if deep.max(initial=0.0) <= 1.0 else 255.0
    else:
        top = 255.0 if deep.max(initial=0.0) <= 255 else 65535.0
    return Image.fromarray((np.clip(deep / top, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))


def write_image(path: Path | str, image: np.ndarray) -> Path:
    """Writes (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8, bool or float 0..1 atomically; the suffix is the format.

    Raises StorageError when the disk is full or the folder cannot be written.
    """
    pixels = to_uint8(np.asarray(image))
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    options: dict[str, dict[str, Any]] = {
        ".jpg": {"quality": 95},
        ".jpeg": {"quality": 95},
        ".png": {"compress_level": 4},
    }
    suffix = Path(path).suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        known = ", ".join(IMAGE_SUFFIXES)
        raise InputError(f"an image's name must end in one of {known}, and {path} does not: rename it")
    return atomic_write(path, lambda temporary: picture.save(temporary, **options.get(suffix, {})))


# --- video ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoFrames:
    """A video's frames, decoded while they are iterated over; every iteration starts at the first frame.

    frames: (H, W, 3) uint8 RGB each. fps: frames per second. count: number of frames, exact for what was written by
    geodiff and an estimate from the duration otherwise. size: (width, height) in pixels.
    """

    path: Path
    fps: float
    count: int
    size: tuple[int, int]

    def __iter__(self) -> Iterator[np.ndarray]:
        return _decode(self)

    def __len__(self) -> int:
        return self.count

    def read(self, limit: int | None = None) -> np.ndarray:
        """All frames, or the first `limit`, as one array (T, H, W, 3) uint8."""
        kept = []
        for frame in self:
            kept.append(frame)
            if limit is not None and len(kept) >= limit:
                break
        return np.stack(kept)


def read_video(path: Path | str, *, max_side: int = MAX_SIDE) -> VideoFrames:
    """Opens a video of any format that ffmpeg knows; rotation flags are applied. Raises InputError.

    The file is read through and its first frame decoded at once, so that a broken one is told before any work is done;
    frames that cannot be decoded raise InputError from the iteration.
    """
    file = require_file(path, "a video")
    from imageio_ffmpeg import count_frames_and_secs, read_frames

    try:
        reader = read_frames(str(file))
        fps = float(next(reader)["fps"])
        reader.close()
        count = int(count_frames_and_secs(str(file))[0])
        width, height = _first_frame_size(file)
        broken = _breaks_off(file)
    except Exception as error:
        raise InputError(f"{file} must be a readable video, and it cannot be decoded: save it again as MP4") from error
    if min(width, height) < 2 or fps <= 0 or count < 1:
        raise InputError(f"{file} must hold at least one frame of moving pictures, and it holds none: take another")
    if broken:
        raise InputError(
            f"{file} must be a whole video, and it breaks off after {count} frames: "
            "copy it again or cut it to its good part"
        )
    if max(width, height) > max_side:
        scale = max_side / max(width, height)
        width, height = max(2, int(width * scale)), max(2, int(height * scale))
    return VideoFrames(file, fps, count, (width, height))


def _first_frame_size(file: Path) -> tuple[int, int]:
    """(width, height) of the first frame as it is shown, rotation flags included."""
    import ffmpeg

    stream = ffmpeg.input(str(file)).output("pipe:", format="image2pipe", vcodec="ppm", vframes=1)
    output, _ = stream.global_args("-nostdin").run(cmd=ffmpeg_program(), capture_stdout=True, capture_stderr=True)
    with Image.open(io.BytesIO(output)) as frame:
        return frame.size


def _breaks_off(file: Path) -> bool:
    """Whether the container promises more than the file holds. Reads the file through without decoding it."""
    import ffmpeg

    stream = ffmpeg.input(str(file)).output("pipe:", format="null", c="copy", map="0:v:0")
    _, text = stream.global_args("-nostdin", "-loglevel", "error").run(
        cmd=ffmpeg_program(), capture_stdout=True, capture_stderr=True
    )
    return b"partial file" in text or b"runcat" in text


def _decode(video: VideoFrames) -> Iterator[np.ndarray]:
    import ffmpeg

    width, height = video.size
    # `passthrough` neither repeats nor drops frames: what is in the file comes out.
    stream = ffmpeg.input(str(video.path)).video.filter("scale", width, height).filter("setsar", 1)
    stream = stream.output("pipe:", format="rawvideo", pix_fmt="rgb24", fps_mode="passthrough")
    command = stream.global_args("-nostdin", "-loglevel", "error").compile(cmd=ffmpeg_program())
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    errors = Drain(process.stderr)
    size = width * height * 3
    seen = 0
    try:
        assert process.stdout is not None
        while True:
            data = process.stdout.read(size)
            if len(data) < size:
                break
            seen += 1
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
        process.wait()
        if process.returncode or seen == 0 or seen < 0.9 * video.count:
            raise InputError(
                f"{video.path} must be a whole video, and it breaks off after {seen} of {video.count} frames"
                f"{errors.summary()}: copy it again or cut it to its good part"
            )
    finally:
        process.kill()
        process.wait()
        errors.close()
        if process.stdout is not None:
            process.stdout.close()
