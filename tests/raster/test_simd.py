"""The vectors of the kernels, and the culling of blocks that is written with them."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geodiff.raster import simd
from geodiff.raster.cpu_projection import SHAPE_WIDTH, TILE, _write_shape, block_mask


@numba.njit
def _run(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> tuple:
    x, y = simd.load(a, 1), simd.load(b, 1)
    results = (
        simd.add(x, y), simd.subtract(x, y), simd.multiply(x, y), simd.divide(x, y), simd.muladd(x, y, x),
        simd.minimum(x, y), simd.maximum(x, y), simd.where_greater(x, y, simd.ramp(), simd.fill(2)),
        simd.floor(x), simd.ceil(x), simd.square_root(y), simd.exp2(x), simd.columns(), simd.rows(),
    )  # fmt: skip
    for i, result in enumerate(results):
        simd.store(out, 16 * i, result)
    return simd.total(x), simd.any_positive(x), simd.any_positive(simd.minimum(x, simd.fill(0)))


def test_operations_match_numpy() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(0, 8, 18).astype(np.float32), generator.uniform(0.5, 3, 18).astype(np.float32)
    out = np.zeros(16 * 14, np.float32)
    total, positive, none = _run(a, b, out)
    x, y, lane = a[1:17], b[1:17], np.arange(16)
    expected = [
        x + y, x - y, x * y, x / y, x * y + x, np.minimum(x, y), np.maximum(x, y), np.where(x > y, lane, 2),
        np.floor(x), np.ceil(x), np.sqrt(y), np.exp2(x), lane % 4, lane // 4,
    ]  # fmt: skip
    np.testing.assert_allclose(out.reshape(14, 16), np.stack(expected), rtol=1e-6, atol=1e-6)
    assert (total, positive, none) == (pytest.approx(x.sum(), rel=1e-5), True, False)


@numba.njit
def _exp2(values: np.ndarray, out: np.ndarray) -> None:
    for i in range(0, len(values), 16):
        simd.store(out, i, simd.exp2(simd.load(values, i)))


def test_exp2_over_its_range() -> None:
    values = np.linspace(-126, 127, 16 * 1000).astype(np.float32)
    out = np.empty_like(values)
    _exp2(values, out)
    np.testing.assert_allclose(out, np.exp2(values.astype(np.float64)), rtol=3e-7)
    _exp2(np.full(16, -1e30, np.float32), out)
    np.testing.assert_allclose(out[:16], 2.0**-126, rtol=1e-6)


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
    shapes = np.zeros((1, SHAPE_WIDTH), np.float32)
    _write_shape(shapes, 0, x, y, covariance[0, 0], covariance[0, 1], covariance[1, 1], opacity)
    mask, dx, dy = block_mask(shapes, 0, 0, 0)
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
