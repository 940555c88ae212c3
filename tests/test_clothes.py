"""Clothes in proposals: what the portrait does not show of them has their colours, from a neckline on."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
import pytest
import random_portraits
import torch
from heads import ellipsoid_head
from hypothesis import given, settings
from hypothesis import strategies as st

from geodiff.conditioning import Conditioner, Reference, crop_reference, framed_camera, head_frame
from geodiff.conditioning.clothes import SHADOWED, SLICE, Neckline, _slices, hung_down
from geodiff.conditioning.fill import inside_by
from geodiff.conditioning.garments import parted
from geodiff.conditioning.layers import RING
from geodiff.conditioning.surface import vertex_groups
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.types import Camera

SKIN, SHIRT, HAIR = (0.85, 0.68, 0.58), (0.15, 0.35, 0.70), (0.22, 0.13, 0.08)
WHITE, BLACK = (0.90, 0.90, 0.92), (0.06, 0.06, 0.07)
#: Metres from the middle, and below the neckline, at which a jacket begins.
OPEN, COLLAR = 0.035, 0.02
#: Height of the painted neckline at the head's middle, and how it rises to the back.
NECKLINE, RISE = -0.12, 0.5


def height(place: np.ndarray) -> np.ndarray:
    return place[..., 1] + RISE * place[..., 2]


@lru_cache(maxsize=4)
def clothed(
    shirt: tuple[float, ...], raised: float = 0.0, jacket: tuple[float, ...] | None = None
) -> tuple[HeadModel, Reference]:
    """The builtin head with dark hair in a shirt, or in a jacket over it, which is open at the front; its shoulders
    `raised` metres by static offsets."""
    head = load_head("builtin")
    camera = Camera(
        torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])),
        torch.tensor([[620.0, 0, 200], [0, 620.0, 180], [0, 0, 1]]),
        400,
        400,
    )
    place = head.template
    offset = torch.zeros_like(place)
    offset[:, 1] = raised * ((place[:, 0].abs() - 0.05) / 0.05).clamp(0, 1) * (place[:, 1] < -0.1)
    params = head.zeros().replace(translation=torch.tensor([[0.0, 0.0, -0.8]]), static_offset=offset)
    seen = mesh.rasterize(head.vertices(params)[0], head.faces, camera)
    scalp = head.regions["scalp"].float()[:, None]
    layers = mesh.interpolate(seen, head.faces, torch.cat([place, scalp], 1).numpy())
    below = (np.abs(layers[..., :1]) > OPEN) & (height(layers)[..., None] < NECKLINE - COLLAR)
    cloth = np.where(below, jacket or shirt, shirt)
    image = np.where(layers[..., 3:] > 0.5, HAIR, np.where(height(layers)[..., None] < NECKLINE, cloth, SKIN))
    image[~seen.mask] = [0.0, 1.0, 0.0]
    image = image * (1 + 0.03 * np.random.default_rng(0).normal(size=(*image.shape[:2], 1)))
    coded = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    return head, crop_reference(coded, seen.mask.astype(np.float32), params, camera, head, 160)


def behind(head: HeadModel, reference: Reference, yaw: float = math.pi) -> tuple[np.ndarray, np.ndarray]:
    """The proposal from behind, and its pixels' heights against planes that rise to the back; nan outside the neck."""
    camera = framed_camera(head_frame(head, reference.params), yaw, 0.0, 0.8, 160)
    proposal = Conditioner(head, reference).render(reference.params, camera).proposal
    seen = mesh.rasterize(head.vertices(reference.params)[0], head.faces, camera)
    place = mesh.interpolate(seen, head.faces, head.template.numpy())
    neck = seen.mask & head.regions["neck"].numpy()[head.faces.numpy()[np.maximum(seen.face, 0)]].all(-1)
    inner = cv2.erode(neck.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return proposal, np.where(inner, height(place), np.nan)


def test_the_back_of_a_suit_is_jacket_or_shirt_and_nothing_between() -> None:
    suit = clothed(WHITE, 0.0, BLACK)
    for yaw in (2.2, math.pi):
        proposal, level = behind(*suit, yaw)
        cloth = proposal[level < NECKLINE - 0.01]
        jacket, shirt = (np.abs(cloth - color).max(1) < 0.2 for color in (BLACK, WHITE))
        assert len(cloth) > 300 and jacket.mean() > 0.5
        assert (jacket | shirt).mean() > 0.9


def test_two_garments_are_told_from_one_and_from_a_pattern() -> None:
    rng = np.random.default_rng(0)
    place = rng.uniform(-0.1, 0.1, (800, 3)) * [1, 1, 0.2]
    inner = np.abs(place[:, 0]) < 0.03
    noise = rng.uniform(0.9, 1.1, (800, 1))
    suit = np.where(inner[:, None], WHITE, BLACK) * noise
    found = parted(place, suit)
    assert found is not None and (found == inner).mean() > 0.99
    small = np.hypot(place[:, 0], place[:, 1]) < 0.035
    found = parted(place, np.where(small[:, None], WHITE, BLACK) * noise)
    assert 0.08 < small.mean() < 0.12 and found is not None and (found == small).all(), "little of a shirt"
    assert parted(place, np.tile(SHIRT, (800, 1)) * noise) is None, "one garment"
    assert parted(place, np.ones((800, 3))) is None, "burnt out"
    assert parted(place, np.where(inner[:, None], SHIRT, np.multiply(SHIRT, 0.85)) * noise) is None, "in two lights"
    dots = rng.random(800) < 0.4
    assert parted(place, np.where(dots[:, None], WHITE, BLACK) * noise) is None, "a pattern"
    assert parted(place[:10], suit[:10]) is None


@pytest.mark.parametrize("raised", [0.0, 0.02])
def test_the_back_of_a_shirt_has_its_colour(raised: float) -> None:
    proposal, level = behind(*clothed(SHIRT, raised))
    cloth, skin = level < NECKLINE - 0.015, level > NECKLINE + 0.02
    assert cloth.sum() > 300 and skin.sum() > 100
    # Shoulders that were raised are no hair, though hair moves static offsets as well.
    assert np.abs(proposal[cloth] - SHIRT).max(1).mean() < 0.05
    assert np.abs(np.median(proposal[skin], 0) - SKIN).max() < 0.08


def test_the_neckline_is_sharp() -> None:
    proposal, level = behind(*clothed(SHIRT))
    share = np.clip((proposal - SKIN) @ np.subtract(SHIRT, SKIN) / np.sum(np.subtract(SHIRT, SKIN) ** 2), 0, 1)
    near = np.abs(level - NECKLINE) < 0.03
    # Of 60 mm around the line few pixels are a mixture.
    assert ((share > 0.2) & (share < 0.8) & near).sum() < 0.15 * near.sum()


def test_bare_shoulders_stay_bare() -> None:
    proposal, level = behind(*clothed(SKIN))
    assert np.abs(proposal[np.isfinite(level)] - SKIN).max(1).mean() < 0.06


@pytest.mark.parametrize("covered", [True, False])
@pytest.mark.parametrize("right_side", [True, False])
def test_hair_that_hangs_stays_hair(covered: bool, right_side: bool) -> None:
    """Offsets of the neck are hair's where the picture shows hair there, though it be on one side. Where it covers the
    ears, it covers the neck's back as well, though it may lie close to it."""
    head, reference = clothed(SHIRT)
    beside = head.template[:, 0].abs() > 0.025
    if not right_side:
        beside &= head.template[:, 0] > 0
    beside |= head.template[:, 2] < 0.0
    neck = head.regions["neck"] & (head.template[:, 1] > -0.15) & (head.template[:, 2] < 0.05) & beside
    long = torch.zeros_like(head.template)
    moved = neck & (head.template[:, 2] > -0.03) if covered else neck
    long[moved] = 0.008 * torch.nn.functional.normalize(head.template[moved] * torch.tensor([1.0, 0.0, 1.0]), dim=1)
    ears = head.regions["ears"]
    if covered:
        long[ears] = 0.004 * torch.randn(int(ears.sum()), 3, generator=torch.Generator().manual_seed(0))
    params = reference.params.replace(static_offset=long)
    camera = reference.camera
    seen = mesh.rasterize(head.vertices(params)[0], head.faces, camera)
    dark = (head.regions["scalp"] | neck | (ears & covered)).float()[:, None].numpy()
    hair = mesh.interpolate(seen, head.faces, dark) > 0.5
    image = np.where(hair, HAIR, np.where(np.arange(160)[:, None, None] > 140, SHIRT, SKIN))
    image = (np.where(seen.mask[..., None], image, 1.0) * 255).astype(np.uint8)
    haired = crop_reference(image, seen.mask.astype(np.float32), params, camera, head, 160)
    proposal, level = behind(head, haired)
    upper = level > -0.15
    if covered:
        front, heights = behind(head, haired, 0.0)
        throat = (heights > -0.15) & (np.abs(front - SKIN).max(-1) < 0.2)
        assert throat.sum() > 100, "the throat stays bare"
    assert np.abs(np.median(proposal[upper], 0) - HAIR).max() < 0.1
    assert (np.abs(proposal[upper] - HAIR).max(1) < 0.2).mean() > 0.9


def test_hair_that_a_photograph_cuts_hangs_on_below() -> None:
    spots = np.random.default_rng(0).uniform([-0.07, -0.25, 0.0], [0.07, -0.01, 0.05], (9000, 3))
    cut, whole = (_slices(spots, -spots[:, 1], hair) for hair in (spots[:, 0] > 0.04, spots[:, 1] > -0.16))
    assert np.nanmin(cut) > 0.9, "the hairier side tells"
    for covered in (False, True):
        assert hung_down(cut, covered) == np.inf
        assert hung_down(whole, covered) * SLICE == pytest.approx(0.16, abs=SLICE)
        assert hung_down(_slices(spots, -spots[:, 1], np.zeros(9000, bool)), covered) == 0


def test_shadows_and_coats_are_no_hair_below_ears_that_are_seen() -> None:
    shadow = np.array([np.nan] * 4 + [1.0, 0.9, 0.8, 0.1, 0.0, 0.0, 0.0])
    assert hung_down(shadow, covered=False) == 0
    assert hung_down(shadow, covered=True) == 7
    coat = np.concatenate([np.ones(SHADOWED + 2), [0.1, 0.9, 1.0, 1.0]])
    assert hung_down(coat, covered=False) == SHADOWED + 2
    assert hung_down(coat, covered=True) == np.inf
    bob = np.array([0.9, 0.9, 0.8, 0.1, 0.0, 0.0, 0.1, 1.0, 1.0, 1.0, 1.0])
    assert hung_down(bob, covered=True) == 3
    assert hung_down(bob[3:], covered=True) == 0
    assert hung_down(np.array([0.9, 0.9, 0.1, np.nan, np.nan]), covered=True) == 2


def test_a_stray_pixel_hides_no_hair_and_shoulders_are_no_part_of_it() -> None:
    rng = np.random.default_rng(1)
    neck = rng.uniform([-0.06, -0.15, 0.0], [0.06, -0.01, 0.05], (6000, 3))
    shoulders = rng.uniform([-0.2, -0.25, 0.0], [0.2, -0.15, 0.05], (6000, 3))
    spots = np.concatenate([[[0.003, -0.005, 0.05]], neck, shoulders])
    shares = _slices(spots, -spots[:, 1], (np.abs(spots[:, 0]) > 0.045) & (np.abs(spots[:, 0]) < 0.09))
    assert np.nanmin(shares) > 0.6


@given(st.floats(-0.16, -0.11), st.sampled_from([(0.1, 0.1, 0.1), (0.9, 0.9, 0.95), (0.2, 0.5, 0.2)]))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_a_neckline_is_found_where_it_is(level: float, shirt: tuple[float, ...]) -> None:
    rng = np.random.default_rng(1)
    place = rng.uniform([-0.1, -0.2, -0.02], [0.1, -0.09, 0.04], (1500, 3))
    shade = rng.uniform(0.7, 1.1, (1500, 1))
    color = np.clip(np.where((height(place) < level)[:, None], shirt, SKIN) * shade, 0, 1).astype(np.float32)
    face = np.clip(np.array(SKIN) * rng.uniform(0.7, 1.1, (800, 1)), 0, 1).astype(np.float32)
    found = Neckline.found(face, place, color)
    wrong = (found.below(place) > 0) != (height(place) < level)
    assert wrong.mean() < 0.04


def test_a_deep_shadow_under_a_chin_is_no_coat() -> None:
    """What is too dark for the face's skin and like no cloth below is not taken to be in clothes."""
    rng = np.random.default_rng(1)
    place = rng.uniform([-0.1, -0.2, -0.02], [0.1, -0.09, 0.04], (1500, 3))
    level = height(place)[:, None]
    color = np.where(level < -0.15, (0.6, 0.7, 0.9), np.where(level < -0.11, (0.14, 0.07, 0.03), SKIN))
    color = np.clip(color * rng.uniform(0.8, 1.1, (1500, 1)), 0, 1).astype(np.float32)
    face = np.clip(np.array(SKIN) * rng.uniform(0.7, 1.1, (800, 1)), 0, 1).astype(np.float32)
    found = Neckline.found(face, place, color)
    assert found.level is not None and abs(found.level + 0.15) < 0.01


def test_the_shadow_of_a_chin_does_not_go_round_the_neck() -> None:
    head, reference = clothed(SHIRT)
    place = head.template.numpy()
    shadow = (height(place) > NECKLINE) & (place[:, 1] < -0.075) & (place[:, 2] > -0.02) & (np.abs(place[:, 0]) < 0.06)
    shadow &= vertex_groups(head)["neck"]
    seen = mesh.rasterize(head.vertices(reference.params)[0], head.faces, reference.camera)
    dark = mesh.interpolate(seen, head.faces, shadow.astype(np.float32)[:, None])
    image = reference.image * (1 - dark) + dark * np.array([0.16, 0.08, 0.04])
    photo = (image * 255).round().astype(np.uint8)
    shaded = crop_reference(photo, reference.mask, reference.params, reference.camera, head, 160)
    proposal, level = behind(head, shaded)
    skin = level > NECKLINE + 0.02
    assert np.abs(np.median(proposal[skin], 0) - SKIN).max() < 0.12


def test_borders_between_kinds_of_surface_do_not_follow_triangles() -> None:
    """Vertices on one side of a plane: the line that is drawn between them is the plane's, to a fifth of an edge (a
    third where it follows triangles)."""
    head, reference = ellipsoid_head(), random_portraits.reference()
    reference = replace(reference, params=head.zeros())
    place = head.template.numpy()
    back = ~head.regions["neck"].numpy() & (place[:, 2] < 0.02)
    edge = float(np.linalg.norm(np.diff(place[head.faces.numpy()[:, :2]], axis=1), axis=-1).mean())
    strays = []
    for at, slope in itertools.product(np.linspace(-0.02, 0.06, 9), np.linspace(-0.3, 0.3, 5)):
        beyond = (place[:, 1] - at - slope * place[:, 2]) / math.hypot(1, slope)
        line = inside_by(head, reference, back & (beyond > 0), back & (beyond <= 0))
        near = back & (np.abs(beyond) < 1.5 * edge) & (place[:, 2] < 0.0)
        assert near.sum() > 20 and np.abs(line).max() < RING + 1e-6
        straight = np.polynomial.Polynomial.fit(beyond[near], line[near], 1)
        assert straight.deriv()(0) > 0
        strays.append(np.abs(line[near] - straight(beyond[near])).mean() / edge)
    assert np.mean(strays) < 0.2 and max(strays) < 0.45


def test_no_neckline_without_clothes_or_a_face() -> None:
    rng = np.random.default_rng(2)
    place = rng.uniform([-0.1, -0.2, -0.02], [0.1, -0.09, 0.04], (600, 3))
    skin = np.clip(np.array(SKIN) * rng.uniform(0.7, 1.1, (600, 1)), 0, 1).astype(np.float32)
    assert Neckline.found(skin, place, skin).level is None
    assert Neckline.found(skin[:0], place, skin).level is None
    assert Neckline.found(skin, place[:5], skin[:5]).level is None
    assert float(Neckline().below(place).max()) < 0
