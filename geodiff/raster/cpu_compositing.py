"""numba kernels of the cpu backend, one tile at a time: front-to-back compositing and its gradient.

A tile is cut into blocks of 4x4 pixels; a block is one vector of `geodiff.raster.simd`. For each splat of the tile, nearest
first, the blocks that its ellipse touches are found row by row and updated. The state of a tile lies in one flat array,
block after block, one vector for each quantity.

Both passes walk front to back and take the same decisions. The backward pass needs one running number a pixel: what the
splats behind the present one contribute to the loss (`rest`), so nothing is stored between the passes but the images.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from geodiff.raster import simd
from geodiff.raster.cpu_projection import MOMENTS, TILE
from geodiff.raster.gaussians import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN
from geodiff.raster.simd import LANES

_SIDE = TILE // 4
_BLOCKS = _SIDE * _SIDE
_F = np.float32
_ALPHA_MAX, _ALPHA_BELOW = _F(ALPHA_MAX), np.nextafter(_F(ALPHA_MIN), _F(0))
_STOP = _F(TRANSMITTANCE_MIN)
#: Pixels by which ellipses are widened before blocks are culled, against rounding.
_MARGIN = 0.01
_jit = numba.njit(cache=True, nogil=True)


@_jit
def _row_range(center_y, half_y, top):  # noqa: ANN001, ANN202
    """First and past-the-last row of blocks of the tile at `top` that the ellipse may touch."""
    first = max(math.ceil(center_y - half_y - 0.5 - _MARGIN) - top, 0) // 4
    last = math.floor(center_y + half_y - 0.5 + _MARGIN) - top
    return first, (min(last, TILE - 1) + 4) // 4


@_jit
def _column_range(shape, center_x, distance, left):  # noqa: ANN001, ANN202
    """First and past-the-last block, in the row of blocks whose first pixels lie `distance` below the mean, that the
    ellipse touches. Its right border is concave, so it is farthest right at the extreme held within the row."""
    half_y = shape[4]
    low, high = max(distance, -half_y), min(distance + _F(3), half_y)
    at_right = min(max(shape[8], low), high)
    at_left = min(max(-shape[8], low), high)
    right = shape[5] * at_right + math.sqrt(max(shape[6] - shape[7] * at_right * at_right, _F(0)))
    leftmost = shape[5] * at_left - math.sqrt(max(shape[6] - shape[7] * at_left * at_left, _F(0)))
    first = max(math.ceil(center_x + leftmost - 0.5 - _MARGIN) - left, 0) // 4
    last = math.floor(center_x + right - 0.5 + _MARGIN) - left
    return first, (min(last, TILE - 1) + 4) // 4


@_jit
def _start_tile(state, rows, left, top, width, height, closed):  # noqa: ANN001, ANN202
    """Transmittance (row 0) 1 inside the image and 0 outside. Returns the number of blocks that see anything."""
    open_blocks = 0
    for block in range(_BLOCKS):
        base = block * rows * LANES
        inside = 0
        for lane in range(LANES):
            x = left + (block % _SIDE) * 4 + lane % 4
            y = top + (block // _SIDE) * 4 + lane // 4
            within = x < width and y < height
            state[base + lane] = 1.0 if within else 0.0
            inside += within
        closed[block] = inside == 0
        open_blocks += inside > 0
    return open_blocks


@_jit
def composite(
    centers, shapes, features, tile_starts, entries, tile_order, background, counter, colors, alphas, depths,
):  # noqa: ANN001, ANN201  # fmt: skip
    """Fill colors (H, W, K), alphas (H, W) and accumulated depths (H, W).

    features: (N, 1 + K) depth, then colours. tile_order: numbers of the tiles, the order in which threads take them.
    """
    height, width, channels = colors.shape
    num_columns = (width + TILE - 1) // TILE
    rows = 2 + features.shape[1]  # transmittance, alpha, features
    state = np.empty(_BLOCKS * rows * LANES, np.float32)
    closed = np.empty(_BLOCKS, np.bool_)
    while True:
        task = simd.fetch_add(counter, 0)
        if task >= len(tile_order):
            break
        tile = tile_order[task]
        left, top = (tile % num_columns) * TILE, (tile // num_columns) * TILE
        state[:] = 0.0
        open_blocks = _start_tile(state, rows, left, top, width, height, closed)
        for entry in range(tile_starts[tile], tile_starts[tile + 1]):
            if open_blocks == 0:
                break
            i = entries[entry, 0]
            shape, feature = shapes[i], features[i]
            center_x, center_y = centers[i, 0], centers[i, 1]
            conic_xx, conic_xy, conic_yy = simd.fill(-shape[0]), simd.fill(-shape[1]), simd.fill(-shape[2])
            log_opacity = simd.fill(shape[3])
            first_row, last_row = _row_range(center_y, shape[4], top)
            for row in range(first_row, last_row):
                distance = _F(top + 4 * row + 0.5 - center_y)
                dy = simd.add(simd.fill(distance), simd.rows())
                constant = simd.muladd(simd.multiply(conic_yy, dy), dy, log_opacity)
                slope = simd.multiply(conic_xy, dy)
                first, last = _column_range(shape, center_x, distance, left)
                for column in range(first, last):
                    block = row * _SIDE + column
                    if closed[block]:
                        continue
                    base = block * rows * LANES
                    dx = simd.add(simd.fill(_F(left + 4 * column + 0.5 - center_x)), simd.columns())
                    exponent = simd.muladd(simd.muladd(conic_xx, dx, slope), dx, constant)
                    alpha = simd.minimum(simd.exp2(exponent), simd.fill(_ALPHA_MAX))
                    alpha = simd.where_greater(alpha, simd.fill(_ALPHA_BELOW), alpha, simd.fill(_F(0)))
                    before = simd.load(state, base)
                    weight = simd.multiply(alpha, before)
                    after = simd.subtract(before, weight)
                    weight = simd.where_greater(after, simd.fill(_STOP), weight, simd.fill(_F(0)))
                    after = simd.where_greater(after, simd.fill(_STOP), after, simd.fill(_F(0)))
                    simd.store(state, base, after)
                    if not simd.any_positive(after):
                        closed[block] = True
                        open_blocks -= 1
                    at = base + LANES
                    simd.store(state, at, simd.add(simd.load(state, at), weight))
                    for k in range(rows - 2):
                        at += LANES
                        simd.store(state, at, simd.muladd(weight, simd.fill(feature[k]), simd.load(state, at)))
        for y in range(top, min(top + TILE, height)):
            for x in range(left, min(left + TILE, width)):
                block = ((y - top) // 4) * _SIDE + (x - left) // 4
                at = block * rows * LANES + ((y - top) % 4) * 4 + (x - left) % 4
                alpha_sum = state[at + LANES]
                alphas[y, x] = alpha_sum
                depths[y, x] = state[at + 2 * LANES]
                for k in range(channels):
                    colors[y, x, k] = state[at + (3 + k) * LANES] + (_F(1) - alpha_sum) * background[k]


@_jit
def _start_gradients(state, rows, left, top, background, images, gradients):  # noqa: ANN001, ANN202
    """Row 1: the loss still to come, as if it were linear in all weights; rows 2 on: gradients of depth and colours."""
    colors, alphas, depths = images
    grad_colors, grad_alphas, grad_depths = gradients
    height, width, channels = colors.shape
    for y in range(top, min(top + TILE, height)):
        for x in range(left, min(left + TILE, width)):
            block = ((y - top) // 4) * _SIDE + (x - left) // 4
            at = block * rows * LANES + ((y - top) % 4) * 4 + (x - left) % 4
            rest = depths[y, x] * grad_depths[y, x] - (_F(1) - alphas[y, x]) * grad_alphas[y, x]
            state[at + 2 * LANES] = grad_depths[y, x]
            for k in range(channels):
                rest += colors[y, x, k] * grad_colors[y, x, k]
                state[at + (3 + k) * LANES] = grad_colors[y, x, k]
            state[at + LANES] = rest


@_jit
def composite_backward(
    centers, shapes, features, tile_starts, entries, tile_order, background, counter, images, gradients, slots,
):  # noqa: ANN001, ANN201  # fmt: skip
    """Fill slots (P, 6 + 1 + K): for each pair of tile and splat the moments (see `cpu_projection.MOMENTS`) and the
    gradients of depth and colours. images and gradients: tuples (colors, alphas, depths)."""
    height, width, _ = images[0].shape
    num_columns = (width + TILE - 1) // TILE
    num_features = features.shape[1]
    rows = 2 + num_features
    state = np.zeros(_BLOCKS * rows * LANES, np.float32)
    sums = np.empty(num_features * LANES, np.float32)
    closed = np.empty(_BLOCKS, np.bool_)
    zero, one = simd.fill(_F(0)), simd.fill(_F(1))
    while True:
        task = simd.fetch_add(counter, 0)
        if task >= len(tile_order):
            break
        tile = tile_order[task]
        left, top = (tile % num_columns) * TILE, (tile // num_columns) * TILE
        open_blocks = _start_tile(state, rows, left, top, width, height, closed)
        _start_gradients(state, rows, left, top, background, images, gradients)
        for entry in range(tile_starts[tile], tile_starts[tile + 1]):
            i, slot = entries[entry, 0], slots[entries[entry, 1]]
            if open_blocks == 0:
                slot[:] = 0.0
                continue
            shape, feature = shapes[i], features[i]
            center_x, center_y = centers[i, 0], centers[i, 1]
            conic_xx, conic_xy, conic_yy = simd.fill(-shape[0]), simd.fill(-shape[1]), simd.fill(-shape[2])
            log_opacity = simd.fill(shape[3])
            sums[:] = 0.0
            s0 = sx = sy = sxx = sxy = syy = zero
            first_row, last_row = _row_range(center_y, shape[4], top)
            for row in range(first_row, last_row):
                distance = _F(top + 4 * row + 0.5 - center_y)
                dy = simd.add(simd.fill(distance), simd.rows())
                constant = simd.muladd(simd.multiply(conic_yy, dy), dy, log_opacity)
                slope = simd.multiply(conic_xy, dy)
                first, last = _column_range(shape, center_x, distance, left)
                for column in range(first, last):
                    block = row * _SIDE + column
                    if closed[block]:
                        continue
                    base = block * rows * LANES
                    dx = simd.add(simd.fill(_F(left + 4 * column + 0.5 - center_x)), simd.columns())
                    exponent = simd.muladd(simd.muladd(conic_xx, dx, slope), dx, constant)
                    free = simd.exp2(exponent)
                    alpha = simd.minimum(free, simd.fill(_ALPHA_MAX))
                    alpha = simd.where_greater(alpha, simd.fill(_ALPHA_BELOW), alpha, zero)
                    before = simd.load(state, base)
                    weight = simd.multiply(alpha, before)
                    after = simd.subtract(before, weight)
                    weight = simd.where_greater(after, simd.fill(_STOP), weight, zero)
                    after = simd.where_greater(after, simd.fill(_STOP), after, zero)
                    simd.store(state, base, after)
                    if not simd.any_positive(after):
                        closed[block] = True
                        open_blocks -= 1
                    if not simd.any_positive(weight):
                        continue
                    own = zero
                    at = base + LANES
                    for k in range(num_features):
                        at += LANES
                        gradient = simd.load(state, at)
                        own = simd.muladd(gradient, simd.fill(feature[k]), own)
                        simd.store(sums, k * LANES, simd.muladd(weight, gradient, simd.load(sums, k * LANES)))
                    rest = simd.subtract(simd.load(state, base + LANES), simd.multiply(weight, own))
                    simd.store(state, base + LANES, rest)
                    of_alpha = simd.subtract(simd.multiply(before, own), simd.divide(rest, simd.subtract(one, alpha)))
                    s = simd.multiply(simd.subtract(zero, alpha), of_alpha)
                    s = simd.where_greater(weight, zero, s, zero)
                    s = simd.where_greater(free, simd.fill(_ALPHA_MAX), zero, s)
                    s_dx, s_dy = simd.multiply(s, dx), simd.multiply(s, dy)
                    s0, sx, sy = simd.add(s0, s), simd.add(sx, s_dx), simd.add(sy, s_dy)
                    sxx, sxy = simd.muladd(s_dx, dx, sxx), simd.muladd(s_dx, dy, sxy)
                    syy = simd.muladd(s_dy, dy, syy)
            slot[0], slot[1], slot[2] = simd.total(s0), simd.total(sx), simd.total(sy)
            slot[3], slot[4], slot[5] = simd.total(sxx), simd.total(sxy), simd.total(syy)
            for k in range(num_features):
                slot[MOMENTS + k] = simd.total(simd.load(sums, k * LANES))
