"""Strands of hair that nobody sees: their kernel against a plain twin, and the way they run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from heads import ellipsoid_head
from plain_conditions import plain_strand_noise

from geodiff.conditioning.hair import HairTexture
from geodiff.conditioning.noise import strand_noise
from geodiff.conditioning.reference import Reference
from geodiff.types import Camera

WHORL, CENTRE = np.array([0.0, 0.1, -0.02]), np.array([0.0, 0.01, -0.02])


def back_of_a_head(rng: np.random.Generator, count: int) -> np.ndarray:
    """(N, 3) points on a sphere of 9 cm around the centre, behind and above the neck."""
    turn, height = rng.uniform(-1.2, 1.2, count), rng.uniform(-0.05, 0.06, count)
    across = np.sqrt(0.09**2 - height**2)
    return CENTRE + np.stack([across * np.sin(turn), height, -across * np.cos(turn)], 1)


def test_strands_are_those_of_their_plain_twin() -> None:
    points = back_of_a_head(np.random.default_rng(0), 200)
    assert np.abs(strand_noise(points, WHORL, CENTRE) - plain_strand_noise(points, WHORL, CENTRE)).max() < 1e-4


def test_strands_fall_down_the_back_of_the_head() -> None:
    points = back_of_a_head(np.random.default_rng(1), 4000)
    outward = points - CENTRE
    beside = np.cross([0.0, 1.0, 0.0], outward)
    beside /= np.linalg.norm(beside, axis=1, keepdims=True)
    down = np.cross(beside, outward)
    down /= np.linalg.norm(down, axis=1, keepdims=True)
    step = 0.004
    here, along, across = np.split(
        strand_noise(np.concatenate([points, points + step * down, points + step * beside]), WHORL, CENTRE), 3
    )
    changes = [float(np.mean((other - here) ** 2)) for other in (along, across)]
    assert changes[0] < 0.5 * changes[1]


def test_strands_go_on_where_hair_draws_in_towards_the_neck() -> None:
    """On a cone that narrows downwards by as much as it is high, strands are as long as on a cylinder."""
    rng = np.random.default_rng(2)
    turn, height = rng.uniform(-1.2, 1.2, 4000), rng.uniform(-0.06, -0.01, 4000)

    def changed_along(slope: float) -> float:
        values = []
        for step in (0.0, 0.004 / np.hypot(1, slope)):
            level = height - step
            radius = 0.1 + slope * level
            place = np.stack([radius * np.sin(turn), level, -radius * np.cos(turn)], 1)
            values.append(strand_noise(CENTRE + place, WHORL, CENTRE))
        return float(np.mean((values[1] - values[0]) ** 2))

    assert changed_along(1.0) < 1.1 * changed_along(0.0)


def test_strands_have_the_same_strength_and_place_however_far_out_hair_stands() -> None:
    points = back_of_a_head(np.random.default_rng(3), 20000)
    noise = strand_noise(points, WHORL, CENTRE)
    assert abs(float(noise.mean())) < 0.1 and float(noise.std()) == pytest.approx(1.0, abs=0.1)
    above = points[:, 1] > CENTRE[1]
    farther = strand_noise(CENTRE + 1.3 * (points[above] - CENTRE), WHORL, CENTRE)
    assert np.abs(farther - noise[above]).max() < 1e-3


def test_no_points_have_no_strands() -> None:
    assert strand_noise(np.zeros((0, 3)), WHORL, CENTRE).shape == (0,)


def pictured(pattern: np.ndarray) -> HairTexture:
    """The texture of a picture (S, S) that is all hair, a metre away."""
    size = len(pattern)
    K = torch.tensor([[2.0 * size, 0, size / 2], [0, 2.0 * size, size / 2], [0, 0, 1.0]])
    image = np.repeat(pattern[..., None], 3, 2).astype(np.float32)
    mask, nothing = np.ones((size, size), np.float32), np.zeros_like(image)
    params = ellipsoid_head().zeros()
    return HairTexture(Reference(image, mask, nothing, nothing, Camera(torch.eye(4), K, size, size), params), mask, 1.0)


def test_a_flat_crown_has_strands() -> None:
    """As where a head's scalp ends in a ring of vertices of one height."""
    across = np.linspace(-0.05, 0.05, 20)
    x, z = np.meshgrid(across, across)
    points = np.stack([x, np.full_like(x, 0.1), z], -1).reshape(-1, 3)
    contrast = pictured(np.random.default_rng(0).random((128, 128))).over(points, np.tile([0.0, 1.0, 0.0], (400, 1)))
    assert np.isfinite(contrast).all() and contrast.std() > 0.01


@pytest.mark.parametrize("kind", ["combed", "curls"])
def test_combed_hair_is_told_from_curls(kind: str) -> None:
    rows, columns = np.mgrid[:128, :128]
    strands = 0.4 + 0.1 * np.sin(columns / 1.5)
    curls = 0.4 + 0.1 * np.sin(columns / 1.5) * np.sin(rows / 1.5)
    assert (pictured(strands if kind == "combed" else curls).combed > 0.4) == (kind == "combed")
