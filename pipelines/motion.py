"""What drives a generation: head parameters on the portrait's identity, and face crops for the expression encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from geodiff.conditioning import face_camera, resample
from geodiff.config import choose
from geodiff.driver import CROP_SIZE, Driver
from geodiff.errors import InputError
from geodiff.head.model import HeadModel
from geodiff.media import read_video
from geodiff.motion import condensed_motion, in_place, load_motion, spread, spread_indices, thinned_fps
from geodiff.tracking.landmarks import Face, detect_faces
from geodiff.tracking.matte import on_white, portrait_matte
from geodiff.tracking.track import VideoTrack, track_video
from geodiff.types import HeadParams, Motion

BUILTIN_PREFIX = "builtin:"
HEAD_POSES = ("fixed", "drive")
DRIVE_CROPS = ("photo", "render")


@dataclass(frozen=True)
class DriveSequence:
    """A driving sequence of T frames.

    params: on the portrait's identity, posed in the head's own space. crops: (T, 64, 64, 3) float32 in 0..1, what the
    expression encoder sees. fps: frames a second. name: for the record.
    """

    params: HeadParams
    crops: np.ndarray
    fps: float
    name: str


def resolve_drive(
    spec: str, frames: int, head: HeadModel, base: HeadParams, head_pose: str = "fixed", drive_crop: str = "photo"
) -> DriveSequence:
    """Turns what the user named into a driving sequence.

    spec: "builtin:NAME", a motion file (.npz) or a video. frames: how many frames are wanted; they are spread evenly
    over the motion. base: the portrait's parameters (T = 1), whose identity is kept. head_pose: "fixed" keeps the head
    still (the paper's clips, supplement A.1), "drive" takes the motion's head rotation. drive_crop: "photo" gives the
    encoder the video's own pixels on white, "render" the driver head under the tracked parameters.

    Raises ConfigError for unknown words, InputError for files that cannot be used.
    """
    choose("head_pose", head_pose, HEAD_POSES)
    choose("drive_crop", drive_crop, DRIVE_CROPS)
    if spec.startswith(BUILTIN_PREFIX):
        motion = condensed_motion(spec.removeprefix(BUILTIN_PREFIX), frames)
        return _from_motion(motion, spec, head, base, head_pose)
    path = Path(spec)
    if not path.exists():
        raise InputError(
            f"--drive takes {BUILTIN_PREFIX}NAME, a motion file or a video; {spec} does not exist. "
            f"Try --drive {BUILTIN_PREFIX}talk."
        )
    if path.suffix == ".npz":
        return _from_motion(spread(load_motion(path), frames), path.name, head, base, head_pose)
    return _from_video(path, frames, head, base, head_pose, drive_crop)


def _from_motion(motion: Motion, name: str, head: HeadModel, base: HeadParams, head_pose: str) -> DriveSequence:
    params = _posed(head.motion_params(motion, base), head_pose)
    return DriveSequence(params, Driver(head).crops(params), motion.fps, name)


def _from_video(
    path: Path, frames: int, head: HeadModel, base: HeadParams, head_pose: str, drive_crop: str
) -> DriveSequence:
    track = track_video(path, head)
    length = track.params.num_frames
    chosen = np.unique(spread_indices(length, frames))
    driving = in_place(track.params.frames(torch.as_tensor(chosen)))
    params = base.replace(
        expr=driving.expr,
        jaw_pose=driving.jaw_pose,
        eyes_pose=driving.eyes_pose,
        neck_pose=driving.neck_pose,
        rotation=driving.rotation,
        translation=driving.translation,
    )
    params = _posed(params, head_pose)
    if drive_crop == "render":
        crops = Driver(head).crops(params)
    else:
        crops = np.stack(list(_video_crops(path, track, chosen, head)))
    return DriveSequence(params, crops, thinned_fps(track.fps, len(chosen), length), path.name)


def _video_crops(path: Path, track: VideoTrack, chosen: np.ndarray, head: HeadModel) -> Iterator[np.ndarray]:
    """Crops (64, 64, 3) float32 of the chosen frames, the person alone on white as in the training set."""
    wanted = set(chosen.tolist())
    for t, image in enumerate(read_video(path)):
        if t in wanted:
            crop = face_camera(head, track.params.frame(t), track.camera, CROP_SIZE)
            face = track.face(t) if len(track.landmarks) else _face_in(image, track.boxes[t])
            alone = on_white(image, portrait_matte(image, face))
            yield resample(alone, track.camera, crop, border=255.0).astype(np.float32) / 255.0


def _face_in(image: np.ndarray, box: np.ndarray) -> Face | None:
    """The face nearest to the tracked one; None where a single frame shows none."""
    middle = (box[:2] + box[2:]) / 2
    faces = detect_faces(image)
    return min(faces, key=lambda f: float(np.linalg.norm((f.box[:2] + f.box[2:]) / 2 - middle)), default=None)


def _posed(params: HeadParams, head_pose: str) -> HeadParams:
    """Brings the head to the origin; a fixed head does not turn either."""
    params = params.replace(translation=torch.zeros_like(params.translation))
    if head_pose == "fixed":
        still = torch.zeros_like(params.rotation)
        params = params.replace(rotation=still, neck_pose=still)
    return params
