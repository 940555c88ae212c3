"""Pictures of one person by several calibrated cameras: read, tracked, and written as a clip set.

A capture is a folder with a `transforms.json` as NeRF's tools and VHAP write it: for each picture its file, camera-to-
world matrix and intrinsics, `timestep_index` and `camera_index`, and perhaps a mask; but no head parameters. Those are
found here. Pictures without timesteps are all of one moment.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from geodiff.clipset.layout import META, TRANSFORMS, camera_from_json, inside
from geodiff.config import to_yaml
from geodiff.converted import WORK, head_entry, is_finished, move_in, write_pictures
from geodiff.errors import InputError
from geodiff.files import make_folder, read_json, read_npz, write_npz
from geodiff.head.identity import absolute_spec
from geodiff.head.model import HeadModel
from geodiff.media import image_size, read_gray, read_image, write_image
from geodiff.sheets import contact_sheet
from geodiff.tracking.capture import CaptureTrack, Cell, Sight, fit_capture, look_at
from geodiff.tracking.dense import Crop
from geodiff.tracking.importers import Tracking
from geodiff.tracking.landmarks import detect_faces
from geodiff.tracking.matte import portrait_matte
from geodiff.tracking.offsets import fit_offsets
from geodiff.tracking.overlay import draw_mesh
from geodiff.tracking.refine import Look
from geodiff.tracking.settings import TrackConfig
from geodiff.types import Camera, HeadParams

#: Raised whenever faces come out differently, so that those of an older run are not taken.
SCHEMA = 1
#: Cameras that `overlay.png` shows, and the longest side of each picture in pixels.
OVERLAY_CAMERAS, OVERLAY_PIXELS = 8, 512
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
        frames = read_json(path / TRANSFORMS)["frames"]
        return bool(frames) and not any("flame_param_path" in frame for frame in frames)
    except (InputError, KeyError, TypeError):
        return False


def read_capture(folder: Path) -> Capture:
    """The pictures and cameras that a folder lists. Raises InputError where they cannot be tracked together."""
    content = read_json(folder / TRANSFORMS)
    shared = {key: value for key, value in content.items() if key != "frames"}
    frames = [{**shared, **values} for values in content["frames"]]
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
    try:
        return int(values["timestep_index"]), int(values["camera_index"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{where} must give timestep_index and camera_index, as others do, and it does not: add them"
        ) from error


def _picture(folder: Path, name: Any, where: str) -> Path:
    path = inside(folder, name, where)
    # NeRF's synthetic scenes leave the ending out.
    found = next((p for p in (path, *(path.with_name(path.name + end) for end in _PICTURES)) if p.is_file()), None)
    if found is None:
        raise InputError(f"{where} must name a picture, and {path} is missing: copy it there")
    return found


def _camera(values: dict[str, Any], image: Path, where: str) -> Camera:
    bent = [name for name in _DISTORTION if abs(float(values.get(name) or 0.0)) > 1e-6]
    if bent:
        raise InputError(
            f"pictures of a capture must be free of lens distortion, and {where} gives {bent[0]}={values[bent[0]]}: "
            "undistort them first (colmap image_undistorter, cv2.undistort)"
        )
    width, height = image_size(image)
    camera = camera_from_json({**values, "w": values.get("w", width), "h": values.get("h", height)}, where)
    if (camera.width, camera.height) != (width, height):
        raise InputError(
            f"pictures must have the size that their camera says, and {image} has {width}x{height}, not "
            f"{camera.width}x{camera.height}: scale the one or the other"
        )
    return camera


def _same(one: Camera, other: Camera) -> bool:
    return bool(
        (one.viewmat - other.viewmat).abs().max() < 1e-4
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
        return {"frames": float(len(capture.images))}
    work = make_folder(out / WORK / digest)
    sights = dict(_sights(capture, config, work, report))
    report("fit", 0.0)
    track = fit_capture(sights, capture.num_times, capture.cameras, head, config)
    report("fit", 1.0)
    masks = _masks(capture, work, report)
    params = _with_offsets(capture, track, masks, head, config)
    _tell(track, note)
    staged = make_folder(out / WORK / "result")
    shutil.rmtree(staged)
    cells = [(t, c) for t in range(capture.num_times) for c in range(len(capture.cameras))]
    tracking = Tracking(
        params=params, cameras=track.cameras, source="geodiff", camera_ids=capture.camera_ids,
        timesteps=np.array(capture.timesteps), images=[capture.images.get(cell) for cell in cells],
        masks=[masks.get(cell) for cell in cells], head=head.name, head_hash=head.hash,
    )  # fmt: skip
    about = {
        "head": head_entry(head), "head_spec": absolute_spec(head_spec), "fingerprint": digest, "preset": preset,
    }  # fmt: skip
    write_pictures(staged, tracking, head, about)
    write_image(staged / "overlay.png", _overlay(capture, track, params, head))
    move_in(staged, out)
    return {
        "frames": float(len(capture.images)),
        "timesteps": float(capture.num_times),
        "landmark_error": float(np.nanmean(track.errors)),
        "lost_timesteps": float((~track.found).sum()),
        "unit_metres": float(np.exp(track.state.log_scale)),
    }


def _tell(track: CaptureTrack, note: Callable[[str], None]) -> None:
    lost, unit = int((~track.found).sum()), float(np.exp(track.state.log_scale))
    if lost:
        note(f"no camera sees the face at {lost} of {len(track.found)} times; they are bridged")
    if not 0.7 < unit < 1.4:
        note(f"the cameras' unit is {unit:.4g} m, by the size of the head; cameras are written in metres")


def _sights(
    capture: Capture, config: TrackConfig, work: Path, report: Callable[[str, float], None]
) -> Iterator[tuple[Cell, Sight]]:
    """The faces in all pictures; those of a time are kept once all of its pictures were looked at."""
    done = 0
    for t in range(capture.num_times):
        own = {cell: path for cell, path in capture.images.items() if cell[0] == t}
        path = work / f"faces_{t:05d}.npz"
        kept = _kept_sights(path)
        if kept is None:
            kept = {}
            for (_, c), picture in own.items():
                sight = look_at(read_image(picture, min_side=1), config)
                if sight is not None:
                    kept[c] = sight
                report("faces", (done + len(kept)) / len(capture.images))
            _keep_sights(path, kept)
        done += len(own)
        report("faces", done / len(capture.images))
        yield from (((t, c), sight) for c, sight in sorted(kept.items()))


def _keep_sights(path: Path, sights: dict[int, Sight]) -> None:
    arrays: dict[str, np.ndarray] = {"cameras": np.array(sorted(sights), np.int64)}
    for c, sight in sights.items():
        arrays[f"points_{c}"], arrays[f"told_{c}"] = sight.look.points, sight.look.told
        for part, crop in sight.crops.items():
            arrays[f"gray_{c}_{part}"] = crop.gray
            arrays[f"place_{c}_{part}"] = np.array([crop.zoom, *crop.corner])
    write_npz(path, **arrays)


def _kept_sights(path: Path) -> dict[int, Sight] | None:
    """What an earlier run kept, None where that is nothing or damaged."""
    try:
        arrays = read_npz(path) if path.exists() else {}
        found = {}
        for c in arrays["cameras"].tolist():
            crops = {}
            for name in arrays:
                if name.startswith(f"gray_{c}_"):
                    zoom, *corner = arrays[name.replace("gray", "place")].tolist()
                    crops[name.removeprefix(f"gray_{c}_")] = Crop(arrays[name], zoom, np.array(corner))
            found[c] = Sight(Look.of(arrays[f"points_{c}"], arrays[f"told_{c}"]), crops)
        return found
    except (InputError, KeyError, ValueError):
        return None


def _masks(capture: Capture, work: Path, report: Callable[[str, float], None]) -> dict[Cell, Path]:
    """Files of all mattes: the capture's own, or found here."""
    if capture.masks.keys() == capture.images.keys():
        return capture.masks
    masks = {}
    for number, (cell, path) in enumerate(capture.images.items()):
        masks[cell] = capture.masks.get(cell, work / f"matte_{cell[0]:05d}_{cell[1]:02d}.png")
        if not masks[cell].is_file():
            image = read_image(path, min_side=1)
            faces = detect_faces(image)
            matte = portrait_matte(image, faces[0] if faces else None)
            write_image(masks[cell], (matte * 255 + 0.5).astype(np.uint8))
        report("mattes", (number + 1) / len(capture.images))
    return masks


def _with_offsets(
    capture: Capture, track: CaptureTrack, masks: dict[Cell, Path], head: HeadModel, config: TrackConfig
) -> HeadParams:
    """The heads with hair and shoulders as the camera shows them that sees the face best."""
    if not config.fit_hair:
        return track.params
    t, c = min(capture.images, key=lambda cell: track.angles[cell])
    matte = read_gray(masks[t, c]).astype(np.float32) / 255
    image = read_image(capture.images[t, c], min_side=1)
    own = fit_offsets(matte, track.params.frame(t), track.cameras[c], head, image, config.hair, config.bust)
    return track.params.replace(static_offset=own.static_offset)


def _overlay(capture: Capture, track: CaptureTrack, params: HeadParams, head: HeadModel) -> np.ndarray:
    """The mesh over a few cameras' pictures of the time that most of them see."""
    counts = np.bincount([t for t, _ in capture.images], minlength=capture.num_times)
    t = int(np.argmax(counts * track.found))
    own = [c for time, c in capture.images if time == t]
    shown = []
    for c in [own[n] for n in np.unique(np.linspace(0, len(own) - 1, OVERLAY_CAMERAS).astype(int))]:
        drawn = draw_mesh(read_image(capture.images[t, c], min_side=1), params.frame(t), track.cameras[c], head)
        scale = min(1.0, OVERLAY_PIXELS / max(drawn.shape[:2]))
        shown.append(cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    return contact_sheet([("", shown[first : first + 4]) for first in range(0, len(shown), 4)], OVERLAY_PIXELS)


def _fingerprint(capture: Capture, config: TrackConfig, head: HeadModel) -> str:
    """Of what decides the result: lists, settings, the head, and which pictures there are and how large."""
    digest = hashlib.sha256(f"{SCHEMA} {head.hash} {to_yaml(config)}".encode())
    digest.update((capture.folder / TRANSFORMS).read_bytes())
    for path in (*capture.images.values(), *capture.masks.values()):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
    return digest.hexdigest()[:16]
