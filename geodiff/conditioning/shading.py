"""How light falls on a head, told from the skin that its photograph shows: what nobody sees is shaded the same way.

The light is a sky that is brighter towards one side, spherical harmonics of degree 1 (Ramamoorthi and Hanrahan 2001),
dimmed where a head stands in its own way. Degree 2 tells nothing more: one photograph shows half of all directions.
"""

from __future__ import annotations

import numpy as np

from geodiff.media import LUMA

#: Vertices of skin that have to be seen, and brightness below which they tell nothing.
LEAST, BLACK = 200, 1e-4
#: How strongly the sky is held to be even, as a share of the vertices' mean square brightness.
EVEN = 0.05
#: Rounds of reweighting, and median residuals beyond which a vertex counts less: brows, beards, shadows.
ROUNDS, USUAL = 5, 1.5
#: The picture's values are brightness to the power of 1 / GAMMA.
GAMMA = 2.2
#: Darkest and brightest that light is believed to be, times the skin's usual.
DARKEST, BRIGHTEST = 0.25, 1.5


def log_shading(colors: np.ndarray, normals: np.ndarray, open_sky: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """(V,) float32 log of what light multiplies the picture's values by at each vertex, 0 where it is as bright as
    usual on the skin; 0 everywhere where too little skin is seen, or it is black.

    colors: (V, 3) 0..1. normals: (V, 3). open_sky: (V,) 0..1 how much of the sky a vertex sees. skin: (V,) bool, where
    colors are seen, and skin's.
    """
    if skin.sum() < LEAST:
        return np.zeros(len(colors), np.float32)
    table = np.concatenate([np.ones((len(normals), 1)), normals], 1) * open_sky[:, None]
    bright = np.clip((colors[skin] * LUMA).sum(1), 0.0, 1.0).astype(np.float64) ** GAMMA
    level = float(np.median(bright))
    if level < BLACK:
        return np.zeros(len(colors), np.float32)
    bright /= level
    rows, weight = table[skin], np.ones(skin.sum())
    held, usual = EVEN * np.array([0.0, 1.0, 1.0, 1.0]), np.zeros(4)
    for _ in range(ROUNDS):
        # Sums of products, here and below: BLAS adds up in an order that depends on where arrays lie.
        squares = (weight[:, None, None] * rows[:, :, None] * rows[:, None, :]).mean(0)
        usual = np.linalg.solve(squares + np.diag(held), ((weight * bright)[:, None] * rows).mean(0)).round(9)
        away = np.abs(bright - (rows * usual).sum(1))
        weight = 1.0 / np.maximum(away / (USUAL * np.median(away) + 1e-6), 1.0)
    light = (table * usual).sum(1) / max(float(np.median((rows * usual).sum(1))), BLACK)
    return (np.log(np.clip(light, DARKEST, BRIGHTEST)) / GAMMA).round(6).astype(np.float32)
