"""Whether the expression latent is alive: what a generator makes of a driving face that the proposal does not show.

A trial asks for one frame, from the front, of a person with a strong expression, in several ways (`CASES`). How well
the expression arrives is read from the frames by the tracker: weights and jaw, fitted together with the person's own
resting face in the same camera, so that they are not taken for identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from geodiff.conditioning import Condition, Reference
from geodiff.errors import FaceError
from geodiff.head.model import HeadModel
from geodiff.metrics.image import psnr
from geodiff.metrics.picture import Pair, Picture
from geodiff.synth.bench.definition import IDENTITIES, at_rest, extreme_motion, stream
from geodiff.synth.bench.observe import Expression, fitted, understand
from geodiff.synth.bench.people import Person, Photo
from geodiff.synth.bench.scores import sized
from geodiff.synth.bench.tasks import Bench, proposed
from geodiff.synth.motion import random_expressions
from geodiff.tracking.track import choose_face
from geodiff.types import HeadParams, Motion

#: Degrees between the camera that films the driver in the usual cases and the one of "another view".
TURN = 60.0
_EXPRESSION, _FILMS = 13, 5000

#: What is given and what is made of it. The pose map never holds an expression.
CASES: dict[str, str] = {
    "truth": "true frame",
    "truth at rest": "true frame of the face at rest",
    "proposal": "proposal with the tracked expression",
    "proposal at rest": "proposal at rest",
    "in use": "generated: tracked proposal, the driver's latent",
    "latent": "generated: proposal at rest, the driver's latent",
    "null": "generated: proposal at rest, null latent",
    "latent from another view": f"generated: tracked proposal, the latent from {TURN:.0f} degrees aside",
    "all from another view": f"generated: proposal and latent tracked from {TURN:.0f} degrees aside",
    "another person": "generated: proposal and latent from another person with the same expression",
}
_GIVEN = ("truth", "truth at rest", "proposal", "proposal at rest")


@dataclass(frozen=True)
class Ask:
    """One frame that is asked for. case: a key of CASES. crop: (64, 64, 3) float32 0..1 of the driving face, None for
    the null latent."""

    case: str
    condition: Condition
    crop: np.ndarray | None


class Maker(Protocol):
    """A generator that may finish its frames in several ways. size: side of the frames, pixels. A call makes all frames
    from the same noise: name of the way -> a picture for each ask."""

    size: int

    def __call__(self, reference: Reference, asks: Sequence[Ask], seed: int) -> dict[str, list[Picture]]: ...


@dataclass(frozen=True)
class Row:
    """One frame measured. way: of finishing, empty for what no generator made. psnr: dB, inside the dilated true matte.
    error: mean absolute difference of expression weights and jaw to the driver's; None where no face was found."""

    identity: int
    number: int
    extreme: bool
    way: str
    case: str
    psnr: float
    error: float | None


@dataclass(frozen=True)
class Measured:
    """rows: of all trials. lost: trials that could not be asked for, in words."""

    rows: list[Row]
    lost: list[str]

    def record(self) -> dict[str, Any]:
        return {"rows": [asdict(row) for row in self.rows], "lost": self.lost}


#: Landmarks (478, 2) of a picture in pixels, None where it shows no face.
Look = Callable[[Picture], "np.ndarray | None"]


def expression_of(identity: int, number: int) -> tuple[Motion, bool]:
    """The expression of a trial (T = 1), and whether it is one at the edge of what faces do: every second is."""
    rng = stream(identity, _EXPRESSION, number)
    if (identity + number) % 2:
        return extreme_motion(rng, identity // 2 + 4 * number), True
    # Of several, the strongest: of a mild one neither a live nor a dead latent could be told.
    drawn = [random_expressions(rng, 1) for _ in range(4)]
    return max(drawn, key=lambda one: sum(float(values[0]) for values in one.weights.values())), False


def read_expression(points: np.ndarray, rest: np.ndarray, side: int, head: HeadModel) -> np.ndarray:
    """(E + 3,) weights and jaw rotation in landmarks (478, 2), seen beside the same person's at rest; side: of both
    pictures, pixels."""
    return coefficients(fitted(np.stack([rest, points]), side, head).params.frame(1))


def coefficients(params: HeadParams) -> np.ndarray:
    """(E + 3,) expression coefficients and the jaw's rotation in radians, T = 1."""
    return np.concatenate([params.expr[0].numpy(), params.jaw_pose[0].numpy()]).astype(np.float64)


def measure_expression(
    bench: Bench,
    maker: Maker,
    people: int,
    shots: int,
    look: Look | None = None,
    step: Callable[[], object] = lambda: None,
) -> Measured:
    """`shots` trials of each of the first `people` people. look: finds landmarks, the tracker's detector by default."""
    rows: list[Row] = []
    lost: list[str] = []
    for identity in range(people):
        for number in range(shots):
            try:
                rows += _trial(bench, maker, identity, number, look or (lambda picture: picture.landmarks))
            except FaceError as error:
                lost.append(f"{identity}.{number}: {error}")
            step()
    return Measured(rows, lost)


def _trial(bench: Bench, maker: Maker, identity: int, number: int, look: Look) -> list[Row]:
    person, head, side = bench.person(identity), bench.head, bench.config.size
    motion, extreme = expression_of(identity, number)
    truth_camera = person.camera(0.0, 0.0)
    truth, rest = (person.truth(one, [truth_camera])[0] for one in (motion, at_rest()))
    aside, other = (TURN if (identity + number) % 4 < 2 else -TURN), bench.person((identity + 1) % IDENTITIES)
    own, film = _understood(person, motion, 0.0, number, head)
    turned, _ = _understood(person, motion, aside, number, head)
    theirs, _ = _understood(other, motion, 0.0, number, head)

    observer = bench.observer(identity, "tracked", maker.size)
    camera = observer.camera(truth_camera, maker.size)
    still = head.motion_params(at_rest(), observer.reference.params)
    shown = {name: observer.condition(observer.carried(one), camera)
             for name, one in (("own", own), ("turned", turned), ("theirs", theirs))}  # fmt: skip
    neutral = observer.condition(still, camera)
    asks = [
        Ask("in use", shown["own"], own.crop),
        Ask("latent", neutral, own.crop),
        Ask("null", neutral, None),
        Ask("latent from another view", shown["own"], turned.crop),
        Ask("all from another view", shown["turned"], turned.crop),
        Ask("another person", shown["theirs"], theirs.crop),
    ]
    given = [truth, rest, proposed(shown["own"]), proposed(neutral)]
    made = [("", case, picture) for case, picture in zip(_GIVEN, given, strict=True)]
    for way, pictures in maker(observer.reference, asks, 1000 * identity + number).items():
        made += [(way, ask.case, picture) for ask, picture in zip(asks, pictures, strict=True)]

    at_ease = look(rest)
    # The driving frame is read as the others are, whatever the tracker makes of it.
    seen = [choose_face(one.faces, None).points for one in (film, person.rest)]
    wanted = read_expression(seen[0], seen[1], len(film.image), head)
    rows = []
    for way, case, picture in made:
        result = sized(picture, side)
        points = look(result)
        error = None
        if points is not None and at_ease is not None:
            error = float(np.abs(read_expression(points, at_ease, side, head) - wanted).mean())
        decibels = psnr(result.image, truth.image, Pair(result, truth).region)
        rows.append(Row(identity, number, extreme, way, case, decibels, error))
    return rows


def _understood(driver: Person, motion: Motion, yaw: float, number: int, head: HeadModel) -> tuple[Expression, Photo]:
    """The driver's expression, and the frame that shows it."""
    film = driver.filmed_from(motion, yaw, 0.0, _FILMS + number)
    try:
        return understand(driver, film, head, "tracked"), film
    except FaceError as error:
        raise FaceError(f"the tracker finds no face in the driving frame from {yaw:.0f} degrees") from error


def table(measured: Measured) -> str:
    """Means over the trials in whose every frame a face was found, and the goals' figures, as Markdown."""
    rows, count = _complete(measured.rows)
    if not count:
        return "No trial could be measured.\n"
    ways = [way for way in dict.fromkeys(row.way for row in rows) if way]
    lines = [f"| {count} trials | {' | '.join(f'expression error, {w} | PSNR, dB, {w}' for w in ways)} |"]
    lines.append("|---" * (1 + 2 * len(ways)) + "|")
    for case, words in CASES.items():
        cells = [f"{_mean(rows, way, case, 'error'):.4f} | {_mean(rows, way, case, 'psnr'):.2f}" for way in ways]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    lines += ["", f"| goal | {' | '.join(ways)} |", "|---" * (1 + len(ways)) + "|"]
    found = [goals(rows, way) for way in ways]
    lines += [f"| {name} | {' | '.join(f'{one[name]:.2f}' for one in found)} |" for name in found[0]]
    return "\n".join([*lines, *([""] if measured.lost else []), *(f"- {text}" for text in measured.lost)]) + "\n"


def goals(rows: Sequence[Row], way: str) -> dict[str, float]:
    """The figures that say whether the latent is alive, of complete trials."""

    def error(case: str) -> float:
        return _mean(rows, way, case, "error")

    def decibels(case: str) -> float:
        return _mean(rows, way, case, "psnr")

    return {
        "error by the latent alone / at rest (goal: at most 0.5)": error("latent") / error("truth at rest"),
        "error with the null latent / with the driver's (goal: at least 1.5)": error("null") / error("latent"),
        "dB lost by another view's latent (goal: below 1)": decibels("in use") - decibels("latent from another view"),
        "dB lost by tracking another view (goal: below 1)": decibels("in use") - decibels("all from another view"),
        "dB lost by another person's driving (goal: at most 1)": decibels("in use") - decibels("another person"),
    }


def _complete(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Rows of the trials in which everything was measured, and the number of those trials."""
    blind = {(row.identity, row.number) for row in rows if row.error is None}
    kept = [row for row in rows if (row.identity, row.number) not in blind]
    return kept, len({(row.identity, row.number) for row in kept})


def _mean(rows: Sequence[Row], way: str, case: str, figure: str) -> float:
    wanted = "" if case in _GIVEN else way
    return float(np.mean([getattr(row, figure) for row in rows if row.way == wanted and row.case == case]))
