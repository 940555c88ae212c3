"""A tracked photograph or video as a clip set: head parameters and camera in VHAP's layout, to reconstruct from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from geodiff.clipset import ClipSetSpec, ClipSetWriter
from geodiff.clipset.layout import META
from geodiff.config import to_yaml
from geodiff.errors import InputError
from geodiff.files import read_json
from geodiff.head.model import HeadModel
from geodiff.media import VIDEO_SUFFIXES, VideoFrames, read_image, read_video, write_image
from geodiff.sheets import TILES, tiled
from geodiff.tracking.matte import on_white, portrait_matte
from geodiff.tracking.overlay import draw_mesh, draw_overlay
from geodiff.tracking.track import TrackConfig, VideoTrack, track_image, track_video

Report = Callable[[str, float], None]
Note = Callable[[str], None]


def track_to_clips(
    source: Path,
    out: Path,
    config: TrackConfig,
    head: HeadModel,
    *,
    head_spec: str = "builtin",
    face: int | None = None,
    preset: str = "preview",
    report: Report = lambda stage, done: None,
    note: Note = lambda sentence: None,
) -> dict[str, float]:
    """Tracks an image or a video and writes a clip set of one camera to `out`.

    A video is read frame by frame, twice: for its landmarks, which are kept in `out`/landmarks, and for the frames that
    are written. A run that was killed goes on in either where it was.

    face: which face of an image, 0 is the largest. Returns figures: the number of frames, the mean landmark error as a
    share of the distance between the outer eye corners; of videos also lost frames and shots. Raises FaceError,
    InputError, ClipSetError, StorageError.
    """
    digest = hashlib.sha256(f"{_digest(source)} {face or 0} {to_yaml(config)}".encode()).hexdigest()[:16]
    spec = ClipSetSpec(
        num_cameras=1,
        num_frames=1,
        fingerprint=digest,
        preset=preset,
        domains=("image",),
        head_spec=head_spec,
    )
    _check_folder(out, spec, head)
    if source.suffix.lower() in VIDEO_SUFFIXES:
        return _track_video(source, out, config, head, spec, report, note)
    return _track_image(source, out, config, head, spec, face, report, note)


def _track_image(
    source: Path,
    out: Path,
    config: TrackConfig,
    head: HeadModel,
    spec: ClipSetSpec,
    face: int | None,
    report: Report,
    note: Note,
) -> dict[str, float]:
    report("track", 0.0)
    image = read_image(source, note=note)
    track = track_image(image, head, face, config)
    if track.num_faces > 1 and face is None:
        note(f"{track.num_faces} faces are in {source.name}; the largest is taken, --face N chooses another")
    report("track", 1.0)
    writer = ClipSetWriter(out, spec, head)
    if writer.missing_views():
        writer.write_frame(0, 0, *_on_white(image, track.matte), track.params)
        writer.finish_view(0, track.camera, track.params)
    write_image(out / "overlay.png", draw_overlay(image, track, head))
    writer.finish()
    return {"frames": 1.0, "landmark_error": float(track.error)}


def _track_video(
    source: Path, out: Path, config: TrackConfig, head: HeadModel, spec: ClipSetSpec, report: Report, note: Note
) -> dict[str, float]:
    video = read_video(source)
    track = track_video(
        video, head, config, video.fps, cache=out / "landmarks", key=_digest(source), report=report, note=note
    )
    writer = ClipSetWriter(out, replace(spec, num_frames=track.params.num_frames, fps=track.fps), head)
    if writer.missing_views():
        _write_frames(writer, video, track, head, report)
        writer.finish_view(0, track.camera, track.params)
    writer.finish()
    return {
        "frames": float(track.params.num_frames),
        "landmark_error": float(np.nanmean(track.errors)),
        "lost_frames": float((~track.found).sum()),
        "shots": float(track.shot[-1] + 1),
    }


def _write_frames(
    writer: ClipSetWriter, video: VideoFrames, track: VideoTrack, head: HeadModel, report: Report
) -> None:
    """Writes the frames that are not yet there, and a few with the mesh drawn over them."""
    seen = np.flatnonzero(track.found)
    shown = set(seen[np.linspace(0, len(seen) - 1, TILES).astype(int)].tolist())
    overlays = []
    for t, image in zip(range(track.params.num_frames), video, strict=False):
        if t in shown:
            overlays.append(draw_mesh(image, track.params.frame(t), track.camera, head))
        if not writer.has_frame(t, 0):
            matte = portrait_matte(image, track.face(t))
            writer.write_frame(t, 0, *_on_white(image, matte), track.params.frame(t))
        report("frames", (t + 1) / track.params.num_frames)
    write_image(writer.folder / "overlay.png", tiled(overlays))


def _check_folder(out: Path, spec: ClipSetSpec, head: HeadModel) -> None:
    """Refuses a folder that belongs to another run before any work is done. Raises ClipSetError, HeadModelError."""
    if not (out / META).exists():
        return
    try:
        found = read_json(out / META)
    except InputError:
        found = {}
    frames = found.get("num_frames", 1) if isinstance(found, dict) else 1
    ClipSetWriter(out, replace(spec, num_frames=frames if isinstance(frames, int) else 1), head)


def _on_white(image: np.ndarray, matte: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The person alone, and the mask: (H, W, 3) and (H, W) uint8."""
    return on_white(image, matte), (matte * 255.0 + 0.5).astype(np.uint8)


def _digest(source: Path) -> str:
    """Of a file's content."""
    digest = hashlib.sha256()
    with source.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
