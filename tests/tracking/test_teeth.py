"""Teeth tell whether a jaw is shut: seen where they fill the mouth, and not where tongue, lips or the dark do."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from geodiff.tracking.teeth import CHEEKS, LOWER, UPPER, Bite, seen_bite

SKIN, LIP, TOOTH, DARK, TONGUE = (205, 160, 135), (170, 80, 80), (225, 215, 200), (40, 15, 12), (150, 70, 72)
EYES = 180.0


Rows = list[tuple[float, tuple[int, ...]]]


def mouth(parted: float, rows: Rows, light: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A picture (300, 300, 3) with lips `parted` pixels and, from the upper lip down, shares of it in colours; and its
    landmarks (478, 2)."""
    image = np.full((300, 300, 3), SKIN, np.float32)
    cv2.ellipse(image, (150, 180), (60, int(parted / 2 + 14)), 0, 0, 360, LIP, -1)
    points = np.zeros((478, 2), np.float32)
    across = np.linspace(100, 200, len(UPPER))
    bow = np.sqrt(np.clip(1 - ((across - 150) / 56) ** 2, 0, 1))
    points[UPPER] = np.stack([across, 180 - parted / 2 * bow], 1)
    points[LOWER] = np.stack([across, 180 + parted / 2 * bow], 1)
    points[CHEEKS] = np.stack([np.linspace(60, 240, len(CHEEKS)), np.full(len(CHEEKS), 60)], 1)
    for column in range(100, 201):
        half = parted / 2 * np.sqrt(1 - ((column - 150) / 56) ** 2)
        top = 180 - half
        for share, color in rows:
            end = top + 2 * half * share
            image[int(round(top)) : int(round(end)), column] = color
            top = end
    return np.clip(light * image, 0, 255).astype(np.uint8), points


@pytest.mark.parametrize("light", [1.0, 0.45])
def test_a_smile_with_shut_teeth_is_surely_shut(light: float) -> None:
    found = seen_bite(*mouth(34, [(0.1, LIP), (0.8, TOOTH), (0.1, LIP)], light), EYES)
    assert found.sure > 0.9 and found.opening < 1.0


def test_a_small_gap_between_the_rows_is_measured() -> None:
    found = seen_bite(*mouth(40, [(0.5, TOOTH), (0.25, DARK), (0.25, TOOTH)]), EYES)
    assert found.sure > 0.2 and 2 < found.opening < 11


@pytest.mark.parametrize(
    "rows",
    [
        [(0.3, TOOTH), (0.7, DARK)],
        [(0.2, TOOTH), (0.3, DARK), (0.5, TONGUE)],
        [(1.0, DARK)],
        [(0.5, LIP), (0.5, TONGUE)],
    ],
)
def test_an_open_mouth_tells_nothing(rows: Rows) -> None:
    assert seen_bite(*mouth(50, rows), EYES).sure < 0.05


def test_shut_lips_tell_nothing() -> None:
    assert seen_bite(*mouth(2, [(1.0, TOOTH)]), EYES) == Bite()


def test_dark_skin_and_grey_pictures() -> None:
    image, points = mouth(34, [(0.1, LIP), (0.8, TOOTH), (0.1, LIP)])
    dark = image.copy()
    dark[(image == SKIN).all(-1)] = (70, 48, 40)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    for picture in (dark, grey):
        assert seen_bite(picture, points, EYES).sure > 0.9
    open_, points = mouth(50, [(0.3, TOOTH), (0.4, DARK), (0.3, TONGUE)])
    open_[(open_ == SKIN).all(-1)] = (70, 48, 40)
    assert seen_bite(open_, points, EYES).sure < 0.05
