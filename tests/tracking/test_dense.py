"""The face's texture, followed from picture to picture: where points went, and what that is worth to a capture."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage

from geodiff.geometry import orbit_camera, project
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.tracking.capture import Sight, fit_capture
from geodiff.tracking.dense import Surface, cut_out
from geodiff.tracking.landmarks import NUM_LANDMARKS
from geodiff.tracking.refine import Look
from geodiff.tracking.settings import CaptureConfig, DenseConfig, TrackConfig
from geodiff.types import Camera, HeadParams, Motion

SIZE, SIDE = 240, 160


@cache
def head() -> HeadModel:
    return load_head("builtin")


@cache
def paint() -> np.ndarray:
    """A skin (U, U) with spots of many sizes."""
    rng = np.random.default_rng(0)
    layers = [ndimage.gaussian_filter(rng.normal(size=(512, 512)), s) * s for s in (2, 4, 8)]
    return (128 + 90 * np.sum(layers, 0)).clip(0, 255).astype(np.float32)


def cameras(yaws: tuple[float, ...] = (-45.0, -15.0, 10.0, 40.0)) -> list[Camera]:
    center = head().template.mean(0)
    return [orbit_camera(math.radians(yaw), 0.05, 1.0, center, 700, SIZE, SIZE) for yaw in yaws]


def people(times: int) -> HeadParams:
    """One person in several expressions and poses."""
    rng = np.random.default_rng(1)
    names = ("jawOpen", "mouthSmileLeft", "mouthSmileRight", "browInnerUp", "mouthPucker", "browDownLeft")
    weights = {name: rng.uniform(0, 0.5, times).astype(np.float32) for name in names}
    motion = Motion(weights, np.zeros((times, 3), np.float32), np.zeros((times, 2), np.float32))
    identity = head().zeros().replace(shape=torch.as_tensor(rng.normal(0, 0.5, head().num_shape)).float())
    return (
        head()
        .motion_params(motion, identity)
        .replace(
            rotation=torch.as_tensor(rng.normal(0, 0.05, (times, 3))).float(),
            translation=torch.as_tensor(rng.normal(0, 0.01, (times, 3))).float(),
        )
    )


def picture(params: HeadParams, t: int, camera: Camera, light: float = 1.0) -> np.ndarray:
    """(H, W, 3) uint8 the painted head before grey."""
    vertices = head().vertices(params.frame(t))[0]
    seen = mesh.rasterize(vertices, head().faces, camera)
    uvs = mesh.interpolate(seen, head().faces, head().uvs[head().faces_uv].numpy())
    rows, columns = (1 - uvs[..., 1]) * 512 - 0.5, uvs[..., 0] * 512 - 0.5
    drawn = ndimage.map_coordinates(paint(), [rows, columns], order=1, mode="nearest")
    gray = np.where(seen.mask, light * drawn, 90.0).clip(0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, 2)


def landmarks(params: HeadParams, t: int, camera: Camera) -> np.ndarray:
    marks = head().landmarks
    assert marks is not None
    points = np.zeros((NUM_LANDMARKS, 2))
    points[marks.indices.numpy()] = project(head().landmark_points(params.frame(t))[0], camera)[0].numpy()
    return points


def test_points_are_found_where_they_went() -> None:
    """A head believed to be elsewhere: flow leads back to where its points are, whatever the light."""
    truth, views = people(2), cameras()
    surface = Surface(head(), DenseConfig(side=SIDE))
    crops = {
        (t, c): cut_out(picture(truth, t, camera, 0.7 + 0.1 * c), landmarks(truth, t, camera), SIDE)
        for t in range(2)
        for c, camera in enumerate(views)
    }
    texture = surface.texture(crops, truth, views)
    wrong = truth.replace(translation=truth.translation + torch.tensor([0.004, -0.003, 0.0]))
    for c in (1, 2):
        places, good = surface.followed(crops[0, c], texture, wrong, 0, views[c])
        marks = surface.points
        goal, start = (
            project(marks.points(head().vertices(one.frame(0))[0], head().faces), views[c])[0].numpy()
            for one in (truth, wrong)
        )
        assert good.mean() > 0.35
        before, after = (np.linalg.norm(at - goal, axis=1)[good].mean() for at in (start, places))
        assert before > 3 and after < 0.15 * before, (before, after)


def test_points_that_look_away_are_not_found() -> None:
    truth, views = people(1), cameras((0.0, 80.0))
    surface = Surface(head(), DenseConfig(side=SIDE))
    crops = {
        (0, c): cut_out(picture(truth, 0, camera), landmarks(truth, 0, camera), SIDE) for c, camera in enumerate(views)
    }
    texture = surface.texture(crops, truth, views)
    _, good = surface.followed(crops[0, 1], texture, truth, 0, views[1])
    far = (surface.points.points(head().vertices(truth)[0], head().faces)[:, 0] < -0.03).numpy()
    assert far.sum() > 20 and not good[far].any(), "the cheek on the other side"


@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_crops_lead_back_to_the_picture(factor: float) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(30, 30 + 100 * factor, (NUM_LANDMARKS, 2))
    camera = cameras()[0]
    crop = cut_out(rng.integers(0, 255, (500, 500, 3)).astype(np.uint8), points, 96)
    own, world = crop.camera(camera), rng.normal(0, 0.05, (20, 3)).astype(np.float32)
    seen = project(torch.from_numpy(world), own)[0].numpy()
    goal = project(torch.from_numpy(world), camera)[0].numpy()
    np.testing.assert_allclose(crop.back(seen), goal, atol=1e-3)


def test_a_crop_shows_what_the_picture_shows() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[120:124, 60:64] = 255
    points = np.random.default_rng(0).uniform([20, 60], [120, 160], (NUM_LANDMARKS, 2))
    crop = cut_out(image, points, 160)
    row, column = np.unravel_index(crop.gray.argmax(), crop.gray.shape)
    np.testing.assert_allclose(crop.back(np.array([[column + 0.5, row + 0.5]]))[0], [62, 122], atol=1.5)


def test_texture_steadies_what_landmarks_shake() -> None:
    times, views = 4, cameras()
    truth, rng = people(times), np.random.default_rng(3)
    sights = {}
    for t in range(times):
        for c, camera in enumerate(views):
            points = landmarks(truth, t, camera)
            # Errors that neighbours share, as a detector's are, new in each picture.
            smooth = ndimage.gaussian_filter(rng.normal(size=(64, 64, 2)), (6, 6, 0)) * 45
            cell = np.clip(points / SIZE * 64, 0, 63).astype(int)
            wrong = points + smooth[cell[:, 1], cell[:, 0]]
            image = picture(truth, t, camera)
            sights[t, c] = Sight(Look(wrong), {part: cut_out(image, wrong, SIDE, part) for part in ("face", "skull")})
    errors = []
    for rounds in (0, 2):
        config = TrackConfig(refine=False, capture=CaptureConfig(dense=DenseConfig(rounds=rounds, side=SIDE)))
        track = fit_capture(sights, times, views, head(), config)
        assert len(track.textures) == (0 if rounds == 0 else 1 + len(views))
        apart = (head().landmark_points(track.params) - head().landmark_points(truth)).numpy()
        # What changes from time to time; the mean error is the identity's.
        errors.append(1e3 * np.linalg.norm(apart - apart.mean(0), axis=2).mean())
    assert errors[1] < 0.5 * errors[0], errors
