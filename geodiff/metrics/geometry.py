"""Agreement of shapes: angle between normals, overlap of masks."""

from __future__ import annotations

import numpy as np


def normal_angular_error(normals: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean angle between two normal maps in degrees.

    normals, truth: (H, W, 3) in -1..1, zero in the background, of any length. mask: (H, W) bool, or every pixel.
    Pixels where the truth has no normal are left out; where only the prediction has none, the error counts as 90.
    Returns NaN where no pixel is left.
    """
    lengths, true_lengths = (np.linalg.norm(n, axis=-1) for n in (normals, truth))
    valid = true_lengths > 0.5
    if mask is not None:
        valid &= mask
    if not valid.any():
        return float("nan")
    product = (normals[valid].astype(np.float64) * truth[valid]).sum(-1)
    cosine = product / np.maximum(lengths[valid] * true_lengths[valid], 1e-8)
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))).mean())


def mask_iou(mask: np.ndarray, truth: np.ndarray, threshold: float = 0.5) -> float:
    """Intersection over union of two masks (H, W) in 0..1; 1 where both are empty."""
    a, b = mask > threshold, truth > threshold
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0
