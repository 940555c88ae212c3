"""numba kernels of the cpu backend, one splat at a time: EWA projection, its gradient, sorting and binning into tiles.

The mathematics is that of `geodiff.raster.reference.project`. Scalars are float64: it costs little here, and what the
compositing kernels receive is then exact to float32. Kernels that take a `counter` share their work between threads:
each thread draws the number of its next chunk from it.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from geodiff.raster import simd

#: Splats that a thread takes at once; camera gradients are summed a chunk at a time, so the result does not depend on
#: the number of threads.
CHUNK = 512
#: Side of a tile in pixels: 8x8 blocks of 4x4 pixels, so that a set of its blocks is one 64-bit number.
TILE = 32
#: Columns of a camera row: rotation 9, translation 3, fx fy cx cy, limits of x/z and y/z (low, high each), near, eps2d.
CAMERA_WIDTH = 22
#: Columns of `shapes`, see `_write_shape`: one cache line.
SHAPE_WIDTH = 16
#: Columns of a gradient slot before the features: sums over pixels of s, s dx, s dy, s dx dx, s dx dy, s dy dy, where s
#: is the gradient of the exponent and (dx, dy) the pixel's distance from the splat's mean.
MOMENTS = 6

#: Pixels by which ellipses are widened before blocks are culled, against rounding.
_MARGIN = 0.01
_LOG2_E, _LOG_255 = 1.4426950408889634, math.log(255.0)
_F = np.float32
_jit = numba.njit(cache=True, nogil=True)


@_jit
def _matmul(a, b):
    """3x3 matrices as tuples of 9, row by row."""
    return (
        a[0] * b[0] + a[1] * b[3] + a[2] * b[6], a[0] * b[1] + a[1] * b[4] + a[2] * b[7],
        a[0] * b[2] + a[1] * b[5] + a[2] * b[8], a[3] * b[0] + a[4] * b[3] + a[5] * b[6],
        a[3] * b[1] + a[4] * b[4] + a[5] * b[7], a[3] * b[2] + a[4] * b[5] + a[5] * b[8],
        a[6] * b[0] + a[7] * b[3] + a[8] * b[6], a[6] * b[1] + a[7] * b[4] + a[8] * b[7],
        a[6] * b[2] + a[7] * b[5] + a[8] * b[8],
    )  # fmt: skip


@_jit
def _transpose(a):
    return (a[0], a[3], a[6], a[1], a[4], a[7], a[2], a[5], a[8])


@_jit
def _scale_columns(a, x, y, z):
    return (a[0] * x, a[1] * y, a[2] * z, a[3] * x, a[4] * y, a[5] * z, a[6] * x, a[7] * y, a[8] * z)


@_jit
def _rotation(w, x, y, z):
    """Of a unit quaternion."""
    return (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip


@_jit
def _camera_rotation(camera):
    return (
        camera[0], camera[1], camera[2], camera[3], camera[4], camera[5], camera[6], camera[7], camera[8],
    )  # fmt: skip


@_jit
def _to_camera(camera, x, y, z):
    return (
        camera[0] * x + camera[1] * y + camera[2] * z + camera[9],
        camera[3] * x + camera[4] * y + camera[5] * z + camera[10],
        camera[6] * x + camera[7] * y + camera[8] * z + camera[11],
    )


@_jit
def _unit(quats, i):
    """(w, x, y, z, length) of the normalised quaternion."""
    w, x, y, z = float(quats[i, 0]), float(quats[i, 1]), float(quats[i, 2]), float(quats[i, 3])
    length = max(math.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    return w / length, x / length, y / length, z / length, length


@_jit
def _jacobian(camera, x, y, z):
    """Of the projection: J00, J02, J11, J12 and whether x / z and y / z are free (not held at the border)."""
    tan_x = min(max(x / z, camera[16]), camera[17])
    tan_y = min(max(y / z, camera[18]), camera[19])
    fx, fy = camera[12] / z, camera[13] / z
    return fx, -fx * tan_x, fy, -fy * tan_y, tan_x == x / z, tan_y == y / z


@_jit
def _project_axes(jacobian, v):
    """J V, 2x3 row by row: the splat's axes on the image; the covariance there is its product with its transpose."""
    j00, j02, j11, j12 = jacobian[0], jacobian[1], jacobian[2], jacobian[3]
    return (
        j00 * v[0] + j02 * v[6], j00 * v[1] + j02 * v[7], j00 * v[2] + j02 * v[8],
        j11 * v[3] + j12 * v[6], j11 * v[4] + j12 * v[7], j11 * v[5] + j12 * v[8],
    )  # fmt: skip


@_jit
def _covariance(a, eps2d):
    return (
        a[0] * a[0] + a[1] * a[1] + a[2] * a[2] + eps2d,
        a[0] * a[3] + a[1] * a[4] + a[2] * a[5],
        a[3] * a[3] + a[4] * a[4] + a[5] * a[5] + eps2d,
    )


@_jit
def _write_shape(shapes, i, x, y, xx, xy, yy, opacity):
    """What compositing needs of the ellipse. Returns its half size (x, y) at alpha = 1/255.

    0-3: the mean's x and y, each as a float32 and what is missing from it. 4-6: conic, scaled so that the exponent of 2
    is s4 dx dx + s5 dx dy + s6 dy dy. 7: log2 of the opacity. 8: half height. In the row dy the ellipse spans
    s9 dy -+ sqrt(s10 - s11 dy dy); it reaches farthest right at dy = s12 and farthest left at -s12.
    """
    determinant = xx * yy - xy * xy
    a, b, c = yy / determinant, -xy / determinant, xx / determinant
    log_opacity = math.log(opacity)
    level = 2.0 * (log_opacity + _LOG_255)
    half_x, half_y = math.sqrt(level * xx), math.sqrt(level * yy)
    shapes[i, 0], shapes[i, 2] = x, y
    shapes[i, 1], shapes[i, 3] = x - float(shapes[i, 0]), y - float(shapes[i, 2])
    shapes[i, 4], shapes[i, 5], shapes[i, 6] = -0.5 * _LOG2_E * a, -_LOG2_E * b, -0.5 * _LOG2_E * c
    shapes[i, 7] = _LOG2_E * log_opacity
    shapes[i, 8] = half_y + _MARGIN
    shapes[i, 9] = -b / a
    shapes[i, 10] = level / a
    shapes[i, 11] = (a * c - b * b) / (a * a)
    shapes[i, 12] = -b / c * half_x
    return half_x, half_y


@_jit
def block_mask(shapes, i, left, top):
    """The blocks of the tile at (left, top) that the ellipse touches: bit 8 row + column. Also the distances of the
    tile's first pixel centre from the mean, x and y.

    A row of blocks is a lane. An ellipse's right border is concave, so within a row it is farthest right at its extreme
    held within the row; likewise on the left.
    """
    x = (_F(left + 0.5) - shapes[i, 0]) - shapes[i, 1]
    y = (_F(top + 0.5) - shapes[i, 2]) - shapes[i, 3]
    zero, eight, quarter = simd.fill(_F(0)), simd.fill(_F(8)), simd.fill(_F(0.25))
    row = simd.muladd(simd.ramp(), simd.fill(_F(4)), simd.fill(y))
    low = simd.maximum(row, simd.fill(-shapes[i, 8]))
    high = simd.minimum(simd.add(row, simd.fill(_F(3))), simd.fill(shapes[i, 8]))
    at_right = simd.minimum(simd.maximum(simd.fill(shapes[i, 12]), low), high)
    at_left = simd.minimum(simd.maximum(simd.fill(-shapes[i, 12]), low), high)
    tilt, square, shrink = simd.fill(shapes[i, 9]), simd.fill(shapes[i, 10]), simd.fill(-shapes[i, 11])
    reach = simd.square_root(simd.maximum(simd.muladd(simd.multiply(shrink, at_right), at_right, square), zero))
    right = simd.add(simd.muladd(tilt, at_right, reach), simd.fill(_F(_MARGIN) - x))
    reach = simd.square_root(simd.maximum(simd.muladd(simd.multiply(shrink, at_left), at_left, square), zero))
    leftmost = simd.subtract(simd.muladd(tilt, at_left, simd.fill(-_F(_MARGIN) - x - _F(3))), reach)
    first = simd.minimum(simd.maximum(simd.ceil(simd.multiply(leftmost, quarter)), zero), eight)
    past = simd.add(simd.floor(simd.multiply(right, quarter)), simd.fill(_F(1)))
    past = simd.minimum(simd.maximum(past, zero), eight)
    return simd.span_mask(first, simd.where_greater(high, low, past, zero)), x, y


@_jit
def project(means, quats, scales, opacities, camera, size, counter, shapes, depths, boxes):
    """Fill shapes (N, 16), depths (N,) and boxes (N, 4): the tiles that the splat may touch, as first
    and past-the-last column, then row; empty where it cannot be seen. size: (width, height)."""
    rotation = _camera_rotation(camera)
    width, height = size
    while True:
        first = simd.fetch_add(counter, 0) * CHUNK
        if first >= len(means):
            break
        for i in range(first, min(first + CHUNK, len(means))):
            boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3] = 0, 0, 0, 0
            opacity = float(opacities[i])
            x, y, z = _to_camera(camera, means[i, 0], means[i, 1], means[i, 2])
            depths[i] = z
            if z <= camera[20] or opacity < 1.0 / 255.0:
                continue
            center_x, center_y = camera[12] * x / z + camera[14], camera[13] * y / z + camera[15]
            w, qx, qy, qz, _ = _unit(quats, i)
            axes = _scale_columns(_rotation(w, qx, qy, qz), scales[i, 0], scales[i, 1], scales[i, 2])
            image_axes = _project_axes(_jacobian(camera, x, y, z), _matmul(rotation, axes))
            xx, xy, yy = _covariance(image_axes, camera[21])
            half_x, half_y = _write_shape(shapes, i, center_x, center_y, xx, xy, yy, opacity)
            if (
                center_x + half_x < 0.0 or center_y + half_y < 0.0
                or center_x - half_x > width or center_y - half_y > height
            ):  # fmt: skip
                continue
            boxes[i, 0] = int(max(center_x - half_x, 0.0)) // TILE
            boxes[i, 1] = int(min(center_x + half_x, width - 1.0)) // TILE + 1
            boxes[i, 2] = int(max(center_y - half_y, 0.0)) // TILE
            boxes[i, 3] = int(min(center_y + half_y, height - 1.0)) // TILE + 1


@_jit
def _sort_by_key(keys, index):
    """Stable radix sort of index by keys[index], three passes of 11 bits."""
    other = np.empty_like(index)
    counts = np.empty(2048, np.int64)
    for shift in (0, 11, 22):
        counts[:] = 0
        for i in index:
            counts[(keys[i] >> shift) & 2047] += 1
        start = 0
        for digit in range(2048):
            count = counts[digit]
            counts[digit] = start
            start += count
        for i in index:
            digit = (keys[i] >> shift) & 2047
            other[counts[digit]] = i
            counts[digit] += 1
        index, other = other, index
    return index


@_jit
def bin_into_tiles(keys, boxes, num_columns, num_rows):
    """Visible splats in order of depth, and for each tile those that may touch it.

    keys: (N,) uint32, the bits of the depths (positive floats sort like their bits). Returns order (M,); first_slot
    (M + 1,), the numbers of a splat's gradient slots, one for each tile of its box; tile_starts (tiles + 1,) and
    entries (P, 2), for each tile, nearest first, the splat and its slot there.
    """
    visible = np.empty(len(boxes), np.int32)
    num_visible = 0
    for i in range(len(boxes)):
        if boxes[i, 1] > boxes[i, 0] and boxes[i, 3] > boxes[i, 2]:
            visible[num_visible] = i
            num_visible += 1
    order = _sort_by_key(keys, visible[:num_visible].copy())
    first_slot = np.zeros(num_visible + 1, np.int32)
    tile_starts = np.zeros(num_columns * num_rows + 1, np.int32)
    for rank in range(num_visible):
        i = order[rank]
        first_slot[rank + 1] = first_slot[rank] + (boxes[i, 1] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 2])
        for row in range(boxes[i, 2], boxes[i, 3]):
            for column in range(boxes[i, 0], boxes[i, 1]):
                tile_starts[row * num_columns + column + 1] += 1
    for tile in range(num_columns * num_rows):
        tile_starts[tile + 1] += tile_starts[tile]
    cursor = tile_starts[:-1].copy()
    entries = np.empty((first_slot[num_visible], 2), np.int32)
    for rank in range(num_visible):
        i = order[rank]
        slot = first_slot[rank]
        for row in range(boxes[i, 2], boxes[i, 3]):
            for column in range(boxes[i, 0], boxes[i, 1]):
                tile = row * num_columns + column
                entries[cursor[tile], 0] = i
                entries[cursor[tile], 1] = slot
                cursor[tile] += 1
                slot += 1
    return order, first_slot, tile_starts, entries


@_jit
def _quat_gradient(quats, i, g, gradients):
    """Write the gradient of the quaternion, given that of its rotation matrix."""
    w, x, y, z, length = _unit(quats, i)
    gw = 2 * (x * (g[7] - g[5]) + y * (g[2] - g[6]) + z * (g[3] - g[1]))
    gx = 2 * (w * (g[7] - g[5]) + y * (g[1] + g[3]) + z * (g[2] + g[6]) - 2 * x * (g[4] + g[8]))
    gy = 2 * (w * (g[2] - g[6]) + x * (g[1] + g[3]) + z * (g[5] + g[7]) - 2 * y * (g[0] + g[8]))
    gz = 2 * (w * (g[3] - g[1]) + x * (g[2] + g[6]) + y * (g[5] + g[7]) - 2 * z * (g[0] + g[4]))
    along = gw * w + gx * x + gy * y + gz * z
    gradients[i, 0], gradients[i, 1] = (gw - along * w) / length, (gx - along * x) / length
    gradients[i, 2], gradients[i, 3] = (gy - along * y) / length, (gz - along * z) / length


@_jit
def _covariance_gradient(xx, xy, yy, slot):
    """Gradients of xx, xy (both of its places together, halved) and yy from the moments: -C G C with C the conic."""
    determinant = xx * yy - xy * xy
    a, b, c = yy / determinant, -xy / determinant, xx / determinant
    ga, gb, gc = 0.5 * slot[3], 0.5 * slot[4], 0.5 * slot[5]
    left0, left1, left2, left3 = a * ga + b * gb, a * gb + b * gc, b * ga + c * gb, b * gb + c * gc
    return -(left0 * a + left1 * b), -(left0 * b + left1 * c), -(left2 * b + left3 * c), a, b, c


@_jit
def _axes_gradient(g_xx, g_xy, g_yy, u, axes, jacobian):
    """Gradients of the camera-space axes V and of the Jacobian's entries, through covariance = U U^T, U = J V."""
    j00, j02, j11, j12 = jacobian[0], jacobian[1], jacobian[2], jacobian[3]
    t_xx, t_xy, t_yy = 2 * g_xx, 2 * g_xy, 2 * g_yy
    r0, r1, r2 = t_xx * u[0] + t_xy * u[3], t_xx * u[1] + t_xy * u[4], t_xx * u[2] + t_xy * u[5]
    r3, r4, r5 = t_xy * u[0] + t_yy * u[3], t_xy * u[1] + t_yy * u[4], t_xy * u[2] + t_yy * u[5]
    g_axes = (
        j00 * r0, j00 * r1, j00 * r2, j11 * r3, j11 * r4, j11 * r5,
        j02 * r0 + j12 * r3, j02 * r1 + j12 * r4, j02 * r2 + j12 * r5,
    )  # fmt: skip
    g_j00 = r0 * axes[0] + r1 * axes[1] + r2 * axes[2]
    g_j02 = r0 * axes[6] + r1 * axes[7] + r2 * axes[8]
    g_j11 = r3 * axes[3] + r4 * axes[4] + r5 * axes[5]
    g_j12 = r3 * axes[6] + r4 * axes[7] + r5 * axes[8]
    return g_axes, g_j00, g_j02, g_j11, g_j12


@_jit
def project_backward(
    means, quats, scales, opacities, camera, order, first_slot, slots, counter,
    grad_means, grad_quats, grad_scales, grad_opacities, grad_colors, grad_cameras,
):  # fmt: skip
    """Sum each splat's gradient slots and carry them through the projection.

    slots: (P, 6 + 1 + K, and more up to a multiple of 16) moments, then the gradients of depth and colours. Writes the
    rows of visible splats only; grad_cameras (chunks, 12): rotation and translation, one row a chunk.
    """
    camera_rotation = _camera_rotation(camera)
    slot = np.empty(slots.shape[1], np.float32)
    rows = slots.reshape(-1)
    while True:
        chunk = simd.fetch_add(counter, 0)
        if chunk * CHUNK >= len(order):
            break
        for rank in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(order))):
            i = order[rank]
            for k in range(0, len(slot), simd.LANES):
                total = simd.fill(_F(0))
                for row in range(first_slot[rank], first_slot[rank + 1]):
                    total = simd.add(total, simd.load(rows, row * len(slot) + k))
                simd.store(slot, k, total)
            for k in range(grad_colors.shape[1]):
                grad_colors[i, k] = slot[MOMENTS + 1 + k]
            grad_opacities[i] = -slot[0] / opacities[i]

            x, y, z = _to_camera(camera, means[i, 0], means[i, 1], means[i, 2])
            w, qx, qy, qz, _ = _unit(quats, i)
            rotation = _rotation(w, qx, qy, qz)
            world_axes = _scale_columns(rotation, scales[i, 0], scales[i, 1], scales[i, 2])
            axes = _matmul(camera_rotation, world_axes)
            jacobian = _jacobian(camera, x, y, z)
            _, j02, _, j12, free_x, free_y = jacobian
            u = _project_axes(jacobian, axes)
            xx, xy, yy = _covariance(u, camera[21])
            g_xx, g_xy, g_yy, a, b, c = _covariance_gradient(xx, xy, yy, slot)

            g_axes, g_j00, g_j02, g_j11, g_j12 = _axes_gradient(g_xx, g_xy, g_yy, u, axes, jacobian)

            # V = W R S
            g_world = _matmul(_transpose(camera_rotation), g_axes)
            for k in range(3):
                grad_scales[i, k] = (
                    rotation[k] * g_world[k] + rotation[3 + k] * g_world[3 + k] + rotation[6 + k] * g_world[6 + k]
                )
            g_rotation = _scale_columns(g_world, scales[i, 0], scales[i, 1], scales[i, 2])
            _quat_gradient(quats, i, g_rotation, grad_quats)
            g_camera = _matmul(g_axes, _transpose(world_axes))

            # the mean: through its place on the image, its depth and the Jacobian
            g_u, g_v = -(a * slot[1] + b * slot[2]), -(b * slot[1] + c * slot[2])
            fx, fy = camera[12] / z, camera[13] / z
            g_x, g_y = fx * g_u, fy * g_v
            g_z = slot[MOMENTS] - (fx * x * g_u + fy * y * g_v + fx * g_j00 + fy * g_j11) / z
            g_z -= (j02 * g_j02 + j12 * g_j12) / z
            if free_x:
                g_x -= fx / z * g_j02
                g_z -= j02 / z * g_j02
            if free_y:
                g_y -= fy / z * g_j12
                g_z -= j12 / z * g_j12
            for k in range(3):
                grad_means[i, k] = (
                    camera_rotation[k] * g_x + camera_rotation[3 + k] * g_y + camera_rotation[6 + k] * g_z
                )
                grad_cameras[chunk, k] += g_camera[k] + g_x * means[i, k]
                grad_cameras[chunk, 3 + k] += g_camera[3 + k] + g_y * means[i, k]
                grad_cameras[chunk, 6 + k] += g_camera[6 + k] + g_z * means[i, k]
            grad_cameras[chunk, 9] += g_x
            grad_cameras[chunk, 10] += g_y
            grad_cameras[chunk, 11] += g_z
