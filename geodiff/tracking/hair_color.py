"""Hair by its colour: histograms of what surely is scalp, face, clothes and background in one picture."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage

from geodiff.head.model import HeadModel
from geodiff.raster.mesh import Fragments

#: Bins of the colour histograms along each axis of CIELAB, and the width of their smoothing in bins.
BINS, BLUR = 20, 1.0
#: Difference between the colours of hair and face, as a share of full brightness, below which there is no hair to see;
#: on a face darker than DARK (a share of full brightness), less in proportion, down to DIM of it.
CONTRAST, DARK, DIM = 0.1, 0.5, 0.4


def hair_likelihood(
    image: np.ndarray, matte: np.ndarray, seen: Fragments, head: HeadModel, ear_row: float
) -> np.ndarray:
    """(H, W) 0..1: how much likelier a pixel's colour is among the hair's than among face, clothes and background.

    Zero everywhere where the scalp has the face's colour.

    image: (H, W, 3) uint8 RGB. matte: (H, W) 0..1. seen: what the fitted mesh without hair shows of the same pixels.
    ear_row: row below which a gap between mesh and matte is not taken for hair.
    """
    faces, index = head.faces.numpy(), np.maximum(seen.face, 0)
    parts = {name: head.regions[name].numpy()[faces].all(-1) for name in ("face", "eyes", "lips", "scalp", "neck")}
    region = {name: part[index] & seen.mask for name, part in parts.items()}
    sure = cv2.erode((matte > 0.9).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    rows = np.arange(image.shape[0])[:, None]
    outside = sure & ~seen.mask
    lab = _bins(image)
    skin = region["face"] & ~region["eyes"] & ~region["lips"] & sure
    samples = {
        "hair": (region["scalp"] & sure) | (outside & (rows < ear_row)),
        "skin": skin,
        "clothes": sure & ((region["neck"] & (rows > _bottom(skin))) | (outside & (rows > _bottom(skin)))),
        "background": (matte < 0.05) & ~seen.mask,
    }
    share = {"hair": 1.0, "skin": 1.0, "clothes": 0.7, "background": 0.5}
    tables = {name: share[name] * _histogram(lab, mask) for name, mask in samples.items()}
    # Clothes end below the chin: dark hair is not to be taken for a dark coat.
    low = np.clip((rows - ear_row) / max(_bottom(skin) - ear_row, 1.0), 0.0, 1.0)
    background = tables["background"].ravel()[lab]
    likelihood = np.full(image.shape[:2], 0.5)
    for _ in range(2):
        skin, hair = tables["skin"].ravel()[lab], tables["hair"].ravel()[lab]
        other = skin + background + low * tables["clothes"].ravel()[lab]
        likelihood = hair / (hair + other + 1e-9)
        # The head's hairline is not the person's: what of the scalp looks like the face is no hair.
        tables["hair"] = _histogram(lab, samples["hair"], likelihood)
        tables["skin"] = _histogram(lab, samples["skin"], 1.02 - likelihood)
        # Nor is all that is below the chin clothes, where hair hangs over them.
        tables["clothes"] = share["clothes"] * _histogram(lab, samples["clothes"], 1.02 - likelihood)
    if not _differs(image, samples["hair"], samples["skin"], likelihood):
        return np.zeros(image.shape[:2], np.float32)
    return cv2.GaussianBlur(likelihood.astype(np.float32), (0, 0), 1.0)


def _differs(image: np.ndarray, hair: np.ndarray, skin: np.ndarray, likelihood: np.ndarray) -> bool:
    """Whether the hair's mean colour differs from the face's: a bald head has none to go by."""
    weight = likelihood * hair
    if weight.sum() < 30 or not skin.any():
        return False
    there = weight > 0
    # Not by a matrix product: BLAS adds up in an order that depends on where arrays lie.
    mean = (weight[there, None] * image[there]).sum(0) / weight.sum()
    face = np.median(image[skin], 0)
    return float(np.abs(mean - face).max()) > 255 * CONTRAST * np.clip(face.max() / (255 * DARK), DIM, 1.0)


def _bins(image: np.ndarray) -> np.ndarray:
    """(H, W) number of each pixel's bin."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    levels = np.arange(256)
    # Colours differ less than brightness does: finer bins there.
    light = np.clip(levels * BINS // 256, 0, BINS - 1)
    color = np.clip(np.floor((levels - 64.0) / 128.0 * BINS).astype(int), 0, BINS - 1)
    return (light[lab[..., 0]] * BINS + color[lab[..., 1]]) * BINS + color[lab[..., 2]]


def _histogram(bins: np.ndarray, mask: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """(BINS, BINS, BINS) smoothed frequencies of the masked pixels, sum 1; zero where there are hardly any."""
    if mask.sum() < 30:
        return np.zeros((BINS, BINS, BINS))
    counts = np.bincount(bins[mask], None if weight is None else weight[mask], BINS**3)
    smooth = ndimage.gaussian_filter(counts.astype(float).reshape(BINS, BINS, BINS), BLUR, mode="constant")
    return smooth / max(float(smooth.sum()), 1e-9)


def _bottom(mask: np.ndarray) -> float:
    """The lowest row of a mask; the image's end where it is empty."""
    rows = np.flatnonzero(mask.any(1))
    return float(rows[-1]) if len(rows) else float(mask.shape[0])
