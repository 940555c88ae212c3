from __future__ import annotations

import cv2
import numpy as np
import pytest

from geodiff.media import LUMA
from geodiff.synth import samples
from geodiff.synth.lens import chroma_noise, lateral_color


def test_lateral_color_moves_red_outwards_and_blue_inwards() -> None:
    image = np.zeros((101, 101, 3), np.float32)
    image[50, 80] = 1.0
    fringed = lateral_color(image, 0.03)
    column = [float((fringed[50, :, c] * np.arange(101)).sum() / fringed[50, :, c].sum()) for c in range(3)]
    assert column == pytest.approx([80.9, 80.0, 79.1], abs=0.05)
    assert np.allclose(lateral_color(image, 0.0), image)


def test_chroma_noise_leaves_brightness_alone() -> None:
    noise = chroma_noise(61, 80, 0.02, np.random.default_rng(0))
    assert noise.shape == (61, 80, 3) and noise.dtype == np.float32
    assert np.abs(noise @ LUMA).max() < 1e-6
    assert 0.005 < noise.std() < 0.02 and abs(noise.mean()) < 1e-3


def test_portraits_of_training_have_coloured_grain_and_the_same_draws_after_it() -> None:
    grey = np.full((64, 64, 3), 0.5, np.float32)
    spread = []
    for seed in range(6):
        rng, plain = np.random.default_rng(seed), np.random.default_rng(seed)
        picture = samples._photographic(grey, rng)
        assert picture.dtype == np.uint8 and picture.shape == grey.shape
        assert np.array_equal(picture, samples._photographic(grey, np.random.default_rng(seed)))
        spread.append(float(np.ptp(picture.astype(float), axis=2).mean()))
        if plain.random() < 0.5:
            plain.uniform()
        plain.normal(0, plain.uniform(0, 0.015), (64, 64, 1))
        if plain.random() < 0.4:
            plain.integers(60, 95)
        assert rng.random() == plain.random()
    assert max(spread) > 1.0


def test_fringes_are_below_a_pixel_in_a_portrait() -> None:
    edge = np.zeros((410, 410, 3), np.float32)
    cv2.circle(edge, (205, 205), 160, (1.0, 1.0, 1.0), -1, cv2.LINE_AA)
    fringed = lateral_color(edge, 2 * samples.FRINGE)
    assert np.abs(fringed - edge).max() < 1.0 and np.abs(fringed - edge).mean() < 5e-3
