"""The linear systems of the fit: Gauss-Newton matrices with structure, solved for the unknowns inside their box.

T frames have D unknowns each and H in common. Without a coupling in time the matrix is an arrow (frames meet in the
common unknowns only) and the frames are eliminated by Schur's complement. With a coupling in time, and the common
unknowns held, it is banded: neighbours and next neighbours meet, each unknown with itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geodiff.tracking.kernels import solve_band, solve_blocks


@dataclass
class Unknowns:
    """One number for each unknown: `shared` (H,), those in common, and `frames` (T, D)."""

    shared: np.ndarray
    frames: np.ndarray


@dataclass
class Normals:
    """Gauss-Newton's matrix and gradient.

    shared: (H, H), cross: (T, D, H), frames: (T, D, D) blocks of the matrix. gradient: by all unknowns. near, far:
    (T - 1, D) and (T - 2, D) entries between an unknown and itself one and two frames later, or None.
    """

    shared: np.ndarray
    cross: np.ndarray
    frames: np.ndarray
    gradient: Unknowns
    near: np.ndarray | None = None
    far: np.ndarray | None = None

    def times(self, step: Unknowns) -> Unknowns:
        """The matrix times a vector."""
        shared = self.shared @ step.shared + np.einsum("tdh,td->h", self.cross, step.frames)
        frames = (self.frames @ step.frames[..., None])[..., 0] + self.cross @ step.shared
        for entries, lag in ((self.near, 1), (self.far, 2)):
            if entries is not None and len(entries):
                frames[:-lag] += entries * step.frames[lag:]
                frames[lag:] += entries * step.frames[:-lag]
        return Unknowns(shared, frames)

    def solve(self, right: Unknowns, free: Unknowns, damping: np.ndarray) -> Unknowns:
        """The damped system for the unknowns that are `free` (bool); the others come out as zero.

        damping: (T,) share of the diagonal that is added to it, by frame; the common unknowns get the mean.
        """
        frames = _masked(self.frames, free.frames, damping[:, None])
        values = np.where(free.frames, right.frames, 0.0)
        if self.near is not None:
            return Unknowns(np.zeros_like(right.shared), self._solve_banded(frames, values, free.frames))
        if not free.shared.any():
            return Unknowns(np.zeros_like(right.shared), _solved(frames, values[..., None])[..., 0])
        cross = self.cross * free.frames[..., None] * free.shared
        eliminated = _solved(frames, np.concatenate([cross, values[..., None]], 2))
        common = _masked(self.shared, free.shared, np.mean(damping))
        common = common - np.einsum("tdh,tdk->hk", cross, eliminated[..., :-1])
        rest = np.where(free.shared, right.shared, 0.0) - np.einsum("tdh,td->h", cross, eliminated[..., -1])
        shared = _solved(common[None], rest[None, :, None])[0, :, 0]
        return Unknowns(shared, eliminated[..., -1] - eliminated[..., :-1] @ shared)

    def _solve_banded(self, frames: np.ndarray, right: np.ndarray, free: np.ndarray) -> np.ndarray:
        """(T, D): blocks on the diagonal and entries D and 2 D off it."""
        count, width = right.shape
        band = np.zeros((count, width, 2 * width + 1))
        for row in range(width):
            band[:, row, 2 * width - row :] = frames[:, row, : row + 1]
        for entries, lag in ((self.near, 1), (self.far, 2)):
            if entries is not None and len(entries):
                band[lag:, :, (2 - lag) * width] = entries * (free[lag:] & free[:-lag])
        solution = right.ravel().copy()
        if not solve_band(band.reshape(count * width, -1), solution):
            raise np.linalg.LinAlgError("the banded matrix is not positive definite")
        return solution.reshape(right.shape)


def bounded_step(
    normals: Normals, value: Unknowns, lower: Unknowns, upper: Unknowns, free: Unknowns, damping: np.ndarray
) -> Unknowns:
    """The damped Newton step of the unknowns that are `free` and not held at a bound; it ends inside the box."""
    step = Unknowns(np.zeros_like(value.shared), np.zeros_like(value.frames))
    free = _each(_movable, free, value, lower, upper, normals.gradient)
    # Unknowns that would leave their box are set on its wall and the others solved again; where that is dear, the next
    # step mends the rest.
    for _ in range(4 if normals.near is None else 2):
        walls = _each(lambda f, s: np.where(f, 0.0, s), free, step)
        carried = normals.times(walls)
        right = _each(lambda g, c: -g - c, normals.gradient, carried)
        found = normals.solve(right, free, damping)
        step = _each(lambda f, new, wall: np.where(f, new, wall), free, found, walls)
        inside = _each(lambda v, s, a, b: (v + s >= a) & (v + s <= b), value, step, lower, upper)
        step = _each(lambda v, s, a, b: np.clip(v + s, a, b) - v, value, step, lower, upper)
        if all((inside_part | ~free_part).all() for inside_part, free_part in
               ((inside.shared, free.shared), (inside.frames, free.frames))):  # fmt: skip
            break
        free = _each(np.logical_and, free, inside)
    return step


def _movable(
    free: np.ndarray, value: np.ndarray, lower: np.ndarray, upper: np.ndarray, slope: np.ndarray
) -> np.ndarray:
    """Which unknowns are not pressed against a wall of the box."""
    return free & ~((value <= lower + 1e-12) & (slope > 0)) & ~((value >= upper - 1e-12) & (slope < 0))


def _each(function, *unknowns: Unknowns) -> Unknowns:  # type: ignore[no-untyped-def]
    return Unknowns(function(*(u.shared for u in unknowns)), function(*(u.frames for u in unknowns)))


def _solved(matrices: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solutions (T, N, K) of symmetric positive definite systems (T, N, N)."""
    solution = right.copy()
    if not solve_blocks(matrices.copy(), solution):
        raise np.linalg.LinAlgError("a matrix is not positive definite")
    return solution


def _masked(matrix: np.ndarray, free: np.ndarray, damping: np.ndarray | float) -> np.ndarray:
    """A matrix (..., N, N), damped, with identity rows and columns where it is not `free` (..., N)."""
    masked = matrix * (free[..., None] & free[..., None, :])
    diagonal = np.einsum("...ii->...i", masked)  # a view
    diagonal += np.where(free, damping * np.maximum(diagonal, 1e-9), 1.0)
    return masked
