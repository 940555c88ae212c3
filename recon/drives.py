"""What moves an avatar: built-in motions, motion and parameter files, tracked videos, other people's clip sets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from geodiff.clipset import ClipSet
from geodiff.encoding import sound_codec
from geodiff.errors import HeadModelError, InputError
from geodiff.files import frame_rate, read_npz
from geodiff.head.identity import HeadRecord
from geodiff.imported import is_tracking, read_tracking
from geodiff.media import read_video
from geodiff.motion import MOTIONS, builtin_motion, in_place, load_motion
from geodiff.tracking.convert import convert
from geodiff.tracking.importers import Tracking
from geodiff.types import Camera, Drive, HeadParams, Motion
from recon.avatar import Avatar, check_encoder, check_params, params_from_arrays
from recon.resample import at_rate, cameras_at_rate

#: Prefix of built-in motions.
BUILTIN = "builtin:"
#: Frames a second of what does not say.
FPS = 25.0

Note = Callable[[str], None]


@dataclass(frozen=True)
class Performance:
    """Somebody's performance on an avatar.

    drive: in place, the head where the avatar's is. filmed: the same where it was filmed, and cameras: who filmed it,
    one or one for each frame; None where that is not known. sound: file with what was heard, or None.
    """

    drive: Drive
    filmed: Drive | None = None
    cameras: list[Camera] | None = None
    sound: Path | None = None

    def prepared(self, num_frames: int | None, fps: float | None) -> Performance:
        """At `fps` frames a second, cut to at most `num_frames`."""
        wanted = fps or self.drive.fps
        cameras = self.cameras
        if cameras is not None:
            cameras = cameras_at_rate(cameras, self.drive.num_frames, self.drive.fps, wanted)
        filmed = None if self.filmed is None else _cut(at_rate(self.filmed, wanted), num_frames)
        return replace(self, drive=_cut(at_rate(self.drive, wanted), num_frames), filmed=filmed, cameras=cameras)


def load_drive(avatar: Avatar, spec: str, num_frames: int | None = None, fps: float | None = None) -> Drive:
    """The drive alone of `load_performance`."""
    return load_performance(avatar, spec, num_frames, fps).drive


def load_performance(
    avatar: Avatar,
    spec: str,
    num_frames: int | None = None,
    fps: float | None = None,
    head_spec: str | None = None,
    note: Note = lambda sentence: None,
) -> Performance:
    """A performance for this avatar; identity (shape, offsets) is the avatar's own.

    spec: "builtin:NAME" or the NAME alone; an npz file with a motion (ARKit-named weights) or with parameters of the
    avatar's head model under FLAME's names; a clip set or another tracker's result, also of another head
    model, which is converted then; or a video, whose face is tracked. num_frames: at most so many frames; a built-in
    motion is made that long. fps: frames a second; by default the performance's own. head_spec: where
    the head model of a clip set or tracking result is, if not where it is recorded. note: told what was converted.
    Raises HeadModelError where parameters are those of another head model that is not found.
    """
    name = spec.removeprefix(BUILTIN)
    path = Path(spec)
    if spec.startswith(BUILTIN) or (name in MOTIONS and not path.exists()):
        return Performance(from_motion(avatar, builtin_motion(name, num_frames, fps or FPS)))
    if path.is_dir() or (path.suffix == ".npz" and is_tracking(path)):
        found = _from_tracking(avatar, path, head_spec, note)
    elif not path.is_file():
        raise InputError(
            f"--drive must be builtin:NAME ({', '.join(MOTIONS)}), a video, an npz file or a tracking folder, and "
            f"{spec} is no file or folder: check the path"
        )
    elif path.suffix == ".npz":
        found = _from_npz(avatar, path, fps or FPS)
    else:
        found = _from_video(avatar, path, num_frames, fps)
    return found.prepared(num_frames, fps)


def from_motion(avatar: Avatar, motion: Motion) -> Drive:
    """A head-independent motion on this avatar, at rest where the motion says nothing."""
    return Drive(avatar.head.motion_params(motion, avatar.neutral().params), {}, motion.fps)


def _cut(drive: Drive, num_frames: int | None) -> Drive:
    if num_frames is None or num_frames >= drive.num_frames:
        return drive
    codes = {name: code[:num_frames] for name, code in drive.codes.items()}
    return Drive(drive.params.frames(slice(0, num_frames)), codes, drive.fps)


def _from_npz(avatar: Avatar, path: Path, fps: float) -> Performance:
    arrays = read_npz(path)
    if "weights" in arrays:
        return Performance(from_motion(avatar, load_motion(path)))
    if "fps" in arrays:
        fps = frame_rate(arrays["fps"], path)
    params = params_from_arrays(arrays, path)
    check_params(arrays, params, avatar.head, path)
    return Performance(Drive(avatar.own(params), {}, fps))


def _from_tracking(avatar: Avatar, path: Path, head_spec: str | None, note: Note) -> Performance:
    tracking = read_tracking(path)
    params = _on_head(avatar, tracking, path, head_spec, note)
    codes = {}
    if "expression_latent" in avatar.codes and tracking.source == "geodiff":
        clips = ClipSet.open(path)
        if clips.expression is not None:
            check_encoder(avatar, clips.expression_encoder, path)
            codes = {"expression_latent": clips.expression}
    fps = tracking.fps or FPS
    own = avatar.own(params)
    cameras = [tracking.camera(t) for t in range(tracking.num_frames)] if tracking.num_cameras else None
    if cameras is not None and len(tracking.cameras) <= tracking.num_cameras:
        cameras = cameras[:1]
    return Performance(Drive(in_place(own), codes, fps), Drive(own, codes, fps), cameras)


def _on_head(avatar: Avatar, tracking: Tracking, path: Path, head_spec: str | None, note: Note) -> HeadParams:
    """The tracked parameters on the avatar's head model; converted where they are another one's."""
    try:
        return tracking.on(avatar.head).params
    except HeadModelError as refusal:
        try:
            theirs, _ = HeadRecord(tracking.head, tracking.head_hash, _recorded_spec(path)).find(path, head_spec)
        except HeadModelError as missing:
            raise (missing if head_spec else refusal) from missing
    done = convert(tracking.on(theirs).params, theirs, avatar.head)
    off = done.residuals.neutral.by_region.get("face")
    rest = f"; its face lies {off[0]:.1f} mm from theirs on average" if off else ""
    note(f"{path} is of the head model {theirs.name!r} and was converted to {avatar.head.name!r}{rest}")
    return done.params


def _recorded_spec(path: Path) -> str | None:
    if not (path / "clipset.json").is_file():
        return None
    return ClipSet.open(path).meta.get("head_spec")


def _from_video(avatar: Avatar, path: Path, num_frames: int | None, fps: float | None) -> Performance:
    from geodiff.tracking.track import track_video

    video = read_video(path)
    # Only what will be shown is tracked.
    needed = video.count if num_frames is None else math.ceil((num_frames - 1) * video.fps / (fps or video.fps)) + 1
    frames = video if needed >= video.count else itertools.islice(video, needed)
    track = track_video(frames, avatar.head, fps=video.fps)
    own = avatar.own(track.params)
    sound = Path(path) if sound_codec(path) else None
    return Performance(Drive(in_place(own), {}, track.fps), Drive(own, {}, track.fps), [track.camera], sound)
