"""What every metric asks of its arguments, in one place."""

from __future__ import annotations

import numpy as np


class NotMeasured(Exception):  # noqa: N818 - not an error: a figure that cannot be given, and why
    """A metric cannot be given for these frames; the text says why and ends up in the table."""


def check_pair(values: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None, channels: int | None = 3) -> None:
    """Raises ValueError unless two maps have one shape, are finite, and the mask fits them and is not empty.

    values, truth: (H, W, channels), or (H, W) where `channels` is None. mask: (H, W) bool, or None for every pixel.
    """
    dimensions = 2 if channels is None else 3
    wanted = "(H, W)" if channels is None else f"(H, W, {channels})"
    fits = truth.ndim == dimensions and (channels is None or truth.shape[-1] == channels) and min(truth.shape) > 0
    if values.shape != truth.shape or not fits:
        raise ValueError(
            f"both maps of a comparison must have one shape {wanted}, found {values.shape} and {truth.shape}: "
            "bring them to one size"
        )
    for name, array in (("measured", values), ("true", truth)):
        if not np.isfinite(array).all():
            raise ValueError(f"the {name} map must be finite, found NaN or infinity: check what made it")
    if mask is not None:
        check_mask(mask, truth.shape[:2])


def check_mask(mask: np.ndarray, size: tuple[int, ...]) -> None:
    """Raises ValueError unless a mask is (H, W) bool of this size and holds a pixel."""
    if mask.shape != tuple(size) or mask.dtype != bool:
        raise ValueError(
            f"the mask must be bool of shape {tuple(size)} like the images, found {mask.dtype} {mask.shape}: "
            "compare a matte with 0.5 first"
        )
    if not mask.any():
        raise ValueError("the mask must contain at least one pixel to measure a metric in, this one is empty")
