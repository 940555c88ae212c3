"""A tracked photograph or video as a clip set: head parameters and camera in VHAP's layout, to reconstruct from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from geodiff.clipset import ClipSetSpec, ClipSetWriter
from geodiff.config import to_yaml
from geodiff.head.model import HeadModel
from geodiff.media import VIDEO_SUFFIXES, read_image, read_video, write_image
from geodiff.tracking.matte import on_white, portrait_matte
from geodiff.tracking.overlay import draw_overlay
from geodiff.tracking.track import TrackConfig, track_image, track_video
from geodiff.types import Camera, Clip, HeadParams

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

    face: which face of an image, 0 is the largest. Returns figures: the number of frames, the mean landmark error as a
    share of the distance between the outer eye corners. Raises FaceError, InputError, ClipSetError, StorageError.
    """
    report("track", 0.0)
    if source.suffix.lower() in VIDEO_SUFFIXES:
        images, params, camera, fps, error = _video(source, head, config, note)
    else:
        image = read_image(source, note=note)
        track = track_image(image, head, face, config)
        if track.num_faces > 1 and face is None:
            note(f"{track.num_faces} faces are in {source.name}; the largest is taken, --face N chooses another")
        images, params, camera, fps, error = image[None], track.params, track.camera, 25.0, track.error
        overlay = draw_overlay(image, track, head)
    report("track", 1.0)
    digest = hashlib.sha256(np.ascontiguousarray(images).tobytes() + f"{face or 0}{to_yaml(config)}".encode())
    spec = ClipSetSpec(
        num_cameras=1,
        num_frames=len(images),
        fingerprint=digest.hexdigest()[:16],
        preset=preset,
        fps=fps,
        domains=("image",),
        head_spec=head_spec,
    )
    writer = ClipSetWriter(out, spec, head)
    if writer.missing_views():
        masks = _mattes(images, report)
        writer.write_view(Clip(_on_white(images, masks), masks, camera, params, 0, spec.timesteps(0)))
    if len(images) == 1:
        write_image(out / "overlay.png", overlay)
    writer.finish()
    return {"frames": float(len(images)), "landmark_error": float(error)}


def _video(
    source: Path, head: HeadModel, config: TrackConfig, note: Note
) -> tuple[np.ndarray, HeadParams, Camera, float, float]:
    video = read_video(source)
    track = track_video(source, head, config)
    if lost := int((~track.found).sum()):
        note(f"the face was lost in {lost} of {len(track.found)} frames of {source.name}; they are bridged")
    images = video.read(limit=track.params.num_frames)
    return images, track.params, track.camera, track.fps, float(np.nanmean(track.errors))


def _mattes(images: np.ndarray, report: Report) -> np.ndarray:
    """(T, H, W) uint8."""
    masks = []
    for t, image in enumerate(images):
        masks.append((portrait_matte(image, None) * 255.0 + 0.5).astype(np.uint8))
        report("matte", (t + 1) / len(images))
    return np.stack(masks)


def _on_white(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    return np.stack([on_white(image, mask / 255.0) for image, mask in zip(images, masks, strict=True)])
