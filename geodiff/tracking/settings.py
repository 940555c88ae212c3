"""How images and videos are tracked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from geodiff.errors import ConfigError
from geodiff.tracking.bust import BustConfig
from geodiff.tracking.fit import FitConfig
from geodiff.tracking.hair import HairConfig
from geodiff.tracking.smooth import SmoothConfig

#: How much landmarks of the hidden side count after the second look: it knows where they are from the whole face.
HIDDEN_REFINED = 0.5


@dataclass(frozen=True)
class DenseConfig:
    """How the head's texture is followed (`geodiff.tracking.dense`). rounds: 0 for landmarks alone. points, skull: how
    many of the face, and of scalp and ears. side: of the crops that are looked at, pixels. noise, skull_noise: standard
    deviation of a point, as a share of the outer eye corners' distance: more than flow errs, since neighbours err
    together. outlier: see `FitConfig`. agree,
    reach: shares of the side by which flow may miss its start when it goes back, and by which it may go at all."""

    rounds: int = 3
    points: int = 500
    skull: int = 250
    side: int = 224
    noise: float = 0.003
    skull_noise: float = 0.0015
    outlier: float = 5.0
    agree: float = 0.006
    reach: float = 0.08

    def __post_init__(self) -> None:
        if min(self.rounds, self.points, self.skull) < 0 or self.side < 32:
            raise ConfigError("dense: rounds, points and skull must be at least 0, and side at least 32")
        if min(self.noise, self.skull_noise, self.outlier, self.agree, self.reach) <= 0:
            raise ConfigError("dense: noise, skull_noise, outlier, agree and reach must be above 0")

    @property
    def parts(self) -> list[str]:
        """What is followed; see `dense.Surface`."""
        counts = {"face": self.points, "skull": self.skull}
        return [part for part, count in counts.items() if count and self.rounds]


@dataclass(frozen=True)
class CaptureConfig:
    """side: degrees between the face's direction and a camera's from which on the camera says nothing of the face: a
    detector makes up what it does not see. scale_spread: standard deviation of the logarithm of the cameras' unit,
    where that is about a metre, a centimetre or a millimetre; other units are told by the head's size alone. dense: how
    the face's texture is followed."""

    side: float = 62.0
    scale_spread: float = 0.05
    dense: DenseConfig = field(default_factory=DenseConfig)

    def __post_init__(self) -> None:
        if min(self.scale_spread, self.side) <= 0:
            raise ConfigError(
                f"capture: side and scale_spread must be above 0, not {self.side} and {self.scale_spread}"
            )


@dataclass(frozen=True)
class TrackConfig:
    """fit, hair, bust: how landmarks, hair, and neck with shoulders are fitted. fit_hair: whether static offsets are
    fitted at all.

    refine: whether a network takes a second look at the face of a picture (`geodiff.tracking.refine`); otherwise the
    calibration of the landmark detector has the last word. refine_videos: the same for each frame of a video, where it
    takes most of the time. capture: how pictures by known cameras are taken together.

    keyframes: frames of a video from which identity and focal length are estimated. smooth: how steady a video's
    parameters are over time; steadiness: multiplies all of that, 0 fits every frame on its own.
    """

    fit: FitConfig = field(default_factory=FitConfig)
    hair: HairConfig = field(default_factory=HairConfig)
    bust: BustConfig = field(default_factory=BustConfig)
    fit_hair: bool = True
    refine: bool = True
    refine_videos: bool = True
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    keyframes: int = 6
    smooth: SmoothConfig = field(default_factory=SmoothConfig)
    steadiness: float = 1.0

    def fitting(self, refined: bool) -> FitConfig:
        """How landmarks are fitted that the second look was taken at, or not."""
        return replace(self.fit, hidden=max(self.fit.hidden, HIDDEN_REFINED)) if refined else self.fit
