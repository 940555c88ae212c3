"""Value noise in space: the same point always gives the same value, so textures have no seams."""

from __future__ import annotations

import numpy as np

from geodiff.raster.compiled import kept


@kept(inline="always")
def _lattice(h: int) -> float:
    """A pseudo-random number in -1..1 for the number of a lattice point."""
    h &= 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = h ^ (h >> 16)
    return (h & 0xFFFFFF) / 8388607.5 - 1.0


@kept()
def _fractal(points, octaves, seed, out):  # noqa: ANN001, ANN202
    right, up, far = 374761393, 668265263, 2147483647
    for n in range(points.shape[0]):
        total, amplitude, frequency = 0.0, 1.0, 1.0
        for octave in range(octaves):
            px, py, pz = points[n, 0] * frequency, points[n, 1] * frequency, points[n, 2] * frequency
            x, y, z = np.floor(px), np.floor(py), np.floor(pz)
            fx, fy, fz = px - x, py - y, pz - z
            fx, fy, fz = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy), fz * fz * (3 - 2 * fz)
            h = int(x) * right + int(y) * up + int(z) * far + (seed + 101 * octave) * 1274126177
            low = (1 - fx) * _lattice(h) + fx * _lattice(h + right)
            high = (1 - fx) * _lattice(h + up) + fx * _lattice(h + up + right)
            near = (1 - fy) * low + fy * high
            h += far
            low = (1 - fx) * _lattice(h) + fx * _lattice(h + right)
            high = (1 - fx) * _lattice(h + up) + fx * _lattice(h + up + right)
            total += amplitude * ((1 - fz) * near + fz * ((1 - fy) * low + fy * high))
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
