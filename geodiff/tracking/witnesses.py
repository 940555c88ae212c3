"""What is known of frames by something else than their landmarks' places: further witnesses for the fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from scipy.spatial.transform import Rotation

from geodiff.head.builtin import load_builtin
from geodiff.head.model import HeadModel
from geodiff.tracking.accuracy import TemplateOffset
from geodiff.tracking.face_model import FaceModel
from geodiff.tracking.movements import jaw_movement
from geodiff.tracking.refine import UPRIGHT, Look, load_refiner

if TYPE_CHECKING:
    from geodiff.tracking.fit import FitState, LandmarkFitter
    from geodiff.tracking.systems import Normals

#: What parts the lips, in ARKit's names, and by how much a look at the face may err there, 1 being all of each.
PARTING = ("jawOpen", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight")
LOOSE = 0.2
#: The landmark of the chin, which moves with the lower teeth.
CHIN = 152

_rests: WeakKeyDictionary[HeadModel, np.ndarray] = WeakKeyDictionary()


class Witness(Protocol):
    """Something that is known of all frames of a fit, with how surely."""

    def __getitem__(self, part: slice | np.ndarray) -> Witness:
        """What is known of some of the frames."""
        ...

    def energies(self, state: FitState) -> np.ndarray:
        """(T,) energy by frame: squares of how far the frames are from what is known, in standard deviations."""
        ...

    def add(self, normals: Normals, state: FitState, shared: bool) -> None:
        """Adds half of the energy's gradient and Gauss-Newton's matrix; shared: by the common unknowns as well."""
        ...


@dataclass(frozen=True)
class Turned:
    """How the heads of T frames were seen to be turned.

    rotations: (T, 3, 3) from the tracking head's rest pose to x right, y up, z towards the viewer, as seen along the
    rays through middles (T, 2) of the picture, whose principal point is `centre` (2,). spread: (T,) standard deviation
    of their rotations about each axis, radians, above 0.
    """

    rotations: np.ndarray
    middles: np.ndarray
    centre: np.ndarray
    spread: np.ndarray

    def __getitem__(self, part: slice | np.ndarray) -> Turned:
        return replace(self, rotations=self.rotations[part], middles=self.middles[part], spread=self.spread[part])

    def apart(self, state: FitState) -> tuple[np.ndarray, np.ndarray]:
        """(T, 3) axis-angle by which heads would have to be turned further to be turned as they were seen, and its
        derivative (T, 3) by the logarithm of the focal length, which decides how far aside the rays are."""
        aside = (self.middles - self.centre) * [1, -1] / np.exp(state.log_focal)
        slope = np.linalg.norm(aside, axis=1, keepdims=True)
        # The smallest rotations from the optical axis to the rays.
        axes = np.stack([aside[:, 1], -aside[:, 0], 0 * aside[:, 0]], 1) / np.maximum(slope, 1e-12)
        rays = Rotation.from_rotvec(np.arctan(slope) * axes).as_matrix()
        turns = rays @ self.rotations @ state.frames.rotation.transpose(0, 2, 1)
        return Rotation.from_matrix(turns).as_rotvec(), -slope / (1 + slope**2) * axes

    def energies(self, state: FitState) -> np.ndarray:
        return (self.apart(state)[0] ** 2).sum(1) / self.spread**2

    def add(self, normals: Normals, state: FitState, shared: bool) -> None:
        apart, by_focal = self.apart(state)
        trust = 1 / self.spread[:, None] ** 2
        normals.frames[:, range(3), range(3)] += trust
        normals.gradient.frames[:, :3] -= trust * apart
        if shared:
            normals.cross[:, :3, 0] -= trust * by_focal
            normals.shared[0, 0] += (trust * by_focal**2).sum()
            normals.gradient.shared[0] += (trust * by_focal * apart).sum()


@dataclass(frozen=True)
class Moved:
    """How expressions were seen to move the landmarks of T frames.

    reading: (K, E + 1) coefficients of the movements by the head's expression and its jaw's angle. coefficients: (T, K)
    as they were seen. roots: (T, K, K) by which their errors are multiplied to be of unit covariance.
    """

    reading: np.ndarray
    coefficients: np.ndarray
    roots: np.ndarray

    @staticmethod
    def known(reading: np.ndarray, coefficients: np.ndarray, spread: np.ndarray, loose: np.ndarray) -> Moved:
        """spread: (T, K) standard deviations, above 0. loose: (T, J, K) more movements, each of which may be wrong by
        its own length."""
        covariance = loose.transpose(0, 2, 1) @ loose
        covariance[:, range(spread.shape[1]), range(spread.shape[1])] += spread**2
        return Moved(reading, coefficients, np.linalg.inv(np.linalg.cholesky(covariance)))

    def __getitem__(self, part: slice | np.ndarray) -> Moved:
        return replace(self, coefficients=self.coefficients[part], roots=self.roots[part])

    def _apart(self, state: FitState) -> np.ndarray:
        """(T, K) in standard deviations."""
        told = np.concatenate([state.frames.expr, state.frames.jaw[:, None]], 1)
        return (self.roots @ (told @ self.reading.T - self.coefficients)[..., None])[..., 0]

    def energies(self, state: FitState) -> np.ndarray:
        return (self._apart(state) ** 2).sum(1)

    def add(self, normals: Normals, state: FitState, shared: bool) -> None:
        columns, slopes = _expression_columns(normals, self.reading.shape[1]), self.roots @ self.reading
        normals.frames[:, np.array(columns)[:, None], columns] += slopes.transpose(0, 2, 1) @ slopes
        normals.gradient.frames[:, columns] += (self._apart(state)[:, None] @ slopes)[:, 0]


@dataclass(frozen=True)
class Bitten:
    """How far apart the teeth of T frames were seen to be.

    reading: (E + 1,) metres by which the head's expression and its jaw's angle part them. opening: (T,) metres. trust:
    (T,) inverse of its standard deviation, 0 where no teeth were seen.
    """

    reading: np.ndarray
    opening: np.ndarray
    trust: np.ndarray

    def __getitem__(self, part: slice | np.ndarray) -> Bitten:
        return replace(self, opening=self.opening[part], trust=self.trust[part])

    def _apart(self, state: FitState) -> np.ndarray:
        """(T,) in standard deviations."""
        told = np.concatenate([state.frames.expr, state.frames.jaw[:, None]], 1)
        return self.trust * (told @ self.reading - self.opening)

    def energies(self, state: FitState) -> np.ndarray:
        return self._apart(state) ** 2

    def add(self, normals: Normals, state: FitState, shared: bool) -> None:
        columns, slopes = _expression_columns(normals, len(self.reading)), self.trust[:, None] * self.reading
        normals.frames[:, np.array(columns)[:, None], columns] += slopes[:, :, None] * slopes[:, None]
        normals.gradient.frames[:, columns] += self._apart(state)[:, None] * slopes


def _expression_columns(normals: Normals, count: int) -> list[int]:
    """Where the expression and the jaw's angle, `count` in all, are in a frame's unknowns: six of the pose come before
    them, and four of the gaze between them."""
    return [*range(6, 5 + count), normals.frames.shape[1] - 1]


def witnesses(looks: Sequence[Look], head: HeadModel, fitter: LandmarkFitter) -> list[Witness]:
    """What looks at all frames tell beside the landmarks, in terms of the head that tracks, as firmly as the fit
    believes it."""
    config, rest = fitter.config, _from_builtin(head)
    found: list[Witness] = []
    rotations = [look.rotation for look in looks if look.rotation is not None]
    middles = [look.middle for look in looks if look.middle is not None]
    if config.turned > 0 and len(rotations) == len(middles) == len(looks):
        spread = config.turned * np.array([look.spread for look in looks])
        found.append(Turned(UPRIGHT @ np.stack(rotations) @ rest.T, np.stack(middles), fitter.middle, spread))
    bitten = _bitten(looks, head, fitter)
    if bitten is not None:
        found.append(bitten)
    movements = [look.movement for look in looks if look.movement is not None]
    if config.moved > 0 and len(movements) == len(looks):
        known = load_refiner().movements
        spreads = config.moved * np.array([look.doubt for look in looks])[:, None] * known.errors
        # Where teeth tell how far the jaw is open, a guess by the face's look does not count, nor what follows from it.
        sure = np.zeros(len(looks)) if bitten is None else bitten.trust * config.bitten
        loose = LOOSE * sure[:, None, None] * _parting()
        found.append(Moved.known(known.reading(fitter.face, rest), np.stack(movements), spreads, loose))
    return found


def _bitten(looks: Sequence[Look], head: HeadModel, fitter: LandmarkFitter) -> Bitten | None:
    """What the teeth tell, where any were seen."""
    bites = [look.bite for look in looks if look.bite is not None]
    face = fitter.face
    if fitter.config.bitten == 0 or len(bites) != len(looks) or CHIN not in face.indices:
        return None
    sure = np.array([bite.sure for bite in bites])
    if not sure.any():
        return None
    scale = np.exp(fitter.start_frames(np.stack([look.points for look in looks])).log_scale)
    chin = int(np.flatnonzero(face.indices == CHIN)[0])
    moved = np.concatenate([face.expr[chin].T, jaw_movement(face)[:, chin]])
    # Lips move the chin's skin as well; where names tell them apart, only what moves the jaw counts.
    named = [name.startswith("jaw") for name in head.expression_names]
    parts = np.array([*(named if any(named) else [True] * len(named)), True])
    reading = parts * (moved @ _from_builtin(head) @ [0.0, -1.0, 0.0])
    return Bitten(reading, np.array([bite.opening for bite in bites]) / scale, sure / fitter.config.bitten)


@lru_cache(maxsize=1)
def _parting() -> np.ndarray:
    """(J, K) coefficients of the movements that part the lips."""
    head = load_builtin()
    reading = load_refiner().movements.reading(FaceModel(head), np.eye(3))
    return reading[:, [head.expression_names.index(name) for name in PARTING]].T


def _from_builtin(head: HeadModel) -> np.ndarray:
    """(3, 3) the rotation from the builtin head's rest pose to a head's."""
    if head not in _rests:
        builtin = load_builtin()
        _rests[head] = np.eye(3) if head is builtin else TemplateOffset.between(builtin, head).rotation
    return _rests[head]
