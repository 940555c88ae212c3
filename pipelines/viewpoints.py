"""The viewpoints that a clip set is generated from: twelve cameras around the head (paper, supplement A.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from geodiff.errors import ConfigError


@dataclass(frozen=True)
class Viewpoint:
    """A direction to see the head from. Radians; positive yaw stands on the person's left, positive elevation above."""

    yaw: float
    elevation: float

    @staticmethod
    def degrees(yaw: float, elevation: float) -> Viewpoint:
        return Viewpoint(math.radians(yaw), math.radians(elevation))


#: Yaw and elevation in degrees. The order is the order of generation, and a smaller number of views takes the first
#: ones: each prefix covers the widest range it can.
_DEGREES = (
    (0, 0), (50, 0), (-50, 0), (0, 20), (25, 0), (-25, 0), (75, 0), (-75, 0), (20, -15), (-20, -15),
    (35, 20), (-35, 20),
)  # fmt: skip

VIEWPOINTS = tuple(Viewpoint.degrees(yaw, elevation) for yaw, elevation in _DEGREES)


def select_viewpoints(count: int) -> tuple[Viewpoint, ...]:
    """The first `count` viewpoints.

    Raises ConfigError where count is not within 1..12.
    """
    if not 1 <= count <= len(VIEWPOINTS):
        raise ConfigError(
            f"The number of views must lie between 1 and {len(VIEWPOINTS)}; {count} was asked for. Use --views 12."
        )
    return VIEWPOINTS[:count]
