"""numba kernels of the cpu backend, 16 splats at a time: gradient slots summed and carried through the projection."""

from __future__ import annotations

import numpy as np

from geodiff.raster import simd, simd_functions
from geodiff.raster.compiled import helper, kernel
from geodiff.raster.cpu_projection import (
    CHUNK,
    MOMENTS,
    WORLD,
    camera_rotation,
    column,
    conic,
    covariance,
    gather,
    jacobian,
    matmul,
    project_axes,
    rotation_matrix,
    scale_columns,
    to_camera,
    transpose,
    unit_quaternion,
)
from geodiff.raster.simd import LANES

#: Columns of what is summed over the views: gradients of the mean 3, of the world axes 9.
_SUMS = 12


@helper
def _quat_gradient(unit, g):
    """The gradient of the quaternion, given that of its rotation matrix."""
    w, x, y, z, inverse = unit
    gw = 2 * (x * (g[7] - g[5]) + y * (g[2] - g[6]) + z * (g[3] - g[1]))
    gx = 2 * (w * (g[7] - g[5]) + y * (g[1] + g[3]) + z * (g[2] + g[6]) - 2 * x * (g[4] + g[8]))
    gy = 2 * (w * (g[2] - g[6]) + x * (g[1] + g[3]) + z * (g[5] + g[7]) - 2 * y * (g[0] + g[8]))
    gz = 2 * (w * (g[3] - g[1]) + x * (g[2] + g[6]) + y * (g[5] + g[7]) - 2 * z * (g[0] + g[4]))
    along = gw * w + gx * x + gy * y + gz * z
    return (
        (gw - along * w) * inverse, (gx - along * x) * inverse, (gy - along * y) * inverse, (gz - along * z) * inverse,
    )  # fmt: skip


@helper
def _covariance_gradient(a, b, c, ga, gb, gc):
    """Gradients of xx, xy (both of its places together, halved) and yy: -C G C with C the conic, G its gradient."""
    left0, left1, left2, left3 = a * ga + b * gb, a * gb + b * gc, b * ga + c * gb, b * gb + c * gc
    return -(left0 * a + left1 * b), -(left0 * b + left1 * c), -(left2 * b + left3 * c)


@helper
def _axes_gradient(g_xx, g_xy, g_yy, u, axes, slopes):
    """Gradients of the camera-space axes V and of the Jacobian's entries, through covariance = U U^T, U = J V."""
    j00, j02, j11, j12 = slopes[0], slopes[1], slopes[2], slopes[3]
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


@helper
def _sum_slots(first, lanes, base, first_slot, slots, slot, moments, channels, grad_colors):
    """Add up the slots of splats first to first + lanes - 1 of the view that starts at row `base`.

    The moments and the gradient of depth go into `moments`, column by column, then how many slots there were; those of
    the colours into their rows, or, in views after the first, are added to them. slots, grad_colors: flat. Returns
    whether there was a slot.
    """
    width = len(slot)
    found = False
    for lane in range(lanes):
        start = simd.get(first_slot, base + first + lane)
        stop = simd.get(first_slot, base + first + lane + 1)
        simd.put(moments, (MOMENTS + 1) * LANES + lane, float(stop - start))
        for k in range(0, width, LANES):
            total = simd.fill(np.float32(0))
            for row in range(start, stop):
                total = total + simd.load(slots, row * width + k)
            simd.store(slot, k, total)
        found |= stop > start
        for k in range(MOMENTS + 1):
            simd.put(moments, k * LANES + lane, float(simd.get(slot, k)))
        at = (first + lane) * channels
        for k in range(channels):
            total = simd.get(slot, MOMENTS + 1 + k)
            simd.put(grad_colors, at + k, total if base == 0 else simd.get(grad_colors, at + k) + total)
    return found


@helper
def _group_backward(world, camera, moments, sums, camera_sums, opacity_sums):
    """16 splats in one view: add to the gradients of means and world axes, of the camera and of the opacities."""
    seen = column(moments, MOMENTS + 1) > 0.0
    x, y, z = to_camera(camera, column(world, 0), column(world, 1), column(world, 2))
    inverse_z = 1.0 / simd.where(seen, z, 1.0)
    slope_x, slope_y = x * inverse_z, y * inverse_z
    rotation = camera_rotation(camera)
    world_axes = (
        column(world, 11), column(world, 12), column(world, 13), column(world, 14), column(world, 15),
        column(world, 16), column(world, 17), column(world, 18), column(world, 19),
    )  # fmt: skip
    axes = matmul(rotation, world_axes)
    slopes = jacobian(camera, slope_x, slope_y, inverse_z)
    u = project_axes(slopes, axes)
    xx, xy, yy = covariance(u, camera[21])
    a, b, c, _ = conic(xx, xy, yy)
    g_xx, g_xy, g_yy = _covariance_gradient(
        a, b, c, 0.5 * column(moments, 3), 0.5 * column(moments, 4), 0.5 * column(moments, 5)
    )
    g_axes, g_j00, g_j02, g_j11, g_j12 = _axes_gradient(g_xx, g_xy, g_yy, u, axes, slopes)

    # the mean: through its place on the image, its depth and the Jacobian, where x / z and y / z are not held
    g_u = -(a * column(moments, 1) + b * column(moments, 2))
    g_v = -(b * column(moments, 1) + c * column(moments, 2))
    fx, fy = slopes[0], slopes[2]
    free_x = simd.where(simd.absolute(slope_x - slopes[4]) > 0.0, simd.fill(0.0), 1.0)
    free_y = simd.where(simd.absolute(slope_y - slopes[5]) > 0.0, simd.fill(0.0), 1.0)
    g_x = fx * (g_u - free_x * inverse_z * g_j02)
    g_y = fy * (g_v - free_y * inverse_z * g_j12)
    g_z = fx * (x * g_u + g_j00) + fy * (y * g_v + g_j11)
    g_z = g_z + (1.0 + free_x) * slopes[1] * g_j02 + (1.0 + free_y) * slopes[3] * g_j12
    g_z = column(moments, MOMENTS) - g_z * inverse_z

    simd.store(opacity_sums, 0, simd.load(opacity_sums, 0) + column(moments, 0))
    g_mean = (
        rotation[0] * g_x + rotation[3] * g_y + rotation[6] * g_z,
        rotation[1] * g_x + rotation[4] * g_y + rotation[7] * g_z,
        rotation[2] * g_x + rotation[5] * g_y + rotation[8] * g_z,
    )
    simd_functions.add_columns(sums, 0, g_mean)
    simd_functions.add_columns(sums, 3 * LANES, matmul(transpose(rotation), g_axes))  # V = W R S
    g = matmul(g_axes, transpose(world_axes))
    mean_x, mean_y, mean_z = column(world, 0), column(world, 1), column(world, 2)
    g_camera = (
        g[0] + g_x * mean_x, g[1] + g_x * mean_y, g[2] + g_x * mean_z,
        g[3] + g_y * mean_x, g[4] + g_y * mean_y, g[5] + g_y * mean_z,
        g[6] + g_z * mean_x, g[7] + g_z * mean_y, g[8] + g_z * mean_z, g_x, g_y, g_z,
    )  # fmt: skip
    simd_functions.add_columns(camera_sums, 0, g_camera)


@helper
def _prepare(world):
    """Fill the world axes (columns 11 to 19); lanes that hold no Gaussian are harmless zeros."""
    w, x, y, z, _ = unit_quaternion(world)
    axes = scale_columns(rotation_matrix(w, x, y, z), column(world, 7), column(world, 8), column(world, 9))
    simd_functions.store_columns(world, WORLD * LANES, axes)


@helper
def _write_group(first, lanes, world, sums, opacity_sums, grads):
    """The gradients of the fields of splats first to first + lanes - 1, from those of their means and world axes."""
    grad_means, grad_quats, grad_scales, grad_opacities = grads
    unit = unit_quaternion(world)
    rotation = rotation_matrix(unit[0], unit[1], unit[2], unit[3])
    g = (
        column(sums, 3), column(sums, 4), column(sums, 5), column(sums, 6), column(sums, 7),
        column(sums, 8), column(sums, 9), column(sums, 10), column(sums, 11),
    )  # fmt: skip
    quats = _quat_gradient(unit, scale_columns(g, column(world, 7), column(world, 8), column(world, 9)))
    simd_functions.store_columns(sums, 3 * LANES, quats)
    simd.store(sums, 7 * LANES, rotation[0] * g[0] + rotation[3] * g[3] + rotation[6] * g[6])
    simd.store(sums, 8 * LANES, rotation[1] * g[1] + rotation[4] * g[4] + rotation[7] * g[7])
    simd.store(sums, 9 * LANES, rotation[2] * g[2] + rotation[5] * g[5] + rotation[8] * g[8])
    for lane in range(lanes):
        i = first + lane
        for k in range(3):
            simd.put(grad_means, 3 * i + k, np.float32(simd.get(sums, k * LANES + lane)))
            simd.put(grad_scales, 3 * i + k, np.float32(simd.get(sums, (7 + k) * LANES + lane)))
        for k in range(4):
            simd.put(grad_quats, 4 * i + k, np.float32(simd.get(sums, (3 + k) * LANES + lane)))
        total = simd.get(opacity_sums, lane)
        simd.put(grad_opacities, i, np.float32(-total / simd.get(world, 10 * LANES + lane) if total != 0.0 else 0.0))


@kernel
def project_backward(
    means, quats, scales, opacities, cameras, first_slot, slots, geometry, counter, grads, grad_colors, grad_cameras,
):  # fmt: skip
    """Sum each splat's gradient slots and carry them through the projection.

    slots: (P, 6 + 1 + K, and more up to a multiple of 16) moments, then the gradients of depth and colours. grads: of
    means, quats, scales and opacities. grad_cameras: (C, chunks, 12) rotation and translation. geometry: False if only
    the colours' gradients are wanted; the others are then left as they are.
    """
    count, width = len(means), slots.shape[1]
    num_chunks = grad_cameras.shape[1]
    world = np.zeros((WORLD + 9) * LANES)
    sums, camera_sums = np.zeros(_SUMS * LANES), np.zeros((len(cameras), 12 * LANES))
    opacity_sums, moments = np.zeros(LANES), np.zeros((MOMENTS + 2) * LANES)
    slot, flat = np.zeros(width, np.float32), slots.reshape(-1)
    fields = means.reshape(-1), quats.reshape(-1), scales.reshape(-1), opacities
    flat_grads = grads[0].reshape(-1), grads[1].reshape(-1), grads[2].reshape(-1), grads[3]
    channels, flat_colors = grad_colors.shape[1], grad_colors.reshape(-1)
    while True:
        chunk = simd.fetch_add(counter, 0)
        if chunk >= num_chunks:
            break
        camera_sums[:] = 0.0
        for first in range(chunk * CHUNK, min((chunk + 1) * CHUNK, count), LANES):
            lanes = min(LANES, count - first)
            if lanes < LANES:
                world[:] = 0.0
                moments[:] = 0.0
            gather(first, lanes, fields[0], fields[1], fields[2], fields[3], world)
            sums[:] = 0.0
            opacity_sums[:] = 0.0
            _prepare(world)
            for view in range(len(cameras)):
                base = view * count
                found = _sum_slots(first, lanes, base, first_slot, flat, slot, moments, channels, flat_colors)
                if found and geometry:
                    _group_backward(world, cameras[view], moments, sums, camera_sums[view], opacity_sums)
            if geometry:
                _write_group(first, lanes, world, sums, opacity_sums, flat_grads)
        for view in range(len(cameras)):
            for k in range(12):
                total = 0.0
                for lane in range(LANES):
                    total += camera_sums[view, k * LANES + lane]
                grad_cameras[view, chunk, k] = total
