"""Agreement of shapes: angle between normals, overlap of masks."""

from __future__ import annotations

import numpy as np

from geodiff.metrics.checks import check_mask, check_pair


def normal_angular_error(normals: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean angle between two normal maps in degrees.

    normals, truth: (H, W, 3) in -1..1, zero in the background, of any length. mask: (H, W) bool, or every pixel.
    Pixels where the truth has no normal are left out; where only the prediction has none, the error counts as 90.
    Returns NaN where no pixel is left. Raises ValueError for other shapes, values that are not finite, an empty mask.

    The mean angular error of surface normals as Eigen and Fergus 2015 report it.
    """
    check_pair(normals, truth)
    valid = np.linalg.norm(truth, axis=-1) > 0.5
    if mask is not None:
        check_mask(mask, truth.shape[:2])
        valid &= mask
    if not valid.any():
        return float("nan")
    found, true = normals[valid].astype(np.float64), truth[valid].astype(np.float64)
    # Exact for small angles, where the arc cosine is not.
    angles = np.arctan2(np.linalg.norm(np.cross(found, true), axis=-1), (found * true).sum(-1))
    angles[np.linalg.norm(found, axis=-1) < 1e-6] = np.pi / 2
    return float(np.degrees(angles).mean())


def mask_iou(mask: np.ndarray, truth: np.ndarray, threshold: float = 0.5) -> float:
    """Intersection over union of two masks (H, W) in 0..1 (Jaccard 1912); 1 where both are empty.

    Raises ValueError for other shapes and values that are not finite.
    """
    check_pair(mask, truth, channels=None)
    a, b = mask > threshold, truth > threshold
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0
