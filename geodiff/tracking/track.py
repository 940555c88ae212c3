"""From an image to head parameters and a camera; videos are in `geodiff.tracking.video`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geodiff.errors import FaceError
from geodiff.head.model import HeadModel
from geodiff.tracking.fit import LandmarkFitter
from geodiff.tracking.landmarks import Face, detect_faces
from geodiff.tracking.matte import portrait_matte
from geodiff.tracking.offsets import fit_offsets
from geodiff.tracking.refine import most_likely
from geodiff.tracking.settings import TrackConfig
from geodiff.tracking.video import VideoTrack, track_video
from geodiff.tracking.witnesses import witnesses
from geodiff.types import Camera, HeadParams

__all__ = ["Track", "TrackConfig", "VideoTrack", "choose_face", "track_image", "track_video"]


@dataclass(frozen=True)
class Track:
    """One tracked picture.

    params: HeadParams (T = 1). camera: stands at the origin and looks along -z. face: the landmarks. matte: (H, W)
    float32 in 0..1. error: mean distance of the inner face's corrected landmarks / distance of the outer eye corners.
    num_faces: how many faces the picture shows.
    """

    params: HeadParams
    camera: Camera
    face: Face
    matte: np.ndarray
    error: float
    num_faces: int


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
    fitter = LandmarkFitter(head, size, config.fitting(config.refine))
    look = most_likely(image, face, config.refine)
    frames = look.points[None]
    fit = fitter.result(fitter.solve(frames, fitter.start(frames), witnesses=witnesses([look], head, fitter)), frames)
    matte = portrait_matte(image, face, [one for one in faces if one is not face])
    params = fit.params
    if config.fit_hair:
        params = fit_offsets(matte, params, fit.camera, head, image, config.hair, config.bust)
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
