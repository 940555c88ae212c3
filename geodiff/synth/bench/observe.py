"""What a method is given of a person: found by the tracker in the pictures, or known from the truth.

"tracked" is how methods are used: `geodiff.tracking` finds faces, mattes, expressions and cameras in the photograph and
in the driving frames. "true" replaces the detector's landmarks and the matte by the true ones, and takes the parameters
themselves where the person's head and the conditioning head are the same model. "captured", of avatars alone: cameras
are known, and the tracker sees all of their pictures (`geodiff.synth.bench.captured`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from geodiff.conditioning import Condition, Conditioner, Reference, crop_reference, face_camera, resample
from geodiff.driver import CROP_SIZE
from geodiff.errors import HeadModelError
from geodiff.geometry import project
from geodiff.head.model import HeadModel
from geodiff.synth.bench.people import Person, Photo
from geodiff.tracking.accuracy import similarity
from geodiff.tracking.fit import Fit, LandmarkFitter
from geodiff.tracking.matte import on_white, portrait_matte
from geodiff.tracking.offsets import fit_offsets
from geodiff.tracking.refine import Look, most_likely
from geodiff.tracking.settings import TrackConfig
from geodiff.tracking.track import choose_face, track_image
from geodiff.tracking.witnesses import witnesses
from geodiff.types import Camera, HeadParams

Kind = Literal["tracked", "true"]
AvatarKind = Literal["tracked", "true", "captured"]
#: The headline first.
KINDS: tuple[Kind, ...] = ("tracked", "true")
AVATAR_KINDS: tuple[AvatarKind, ...] = (*KINDS, "captured")


@dataclass(frozen=True)
class Expression:
    """A driving frame understood. params: T = 1, on the driver's identity. crop: (64, 64, 3) float32 0..1 on white."""

    params: HeadParams
    crop: np.ndarray


@dataclass(frozen=True)
class Understood:
    """A photograph understood. params: T = 1. matte: (H, W) 0..1. similarity: rotation, shift and scale from the world
    of frames to the true one, where frames are not in the reference's world."""

    params: HeadParams
    camera: Camera
    matte: np.ndarray
    similarity: tuple[torch.Tensor, torch.Tensor, float] | None = None


def understood(person: Person, head: HeadModel, kind: Kind) -> Understood:
    """A person's portrait with the head `head`. Raises FaceError where the tracker finds no face."""
    photo = person.photo
    if kind == "tracked":
        track = track_image(photo.image, head)
        params, camera, matte = track.params, track.camera, track.matte
    else:
        params, camera = _exact(person, head, [photo])
        matte = photo.mask
        params = fit_offsets(matte, params, camera, head, photo.image)
    return Understood(params, camera, matte)


class Observer:
    """A person's photograph as `known`, shown to methods of frames of side `size`."""

    def __init__(self, person: Person, head: HeadModel, known: Understood, size: int) -> None:
        self.person, self.head, self.size = person, head, size
        self.reference: Reference = crop_reference(
            person.photo.image, known.matte, known.params, known.camera, head, size
        )
        self._conditioner = Conditioner(head, self.reference)
        self._turn, self._shift, self._scale = known.similarity or self._alignment()

    def camera(self, true: Camera, size: int | None = None) -> Camera:
        """A camera of the true person's world, moved to the world of the understood head: the same picture."""
        turn = true.viewmat[:3, :3] @ self._turn
        viewmat = torch.eye(4)
        viewmat[:3, :3] = turn
        viewmat[:3, 3] = (true.viewmat[:3, :3] @ self._shift + true.viewmat[:3, 3]) / self._scale
        side = size or self.size
        return Camera(viewmat, true.K, true.width, true.height).resized(side, side)

    def carried(self, expression: Expression) -> HeadParams:
        """Somebody's expression on this identity, T = 1."""
        own = expression.params
        return self.reference.params.replace(expr=own.expr, jaw_pose=own.jaw_pose, eyes_pose=own.eyes_pose)

    def condition(self, params: HeadParams, camera: Camera) -> Condition:
        """What a generator is shown of a frame; camera: of this head's world."""
        return self._conditioner.render(params, camera)

    def _alignment(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        """The similarity from this head's world to the true one, by the landmarks of the photograph's expression."""
        own = _landmarks(self.head, self.reference.params)
        goal = _landmarks(self.person.head, self.person.photo.params)
        both = np.isfinite(own).all(1) & np.isfinite(goal).all(1)
        rotation, shift, scale = similarity(own[both], goal[both])
        return torch.as_tensor(rotation).float(), torch.as_tensor(shift).float(), scale


def understand(driver: Person, photo: Photo, head: HeadModel, kind: Kind) -> Expression:
    """The expression in a driving frame; the frame at rest helps to tell it from the identity, as a video does.

    Raises FaceError where the tracker finds no face.
    """
    if kind == "true":
        params, camera = _exact(driver, head, [driver.rest, photo])
        alone = on_white(photo.image, photo.mask)
    else:
        side = len(photo.image)
        faces = [choose_face(one.faces, None) for one in (driver.rest, photo)]
        looks = [most_likely(one.image, face) for one, face in zip((driver.rest, photo), faces, strict=True)]
        fit = fitted(np.stack([look.points for look in looks]), side, head, looks)
        params, camera = fit.params, fit.camera
        alone = on_white(photo.image, portrait_matte(photo.image, faces[-1]))
    params = params.frame(params.num_frames - 1)
    return Expression(params, driving_crop(alone, camera, params, head))


def driving_crop(image: np.ndarray, camera: Camera, params: HeadParams, head: HeadModel) -> np.ndarray:
    """(64, 64, 3) float32 0..1 the face (T = 1) of an image on white."""
    crop = resample(image, camera, face_camera(head, params, camera, CROP_SIZE), border=255.0)
    return crop.astype(np.float32) / 255.0


def _exact(person: Person, head: HeadModel, photos: list[Photo]) -> tuple[HeadParams, Camera]:
    """The head as the truth's own landmarks place it; the true parameters where both heads are one model."""
    if person.head.hash == head.hash:
        return HeadParams.concatenate([photo.params for photo in photos]), photos[-1].camera
    points = []
    for photo in photos:
        marks = _landmarks(person.head, photo.params)
        if not np.isfinite(marks).all():
            raise HeadModelError(
                f"the people's head must have all 478 landmarks of the face, and {person.head.name} lacks some: "
                "use builtin or ict:PATH"
            )
        points.append(project(torch.from_numpy(marks).float(), photo.camera)[0].numpy())
    fit = fitted(np.stack(points), photos[-1].camera.width, head)
    return fit.params, fit.camera


def fitted(points: np.ndarray, side: int, head: HeadModel, looks: Sequence[Look] = ()) -> Fit:
    """points: (T, 478, 2) pixels of one person before one camera. looks: what else the tracker knows of them."""
    fitter = LandmarkFitter(head, (side, side), TrackConfig().fitting(refined=bool(looks)))
    frames, known = points.astype(np.float64), witnesses(looks, head, fitter) if looks else []
    return fitter.result(fitter.solve(frames, fitter.start(frames), witnesses=known), frames)


def _landmarks(head: HeadModel, params: HeadParams) -> np.ndarray:
    """(478, 3) landmarks of the bare face in the world, NaN where the head has none.

    Offsets for hair and collar lift the landmarks at temples and jaw by millimetres off the face.
    """
    if head.landmarks is None:
        raise HeadModelError(f"heads of the bench must have landmarks of the face, and {head.name} has none")
    rows = np.full((478, 3), np.nan)
    bare = params.frame(0).replace(static_offset=None)
    rows[head.landmarks.indices.numpy()] = head.landmark_points(bare)[0].numpy()
    return rows
