"""Reading the frames that a clip set lists, ours and other tools' (VHAP, GaussianAvatars, combined datasets)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geodiff.clipset.layout import CANONICAL, SPLITS, TRANSFORMS, Index, camera_from_json, inside
from geodiff.errors import ClipSetError, InputError
from geodiff.files import read_json
from geodiff.media import image_size
from geodiff.types import Camera

#: The file of each split.
SPLIT_FILES = {name: f"transforms_{name}.json" for name in SPLITS}


@dataclass(frozen=True)
class Entry:
    """Where a frame's files are."""

    image: Path
    mask: Path | None
    normals: Path | None
    params: Path
    camera: Camera


@dataclass(frozen=True)
class Listed:
    """What the transforms list: frames and splits, numbered without gaps; numbers and names as they are on disk."""

    entries: dict[Index, Entry]
    splits: dict[str, list[Index]]
    timesteps: list[int]
    cameras: list[str]


def open_transforms(folder: Path, foreign: bool) -> Listed:
    """foreign: another tool wrote the folder."""
    numbered: dict[Index, Entry] = {}
    names: dict[int, str] = {}
    for path, i, values in _all_frames(folder, foreign):
        where = f"frame {i} of {path}"
        index = _index(values, where)
        if index in numbered:
            raise ClipSetError(f"{where} must be the only one of its timestep and camera, and it is not: remove one")
        numbered[index] = _entry(folder, values, where, foreign)
        names.setdefault(index[1], str(values.get("camera_id", f"{index[1]:02d}")))
    times = {t: i for i, t in enumerate(sorted({t for t, _ in numbered}))}
    cameras = {c: i for i, c in enumerate(sorted({c for _, c in numbered}))}
    entries = {(times[t], cameras[c]): entry for (t, c), entry in numbered.items()}
    splits: dict[str, list[Index]] = {name: [] for name in SPLITS}
    for name in SPLITS:
        path = folder / SPLIT_FILES[name]
        if path.exists():
            listed = [_index(values, f"a frame of {path}") for values in _read_transforms(path, empty=True)["frames"]]
            if unknown := [index for index in listed if index not in numbered]:
                raise ClipSetError(f"{path} may only list frames of {TRANSFORMS}, and {unknown[0]} is not there")
            splits[name] = [(times[t], cameras[c]) for t, c in listed]
    if not splits["train"]:
        held = {*splits["val"], *splits["test"]}
        splits["train"] = [index for index in sorted(entries) if index not in held] or sorted(entries)
    return Listed(entries, splits, list(times), [names[c] for c in cameras])


def _all_frames(folder: Path, foreign: bool) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """Every frame's file, number and values, those of the file's top level included.

    VHAP's combined datasets, which GaussianAvatars trains on, hold the splits alone.
    """
    paths = [folder / TRANSFORMS]
    if foreign and not paths[0].exists():
        paths = [path for name in SPLITS if (path := folder / SPLIT_FILES[name]).exists()]
    contents = [(path, _read_transforms(path, empty=len(paths) > 1)) for path in paths]
    if not any(content["frames"] for _, content in contents):
        raise ClipSetError(f"{folder} must list at least one frame, and it does not: generate or export it again")
    for path, content in contents:
        shared = {k: v for k, v in content.items() if k != "frames"}
        for i, values in enumerate(content["frames"]):
            yield path, i, {**shared, **values}


def _read_transforms(path: Path, empty: bool = False) -> dict[str, Any]:
    try:
        content = read_json(path)
    except InputError as error:
        raise ClipSetError(f"the clip set is missing or damaged: {error}") from error
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not (frames or empty) or not all(isinstance(f, dict) for f in frames):
        raise ClipSetError(f"{path} must list at least one frame, and it does not: generate or export it again")
    return content


def _index(values: dict[str, Any], where: str) -> Index:
    try:
        return int(values["timestep_index"]), int(values["camera_index"])
    except (KeyError, TypeError, ValueError) as error:
        raise ClipSetError(f"{where} must give timestep_index and camera_index, and it does not") from error


def _entry(folder: Path, values: dict[str, Any], where: str, foreign: bool) -> Entry:
    def file(key: str, required: bool) -> Path | None:
        if not required and not values.get(key):
            return None
        path = _located(folder, values.get(key), f"{key} in {where}", foreign)
        if not path.is_file() or path.stat().st_size == 0:
            state = "is empty" if path.is_file() else "is missing"
            raise ClipSetError(f"a clip set must be whole, and {path} {state}: run its generation or export again")
        return path

    image, params = file("file_path", True), file("flame_param_path", True)
    assert image is not None and params is not None
    if foreign and not {"w", "h"} <= values.keys():
        # As GaussianAvatars does where only the field of view is told.
        try:
            values = {**values, **dict(zip(("w", "h"), image_size(image), strict=True))}
        except InputError as error:
            raise ClipSetError(f"the clip set {folder} is damaged: {error}") from error
    return Entry(
        image, file("fg_mask_path", False), file("normal_path", False), params, camera_from_json(values, where)
    )


def _located(folder: Path, relative: Any, where: str, foreign: bool) -> Path:
    """The file of this name inside the clip set, or inside an export beside it for other tools' combined datasets.

    VHAP combines exports of one folder by "../EXPORT/images/..."; what leads anywhere else is refused.
    """
    parts = Path(relative).parts if isinstance(relative, str) else ()
    if foreign and len(parts) > 2 and parts[0] == ".." and ".." not in parts[1:]:
        beside = folder.resolve().parent / parts[1]
        if (beside / CANONICAL).is_file():
            return inside(beside, str(Path(*parts[2:])), where)
    return inside(folder, relative, where)
