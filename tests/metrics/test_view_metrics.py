"""Cross-view consistency of a rendered mesh whose texture is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from heads import ellipsoid_head

from geodiff.geometry import orbit_camera
from geodiff.metrics.checks import NotMeasured
from geodiff.metrics.views import cross_view_error
from geodiff.raster import mesh
from geodiff.types import Camera

HEAD = ellipsoid_head(36, 48)
VERTICES = HEAD.vertices(HEAD.zeros())[0]


def _camera(yaw: float, size: int = 128) -> Camera:
    return orbit_camera(math.radians(yaw), 0.0, 1.0, torch.zeros(3), 3.2 * size, size, size)


def _picture(camera: Camera, shift: float = 0.0) -> np.ndarray:
    """The mesh painted with waves that run through space, so that its colour depends on the place alone."""
    fragments = mesh.rasterize(VERTICES, HEAD.faces, camera)
    points = mesh.interpolate(fragments, HEAD.faces, VERTICES) + shift
    waves = 0.5 + 0.4 * np.sin(points * 120.0)
    return np.where(fragments.mask[..., None], waves, 1.0).astype(np.float32)


def _error(yaws: tuple[float, ...], images: list[np.ndarray] | None = None, **options) -> float:
    cameras = [_camera(yaw) for yaw in yaws]
    pictures = [_picture(camera) for camera in cameras] if images is None else images
    return cross_view_error(pictures, cameras, VERTICES, HEAD.faces, **options)


def test_one_texture_is_consistent_and_a_shifted_one_is_not() -> None:
    yaws = (0.0, 30.0, -30.0)
    consistent = _error(yaws)
    # What is left is resampling: a fraction of a level.
    assert consistent < 0.7
    swum = [_picture(_camera(yaw), shift=0.004 * i) for i, yaw in enumerate(yaws)]
    assert _error(yaws, swum) > 20 * consistent


def test_a_difference_of_colour_is_measured_as_it_is() -> None:
    flat = [np.full((128, 128, 3), value, np.float32) for value in (0.5, 0.5, 0.6)]
    assert _error((0.0, 20.0), flat[:2]) == 0.0
    assert _error((0.0, 20.0), flat[1:]) == pytest.approx(25.5, abs=1e-3)


def test_blind_views_are_not_compared() -> None:
    pictures = [_picture(_camera(yaw)) for yaw in (0.0, 90.0)]
    with pytest.raises(NotMeasured, match="60 degrees"):
        _error((0.0, 90.0), pictures)
    with pytest.raises(NotMeasured, match="two views"):
        _error((0.0,), pictures[:1])
    with pytest.raises(NotMeasured, match="same points"):
        _error((0.0, 20.0), pictures, masks=[np.zeros((128, 128), bool)] * 2)


def test_hidden_points_do_not_count() -> None:
    """A wall before the head hides it from one view only; what is behind must not be compared with the wall."""
    cameras = [_camera(0.0), _camera(40.0)]
    eye = cameras[1].center
    ahead = torch.nn.functional.normalize(-eye, dim=0)
    side = torch.linalg.cross(ahead, torch.tensor([0.0, 1.0, 0.0]))
    corners = eye + 0.5 * ahead + 0.1 * torch.stack([-side, side, side, -side])
    corners[:2, 1] -= 0.1
    corners[2:, 1] += 0.1
    vertices = torch.cat([VERTICES, corners])
    wall = torch.tensor([[0, 1, 2], [0, 2, 3]]) + len(VERTICES)
    faces = torch.cat([HEAD.faces, wall])
    with pytest.raises(NotMeasured, match="same points"):
        cross_view_error([_picture(camera) for camera in cameras], cameras, vertices, faces)


def test_wrong_images_are_told() -> None:
    image = _picture(_camera(0.0))
    with pytest.raises(ValueError, match="as large as its camera"):
        _error((0.0, 20.0), [image, image[:100]])
    with pytest.raises(ValueError, match="finite"):
        _error((0.0, 20.0), [image, image * np.nan])
    with pytest.raises(ValueError, match="one image and one mask"):
        _error((0.0, 20.0), [image])
