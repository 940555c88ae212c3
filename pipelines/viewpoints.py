"""The viewpoints that a clip set is generated from: twelve cameras around the head (paper, supplement A.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from geodiff.conditioning import VIEWPOINT_DEGREES
from geodiff.errors import ConfigError


@dataclass(frozen=True)
class Viewpoint:
    """A direction to see the head from. Radians; positive yaw stands on the person's left, positive elevation above."""

    yaw: float
    elevation: float

    @staticmethod
    def degrees(yaw: float, elevation: float) -> Viewpoint:
        return Viewpoint(math.radians(yaw), math.radians(elevation))


#: Places in `VIEWPOINT_DEGREES` in the order of generation: a smaller number of views takes the first ones, and each
#: prefix covers the widest range it can.
_ORDER = (0, 3, 4, 8, 1, 2, 5, 6, 11, 10, 9, 7)

VIEWPOINTS = tuple(Viewpoint.degrees(*VIEWPOINT_DEGREES[place]) for place in _ORDER)


def select_viewpoints(count: int) -> tuple[Viewpoint, ...]:
    """The first `count` viewpoints.

    Raises ConfigError where count is not within 1..12.
    """
    if not 1 <= count <= len(VIEWPOINTS):
        raise ConfigError(
            f"The number of views must lie between 1 and {len(VIEWPOINTS)}; {count} was asked for. Use --views 12."
        )
    return VIEWPOINTS[:count]
