"""numba kernels of the cpu backend: splats in order of depth, tile by tile."""

from __future__ import annotations

import numpy as np

from geodiff.raster import simd
from geodiff.raster.compiled import helper, kernel

_DIGIT = 11
_MASK = np.uint64((1 << _DIGIT) - 1)


@helper
def _box(boxes, i):
    """First and past-the-last column, first and past-the-last row of the tiles of a splat."""
    box = simd.get(boxes, i)
    left, top = box & 0xFFFF, (box >> 32) & 0xFFFF
    return left, left + ((box >> 16) & 0xFFFF), top, top + (box >> 48)


@helper
def _sorted_by_key(keys, boxes, start, stop):
    """Numbers of the splats that can be seen, by their keys, equal ones by number: a radix sort of key and number in
    one, of as many passes as the range of the keys needs (two for a head at arm's length)."""
    pairs = np.empty(stop - start, np.uint64)
    count = 0
    lowest, highest = np.uint32(0xFFFFFFFF), np.uint32(0)
    for i in range(start, stop):
        if simd.get(boxes, i) != 0:
            lowest, highest = min(lowest, keys[i]), max(highest, keys[i])
            pairs[count] = (np.uint64(keys[i]) << np.uint64(32)) | np.uint64(i)
            count += 1
    others = np.empty(count, np.uint64)
    counts = np.empty(1 << _DIGIT, np.int64)
    shift, base = 32, np.uint64(lowest) << np.uint64(32)
    while count > 0 and (np.uint64(highest) - np.uint64(lowest)) >> np.uint64(shift - 32) > 0:
        counts[:] = 0
        for j in range(count):
            digit = np.int64(((simd.get(pairs, j) - base) >> np.uint64(shift)) & _MASK)
            simd.put(counts, digit, simd.get(counts, digit) + 1)
        place = 0
        for digit in range(1 << _DIGIT):
            place, counts[digit] = place + counts[digit], place
        for j in range(count):
            pair = simd.get(pairs, j)
            digit = np.int64(((pair - base) >> np.uint64(shift)) & _MASK)
            place = simd.get(counts, digit)
            simd.put(others, place, pair)
            simd.put(counts, digit, place + 1)
        pairs, others = others, pairs
        shift += _DIGIT
    order = np.empty(count, np.int32)
    for j in range(count):
        order[j] = np.int32(pairs[j] & np.uint64(0xFFFFFFFF))
    return order


@kernel
def count_tiles(boxes, num_views, num_columns, num_rows):
    """first_slot (C * N + 1,), the numbers of a splat's gradient slots, one for each tile of its box; tile_starts
    (C * tiles + 1,), where each tile's entries begin."""
    first_slot = np.zeros(len(boxes) + 1, np.int32)
    tiles = num_columns * num_rows
    tile_starts = np.zeros(num_views * tiles + 1, np.int32)
    per_view, slots = len(boxes) // num_views, 0
    for view in range(num_views):
        for i in range(view * per_view, (view + 1) * per_view):
            left, right, top, bottom = _box(boxes, i)
            slots += (right - left) * (bottom - top)
            simd.put(first_slot, i + 1, np.int32(slots))
            for row in range(top, bottom):
                for column in range(left, right):
                    at = view * tiles + row * num_columns + column + 1
                    simd.put(tile_starts, at, np.int32(simd.get(tile_starts, at) + 1))
    for tile in range(num_views * tiles):
        tile_starts[tile + 1] += tile_starts[tile]
    return first_slot, tile_starts


@kernel
def fill_tiles(keys, boxes, first_slot, tile_starts, num_views, num_columns, counter, entries):
    """entries (P, 2): for each tile, nearest first, the splat and its slot there. A thread takes a view at a time.

    keys: (C * N,) uint32, the bits of the depths (positive floats sort like their bits).
    """
    per_view, tiles = len(boxes) // num_views, (len(tile_starts) - 1) // num_views
    flat = entries.reshape(-1)
    while True:
        view = simd.fetch_add(counter, 0)
        if view >= num_views:
            break
        cursor = tile_starts[view * tiles : (view + 1) * tiles].copy()
        for i in _sorted_by_key(keys, boxes, view * per_view, (view + 1) * per_view):
            slot = simd.get(first_slot, i)
            left, right, top, bottom = _box(boxes, i)
            for row in range(top, bottom):
                for column in range(left, right):
                    place = simd.get(cursor, row * num_columns + column)
                    simd.put(cursor, row * num_columns + column, np.int32(place + 1))
                    simd.put(flat, 2 * place, np.int32(i))
                    simd.put(flat, 2 * place + 1, np.int32(slot))
                    slot += 1
