"""Levenberg and Marquardt's descent: damped Gauss-Newton steps inside a box, damped more where they did not help."""

from __future__ import annotations

from typing import Protocol, TypeVar

import numpy as np

from geodiff.tracking.systems import Normals, Unknowns, bounded_step

State = TypeVar("State")


class Problem(Protocol[State]):
    """A sum of squares over T frames and what they share."""

    def energies(self, state: State) -> np.ndarray:
        """(T + 1,) energy by frame, and that of the common unknowns."""
        ...

    def normals(self, state: State) -> Normals:
        """Gauss-Newton's matrix and half of the energy's gradient."""
        ...

    def bounds(self, state: State) -> tuple[Unknowns, Unknowns, Unknowns, Unknowns]:
        """Values, lower and upper bounds of all unknowns, and which of them are solved for."""
        ...

    def moved(self, state: State, step: Unknowns) -> State: ...

    def mixed(self, state: State, trial: State, better: np.ndarray) -> State:
        """The trial in the frames `better` (T,) bool, the state in the others."""
        ...


def descend(problem: Problem[State], state: State, alone: bool, iterations: int, tolerance: float) -> State:
    """The state after at most so many steps.

    alone: frames share nothing that is solved for, so each is judged by itself. tolerance: share of the energy that a
    step has to gain for another to follow.
    """
    energies, normals = problem.energies(state), None
    damping = np.full(len(energies) - 1, 1e-3)
    for _ in range(iterations):
        if normals is None:
            normals = problem.normals(state)
        trial = problem.moved(state, bounded_step(normals, *problem.bounds(state), damping))
        new = problem.energies(trial)
        better = new < energies
        lower = better[:-1] if alone else np.full(len(damping), new.sum() < energies.sum())
        # Where all frames gain and what they share loses more, all are damped: the same step would come again.
        kept = better[:-1] & ~better[:-1].all()
        damping = np.where(lower, np.maximum(damping / 5, 1e-7), damping * np.where(kept, 1.0, 8.0))
        if lower.any():
            gain = energies.sum() - np.where([*lower, True], new, energies).sum()
            state = trial if lower.all() else problem.mixed(state, trial, lower)
            done, energies = gain < tolerance * energies.sum(), np.where([*lower, True], new, energies)
            normals = None
            if done:
                break
        elif damping.max() > 1e6:
            break
    return state
