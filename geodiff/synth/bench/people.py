"""One person of the bench: the photograph, the driving frames, the true frames."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from geodiff.conditioning import VIEWPOINT_DEGREES, framed_camera, head_frame
from geodiff.geometry import orbit_camera
from geodiff.head.model import HeadModel
from geodiff.metrics.picture import Picture
from geodiff.synth.bench.definition import (
    BenchConfig,
    Lens,
    Shot,
    at_rest,
    driving,
    identity_seed,
    portrait,
    stream,
)
from geodiff.synth.portraits import develop, rolled
from geodiff.synth.subject import Subject
from geodiff.tracking.landmarks import Face, detect_faces
from geodiff.types import Camera, HeadParams, Motion

#: Side of a driving frame as a share of a photograph's.
DRIVING_SHARE = 0.75
#: Driving frames that a person keeps.
KEPT_FILMS = 16
_PAPER, _FILM = 20, 21


@dataclass(frozen=True)
class Photo:
    """A photograph with what is true of it. image: (H, W, 3) uint8. mask: (H, W) 0..1. params: of the true head, in
    its own place. camera: that saw it."""

    image: np.ndarray
    mask: np.ndarray
    params: HeadParams
    camera: Camera

    @cached_property
    def faces(self) -> list[Face]:
        """What the tracker finds in it."""
        return detect_faces(self.image)


class Person:
    """A person of the bench on the head `truth`."""

    def __init__(self, truth: HeadModel, identity: int, config: BenchConfig) -> None:
        self.head, self.identity, self.config = truth, identity, config
        self.subject = Subject(truth, identity_seed(identity), texture_size=config.texture, natural=True)
        self.frame = head_frame(truth, self.subject.params)
        self._films: dict[int, tuple[Motion, Photo]] = {}

    @cached_property
    def photo(self) -> Photo:
        """The portrait that methods are given."""
        motion, lens = portrait(self.identity)
        return self._photographed(motion, lens, self.config.photo, stream(self.identity, _PAPER))

    @cached_property
    def rest(self) -> Photo:
        """The driving camera's first frame: the face at rest."""
        return self.film(at_rest(), 0)

    def film(self, motion: Motion, number: int) -> Photo:
        """A driving frame of an expression (T = 1). number: decides its grain. The last ones are kept: they are looked
        at under tracked and under true parameters."""
        known = self._films.get(number)
        if known is not None and known[0] is motion:
            return known[1]
        side = round(DRIVING_SHARE * self.config.photo)
        photo = self._photographed(motion, driving(self.identity), side, stream(self.identity, _FILM, number))
        if len(self._films) >= KEPT_FILMS:
            self._films.pop(next(iter(self._films)))
        self._films[number] = motion, photo
        return photo

    def filmed_from(self, motion: Motion, yaw: float, elevation: float, number: int) -> Photo:
        """A driving frame (T = 1) by the driving camera put elsewhere, in degrees. number: decides its grain."""
        lens = replace(driving(self.identity), yaw=yaw, elevation=elevation)
        side = round(DRIVING_SHARE * self.config.photo)
        return self._photographed(motion, lens, side, stream(self.identity, _FILM, number))

    def camera(self, yaw: float, elevation: float) -> Camera:
        """The camera of a generated view in degrees: as far away as the photograph's, under the crop rule."""
        _, lens = portrait(self.identity)
        return framed_camera(self.frame, math.radians(yaw), math.radians(elevation), lens.distance, self.config.size)

    def params(self, motion: Motion) -> HeadParams:
        """True parameters of a motion on this person."""
        return self.head.motion_params(motion, self.subject.params)

    def truth(self, motion: Motion, cameras: list[Camera]) -> list[Picture]:
        """True frames of one expression (T = 1) in several cameras: image, matte and normals."""
        posed = self.subject.pose(self.params(motion))
        frames = [self.subject.render(posed, camera, self.config.supersample) for camera in cameras]
        return [Picture(frame.image, frame.mask, frame.normals) for frame in frames]

    def shown(self, shot: Shot) -> Picture:
        """The true frame of a shot."""
        return self.truth(shot.motion, [self.camera(shot.yaw, shot.elevation)])[0]

    def clip_cameras(self, count: int) -> list[Camera]:
        """The first cameras of an avatar's clips: those that clip sets are generated from, widest first."""
        order = sorted(range(len(VIEWPOINT_DEGREES)), key=lambda n: (n not in (0, 3, 4, 8, 10, 11), n))
        return [self.camera(*VIEWPOINT_DEGREES[n]) for n in order[:count]]

    def _photographed(self, motion: Motion, lens: Lens, side: int, rng: np.random.Generator) -> Photo:
        focal = lens.share * side * lens.distance / self.frame.height
        yaw, elevation = math.radians(lens.yaw), math.radians(lens.elevation)
        camera = orbit_camera(yaw, elevation, lens.distance, self.frame.center, focal, side, side)
        camera = rolled(camera, math.radians(lens.roll), rng.uniform(-0.04, 0.04, 2) * side / focal)
        params = self.params(motion)
        frame = self.subject.render(self.subject.pose(params), camera, self.config.supersample)
        return Photo(develop(frame.image, frame.mask, rng), frame.mask, params, camera)
