"""Contact sheets: labelled grids of pictures, the way results are looked at."""

from __future__ import annotations

import cv2
import numpy as np

#: Height in pixels of the strip above a row that holds its title.
TITLE_HEIGHT = 26
#: Pictures that a sheet of one run shows, and the longest side of each in pixels.
TILES, TILE = 8, 512
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def as_uint8(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) or (H, W): float 0..1 or uint8 -> (H, W, 3) uint8."""
    if image.dtype != np.uint8:
        image = (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    return image


def normals_as_image(normals: np.ndarray) -> np.ndarray:
    """(H, W, 3) normals in -1..1 -> the stored form, (n + 1) / 2 in 0..1; the background is mid grey."""
    return np.clip(normals * 0.5 + 0.5, 0.0, 1.0)


def fit_tile(image: np.ndarray, size: int) -> np.ndarray:
    """The image on a white square tile of `size` pixels, its aspect kept."""
    image = as_uint8(image)
    height, width = image.shape[:2]
    scale = size / max(height, width)
    resized = cv2.resize(
        image,
        (max(1, round(width * scale)), max(1, round(height * scale))),
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC,
    )
    tile = np.full((size, size, 3), 255, np.uint8)
    top, left = (size - resized.shape[0]) // 2, (size - resized.shape[1]) // 2
    tile[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return tile


def contact_sheet(rows: list[tuple[str, list[np.ndarray]]], tile: int = 256, gap: int = 4) -> np.ndarray:
    """Titled rows of pictures -> (H, W, 3) uint8. Rows may differ in length; the rest stays white."""
    columns = max(len(images) for _, images in rows)
    width = columns * tile + (columns + 1) * gap
    strips = []
    for title, images in rows:
        strip = np.full((TITLE_HEIGHT + tile + gap, width, 3), 255, np.uint8)
        cv2.putText(strip, title, (gap + 2, TITLE_HEIGHT - 8), _FONT, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
        for column, image in enumerate(images):
            left = gap + column * (tile + gap)
            strip[TITLE_HEIGHT : TITLE_HEIGHT + tile, left : left + tile] = fit_tile(image, tile)
        strips.append(strip)
    return np.concatenate(strips)


def tiled(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) uint8, reduced to tiles in rows of four."""
    tiles = []
    for picture in pictures:
        scale = min(1.0, TILE / max(picture.shape[:2]))
        tiles.append(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    return contact_sheet([("", tiles[first : first + 4]) for first in range(0, len(tiles), 4)], TILE)
