"""Where photographs end: what goes on beyond their borders, and what they cut."""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

from geodiff.conditioning.frame import warp_between
from geodiff.geometry import smoothstep
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.raster.chart import sample
from geodiff.tracking.tones import LEAST, NO_SKIN, SHADOW, Tones
from geodiff.types import Camera

#: Pixels of the crop from a photograph's border at which what lies beyond is taken from inside, and the share of the
#: side that it is taken from, back and forth: deeper inside are other things than cloth.
BORDER, BAND = 2.5, 0.05
#: Bands beyond the border up to which that is believed, and from which on it is not.
BELIEVED = (0.5, 3.0)
#: Share of what is taken from inside that must be no skin's, for the rest to be a neck above a collar.
CLOTHED = 0.4
#: Shares of the side over which what stands beside the mesh fades towards the photograph's borders: towards the lower
#: one, where shoulders without an arm below would hover, and towards the others. Cut hair would show a straight edge.
FADE_BELOW, FADE = 0.10, 0.02
#: Share of the side within which the matte at the border tells whether it cuts the person there.
CONTACT = 0.015


def beyond_border(
    picture: np.ndarray, matte: np.ndarray, vertices: Tensor, head: HeadModel, source: Camera, crop: Camera
) -> np.ndarray | None:
    """What neck, shoulders and clothes may look like beyond the photograph's lower and side borders: as what lies along
    these, folded out over and over. None where the photograph shows all of them.

    picture: (D, D, 3) the photograph in its crop; matte: (D, D). vertices: (V, 3) of the head there. source: the
    photograph's camera. Returns (D, D, 4) float32: colours, and 0..1 whether they are those of neck or clothes.
    """
    size = crop.height
    seen = mesh.rasterize(vertices, head.faces, crop)
    neck = seen.of(head.faces, head.regions["neck"].numpy())
    warp = warp_between(source, crop)
    rows, columns = np.nonzero(neck)
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))])
    x, y = (np.linalg.inv(warp) @ pixels)[:2]
    # The matte fades into the border: the mirrors stand a little inside of it.
    edge, band = np.array([BORDER, BAND * size]) / _magnified(warp)
    width, height = source.width - edge, source.height - edge
    out = (x < edge) | (x > width) | (y > height)
    if not ((x < 0) | (x > source.width) | (y > source.height)).any():
        return None
    x, y = x[out], y[out]
    away = np.maximum(np.maximum(edge - x, x - width), y - height) / band
    x = np.where(x < edge, edge + folded(edge - x, band), np.where(x > width, width - folded(x - width, band), x))
    y = np.where(y > height, height - folded(y - height, band), y)
    place = (warp @ np.stack([x, y, np.ones(len(x))]))[:2].astype(np.float32)
    own = cv2.erode(neck.astype(np.uint8), np.ones((3, 3), np.uint8)) * matte
    layers = np.concatenate([picture, own[..., None]], 2).astype(np.float32)
    result = np.zeros((size, size, 4), np.float32)
    shown = np.clip(sample(layers, place.T, cv2.BORDER_CONSTANT), 0, 1)
    shown[:, 3] *= (1.0 - smoothstep(away, *BELIEVED)) * cloth(shown, picture[_face(seen, head) & (matte > 0.9)])
    result[rows[out], columns[out]] = shown
    return result


def _face(seen: mesh.Fragments, head: HeadModel) -> np.ndarray:
    """(D, D) bool skin of the face in `mesh.rasterize`'s answer."""
    face, *others = (seen.of(head.faces, head.regions[name].numpy()) for name in ("face", "eyes", "lips", "neck"))
    return np.asarray(face & ~np.any(others, axis=0))


def cloth(shown: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """(N,) 0..1 how little colours and their weights (N, 4) look like skin (M, 3), where enough of them do not; else
    1."""
    if len(skin) < LEAST:
        return np.ones(len(shown))
    strange = smoothstep(Tones.of(skin, SHADOW).away(shown[:, :3]), *NO_SKIN)
    clothed = (strange * shown[:, 3]).sum() > CLOTHED * max(float(shown[:, 3].sum()), 1e-6)
    return strange if clothed else np.ones(len(shown))


def folded(beyond: np.ndarray, band: float) -> np.ndarray:
    """Distances inside of a border that stand for those beyond it (N,): there and back within a band."""
    return band - np.abs(np.mod(beyond, 2 * band) - band)


def _magnified(warp: np.ndarray) -> float:
    """Pixels of the crop that a pixel of the photograph becomes."""
    return float(np.sqrt(abs(np.linalg.det(warp[:2, :2]))))


def before_border(matte: np.ndarray, source: Camera, crop: Camera) -> np.ndarray | None:
    """(D, D) 0..1: less towards the photograph's borders where they cut the person's matte (D, D); None where none
    does."""
    size = crop.height
    warp = warp_between(source, crop)
    back = np.linalg.inv(warp).astype(np.float32)
    rows, columns = (np.arange(count, dtype=np.float32) + 0.5 for count in (size, crop.width))
    x, y = (back[n, 0] * columns + back[n, 1] * rows[:, None] + back[n, 2] for n in range(2))
    scale = _magnified(warp)
    edge = BORDER / scale
    right, low = source.width - edge, source.height - edge
    near = cv2.GaussianBlur(matte.astype(np.float32), (0, 0), CONTACT * size)
    shown = np.ones((size, crop.width), np.float32)
    for inside, fade, place in (
        (x, FADE, (np.full_like(x, edge), y)),
        (source.width - x, FADE, (np.full_like(x, right), y)),
        (y, FADE, (x, np.full_like(y, edge))),
        (source.height - y, FADE_BELOW, (x, np.full_like(y, low))),
    ):
        close = inside * scale < fade * size
        if not close.any():
            continue
        points = np.stack([place[0][close], place[1][close], np.ones(close.sum(), np.float32)])
        cut = np.clip(2 * sample(near, (warp @ points)[:2].T.astype(np.float32), cv2.BORDER_CONSTANT), 0, 1)
        faded = 1 - smoothstep(inside[close] * scale / size, 0, fade)
        shown[close] = np.minimum(shown[close], 1 - cut * faded)
    return None if shown.min() == 1 else shown
