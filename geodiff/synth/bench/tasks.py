"""The reenactment tasks: what a generator is asked for, and its frames beside the true ones and the proposal's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from geodiff.conditioning import Condition, Reference
from geodiff.errors import FaceError
from geodiff.head.model import HeadModel
from geodiff.metrics.picture import Picture
from geodiff.metrics.registry import Metric, Setup
from geodiff.synth.bench.definition import BenchConfig, Shot, shot
from geodiff.synth.bench.observe import KINDS, Expression, Kind, Observer, understand, understood
from geodiff.synth.bench.people import Person
from geodiff.synth.bench.scores import Score, measure, sized
from geodiff.types import Camera, HeadParams

#: Numbers of the first driving frames, which decide their grain; those of avatars' clips start at 3000.
_FILMS = {"self": 1000, "cross": 2000}


@dataclass(frozen=True)
class Request:
    """What a method is given to make T frames of one person.

    photo: (H, W, 3) uint8, the portrait as it was taken; reference: the same, tracked and under the crop rule.
    driving: T driving photographs, uint8. crops: (T, 64, 64, 3) float32 0..1, their faces on white. params: T frames,
    the driving expressions on the portrait's identity. cameras: T of the reference's world, of the method's size.
    conditions: T, ready made; a method may use them or not. shots: which frames these are.
    """

    head: HeadModel
    photo: np.ndarray
    reference: Reference
    driving: list[np.ndarray]
    crops: np.ndarray
    params: HeadParams
    cameras: list[Camera]
    conditions: list[Condition]
    shots: list[Shot]

    def __len__(self) -> int:
        return len(self.shots)


class Method(Protocol):
    """A generator. name: in tables. size: side of the frames that it makes, pixels. A call makes a picture of each
    frame of a request: image 0..1 on white, and alpha and unit normals where it has them."""

    name: str
    size: int

    def __call__(self, request: Request) -> list[Picture]: ...


class Proposal:
    """The baseline that every generator has to beat: the portrait's own pixels carried by the mesh, holes filled."""

    def __init__(self, size: int = 256, name: str = "proposal") -> None:
        self.size, self.name = size, name

    def __call__(self, request: Request) -> list[Picture]:
        return [proposed(condition) for condition in request.conditions]


def proposed(condition: Condition) -> Picture:
    return Picture(condition.proposal, condition.silhouette, condition.normals)


@dataclass(frozen=True)
class Compared:
    """One frame with all that belongs to it, for the sheet."""

    reference: np.ndarray
    driving: np.ndarray
    truth: Picture
    proposal: Picture
    result: Picture


@dataclass(frozen=True)
class Outcome:
    """scores: of all frames. shown: the first frames under tracked parameters. lost: frames that could not be asked
    for, in words."""

    scores: list[Score]
    shown: list[Compared]
    lost: list[str]


class Bench:
    """The set on one head of people (`truth`), with the head that conditions; head_spec: where that one is from.

    People are made when they are first met, and kept.
    """

    def __init__(
        self, truth: HeadModel, head: HeadModel, config: BenchConfig | None = None, head_spec: str = "builtin"
    ) -> None:
        self.truth, self.head, self.config, self.head_spec = truth, head, config or BenchConfig(), head_spec
        self._people: dict[int, Person] = {}
        self._observers: dict[tuple[int, Kind, int], Observer] = {}

    def person(self, identity: int) -> Person:
        if identity not in self._people:
            self._people[identity] = Person(self.truth, identity, self.config)
        return self._people[identity]

    def observer(self, identity: int, kind: Kind, size: int) -> Observer:
        """How a person's portrait is understood; kept until another person's is asked for. Raises FaceError."""
        key = identity, kind, size
        if key not in self._observers:
            self._observers = {k: one for k, one in self._observers.items() if k[0] == identity}
            self._observers[key] = _observer(self.person(identity), self.head, kind, size)
        return self._observers[key]

    def shots(self, task: str, identity: int) -> list[Shot]:
        return [shot(task, identity, number) for number in range(self.config.shots(task))]

    def run(
        self,
        task: str,
        identity: int,
        method: Method,
        metrics: Sequence[Metric],
        kinds: Sequence[Kind] = KINDS,
        setup: Setup | None = None,
        step: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """One person's frames of a task, made by a method and scored. step: called after every scored frame."""
        shots, setup = self.shots(task, identity), setup or Setup()
        truths = {one.number: self.person(identity).shown(one) for one in shots}
        scores: list[Score] = []
        shown: list[Compared] = []
        lost: list[str] = []
        for kind in kinds:
            request, reasons = self.request(shots, method.size, kind)
            lost += reasons
            if request is None:
                continue
            results = method(request)
            for number, one in enumerate(request.shots):
                result = sized(results[number], self.config.size)
                baseline = sized(proposed(request.conditions[number]), self.config.size)
                seen = sized(Picture(request.conditions[number].visibility), self.config.size).image
                for name, picture in (("result", result), ("proposal", baseline)):
                    figures, missing = measure(picture, truths[one.number], seen, metrics, setup)
                    expression = "extreme" if one.extreme else "ordinary"
                    place = (one.task, one.identity, one.number, round(one.angle, 2), expression, kind, name)
                    scores.append(Score(*place, figures, missing))
                if kind == kinds[0]:
                    truth = truths[one.number]
                    driver = request.driving[number]
                    shown.append(Compared(request.reference.image, driver, truth, baseline, result))
                step()
        return Outcome(scores, shown, lost)

    def request(self, shots: Sequence[Shot], size: int, kind: Kind) -> tuple[Request | None, list[str]]:
        """What a method of this size is asked for, and which shots could not be asked for, in words."""
        person = self.person(shots[0].identity)
        try:
            observer = self.observer(person.identity, kind, size)
        except FaceError:
            return None, [f"{_named(one)}, {kind}: the tracker finds no face in the portrait" for one in shots]
        kept: list[Shot] = []
        expressions: list[Expression] = []
        films: list[np.ndarray] = []
        lost = []
        for one in shots:
            driver = self.person(one.driver)
            film = driver.film(one.motion, _FILMS[one.task] + one.number)
            try:
                expressions.append(understand(driver, film, self.head, kind))
                kept.append(one)
                films.append(film.image)
            except FaceError:
                lost.append(f"{_named(one)}, {kind}: the tracker finds no face in the driving frame")
        if not kept:
            return None, lost
        params = [observer.carried(expression) for expression in expressions]
        cameras = [observer.camera(person.camera(one.yaw, one.elevation)) for one in kept]
        pairs = zip(params, cameras, strict=True)
        return Request(
            head=self.head,
            photo=person.photo.image,
            reference=observer.reference,
            driving=films,
            crops=np.stack([expression.crop for expression in expressions]),
            params=HeadParams.concatenate(params),
            cameras=cameras,
            conditions=[observer.condition(own, camera) for own, camera in pairs],
            shots=kept,
        ), lost


def _observer(person: Person, head: HeadModel, kind: Kind, size: int) -> Observer:
    return Observer(person, head, understood(person, head, kind), size)


def _named(one: Shot) -> str:
    return f"{one.task} {one.identity}.{one.number}"
