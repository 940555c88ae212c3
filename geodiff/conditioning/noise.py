"""Value noise in space: the same point always gives the same value, so textures have no seams. And such noise drawn out
along the way that hair falls, which depends on the point and on where the head is."""

from __future__ import annotations

import numpy as np

from geodiff.raster.compiled import kept

#: Metres across a strand and across a lock, the length of waves, and the radians by which they turn strands aside.
#: Strands of less than two texels would break up into rungs.
STRAND, LOCK, WAVE, ASIDE = 0.0024, 0.006, 0.04, 0.5
#: How much strands and locks count.
FINE, BROAD = 0.85, 1.0
#: Places to each side along a strand whose noise is averaged, and metres between them: steps of more than a strand's
#: width would show as rungs. Locks and waves change less: they are looked up at every SPARSE-th place.
TAPS, STEP, SPARSE = 16, 0.0014, 2
#: Standard deviation of the sum of that noise.
DEVIATION = 3.25
#: Metres above the whorl from which hair falls: at the whorl itself it lies to all sides.
FALL = 0.02
#: Metres from the middle of the skull at which strands are as wide as STRAND says.
RADIUS = 0.1

#: Points taken together: numbers of one width side by side, which the compiler makes vectors of.
BLOCK = 256


@kept(inline="always")
def _lattice(h):  # noqa: ANN001, ANN202
    """A pseudo-random number in -1..1 for the number (uint32) of a lattice point."""
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * np.uint32(1274126177))
    h = np.uint32(h ^ (h >> np.uint32(16)))
    return np.float64(np.int32(h & np.uint32(0xFFFFFF))) / 8388607.5 - 1.0


@kept(inline="always")
def _value(px, py, pz, seed):  # noqa: ANN001, ANN202
    """Noise in -1..1 at a place, whose lattice has a spacing of 1. All of it in 32 bits, for wider vectors."""
    right, up, far = np.uint32(374761393), np.uint32(668265263), np.uint32(2147483647)
    x, y, z = np.floor(px), np.floor(py), np.floor(pz)
    fx, fy, fz = px - x, py - y, pz - z
    fx, fy, fz = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy), fz * fz * (3 - 2 * fz)
    h = np.uint32(np.uint32(np.int32(x)) * right) + np.uint32(np.uint32(np.int32(y)) * up)
    h = np.uint32(h + np.uint32(np.uint32(np.int32(z)) * far) + np.uint32(seed * 1274126177))
    low = (1 - fx) * _lattice(h) + fx * _lattice(np.uint32(h + right))
    high = (1 - fx) * _lattice(np.uint32(h + up)) + fx * _lattice(np.uint32(h + up + right))
    near = (1 - fy) * low + fy * high
    h = np.uint32(h + far)
    low = (1 - fx) * _lattice(h) + fx * _lattice(np.uint32(h + right))
    high = (1 - fx) * _lattice(np.uint32(h + up)) + fx * _lattice(np.uint32(h + up + right))
    return (1 - fz) * near + fz * ((1 - fy) * low + fy * high)


@kept()
def _fractal(points, octaves, seed, out):  # noqa: ANN001, ANN202
    x, y, z, total = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    for first in range(0, points.shape[0], BLOCK):
        count = min(BLOCK, points.shape[0] - first)
        for n in range(count):
            x[n], y[n], z[n] = points[first + n, 0], points[first + n, 1], points[first + n, 2]
            total[n] = 0.0
        amplitude, frequency = 1.0, 1.0
        for octave in range(octaves):
            own = seed + 101 * octave
            for n in range(count):
                total[n] += amplitude * _value(x[n] * frequency, y[n] * frequency, z[n] * frequency, own)
            amplitude *= 0.5
            frequency *= 2.0
        for n in range(count):
            out[first + n] = total[n]


def fractal_noise(points: np.ndarray, scale: float | tuple[float, float, float], octaves: int, seed: int) -> np.ndarray:
    """(N, 3) points -> (N,) float32 noise of mean 0, mostly within -1..1.

    scale: size of the largest features, in the points' units, one for each axis or one for all.
    """
    scaled = np.ascontiguousarray(points / np.asarray(scale), dtype=np.float64)
    out = np.empty(len(points), np.float32)
    _fractal(scaled, octaves, seed, out)
    return out


@kept(error_model="numpy")
def _strand_kernel(points, whorl, centre, out):  # noqa: ANN001, ANN202
    """As `strand_noise`, which see, before it is scaled; out: (N,), in place."""
    x, y, z, turn, total = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    top, middle = (whorl[0], whorl[1] + FALL, whorl[2]), (centre[0], centre[1], centre[2])
    for first in range(0, points.shape[0], BLOCK):
        count = min(BLOCK, points.shape[0] - first)
        for n in range(count):
            total[n] = 0.0
        for sign in (-1.0, 1.0):
            for n in range(count):
                px, py, pz = points[first + n, 0], points[first + n, 1], points[first + n, 2]
                x[n], y[n], z[n] = _onto(px, py, pz, middle)
            for tap in range(TAPS + 1):
                if tap > 0 or sign > 0:
                    for n in range(count):
                        total[n] += FINE * _value(x[n] / STRAND, y[n] / STRAND, z[n] / STRAND, 1)
                    if tap % SPARSE == 0:
                        for n in range(count):
                            total[n] += BROAD * _value(x[n] / LOCK, y[n] / LOCK, z[n] / LOCK, 2)
                if tap % SPARSE == 0:
                    for n in range(count):
                        turn[n] = ASIDE * _value(x[n] / WAVE, y[n] / WAVE, z[n] / WAVE, 3)
                for n in range(count):
                    dx, dy, dz = _fall(x[n], y[n], z[n], turn[n], top, middle)
                    x[n], y[n], z[n] = _onto(x[n] + sign * dx, y[n] + sign * dy, z[n] + sign * dz, middle)
        for n in range(count):
            out[first + n] = total[n]


@kept(error_model="numpy", inline="always")
def _onto(x, y, z, middle):  # noqa: ANN001, ANN202
    """The place (three numbers) that is seen in its stead: on a ball above the middle of the skull, on an upright
    cylinder below it. Strands run along these, so that they do not end where hair lies askew to them."""
    ox, oy, oz = x - middle[0], y - middle[1], z - middle[2]
    up = max(oy, 0.0)
    scale = RADIUS / max(np.sqrt(ox * ox + up * up + oz * oz), 1e-9)
    return middle[0] + scale * ox, middle[1] + scale * up + (oy - up), middle[2] + scale * oz


@kept(error_model="numpy", inline="always")
def _fall(x, y, z, turn, top, middle):  # noqa: ANN001, ANN202
    """The STEP (three numbers) that a strand takes from a place. turn: radians by which it strays. top: whence hair
    falls, middle: of the skull."""
    # Outwards is sideways below the middle of the skull.
    ox, oy, oz = x - middle[0], max(y - middle[1], 0.0), z - middle[2]
    scale = 1.0 / max(np.sqrt(ox * ox + oy * oy + oz * oz), 1e-9)
    ox, oy, oz = ox * scale, oy * scale, oz * scale
    dx, dy, dz = x - top[0], y - top[1], z - top[2]
    along = dx * ox + dy * oy + dz * oz
    dx, dy, dz = dx - along * ox, dy - along * oy, dz - along * oz
    # Cosine and sine of less than half a radian, to 2e-5: calls of functions would keep this from becoming vectors.
    square = turn * turn
    c, s = 1.0 - square * (0.5 - square / 24), turn * (1.0 - square * (1 / 6 - square / 120))
    tx, ty, tz = oy * dz - oz * dy, oz * dx - ox * dz, ox * dy - oy * dx
    dx, dy, dz = c * dx + s * tx, c * dy + s * ty, c * dz + s * tz
    scale = STEP / max(np.sqrt(dx * dx + dy * dy + dz * dz), 1e-9)
    return scale * dx, scale * dy, scale * dz


def strand_noise(points: np.ndarray, whorl: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Noise (N,) float32 of mean 0 and deviation about 1 on a head's surface, drawn out into strands and locks that
    fall away from the whorl in waves (line integral convolution, Cabral and Leedom 1993).

    points: (N, 3), whorl: (3,), centre: (3,) the middle of the skull, all in metres. How far from that a point is does
    not count, but for its height below it.
    """
    out = np.empty(len(points), np.float32)
    places, whorl, centre = (np.ascontiguousarray(values, np.float64) for values in (points, whorl, centre))
    _strand_kernel(places, whorl, centre, out)
    return out / np.float32(DEVIATION)
