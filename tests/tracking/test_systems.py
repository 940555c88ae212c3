"""Structured solutions agree with dense ones, bounds hold, and a broken matrix is not solved in silence."""

from __future__ import annotations

import numpy as np
import pytest

from geodiff.tracking.systems import Normals, Unknowns, bounded_step


def some_normals(
    seed: int, coupled: bool, frames: int = 5, width: int = 3, common: int = 2
) -> tuple[Normals, np.ndarray]:
    """A system and the dense matrix (common unknowns first) that it stands for."""
    rng = np.random.default_rng(seed)
    size = common + frames * width
    blocks = np.zeros((size, size))
    for t in range(frames):
        where = np.r_[0:common, common + t * width : common + (t + 1) * width]
        rows = rng.normal(size=(12, len(where)))
        blocks[np.ix_(where, where)] += rows.T @ rows
    near = far = None
    if coupled:
        near, far = -rng.uniform(0.1, 1, (frames - 1, width)), -rng.uniform(0.1, 0.5, (frames - 2, width))
        for lag, entries in ((1, near), (2, far)):
            for t, d in np.ndindex(*entries.shape):
                a, b = common + t * width + d, common + (t + lag) * width + d
                blocks[a, b] = blocks[b, a] = entries[t, d]
                blocks[a, a] += 1
                blocks[b, b] += 1
    inner = blocks[common:, common:].reshape(frames, width, frames, width)
    gradient = Unknowns(rng.normal(size=common), rng.normal(size=(frames, width)))
    cross = blocks[common:, :common].reshape(frames, width, common)
    own = np.stack([inner[t, :, t] for t in range(frames)])
    return Normals(blocks[:common, :common], cross, own, gradient, near, far), blocks


def flat(unknowns: Unknowns) -> np.ndarray:
    return np.concatenate([unknowns.shared, unknowns.frames.ravel()])


@pytest.mark.parametrize(("coupled", "shared"), [(False, True), (False, False), (True, False)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_solutions_agree_with_a_dense_solver(coupled: bool, shared: bool, seed: int) -> None:
    normals, dense = some_normals(seed, coupled)
    rng = np.random.default_rng(seed)
    free = Unknowns(np.full(2, shared), rng.random((5, 3)) < 0.8)
    found = flat(normals.solve(normals.gradient, free, np.full(5, 0.1)))
    chosen = np.flatnonzero(flat(free))
    matrix = dense[np.ix_(chosen, chosen)]
    expected = np.zeros(len(dense))
    expected[chosen] = np.linalg.solve(matrix + 0.1 * np.diag(np.diag(matrix)), flat(normals.gradient)[chosen])
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(("coupled", "shared"), [(False, True), (True, False)])
def test_products_agree_with_the_dense_matrix(coupled: bool, shared: bool) -> None:
    normals, dense = some_normals(4, coupled)
    vector = Unknowns(np.arange(2.0), np.arange(15.0).reshape(5, 3))
    np.testing.assert_allclose(flat(normals.times(vector)), dense @ flat(vector))


@pytest.mark.parametrize("coupled", [False, True])
def test_steps_end_inside_the_box(coupled: bool) -> None:
    normals, dense = some_normals(1, coupled)
    lower = Unknowns(np.full(2, -1.0), np.full((5, 3), -0.05))
    upper = Unknowns(np.full(2, 1.0), np.full((5, 3), 0.02))
    free = Unknowns(np.zeros(2, bool), np.ones((5, 3), bool))
    free.frames[:2] = False
    value, start = Unknowns(np.zeros(2), np.zeros((5, 3))), normals.gradient.frames.copy()
    for _ in range(6):
        step = bounded_step(normals, value, lower, upper, free, np.full(5, 1e-9))
        value.frames = value.frames + step.frames
        normals.gradient.frames = start + (dense[2:, 2:] @ value.frames.ravel()).reshape(5, 3)
        assert (value.frames >= -0.05).all() and (value.frames <= 0.02).all()
        assert (step.frames[:2] == 0).all() and (step.shared == 0).all()
    # Where nothing holds an unknown, no slope is left; at a wall the slope presses against it.
    inside = (value.frames > -0.05 + 1e-9) & (value.frames < 0.02 - 1e-9) & free.frames
    slope = normals.gradient.frames
    assert inside.any() and np.abs(slope[inside]).max() < 1e-6
    assert (slope[free.frames & (value.frames <= -0.05 + 1e-9)] >= 0).all()
    assert (slope[free.frames & (value.frames >= 0.02 - 1e-9)] <= 0).all()


@pytest.mark.parametrize("coupled", [False, True])
def test_a_matrix_that_is_not_positive_is_told(coupled: bool) -> None:
    normals, _ = some_normals(0, coupled)
    normals.frames[3, 1, 1] = -50.0
    free = Unknowns(np.zeros(2, bool), np.ones((5, 3), bool))
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        normals.solve(normals.gradient, free, np.full(5, 1e-3))
