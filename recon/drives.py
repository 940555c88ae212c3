"""What moves an avatar: built-in motions, parameter files, tracked videos."""

from __future__ import annotations

from pathlib import Path

from geodiff.clipset import ClipSet
from geodiff.errors import InputError
from geodiff.files import read_npz
from geodiff.motion import builtin_motion, in_place, load_motion
from geodiff.types import Drive, Motion
from recon.avatar import Avatar, check_params, params_from_arrays

#: Prefix of built-in motions.
BUILTIN = "builtin:"


def load_drive(avatar: Avatar, spec: str, num_frames: int | None = None, fps: float = 25.0) -> Drive:
    """A drive for this avatar.

    spec: "builtin:NAME"; an npz file with a motion (ARKit-named weights) or with parameters of the avatar's head model
    under FLAME's names; a clip set or tracking folder with such parameters; or a video, whose face is tracked.
    num_frames: at most so many frames; a built-in motion is made that long. fps: of built-in motions and of parameter
    files, which do not say. Raises HeadModelError where parameters are those of another head model.
    """
    if spec.startswith(BUILTIN):
        return from_motion(avatar, builtin_motion(spec[len(BUILTIN) :], num_frames, fps))
    path = Path(spec)
    if path.is_dir():
        drive = _from_clips(avatar, path)
    elif not path.is_file():
        raise InputError(
            "--drive must be builtin:NAME, a video, an npz file or a tracking folder, and "
            f"{spec} is no file or folder: check the path"
        )
    else:
        drive = _from_npz(avatar, path, fps) if path.suffix == ".npz" else _from_video(avatar, path)
    return drive if num_frames is None else Drive(drive.params.frames(slice(0, num_frames)), {}, drive.fps)


def from_motion(avatar: Avatar, motion: Motion) -> Drive:
    """A head-independent motion on this avatar, at rest where the motion says nothing."""
    return Drive(avatar.head.motion_params(motion, avatar.neutral().params), {}, motion.fps)


def _from_npz(avatar: Avatar, path: Path, fps: float) -> Drive:
    arrays = read_npz(path)
    if "weights" in arrays:
        return from_motion(avatar, load_motion(path))
    if "fps" in arrays:
        fps = float(arrays["fps"].reshape(-1)[0])
    params = params_from_arrays(arrays, path)
    check_params(arrays, params, avatar.head, path)
    return Drive(avatar.own(params), {}, fps)


def _from_clips(avatar: Avatar, path: Path) -> Drive:
    clips = ClipSet.open(path, avatar.head)
    return Drive(in_place(avatar.own(clips.params)), {}, clips.fps)


def _from_video(avatar: Avatar, path: Path) -> Drive:
    from geodiff.tracking.track import track_video

    track = track_video(path, avatar.head)
    return Drive(in_place(avatar.own(track.params)), {}, track.fps)
