"""Synthetic photographs show the head that they say they show."""

from __future__ import annotations

import numpy as np
import pytest

from geodiff.geometry import project
from geodiff.head.builtin import load_builtin
from geodiff.synth.portraits import PortraitConfig, Sitter


@pytest.fixture(scope="module")
def sitter() -> Sitter:
    return Sitter(load_builtin(), 3, PortraitConfig(size=256))


def test_the_head_lies_where_the_camera_says(sitter: Sitter) -> None:
    photo = sitter.photograph(30)
    assert photo.image.shape == (256, 256, 3) and photo.image.dtype == np.uint8
    pixels, depth = project(sitter.subject.head.vertices(photo.params)[0], photo.camera)
    inside = pixels[((pixels > 0) & (pixels < 256)).all(1)].long().numpy()
    assert photo.mask[inside[:, 1], inside[:, 0]].mean() > 0.97
    assert 0.4 < float(depth.mean()) < 2.3


def test_yaw_is_the_angle_of_the_camera(sitter: Sitter) -> None:
    direction = sitter.photograph(60).camera.center - sitter.frame.center
    assert np.degrees(np.arctan2(direction[0], direction[2])) == pytest.approx(60, abs=0.5)


def test_the_same_seed_gives_the_same_picture(sitter: Sitter) -> None:
    again = Sitter(load_builtin(), 3, PortraitConfig(size=256))
    assert np.array_equal(again.photograph(-20).image, sitter.photograph(-20).image)
