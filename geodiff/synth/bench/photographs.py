"""Real photographs of one person from several sides, measured as SynthBench measures synthetic ones.

One photograph is the portrait. Each of the others is tracked, and asked for at its own pose and expression: what the
tracker finds in it is carried to the portrait's identity, and its camera to the portrait's world by the similarity
between the two fitted heads' landmarks. What is true is the photograph itself, under the crop rule, inside its matte;
there are no true normals. Where the photograph does not reach, nothing is compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from geodiff.conditioning import Conditioner, Reference, crop_reference, face_camera, resample
from geodiff.driver import CROP_SIZE
from geodiff.errors import FaceError, InputError
from geodiff.head.model import HeadModel
from geodiff.media import IMAGE_SUFFIXES, read_image
from geodiff.metrics.picture import Picture
from geodiff.metrics.registry import Metric, Setup
from geodiff.synth.bench.definition import Shot, at_rest, view_angle
from geodiff.synth.bench.scores import Score, measure, sized
from geodiff.synth.bench.tasks import Compared, Method, Request, proposed
from geodiff.tracking.accuracy import similarity
from geodiff.tracking.fit import LandmarkFitter
from geodiff.tracking.matte import on_white
from geodiff.tracking.refine import most_likely
from geodiff.tracking.settings import TrackConfig
from geodiff.tracking.track import Track, track_image
from geodiff.tracking.witnesses import witnesses
from geodiff.types import Camera, HeadParams

#: Name of the task in scores, and what stands for "the driving photograph" in them.
TASK = "photographs"


@dataclass(frozen=True)
class Photograph:
    """A tracked photograph. cropped: under the crop rule, at the size that is measured. yaw, elevation: degrees, where
    its camera stands as the head sees it."""

    name: str
    image: np.ndarray
    track: Track
    cropped: Reference

    @property
    def yaw(self) -> float:
        x, _, z = (float(v) for v in self.cropped.camera.viewmat[2, :3])
        return math.degrees(math.atan2(-x, -z))

    @property
    def elevation(self) -> float:
        return math.degrees(math.asin(max(-1.0, min(1.0, -float(self.cropped.camera.viewmat[2, 1])))))

    @property
    def angle(self) -> float:
        """Degrees between the camera's direction and that in which the face looks."""
        return view_angle(self.yaw, self.elevation)


def read_photographs(folder: Path, head: HeadModel, size: int) -> tuple[list[Photograph], list[str]]:
    """The photographs of a folder in the order of their names, and in words those in which no face was found.

    Raises InputError where fewer than two show a face, or where one cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"photographs of one person are read from a folder, and {folder} is none: name one")
    found, lost = [], []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."):
        image = read_image(path)
        try:
            track = track_image(image, head)
        except FaceError:
            lost.append(f"{path.name}: the tracker finds no face")
            continue
        cropped = crop_reference(image, track.matte, track.params, track.camera, head, size)
        found.append(Photograph(path.name, image, track, cropped))
    if len(found) < 2:
        raise InputError(
            f"one photograph is the portrait and the others are compared with, so a folder must hold at least two that "
            f"show a face, and {folder} holds {len(found)}: add photographs ({', '.join(IMAGE_SUFFIXES)})"
        )
    return found, lost


def choose_portrait(photographs: Sequence[Photograph], name: str | None = None) -> Photograph:
    """The photograph of this name, by default the one that is nearest to frontal. Raises InputError."""
    if name is None:
        return min(photographs, key=lambda one: one.angle)
    for one in photographs:
        if name in (one.name, Path(one.name).stem):
            return one
    known = ", ".join(one.name for one in photographs)
    raise InputError(f"the portrait must be one of the photographs that show a face ({known}), got {name!r}")


def request(portrait: Photograph, others: Sequence[Photograph], head: HeadModel, size: int) -> Request:
    """What a method of frames of side `size` is asked for, in the order of `others`."""
    image, track = portrait.image, portrait.track
    reference = crop_reference(image, track.matte, track.params, track.camera, head, size)
    conditioner = Conditioner(head, reference)
    params = [_carried(expression_of(one, reference.params, head), reference.params) for one in others]
    cameras = [_camera_of(head, one.cropped, own).resized(size, size) for one, own in zip(others, params, strict=True)]
    return Request(
        head=head,
        photo=image,
        reference=reference,
        driving=[one.image for one in others],
        crops=np.stack([_face_crop(one, head) for one in others]),
        params=HeadParams.concatenate(params),
        cameras=cameras,
        conditions=[conditioner.render(own, camera) for own, camera in zip(params, cameras, strict=True)],
        shots=[Shot(TASK, 0, 0, n, one.yaw, one.elevation, at_rest(), False) for n, one in enumerate(others)],
    )


def compare(
    portrait: Photograph,
    others: Sequence[Photograph],
    head: HeadModel,
    method: Method,
    metrics: Sequence[Metric],
    setup: Setup | None = None,
) -> tuple[list[Score], list[Compared]]:
    """A method's frames and the proposal's, each beside the photograph that it was asked for."""
    asked = request(portrait, others, head, method.size)
    setup = replace(setup or Setup(), source=Picture(portrait.cropped.image, portrait.cropped.mask))
    scores: list[Score] = []
    shown: list[Compared] = []
    for number, (one, picture) in enumerate(zip(others, method(asked), strict=True)):
        side, condition = one.cropped.size, asked.conditions[number]
        truth = Picture(one.cropped.image, one.cropped.mask)
        reach = reached(one, head)
        result, baseline = (_within(sized(made, side), reach) for made in (picture, proposed(condition)))
        seen = sized(Picture(condition.visibility), side).image
        for name, compared in (("result", result), ("proposal", baseline)):
            figures, missing = measure(compared, truth, seen, metrics, setup)
            place = (TASK, 0, number, round(one.angle, 2), "ordinary", "tracked", name)
            scores.append(Score(*place, figures, missing))
        crop = (asked.crops[number] * 255 + 0.5).astype(np.uint8)
        shown.append(Compared(portrait.cropped.image, crop, truth, baseline, result))
    return scores, shown


def reached(one: Photograph, head: HeadModel) -> np.ndarray:
    """(S, S) 0..1, how much of each pixel of its crop a photograph shows."""
    camera = head.canonicalise(one.track.params, one.track.camera)[1]
    return resample(np.ones(one.image.shape[:2], np.float32), camera, one.cropped.camera)


def expression_of(one: Photograph, own: HeadParams, head: HeadModel) -> HeadParams:
    """What a photograph shows of the person whose identity is that of `own`: who knows how wide a mouth is at rest sees
    how far it is pursed."""
    look = most_likely(one.image, one.track.face)
    fitter = LandmarkFitter(head, (one.image.shape[1], one.image.shape[0]), TrackConfig().fitting(refined=True))
    points, known = look.points[None], witnesses([look], head, fitter)
    found = fitter.solve(points, fitter.start(points), witnesses=known)
    found = replace(found, shape=own.shape.double().numpy())
    return fitter.result(fitter.solve(points, found, shared=False, witnesses=known), points).params


def _within(picture: Picture, reach: np.ndarray) -> Picture:
    """A picture, white where the photograph (S, S) does not reach."""
    image = picture.image + (1 - reach[..., None]) * (1 - picture.image)
    return replace(picture, image=image, alpha=None if picture.alpha is None else picture.alpha * reach)


def _carried(found: HeadParams, own: HeadParams) -> HeadParams:
    """Somebody's expression on this identity, T = 1."""
    return own.replace(expr=found.expr, jaw_pose=found.jaw_pose, eyes_pose=found.eyes_pose)


def _camera_of(head: HeadModel, seen: Reference, own: HeadParams) -> Camera:
    """The camera of a photograph, brought from the world of the head that was fitted to it to that of `own`."""
    rotation, shift, scale = similarity(
        head.landmark_points(own)[0].numpy(), head.landmark_points(seen.params)[0].numpy()
    )
    turn, there = seen.camera.viewmat[:3, :3], seen.camera.viewmat[:3, 3]
    viewmat = torch.eye(4)
    viewmat[:3, :3] = turn @ torch.as_tensor(rotation).float()
    viewmat[:3, 3] = (turn @ torch.as_tensor(shift).float() + there) / scale
    return Camera(viewmat, seen.camera.K, seen.camera.width, seen.camera.height)


def _face_crop(one: Photograph, head: HeadModel) -> np.ndarray:
    """(64, 64, 3) float32 0..1, the face on white, as the expression encoder takes it."""
    track = one.track
    alone = on_white(one.image, track.matte)
    camera = face_camera(head, track.params, track.camera, CROP_SIZE)
    return resample(alone, track.camera, camera, border=255.0).astype(np.float32) / 255.0
