"""The way in for other trackers' results, and out in VHAP's layout.

`read_tracking` knows every format that the project reads; `write_vhap` writes any of them as VHAP exports it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geodiff.clipset import ClipSet, default_splits
from geodiff.clipset.layout import (
    CANONICAL,
    SPLITS,
    TRANSFORMS,
    camera_to_json,
    frame_name,
    write_canonical,
    write_params,
)
from geodiff.errors import ClipSetError, InputError
from geodiff.files import atomic_write, make_folder, read_npz, write_json
from geodiff.head.model import HeadModel
from geodiff.media import read_gray, read_image, write_image
from geodiff.tracking.importers import Tracking, cap4d, pixel3dmm
from geodiff.tracking.importers.result import VHAP_VERTICES, still


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
    if clips.foreign and "dynamic_offset" in read_npz(clips.params_file(0)):
        notes.append("offsets that change from frame to frame (dynamic_offset) are left out")
    cells = [(t, c) if clips.has(t, c) else None for t in times for c in views]
    cameras = [clips.camera(c, t) if clips.has(t, c) else clips.camera(c) for t in times for c in views]
    return Tracking(
        params=clips.params,
        cameras=still(cameras, len(views)),
        source="VHAP" if clips.foreign else "geodiff",
        camera_ids=clips.camera_ids,
        timesteps=np.array(clips.timestep_numbers),
        fps=clips.fps if clips.meta else None,
        images=[None if cell is None else clips.image_file(*cell) for cell in cells],
        masks=[None if cell is None else clips.mask_file(*cell) for cell in cells],
        valid=np.array([cell is not None for cell in cells]).reshape(len(times), len(views)),
        head=clips.head_name,
        head_hash=clips.head_record.digest,
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


#: What VHAP's tracker itself writes, before its export.
_VHAP_RUN = "tracked_flame_params*.npz"


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
    if file.is_dir() and (any(file.glob(_VHAP_RUN)) or any(file.glob(f"*/{_VHAP_RUN}"))):
        raise InputError(
            f"VHAP's results are read from its export, and {file} is its tracking folder: run its "
            "`vhap/export_as_nerf_dataset.py` and name what that wrote"
        )
    what = "does not exist" if not file.exists() else "is none of them"
    raise InputError(
        f"a tracking result is one of {', '.join(FORMATS)}, and {file} {what}: name the folder or file that the "
        "tracker wrote"
    )


def write_vhap(folder: Path | str, tracking: Tracking, num_vertices: int = VHAP_VERTICES) -> Path:
    """Writes a tracking with its pictures as a VHAP export, which GaussianAvatars and `geodiff reconstruct` train on.

    PNG pictures and masks are copied as they are, others are saved as PNG. num_vertices: of the head, for the zero
    offsets that stand where there are none; VHAP's FLAME with teeth by default. Raises ClipSetError, StorageError when
    the folder cannot be used, InputError where there are no pictures or the convention is not FLAME's.
    """
    target = Path(folder)
    if tracking.convention != "flame":
        raise InputError(
            f"a VHAP export holds FLAME's own rotation, and {tracking.source} turns heads about another point: name "
            "the head model that it tracked with as --head flame:PATH"
        )
    times, views = range(tracking.num_frames), range(tracking.num_cameras)
    cells = [(t, c) for t in times for c in views if tracking.image(t, c) is not None]
    if not cells:
        raise InputError(f"a VHAP export needs pictures, and {tracking.source}'s result names none: put them beside it")
    if target.exists() and any(target.iterdir()):
        raise ClipSetError(f"the output folder must be new or empty, and {target} is not: choose another")
    make_folder(target)
    entries = {cell: _vhap_frame(target, tracking, *cell) for cell in cells}
    params = tracking.params
    for t in sorted({t for t, _ in cells}):
        write_params(target / _params_name(tracking, t), params.frame(t), num_vertices)
    write_canonical(target / CANONICAL, params, num_vertices)
    splits = default_splits(cells)
    for name in SPLITS:
        write_json(target / f"transforms_{name}.json", _vhap_list([entries[cell] for cell in splits[name]], entries))
    write_json(target / TRANSFORMS, _vhap_list(list(entries.values()), entries))
    return target


def _params_name(tracking: Tracking, t: int) -> str:
    return f"flame_param/{int(tracking.timesteps[t]):05d}.npz"


def _vhap_list(frames: list[dict[str, Any]], entries: dict[tuple[int, int], dict[str, Any]]) -> dict[str, Any]:
    first = next(iter(entries.values()))
    shared = ("cx", "cy", "fl_x", "fl_y", "h", "w", "camera_angle_x", "camera_angle_y")
    return {
        "frames": frames,
        **{key: first[key] for key in shared},
        "timestep_indices": sorted({frame["timestep_index"] for frame in frames}),
        "camera_indices": sorted({frame["camera_index"] for frame in frames}),
    }


def _vhap_frame(target: Path, tracking: Tracking, t: int, c: int) -> dict[str, Any]:
    """Copies one frame's picture and mask; what the lists say about it."""
    number = int(tracking.timesteps[t])
    name = frame_name(number, c)
    image, mask = tracking.image(t, c), tracking.mask(t, c)
    assert image is not None
    entry = {
        "timestep_index": number,
        "timestep_index_original": number,
        "timestep_id": f"{number:05d}",
        "camera_index": c,
        "camera_id": tracking.camera_ids[c],
        **camera_to_json(tracking.camera(t, c)),
        "file_path": f"images/{name}",
        "flame_param_path": _params_name(tracking, t),
    }
    _copy_picture(image, target / "images" / name, read_image)
    if mask is not None:
        _copy_picture(mask, target / "fg_masks" / name, read_gray)
        entry["fg_mask_path"] = f"fg_masks/{name}"
    return entry


def _copy_picture(source: Path, target: Path, read: Callable[[Path], np.ndarray]) -> None:
    if source.suffix.lower() == ".png":
        atomic_write(target, lambda temporary: _copy(source, temporary))
    else:
        write_image(target, read(source))


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
