"""Photographs that end too soon: below the crown, at the collar, beside hair and shoulders."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from test_conditioning import photograph
from test_fringe import SIZE, before_camera

from geodiff.conditioning import Conditioner, crop_reference, framed_camera, head_frame
from geodiff.conditioning.border import cloth, folded
from geodiff.conditioning.hair import grown_pixels, hair_pixels
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.tracking.groups import BROWS
from geodiff.tracking.hair import fit_hair
from geodiff.types import Camera
from pipelines.generate import MUCH_CUT, cut_share

SKIN, HAIR, SHIRT, WALL = (0.82, 0.65, 0.55), (0.12, 0.08, 0.06), (0.2, 0.3, 0.7), (0.3, 0.8, 0.4)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("builtin")


def shirted(head: HeadModel, collar: float = -0.115) -> tuple[np.ndarray, np.ndarray]:
    """A portrait (200, 200, 3) 0..1 of somebody with dark hair in a shirt from a height at rest on, and its matte."""
    params, camera = before_camera(head)
    seen = mesh.rasterize(head.vertices(params)[0], head.faces, camera)
    corners = head.faces.numpy()[np.maximum(seen.face, 0)]
    height = mesh.interpolate(seen, head.faces, head.template.numpy())[..., 1]
    image = np.where(height[..., None] < collar, SHIRT, SKIN)
    image[head.regions["scalp"].numpy()[corners].any(-1)] = HAIR
    image[~seen.mask] = WALL
    noise = np.random.default_rng(0).normal(0, 0.02, (*image.shape[:2], 1))
    return np.clip(image + noise, 0, 1), seen.mask.astype(np.float32)


def upper(camera: Camera, rows: int) -> Camera:
    return Camera(camera.viewmat, camera.K, camera.width, rows)


def test_what_lies_along_the_lower_border_goes_on_below_it(head: HeadModel) -> None:
    params, camera = before_camera(head)
    image, matte = photograph(head, params, camera)
    stripes = (np.arange(200) // 3 % 2 * 120 + 60).astype(np.uint8)[:, None, None]
    seen = mesh.rasterize(head.vertices(params)[0], head.faces, camera)
    shown = seen.mask & head.regions["neck"].numpy()[head.faces.numpy()[seen.face]].all(-1)
    image[shown] = np.broadcast_to(stripes, image.shape)[shown]
    whole = crop_reference(image, matte, params, camera, head, SIZE)
    assert whole.beyond is None or whole.beyond[..., 3].max() == 0
    border = int(np.flatnonzero(shown.any(1))[0]) + 30
    cut = crop_reference(image[:border], matte[:border], params, upper(camera, border), head, SIZE)
    assert cut.beyond is not None
    known = cv2.resize(cut.beyond[..., 3], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    # Surely close to the border, less and less farther away, and never above the chin.
    first = int(np.flatnonzero((known > 0.9).any(1))[0])
    assert (known > 0.9).sum() > 60 and cut.mask[known > 0.9].mean() < 0.1 and first > 0.6 * SIZE
    assert known[-1].max() < 0.8 < known.max()
    # Seen from where the photograph was taken, what goes on below is striped too, and what is above has not changed.
    proposals = [Conditioner(head, one).render(one.params, one.camera).proposal for one in (whole, cut)]
    rows = np.flatnonzero(known[:, SIZE // 2] > 0.9)
    assert proposals[1][rows, SIZE // 2].std() > 0.5 * proposals[0][rows, SIZE // 2].std()
    np.testing.assert_allclose(proposals[1][: first - 6], proposals[0][: first - 6], atol=0.2)
    assert np.abs(proposals[1] - proposals[0])[: first - 6].mean() < 2e-3


def test_a_neck_is_not_shown_again_below_the_collar(head: HeadModel) -> None:
    """A tie's width of shirt is seen below the collar: below the photograph are shirt and no second neck."""
    params, camera = before_camera(head)
    image, matte = shirted(head)
    collar = int(np.flatnonzero((np.abs(image - SHIRT).max(-1) < 0.1).any(1))[0])
    border = collar + 14
    cut = crop_reference(image[:border], matte[:border], params, upper(camera, border), head, SIZE)
    proposal = Conditioner(head, cut).render(cut.params, cut.camera).proposal
    seen = mesh.rasterize(head.vertices(cut.params)[0], head.faces, cut.camera)
    height = mesh.interpolate(seen, head.faces, head.template.numpy())[..., 1]
    below = cv2.erode((seen.mask & (height < -0.15)).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert below.sum() > 250
    blue = proposal[below][:, 2] > proposal[below][:, 0] + 0.1
    assert blue.mean() > 0.93


def test_what_is_beyond_a_border_lies_in_a_band_inside() -> None:
    away = np.array([0.0, 2.0, 5.0, 8.0, 10.0, 13.0])
    np.testing.assert_allclose(folded(away, 5.0), [0.0, 2.0, 5.0, 2.0, 0.0, 3.0])


def test_skin_above_a_collar_is_no_cloth_unless_all_is_skin() -> None:
    rng = np.random.default_rng(0)
    skin = np.clip(np.array(SKIN) + rng.normal(0, 0.03, (200, 3)), 0, 1)
    shown = np.concatenate([np.tile([*SHIRT, 1.0], (50, 1)), np.tile([*SKIN, 1.0], (30, 1))])
    weight = cloth(shown, skin)
    assert weight[:50].min() > 0.9 and weight[50:].max() < 0.1
    bare = cloth(shown[50:], skin)
    assert bare.min() == 1


def test_a_close_face_fills_the_picture(head: HeadModel) -> None:
    """Most of neck and shoulders lie beyond the picture, in more points than OpenCV takes in one row."""
    params, camera = before_camera(head)
    image, matte = shirted(head)
    K = camera.K.clone()
    K[:2, 2] -= 55
    close = Camera(camera.viewmat, K, 90, 55)
    cut = crop_reference(image[55:110, 55:145], matte[55:110, 55:145], params, close, head, 700)
    assert cut.beyond is not None and cut.beyond.shape == (700, 700, 4) and np.isfinite(cut.beyond).all()


def test_what_the_border_cuts_fades_towards_it(head: HeadModel) -> None:
    params, camera = before_camera(head)
    image, matte = shirted(head)
    wide = np.maximum(matte, (np.abs(np.arange(200) - 100)[None] < 60) & (np.arange(200)[:, None] > 60)).astype(
        np.float32
    )
    K = camera.K.clone()
    K[0, 2] -= 45
    narrow = Camera(camera.viewmat, K, 110, 200)
    cut = crop_reference(image[:, 45:155], wide[:, 45:155], params, narrow, head, SIZE)
    assert cut.uncut is not None and cut.uncut.min() == 0 and cut.uncut.max() == 1
    beside = Conditioner(head, cut).render(cut.params, cut.camera).beside
    row = int(0.5 * SIZE)
    shown = np.flatnonzero(beside[row] > 0.05)
    assert len(shown) > 10
    # The outermost columns that are shown are faint: no straight edge.
    for side in (shown[0], shown[-1]):
        assert beside[row, side] < 0.4


def test_a_photograph_cut_below_the_crown_does_not_flatten_the_head(head: HeadModel) -> None:
    params, camera = before_camera(head)
    image, matte = shirted(head)
    coded = (image * 255).astype(np.uint8)
    first = int(np.flatnonzero(matte.any(1))[0]) + 18
    K = camera.K.clone()
    K[1, 2] -= first
    cut = Camera(camera.viewmat, K, 200, 200 - first)
    offsets = fit_hair(matte[first:], params, cut, head, image=coded[first:])
    top = head.regions["scalp"] & (head.template[:, 1] > head.template[:, 1].max() - 0.03)
    risen = (offsets * torch.nn.functional.normalize(head.template - torch.tensor([0.0, 0.05, 0.0]), dim=1)).sum(1)
    # As hair usually stands off, where nothing tells; never pulled down to the border.
    assert 0.006 < float(risen[top].mean()) < 0.025 and float(risen[top].min()) > 0.0


def test_how_much_of_the_scalp_a_photograph_cuts_off(head: HeadModel) -> None:
    params, camera = before_camera(head)
    first = int(np.flatnonzero(shirted(head)[1].any(1))[0])
    shares = []
    for rows in (0, first + 5, first + 25):
        K = camera.K.clone()
        K[1, 2] -= rows
        shares.append(cut_share(params, Camera(camera.viewmat, K, 200, 200 - rows), head))
    assert shares[0] == 0 < shares[1] < MUCH_CUT < shares[2]


def test_gleams_and_shadows_are_no_hair(head: HeadModel) -> None:
    """What reaches from above the ears to the outline is hair; a gleam on a forehead and a dark neck are not."""
    params, camera = before_camera(head)
    image, matte = shirted(head)
    first = int(np.flatnonzero(matte.any(1))[0])
    image[first + 22 : first + 27, 92:108] = (1.0, 0.98, 0.9)
    seen = mesh.rasterize(head.vertices(params)[0], head.faces, camera)
    height = mesh.interpolate(seen, head.faces, head.template.numpy())[..., 1]
    shadow = seen.mask & (height < -0.07) & (height > -0.11)
    shadow[:, :80] = shadow[:, 120:] = False
    image[shadow] = HAIR
    one = crop_reference(image, matte, params, camera, head, SIZE)
    front = mesh.rasterize(head.vertices(one.params)[0], head.faces, one.camera)
    likely = hair_pixels(head, one, front)
    grown = grown_pixels(head, one, front, likely)
    place = mesh.interpolate(front, head.faces, head.template.numpy())
    dark = (one.image.max(-1) < 0.3) & front.mask
    crown = dark & (place[..., 1] > 0.06)
    assert crown.sum() > 100 and (grown[crown] > 0.5).mean() > 0.8
    neck = (place[..., 1] < -0.06) & front.mask
    assert (likely[neck] > 0.5).sum() > 30 and (grown[neck] > 0.5).sum() == 0
    assert (grown[(one.image.min(-1) > 0.85) & front.mask] > 0.5).sum() == 0


def test_hair_that_nobody_sees_has_the_brows_colour(head: HeadModel) -> None:
    """A close face without any hair in the picture but its brows."""
    params, camera = before_camera(head)
    image, matte = shirted(head)
    image[np.abs(image - HAIR).max(-1) < 0.1] = SKIN
    assert head.landmarks is not None
    marks = head.landmark_points(params)[0][torch.isin(head.landmarks.indices, torch.tensor(BROWS))]
    local = marks @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    pixels = (local @ camera.K.T)[:, :2] / local[:, 2:]
    for x, y in pixels.round().int().tolist():
        cv2.circle(image, (x, y), 1, HAIR, -1)
    top = int(pixels[:, 1].min()) - 8
    K = camera.K.clone()
    K[1, 2] -= top
    close = Camera(camera.viewmat, K, 200, 140 - top)
    cut = crop_reference(image[top:140], matte[top:140], params, close, head, SIZE)
    view = framed_camera(head_frame(head, cut.params), math.pi, 0.0, 0.8, SIZE)
    proposal = Conditioner(head, cut).render(cut.params, view).proposal
    seen = mesh.rasterize(head.vertices(cut.params)[0], head.faces, view)
    scalp = seen.mask & head.regions["scalp"].numpy()[head.faces.numpy()[np.maximum(seen.face, 0)]].all(-1)
    back = cv2.erode(scalp.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert np.abs(np.median(proposal[back], 0) - HAIR).max() < 0.12
    # Strands, no flat cap.
    assert proposal[back].mean(1).std() > 0.01


def test_a_photograph_cut_at_the_chin_does_not_go_on_as_a_face(head: HeadModel) -> None:
    params, camera = before_camera(head)
    image, matte = photograph(head, params, camera)
    chin = Camera(camera.viewmat, camera.K, 200, 105)
    cut = crop_reference(image[:105], matte[:105], params, chin, head, SIZE)
    assert cut.beyond is not None and cut.beyond[..., 3].max() < 0.1
