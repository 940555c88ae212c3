"""One person before several cameras that are known: one identity, and at each time one head that all of them see.

A photograph leaves distance, focal length and shape to guesses that are made together and wrong together. Where cameras
are calibrated these guesses are not needed: every camera's landmarks, and what else is known of its pictures
(`witnesses`), are told to one fit, whose unknowns are the head's place in the world, its expression, and its shape.
VHAP (Qian 2024) has the same unknowns and fits them to pixels by gradient descent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from geodiff.errors import FaceError
from geodiff.head.model import HeadModel
from geodiff.tracking.capture_problem import CaptureProblem, CaptureState, View
from geodiff.tracking.dense import Crop, Surface, Tied, cut_out
from geodiff.tracking.descent import descend
from geodiff.tracking.face_model import FaceModel
from geodiff.tracking.fit import EYES, LandmarkFitter
from geodiff.tracking.landmarks import detect_faces
from geodiff.tracking.refine import Look, most_likely
from geodiff.tracking.settings import TrackConfig
from geodiff.tracking.video import bridged
from geodiff.tracking.witnesses import witnesses
from geodiff.tracking.world import Station, WorldStates, first_places
from geodiff.types import Camera, HeadParams

#: Units in metres that cameras usually have, and the factor within which a head's size tells that one is meant.
_UNITS = (1.0, 0.01, 0.001)
_NEAR = 1.35
#: Height of a pixel over its width, less 1, beyond which a network that knows square pixels is not believed.
_SQUEEZED = 0.02

#: (U, U) by the part's name and the camera whose pictures show it, -1 for all.
Textures = dict[tuple[str, int], np.ndarray]
#: A time and the number of the camera.
Cell = tuple[int, int]


@dataclass(frozen=True)
class CaptureTrack:
    """A tracked capture of T times before C cameras.

    params: HeadParams (T). cameras: C, in metres. found: (T,) bool; times at which no camera saw the face hold what
    lies between their neighbours. errors: (T, C) mean distance of the inner face's landmarks / distance of the outer
    eye corners, nan where a camera did not count. angles: (T, C) degrees between the face's direction and the
    camera's, nan where no camera saw it. state: what was solved for. textures: of the parts that were followed.
    """

    params: HeadParams
    cameras: list[Camera]
    found: np.ndarray
    errors: np.ndarray
    angles: np.ndarray
    state: CaptureState
    textures: Textures = field(default_factory=dict)


@dataclass(frozen=True)
class Sight:
    """A face in a picture: what is known of it, and how parts of the head look, by `Surface.part`; empty where textures
    are not followed."""

    look: Look
    crops: dict[str, Crop] = field(default_factory=dict)


def look_at(image: np.ndarray, config: TrackConfig | None = None) -> Sight | None:
    """The largest face of an image (H, W, 3) uint8 RGB; None where there is none."""
    config = config or TrackConfig()
    faces = detect_faces(image)
    if not faces:
        return None
    look, dense = most_likely(image, faces[0], config.refine), config.capture.dense
    return Sight(look, {part: cut_out(image, look.points, dense.side, part) for part in dense.parts})


def track_capture(
    images: Iterable[tuple[Cell, np.ndarray]],
    cameras: Sequence[Camera],
    head: HeadModel,
    config: TrackConfig | None = None,
) -> CaptureTrack:
    """Track one person in pictures by known cameras.

    images: (time, number of the camera) and (H, W, 3) uint8 RGB of the camera's size, one after the other; times count
    from 0. Raises FaceError where no picture shows a face.
    """
    config = config or TrackConfig()
    sights: dict[Cell, Sight] = {}
    times = 0
    for (t, c), image in images:
        times = max(times, t + 1)
        sight = look_at(image, config)
        if sight is not None:
            sights[t, c] = sight
    return fit_capture(sights, times, cameras, head, config)


def fit_capture(
    sights: dict[Cell, Sight],
    times: int,
    cameras: Sequence[Camera],
    head: HeadModel,
    config: TrackConfig | None = None,
    known: CaptureTrack | None = None,
) -> CaptureTrack:
    """Heads at so many times from what is known of the pictures; see `track_capture`.

    known: the same person before the same cameras, whose shape, scale and texture hold.
    """
    return CaptureFitter(sights, times, cameras, head, config or TrackConfig()).track(known)


class CaptureFitter:
    """Fits one head to what several cameras saw."""

    def __init__(
        self, sights: dict[Cell, Sight], times: int, cameras: Sequence[Camera], head: HeadModel, config: TrackConfig
    ) -> None:
        self.head, self.times, self.cameras = head, times, list(cameras)
        self.config, self.fitting = config.capture, config.fitting(config.refine)
        self.face = FaceModel(head)
        self.stations = [Station.of(camera) for camera in cameras]
        every = [self._view(sights, c) for c in range(len(cameras))]
        self.views = [view for view in every if len(view.rows)]
        if not self.views:
            raise FaceError(
                "a capture must show a face, but none was found in its pictures: use cameras that see the face from "
                "the front or from half a side"
            )
        self.fitter = self.views[0].fitter
        surfaces = [Surface(head, self.config.dense, part) for part in self.config.dense.parts]
        self.surfaces = [surface for surface in surfaces if surface.faces.any()]
        self.start = self._start()
        #: What is believed of the scale's logarithm: mean and standard deviation.
        self.usual_scale = _usual_scale(self.start.log_scale, self.config.scale_spread)

    def _view(self, sights: dict[Cell, Sight], c: int) -> View:
        camera, station = self.cameras[c], self.stations[c]
        size = (camera.width, round(camera.height * station.stretch))
        fitter = LandmarkFitter(self.head, size, self.fitting, station.middle, self.face)
        rows = np.array(sorted(t for t, number in sights if number == c), int)
        own = [sights[t, c] for t in rows]
        looks = [_squared(sight.look, station) for sight in own]
        points = np.stack([look.points for look in looks]) if own else np.zeros((0, 478, 2))
        told = witnesses(looks, self.head, fitter) if own else []
        crops = [sight.crops for sight in own]
        return View(c, station, fitter, rows, fitter.observe(points), points, told, crops)

    def track(self, known: CaptureTrack | None = None) -> CaptureTrack:
        """From the start to the end; shape, scale and texture as `known`, where they are."""
        state = self.start
        if known is not None:
            state = replace(self._start(math.exp(known.state.log_scale)), shape=known.state.shape)
        # Which cameras look at the face is better known after the first round.
        for rounds in (8, self.fitting.iterations):
            state = self.solve(state, self.counted(state), known is None, rounds)
        textures: Textures = {} if known is None else known.textures
        for _ in range(self.config.dense.rounds):
            views, placed = self.counted(state, aside=True), _Placed(self.params(state), self._metric(state.log_scale))
            for surface in self.surfaces:
                textures = {**textures, **_textures(surface, views, placed, {} if known is None else textures)}
            tied = [
                replace(view, witnesses=[*view.witnesses, *self._tied(view, textures, placed, state)]) for view in views
            ]
            state = self.solve(state, tied, known is None, self.fitting.iterations)
        return self.result(state, textures)

    def solve(self, state: CaptureState, views: list[View], shared: bool, rounds: int) -> CaptureState:
        """The state that some views ask for. shared: whether scale and shape are solved for."""
        return descend(CaptureProblem(self.fitter, views, shared, self.usual_scale), state, not shared, rounds, 1e-4)

    def _tied(self, view: View, textures: Textures, placed: _Placed, state: CaptureState) -> list[Tied]:
        """Where a view's pictures show the parts' textures."""
        tied, dense = [], self.config.dense
        scale = EYES * np.exp(view.state(state).frames.log_scale)
        for surface in self.surfaces:
            count, part = len(surface.points.faces), surface.part
            targets, roots = np.zeros((len(view.rows), count, 2)), np.zeros((len(view.rows), count))
            texture = textures.get((part, view.c if part == "skull" else -1))
            noise = dense.noise if part == "face" else dense.skull_noise
            if part == "face" and not view.faced:
                continue
            for n, (t, crops) in enumerate(zip(view.rows, view.crops, strict=True)):
                if part in crops and texture is not None:
                    camera = placed.cameras[view.c]
                    places, good = surface.followed(crops[part], texture, placed.params, int(t), camera)
                    targets[n], roots[n] = view.station.squared(places), good / (noise * scale[n])
            tied.append(Tied(surface.model, view.station.middle, targets, roots, dense.outlier))
        return tied

    def _start(self, scale: float | None = None) -> CaptureState:
        alone = [(view.rows, view.fitter.start_frames(view.points)) for view in self.views]
        stations = [view.station for view in self.views]
        rotation, origin, scale = first_places(stations, alone, self.times, scale)
        count, times = self.face.num_expr, self.times
        frames = WorldStates(rotation, origin, np.zeros((times, count)), np.zeros((times, 4)), np.zeros(times))
        return CaptureState(math.log(scale), np.zeros(self.face.num_shape), frames)

    def counted(self, state: CaptureState, aside: bool = False) -> list[View]:
        """What cameras saw that look at the face; of a time that only others saw, the one that sees it best. aside:
        and what the others saw of the rest of the head."""
        seen = np.zeros((self.times, len(self.cameras)), bool)
        for view in self.views:
            seen[view.rows, view.c] = True
        angles = np.where(seen, self.angles(state), np.inf)
        kept = seen & ((angles <= self.config.side) | (angles == angles.min(1, keepdims=True)))
        chosen = [view.at(kept[view.rows, view.c]) for view in self.views]
        if aside and any(surface.part == "skull" for surface in self.surfaces):
            others = [view.at(~kept[view.rows, view.c]) for view in self.views]
            chosen += [replace(view, faced=False, witnesses=[]) for view in others]
        return [view for view in chosen if len(view.rows)]

    def angles(self, state: CaptureState) -> np.ndarray:
        """(T, C) degrees between the faces' directions and the cameras'."""
        places = np.exp(state.log_scale) * np.stack([station.center for station in self.stations])
        away = places - state.frames.origin[:, None]
        away /= np.maximum(np.linalg.norm(away, axis=2, keepdims=True), 1e-9)
        cosines = (away * state.frames.rotation[:, None, :, 2]).sum(2)
        found: np.ndarray = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
        return found

    def result(self, state: CaptureState, textures: Textures) -> CaptureTrack:
        """The state in this project's terms."""
        errors = np.full((self.times, len(self.cameras)), np.nan)
        for view in self.counted(state):
            errors[view.rows, view.c] = view.fitter.errors(view.points, view.state(state))
        found = np.isfinite(errors).any(1)
        params = bridged(
            self.params(state).frames(torch.from_numpy(found)), np.flatnonzero(found), np.zeros(self.times, int)
        )
        angles = np.where(found[:, None], self.angles(state), np.nan)
        return CaptureTrack(params, self._metric(state.log_scale), found, errors, angles, state, textures)

    def params(self, state: CaptureState) -> HeadParams:
        """The heads (T) in metres."""
        return self.face.placed(state.shape, state.frames.rotation, state.frames.origin, state.frames)

    def _metric(self, log_scale: float) -> list[Camera]:
        """The cameras in metres."""
        unit = torch.ones(4, 4)
        unit[:3, 3] = float(np.exp(log_scale))
        return [replace(camera, viewmat=camera.viewmat * unit) for camera in self.cameras]


def _usual_scale(start: float, spread: float) -> tuple[float, float]:
    """Mean and standard deviation of the scale's logarithm, by its first estimate."""
    nearest = min((math.log(unit) for unit in _UNITS), key=lambda unit: abs(unit - start))
    return (nearest, spread) if abs(nearest - start) < math.log(_NEAR) else (start, 1.0)


def _squared(look: Look, station: Station) -> Look:
    """What is known of a face, in pixels that are square. Of a face that was seen squeezed, landmarks alone."""
    if abs(station.stretch - 1) > _SQUEEZED:
        return Look(station.squared(look.points))
    middle = None if look.middle is None else station.squared(look.middle)
    return replace(look, points=station.squared(look.points), middle=middle)


@dataclass(frozen=True)
class _Placed:
    """Heads (T) and cameras, in metres."""

    params: HeadParams
    cameras: list[Camera]


def _textures(surface: Surface, views: Sequence[View], placed: _Placed, known: Textures) -> Textures:
    """What a part looks like to all cameras, or to each, where that is not known."""
    if surface.part == "face":
        groups = {-1: [view for view in views if view.faced]}
    else:
        groups = {c: [view for view in views if view.c == c] for c in sorted({view.c for view in views})}
    found = {}
    for c, group in groups.items():
        crops = {
            (int(t), view.c): own[surface.part]
            for view in group
            for t, own in zip(view.rows, view.crops, strict=True)
            if surface.part in own
        }
        if crops and (surface.part, c) not in known:
            found[surface.part, c] = surface.texture(crops, placed.params, placed.cameras)
    return found
