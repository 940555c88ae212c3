"""Pictures of a clip set: all views of one moment, and one clip as a strip.

    python scripts/clip_sheet.py CLIPS --views views.png --strip strip.png [--moment 0.5] [--frames 8] [--drive VIDEO]

Views stand from one side to the other, each with its proposal, frame and normals; the strip shows frames spread evenly
over the clip, from the front and from one side, under those of the driving video where one is named.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from geodiff.clipset import ClipSet
from geodiff.errors import InputError, UserError
from geodiff.media import read_image, read_video, write_image
from geodiff.motion import spread_indices
from geodiff.sheets import contact_sheet

#: Degrees: the strip's second view is the one nearest to it.
SIDE = 40.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--views", type=Path, help="PNG of all views")
    parser.add_argument("--strip", type=Path, help="PNG of one clip")
    parser.add_argument("--moment", type=float, default=0.5, help="of the views: 0 the clip's start, 1 its end")
    parser.add_argument("--frames", type=int, default=8, help="of the strip")
    parser.add_argument("--drive", type=Path, help="the driving video, for the strip's first row")
    parser.add_argument("--tile", type=int, default=160, help="side of a picture in pixels")
    options = parser.parse_args(arguments)
    try:
        if not 0 <= options.moment <= 1 or options.frames < 1:
            raise InputError(
                f"--moment must lie between 0 and 1 and --frames be at least 1, got {options.moment} and "
                f"{options.frames}"
            )
        clips = ClipSet.open(options.clips)
        if options.views is not None:
            write_image(options.views, contact_sheet(view_rows(clips, options.moment), tile=options.tile))
        if options.strip is not None:
            rows = strip_rows(clips, options.frames, options.drive)
            write_image(options.strip, contact_sheet(rows, tile=options.tile))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def angles(clips: ClipSet, c: int) -> tuple[float, float]:
    """Yaw and elevation of a view's first camera in degrees."""
    x, y, z = (float(v) for v in clips.camera(c).viewmat[2, :3])
    return math.degrees(math.atan2(-x, -z)), math.degrees(math.asin(max(-1.0, min(1.0, -y))))


def moments(clips: ClipSet, c: int) -> list[int]:
    """The timesteps of a view."""
    return [t for t, camera in clips.frames if camera == c]


def view_rows(clips: ClipSet, moment: float) -> list[tuple[str, list[np.ndarray]]]:
    """Proposals (where they were kept), frames and normals of all views, from one side to the other."""
    views = sorted(range(clips.num_cameras), key=lambda c: (round(angles(clips, c)[0]), angles(clips, c)[1]))
    places = []
    for c in views:
        times = moments(clips, c)
        places.append((times[round(moment * (len(times) - 1))], c))
    frames = [clips.frame(t, c) for t, c in places]
    rows = [("generated", [frame.image for frame in frames])]
    kept = [clips.folder / "proposals" / clips.image_file(t, c).name for t, c in places]
    if all(path.is_file() for path in kept):
        rows.insert(0, ("proposals", [read_image(path, min_side=1) for path in kept]))
    if clips.has_normals:
        rows.append(("generated normals", [frame.normal for frame in frames if frame.normal is not None]))
    return rows


def strip_rows(clips: ClipSet, count: int, drive: Path | None) -> list[tuple[str, list[np.ndarray]]]:
    """Frames of the view that is nearest to the front and of one from the side, spread over the clip."""
    front = min(range(clips.num_cameras), key=lambda c: math.hypot(*angles(clips, c)))
    side = min(range(clips.num_cameras), key=lambda c: math.hypot(angles(clips, c)[0] - SIDE, angles(clips, c)[1]))
    rows = []
    if drive is not None:
        film = list(read_video(drive))
        rows.append(("driving video", [film[i] for i in spread_indices(len(film), count)]))
    for title, c in [("front", front)] + ([("side", side)] if side != front else []):
        times = moments(clips, c)
        frames = [clips.frame(times[i], c) for i in spread_indices(len(times), count)]
        rows.append((title, [frame.image for frame in frames]))
        if clips.has_normals:
            rows.append((f"{title}, normals", [frame.normal for frame in frames if frame.normal is not None]))
    return rows


if __name__ == "__main__":
    sys.exit(main())
