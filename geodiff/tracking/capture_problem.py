"""What several cameras saw of heads, as one sum of squares over the heads' places in the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geodiff.tracking.dense import Crop
from geodiff.tracking.fit import FitState, LandmarkFitter, Observed
from geodiff.tracking.systems import Normals, Unknowns
from geodiff.tracking.witnesses import Witness
from geodiff.tracking.world import Station, WorldStates, add_seen

#: Metres before a camera from which on heads are, and the energy of one that is not.
NEAREST, FORBIDDEN = 0.05, 1e12


@dataclass(frozen=True)
class CaptureState:
    """The solver's unknowns: logarithm of the metres in the cameras' unit, shape (S,), and the heads at T times."""

    log_scale: float
    shape: np.ndarray
    frames: WorldStates


@dataclass(frozen=True)
class View:
    """What camera number c saw at the times `rows` (N,). points: (N, 478, 2) pixels as if they were square. faced:
    whether it looks at the face; otherwise its landmarks do not count."""

    c: int
    station: Station
    fitter: LandmarkFitter
    rows: np.ndarray
    seen: Observed
    points: np.ndarray
    witnesses: list[Witness]
    crops: list[dict[str, Crop]]
    faced: bool = True

    def at(self, kept: np.ndarray) -> View:
        """The times `kept` (N,) bool alone."""
        where = np.flatnonzero(kept)
        return replace(
            self,
            rows=self.rows[where],
            seen=self.seen[where],
            points=self.points[where],
            witnesses=[witness[where] for witness in self.witnesses],
            crops=[self.crops[n] for n in where],
        )

    def state(self, world: CaptureState) -> FitState:
        """The heads as the camera sees them."""
        states = self.station.seen(world.frames[self.rows], world.log_scale)
        return FitState(self.station.log_focal, world.shape, states)

    def energies(self, world: CaptureState) -> np.ndarray:
        """(N,) energy of what was seen. A head is not where the camera cannot see it."""
        state = self.state(world)
        if self.faced:
            energies = self.fitter.seen_energies(self.seen, state, self.witnesses)
        else:
            energies = sum((witness.energies(state) for witness in self.witnesses), np.zeros(len(self.rows)))
        near = state.frames.log_scale > self.station.log_focal - np.log(NEAREST)
        return np.where(near, FORBIDDEN, energies)

    def normals(self, world: CaptureState, shared: bool) -> Normals:
        """Gauss-Newton's matrix and gradient of it, by the camera's own unknowns."""
        state = self.state(world)
        if self.faced:
            return self.fitter.seen_normals(self.seen, state, shared, self.witnesses)
        normals = self.fitter.no_normals(len(self.rows))
        for witness in self.witnesses:
            witness.add(normals, state, shared)
        return normals


@dataclass(frozen=True)
class CaptureProblem:
    """What some views saw, as a problem for `descend`.

    shared: whether scale and shape are solved for. usual_scale: what is believed of the scale's logarithm, mean and
    standard deviation.
    """

    fitter: LandmarkFitter
    views: Sequence[View]
    shared: bool
    usual_scale: tuple[float, float]

    def energies(self, state: CaptureState) -> np.ndarray:
        energies = self.fitter.usual.energies(state.frames)
        for view in self.views:
            energies[view.rows] += view.energies(state)
        scale, trust = self._scale(state), self.fitter.config.shape_prior**2
        return np.append(energies, scale**2 + trust * (state.shape**2).sum())

    def normals(self, state: CaptureState) -> Normals:
        normals = self.fitter.no_normals(len(state.frames))
        for view in self.views:
            slopes = view.station.slopes(state.frames[view.rows], state.log_scale)
            add_seen(normals, view.rows, view.normals(state, self.shared), slopes)
        self.fitter.usual.add(normals, state.frames)
        if self.shared:
            spread = self.usual_scale[1]
            normals.shared[0, 0] += spread**-2.0
            normals.gradient.shared[0] += self._scale(state) / spread
            self.fitter.add_shape_prior(normals, state.shape)
        return normals

    def _scale(self, state: CaptureState) -> float:
        mean, spread = self.usual_scale
        return (state.log_scale - mean) / spread

    def bounds(self, state: CaptureState) -> tuple[Unknowns, Unknowns, Unknowns, Unknowns]:
        usual, bound = self.fitter.usual, self.fitter.config.bound
        value = Unknowns(np.array([state.log_scale, *state.shape]), state.frames.vector)
        walls = np.full(len(state.shape), bound)
        shape = value.frames.shape
        lower = Unknowns(np.array([-np.inf, *-walls]), np.broadcast_to(usual.lower, shape))
        upper = Unknowns(np.array([np.inf, *walls]), np.broadcast_to(usual.upper, shape))
        free = Unknowns(np.full(len(value.shared), self.shared), np.tile(usual.free, (shape[0], 1)))
        return value, lower, upper, free

    def moved(self, state: CaptureState, step: Unknowns) -> CaptureState:
        frames = state.frames.moved(state.frames.vector + step.frames)
        return CaptureState(state.log_scale + float(step.shared[0]), state.shape + step.shared[1:], frames)

    def mixed(self, state: CaptureState, trial: CaptureState, better: np.ndarray) -> CaptureState:
        return replace(trial, frames=state.frames.where(better, trial.frames))
