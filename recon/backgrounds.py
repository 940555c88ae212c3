"""What stands behind an avatar: a colour, a picture, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import ImageColor

from geodiff.errors import ConfigError
from geodiff.media import IMAGE_SUFFIXES, read_image

#: Names for no background at all.
NONE = ("alpha", "none", "transparent")


def check_background(spec: Any) -> None:
    """Raises ConfigError unless `background` can read the specification; pictures are not opened yet."""
    if not isinstance(spec, str):
        _numbers(spec)
    elif not is_transparent(spec) and Path(spec).suffix.lower() not in IMAGE_SUFFIXES:
        _named(spec)


def is_transparent(spec: Any) -> bool:
    return isinstance(spec, str) and spec.lower() in NONE


def background(spec: Any, width: int, height: int) -> np.ndarray | None:
    """(H, W, 3) float32 in 0..1, or None for a transparent one.

    spec: "alpha"; a colour's name or "#rrggbb"; three numbers from 0 to 1; or a picture's file, which fills the frame,
    its overhang cut off on both sides. Raises ConfigError, or InputError where the picture cannot be read.
    """
    if is_transparent(spec):
        return None
    if isinstance(spec, str) and Path(spec).suffix.lower() in IMAGE_SUFFIXES:
        return _cover(read_image(spec, min_side=1), width, height)
    colour = _named(spec) if isinstance(spec, str) else _numbers(spec)
    return np.broadcast_to(np.array(colour, np.float32), (height, width, 3))


def _named(spec: str) -> tuple[float, float, float]:
    try:
        red, green, blue = ImageColor.getrgb(spec)[:3]
    except ValueError as error:
        raise ConfigError(
            "background must be a colour such as white or #336699, three numbers from 0 to 1, a picture's file or "
            f"alpha, and {spec!r} is none of them: correct it"
        ) from error
    return red / 255, green / 255, blue / 255


def _numbers(spec: Any) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in spec)
    except (TypeError, ValueError):
        values = ()
    if len(values) != 3 or not all(0 <= value <= 1 for value in values):
        raise ConfigError(
            f"background must be three numbers from 0 to 1, a colour, a picture or alpha, got {spec}: correct it, and "
            "put a #RRGGBB among key=value settings in quotes of its own"
        )
    return values


def _cover(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    scale = max(width / picture.shape[1], height / picture.shape[0])
    size = max(width, round(picture.shape[1] * scale)), max(height, round(picture.shape[0] * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    large = cv2.resize(picture, size, interpolation=way)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return large[top : top + height, left : left + width].astype(np.float32) / 255
