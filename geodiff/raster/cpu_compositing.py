"""numba kernels of the cpu backend, one tile at a time: front-to-back compositing and its gradient.

A tile is cut into blocks of 4x4 pixels; a block is one vector of `geodiff.raster.simd`. For each splat of the tile,
nearest first, the blocks that its ellipse touches are found and updated. The state of a tile lies in one flat array,
block after block, one vector for each quantity.

Both passes walk front to back and take the same decisions. The forward pass notes which blocks each splat reaches; the
backward pass visits these alone. It needs one running number a pixel, what the splats behind the present one contribute
to the loss (`rest`), so nothing else is stored between the passes but the images.

The transmittance of a pixel that has stopped is kept with a minus sign: nothing more is added to it.
"""

from __future__ import annotations

import numpy as np

from geodiff.raster import simd, simd_functions
from geodiff.raster.compiled import helper, kernel
from geodiff.raster.cpu_projection import FEATURES, MARGIN, TILE
from geodiff.raster.gaussians import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN
from geodiff.raster.simd import LANES

_SIDE = TILE // 4
_BLOCKS = _SIDE * _SIDE
_F = np.float32
_ALPHA_MAX, _ALPHA_BELOW = _F(ALPHA_MAX), np.nextafter(_F(ALPHA_MIN), _F(0))
#: Of the exponent of 2: alpha is below 1/255 where it is not greater.
_EXPONENT_BELOW = _F(np.log2(float(_ALPHA_BELOW)))
_HALF_ALPHA_MIN = _F(0.5 * ALPHA_MIN)
_STOP = _F(TRANSMITTANCE_MIN)
_ZERO, _ONE = _F(0), _F(1)
#: Tile entries that are asked for ahead of their use: splats lie scattered in memory.
_AHEAD = 3


@helper
def block_mask(splats, at, left, top):
    """The blocks of the tile at (left, top) that the ellipse of the row at `at` touches: bit 8 row + column. Also the
    distances of the tile's first pixel centre from the mean, x and y.

    A row of blocks is a lane, the right end of its span in the first half of the vector, the left end in the second,
    where signs are turned. An ellipse's right border is concave, so within a row it is farthest right at its extreme,
    held within the row; likewise on the left.
    """
    x = (_F(left + 0.5) - simd.get(splats, at)) - simd.get(splats, at + 1)
    y = (_F(top + 0.5) - simd.get(splats, at + 2)) - simd.get(splats, at + 3)
    half_height, extreme = simd.get(splats, at + 8), simd.get(splats, at + 12)
    tilt, square, shrink = simd.get(splats, at + 9), simd.get(splats, at + 10), simd.get(splats, at + 11)
    is_right = simd.first_half()
    sign = is_right * _F(2) - _ONE
    row = simd.half_ramp() * _F(4) + y
    low, high = simd.maximum(row, -half_height), simd.minimum(row + _F(3), half_height)
    row = simd.minimum(simd.maximum(low, sign * extreme), high)
    reach = simd.square_root(simd.maximum(square - (shrink * row) * row, _ZERO))
    outward = sign * (tilt * row - x) + (reach + (_F(MARGIN + 3) - is_right * _F(3)))
    bounds = sign * simd.floor(outward * _F(0.25)) + is_right
    bounds = simd.minimum(simd.maximum(bounds, _ZERO), _F(8))
    return simd_functions.span_mask(bounds, high > low), x, y


@helper
def _pixel_offsets():
    """Distances of a block's pixels from the tile's first, right for each column of blocks, then down for each row."""
    offsets = np.empty(2 * _SIDE * LANES, np.float32)
    for block in range(_SIDE):
        for lane in range(LANES):
            offsets[block * LANES + lane] = 4 * block + lane % 4
            offsets[(_SIDE + block) * LANES + lane] = 4 * block + lane // 4
    return offsets


@helper
def _vectors(count):
    """A flat array of `count` vectors that start on cache lines: one that straddles two costs twice."""
    room = np.zeros((count + 1) * LANES, np.float32)
    skip = (64 - room.ctypes.data % 64) % 64 // 4
    return room[skip : skip + count * LANES]


@helper
def _start_tile(state, rows, left, top, width, height):
    """Transmittance (row 0) 1 inside the image and -0 outside, the rest 0. Returns the blocks that lie outside, a set
    of bits as in `block_mask`."""
    closed = 0
    state[:] = _ZERO
    for block in range(_BLOCKS):
        base = block * rows * LANES
        x, y = left + (block % _SIDE) * 4, top + (block // _SIDE) * 4
        if x + 4 <= width and y + 4 <= height:
            simd.store(state, base, _ONE)
            continue
        if x >= width or y >= height:
            closed |= 1 << block
        for lane in range(LANES):
            state[base + lane] = _ONE if x + lane % 4 < width and y + lane // 4 < height else _ZERO
    return closed


@helper
def _blend(splats, at, point, offsets, block, before):
    """The splat of the row at `at` on one block whose transmittance is `before`. point: the tile's first pixel
    centre, seen from the mean, in memory: as vectors, x and y would take two registers more.

    Returns the distances from the mean, alpha without its limits, where it is not too faint, alpha with its limits, and
    weight and transmittance after, for pixels that do not stop before the splat.
    """
    dx = simd.load(offsets, (block & 7) * LANES) + simd.get(point, 0)
    dy = simd.load(offsets, (_SIDE + (block >> 3)) * LANES) + simd.get(point, 1)
    across = simd.get(splats, at + 4) * dx + simd.get(splats, at + 5) * dy
    exponent = across * dx + ((simd.get(splats, at + 6) * dy) * dy + simd.get(splats, at + 7))
    free = simd_functions.exp2(exponent)
    alpha = simd.minimum(free, _ALPHA_MAX)
    shows = exponent > _EXPONENT_BELOW
    alpha = simd.where(shows, alpha, _ZERO)
    weight = alpha * before
    after = before - weight
    return dx, dy, free, shows, alpha, weight, after


@helper
def _fill_tile(left, top, background, width, height, channels, colors, alphas, depths):
    """What a tile shows where there is no splat. colors, alphas, depths: of the view, flat."""
    right = min(left + TILE, width)
    for row in range(top, min(top + TILE, height)):
        for column in range(row * width + left, row * width + right):
            simd.put(alphas, column, _ZERO)
            simd.put(depths, column, _ZERO)
            for k in range(channels):
                simd.put(colors, column * channels + k, simd.get(background, k))


@helper
def _write_tile(state, rows, left, top, touched, background, width, height, channels, colors, alphas, depths):
    """The blocks that splats have touched, over what `_fill_tile` wrote; the state becomes what is written."""
    blocks = touched
    while blocks != 0:
        base = simd.lowest_bit(blocks) * rows * LANES
        blocks &= blocks - 1
        left_over = simd.absolute(simd.load(state, base))
        alpha = _ONE - left_over
        simd.store(state, base, alpha)
        at = base + LANES
        simd.store(state, at, simd.load(state, at) / simd.maximum(alpha, _HALF_ALPHA_MIN))  # 0 where alpha is 0
        for k in range(channels):
            at += LANES
            simd.store(state, at, simd.load(state, at) + left_over * simd.get(background, k))
    for row in range(min(TILE, height - top)):  # row by row, as the images lie in memory
        of_row = (touched >> (8 * (row >> 2))) & 255
        while of_row != 0:
            block = simd.lowest_bit(of_row)
            of_row &= of_row - 1
            place = ((row >> 2) * _SIDE + block) * rows * LANES + (row & 3) * 4
            at = (top + row) * width + left + block * 4
            for column in range(min(4, width - left - block * 4)):
                simd.put(alphas, at + column, simd.get(state, place + column))
                simd.put(depths, at + column, simd.get(state, place + LANES + column))
                for k in range(channels):
                    value = simd.get(state, place + (2 + k) * LANES + column)
                    simd.put(colors, (at + column) * channels + k, value)


@kernel
def composite(
    splats, tile_starts, entries, tile_order, backgrounds, feature_count, counter, colors, alphas, depths, reached,
):  # fmt: skip
    """Fill colors (C, H, W, K), alphas (C, H, W), depths (C, H, W), divided by alpha, and reached (P,): the blocks that
    each entry adds to.

    splats: rows of `cpu_projection`. tile_order: numbers of the tiles, the order in which threads take them.
    feature_count: a tuple as long as there are features: depth, colours, padding.
    """
    _, height, width, channels = colors.shape
    num_columns, num_rows = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    rows = 1 + len(feature_count)  # transmittance, features
    simd.align_stack()
    state, offsets, point = _vectors(_BLOCKS * rows), _pixel_offsets(), np.zeros(2, np.float32)
    flat, row_width = splats.reshape(-1), splats.shape[1]
    while True:
        task = simd.fetch_add(counter, 0)
        if task >= len(tile_order):
            break
        tile = tile_order[task]
        view, place = tile // (num_columns * num_rows), tile % (num_columns * num_rows)
        left, top = (place % num_columns) * TILE, (place // num_columns) * TILE
        start, stop = tile_starts[tile], tile_starts[tile + 1]
        touched = 0
        closed = _start_tile(state, rows, left, top, width, height) if stop > start else 0
        for entry in range(start, stop):
            if closed == -1:
                reached[entry] = 0
                continue
            at = entries[entry, 0] * row_width
            ahead = entries[min(entry + _AHEAD, len(entries) - 1), 0] * row_width
            simd.prefetch(flat, ahead)
            simd.prefetch(flat, ahead + FEATURES)
            blocks, x, y = block_mask(flat, at, left, top)
            simd.put(point, 0, x)
            simd.put(point, 1, y)
            blocks &= ~closed
            added = 0
            while blocks != 0:  # without branches on what is computed: such a guess, when wrong, costs a whole block
                block = simd.lowest_bit(blocks)
                bit = blocks & -blocks
                blocks ^= bit
                base = block * rows * LANES
                before = simd.load(state, base)
                _, _, _, shows, _, weight, after = _blend(flat, at, point, offsets, block, before)
                goes_on = after > _STOP
                simd.store(state, base, simd.where(goes_on, after, -simd.absolute(before)))
                closed |= 0 if simd.any_of(goes_on) else bit
                added |= bit if simd.any_of(shows) else 0
                weight = simd.where(goes_on, weight, _ZERO)
                simd_functions.add_weighted(state, base + LANES, weight, flat, at + FEATURES, feature_count)
            reached[entry] = added
            touched |= added
        images = colors[view].reshape(-1), alphas[view].reshape(-1), depths[view].reshape(-1)
        _fill_tile(left, top, backgrounds[view], width, height, channels, *images)
        _write_tile(state, rows, left, top, touched, backgrounds[view], width, height, channels, *images)


@helper
def _start_gradients(state, rows, left, top, blocks, width, height, channels, images, gradients):
    """For each block of the set, row 1: the loss still to come, as if it were linear in all weights; rows 2 on: the
    gradients of depth and colours. images, gradients: (colors, alphas, depths) of the view, flat."""
    colors, alphas, depths = images
    grad_colors, grad_alphas, grad_depths = gradients
    for row in range(min(TILE, height - top)):
        of_row = (blocks >> (8 * (row >> 2))) & 255
        while of_row != 0:
            block = simd.lowest_bit(of_row)
            of_row &= of_row - 1
            place = ((row >> 2) * _SIDE + block) * rows * LANES + (row & 3) * 4
            start = (top + row) * width + left + block * 4
            if row + 1 < min(TILE, height - top):
                simd.prefetch(colors, (start + width) * channels)
                simd.prefetch(grad_colors, (start + width) * channels)
            for at in range(start, start + min(4, width - left - block * 4)):
                # depth = accumulated / alpha: its gradient is one of the accumulated depth and one of alpha
                alpha, depth = simd.get(alphas, at), simd.get(depths, at)
                grad_accumulated = simd.get(grad_depths, at) / max(alpha, _HALF_ALPHA_MIN)
                grad_alpha = simd.get(grad_alphas, at) - depth * grad_accumulated
                rest = depth * alpha * grad_accumulated - (_ONE - alpha) * grad_alpha
                simd.put(state, place + 2 * LANES, grad_accumulated)
                for k in range(channels):
                    gradient = simd.get(grad_colors, at * channels + k)
                    rest += simd.get(colors, at * channels + k) * gradient
                    simd.put(state, place + (3 + k) * LANES, gradient)
                simd.put(state, place + LANES, rest)
                place += 1


@kernel
def composite_backward(
    splats, tile_starts, entries, tile_order, feature_count, counter, reached, images, gradients, slots,
):  # fmt: skip
    """Fill slots (P, 6 + 1 + K, and more up to a multiple of 16): for each pair of tile and splat the moments (see
    `cpu_projection.MOMENTS`) and the gradients of depth and colours. images, gradients: (colors, alphas, depths)."""
    _, height, width, channels = images[0].shape
    num_columns, num_rows = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    rows = 2 + len(feature_count)  # transmittance, rest, gradients of the features
    simd.align_stack()
    state, offsets, point = _vectors(_BLOCKS * rows), _pixel_offsets(), np.zeros(2, np.float32)
    flat, row_width = splats.reshape(-1), splats.shape[1]
    flat_slots, slot_width = slots.reshape(-1), slots.shape[1]
    while True:
        task = simd.fetch_add(counter, 0)
        if task >= len(tile_order):
            break
        tile = tile_order[task]
        view, place = tile // (num_columns * num_rows), tile % (num_columns * num_rows)
        left, top = (place % num_columns) * TILE, (place // num_columns) * TILE
        start, stop = tile_starts[tile], tile_starts[tile + 1]
        touched = 0
        for entry in range(start, stop):
            touched |= reached[entry]
        if touched != 0:
            _start_tile(state, rows, left, top, width, height)
            maps = images[0][view].reshape(-1), images[1][view].reshape(-1), images[2][view].reshape(-1)
            grads = gradients[0][view].reshape(-1), gradients[1][view].reshape(-1), gradients[2][view].reshape(-1)
            _start_gradients(state, rows, left, top, touched, width, height, channels, maps, grads)
        for entry in range(start, stop):
            slot, blocks = entries[entry, 1] * slot_width, reached[entry]
            if blocks == 0:
                for k in range(0, slot_width, LANES):
                    simd.store(flat_slots, slot + k, _ZERO)
                continue
            at = entries[entry, 0] * row_width
            ahead = entries[min(entry + _AHEAD, len(entries) - 1), 0] * row_width
            simd.prefetch(flat, ahead)
            simd.prefetch(flat, ahead + FEATURES)
            simd.put(point, 0, (_F(left + 0.5) - simd.get(flat, at)) - simd.get(flat, at + 1))
            simd.put(point, 1, (_F(top + 0.5) - simd.get(flat, at + 2)) - simd.get(flat, at + 3))
            zero = simd.fill(_ZERO)
            s0 = sx = sy = sxx = sxy = syy = zero
            sums = simd_functions.zeros(feature_count)
            while blocks != 0:
                block = simd.lowest_bit(blocks)
                blocks &= blocks - 1
                base = block * rows * LANES
                before = simd.load(state, base)
                dx, dy, free, _, alpha, weight, after = _blend(flat, at, point, offsets, block, before)
                goes_on = after > _STOP
                simd.store(state, base, simd.where(goes_on, after, -simd.absolute(before)))
                weight = simd.where(goes_on, weight, _ZERO)
                own = simd_functions.dot(state, base + 2 * LANES, flat, at + FEATURES, feature_count)
                sums = simd_functions.add_products(sums, weight, state, base + 2 * LANES)
                rest = simd.load(state, base + LANES) - weight * own
                simd.store(state, base + LANES, rest)
                s = alpha * (rest / (_ONE - alpha) - before * own)
                s = simd.where(goes_on & (free < _ALPHA_MAX), s, zero)
                s_dx, s_dy = s * dx, s * dy
                s0, sx, sy = s0 + s, sx + s_dx, sy + s_dy
                sxx, sxy, syy = sxx + s_dx * dx, sxy + s_dx * dy, syy + s_dy * dy
            simd_functions.store_totals(flat_slots, slot, (s0, sx, sy, sxx, sxy, syy), sums)
