"""Bust offsets make the mesh's neck and shoulders meet the matte, and leave the head above them alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from heads import ellipsoid_head
from hypothesis import given, settings
from hypothesis import strategies as st

from geodiff.geometry import vertex_normals
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.raster.mesh import rasterize
from geodiff.tracking.bust import BustConfig, fit_bust
from geodiff.tracking.bust_surface import bust_of
from geodiff.tracking.offsets import fit_offsets
from geodiff.types import Camera, HeadParams

SIDE = 320


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("builtin")


def camera(focal: float = 640.0) -> Camera:
    K = torch.tensor([[focal, 0, SIDE / 2], [0, focal, SIDE / 2], [0, 0, 1]])
    return Camera(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])), K, SIDE, SIDE)


def placed(head: HeadModel) -> HeadParams:
    return head.zeros().replace(translation=torch.tensor([[0.0, 0.05, -0.9]]))


def silhouette(head: HeadModel, params: HeadParams, view: Camera) -> np.ndarray:
    return rasterize(head.vertices(params)[0], head.faces, view).mask


def built(head: HeadModel, width: float, raise_: float, shift: float = 0.0) -> torch.Tensor:
    """Offsets of somebody whose shoulders are wider by a share, higher and shifted by metres."""
    free = torch.from_numpy(bust_of(head).free).float()
    x = head.template[:, 0]
    slope = (x.abs() / 0.15).clamp(max=1.0)
    return free[:, None] * torch.stack([width * x + shift, raise_ * slope, torch.zeros_like(x)], 1)


def rows_of(head: HeadModel, params: HeadParams, view: Camera) -> slice:
    """From the chin down to shortly above the mesh's lower end."""
    points = head.vertices(params)[0]
    local = points @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
    rows = local[:, 1] / local[:, 2] * view.K[1, 1] + view.K[1, 2]
    return slice(int(rows[head.regions["face"]].max()), int(rows.max()) - 30)


def overlap(a: np.ndarray, b: np.ndarray, rows: slice) -> float:
    return float((a & b)[rows].sum() / max((a | b)[rows].sum(), 1))


def fitted(head: HeadModel, params: HeadParams, view: Camera, matte: np.ndarray, **config) -> HeadParams:
    offset = fit_bust(matte.astype(np.float32), params, view, head, BustConfig(**config))
    return params.replace(static_offset=offset)


def test_a_bust_that_fits_stays(head) -> None:
    params, view = placed(head), camera()
    offsets = fitted(head, params, view, silhouette(head, params, view)).static_offset
    assert float(offsets.norm(dim=1).max()) < 0.003


@given(st.floats(-0.15, 0.35), st.floats(-0.02, 0.03), st.floats(-0.015, 0.015))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_the_outline_meets_the_matte(width: float, raise_: float, shift: float) -> None:
    head = load_head("builtin")
    params, view = placed(head), camera()
    truth = params.replace(static_offset=built(head, width, raise_, shift))
    matte = silhouette(head, truth, view)
    found = fitted(head, params, view, matte)
    rows = rows_of(head, params, view)
    assert overlap(silhouette(head, found, view), matte, rows) > 0.95
    # No triangle turns over, and nothing else moves.
    before, after = (vertex_normals(head.vertices(p)[0], head.faces) for p in (params, found))
    neck = torch.from_numpy(bust_of(head).free > 0)
    assert float((before * after).sum(1)[neck].min()) > 0.2
    assert float(found.static_offset[~neck].abs().max()) == 0
    for name in ("face", "scalp", "ears"):
        assert float(found.static_offset[head.regions[name]].abs().max()) == 0


def test_what_is_not_seen_goes_along(head) -> None:
    params, view = placed(head), camera()
    matte = silhouette(head, params.replace(static_offset=built(head, 0.25, 0.02)), view)
    found = fitted(head, params, view, matte).static_offset
    # The back of the shoulders rises and widens with their outline, on both sides alike.
    back = (head.template[:, 2] < -0.07) & (head.template[:, 1] < -0.15) & (head.template[:, 0].abs() > 0.08)
    side = torch.sign(head.template[back, 0])
    assert float((found[back, 0] * side).mean()) > 0.008
    assert float((found[back] * torch.tensor([-1.0, 1.0, 1.0]) - found[head.mirror][back]).norm(dim=1).max()) < 0.012


def test_a_turned_body_is_followed(head) -> None:
    turn = torch.tensor([[0.0, 0.35, 0.0]])
    straight = placed(head)
    # The head looks straight ahead; the shoulders under it are turned by 20 degrees.
    bent = straight.replace(rotation=-turn, neck_pose=turn)
    skull = head.regions["scalp"]
    moved = head.vertices(straight)[0][skull].mean(0) - head.vertices(bent)[0][skull].mean(0)
    bent = bent.replace(translation=bent.translation + moved)
    view = camera()
    matte, rows = silhouette(head, bent, view), rows_of(head, straight, view)
    before = overlap(silhouette(head, straight, view), matte, rows)
    after = overlap(silhouette(head, fitted(head, straight, view, matte), view), matte, rows)
    assert after > 0.96 and after > before + 0.03


def test_a_picture_that_ends_at_the_chin_says_nothing(head) -> None:
    params, view = placed(head), camera()
    row = rows_of(head, params, view).start
    whole = silhouette(head, params, view)
    offsets = fitted(head, params, Camera(view.viewmat, view.K, SIDE, row), whole[:row]).static_offset
    assert float(offsets.norm(dim=1).max()) < 0.004


def test_wide_clothes_reach_the_border(head) -> None:
    params, view = placed(head), camera(focal=760.0)
    matte = silhouette(head, params, view)
    rows = rows_of(head, params, view)
    row = (rows.start + rows.stop) // 2
    matte[row:] = True
    reached = silhouette(head, fitted(head, params, view, matte), view)[row + 25 : rows.stop]
    assert reached[:, [8, -9]].mean() > 0.9 > silhouette(head, params, view)[row + 25 : rows.stop, [8, -9]].mean()


def test_a_hand_beside_the_neck_is_no_neck(head) -> None:
    params, view = placed(head), camera()
    matte = silhouette(head, params, view)
    row = rows_of(head, params, view).start
    with_hand = matte.copy()
    right = int(np.flatnonzero(matte[row]).max())
    with_hand[row - 25 : row + 15, right - 2 : right + 40] = True
    found = silhouette(head, fitted(head, params, view, with_hand), view)
    assert (found & ~matte).sum() < 0.3 * (with_hand & ~matte).sum()


def test_what_hair_carries_stays(head) -> None:
    params, view = placed(head), camera()
    matte = cv2.dilate(silhouette(head, params, view).astype(np.uint8), np.ones((15, 15), np.uint8))
    hair = torch.zeros_like(head.template)
    owned = head.regions["neck"] & (head.template[:, 1] > -0.13) & (head.template[:, 0] > 0.02)
    hair[owned, 0] = 0.008
    found = fitted(head, params.replace(static_offset=hair), view, matte).static_offset
    assert float((found - hair)[owned].norm(dim=1).max()) < 0.004
    assert float((found - hair)[~owned].norm(dim=1).max()) > 0.008


def test_a_rolled_picture_gives_the_same_bust(head) -> None:
    params, view = placed(head), camera()
    truth = params.replace(static_offset=built(head, 0.2, 0.01))
    upright = fitted(head, params, view, silhouette(head, truth, view)).static_offset
    quarter = torch.eye(4)
    quarter[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    rolled = Camera(quarter @ view.viewmat, view.K, SIDE, SIDE)
    sideways = fitted(head, params, rolled, silhouette(head, truth, rolled)).static_offset
    assert float((upright - sideways).norm(dim=1).max()) < 0.006


def test_a_head_without_a_neck_is_left_alone() -> None:
    head = ellipsoid_head()
    params = head.zeros().replace(translation=torch.tensor([[0.0, -0.02, -0.8]]))
    offsets = fit_offsets(np.ones((SIDE, SIDE), np.float32), params, camera(500.0), head).static_offset
    neck = head.regions["neck"]
    assert offsets is not None and (not neck.any() or bool(torch.isfinite(offsets).all()))
