"""A tracking result brought into our clip set's layout, on its own head model or on another one.

What is read: our clip sets, VHAP exports, and what `geodiff.imported` knows of other trackers. What is written: a clip
set of the same pictures and cameras; where the result has no pictures, `params.npz`, which drives avatars.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geodiff import __version__
from geodiff.clipset import SCHEMA_VERSION, ClipSet
from geodiff.clipset.layout import CANONICAL, EXPRESSION, META, TRANSFORMS, write_canonical, write_params
from geodiff.config import to_yaml
from geodiff.errors import ClipSetError, InputError
from geodiff.files import atomic_write, make_folder, read_json, storage_errors, write_json, write_npz
from geodiff.head.identity import HASH_KEY, HeadRecord, absolute_spec, hash_array
from geodiff.head.model import HeadModel
from geodiff.imported import read_tracking, write_vhap
from geodiff.tracking.convert import ConvertConfig, Residuals, convert
from geodiff.tracking.importers import Tracking
from geodiff.types import POSE_WIDTHS, HeadParams

#: Folder inside the output that holds unfinished work.
WORK = ".work"
#: Parameters of all frames, where there are no pictures to make a clip set of.
PARAMS = "params.npz"


@dataclass(frozen=True)
class Brought:
    """What became of a tracking result. residuals: None where its head was kept. source: the tool that made it."""

    frames: int
    source: str
    head: str
    residuals: Residuals | None = None
    finished_before: bool = False

    def figures(self) -> dict[str, float]:
        """For run.json."""
        return {"frames": float(self.frames), **({} if self.residuals is None else self.residuals.figures())}


@dataclass(frozen=True)
class _Result:
    """A tracking result with what is known of its head. clips: where it is one of our own clip sets."""

    params: HeadParams
    head: HeadModel | None
    spec: str | None
    source: str
    tracking: Tracking
    clips: ClipSet | None


def bring(
    source: Path,
    out: Path,
    *,
    head: str | None = None,
    to: tuple[HeadModel, str] | None = None,
    config: ConvertConfig | None = None,
    preset: str = "preview",
    report: Callable[[str, float], None] = lambda stage, done: None,
    note: Callable[[str], None] = lambda sentence: None,
) -> Brought:
    """Reads the tracking result `source` and writes it to the folder `out`.

    head: the head that it was tracked with, as `geodiff.head.load_head` takes it, where the files do not say or their
    head has moved. to: the head model to convert its parameters to, and its spec; None keeps them as they are.
    Raises InputError, ClipSetError or HeadModelError where the result cannot be used, is another head's, or does not
    say which head it needs.
    """
    config = config or ConvertConfig()
    report("read", 0.0)
    result = _read(source, head, needed=to is not None, note=note)
    report("read", 1.0)
    kept = to is None or (result.head is not None and result.head.hash == to[0].hash)
    if to is not None and kept:
        note(f"{source} is on the head model {to[0].name!r} already: its parameters stay as they are")
    target, spec = (result.head, result.spec) if to is None else to
    digest = _fingerprint(result.params, target, config)
    if is_finished(out, digest):
        return Brought(result.params.num_frames, result.source, _called(target), None, True)
    params, residuals, origin = result.params, None, None
    if not kept:
        assert result.head is not None and target is not None
        report("convert", 0.0)
        done = convert(params, result.head, target, config)
        params, residuals = done.params, done.residuals
        origin = {**head_entry(result.head), "residuals": residuals.figures()}
        report("convert", 1.0)
    meta = {
        "head": head_entry(target), "head_spec": absolute_spec(spec) if spec else None, "fingerprint": digest,
        "converted_from": origin, "preset": preset,
    }  # fmt: skip
    report("write", 0.0)
    with result_folder(out) as folder:
        _write(folder, result, params, target, {key: value for key, value in meta.items() if value})
    report("write", 1.0)
    return Brought(result.tracking.num_frames, result.source, _called(target), residuals)


def _read(source: Path, head: str | None, needed: bool, note: Callable[[str], None]) -> _Result:
    """The result with the parameters of its own head; needed: the head must be known."""
    tracking = read_tracking(source)
    layout = tracking.source in ("VHAP", "geodiff")
    clips = ClipSet.open(source) if layout else None
    record = clips.head_record if clips is not None else HeadRecord(tracking.head)
    model, spec = None, None
    if head or needed or record.digest is not None or tracking.convention != "flame":
        model, spec = record.find(source, head)
        if not head and record.digest is None:
            note(f"{source} does not say which {record.name} model it needs; taken is {spec}")
        if clips is not None and clips.meta:
            clips.check_head(model)
        if record.digest is None or tracking.head == model.name:
            tracking = tracking.on(model)
    own = clips if clips is not None and clips.meta else None
    for sentence in tracking.notes if own is None else ():
        note(sentence)
    return _Result(_with_reference(tracking.params, own), model, spec, tracking.source, tracking, own)


def _with_reference(params: HeadParams, clips: ClipSet | None) -> HeadParams:
    """The parameters of all timesteps, then those of the portrait, where the clip set keeps it."""
    reference = None if clips is None else clips.reference()
    return params if reference is None else HeadParams.concatenate([params, reference.params])


def _write(staged: Path, result: _Result, params: HeadParams, head: HeadModel | None, meta: dict[str, Any]) -> None:
    """Writes the result with these parameters to a new folder."""
    tracking = dataclasses.replace(result.tracking, params=params.frames(slice(0, result.tracking.num_frames)))
    if result.clips is not None:
        assert head is not None
        copy_clips(result.clips, staged, params, head)
        write_json(staged / META, {**result.clips.meta, **meta})
        return
    if tracking.images is None or all(image is None for image in tracking.images):
        _write_params(staged / PARAMS, tracking.params, head, tracking.fps)
        return
    write_pictures(staged, tracking, head, meta)


def write_pictures(staged: Path, tracking: Tracking, head: HeadModel | None, meta: dict[str, Any]) -> None:
    """A tracking with its pictures as a clip set in a new folder. meta: what clipset.json says more of it."""
    if head is None:
        write_vhap(staged, tracking)
    else:
        write_vhap(staged, dataclasses.replace(tracking, head=head.name), head.num_vertices)
        for t in range(tracking.num_frames):
            path = staged / "flame_param" / f"{int(tracking.timesteps[t]):05d}.npz"
            if path.is_file():
                write_params(path, tracking.params.frame(t), head.num_vertices, head)
        write_canonical(staged / CANONICAL, tracking.params, head.num_vertices, head)
    about = {
        "schema": SCHEMA_VERSION, "generator": f"geodiff {__version__}", "complete": True, "imported": tracking.source,
        "num_cameras": tracking.num_cameras, "num_timesteps": tracking.num_frames, "indexing": "multiview",
        "domains": ["image"],
    }  # fmt: skip
    fps = {} if tracking.fps is None else {"fps": tracking.fps}
    write_json(staged / META, {**about, **fps, **meta})


def copy_clips(clips: ClipSet, target: Path, params: HeadParams, head: HeadModel) -> Path:
    """The files of one of our own clip sets with other parameters: of its timesteps, then of the portrait if it keeps
    one. clipset.json is left to the caller."""
    pictures = [clips.image_file(t, c) for t, c in clips.frames]
    pictures += [path for t, c in clips.frames for path in (clips.mask_file(t, c), clips.normal_file(t, c)) if path]
    others = [path for pattern in ("transforms*.json", EXPRESSION, "videos/*", "reference/*.png", "reference/*.json")
              for path in sorted(clips.folder.glob(pattern))]  # fmt: skip
    for path in [*pictures, *others]:
        _copy(path, target / path.relative_to(clips.folder))
    for t in range(clips.num_timesteps):
        write_params(target / clips.params_file(t).relative_to(clips.folder), params.frame(t), head.num_vertices, head)
    write_canonical(target / CANONICAL, params, head.num_vertices, head)
    if params.num_frames > clips.num_timesteps:
        portrait = params.frame(clips.num_timesteps)
        write_params(target / "reference" / "params.npz", portrait, head.num_vertices, head)
    return target


def _copy(source: Path, target: Path) -> None:
    def write(temporary: Path) -> None:
        shutil.copyfile(source, temporary)

    atomic_write(target, write)


def _write_params(path: Path, params: HeadParams, head: HeadModel | None, fps: float | None) -> None:
    """All frames in one file under FLAME's names, which `geodiff animate --drive` takes."""
    arrays = {name: getattr(params, name).float().numpy() for name in ("shape", "expr", *POSE_WIDTHS)}
    if params.static_offset is not None:
        arrays["static_offset"] = params.static_offset.float().numpy()[None]
    if head is not None:
        arrays[HASH_KEY] = hash_array(head)
    if fps is not None:
        arrays["fps"] = np.array([fps], np.float32)
    write_npz(path, **arrays)


@contextmanager
def result_folder(out: Path) -> Iterator[Path]:
    """A folder for a result, which is moved to `out` once it is whole."""
    folder = make_folder(out / WORK / "result")
    shutil.rmtree(folder)
    yield folder
    _move(folder, out)


def _move(staged: Path, out: Path) -> None:
    """Moves a finished result into place, the lists of frames last: until then the folder is no clip set."""
    last = {TRANSFORMS: 1, META: 2}
    with storage_errors(out):
        for path in sorted(staged.iterdir(), key=lambda p: (last.get(p.name, 0), p.name)):
            place = out / path.name
            if place.is_dir():
                shutil.rmtree(place)
            path.replace(place)
        shutil.rmtree(out / WORK)


def is_finished(out: Path, digest: str) -> bool:
    """Whether the folder holds this very result. Raises ClipSetError where it holds anything else of the kind."""
    taken = [name for name in (META, TRANSFORMS) if (out / name).exists()]
    if not taken:
        return False
    try:
        if read_json(out / META).get("fingerprint") == digest:
            return True
    except (InputError, AttributeError):
        pass
    raise ClipSetError(f"the output folder must be new, and {out} holds {taken[0]} of something else: choose another")


def _fingerprint(params: HeadParams, head: HeadModel | None, config: ConvertConfig) -> str:
    """Digest of what decides the result's parameters."""
    digest = hashlib.sha256(f"{head.hash if head is not None else ''}{to_yaml(config)}".encode())
    for name in ("shape", "expr", *POSE_WIDTHS, "static_offset"):
        value: torch.Tensor | None = getattr(params, name)
        digest.update(b"" if value is None else value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def head_entry(head: HeadModel | None) -> dict[str, Any]:
    """What clipset.json says of its head."""
    if head is None:
        return {}
    return {
        "name": head.name, "hash": head.hash, "num_shape": head.num_shape, "num_expr": head.num_expr,
        "num_vertices": head.num_vertices,
    }  # fmt: skip


def _called(head: HeadModel | None) -> str:
    return "unknown" if head is None else head.name
