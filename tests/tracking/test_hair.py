"""Hair offsets make the mesh's outline meet the matte, within bounds, on the scalp alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from heads import ellipsoid_head

from geodiff.head.model import HeadModel
from geodiff.raster.mesh import rasterize
from geodiff.tracking.hair import HairConfig, fit_hair, movable
from geodiff.types import Camera, HeadParams


@pytest.fixture(scope="module")
def scene() -> tuple[HeadModel, HeadParams, Camera, np.ndarray]:
    head = ellipsoid_head()
    camera = Camera(
        torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])),
        torch.tensor([[500.0, 0, 128], [0, 500.0, 128], [0, 0, 1]]),
        256,
        256,
    )
    params = head.zeros().replace(translation=torch.tensor([[0.0, -0.02, -0.8]]))
    bald = rasterize(head.vertices(params)[0], head.faces, camera).mask
    return head, params, camera, bald


def upper(mask: np.ndarray) -> np.ndarray:
    return mask[:120]


def test_a_bald_head_stays_bald(scene) -> None:
    head, params, camera, bald = scene
    offsets = fit_hair(bald.astype(np.float32), params, camera, head)
    assert offsets.shape == (head.num_vertices, 3)
    assert float(offsets.norm(dim=1).max()) < 0.003


def test_the_outline_meets_the_matte(scene) -> None:
    head, params, camera, bald = scene
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (25, 25))
    matte = cv2.dilate(bald.astype(np.uint8), kernel).astype(np.float32)
    offsets = fit_hair(matte, params, camera, head)
    hairy = rasterize(head.vertices(params.replace(static_offset=offsets))[0], head.faces, camera).mask
    before = (upper(bald) != (upper(matte) > 0.5)).mean()
    after = (upper(hairy) != (upper(matte) > 0.5)).mean()
    assert after < 0.35 * before
    length = offsets.norm(dim=1)
    assert float(length[~movable(head)].max()) == 0
    # The back, which the picture does not show, has hair as well.
    back = head.regions["scalp"] & (head.template[:, 2] < -0.07)
    assert float(length[back].mean()) > 0.008


def test_offsets_are_bounded_and_smooth(scene) -> None:
    head, params, camera, _ = scene
    offsets = fit_hair(np.ones((256, 256), np.float32), params, camera, head, HairConfig(limit=0.03))
    length = offsets.norm(dim=1)
    assert float(length.max()) <= 0.03 + 1e-6
    edges = torch.cat([head.faces[:, [0, 1]], head.faces[:, [1, 2]]])
    span = (head.template[edges[:, 0]] - head.template[edges[:, 1]]).norm(dim=1)
    assert float(((length[edges[:, 0]] - length[edges[:, 1]]).abs() / (span + 1e-3)).max()) < 4
