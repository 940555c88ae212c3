"""numba kernels of the cpu backend, 16 splats at a time: EWA projection and its gradient.

The mathematics is that of `geodiff.raster.reference.project`. Vectors are float64: it costs little here, and what the
compositing kernels receive is then exact to float32. A `counter` shares a kernel's work between threads: each draws the
number of its next chunk of splats from it.
"""

from __future__ import annotations

import math

import numpy as np

from geodiff.raster import simd, simd_functions
from geodiff.raster.compiled import helper, kernel
from geodiff.raster.simd import LANES

#: Splats that a thread takes at once; camera gradients are summed a chunk at a time, so the result does not depend on
#: the number of threads.
CHUNK = 512
#: Side of a tile in pixels: 8x8 blocks of 4x4 pixels, so that a set of its blocks is one 64-bit number.
TILE = 32
#: Columns of a camera row: rotation 9, translation 3, fx fy cx cy, limits of x/z and y/z (low, high each), near, eps2d.
CAMERA_WIDTH = 22
#: Columns of a row of `splats`: one cache line of the ellipse's shape (13 numbers, see `_write_shapes`), then the
#: features: depth, colours, and zeros up to a multiple of a cache line.
FEATURES = 16
_SHAPE_WIDTH = 13
#: Columns of a gradient slot before the features: sums over pixels of s, s dx, s dy, s dx dx, s dx dy, s dy dy, where s
#: is the gradient of the exponent and (dx, dy) the pixel's distance from the splat's mean.
MOMENTS = 6
#: Columns of what a Gaussian is in the world: mean 3, quaternion 4, scales 3, opacity.
WORLD = 11

#: Pixels by which ellipses are widened before blocks are culled, against rounding.
MARGIN = 1e-3
_LOG2_E = 1.0 / math.log(2.0)
_LOG2_255 = math.log2(255.0)


@helper
def matmul(a, b):
    """3x3 matrices as tuples of 9, row by row."""
    return (
        a[0] * b[0] + a[1] * b[3] + a[2] * b[6], a[0] * b[1] + a[1] * b[4] + a[2] * b[7],
        a[0] * b[2] + a[1] * b[5] + a[2] * b[8], a[3] * b[0] + a[4] * b[3] + a[5] * b[6],
        a[3] * b[1] + a[4] * b[4] + a[5] * b[7], a[3] * b[2] + a[4] * b[5] + a[5] * b[8],
        a[6] * b[0] + a[7] * b[3] + a[8] * b[6], a[6] * b[1] + a[7] * b[4] + a[8] * b[7],
        a[6] * b[2] + a[7] * b[5] + a[8] * b[8],
    )  # fmt: skip


@helper
def transpose(a):
    return (a[0], a[3], a[6], a[1], a[4], a[7], a[2], a[5], a[8])


@helper
def scale_columns(a, x, y, z):
    return (a[0] * x, a[1] * y, a[2] * z, a[3] * x, a[4] * y, a[5] * z, a[6] * x, a[7] * y, a[8] * z)


@helper
def rotation_matrix(w, x, y, z):
    """Of a unit quaternion."""
    return (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip


@helper
def camera_rotation(camera):
    """As vectors, every lane the same."""
    return (
        simd.fill(camera[0]), simd.fill(camera[1]), simd.fill(camera[2]), simd.fill(camera[3]), simd.fill(camera[4]),
        simd.fill(camera[5]), simd.fill(camera[6]), simd.fill(camera[7]), simd.fill(camera[8]),
    )  # fmt: skip


@helper
def to_camera(camera, x, y, z):
    return (
        camera[0] * x + camera[1] * y + camera[2] * z + camera[9],
        camera[3] * x + camera[4] * y + camera[5] * z + camera[10],
        camera[6] * x + camera[7] * y + camera[8] * z + camera[11],
    )


@helper
def unit_quaternion(world):
    """(w, x, y, z) of the normalised quaternions, and what they were multiplied with."""
    w, x, y, z = column(world, 3), column(world, 4), column(world, 5), column(world, 6)
    inverse = 1.0 / simd.maximum(simd.square_root(w * w + x * x + y * y + z * z), 1e-12)
    return w * inverse, x * inverse, y * inverse, z * inverse, inverse


@helper
def jacobian(camera, slope_x, slope_y, inverse_z):
    """Of the projection: J00, J02, J11, J12, and x / z and y / z after they are held at the border."""
    tan_x = simd.minimum(simd.maximum(slope_x, camera[16]), camera[17])
    tan_y = simd.minimum(simd.maximum(slope_y, camera[18]), camera[19])
    fx, fy = camera[12] * inverse_z, camera[13] * inverse_z
    return fx, -fx * tan_x, fy, -fy * tan_y, tan_x, tan_y


@helper
def project_axes(jacobian, v):
    """J V, 2x3 row by row: the splat's axes on the image; the covariance there is its product with its transpose."""
    j00, j02, j11, j12 = jacobian[0], jacobian[1], jacobian[2], jacobian[3]
    return (
        j00 * v[0] + j02 * v[6], j00 * v[1] + j02 * v[7], j00 * v[2] + j02 * v[8],
        j11 * v[3] + j12 * v[6], j11 * v[4] + j12 * v[7], j11 * v[5] + j12 * v[8],
    )  # fmt: skip


@helper
def covariance(a, eps2d):
    return (
        a[0] * a[0] + a[1] * a[1] + a[2] * a[2] + eps2d,
        a[0] * a[3] + a[1] * a[4] + a[2] * a[5],
        a[3] * a[3] + a[4] * a[4] + a[5] * a[5] + eps2d,
    )


@helper
def conic(xx, xy, yy):
    """The inverse of the covariance and the determinant; of one that has none, anything finite."""
    determinant = xx * yy - xy * xy
    determinant = simd.where(determinant > 0.0, determinant, 1.0)
    inverse = 1.0 / determinant
    return yy * inverse, -xy * inverse, xx * inverse, determinant


@helper
def column(flat, k):
    """Column k of a scratch array that holds 16 rows, column by column."""
    return simd.load(flat, k * LANES)


@helper
def gather(first, count, means, quats, scales, opacities, world):
    """Gaussians first to first + count - 1, column by column; lanes beyond keep what they held. The fields are flat."""
    for lane in range(count):
        i = first + lane
        for k in range(3):
            simd.put(world, k * LANES + lane, simd.get(means, 3 * i + k))
            simd.put(world, (7 + k) * LANES + lane, simd.get(scales, 3 * i + k))
        for k in range(4):
            simd.put(world, (3 + k) * LANES + lane, simd.get(quats, 4 * i + k))
        simd.put(world, 10 * LANES + lane, simd.get(opacities, i))


@helper
def write_shapes(shapes, x, y, xx, xy, yy, opacity):
    """What compositing needs of the ellipses. Returns half their size (x, y) at alpha = 1/255.

    Columns 0-3: the mean's x and y, each as a float32 and what is missing from it. 4-6: conic, scaled so that the
    exponent of 2 is s4 dx dx + s5 dx dy + s6 dy dy + s7. 7: log2 of the opacity. 8: half height. In the row dy the
    ellipse spans s9 dy -+ sqrt(s10 - s11 dy dy); it reaches farthest right at dy = s12 and farthest left at -s12.
    """
    a, b, c, determinant = conic(xx, xy, yy)
    inverse_yy = 1.0 / yy
    log_opacity = simd_functions.log2(opacity)
    level = (2.0 / _LOG2_E) * simd.maximum(log_opacity + _LOG2_255, 0.0)
    half_x, half_y = simd.square_root(level * xx), simd.square_root(level * yy)
    near_x, near_y = simd.narrow(x), simd.narrow(y)
    simd.store(shapes, 0, near_x)
    simd.store(shapes, 1 * LANES, simd.narrow(x - simd.widen(near_x)))
    simd.store(shapes, 2 * LANES, near_y)
    simd.store(shapes, 3 * LANES, simd.narrow(y - simd.widen(near_y)))
    simd.store(shapes, 4 * LANES, simd.narrow(-0.5 * _LOG2_E * a))
    simd.store(shapes, 5 * LANES, simd.narrow(-_LOG2_E * b))
    simd.store(shapes, 6 * LANES, simd.narrow(-0.5 * _LOG2_E * c))
    simd.store(shapes, 7 * LANES, simd.narrow(log_opacity))
    simd.store(shapes, 8 * LANES, simd.narrow(half_y + MARGIN))
    simd.store(shapes, 9 * LANES, simd.narrow(xy * inverse_yy))
    simd.store(shapes, 10 * LANES, simd.narrow(level * determinant * inverse_yy))
    simd.store(shapes, 11 * LANES, simd.narrow(determinant * inverse_yy * inverse_yy))
    simd.store(shapes, 12 * LANES, simd.narrow(xy / xx * half_x))
    return half_x, half_y


@helper
def _project_group(world, camera, width, height, shapes, boxes):
    """16 splats: fill shapes and boxes, the first and last column and row of the tiles that they may touch, then 1 or 0
    for whether they can be seen. Returns camera depths."""
    x, y, z = to_camera(camera, column(world, 0), column(world, 1), column(world, 2))
    opacity = column(world, 10)
    inverse_z = 1.0 / z
    slope_x, slope_y = x * inverse_z, y * inverse_z
    center_x, center_y = camera[12] * slope_x + camera[14], camera[13] * slope_y + camera[15]
    w, qx, qy, qz, _ = unit_quaternion(world)
    axes = scale_columns(rotation_matrix(w, qx, qy, qz), column(world, 7), column(world, 8), column(world, 9))
    image_axes = project_axes(jacobian(camera, slope_x, slope_y, inverse_z), matmul(camera_rotation(camera), axes))
    xx, xy, yy = covariance(image_axes, camera[21])
    half_x, half_y = write_shapes(shapes, center_x, center_y, xx, xy, yy, simd.maximum(opacity, 1e-9))
    left, right, top, bottom = center_x - half_x, center_x + half_x, center_y - half_y, center_y + half_y
    seen = simd.where(z > camera[20], simd.fill(1.0), 0.0)
    seen = simd.where(opacity < 1.0 / 255.0, 0.0, seen)
    seen = simd.where(right < 0.0, 0.0, simd.where(bottom < 0.0, 0.0, seen))
    seen = simd.where(left > width, 0.0, simd.where(top > height, 0.0, seen))
    simd.store(boxes, 0, simd.floor(simd.maximum(left, 0.0) * (1.0 / TILE)))
    simd.store(boxes, 1 * LANES, simd.floor(simd.minimum(right, width - 1.0) * (1.0 / TILE)))
    simd.store(boxes, 2 * LANES, simd.floor(simd.maximum(top, 0.0) * (1.0 / TILE)))
    simd.store(boxes, 3 * LANES, simd.floor(simd.minimum(bottom, height - 1.0) * (1.0 / TILE)))
    simd.store(boxes, 4 * LANES, seen)
    return z


@helper
def _rows_finite(flat, start, stop):
    """Whether all of flat[start:stop] is: a number times zero is zero, unless it is infinite or NaN."""
    total = simd.fill(np.float32(0))
    at = start
    while at + LANES <= stop:
        total = total + 0.0 * simd.load(flat, at)
        at += LANES
    single = np.float32(0)
    while at < stop:
        single += np.float32(0) * flat[at]
        at += 1
    return single == 0 and not simd.any_of(simd.where(total > -1.0, simd.fill(np.float32(0)), 1.0) > 0.0)


@helper
def _all_finite(chunk, means, quats, scales, opacities, colors):
    start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, len(means))
    channels = colors.shape[1]
    return (
        _rows_finite(means.reshape(-1), 3 * start, 3 * stop)
        and _rows_finite(quats.reshape(-1), 4 * start, 4 * stop)
        and _rows_finite(scales.reshape(-1), 3 * start, 3 * stop)
        and _rows_finite(opacities, start, stop)
        and _rows_finite(colors.reshape(-1), channels * start, channels * stop)
    )


@kernel
def project(means, quats, scales, opacities, colors, cameras, size, features, counter, splats, keys, boxes, finite):
    """Fill splats (C * N, W) rows of what can be seen, keys (C * N,) the bits of the depth, boxes (C * N,) for
    `cpu_binning`: the tiles that a splat may touch, 16 bits each for first column, number of columns, first row and
    number of rows, 0 where it cannot be seen; and finite (chunks,): False where an input is not.

    cameras: (C, 22). size: (width, height). features: how many numbers there shall be from column `FEATURES` on.
    """
    width, height = float(size[0]), float(size[1])
    count, channels = colors.shape
    num_chunks = (count + CHUNK - 1) // CHUNK
    world, depths = np.zeros(WORLD * LANES), np.zeros(LANES, np.float32)
    shapes, places = np.zeros(FEATURES * LANES, np.float32), np.zeros(5 * LANES)
    depth_bits, flat, flat_colors = depths.view(np.uint32), splats.reshape(-1), colors.reshape(-1)
    fields = means.reshape(-1), quats.reshape(-1), scales.reshape(-1), opacities
    while True:
        task = simd.fetch_add(counter, 0)
        if task >= num_chunks * len(cameras):
            break
        view, chunk = task // num_chunks, task % num_chunks
        for first in range(chunk * CHUNK, min((chunk + 1) * CHUNK, count), LANES):
            lanes = min(LANES, count - first)
            gather(first, lanes, fields[0], fields[1], fields[2], fields[3], world)
            z = _project_group(world, cameras[view], width, height, shapes, places)
            simd.store(depths, 0, simd.narrow(z))
            for lane in range(lanes):
                i = view * count + first + lane
                simd.put(keys, i, simd.get(depth_bits, lane))
                left, right = simd.get(places, lane), simd.get(places, LANES + lane)
                top, bottom = simd.get(places, 2 * LANES + lane), simd.get(places, 3 * LANES + lane)
                if simd.get(places, 4 * LANES + lane) == 0.0:
                    simd.put(boxes, i, 0)
                    continue
                across, down = int(right - left) + 1, int(bottom - top) + 1
                simd.put(boxes, i, int(left) | across << 16 | int(top) << 32 | down << 48)
                at = i * splats.shape[1]
                for k in range(_SHAPE_WIDTH):
                    simd.put(flat, at + k, simd.get(shapes, k * LANES + lane))
                at += FEATURES
                simd.put(flat, at, simd.get(depths, lane))
                for k in range(channels):
                    simd.put(flat, at + 1 + k, simd.get(flat_colors, (first + lane) * channels + k))
                for k in range(1 + channels, features):
                    simd.put(flat, at + k, np.float32(0))
        if view == 0:
            finite[chunk] = _all_finite(chunk, means, quats, scales, opacities, colors)
