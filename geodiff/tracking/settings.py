"""How images and videos are tracked."""

from __future__ import annotations

from dataclasses import dataclass, field

from geodiff.tracking.fit import FitConfig
from geodiff.tracking.hair import HairConfig
from geodiff.tracking.smooth import SmoothConfig


@dataclass(frozen=True)
class TrackConfig:
    """fit, hair: how landmarks and hair are fitted. fit_hair: whether static offsets are fitted at all.

    keyframes: frames of a video from which identity and focal length are estimated. smooth: how steady a video's
    parameters are over time; steadiness: multiplies all of that, 0 fits every frame on its own.
    """

    fit: FitConfig = field(default_factory=FitConfig)
    hair: HairConfig = field(default_factory=HairConfig)
    fit_hair: bool = True
    keyframes: int = 6
    smooth: SmoothConfig = field(default_factory=SmoothConfig)
    steadiness: float = 1.0
