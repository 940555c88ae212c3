"""Value noise in space: the same point always gives the same value, so textures have no seams."""

from __future__ import annotations

import numpy as np

from geodiff.raster.compiled import kept


@kept(inline="always")
def _lattice(x: int, y: int, z: int, seed: int) -> float:
    """A pseudo-random number in -1..1 for a lattice point."""
    h = (x * 374761393 + y * 668265263 + z * 2147483647 + seed * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = h ^ (h >> 16)
    return (h & 0xFFFFFF) / 8388607.5 - 1.0


@kept()
def _fractal(points, octaves, seed, out):  # noqa: ANN001, ANN202
    for n in range(points.shape[0]):
        total, amplitude, frequency = 0.0, 1.0, 1.0
        for octave in range(octaves):
            px, py, pz = points[n, 0] * frequency, points[n, 1] * frequency, points[n, 2] * frequency
            ix, iy, iz = int(np.floor(px)), int(np.floor(py)), int(np.floor(pz))
            fx, fy, fz = px - ix, py - iy, pz - iz
            fx, fy, fz = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy), fz * fz * (3 - 2 * fz)
            value = 0.0
            for corner in range(8):
                cx, cy, cz = corner & 1, (corner >> 1) & 1, corner >> 2
                weight = (fx if cx else 1 - fx) * (fy if cy else 1 - fy) * (fz if cz else 1 - fz)
                value += weight * _lattice(ix + cx, iy + cy, iz + cz, seed + 101 * octave)
            total += amplitude * value
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
