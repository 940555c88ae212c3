"""The matte of the person in a portrait: a coarse segmentation, refined to the picture's edges.

The segmentation network works on a 256x256 grid, so it is run on the whole picture and again on a crop around the head,
and the result is pulled to the picture's own edges by a guided filter (He et al. 2013). Cut-outs on one flat colour are
keyed on that colour, which is sharper than any network.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from geodiff.tracking.landmarks import Face, person_mask

#: Side of the crop around the head, as a multiple of the face's size, and how far its centre lies above the face's.
HEAD_EXTENT = 3.0
HEAD_RAISED = 0.1
#: Working size of the refinement: longest side of the head's crop in pixels.
WORK_PIXELS = 768
#: A background counts as flat when this share of the upper border lies within `FLAT_DISTANCE` of its median colour.
FLAT_SHARE = 0.85
FLAT_DISTANCE = 10.0
#: Share of what the network calls the person that the key may call background; beyond it the key is not believed.
MAX_DISAGREEMENT = 0.015
#: How much taller heads with their necks are than wide, where two people share the picture between them, and the share
#: of a face's size over which one turns into the other.
TALL, SHARED = 1.15, 0.04
#: Size of another face, as a share of the person's, below which it is one on a shirt or far behind.
SMALL = 0.4


def portrait_matte(image: np.ndarray, face: Face | None = None, others: Sequence[Face] = ()) -> np.ndarray:
    """The person's matte: image (H, W, 3) uint8 RGB -> (H, W) float32 in 0..1.

    face: the person's face; with it the matte is fine around the head and cut to the part connected with the face.
    others: faces of other people, who keep what is nearer to them.
    """
    mask = _upscaled(image)
    keyed = flat_background_matte(image, mask)
    if keyed is not None:
        mask = keyed
    elif face is not None:
        _refine_head(image, mask, face)
    if face is not None:
        beside = [one for one in others if one.size > SMALL * face.size]
        if beside:
            mask = mask * _nearest(mask.shape, face, beside)
        mask = _connected(mask, face)
    return np.clip(mask, 0.0, 1.0).astype(np.float32)


def on_white(image: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """The person alone: image (H, W, 3) uint8 and matte (H, W) 0..1 -> (H, W, 3) uint8 on white."""
    alpha = matte[..., None].astype(np.float32)
    return (image * alpha + 255.0 * (1.0 - alpha) + 0.5).astype(np.uint8)


def flat_background_matte(image: np.ndarray, person: np.ndarray) -> np.ndarray | None:
    """Key a person on one flat colour: (H, W) float32, or None where the background is not flat or like the person.

    person: (H, W) the network's matte, which protects parts of the person that have the background's colour.
    """
    height, width = person.shape
    half = max(height // 2, 1)
    sides = (image[:2], image[:half, :2], image[:half, -2:])
    border = np.concatenate([side.reshape(-1, 3) for side in sides])
    colour = np.median(border, 0)
    if (np.abs(border - colour).max(1) < FLAT_DISTANCE).mean() < FLAT_SHARE:
        return None
    distance = np.abs(image.astype(np.float32) - colour).max(2)
    key = np.clip((distance - FLAT_DISTANCE) / 90.0, 0, 1)
    # Background is what has its colour and is connected with the border; the rest is inside the person.
    empty = (distance < 2.5 * FLAT_DISTANCE).astype(np.uint8)
    count, labels = cv2.connectedComponents(empty, connectivity=4)
    outer = np.zeros(count, bool)
    outer[np.unique(np.concatenate([labels[0], labels[:, 0], labels[:, -1]]))] = True
    outer[0] = False
    background = cv2.dilate(outer[labels].astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    matte = np.where(background, key, 1.0).astype(np.float32)
    # Dark hair before a dark wall: the colour cannot tell them apart, the network may.
    surely = person > 0.8
    if surely.any() and (matte[surely] < 0.2).mean() > MAX_DISAGREEMENT:
        return None
    sure = cv2.erode((person > 0.9).astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    return np.maximum(matte, sure)


def _upscaled(image: np.ndarray) -> np.ndarray:
    """The network's matte of the whole picture, its steps smoothed along the picture's edges."""
    scale = min(1.0, WORK_PIXELS / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    mask = _guided(small, person_mask(small), max(2, round(0.008 * max(small.shape[:2]))))
    return cv2.resize(mask, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)


def _refine_head(image: np.ndarray, mask: np.ndarray, face: Face) -> None:
    """Replace the matte around the head, in place, by the network's answer on a crop of it."""
    centre = (face.box[:2] + face.box[2:]) / 2 - np.array([0, HEAD_RAISED * face.size])
    half = HEAD_EXTENT * face.size / 2
    height, width = mask.shape
    x0, y0 = np.maximum(np.floor(centre - half), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(centre + half), [width, height]).astype(int)
    if min(x1 - x0, y1 - y0) < 32 or (x1 - x0) * (y1 - y0) > 0.9 * width * height:
        return
    crop = image[y0:y1, x0:x1]
    scale = WORK_PIXELS / max(crop.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    work = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=interpolation)
    fine = _guided(work, person_mask(work), round(0.008 * WORK_PIXELS))
    fine = cv2.resize(fine, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR)
    # The crop's answer fades into the whole picture's at its border, except where that is the picture's border too.
    ramp = max(4, (x1 - x0) // 12)
    weight = np.zeros((y1 - y0 + 2, x1 - x0 + 2), np.uint8)
    weight[1:-1, 1:-1] = 1
    padded = cv2.copyMakeBorder(weight[1:-1, 1:-1], int(y0 > 0), int(y1 < height), int(x0 > 0), int(x1 < width),
                                cv2.BORDER_CONSTANT, value=(0,))  # fmt: skip
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3) if (padded == 0).any() else np.full(padded.shape, 1e6)
    distance = distance[int(y0 > 0) : int(y0 > 0) + y1 - y0, int(x0 > 0) : int(x0 > 0) + x1 - x0]
    blend = np.clip(distance / ramp, 0, 1)
    mask[y0:y1, x0:x1] = blend * fine + (1 - blend) * mask[y0:y1, x0:x1]


def _guided(image: np.ndarray, mask: np.ndarray, radius: int) -> np.ndarray:
    """Pull a soft mask to the image's edges, then steepen it: the filter blurs where the image shows no edge."""
    guide = image.astype(np.float32) / 255
    refined = cv2.ximgproc.guidedFilter(guide, mask.astype(np.float32), radius, 1e-4)
    return np.clip((refined - 0.12) / 0.76, 0, 1)


def _nearest(shape: tuple[int, ...], face: Face, others: Sequence[Face]) -> np.ndarray:
    """(H, W) 0..1 where a face is nearer than all others, measured in their sizes."""
    rows = np.arange(shape[0], dtype=np.float32)[:, None] + np.float32(0.5)
    columns = np.arange(shape[1], dtype=np.float32) + np.float32(0.5)

    def away(one: Face) -> np.ndarray:
        x, y = (float(v) for v in (one.box[:2] + one.box[2:]) / 2 - np.array([0, HEAD_RAISED * one.size]))
        return np.hypot((columns - x) / float(one.size), (rows - y) / (TALL * float(one.size)))

    theirs = away(others[0])
    for one in others[1:]:
        np.minimum(theirs, away(one), out=theirs)
    return np.clip((theirs - away(face)) / SHARED + 0.5, 0, 1)


def _connected(mask: np.ndarray, face: Face) -> np.ndarray:
    """Drop parts that are not connected with the face."""
    count, labels = cv2.connectedComponents((mask > 0.1).astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    pixels = np.floor(face.points).astype(int)
    height, width = mask.shape
    seen = labels[pixels[:, 1].clip(0, height - 1), pixels[:, 0].clip(0, width - 1)]
    tally = np.bincount(seen, minlength=count)
    tally[0] = 0
    return np.where(labels == tally.argmax(), mask, 0.0) if tally.any() else mask
