"""Frames that cannot be used as they are: empty masks, normal maps with pixels that are no normals."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from geodiff.errors import ClipSetError
from geodiff.types import Clip

#: Length above which a pixel is no normal: unit vectors keep theirs within rounding, and blends of them are shorter.
#: What programs write for NaN, black or white, has 1.7.
TOO_LONG = 1.25
#: Share of a set's foreground that may be repaired.
REPAIRABLE = 0.05
#: A normal map's byte for zero.
_ZERO = 128


def usable(clips: list[Clip], has_masks: bool, origin: str) -> tuple[list[Clip], list[str]]:
    """The clips without frames whose mask is empty, their normal maps repaired; and sentences about what was done.

    Raises ClipSetError where all masks are empty, or where too much of the normal maps is no normals.
    """
    if not has_masks:
        return clips, []
    kept, dropped = _with_masks(clips)
    if not kept:
        raise ClipSetError(
            f"the masks of a clip set must show a head, and all {dropped} of {origin} are empty: export them again, or "
            "take them out of its transforms"
        )
    notes = [f"{dropped} frames have an empty mask and are left out"] if dropped else []
    wrong = inside = 0
    repaired = []
    for clip in kept:
        if clip.normals is None:
            repaired.append(clip)
            continue
        masks = clip.masks > 127
        bad = _no_normals(clip.normals)
        wrong, inside = wrong + int((bad & masks).sum()), inside + int(masks.sum())
        repaired.append(replace(clip, normals=_filled(clip.normals, bad, masks)) if bad.any() else clip)
    if wrong > REPAIRABLE * inside:
        raise ClipSetError(
            f"normal maps must hold unit vectors as (n + 1) / 2, and {100 * wrong / inside:.0f}% of the foreground of "
            f"{origin} holds none (NaN becomes black): export them again, or take normal_path out of its transforms"
        )
    if wrong:
        notes.append(f"{100 * wrong / inside:.2f}% of the normal maps' foreground holds no normals and is filled up")
    return repaired, notes


def _with_masks(clips: list[Clip]) -> tuple[list[Clip], int]:
    """Clips of the frames whose mask shows something, and how many others there were."""
    kept, dropped = [], 0
    for clip in clips:
        shown = (clip.masks > 127).any((1, 2))
        dropped += int((~shown).sum())
        if shown.all():
            kept.append(clip)
        elif shown.any():
            kept.append(_chosen(clip, np.flatnonzero(shown)))
    return kept, dropped


def _chosen(clip: Clip, frames: np.ndarray) -> Clip:
    import torch

    cameras = None if clip.cameras is None else [clip.cameras[i] for i in frames]
    return replace(
        clip,
        images=clip.images[frames],
        masks=clip.masks[frames],
        normals=None if clip.normals is None else clip.normals[frames],
        params=clip.params.frames(torch.from_numpy(frames)),
        timesteps=clip.timesteps[frames],
        cameras=cameras,
        camera=clip.camera if cameras is None else cameras[0],
    )


def _no_normals(normals: np.ndarray) -> np.ndarray:
    """(T, H, W) bool of normal maps (T, H, W, 3) uint8."""
    # Only extreme bytes can make a vector that long: most maps need no arithmetic.
    x, y, z = np.moveaxis((normals < 20) | (normals > 235), -1, 0)
    suspects = (x & y) | (x & z) | (y & z)
    bad = np.zeros(suspects.shape, bool)
    if suspects.any():
        vectors = normals[suspects].astype(np.float32) / 127.5 - 1
        bad[suspects] = np.square(vectors).sum(-1) > TOO_LONG**2
    return bad


def _filled(normals: np.ndarray, bad: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Inside the masks the nearest normal, outside none."""
    filled = normals.copy()
    for frame, wrong, mask in zip(filled, bad, masks, strict=True):
        frame[wrong & ~mask] = _ZERO
        sound = mask & ~wrong
        if not (wrong & mask).any() or not sound.any():
            continue
        _, nearest = cv2.distanceTransformWithLabels(
            (~sound).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        source = np.zeros((nearest.max() + 1, 3), np.uint8)
        source[nearest[sound]] = frame[sound]
        frame[wrong & mask] = source[nearest[wrong & mask]]
    return filled
