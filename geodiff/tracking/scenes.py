"""Where a film cuts: the picture changes as a whole from one frame to the next, and more than it did before."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

#: Share of all pixels that change their colour's bin, and mean change of brightness (0..1), in a cut.
CUT_COLORS = 0.3
CUT_PIXELS = 0.06
#: Mean change of brightness in a cut between two takes of one scene, where the face jumps.
JUMP_PIXELS = 0.025
#: How many times the usual change of the frames before it a cut is, and how many frames count as before.
CUT_FACTOR = 4.0
MEMORY = 15


@dataclass(frozen=True)
class Signature:
    """A frame in short. colors: (512,) histogram that sums to 1. brightness: (32, 32) in 0..1."""

    colors: np.ndarray
    brightness: np.ndarray


def signature(frame: np.ndarray) -> Signature:
    """frame: (H, W, 3) uint8 RGB."""
    small = cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA)
    bins = (small.astype(np.int64) >> 5) @ np.array([64, 8, 1])
    colors = np.bincount(bins.ravel(), minlength=512).astype(np.float64)
    brightness = cv2.resize(small, (32, 32), interpolation=cv2.INTER_AREA).mean(2) / 255.0
    return Signature(colors / colors.sum(), brightness)


def change(before: Signature, after: Signature) -> np.ndarray:
    """(2,) share of pixels whose colour's bin changes, and mean absolute change of brightness."""
    colors = np.abs(after.colors - before.colors).sum() / 2
    # A pan moves everything a little: what a shift of one cell explains is no change.
    padded = np.pad(before.brightness, 1, mode="edge")
    shifted = [padded[y : y + 32, x : x + 32] for y in range(3) for x in range(3)]
    return np.array([colors, min(np.abs(after.brightness - one).mean() for one in shifted)])


def is_cut(changes: np.ndarray, face_jumps: bool) -> bool:
    """Whether the last of `changes` (N, 2), oldest first, is a cut.

    face_jumps: the tracked face is suddenly elsewhere or of another size; then a change of brightness alone is enough,
    as between two cameras in one room or two takes of one camera.
    """
    colors, pixels = changes[-1]
    before = changes[:-1][-MEMORY:]
    usual = np.median(before[:, 1]) if len(before) else 0.0
    if pixels <= CUT_FACTOR * usual:
        return False
    return bool(pixels > JUMP_PIXELS if face_jumps else pixels > CUT_PIXELS and colors > CUT_COLORS)


def alike(before: Signature, after: Signature) -> bool:
    """Whether two frames can be of one shot."""
    colors, pixels = change(before, after)
    return bool(colors <= CUT_COLORS and pixels <= CUT_PIXELS)
