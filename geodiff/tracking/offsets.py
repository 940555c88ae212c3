"""What a picture's matte says of a fitted head's surface: hair first, then neck, shoulders and chest."""

from __future__ import annotations

import numpy as np

from geodiff.head.model import HeadModel
from geodiff.tracking.bust import BustConfig, fit_bust
from geodiff.tracking.hair import HairConfig, fit_hair
from geodiff.types import Camera, HeadParams


def fit_offsets(
    matte: np.ndarray,
    params: HeadParams,
    camera: Camera,
    head: HeadModel,
    image: np.ndarray | None = None,
    hair: HairConfig | None = None,
    bust: BustConfig | None = None,
) -> HeadParams:
    """`params` (T = 1) with static offsets for a matte (H, W) 0..1; a head without a scalp keeps its parameters.

    image: (H, W, 3) uint8 RGB of the same picture.
    """
    if not head.regions["scalp"].any():
        return params
    params = params.replace(static_offset=fit_hair(matte, params, camera, head, hair, image))
    return params.replace(static_offset=fit_bust(matte, params, camera, head, bust, image))
