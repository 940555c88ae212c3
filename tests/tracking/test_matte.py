"""Mattes of photographs and cut-outs."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from geodiff.tracking.groups import INNER_FACE
from geodiff.tracking.landmarks import detect_faces
from geodiff.tracking.matte import flat_background_matte, portrait_matte


def test_matte_of_a_photograph(astronaut: np.ndarray) -> None:
    face = detect_faces(astronaut)[0]
    matte = portrait_matte(astronaut, face)
    assert matte.shape == (512, 512) and matte.dtype == np.float32
    assert matte.min() >= 0 and matte.max() <= 1
    inside = face.points[list(INNER_FACE)].astype(int)
    assert matte[inside[:, 1], inside[:, 0]].min() > 0.9
    assert matte[:120, :100].max() < 0.1 and matte[:150, 400:].max() < 0.1
    assert matte[50, 225] > 0.9, "the hair belongs to the person"


def test_cut_out_on_white(astronaut: np.ndarray) -> None:
    face = detect_faces(astronaut)[0]
    truth = portrait_matte(astronaut, face) > 0.5
    cut = np.where(truth[..., None], astronaut, 255).astype(np.uint8)
    matte = portrait_matte(cut, face)
    overlap = ((matte > 0.5) & truth).sum() / ((matte > 0.5) | truth).sum()
    assert overlap > 0.97
    assert matte[~cv2.dilate(truth.astype(np.uint8), np.ones((9, 9))).astype(bool)].max() < 0.02


def test_flat_backgrounds_are_keyed_and_others_are_not() -> None:
    image = np.full((120, 100, 3), 255, np.uint8)
    cv2.circle(image, (50, 60), 30, (90, 60, 40), -1)
    cv2.circle(image, (50, 60), 8, (255, 255, 255), -1)
    matte = flat_background_matte(image, np.zeros((120, 100), np.float32))
    assert matte is not None
    assert matte[60, 50] == 1, "white inside the person is the person's"
    assert matte[60, 30] == 1 and matte[5, 5] == 0
    # A person whose colour is the background's is left to the network.
    hidden = np.zeros((120, 100), np.float32)
    cv2.circle(hidden, (50, 60), 45, 1.0, -1)
    assert flat_background_matte(image, hidden) is None
    noisy = np.random.default_rng(0).integers(0, 255, image.shape, dtype=np.uint8)
    assert flat_background_matte(noisy, np.zeros((120, 100), np.float32)) is None


def test_people_who_stand_close_are_parted(astronaut: np.ndarray) -> None:
    """Two of them shoulder to shoulder: each keeps what is nearer to her face, and heads stay whole."""
    one = astronaut[:, 100:350]
    pair = np.hstack([one, one])
    faces = sorted(detect_faces(pair), key=lambda face: face.box[0])
    assert len(faces) == 2
    both = portrait_matte(pair, faces[0])
    left, right = (portrait_matte(pair, faces[n], [faces[1 - n]]) for n in (0, 1))
    assert (both[:, 260:] > 0.9).mean() > 0.2, "their shoulders touch"
    assert left[:, 260:].max() < 0.05 and right[:, :240].max() < 0.05
    assert np.abs(left - both)[:200, :230].max() < 0.11 and np.abs(left - both)[:200, :230].mean() < 1e-3
    assert np.abs(left + right - both)[300:].mean() < 0.02
    # A small face, on a shirt say, takes nothing away.
    printed = replace(faces[1], box=np.array([100.0, 380.0, 130.0, 410.0]))
    np.testing.assert_array_equal(portrait_matte(pair, faces[0], [printed]), both)
