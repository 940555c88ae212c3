"""What lenses and sensors do to colours."""

from __future__ import annotations

import cv2
import numpy as np

from geodiff.media import LUMA


def lateral_color(image: np.ndarray, strength: float) -> np.ndarray:
    """Lateral chromatic aberration of an image (H, W, 3): red is magnified about the centre by 1 + strength, blue by
    1 - strength. float32."""
    height, width = image.shape[:2]
    out = image.astype(np.float32)
    for channel, scale in ((0, 1 + strength), (2, 1 - strength)):
        shift = (1 - scale) * np.array([width - 1, height - 1]) / 2
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        plane = np.ascontiguousarray(out[..., channel])
        out[..., channel] = cv2.warpAffine(plane, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return out


def chroma_noise(height: int, width: int, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32 noise of colour alone, brightness stays: independent in pairs of pixels, as interpolation of a
    sensor's mosaic leaves it. sigma: standard deviation of a channel before brightness is taken out."""
    coarse = rng.standard_normal((height // 2 + 1, width // 2 + 1, 3), np.float32) * np.float32(sigma)
    coarse -= (coarse @ LUMA)[..., None]
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
