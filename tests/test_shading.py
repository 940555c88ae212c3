"""Light in proposals: what the portrait does not show stands in the light that falls on what it shows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodiff.conditioning import Conditioner, crop_reference, framed_camera, head_frame
from geodiff.conditioning.shading import GAMMA, LEAST, log_shading
from geodiff.geometry import vertex_normals
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.types import Camera, HeadParams

SKIN = np.array([0.72, 0.52, 0.42])


def sky(normals: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Brightness of what faces along normals (N, 3), before the picture's curve."""
    return np.maximum(0.5 + normals @ side, 0.05)


@given(st.floats(-0.25, 0.25), st.floats(-0.2, 0.25), st.floats(0.0, 0.2), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_light_is_told_from_skin_in_spite_of_brows_and_beards(x: float, y: float, z: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(3000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    side, seen = np.array([x, y, z]), normals[:, 2] > 0.3
    open_sky = rng.uniform(0.4, 1.0, 3000)
    bright = sky(normals, side) * open_sky
    colors = SKIN * (bright ** (1 / GAMMA))[:, None] * (1 + 0.03 * rng.normal(size=(3000, 1)))
    colors[rng.random(3000) < 0.1] = [0.1, 0.06, 0.04]
    found = log_shading(np.clip(colors, 0, 1), normals, open_sky, seen)
    truth = np.log(bright / np.median(bright[seen])) / GAMMA
    assert np.abs(found - truth)[seen].mean() < 0.02 + 0.3 * np.abs(truth[seen]).mean()
    # Beside the face, where nothing is seen; an even sky is the guess, so it is told the less the weaker it is.
    beside = (np.abs(normals[:, 2]) < 0.3) & (np.abs(normals[:, 0]) > 0.8)
    assert np.abs(found - truth)[beside].mean() < 0.03 + 0.5 * np.abs(truth[beside]).mean()


def test_too_little_skin_tells_nothing_of_the_light() -> None:
    normals = np.tile([[0.0, 0.0, 1.0]], (LEAST + 1, 1))
    few = np.arange(LEAST + 1) < LEAST - 1
    assert not log_shading(np.full((LEAST + 1, 3), 0.5), normals, np.ones(LEAST + 1), few).any()
    # Nor does black.
    assert not log_shading(np.zeros((LEAST + 1, 3)), normals, np.ones(LEAST + 1), np.ones(LEAST + 1, bool)).any()


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("builtin")


def sides(head: HeadModel, light: np.ndarray, turned: float = 0.0) -> np.ndarray:
    """How bright the hidden left and right side of the face are in the proposal of a portrait in this light, whose head
    is turned (radians), and how bright in truth: (2, 2)."""
    camera = Camera(
        torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])),
        torch.tensor([[620.0, 0, 200], [0, 620.0, 180], [0, 0, 1]]),
        400,
        400,
    )
    params = head.zeros().replace(
        rotation=torch.tensor([[0.0, turned, 0.0]]), translation=torch.tensor([[0.0, 0.0, -0.8]])
    )
    image, mask = painted(head, params, camera, light)
    coded = (np.clip(np.where(mask[..., None], image, [0.0, 1.0, 0.0]), 0, 1) * 255).astype(np.uint8)
    reference = crop_reference(coded, mask.astype(np.float32), params, camera, head, 160)
    conditioner, levels = Conditioner(head, reference), []
    for yaw in (90, -90):
        view = framed_camera(head_frame(head, reference.params), math.radians(yaw), 0.0, 0.8, 160)
        shown = mesh.rasterize(head.vertices(reference.params)[0], head.faces, view)
        condition = conditioner.render(reference.params, view)
        hidden = shown.of(head.faces, (head.regions["ears"] | head.regions["face"]).numpy())
        hidden &= condition.visibility < 0.1
        truth = painted(head, reference.params, view, light)[0]
        levels.append([condition.proposal[hidden].mean(), truth[hidden].mean()])
    return np.array(levels)


def painted(head: HeadModel, params: HeadParams, camera: Camera, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, 3) of skin alone in a light, and what it covers (H, W) bool."""
    vertices = head.vertices(params)[0]
    seen = mesh.rasterize(vertices, head.faces, camera)
    normals = mesh.interpolate(seen, head.faces, vertex_normals(vertices, head.faces).numpy())
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)
    bright = sky(normals.reshape(-1, 3), light).reshape(*seen.mask.shape, 1)
    return SKIN * bright ** (1 / GAMMA), seen.mask


@pytest.mark.parametrize("light", [(0.22, 0.0, 0.1), (-0.22, 0.1, 0.0), (0.0, 0.0, 0.25)])
def test_the_hidden_sides_are_as_bright_as_in_truth(head: HeadModel, light: tuple[float, float, float]) -> None:
    found, truth = sides(head, np.array(light)).T
    assert found == pytest.approx(truth, rel=0.08)  # the cheeks' edges, continued: 0.11


@pytest.mark.parametrize("turned", [0.6, -0.6])
def test_the_side_that_is_turned_away_stands_in_its_own_light(head: HeadModel, turned: float) -> None:
    """It has the other side's colours, mirrored, but not its light."""
    found, truth = sides(head, np.array((0.2, 0.0, 0.1)), turned).T
    assert found == pytest.approx(truth, rel=0.17)  # in the other's light: 0.25
