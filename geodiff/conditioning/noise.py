"""Value noise in space: the same point always gives the same value, so textures have no seams. And such noise drawn out
along the way that hair falls, which depends on the point and on where the head is."""

from __future__ import annotations

import numpy as np

from geodiff.raster.compiled import kept

#: Metres across a strand and across a lock, the length of waves, and the radians by which they turn strands aside.
STRAND, LOCK, WAVE, ASIDE = 0.0015, 0.006, 0.04, 0.5
#: How much strands and locks count.
FINE, BROAD = 0.85, 0.5
#: Places to each side along a strand whose noise is averaged, and metres between them.
TAPS, STEP = 10, 0.0022
#: Standard deviation of the sum of that noise.
DEVIATION = 1.96
#: Metres above the whorl from which hair falls: at the whorl itself it lies to all sides.
FALL = 0.02


@kept(inline="always")
def _lattice(h: int) -> float:
    """A pseudo-random number in -1..1 for the number of a lattice point."""
    h &= 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = h ^ (h >> 16)
    return (h & 0xFFFFFF) / 8388607.5 - 1.0


@kept(inline="always")
def _value(px, py, pz, seed):  # noqa: ANN001, ANN202
    """Noise in -1..1 at a place, whose lattice has a spacing of 1."""
    right, up, far = 374761393, 668265263, 2147483647
    x, y, z = np.floor(px), np.floor(py), np.floor(pz)
    fx, fy, fz = px - x, py - y, pz - z
    fx, fy, fz = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy), fz * fz * (3 - 2 * fz)
    h = int(x) * right + int(y) * up + int(z) * far + seed * 1274126177
    low = (1 - fx) * _lattice(h) + fx * _lattice(h + right)
    high = (1 - fx) * _lattice(h + up) + fx * _lattice(h + up + right)
    near = (1 - fy) * low + fy * high
    h += far
    low = (1 - fx) * _lattice(h) + fx * _lattice(h + right)
    high = (1 - fx) * _lattice(h + up) + fx * _lattice(h + up + right)
    return (1 - fz) * near + fz * ((1 - fy) * low + fy * high)


@kept()
def _fractal(points, octaves, seed, out):  # noqa: ANN001, ANN202
    for n in range(points.shape[0]):
        total, amplitude, frequency = 0.0, 1.0, 1.0
        for octave in range(octaves):
            x, y, z = points[n, 0] * frequency, points[n, 1] * frequency, points[n, 2] * frequency
            total += amplitude * _value(x, y, z, seed + 101 * octave)
            amplitude *= 0.5
            frequency *= 2.0
        out[n] = total


def fractal_noise(points: np.ndarray, scale: float | tuple[float, float, float], octaves: int, seed: int) -> np.ndarray:
    """(N, 3) points -> (N,) float32 noise of mean 0, mostly within -1..1.

    scale: size of the largest features, in the points' units, one for each axis or one for all.
    """
    scaled = np.ascontiguousarray(points / np.asarray(scale), dtype=np.float64)
    out = np.empty(len(points), np.float32)
    _fractal(scaled, octaves, seed, out)
    return out


@kept()
def _strand_kernel(points, whorl, centre, out):  # noqa: ANN001, ANN202
    """As `strand_noise`, which see, before it is scaled; out: (N,), in place."""
    for n in range(points.shape[0]):
        total = 0.0
        for sign in (-1.0, 1.0):
            x, y, z = points[n, 0], points[n, 1], points[n, 2]
            for tap in range(TAPS + 1):
                if tap > 0 or sign > 0:
                    total += FINE * _value(x / STRAND, y / STRAND, z / STRAND, 1)
                    total += BROAD * _value(x / LOCK, y / LOCK, z / LOCK, 2)
                # Outwards is sideways below the middle of the skull.
                ox, oy, oz = x - centre[0], max(y - centre[1], 0.0), z - centre[2]
                length = max(np.sqrt(ox * ox + oy * oy + oz * oz), 1e-9)
                ox, oy, oz = ox / length, oy / length, oz / length
                dx, dy, dz = x - whorl[0], y - whorl[1] - FALL, z - whorl[2]
                along = dx * ox + dy * oy + dz * oz
                dx, dy, dz = dx - along * ox, dy - along * oy, dz - along * oz
                turn = ASIDE * _value(x / WAVE, y / WAVE, z / WAVE, 3)
                c, s = np.cos(turn), np.sin(turn)
                tx, ty, tz = oy * dz - oz * dy, oz * dx - ox * dz, ox * dy - oy * dx
                dx, dy, dz = c * dx + s * tx, c * dy + s * ty, c * dz + s * tz
                length = sign * STEP / max(np.sqrt(dx * dx + dy * dy + dz * dz), 1e-9)
                x, y, z = x + length * dx, y + length * dy, z + length * dz
        out[n] = total


def strand_noise(points: np.ndarray, whorl: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Noise (N,) float32 of mean 0 and deviation about 1 on a head's surface, drawn out into strands and locks that
    fall away from the whorl in waves (line integral convolution, Cabral and Leedom 1993).

    points: (N, 3), whorl: (3,), centre: (3,) the middle of the skull, all in metres.
    """
    out = np.empty(len(points), np.float32)
    places, whorl, centre = (np.ascontiguousarray(values, np.float64) for values in (points, whorl, centre))
    _strand_kernel(places, whorl, centre, out)
    return out / np.float32(DEVIATION)
