"""numba kernels of the cpu backend, one tile at a time: front-to-back compositing and its gradient.

A tile is cut into blocks of 4x4 pixels; a block is one vector of `geodiff.raster.simd`. For each splat of the tile,
nearest first, the blocks that its ellipse touches are found and updated. The state of a tile lies in one flat array,
block after block, one vector for each quantity.

Both passes walk front to back and take the same decisions. The backward pass needs one running number a pixel: what the
splats behind the present one contribute to the loss (`rest`), so nothing is stored between the passes but the images.
"""

from __future__ import annotations

import numba
import numpy as np

from geodiff.raster import simd
from geodiff.raster.cpu_projection import MOMENTS, TILE, block_mask
from geodiff.raster.gaussians import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN
from geodiff.raster.simd import LANES

_SIDE = TILE // 4
_BLOCKS = _SIDE * _SIDE
_F = np.float32
_ALPHA_MAX, _ALPHA_BELOW = _F(ALPHA_MAX), np.nextafter(_F(ALPHA_MIN), _F(0))
_HALF_ALPHA_MIN = _F(0.5 * ALPHA_MIN)
_STOP = _F(TRANSMITTANCE_MIN)
#: Tile entries that are asked for ahead of their use: splats lie scattered in memory.
_AHEAD = 3
_jit = numba.njit(cache=True, nogil=True)


@_jit
def _vectors(count):
    """A flat array of `count` vectors that start on cache lines: one that straddles two costs twice."""
    room = np.zeros((count + 1) * LANES, np.float32)
    skip = (64 - room.ctypes.data % 64) % 64 // 4
    return room[skip : skip + count * LANES]


@_jit
def _start_tile(state, rows, left, top, width, height):
    """Transmittance (row 0) 1 inside the image and 0 outside. Returns the blocks that lie outside, a set
    of bits as in `block_mask`."""
    closed = 0
    for block in range(_BLOCKS):
        base = block * rows * LANES
        inside = 0
        for lane in range(LANES):
            x = left + (block % _SIDE) * 4 + lane % 4
            y = top + (block // _SIDE) * 4 + lane // 4
            within = x < width and y < height
            state[base + lane] = 1.0 if within else 0.0
            inside += within
        if inside == 0:
            closed |= 1 << block
    return closed


@numba.njit(inline="always")
def _blend(shapes, i, x, y, block, before):
    """Splat i on one block whose transmittance is `before`. (x, y): the tile's first pixel centre, seen from the mean.

    Returns the distances from the mean, alpha without and with its limits, the weight, and the transmittance after;
    both are 0 from the splat on at which the pixel stops.
    """
    zero = simd.fill(_F(0))
    dx = simd.add(simd.fill(x + _F(4 * (block & 7))), simd.columns())
    dy = simd.add(simd.fill(y + _F(4 * (block >> 3))), simd.rows())
    across = simd.muladd(simd.fill(shapes[i, 4]), dx, simd.multiply(simd.fill(shapes[i, 5]), dy))
    down = simd.muladd(simd.multiply(simd.fill(shapes[i, 6]), dy), dy, simd.fill(shapes[i, 7]))
    free = simd.exp2(simd.muladd(across, dx, down))
    alpha = simd.minimum(free, simd.fill(_ALPHA_MAX))
    alpha = simd.where_greater(alpha, simd.fill(_ALPHA_BELOW), alpha, zero)
    weight = simd.multiply(alpha, before)
    after = simd.subtract(before, weight)
    weight = simd.where_greater(after, simd.fill(_STOP), weight, zero)
    after = simd.where_greater(after, simd.fill(_STOP), after, zero)
    return dx, dy, free, alpha, weight, after


@_jit
def _write_tile(state, rows, left, top, background, colors, alphas, depths):
    height, width, channels = colors.shape
    for y in range(top, min(top + TILE, height)):
        for x in range(left, min(left + TILE, width)):
            block = ((y - top) >> 2) * _SIDE + ((x - left) >> 2)
            at = block * rows * LANES + ((y - top) & 3) * 4 + ((x - left) & 3)
            alpha = state[at + LANES]
            alphas[y, x] = alpha
            depths[y, x] = state[at + 2 * LANES] / max(alpha, _HALF_ALPHA_MIN)  # 0 where alpha is 0
            for k in range(channels):
                colors[y, x, k] = state[at + (3 + k) * LANES] + (_F(1) - alpha) * background[k]


@_jit
def composite(
    shapes, features, tile_starts, entries, tile_order, background, counter, colors, alphas, depths,
):  # fmt: skip
    """Fill colors (H, W, K), alphas (H, W) and depths (H, W), divided by alpha.

    features: (N, 1 + K) depth, then colours. tile_order: numbers of the tiles, the order in which threads take them.
    """
    height, width, _ = colors.shape
    num_columns = (width + TILE - 1) // TILE
    rows = 2 + features.shape[1]  # transmittance, alpha, features
    state = _vectors(_BLOCKS * rows)
    while True:
        task = simd.fetch_add(counter, 0)
        if task >= len(tile_order):
            break
        tile = tile_order[task]
        left, top = (tile % num_columns) * TILE, (tile // num_columns) * TILE
        state[:] = 0.0
        closed = _start_tile(state, rows, left, top, width, height)
        for entry in range(tile_starts[tile], tile_starts[tile + 1]):
            if closed == -1:
                break
            i = entries[entry, 0]
            ahead = entries[min(entry + _AHEAD, len(entries) - 1), 0]
            simd.prefetch(shapes, ahead)
            simd.prefetch(features, ahead)
            mask, x, y = block_mask(shapes, i, left, top)
            mask &= ~closed
            while mask != 0:
                block = simd.lowest_bit(mask)
                mask &= mask - 1
                base = block * rows * LANES
                before = simd.load(state, base)
                _, _, _, _, weight, after = _blend(shapes, i, x, y, block, before)
                simd.store(state, base, after)
                if not simd.any_positive(after):
                    closed |= 1 << block
                at = base + LANES
                simd.store(state, at, simd.add(simd.load(state, at), weight))
                for k in range(rows - 2):
                    at += LANES
                    simd.store(state, at, simd.muladd(weight, simd.fill(features[i, k]), simd.load(state, at)))
        _write_tile(state, rows, left, top, background, colors, alphas, depths)


@_jit
def _start_gradients(state, rows, left, top, background, images, gradients):
    """Row 1: the loss still to come, as if it were linear in all weights; rows 2 on: gradients of depth and colours."""
    colors, alphas, depths = images
    grad_colors, grad_alphas, grad_depths = gradients
    height, width, channels = colors.shape
    for y in range(top, min(top + TILE, height)):
        for x in range(left, min(left + TILE, width)):
            block = ((y - top) >> 2) * _SIDE + ((x - left) >> 2)
            at = block * rows * LANES + ((y - top) & 3) * 4 + ((x - left) & 3)
            # depth = accumulated / alpha: its gradient is one of the accumulated depth and one of alpha
            alpha = alphas[y, x]
            grad_accumulated = grad_depths[y, x] / max(alpha, _HALF_ALPHA_MIN)
            grad_alpha = grad_alphas[y, x] - depths[y, x] * grad_accumulated
            rest = depths[y, x] * alpha * grad_accumulated - (_F(1) - alpha) * grad_alpha
            state[at + 2 * LANES] = grad_accumulated
            for k in range(channels):
                rest += colors[y, x, k] * grad_colors[y, x, k]
                state[at + (3 + k) * LANES] = grad_colors[y, x, k]
            state[at + LANES] = rest


@_jit
def composite_backward(
    shapes, features, tile_starts, entries, tile_order, background, counter, images, gradients, slots,
):  # fmt: skip
    """Fill slots (P, 6 + 1 + K, and more that stay as they are): for each pair of tile and splat the moments (see
    `cpu_projection.MOMENTS`) and the gradients of depth and colours. images, gradients: (colors, alphas, depths)."""
    height, width, _ = images[0].shape
    num_columns = (width + TILE - 1) // TILE
    num_features = features.shape[1]
    rows = 2 + num_features
    state = _vectors(_BLOCKS * rows)
    sums = _vectors(num_features)
    zero, one = simd.fill(_F(0)), simd.fill(_F(1))
    while True:
        task = simd.fetch_add(counter, 0)
        if task >= len(tile_order):
            break
        tile = tile_order[task]
        left, top = (tile % num_columns) * TILE, (tile // num_columns) * TILE
        closed = _start_tile(state, rows, left, top, width, height)
        _start_gradients(state, rows, left, top, background, images, gradients)
        for entry in range(tile_starts[tile], tile_starts[tile + 1]):
            i, slot = entries[entry, 0], entries[entry, 1]
            if closed == -1:
                for k in range(slots.shape[1]):
                    slots[slot, k] = 0.0
                continue
            ahead = entries[min(entry + _AHEAD, len(entries) - 1), 0]
            simd.prefetch(shapes, ahead)
            simd.prefetch(features, ahead)
            mask, x, y = block_mask(shapes, i, left, top)
            mask &= ~closed
            for k in range(num_features):
                simd.store(sums, k * LANES, zero)
            s0 = sx = sy = sxx = sxy = syy = zero
            while mask != 0:
                block = simd.lowest_bit(mask)
                mask &= mask - 1
                base = block * rows * LANES
                before = simd.load(state, base)
                dx, dy, free, alpha, weight, after = _blend(shapes, i, x, y, block, before)
                simd.store(state, base, after)
                if not simd.any_positive(after):
                    closed |= 1 << block
                if not simd.any_positive(weight):
                    continue
                own = zero
                at = base + LANES
                for k in range(num_features):
                    at += LANES
                    gradient = simd.load(state, at)
                    own = simd.muladd(gradient, simd.fill(features[i, k]), own)
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
            slots[slot, 0], slots[slot, 1], slots[slot, 2] = simd.total(s0), simd.total(sx), simd.total(sy)
            slots[slot, 3], slots[slot, 4], slots[slot, 5] = simd.total(sxx), simd.total(sxy), simd.total(syy)
            for k in range(num_features):
                slots[slot, MOMENTS + k] = simd.total(simd.load(sums, k * LANES))
