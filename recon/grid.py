"""Several pictures side by side, with their names."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

#: Height of a label's letters as a share of the cell's.
_LETTERS = 1 / 18


def columns_of(count: int, wanted: int | None, width: int, height: int) -> int:
    """How many cells of width x height stand in a row: as wanted, else up to three in one row and more in a block whose
    shape comes near a screen's (16:9) and has few empty places."""
    if wanted is not None:
        return max(1, min(wanted, count))
    if count <= 3:
        return count

    def cost(columns: int) -> tuple[float, int]:
        rows = math.ceil(count / columns)
        off = abs(math.log(columns * width / (rows * height) * 9 / 16))
        return off + 1.5 * (1 - count / (rows * columns)), -columns

    return min(range(1, count + 1), key=cost)


def tile(cells: list[np.ndarray], columns: int, empty: np.ndarray) -> np.ndarray:
    """Cells (H, W, C) of one shape, row by row; `empty` (H, W, C) stands where none is left."""
    rows = math.ceil(len(cells) / columns)
    cells = cells + [empty] * (rows * columns - len(cells))
    return np.concatenate([np.concatenate(cells[r * columns : (r + 1) * columns], 1) for r in range(rows)])


def label(text: str, width: int, height: int, dark: bool) -> np.ndarray:
    """(H, W, 4) float32 in 0..1, premultiplied: a name at the foot of a cell, shortened where it is too long; letters
    with an outline, so that they can be read on anything. dark: the letters, or else their outline."""
    size = max(8.0, height * _LETTERS)
    font = ImageFont.load_default(size)
    if font.getlength(text) > 0.94 * width:
        while len(text) > 1 and font.getlength(text + "...") > 0.94 * width:
            text = text[:-1]
        text += "..."
    outline, letters = (
        _drawn(text, font, (width, height, 0.6 * size), stroke) for stroke in (max(1, round(size / 7)), 0)
    )
    colours = (1.0, 0.1) if dark else (0.1, 1.0)
    grey = colours[0] * outline * (1 - letters) + colours[1] * letters
    return np.concatenate([grey, grey, grey, np.maximum(outline, letters)], -1)


def _drawn(text: str, font: Any, place: tuple[int, int, float], stroke: int) -> np.ndarray:
    width, height, foot = place
    canvas = Image.new("L", (width, height), 0)
    ImageDraw.Draw(canvas).text((width / 2, height - foot), text, fill=255, font=font, anchor="ms", stroke_width=stroke)
    return np.asarray(canvas, np.float32)[..., None] / 255


def over(front: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Premultiplied (H, W, 4) over premultiplied (H, W, 4) or opaque (H, W, 3)."""
    return front[..., : back.shape[2]] + (1 - front[..., 3:]) * back


def is_light(behind: np.ndarray | None) -> bool:
    """Whether the foot of a background (H, W, 3) is light; what is not known counts as light."""
    if behind is None:
        return True
    foot = behind[int(0.9 * len(behind)) :]
    return float((foot @ np.array([0.2126, 0.7152, 0.0722], np.float32)).mean()) > 0.45
