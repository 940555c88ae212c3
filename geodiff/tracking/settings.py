"""How images and videos are tracked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from geodiff.tracking.bust import BustConfig
from geodiff.tracking.fit import FitConfig
from geodiff.tracking.hair import HairConfig
from geodiff.tracking.smooth import SmoothConfig

#: How much landmarks of the hidden side count after the second look: it knows where they are from the whole face.
HIDDEN_REFINED = 0.5


@dataclass(frozen=True)
class TrackConfig:
    """fit, hair, bust: how landmarks, hair, and neck with shoulders are fitted. fit_hair: whether static offsets are
    fitted at all.

    refine: whether a network takes a second look at the face of a picture (`geodiff.tracking.refine`); otherwise the
    calibration of the landmark detector has the last word. refine_videos: the same for each frame of a video, where it
    takes most of the time.

    keyframes: frames of a video from which identity and focal length are estimated. smooth: how steady a video's
    parameters are over time; steadiness: multiplies all of that, 0 fits every frame on its own.
    """

    fit: FitConfig = field(default_factory=FitConfig)
    hair: HairConfig = field(default_factory=HairConfig)
    bust: BustConfig = field(default_factory=BustConfig)
    fit_hair: bool = True
    refine: bool = True
    refine_videos: bool = True
    keyframes: int = 6
    smooth: SmoothConfig = field(default_factory=SmoothConfig)
    steadiness: float = 1.0

    def fitting(self, refined: bool) -> FitConfig:
        """How landmarks are fitted that the second look was taken at, or not."""
        return replace(self.fit, hidden=max(self.fit.hidden, HIDDEN_REFINED)) if refined else self.fit
