"""From a video to head parameters: one identity and one camera for the whole, pose and expression of every frame.

The film is decoded once and followed frame by frame (`footage`). Then, with all landmarks at hand, the longest shot
decides who the person is: identity and focal length come from its key frames, each shot is smoothed over its whole
length (`smooth`), and frames without the person are bridged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from geodiff.errors import FaceError
from geodiff.head.model import HeadModel
from geodiff.media import VideoFrames, read_video
from geodiff.tracking.face_model import FrameStates
from geodiff.tracking.fit import Fit, FitState, LandmarkFitter
from geodiff.tracking.follow import SAME, face_at
from geodiff.tracking.footage import Footage, watch
from geodiff.tracking.landmarks import Face
from geodiff.tracking.refine import Look
from geodiff.tracking.settings import TrackConfig
from geodiff.tracking.smooth import smooth_shot, spreads
from geodiff.tracking.witnesses import Witness, witnesses
from geodiff.types import Camera, HeadParams

#: Frames with a larger landmark error than this, and than this many times the median, count as lost.
MISFIT = 0.1
MISFIT_FACTOR = 4.0

Report = Callable[[str, float], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class VideoTrack:
    """A tracked video of T frames.

    params: HeadParams (T). camera: of every frame. errors: (T,), nan where the face was lost. found: (T,) bool; lost
    frames hold parameters bridged between their neighbours. boxes: (T, 4) of the landmarks, x0, y0, x1, y1. fps:
    frames per second. shot: (T,) number of the shot between two cuts, from 0. landmarks: (T, 478, 2) float32 pixels,
    nan where the face was lost; empty where they were not kept.
    """

    params: HeadParams
    camera: Camera
    errors: np.ndarray
    found: np.ndarray
    boxes: np.ndarray
    fps: float
    shot: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    landmarks: np.ndarray = field(default_factory=lambda: np.zeros((0, 478, 2), np.float32))

    def __post_init__(self) -> None:
        if len(self.shot) == 0:
            object.__setattr__(self, "shot", np.zeros(len(self.found), np.int64))

    def face(self, t: int) -> Face | None:
        """The person's face in a frame; None where it was lost or landmarks were not kept."""
        if not self.found[t] or t >= len(self.landmarks):
            return None
        return face_at(self.landmarks[t])


def track_video(
    video: str | Path | Iterable[np.ndarray],
    head: HeadModel,
    config: TrackConfig | None = None,
    fps: float = 25.0,
    *,
    cache: Path | None = None,
    key: str = "",
    report: Report = lambda stage, done: None,
    note: Note = lambda sentence: None,
) -> VideoTrack:
    """Track one person of a video: one identity and focal length, pose and expression of every frame.

    video: a file, opened or not, or frames (H, W, 3) uint8 RGB of one size with `fps`; frames are taken one at a time
    and not kept.
    The person is the one of the longest shot, and there the one whose face is largest at first. Shots that show
    somebody else count as lost. cache, key: where landmarks are kept, see `footage.watch`. report: stages `landmarks`
    and `fit`. note: told what the user should know.

    Raises:
        FaceError: no frame shows a face.
        InputError: the file cannot be read.
    """
    config = config or TrackConfig()
    count = 0
    if isinstance(video, (str, Path)):
        video = read_video(video)
    if isinstance(video, VideoFrames):
        fps, count = video.fps, video.count

    def seen(done: int) -> None:
        report("landmarks", min(done / max(count, done), 1.0))

    footage = watch(video, cache, key, seen, config.refine_videos)
    return fit_footage(footage, head, config, fps, report, note)


def fit_footage(
    footage: Footage,
    head: HeadModel,
    config: TrackConfig,
    fps: float,
    report: Report = lambda stage, done: None,
    note: Note = lambda sentence: None,
) -> VideoTrack:
    """Head parameters from a film's landmarks; see `track_video`."""
    seen = footage.found
    if not seen.any():
        raise FaceError(
            f"a driving video must show a face, but none was found in its {len(seen)} frames; use one in which the "
            "face is visible from the front or from half a side."
        )
    shots = person_shots(footage)
    found = seen & np.isin(footage.shot, shots)
    fit = _fit_found(footage, found, shots[0], head, config, fps, report)
    wrong = _misfits(fit.errors)
    if wrong.any():
        found[np.flatnonzero(found)[wrong]] = False
        fit = _fit_found(footage, found, shots[0], head, config, fps, report)
    _tell(footage, found, int(wrong.sum()), note)
    where = np.flatnonzero(found)
    errors = np.full(len(found), np.nan)
    errors[where] = fit.errors
    points = footage.points[where]
    boxes = np.concatenate([points.min(1), points.max(1)], 1)
    return VideoTrack(
        params=bridged(fit.params, where, footage.shot),
        camera=fit.camera,
        errors=errors,
        found=found,
        boxes=_between(boxes, where, footage.shot).astype(np.float32),
        fps=fps,
        shot=footage.shot,
        landmarks=np.where(found[:, None, None], footage.points, np.float32(np.nan)),
    )


def _fit_found(
    footage: Footage, found: np.ndarray, main: int, head: HeadModel, config: TrackConfig, fps: float, report: Report
) -> Fit:
    """The frames `found` (T,) bool: identity and focal length from the shot `main`, then every shot on its own."""
    points = footage.points[found].astype(np.float64)
    shot, times = footage.shot[found], np.flatnonzero(found) * 30.0 / fps
    fitter = LandmarkFitter(head, footage.size, config.fitting(config.refine_videos))
    known = _known(footage, found, head, fitter)
    longest = np.flatnonzero(shot == main)
    chosen = longest[key_frames(fitter, points[longest], config.keyframes)]
    keys = points[chosen]
    shared = fitter.solve(keys, fitter.start(keys), witnesses=[witness[chosen] for witness in known])
    states, done = [], 0
    for number in np.unique(shot):
        rows = shot == number
        told = [witness[rows] for witness in known]
        states.append(_shot_states(fitter, points[rows], times[rows], shared, head, config, told))
        done += int(rows.sum())
        report("fit", done / len(points))
    return fitter.result(replace(shared, frames=FrameStates.concatenate(states)), points)


def _known(footage: Footage, found: np.ndarray, head: HeadModel, fitter: LandmarkFitter) -> list[Witness]:
    """What a second look told of the frames `found` (T,) bool beside their landmarks."""
    if not footage.told.size:
        return []
    frames = zip(footage.points[found], footage.told[found], strict=True)
    return witnesses([Look.of(points, told) for points, told in frames], head, fitter)


def _misfits(errors: np.ndarray) -> np.ndarray:
    """Frames (N,) bool whose landmarks are no face of this person: what a detector makes up before a hand or a blur."""
    wrong = errors > max(MISFIT, MISFIT_FACTOR * float(np.median(errors)))
    return wrong if wrong.mean() < 0.5 else np.zeros(len(errors), bool)


def person_shots(footage: Footage) -> list[int]:
    """Numbers of the shots that show the person of the longest one, which comes first."""
    lengths = np.bincount(footage.shot[footage.found])
    main = int(lengths.argmax())
    shown = [number for number in np.flatnonzero(lengths) if number != main]
    alike = [n for n in shown if (footage.looks[n] @ footage.looks[main].T).max() >= SAME]
    return [main, *map(int, alike)]


def _tell(footage: Footage, found: np.ndarray, misfits: int, note: Note) -> None:
    """What happened to the frames, in plain sentences."""
    cuts = int(footage.shot[-1])
    if cuts:
        note(f"the film has {cuts} cut{'s' if cuts > 1 else ''}; nothing is smoothed across them")
    others = int((footage.found & ~found).sum()) - misfits
    if others:
        note(f"{others} frames show somebody else than the longest shot does; they count as lost")
    if lost := int((~footage.found).sum()) + misfits:
        note(f"the face was lost in {lost} of {len(found)} frames; they are bridged")


def _shot_states(
    fitter: LandmarkFitter,
    points: np.ndarray,
    times: np.ndarray,
    shared: FitState,
    head: HeadModel,
    config: TrackConfig,
    known: list[Witness],
) -> FrameStates:
    if config.steadiness <= 0:
        start = replace(shared, frames=fitter.start_frames(points))
        return fitter.solve(points, start, shared=False, witnesses=known).frames
    spread = spreads(config.smooth, head.expression_names, config.steadiness)
    return smooth_shot(fitter, points, times, shared, spread, config.smooth, known)


def key_frames(fitter: LandmarkFitter, points: np.ndarray, count: int) -> np.ndarray:
    """Numbers of frames whose head poses differ most: farthest-point sampling, the most frontal frame first."""
    vectors = Rotation.from_matrix(fitter.start_frames(points).rotation).as_rotvec()
    chosen = [int(np.argmin(np.abs(vectors[:, 1])))]
    away = np.full(len(points), np.inf)
    while len(chosen) < min(count, len(points)):
        away = np.minimum(away, np.linalg.norm(vectors - vectors[chosen[-1]], axis=1))
        away[chosen] = -1.0
        chosen.append(int(away.argmax()))
    return np.array(sorted(chosen))


def bridged(params: HeadParams, where: np.ndarray, shot: np.ndarray) -> HeadParams:
    """Parameters of the frames `where`, brought to all frames (T,) of the shots `shot`.

    Lost frames lie between their neighbours of the same shot: rotations on the shortest arc, the rest on straight
    lines. Before the first and after the last of a shot they hold still. A shot without any takes the nearest frame's.
    """
    if len(where) == len(shot):
        return params
    values = {
        name: torch.as_tensor(_between(getattr(params, name).numpy(), where, shot), dtype=torch.float32)
        for name in ("expr", "translation", "neck_pose", "jaw_pose", "eyes_pose")
    }
    low, high, share = _neighbours(where, shot)
    turns = Rotation.from_rotvec(params.rotation.numpy())
    steps = (turns[high] * turns[low].inv()).as_rotvec()
    rotation = (Rotation.from_rotvec(share[:, None] * steps) * turns[low]).as_rotvec()
    return params.replace(rotation=torch.as_tensor(rotation, dtype=torch.float32), **values)


def _between(values: np.ndarray, where: np.ndarray, shot: np.ndarray) -> np.ndarray:
    """Rows (N, ...) of the frames `where`, on straight lines between neighbours of one shot: (T, ...)."""
    low, high, share = _neighbours(where, shot)
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    return (1 - share) * values[low] + share * values[high]


def _neighbours(where: np.ndarray, shot: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every frame: which of the frames `where` come before and after it in its shot, and how far it lies between."""
    times = np.arange(len(shot))
    low = np.clip(np.searchsorted(where, times, side="right") - 1, 0, len(where) - 1)
    high = np.clip(np.searchsorted(where, times, side="left"), 0, len(where) - 1)
    before = (where[low] <= times) & (shot[where[low]] == shot)
    after = (where[high] >= times) & (shot[where[high]] == shot)
    low, high = np.where(~before & after, high, low), np.where(before & ~after, low, high)
    # A shot that never shows the person: whichever frame is nearer.
    nearer = np.abs(where[low] - times) <= np.abs(where[high] - times)
    alone = ~before & ~after
    low, high = np.where(alone & ~nearer, high, low), np.where(alone & nearer, low, high)
    share = (times - where[low]) / np.maximum(where[high] - where[low], 1)
    return low, high, np.clip(share, 0.0, 1.0)
