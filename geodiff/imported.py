"""The way in for other trackers' results: `read_tracking` knows every format that the project reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geodiff.clipset import ClipSet
from geodiff.errors import InputError
from geodiff.files import read_npz
from geodiff.head.model import HeadModel
from geodiff.tracking.importers import Tracking, cap4d, pixel3dmm


@dataclass(frozen=True)
class Format:
    """A tracker's format: matches tells cheaply whether a path holds it, read reads it (InputError, ClipSetError)."""

    matches: Callable[[Path], bool]
    read: Callable[[Path], Tracking]


def read_vhap(path: Path) -> Tracking:
    """A VHAP export, a GaussianAvatars dataset or one of our own clip sets."""
    clips = ClipSet.open(path)
    times, views = range(clips.num_timesteps), range(clips.num_cameras)
    notes = list(clips.notes)
    if not clips.meta and "dynamic_offset" in read_npz(clips.params_file(0)):
        notes.append("offsets that change from frame to frame (dynamic_offset) are left out")
    cells = [(t, c) if clips.has(t, c) else None for t in times for c in views]
    cameras = [clips.camera(c, t) if clips.has(t, c) else clips.camera(c) for t in times for c in views]
    return Tracking(
        params=clips.params,
        cameras=cameras,
        source="VHAP" if not clips.meta else "geodiff",
        camera_ids=clips.camera_ids,
        timesteps=np.array(clips.timestep_numbers),
        fps=clips.fps if clips.meta else None,
        images=[None if cell is None else clips.image_file(*cell) for cell in cells],
        masks=[None if cell is None else clips.mask_file(*cell) for cell in cells],
        valid=np.array([cell is not None for cell in cells]).reshape(len(times), len(views)),
        head=clips.head_name,
        notes=tuple(notes),
    )


#: Formats by the name of their tool, in the order in which they are tried.
FORMATS: dict[str, Format] = {
    "VHAP": Format(
        lambda path: path.is_dir() and (any(path.glob("transforms*.json")) or (path / "clipset.json").exists()),
        read_vhap,
    ),
    pixel3dmm.SOURCE: Format(pixel3dmm.matches, pixel3dmm.read_pixel3dmm),
    cap4d.SOURCE: Format(cap4d.matches, cap4d.read_cap4d),
}


def is_tracking(path: Path | str) -> bool:
    """Whether a path looks like a tracker's result rather than like pixels; it may still be damaged."""
    return any(known.matches(Path(path)) for known in FORMATS.values())


def read_tracking(path: Path | str, head: HeadModel | None = None) -> Tracking:
    """A tracker's result, in FLAME's names, metres and this project's axes.

    path: a VHAP export or GaussianAvatars dataset (folder), CAP4D's fit.npz, a tracking folder of Pixel3DMM.
    head: the head model that the parameters belong to; with it, they are completed to its widths and turn about its
    root joint (see `Tracking.on`). Without it they are as the tool has them; `Tracking.convention` says what they mean.

    Raises InputError or ClipSetError when the files cannot be used, HeadModelError when they are another head's.
    """
    file = Path(path)
    for known in FORMATS.values():
        if known.matches(file):
            found = known.read(file)
            return found if head is None else found.on(head)
    what = "does not exist" if not file.exists() else "is neither"
    raise InputError(
        f"a tracking result is one of {', '.join(FORMATS)}, and {file} {what}: name the folder or file that the "
        "tracker wrote"
    )
