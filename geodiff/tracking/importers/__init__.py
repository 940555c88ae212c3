"""Other trackers' results, in this project's names, units and axes.

Every reader returns a `Tracking`. Formats that are clip sets (VHAP's) are read by `geodiff.imported`, which is the way
in for all of them.
"""

from __future__ import annotations

from geodiff.tracking.importers.cap4d import read_cap4d, read_orbit, write_cap4d, write_orbit
from geodiff.tracking.importers.pixel3dmm import read_pixel3dmm
from geodiff.tracking.importers.result import Tracking, about_origin, about_root

__all__ = [
    "Tracking",
    "about_origin",
    "about_root",
    "read_cap4d",
    "read_orbit",
    "read_pixel3dmm",
    "write_cap4d",
    "write_orbit",
]
