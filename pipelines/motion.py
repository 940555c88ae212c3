"""What drives a generation: head parameters on the portrait's identity, and face crops for the expression encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from geodiff.conditioning import face_camera, resample
from geodiff.driver import CROP_SIZE, Driver
from geodiff.errors import ConfigError, InputError
from geodiff.head.model import HeadModel
from geodiff.media import read_video
from geodiff.motion import builtin_motion, load_motion
from geodiff.tracking.track import VideoTrack, track_video
from geodiff.types import HeadParams, Motion

BUILTIN_PREFIX = "builtin:"
HEAD_POSES = ("fixed", "drive")


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
    encoder the video's own pixels, "render" the driver head under the tracked parameters.

    Raises ConfigError for unknown words, InputError for files that cannot be used.
    """
    if head_pose not in HEAD_POSES:
        raise ConfigError(f"--head-pose must be one of {', '.join(HEAD_POSES)}; {head_pose!r} was given.")
    if spec.startswith(BUILTIN_PREFIX):
        motion = builtin_motion(spec.removeprefix(BUILTIN_PREFIX), frames)
        return _from_motion(motion, spec, head, base, head_pose)
    path = Path(spec)
    if not path.exists():
        raise InputError(
            f"--drive takes {BUILTIN_PREFIX}NAME, a motion file or a video; {spec} does not exist. "
            f"Try --drive {BUILTIN_PREFIX}talk."
        )
    if path.suffix == ".npz":
        return _from_motion(_spread(load_motion(path), frames), path.name, head, base, head_pose)
    return _from_video(path, frames, head, base, head_pose, drive_crop)


def _from_motion(motion: Motion, name: str, head: HeadModel, base: HeadParams, head_pose: str) -> DriveSequence:
    params = _posed(head.motion_params(motion, base), head_pose)
    return DriveSequence(params, Driver(head).crops(params), motion.fps, name)


def _from_video(
    path: Path, frames: int, head: HeadModel, base: HeadParams, head_pose: str, drive_crop: str
) -> DriveSequence:
    track = track_video(path, head)
    chosen = np.unique(np.linspace(0, track.params.num_frames - 1, frames).round().astype(int))
    driving = track.params.frames(torch.as_tensor(chosen))
    params = base.replace(
        expr=driving.expr,
        jaw_pose=driving.jaw_pose,
        eyes_pose=driving.eyes_pose,
        neck_pose=driving.neck_pose,
        rotation=driving.rotation - driving.rotation[:1],
        translation=torch.zeros_like(driving.translation),
    )
    params = _posed(params, head_pose)
    if drive_crop == "render":
        crops = Driver(head).crops(params)
    elif drive_crop == "photo":
        crops = np.stack(list(_video_crops(path, track, chosen, head)))
    else:
        raise ConfigError(f"drive_crop must be photo or render; {drive_crop!r} was given.")
    return DriveSequence(params, crops, track.fps * len(chosen) / track.params.num_frames, path.name)


def _video_crops(path: Path, track: VideoTrack, chosen: np.ndarray, head: HeadModel) -> Iterator[np.ndarray]:
    wanted = set(chosen.tolist())
    for t, image in enumerate(read_video(path)):
        if t in wanted:
            crop = face_camera(head, track.params.frame(t), track.camera, CROP_SIZE)
            yield resample(image, track.camera, crop).astype(np.float32) / 255.0


def _posed(params: HeadParams, head_pose: str) -> HeadParams:
    """Brings the head to the origin; a fixed head does not turn either."""
    params = params.replace(translation=torch.zeros_like(params.translation))
    if head_pose == "fixed":
        still = torch.zeros_like(params.rotation)
        params = params.replace(rotation=still, neck_pose=still)
    return params


def _spread(motion: Motion, frames: int) -> Motion:
    """`frames` frames taken evenly from a motion."""
    chosen = np.linspace(0, motion.num_frames - 1, frames).round().astype(int)
    weights = {name: np.asarray(values)[chosen] for name, values in motion.weights.items()}
    fps = motion.fps * frames / motion.num_frames
    return Motion(weights, motion.rotation[chosen], motion.gaze[chosen], fps)
