"""The vectors of the kernels, and the culling of blocks that is written with them."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geodiff.raster import simd, simd_functions
from geodiff.raster.cpu_compositing import block_mask
from geodiff.raster.cpu_projection import TILE, write_shapes
from geodiff.raster.simd import LANES


@numba.njit
def _run(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> tuple:
    x, y = simd.load(a, 1), simd.load(b, 1)
    results = (
        x + y, x - y, x * y, x / y, x * y + x, -x, 2 * x, 1 - x,
        simd.minimum(x, y), simd.maximum(x, 0.5), simd.where(x > y, simd.ramp(), 2.0), simd.absolute(x),
        simd.floor(x), simd.ceil(x), simd.square_root(y),
    )  # fmt: skip
    for i, result in enumerate(results):
        simd.store(out, 16 * i, result)
    return simd.any_of(x > 0.0), simd.any_of((x > 0.0) & (x < 0.0))


def test_operations_match_numpy() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(0, 8, 18).astype(np.float32), generator.uniform(0.5, 3, 18).astype(np.float32)
    out = np.zeros(16 * 15, np.float32)
    positive, none = _run(a, b, out)
    x, y, lane = a[1:17], b[1:17], np.arange(16)
    expected = [
        x + y, x - y, x * y, x / y, x * y + x, -x, 2 * x, 1 - x,
        np.minimum(x, y), np.maximum(x, 0.5), np.where(x > y, lane, 2), np.abs(x),
        np.floor(x), np.ceil(x), np.sqrt(y),
    ]  # fmt: skip
    np.testing.assert_allclose(out.reshape(15, 16), np.stack(expected), rtol=1e-6, atol=1e-6)
    assert (positive, none) == (True, False)


@numba.njit
def _many(state: np.ndarray, rows: np.ndarray, out: np.ndarray, count: tuple) -> None:
    weight = simd.load(state, 0)
    simd.store(out, 0, simd_functions.dot(state, 0, rows, 1, count))
    sums = simd_functions.add_products(simd_functions.zeros(count), weight, state, 0)
    simd_functions.store_totals(out, LANES, (weight,), sums)
    simd_functions.add_weighted(state, 0, weight, rows, 1, count)


@pytest.mark.parametrize("count", [1, 4, 20])
def test_operations_on_many_vectors_at_once(count: int) -> None:
    generator = np.random.default_rng(count)
    state = generator.normal(size=(count, LANES)).astype(np.float32)
    rows, out = generator.normal(size=count + 1).astype(np.float32), np.zeros(LANES * 3, np.float32)
    changed = state.copy().reshape(-1)
    _many(changed, rows, out, (0,) * count)
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(out[:LANES], rows[1:] @ state, **close)
    np.testing.assert_allclose(out[LANES : LANES + 1 + count], np.r_[state[0].sum(), state @ state[0]], **close)
    np.testing.assert_allclose(changed.reshape(count, LANES), state + rows[1:, None] * state[0], **close)


@numba.njit
def _transcendental(values: np.ndarray, powers: np.ndarray, positive: np.ndarray, logarithms: np.ndarray) -> None:
    for i in range(0, len(values), LANES):
        simd.store(powers, i, simd_functions.exp2(simd.load(values, i)))
        simd.store(logarithms, i, simd_functions.log2(simd.load(positive, i)))


def test_exp2_and_log2_over_their_range() -> None:
    values = np.linspace(-8, 0, 16 * 1000).astype(np.float32)
    positive = np.exp2(np.linspace(-40, 40, len(values)))
    powers, logarithms = np.empty_like(values), np.empty_like(positive)
    _transcendental(values, powers, positive, logarithms)
    np.testing.assert_allclose(powers, np.exp2(values.astype(np.float64)), rtol=4e-6)
    np.testing.assert_allclose(logarithms, np.log2(positive), rtol=0, atol=1e-7)


@numba.njit
def _mask(x: float, y: float, covariance: np.ndarray, opacity: float) -> tuple:
    shapes, row = np.zeros(16 * LANES, np.float32), np.zeros(16, np.float32)
    values = simd.fill(x), simd.fill(y), simd.fill(covariance[0]), simd.fill(covariance[1]), simd.fill(covariance[2])
    write_shapes(shapes, values[0], values[1], values[2], values[3], values[4], simd.fill(opacity))
    for k in range(len(row)):
        row[k] = shapes[k * LANES]
    return block_mask(row, 0, 0, 0)


@settings(max_examples=200, deadline=None)
@given(
    x=st.floats(-40, 70), y=st.floats(-40, 70), long=st.floats(0.6, 40), short=st.floats(0.55, 3),
    angle=st.floats(0, 3.2), opacity=st.floats(0.004, 1.0),
)  # fmt: skip
def test_exactly_the_blocks_that_a_splat_touches(
    x: float, y: float, long: float, short: float, angle: float, opacity: float
) -> None:
    axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * [long, short]
    covariance = axes @ axes.T
    mask, dx, dy = _mask(x, y, covariance[[0, 0, 1], [0, 1, 1]], opacity)
    assert (dx, dy) == (pytest.approx(0.5 - x, abs=1e-5), pytest.approx(0.5 - y, abs=1e-5))
    blocks = np.array([[(int(mask) >> (8 * row + column)) & 1 for column in range(8)] for row in range(8)])

    def distance(step: float) -> np.ndarray:
        """Least distance from the mean in standard deviations, of points of each block `step` pixels apart."""
        offsets = np.arange(0, 3.01, step)
        steps = (np.arange(0, TILE, 4)[:, None] + offsets).reshape(-1)
        points = np.stack(np.meshgrid(steps + 0.5 - x, steps + 0.5 - y), -1)
        squared = np.einsum("yxi,ij,yxj->yx", points, np.linalg.inv(covariance), points)
        return np.sqrt(squared.reshape(8, len(offsets), 8, len(offsets)).min((1, 3)))

    reach = np.sqrt(2 * np.log(255 * opacity))
    assert (blocks[distance(1.0) <= reach] == 1).all()
    slack = (0.25 / np.sqrt(2) + 0.02) / min(long, short)  # between the points, and the margin against rounding
    assert (distance(0.25)[blocks == 1] <= reach + slack).all()
