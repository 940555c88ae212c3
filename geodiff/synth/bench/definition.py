"""Who SynthBench shows, and how: everything is drawn from fixed seeds, and a digest names the whole.

A person of the bench has a seed from `FIRST_SEED` on. Training sets draw theirs from seed * 10,000,019 + identity
(`geodiff.synth.shards`), which stays below 2**88 for every set seed below 2**64: no training set holds these people.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from geodiff.head.model import HeadModel
from geodiff.synth.motion import random_expressions
from geodiff.types import Motion

#: Raised whenever people, shots or the rules of scoring change: figures of two versions do not compare.
VERSION = 2
#: People of the set.
IDENTITIES = 16
#: Seed of the first person; see the module's text.
FIRST_SEED = 2**128
#: Borders of the view angles that figures are given for, degrees between the camera's direction and the face's.
ANGLES = (0.0, 30.0, 60.0, 90.0)
#: Reenactment tasks, and their numbers in the random streams.
TASKS = {"self": 1, "cross": 2}
_PORTRAIT, _DRIVING, _AVATAR = 10, 11, 12

#: Expressions at the edge of what faces do: ARKit names and weights.
EXTREMES: tuple[dict[str, float], ...] = (
    {"jawOpen": 1.0, "eyeWideLeft": 0.9, "eyeWideRight": 0.9, "browInnerUp": 0.8},
    {"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0, "jawOpen": 0.35, "cheekSquintLeft": 0.8, "cheekSquintRight": 0.8},
    {"mouthPucker": 1.0, "browDownLeft": 0.7, "browDownRight": 0.7},
    {"mouthFunnel": 1.0, "jawOpen": 0.4, "browOuterUpLeft": 1.0, "browOuterUpRight": 1.0},
    {"mouthFrownLeft": 1.0, "mouthFrownRight": 1.0, "noseSneerLeft": 0.9, "noseSneerRight": 0.9,
     "browDownLeft": 1.0, "browDownRight": 1.0},
    {"mouthLeft": 1.0, "jawLeft": 0.8, "eyeSquintLeft": 0.8, "mouthSmileLeft": 0.5},
    {"mouthRight": 1.0, "jawRight": 0.8, "eyeBlinkRight": 1.0},
    {"mouthUpperUpLeft": 1.0, "mouthUpperUpRight": 1.0, "mouthLowerDownLeft": 1.0, "mouthLowerDownRight": 1.0,
     "jawOpen": 0.25},
    {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0, "mouthPressLeft": 0.9, "mouthPressRight": 0.9},
)  # fmt: skip


@dataclass(frozen=True)
class BenchConfig:
    """How much of the set is shown, and how large.

    identities: people, from the first on. self_shots, cross_shots: frames a person of the two reenactment tasks.
    avatars: people whose avatar is made, from clips of `views` x `steps` frames; `held_views` x `held_steps` frames of
    new views and as many of new expressions are held out. size: side of the frames; photo: of the photographs.
    supersample: samples a pixel along each axis. texture: side of the people's textures.

    Fewer shots are the first ones of more, so the quick form is a part of the standard one.
    """

    identities: int = IDENTITIES
    self_shots: int = 16
    cross_shots: int = 16
    avatars: int = 4
    views: int = 12
    steps: int = 16
    held_views: int = 4
    held_steps: int = 4
    size: int = 256
    photo: int = 512
    supersample: int = 3
    texture: int = 768

    @staticmethod
    def quick(**changes: int) -> BenchConfig:
        """32 generated frames, and one avatar of few frames."""
        few = {"self_shots": 1, "cross_shots": 1, "avatars": 1, "views": 6, "steps": 6, "held_views": 2,
               "held_steps": 2}  # fmt: skip
        return BenchConfig(**{**few, **changes})

    def shots(self, task: str) -> int:
        """Frames a person of a reenactment task."""
        return {"self": self.self_shots, "cross": self.cross_shots}[task]


@dataclass(frozen=True)
class Lens:
    """A photograph's camera: yaw, elevation, roll in degrees, distance in metres, the head's height as a share of the
    side."""

    yaw: float
    elevation: float
    roll: float
    distance: float
    share: float


@dataclass(frozen=True)
class Shot:
    """One frame to be generated.

    identity: who is shown. driver: whose face drives. number: of the shot. yaw, elevation: degrees. motion: T = 1.
    extreme: whether the expression is one of EXTREMES.
    """

    task: str
    identity: int
    driver: int
    number: int
    yaw: float
    elevation: float
    motion: Motion
    extreme: bool

    @property
    def angle(self) -> float:
        return view_angle(self.yaw, self.elevation)


def identity_seed(identity: int) -> int:
    """Seed of a person of the bench."""
    return FIRST_SEED + identity


def stream(identity: int, *purpose: int) -> np.random.Generator:
    """Random numbers of a person for one purpose, apart from those that made the person."""
    return np.random.default_rng([identity_seed(identity), *purpose])


def view_angle(yaw: float, elevation: float) -> float:
    """Degrees between the direction to a camera and that in which the face looks."""
    return math.degrees(math.acos(math.cos(math.radians(yaw)) * math.cos(math.radians(elevation))))


def angle_bin(angle: float) -> int:
    """Number of the range of `ANGLES` that holds an angle."""
    return int(np.clip(np.searchsorted(ANGLES, angle, side="right") - 1, 0, len(ANGLES) - 2))


def portrait(identity: int) -> tuple[Motion, Lens]:
    """The photograph that a method is given: a mild expression, about frontal."""
    rng = stream(identity, _PORTRAIT)
    motion = random_expressions(rng, 1, mild=True)
    yaw, elevation, roll = np.clip(rng.normal(0, [12, 5, 4]), -28, 28)
    distance = math.exp(rng.uniform(math.log(0.6), math.log(1.6)))
    return motion, Lens(float(yaw), float(elevation), float(roll), distance, float(rng.uniform(0.45, 0.6)))


def driving(identity: int) -> Lens:
    """The camera that films a person who drives."""
    rng = stream(identity, _DRIVING)
    yaw, elevation = rng.uniform(-20, 20), rng.uniform(-8, 8)
    return Lens(float(yaw), float(elevation), 0.0, float(rng.uniform(0.7, 1.3)), float(rng.uniform(0.5, 0.62)))


def shot(task: str, identity: int, number: int) -> Shot:
    """One shot of a reenactment task. View angles and extreme expressions are spread evenly over the set."""
    rng = stream(identity, TASKS[task], number)
    turn = number * IDENTITIES + identity + 4 * (task == "cross")
    yaw, elevation = _view(rng, turn % (len(ANGLES) - 1))
    extreme = (turn // 3) % 3 == 2
    motion = extreme_motion(rng, turn // 9) if extreme else random_expressions(rng, 1)
    driver = identity if task == "self" else (identity + 1 + (4 * number) % (IDENTITIES - 1)) % IDENTITIES
    return Shot(task, identity, driver, number, yaw, elevation, motion, extreme)


def avatar_motions(identity: int, count: int, held: int) -> tuple[Motion, Motion]:
    """Expressions of an avatar's clips, and new ones that are held out, every second of them extreme."""
    rng = stream(identity, _AVATAR, 0)
    seen = [random_expressions(rng, 1) for _ in range(count)]
    rng = stream(identity, _AVATAR, 1)
    new = [extreme_motion(rng, identity + n) if n % 2 else random_expressions(rng, 1) for n in range(held)]
    return join(seen), join(new)


def avatar_views(identity: int, held: int) -> list[tuple[float, float]]:
    """Yaw and elevation in degrees of an avatar's held-out views, spread over the view angles."""
    rng = stream(identity, _AVATAR, 2)
    return [_view(rng, n % (len(ANGLES) - 1)) for n in range(1, held + 1)]


def join(parts: list[Motion]) -> Motion:
    """Motions one after the other; names that a part lacks are 0 there."""
    names = sorted({name for part in parts for name in part.weights})
    rest = [np.zeros(part.num_frames, np.float32) for part in parts]
    pairs = list(zip(parts, rest, strict=True))
    weights = {name: np.concatenate([p.weights.get(name, zero) for p, zero in pairs]) for name in names}
    return Motion(weights, np.concatenate([p.rotation for p in parts]), np.concatenate([p.gaze for p in parts]))


def at_rest() -> Motion:
    """One frame without expression."""
    return Motion({}, np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32))


def digest(config: BenchConfig, truth: HeadModel) -> str:
    """Sixteen hexadecimal digits that name the standard set on a head: all that is drawn, to five decimals."""
    people = []
    for identity in range(IDENTITIES):
        motion, lens = portrait(identity)
        standard = BenchConfig()
        shots = [_described(shot(task, identity, n)) for task in TASKS for n in range(standard.shots(task))]
        avatar = [_numbers(part) for part in avatar_motions(identity, standard.steps, standard.held_steps)]
        lenses = [vars(lens), vars(driving(identity))]
        people.append([_numbers(motion), lenses, shots, avatar, avatar_views(identity, standard.held_views)])
    sizes = {name: getattr(config, name) for name in ("size", "photo", "supersample", "texture")}
    text = json.dumps([VERSION, truth.hash, sizes, _rounded(people)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _view(rng: np.random.Generator, number: int) -> tuple[float, float]:
    """Yaw and elevation whose view angle is uniform in range `number` of `ANGLES`."""
    angle = rng.uniform(ANGLES[number], ANGLES[number + 1])
    elevation = rng.uniform(-min(20.0, angle), min(30.0, angle))
    yaw = math.degrees(math.acos(min(1.0, math.cos(math.radians(angle)) / math.cos(math.radians(elevation)))))
    return float(yaw if rng.random() < 0.5 else -yaw), float(elevation)


def extreme_motion(rng: np.random.Generator, number: int) -> Motion:
    """One of EXTREMES (T = 1), gaze drawn at random."""
    weights = {name: np.array([value], np.float32) for name, value in EXTREMES[number % len(EXTREMES)].items()}
    gaze = np.clip(rng.normal(0, [0.16, 0.09]), -0.4, 0.4).astype(np.float32)
    return Motion(weights, np.zeros((1, 3), np.float32), gaze[None])


def _numbers(motion: Motion) -> dict[str, Any]:
    weights = {name: values.tolist() for name, values in motion.weights.items()}
    return {"weights": weights, "gaze": motion.gaze.tolist()}


def _described(one: Shot) -> list[Any]:
    return [one.task, one.identity, one.driver, one.number, one.yaw, one.elevation, _numbers(one.motion)]


def _rounded(value: Any) -> Any:
    """Numbers to five decimals, so that no machine's last bit changes the digest."""
    if isinstance(value, float):
        return round(value, 5) + 0.0
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(part) for part in value]
    return value
