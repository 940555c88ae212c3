"""From an image or a video to head parameters and a camera."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation, Slerp

from geodiff.errors import FaceError
from geodiff.head.model import HeadModel
from geodiff.media import read_video
from geodiff.tracking.fit import FitConfig, LandmarkFitter
from geodiff.tracking.hair import HairConfig, fit_hair
from geodiff.tracking.landmarks import Face, LandmarkTracker, detect_faces
from geodiff.tracking.matte import portrait_matte
from geodiff.tracking.smooth import SmoothConfig, smooth_shot, spreads
from geodiff.types import Camera, HeadParams


@dataclass(frozen=True)
class TrackConfig:
    """fit, hair: how landmarks and hair are fitted. fit_hair: whether static offsets are fitted at all.

    keyframes: frames of a video from which identity and focal length are estimated. smooth: how steady a video's
    parameters are over time; steadiness: multiplies all of that, 0 fits every frame on its own.
    """

    fit: FitConfig = field(default_factory=FitConfig)
    hair: HairConfig = field(default_factory=HairConfig)
    fit_hair: bool = True
    keyframes: int = 6
    smooth: SmoothConfig = field(default_factory=SmoothConfig)
    steadiness: float = 1.0


@dataclass(frozen=True)
class Track:
    """One tracked picture.

    params: HeadParams (T = 1). camera: stands at the origin and looks along -z. face: the landmarks. matte: (H, W)
    float32 in 0..1. error: mean distance of the inner face's landmarks / distance of the outer eye corners. num_faces:
    how many faces the picture shows.
    """

    params: HeadParams
    camera: Camera
    face: Face
    matte: np.ndarray
    error: float
    num_faces: int


@dataclass(frozen=True)
class VideoTrack:
    """A tracked video of T frames.

    params: HeadParams (T). camera: of every frame. errors: (T,), nan where the face was lost. found: (T,) bool; lost
    frames hold parameters bridged between their neighbours. boxes: (T, 4) of the landmarks, x0, y0, x1, y1. fps:
    frames per second.
    """

    params: HeadParams
    camera: Camera
    errors: np.ndarray
    found: np.ndarray
    boxes: np.ndarray
    fps: float


def track_image(
    image: np.ndarray, head: HeadModel, face_index: int | None = None, config: TrackConfig | None = None
) -> Track:
    """Track the largest face of an image (H, W, 3) uint8 RGB, or the one numbered `face_index` (0 is the largest).

    Raises:
        FaceError: there is no face, or no face of that number.
    """
    config = config or TrackConfig()
    faces = detect_faces(image)
    face = choose_face(faces, face_index)
    size = (image.shape[1], image.shape[0])
    fitter = LandmarkFitter(head, size, config.fit)
    frames = face.points[None].astype(np.float64)
    fit = fitter.result(fitter.solve(frames, fitter.start(frames)), frames)
    matte = portrait_matte(image, face)
    params = fit.params
    if config.fit_hair and head.regions["scalp"].any():
        params = params.replace(static_offset=fit_hair(matte, params, fit.camera, head, config.hair))
    return Track(params, fit.camera, face, matte, fit.error, len(faces))


def choose_face(faces: list[Face], face_index: int | None) -> Face:
    """The face with this number, the largest by default. Raises FaceError."""
    if not faces:
        raise FaceError(
            "a portrait must show a face, but none was found in this picture; use a sharp photograph in which the face "
            "is visible from the front or from half a side."
        )
    index = 0 if face_index is None else face_index
    if not 0 <= index < len(faces):
        numbers = "number 0" if len(faces) == 1 else f"numbers 0 (the largest) to {len(faces) - 1}"
        raise FaceError(
            f"the chosen face must be one that the picture shows, but number {index} was asked for and it shows "
            f"{len(faces)}; use {numbers}."
        )
    return faces[index]


def track_video(
    video: str | Path | Iterable[np.ndarray], head: HeadModel, config: TrackConfig | None = None, fps: float = 25.0
) -> VideoTrack:
    """Track the largest face of a video: one identity and focal length, pose and expression of every frame.

    video: a file, or frames (H, W, 3) uint8 RGB of one size with `fps`.

    Raises:
        FaceError: no frame shows a face.
        InputError: the file cannot be read.
    """
    config = config or TrackConfig()
    if isinstance(video, (str, Path)):
        opened = read_video(video)
        video, fps = opened, opened.fps
    tracker, faces, size = LandmarkTracker(), [], (1, 1)
    for frame in video:
        size = (frame.shape[1], frame.shape[0])
        faces.append(tracker(frame))
    found = np.array([face is not None for face in faces], bool)
    if not found.any():
        raise FaceError(
            f"a driving video must show a face, but none was found in its {len(faces)} frames; use one in which the "
            "face is visible from the front or from half a side."
        )
    seen = np.flatnonzero(found)
    points = np.stack([faces[t].points for t in seen]).astype(np.float64)
    fitter = LandmarkFitter(head, size, config.fit)
    keys = points[_keyframes(fitter, points, config.keyframes)]
    shared = fitter.solve(keys, fitter.start(keys))
    spread = spreads(config.smooth, head.expression_names, max(config.steadiness, 1e-6))
    states = smooth_shot(fitter, points, seen * 30.0 / fps, shared, spread, config.smooth)
    fit = fitter.result(replace(shared, frames=states), points)
    errors = np.full(len(faces), np.nan)
    errors[seen] = fit.errors
    boxes = np.stack([faces[t].box for t in seen])
    boxes = np.stack([np.interp(np.arange(len(faces)), seen, boxes[:, k]) for k in range(4)], 1)
    return VideoTrack(_bridged(fit.params, seen, len(faces)), fit.camera, errors, found, boxes.astype(np.float32), fps)


def _keyframes(fitter: LandmarkFitter, points: np.ndarray, count: int) -> np.ndarray:
    """Numbers of frames whose head poses differ most: farthest-point sampling, the most frontal frame first."""
    vectors = Rotation.from_matrix(fitter.start_frames(points).rotation).as_rotvec()
    chosen = [int(np.argmin(np.abs(vectors[:, 1])))]
    away = np.full(len(points), np.inf)
    while len(chosen) < min(count, len(points)):
        away = np.minimum(away, np.linalg.norm(vectors - vectors[chosen[-1]], axis=1))
        away[chosen] = -1.0
        chosen.append(int(away.argmax()))
    return np.array(sorted(chosen))


def _bridged(params: HeadParams, seen: np.ndarray, count: int) -> HeadParams:
    """Parameters of the frames `seen`, interpolated (held at the ends) to all `count` frames."""
    if len(seen) == count:
        return params
    times = np.arange(count)
    values = {}
    for name in ("expr", "translation", "neck_pose", "jaw_pose", "eyes_pose"):
        array = getattr(params, name).numpy()
        values[name] = np.stack([np.interp(times, seen, column) for column in array.T], 1)
    turns = params.rotation.numpy()
    if len(seen) == 1:
        values["rotation"] = np.repeat(turns, count, 0)
    else:
        values["rotation"] = Slerp(seen, Rotation.from_rotvec(turns))(np.clip(times, seen[0], seen[-1])).as_rotvec()
    return params.replace(**{name: torch.as_tensor(value, dtype=torch.float32) for name, value in values.items()})
