"""Who has hair, and of which colour: told from colours and from what stands off the skull."""

from __future__ import annotations

import numpy as np
import pytest

from geodiff.conditioning.fill import _blurred
from geodiff.conditioning.layers import HairColors, _haired
from geodiff.conditioning.sources import Sources, scalp_as_hair
from geodiff.conditioning.surface import GROUPS
from geodiff.conditioning.texture import _add_hair

FACE, DARK, GREY = np.array([0.62, 0.45, 0.36]), np.array([0.12, 0.08, 0.06]), np.array([0.55, 0.55, 0.55])
SCALP, SKIN = GROUPS.index("scalp"), GROUPS.index("skin")


def seen(scalp: np.ndarray, likely: np.ndarray) -> Sources:
    """What a portrait shows of a scalp with colours (N, 3), likely (N,) to be hair, above a face."""
    rng = np.random.default_rng(0)
    face = FACE * rng.uniform(0.85, 1.1, (300, 1))
    group = np.repeat([SCALP, SKIN], [len(scalp), 300])
    color = np.concatenate([scalp * rng.uniform(0.9, 1.1, (len(scalp), 1)), face])
    hair = np.concatenate([likely, np.zeros(300)])
    return Sources(np.zeros((len(group), 3)), color, hair, group, np.bincount(group, minlength=len(GROUPS)), None)


def told(scalp: np.ndarray, likely: np.ndarray, standing: float) -> tuple[np.ndarray, bool]:
    sources = seen(scalp, likely)
    colors = HairColors(np.zeros((0, 3)), None, standing)
    _, color, haired = _haired(sources.group == SCALP, sources, colors)
    return color, haired


@pytest.mark.parametrize("likely", [0.0, 0.9])
@pytest.mark.parametrize(("standing", "haired"), [(0.001, False), (0.015, True)])
def test_a_scalp_of_the_faces_colour_is_bald_unless_something_stands_off_it(
    likely: float, standing: float, haired: bool
) -> None:
    scalp = np.tile(FACE, (200, 1))
    assert told(scalp, np.full(200, likely), standing)[1] == haired


def test_shaved_dark_hair_is_hair() -> None:
    color, haired = told(np.tile(DARK, (200, 1)), np.full(200, 0.9), 0.0005)
    assert haired and np.abs(color - DARK).max() < 0.03


@pytest.mark.parametrize("likely", [0.0, 0.6])
def test_hair_above_a_high_forehead_has_not_the_foreheads_colour(likely: float) -> None:
    """Two thirds of what the head's hairline takes for scalp are forehead, and colours did not tell them apart."""
    scalp = np.repeat([FACE, GREY], [140, 60], axis=0)
    color, haired = told(scalp, np.full(200, likely), 0.012)
    assert haired and np.abs(color - GREY).max() < 0.08


def test_thin_hair_has_not_half_of_the_skins_colour() -> None:
    """A band of hair, four pixels high, above a face: blurred, all of it would be half skin."""
    image = np.tile(FACE, (128, 128, 1)).astype(np.float32)
    hair = np.zeros((128, 128), np.float32)
    hair[40:44] = 1.0
    image[hair > 0] = DARK
    mixed, alone, likely = np.split(_blurred(np.ones_like(hair), image, hair), [3, 6], 2)
    assert np.abs(mixed[41, 64] - DARK).max() > 0.1
    assert np.abs(alone[40:44] - DARK).max() < 0.02
    points = np.concatenate([mixed[41, 64], alone[41, 64], likely[41, 64]])[None].repeat(2, 0)
    on_scalp, beside = scalp_as_hair(points, np.array([True, False]))
    assert np.abs(on_scalp - DARK).max() < 0.02
    np.testing.assert_array_equal(beside, mixed[41, 64])


def test_a_bald_scalp_turns_slowly_into_the_neck() -> None:
    """Millimetre by millimetre over the line, where a head with hair has an edge."""
    line = np.linspace(-0.03, 0.03, 61, dtype=np.float32)
    surface = np.zeros((61, 6), np.float32)
    surface[:, 1], surface[:, 5] = line, 1.0
    color = np.tile(np.float32(FACE), (61, 1))
    _add_hair(color, np.tile(np.float32(GREY), (61, 1)), line, surface, None)
    assert np.abs(color[0] - FACE).max() < 0.01 and np.abs(color[-1] - GREY).max() < 0.01
    assert np.abs(np.diff(color, axis=0)).max() < 0.04 * np.abs(GREY - FACE).max()
