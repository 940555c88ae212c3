"""How light falls on a head, told from the skin that its photograph shows: what nobody sees is shaded the same way.

The light is a sky that is brighter towards one side, spherical harmonics of degree 1 (Ramamoorthi and Hanrahan 2001),
dimmed where a head stands in its own way. Degree 2 tells nothing more: one photograph shows half of all directions.
"""

from __future__ import annotations

import numpy as np

from geodiff.media import LUMA

#: Vertices of skin that have to be seen.
LEAST = 200
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
    usual on the skin; 0 everywhere where too little skin is seen.

    colors: (V, 3) 0..1. normals: (V, 3). open_sky: (V,) 0..1 how much of the sky a vertex sees. skin: (V,) bool, where
    colors are seen, and skin's.
    """
    if skin.sum() < LEAST:
        return np.zeros(len(colors), np.float32)
    table = np.concatenate([np.ones((len(normals), 1)), normals], 1) * open_sky[:, None]
    bright = np.clip(colors[skin] @ LUMA, 0.0, 1.0).astype(np.float64) ** GAMMA
    bright /= max(float(np.median(bright)), 1e-4)
    rows, weight = table[skin], np.ones(skin.sum())
    held, usual = EVEN * np.array([0.0, 1.0, 1.0, 1.0]), np.zeros(4)
    for _ in range(ROUNDS):
        # Sums of products, not matrix products: BLAS adds up in an order that depends on where arrays lie.
        squares = (weight[:, None, None] * rows[:, :, None] * rows[:, None, :]).mean(0)
        usual = np.linalg.solve(squares + np.diag(held), ((weight * bright)[:, None] * rows).mean(0)).round(9)
        away = np.abs(bright - rows @ usual)
        weight = 1.0 / np.maximum(away / (USUAL * np.median(away) + 1e-6), 1.0)
    middle = max(float(np.median(rows @ usual)), 1e-4)
    return (np.log(np.clip(table @ usual / middle, DARKEST, BRIGHTEST)) / GAMMA).astype(np.float32)
