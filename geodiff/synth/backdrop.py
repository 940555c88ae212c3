"""What stands behind a person in a photograph: plain walls, gradients, and rooms out of focus."""

from __future__ import annotations

import cv2
import numpy as np

from geodiff.conditioning.noise import fractal_noise

#: Kinds of backdrop and how often they are drawn.
BACKDROPS = {"plain": 0.25, "gradient": 0.25, "wall": 0.25, "room": 0.25}
_GRID = 48


def backdrop(size: int, rng: np.random.Generator, kind: str | None = None) -> np.ndarray:
    """(S, S, 3) float32 0..1, of a kind in BACKDROPS; at random if none is named."""
    kind = kind or str(rng.choice(list(BACKDROPS), p=list(BACKDROPS.values())))
    base = _color(rng)
    if kind == "plain":
        return np.broadcast_to(base, (size, size, 3)).astype(np.float32)
    if kind == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[0:_GRID, 0:_GRID] / (_GRID - 1) - 0.5
        along = np.clip(np.cos(angle) * x + np.sin(angle) * y + 0.5, 0, 1)[..., None]
        small = base + along * (_color(rng) - base)
    elif kind == "wall":
        grid = np.linspace(0, 1, _GRID)
        places = np.stack([*np.meshgrid(grid, grid), np.zeros((_GRID, _GRID))], -1).reshape(-1, 3)
        noise = [fractal_noise(places, 0.6, 3, int(rng.integers(1 << 30))).reshape(_GRID, _GRID) for _ in range(3)]
        small = base + 0.15 * noise[0][..., None] + 0.06 * np.stack(noise, -1)
    else:
        small = _room(base, rng)
    return cv2.resize(np.clip(small, 0, 1).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def _room(base: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Furniture, windows and foliage, so far out of focus that only patches of colour are left."""
    small = np.broadcast_to(base, (_GRID, _GRID, 3)).copy()
    for _ in range(rng.integers(4, 14)):
        x, y = rng.uniform(-0.2, 1.0, 2) * _GRID
        width, height = rng.uniform(0.08, 0.6, 2) * _GRID
        left, top = max(int(x), 0), max(int(y), 0)
        small[top : max(int(y + height), 0), left : max(int(x + width), 0)] = _color(rng)
    return cv2.GaussianBlur(small, (0, 0), rng.uniform(0.5, 4.0))


def _color(rng: np.random.Generator) -> np.ndarray:
    """(3,) mostly dull, from black to white."""
    grey = rng.uniform(0.02, 0.98)
    return grey + rng.beta(1.0, 2.5) * (rng.uniform(0.0, 1.0, 3) - grey)
