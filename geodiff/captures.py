"""Pictures of one person by several calibrated cameras: read, tracked, and written as a clip set.

A capture is a folder with a `transforms.json` as NeRF's tools and VHAP write it: for each picture its file, camera-to-
world matrix and intrinsics, `timestep_index` and `camera_index`, and perhaps a mask; but no head parameters. Those are
found here. Pictures without timesteps are all of one moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geodiff.clipset.layout import META, TRANSFORMS, camera_from_json, inside
from geodiff.config import to_yaml
from geodiff.converted import WORK, head_entry, is_finished, result_folder, write_pictures
from geodiff.errors import InputError
from geodiff.files import make_folder, read_json, read_npz, write_npz
from geodiff.head.identity import absolute_spec
from geodiff.head.model import HeadModel
from geodiff.media import MAX_SIDE, read_gray, read_image, read_size, write_image
from geodiff.sheets import TILES, tiled
from geodiff.tracking.capture import CaptureTrack, Cell, Sight, fit_capture, look_at
from geodiff.tracking.dense import Crop
from geodiff.tracking.follow import face_at
from geodiff.tracking.importers import Tracking
from geodiff.tracking.matte import portrait_matte
from geodiff.tracking.offsets import fit_offsets
from geodiff.tracking.overlay import draw_mesh
from geodiff.tracking.refine import Look
from geodiff.tracking.settings import TrackConfig
from geodiff.types import Camera, HeadParams

#: Raised whenever faces come out differently, so that those of an older run are not taken.
SCHEMA = 1
#: Pictures after which the faces in them are kept on disk.
KEPT_EVERY = 16
#: Lens distortion by its usual names; pictures must be without.
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Capture:
    """T times before C cameras that stand still. images: (time, camera) -> file; masks: the same, where there are any.
    timesteps, camera_ids: their numbers and names on disk."""

    folder: Path
    cameras: list[Camera]
    images: dict[Cell, Path]
    masks: dict[Cell, Path]
    timesteps: list[int]
    camera_ids: list[str]

    @property
    def num_times(self) -> int:
        return len(self.timesteps)


def is_capture(path: Path) -> bool:
    """Whether a folder lists pictures and cameras, but no head parameters."""
    if not (path / TRANSFORMS).is_file() or (path / META).exists():
        return False
    try:
        frames = _listed(path)
    except (InputError, RecursionError):
        return False
    return not any("flame_param_path" in frame for frame in frames)


def _listed(folder: Path) -> list[dict[str, Any]]:
    """What is said of each picture, what is said of all included. Raises InputError."""
    content = read_json(folder / TRANSFORMS)
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(values, dict) for values in frames):
        raise InputError(f"{folder / TRANSFORMS} must list pictures as `frames`, and it does not: write it again")
    shared = {key: value for key, value in content.items() if key != "frames"}
    return [{**shared, **values} for values in frames]


def read_capture(folder: Path) -> Capture:
    """The pictures and cameras that a folder lists. Raises InputError where they cannot be tracked together."""
    frames = _listed(folder)
    timed = any("timestep_index" in values for values in frames)
    images: dict[tuple[int, int], Path] = {}
    masks: dict[tuple[int, int], Path] = {}
    cameras: dict[int, Camera] = {}
    names: dict[int, str] = {}
    for number, values in enumerate(frames):
        where = f"frame {number} of {folder / TRANSFORMS}"
        index = _index(values, number, timed, where)
        if index in images:
            raise InputError(f"{where} must be the only one of its timestep and camera, and it is not: remove one")
        images[index] = _picture(folder, values.get("file_path"), f"file_path in {where}")
        if values.get("fg_mask_path"):
            masks[index] = _picture(folder, values["fg_mask_path"], f"fg_mask_path in {where}")
            if read_size(masks[index]) != read_size(images[index]):
                raise InputError(f"masks must have their picture's size, and {masks[index]} has not: scale it")
        camera = _camera(values, images[index], where)
        first = cameras.setdefault(index[1], camera)
        if not _same(first, camera):
            raise InputError(
                f"cameras of a capture must stand still, and camera {index[1]} of {folder} moves at {where}: give each "
                "place a camera_index of its own, or leave timestep_index out where the person keeps still"
            )
        names.setdefault(index[1], str(values.get("camera_id", f"{index[1]:02d}")))
    sizes = sorted({(camera.width, camera.height) for camera in cameras.values()})
    if len(sizes) > 1:
        found = " and ".join(f"{width}x{height}" for width, height in sizes[:2])
        raise InputError(f"pictures of a capture must have one size, and {folder} has {found}: scale or cut them alike")
    times = {t: n for n, t in enumerate(sorted({t for t, _ in images}))}
    places = {c: n for n, c in enumerate(sorted(cameras))}
    return Capture(
        folder,
        [cameras[c] for c in places],
        {(times[t], places[c]): path for (t, c), path in sorted(images.items())},
        {(times[t], places[c]): path for (t, c), path in sorted(masks.items())},
        list(times),
        [names[c] for c in places],
    )


def _index(values: dict[str, Any], number: int, timed: bool, where: str) -> tuple[int, int]:
    if not timed:
        return 0, number
    found = values.get("timestep_index"), values.get("camera_index")
    if not all(isinstance(one, int) and 0 <= one < 10**9 for one in found):
        raise InputError(
            f"{where} must give timestep_index and camera_index as whole numbers, as others do, and it does not: "
            "add them"
        )
    return int(found[0]), int(found[1])  # type: ignore[arg-type]


def _picture(folder: Path, name: Any, where: str) -> Path:
    try:
        path = inside(folder, name, where)
        # NeRF's synthetic scenes leave the ending out.
        found = next((p for p in (path, *(path.with_name(path.name + end) for end in _PICTURES)) if p.is_file()), None)
    except (OSError, ValueError) as error:
        raise InputError(f"{where} must name a picture, and {name!r} cannot be a file: correct it") from error
    if found is None:
        raise InputError(f"{where} must name a picture, and {path} is missing: copy it there")
    return found


def _camera(values: dict[str, Any], image: Path, where: str) -> Camera:
    for name in _DISTORTION:
        if not _is_zero(values.get(name)):
            raise InputError(
                f"pictures of a capture must be free of lens distortion, and {where} gives {name}={values[name]}: "
                "undistort them first (colmap image_undistorter, cv2.undistort)"
            )
    width, height = read_size(image)
    camera = camera_from_json({**values, "w": values.get("w", width), "h": values.get("h", height)}, where)
    if (camera.width, camera.height) != (width, height):
        raise InputError(
            f"pictures must have the size that their camera says, upright and at most {MAX_SIDE} pixels a side, and "
            f"{image} is read as {width}x{height}, not {camera.width}x{camera.height}: scale the one or the other"
        )
    return camera


def _is_zero(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and abs(value) <= 1e-6)


def _same(one: Camera, other: Camera) -> bool:
    away, place = (one.viewmat - other.viewmat).abs(), one.viewmat[:3, 3].abs().max()
    return bool(
        away[:3, :3].max() < 1e-4
        # In whatever unit.
        and away[:3, 3].max() <= 1e-4 * place + 1e-9
        and (one.K - other.K).abs().max() < 1e-2
        and (one.width, one.height) == (other.width, other.height)
    )


def capture_to_clips(
    source: Path,
    out: Path,
    config: TrackConfig,
    head: HeadModel,
    *,
    head_spec: str = "builtin",
    preset: str = "preview",
    report: Callable[[str, float], None] = lambda stage, done: None,
    note: Callable[[str], None] = lambda sentence: None,
) -> dict[str, float]:
    """Tracks a capture and writes it with its pictures as a clip set to `out`, from which avatars are made.

    Faces and mattes that are found are kept in `out`/.work, so that a run that was killed goes on where it was. Returns
    figures for run.json. Raises InputError, ClipSetError, FaceError, StorageError.
    """
    capture = read_capture(source)
    digest = _fingerprint(capture, config, head)
    if is_finished(out, digest):
        note(f"{out} was finished before")
        return dict(read_json(out / META).get("figures", {}))
    work = make_folder(out / WORK / digest)
    sights = dict(_sights(capture, config, work, report))
    report("fit", 0.0)
    track = fit_capture(sights, capture.num_times, capture.cameras, head, config)
    report("fit", 1.0)
    masks = _masks(capture, sights, work, report)
    params = _with_offsets(capture, track, masks, head, config)
    _tell(track, note)
    cells = [(t, c) for t in range(capture.num_times) for c in range(len(capture.cameras))]
    tracking = Tracking(
        params=params, cameras=track.cameras, source="geodiff", camera_ids=capture.camera_ids,
        timesteps=np.array(capture.timesteps), images=[capture.images.get(cell) for cell in cells],
        masks=[masks.get(cell) for cell in cells], head=head.name, head_hash=head.hash,
    )  # fmt: skip
    figures = {
        "frames": float(len(capture.images)),
        "timesteps": float(capture.num_times),
        "landmark_error": float(np.nanmean(track.errors)),
        "lost_timesteps": float((~track.found).sum()),
        "unit_metres": float(np.exp(track.state.log_scale)),
    }
    about = {
        "head": head_entry(head), "head_spec": absolute_spec(head_spec), "fingerprint": digest, "preset": preset,
        "figures": figures,
    }  # fmt: skip
    with result_folder(out) as folder:
        write_pictures(folder, tracking, head, about)
        write_image(folder / "overlay.png", _overlay(capture, track, params, head))
    return figures


def _tell(track: CaptureTrack, note: Callable[[str], None]) -> None:
    lost, unit = int((~track.found).sum()), float(np.exp(track.state.log_scale))
    if lost:
        note(f"no camera sees the face at {lost} of {len(track.found)} times; they are bridged")
    if not (np.isfinite(track.errors).sum(1) > 1).any():
        note("no time is seen by two cameras, so nothing tells their unit: it is taken as metres")
    elif not 0.9 < unit < 1.1:
        note(f"the cameras' unit is {unit:.4g} m, by the size of the head; cameras are written in metres")


def _sights(
    capture: Capture, config: TrackConfig, work: Path, report: Callable[[str, float], None]
) -> Iterator[tuple[Cell, Sight]]:
    """The faces in all pictures; what was looked at is kept every few pictures, and at the end of each time."""
    done = 0
    for t in range(capture.num_times):
        path = work / f"faces_{t:05d}.npz"
        looked, sights = _kept_sights(path)
        own = sorted((c, picture) for (time, c), picture in capture.images.items() if time == t)
        for c, picture in own:
            done += 1
            if c in looked:
                continue
            sight = look_at(read_image(picture, min_side=1), config)
            looked.add(c)
            if sight is not None:
                sights[c] = sight
            if len(looked) % KEPT_EVERY == 0 or len(looked) == len(own):
                _keep_sights(path, looked, sights)
            report("faces", done / len(capture.images))
        yield from (((t, c), sight) for c, sight in sorted(sights.items()))


def _keep_sights(path: Path, looked: set[int], sights: dict[int, Sight]) -> None:
    arrays: dict[str, np.ndarray] = {"looked": np.array(sorted(looked), np.int64)}
    for c, sight in sights.items():
        arrays[f"points_{c}"], arrays[f"told_{c}"] = sight.look.points, sight.look.told
        for part, crop in sight.crops.items():
            arrays[f"gray_{c}_{part}"] = crop.gray
            arrays[f"place_{c}_{part}"] = np.array([crop.zoom, *crop.corner])
    write_npz(path, **arrays)


def _kept_sights(path: Path) -> tuple[set[int], dict[int, Sight]]:
    """Which cameras' pictures of a time an earlier run looked at, and what it saw; nothing where that is damaged."""
    try:
        arrays = read_npz(path) if path.exists() else {}
        looked, found = set(arrays["looked"].tolist()), {}
        for c in [c for c in looked if f"points_{c}" in arrays]:
            crops = {}
            for name in arrays:
                if name.startswith(f"gray_{c}_"):
                    zoom, *corner = arrays[name.replace("gray", "place")].tolist()
                    crops[name.removeprefix(f"gray_{c}_")] = Crop(arrays[name], zoom, np.array(corner))
            found[c] = Sight(Look.of(arrays[f"points_{c}"], arrays[f"told_{c}"]), crops)
        return looked, found
    except (InputError, KeyError, ValueError):
        return set(), {}


def _masks(
    capture: Capture, sights: dict[Cell, Sight], work: Path, report: Callable[[str, float], None]
) -> dict[Cell, Path]:
    """Files of all mattes: the capture's own, or found here."""
    if capture.masks.keys() == capture.images.keys():
        return capture.masks
    masks = {}
    for number, (cell, path) in enumerate(capture.images.items()):
        masks[cell] = capture.masks.get(cell, work / f"matte_{cell[0]:05d}_{cell[1]:02d}.png")
        if not masks[cell].is_file():
            face = face_at(sights[cell].look.points) if cell in sights else None
            matte = portrait_matte(read_image(path, min_side=1), face)
            write_image(masks[cell], (matte * 255 + 0.5).astype(np.uint8))
        report("mattes", (number + 1) / len(capture.images))
    return masks


def _with_offsets(
    capture: Capture, track: CaptureTrack, masks: dict[Cell, Path], head: HeadModel, config: TrackConfig
) -> HeadParams:
    """The heads with hair and shoulders as the camera shows them that sees the face best."""
    if not config.fit_hair:
        return track.params
    t, c = min(
        (cell for cell in capture.images if np.isfinite(track.errors[cell])), key=lambda cell: track.angles[cell]
    )
    matte = read_gray(masks[t, c]).astype(np.float32) / 255
    image = read_image(capture.images[t, c], min_side=1)
    own = fit_offsets(matte, track.params.frame(t), track.cameras[c], head, image, config.hair, config.bust)
    return track.params.replace(static_offset=own.static_offset)


def _overlay(capture: Capture, track: CaptureTrack, params: HeadParams, head: HeadModel) -> np.ndarray:
    """The mesh over a few cameras' pictures of the time that most of them see."""
    counts = np.bincount([t for t, _ in capture.images], minlength=capture.num_times)
    t = int(np.argmax(counts * track.found))
    own = [c for time, c in capture.images if time == t]
    chosen = [own[n] for n in np.unique(np.linspace(0, len(own) - 1, TILES).astype(int))]
    pictures = [(read_image(capture.images[t, c], min_side=1), track.cameras[c]) for c in chosen]
    return tiled([draw_mesh(image, params.frame(t), camera, head) for image, camera in pictures])


def _fingerprint(capture: Capture, config: TrackConfig, head: HeadModel) -> str:
    """Of what decides the result: lists, settings, the head, and which pictures there are and how large."""
    digest = hashlib.sha256(f"{SCHEMA} {head.hash} {to_yaml(config)}".encode())
    digest.update((capture.folder / TRANSFORMS).read_bytes())
    for path in (*capture.images.values(), *capture.masks.values()):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
    return digest.hexdigest()[:16]
