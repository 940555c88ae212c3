"""Hair offsets make the mesh's outline meet the matte, within bounds, on the scalp alone."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from heads import ellipsoid_head

from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.raster.mesh import rasterize
from geodiff.tracking.hair import HairConfig, fit_hair
from geodiff.tracking.hair_color import hair_likelihood
from geodiff.tracking.hair_ears import SeenEar, covered_ears
from geodiff.tracking.hair_outline import View
from geodiff.tracking.hair_surface import HairSurface
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
    assert float(offsets.norm(dim=1).max()) < 0.004


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
    free = torch.from_numpy(HairSurface(head, head.zeros()).free > 0)
    assert float(length[~free].max()) == 0
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


HAIR, SKIN, WALL, SHIRT = (60, 35, 20), (205, 160, 140), (90, 140, 190), (30, 120, 40)


@pytest.fixture(scope="module")
def portrait() -> tuple[HeadModel, HeadParams, Camera, np.ndarray, np.ndarray]:
    """The builtin head before a camera; its mask, and a picture of it: skin, dark scalp, a shirt, a wall."""
    head = load_head("builtin")
    camera = Camera(
        torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])),
        torch.tensor([[700.0, 0, 160], [0, 700.0, 160], [0, 0, 1]]),
        320,
        320,
    )
    params = head.zeros().replace(translation=torch.tensor([[0.0, 0.0, -0.9]]))
    seen = rasterize(head.vertices(params)[0], head.faces, camera)
    corners = head.faces.numpy()[np.maximum(seen.face, 0)]
    image = np.full((320, 320, 3), WALL, np.uint8)
    image[seen.mask] = SKIN
    image[seen.mask & head.regions["scalp"].numpy()[corners].any(-1)] = HAIR
    rows = np.arange(320)[:, None] * np.ones((1, 320))
    image[seen.mask & (rows > 290)] = SHIRT
    noise = np.random.default_rng(0).integers(-8, 8, image.shape)
    return head, params, camera, seen.mask, np.clip(image + noise, 0, 255).astype(np.uint8)


def with_hair(mask: np.ndarray, image: np.ndarray, shape: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, ...]:
    """The picture with hair painted over `shape` except over `keep`, and its matte."""
    painted = np.where((shape & ~keep)[..., None], np.array(HAIR, np.uint8), image)
    return (mask | shape).astype(np.float32), painted


def rest_normals(head: HeadModel, offsets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    normals = []
    for vertices in (head.template, head.template + offsets):
        a, b, c = (vertices[head.faces[:, i]] for i in range(3))
        normals.append(torch.linalg.cross(b - a, c - a))
    return normals[0], normals[1]


def bob(length: int) -> np.ndarray:
    """(320, 320) bool: hair that stands off the head and hangs down to a row."""
    shape = np.zeros((320, 320), np.uint8)
    cv2.ellipse(shape, (160, 130), (95, 92), 0, 0, 360, 1, -1)
    cv2.rectangle(shape, (68, 130), (252, length), 1, -1)
    return shape > 0


def face_window() -> np.ndarray:
    window = np.zeros((320, 320), np.uint8)
    cv2.ellipse(window, (160, 170), (44, 66), 0, 0, 360, 1, -1)
    cv2.rectangle(window, (135, 200), (185, 319), 1, -1)
    return window > 0


def test_hair_that_hangs_carries_ears_and_neck_along(portrait) -> None:
    head, params, camera, mask, image = portrait
    matte, painted = with_hair(mask, image, bob(225), face_window())
    offsets = fit_hair(matte, params, camera, head, image=painted)
    shown = rasterize(head.vertices(params.replace(static_offset=offsets))[0], head.faces, camera).mask[:220]
    truth = matte[:220] > 0.5
    before = (mask[:220] & truth).sum() / (mask[:220] | truth).sum()
    after = (shown & truth).sum() / (shown | truth).sum()
    assert after > 0.95 > before
    # No ear pokes through: what was the ear is as smooth as the surface around it.
    surface = HairSurface(head, params)
    ear = surface.ears[0]
    place = (head.template + offsets).numpy()
    neighbours = surface.graph[ear] @ place / surface.graph[ear].sum(1).A
    assert np.linalg.norm(place[ear] - neighbours, axis=1).max() < 0.004
    neck = head.regions["neck"].numpy() & (np.abs(head.template[:, 0].numpy()) > 0.045) & (surface.free > 0.8)
    assert np.linalg.norm(offsets.numpy()[neck], axis=1).mean() > 0.01
    # The back, which nobody sees, has hair of the same kind on both sides.
    length = offsets.norm(dim=1)
    back = head.regions["scalp"] & (head.template[:, 2] < -0.05)
    assert float(length[back].min()) > 0.004
    assert float((length - length[head.mirror])[back].abs().mean()) < 0.3 * float(length[back].mean())


@pytest.mark.parametrize("covered", [True, False])
def test_ears_that_show_no_skin_are_covered(portrait, covered: bool) -> None:
    """Also where the colours do not tell what covers them: dark hair over a dark coat."""
    head, params, camera, mask, image = portrait
    matte, painted = with_hair(mask, image, bob(225), face_window()) if covered else (mask.astype(np.float32), image)
    surface = HairSurface(head, params)
    view = View.around(head, params, camera, surface, matte, painted, 220)
    assert view.likelihood is not None
    unsure = replace(view, likelihood=0.3 * np.ones_like(view.likelihood))
    bald = head.vertices(params, offsets=False)[0].double().numpy()
    assert (unsure.believe(surface, bald).covered == float(covered)).all()


@pytest.mark.parametrize("side", [1, -1])
def test_hair_may_cover_one_ear_alone(portrait, side: int) -> None:
    head, params, camera, mask, image = portrait
    matte, painted = with_hair(mask, image, bob(225) & (side * (np.arange(320)[None] - 160) > -20), face_window())
    offsets = fit_hair(matte, params, camera, head, image=painted)
    surface = HairSurface(head, params)
    flat = surface.flattened[surface.ears[0] | surface.ears[1]]
    for ear, covered in zip(surface.ears, (side > 0, side < 0), strict=True):
        # A covered ear is smoothed away, one that is seen keeps its shape.
        bent = float(np.linalg.norm(offsets.numpy()[ear].std(0)))
        assert (bent > 0.3 * np.linalg.norm(flat.std(0))) if covered else (bent < 0.002)
    view = View.around(head, params, camera, surface, matte, painted, 220)
    belief = view.believe(surface, head.vertices(params, offsets=False)[0].double().numpy())
    hangs = [belief.hair[view.side == one][8:24].mean() for one in (side, -side)]
    assert hangs[0] > 0.9 and hangs[1] < 0.2


def test_an_ear_that_shows_skin_is_seen_whatever_the_hair_is_like() -> None:
    shadow = SeenEar(gap=0.004, colour=0.3, hair=0.9, skin=0.7)
    assert shadow.evidence() == 0 and not shadow.surely()
    hidden = SeenEar(gap=0.009, colour=0.9, hair=0.95, skin=0.0)
    assert hidden.evidence() == 1 and hidden.surely()
    assert covered_ears([shadow, hidden]).tolist() == [0, 1]
    close = SeenEar(gap=0.004, colour=0.9, hair=0.95, skin=0.0)
    assert not close.surely(), "nothing stands out: a shadow"
    assert SeenEar(gap=0.02, colour=0.1).evidence() == 0 and SeenEar(gap=0.02, colour=0.9).evidence() == 1
    # Of an ear that is not seen the other one tells; where neither is, none is covered.
    assert covered_ears([SeenEar(), hidden]).tolist() == [1, 1]
    assert covered_ears([SeenEar(), SeenEar()]).tolist() == [0, 0]
    # Brown hair beside brown skin: what stands out that far from an ear without skin is hair, and falls over both ears
    # but for one that lies free.
    buried, doubtful = SeenEar(gap=0.033, colour=0.5, hair=0.1, skin=0.05), SeenEar(0.015, 0.4, 0.7, 0.85)
    assert buried.buried() and not doubtful.buried() and not replace(buried, skin=0.5).buried()
    assert not replace(buried, gap=0.015).buried(), "ears stand out that far"
    assert covered_ears([buried, doubtful]).tolist() == [1, 1]
    assert covered_ears([buried, SeenEar()]).tolist() == [1, 1]
    assert covered_ears([buried, SeenEar(gap=0.003, colour=0.1, hair=0.2, skin=0.9)]).tolist() == [1, 0]
    assert covered_ears([buried, SeenEar(hair=0.05, skin=0.95)]).tolist() == [1, 0]
    # Deep shadow: no skin is seen, nor does anything stand out beyond the ear.
    assert covered_ears([SeenEar(gap=0.001, colour=0.2, hair=0.9, skin=0.0), shadow]).tolist() == [0, 0]


def test_no_triangle_of_the_skull_folds_over(portrait) -> None:
    head, params, camera, mask, image = portrait
    surface = HairSurface(head, params)
    # Ears that hair covers are smoothed away: their creases unfold.
    ears = torch.as_tensor(surface.feet[0] | surface.feet[1])[head.faces].any(1)
    for length in (150, 200, 240):
        matte, painted = with_hair(mask, image, bob(length), face_window())
        before, after = rest_normals(head, fit_hair(matte, params, camera, head, image=painted))
        flipped = ((before * after).sum(1) < 0) & ~ears
        assert float(flipped.float().mean()) < 0.0005


def test_ears_and_shoulders_are_no_hair(portrait) -> None:
    """Short hair: the ears keep their shape, and what stands beside the neck in another colour stays where it is."""
    head, params, camera, mask, image = portrait
    cap = np.zeros((320, 320), np.uint8)
    cv2.ellipse(cap, (160, 128), (72, 90), 0, 180, 360, 1, -1)
    matte, painted = with_hair(mask, image, cap > 0, face_window())
    collar = np.zeros((320, 320), bool)
    collar[215:300, 90:230] = True
    painted[collar & ~mask] = SHIRT
    matte[collar] = 1.0
    offsets = fit_hair(matte, params, camera, head, image=painted)
    length = offsets.norm(dim=1)
    assert float(length[head.regions["scalp"]].max()) > 0.008
    assert float(length[head.regions["neck"] & ~head.regions["scalp"]].mean()) < 0.003
    ear = torch.as_tensor(HairSurface(head, params).ears[0])
    moved = (head.template + offsets)[ear]
    shape = moved - moved.mean(0) - (head.template[ear] - head.template[ear].mean(0))
    assert float(shape.norm(dim=1).max()) < 0.006


def test_a_bald_portrait_stays_bald(portrait) -> None:
    head, params, camera, mask, image = portrait
    bare = np.where((image == image)[..., :1] & mask[..., None], np.array(SKIN, np.uint8), image)
    noise = np.random.default_rng(1).integers(-12, 12, image.shape)
    bare = np.clip(bare + noise, 0, 255).astype(np.uint8)
    offsets = fit_hair(mask.astype(np.float32), params, camera, head, image=bare)
    assert float(offsets.norm(dim=1).max()) < 0.004


def long_hair() -> np.ndarray:
    """(320, 320) bool: hair that widens from the crown down over the shoulders and out of the picture."""
    shape = np.zeros((320, 320), np.uint8)
    cv2.ellipse(shape, (160, 130), (90, 92), 0, 180, 360, 1, -1)
    cv2.fillPoly(shape, [np.array([[70, 130], [250, 130], [278, 319], [42, 319]])], 1)
    return shape > 0


def test_long_hair_hangs_over_the_shoulders(portrait) -> None:
    head, params, camera, mask, image = portrait
    matte, painted = with_hair(mask, image, long_hair(), face_window())
    offsets = fit_hair(matte, params, camera, head, image=painted)
    posed = head.vertices(params.replace(static_offset=offsets))[0]
    shown = rasterize(posed, head.faces, camera).mask
    below = slice(215, 300)
    truth = matte[below] > 0.5
    before = (mask[below] & truth).sum() / (mask[below] | truth).sum()
    after = (shown[below] & truth).sum() / (shown[below] | truth).sum()
    assert after > 0.93 > 0.88 > before
    # From the side the hair falls down the back instead of ending in the neck's hollow.
    x, y, z = (head.template + offsets).T
    nape = (y > -0.13) & (y < -0.06) & head.regions["neck"]
    assert float(z[nape].min()) < float(z[head.regions["scalp"]].min()) + 0.01
    # Throat and chest stay where they are.
    throat = head.regions["neck"] & (head.template[:, 2] > 0.02)
    assert float(offsets[throat].norm(dim=1).mean()) < 0.006
    before_normals, after_normals = rest_normals(head, offsets)
    surface = HairSurface(head, params)
    ears = torch.as_tensor(surface.feet[0] | surface.feet[1])[head.faces].any(1)
    assert not (((before_normals * after_normals).sum(1) < 0) & ~ears).any()


def test_fits_repeat_bit_by_bit(portrait) -> None:
    head, params, camera, mask, image = portrait
    matte, painted = with_hair(mask, image, long_hair(), face_window())
    first, second = (fit_hair(matte.copy(), params, camera, head, image=painted.copy()) for _ in range(2))
    assert torch.equal(first, second)


def test_strands_and_gaps_even_out(scene) -> None:
    """Hair that ends in strands is as large as the matte, not as its unbroken part."""
    head, params, camera, bald = scene
    near, far = (
        cv2.dilate(bald.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (n, n))) for n in (11, 23)
    )
    y, x = np.mgrid[:256, :256]
    strands = (np.degrees(np.arctan2(y - 128, x - 128)) % 6) < 3
    matte = np.where(near > 0, 1.0, np.where(strands, far, 0.0)).astype(np.float32)
    offsets = fit_hair(matte, params, camera, head)
    hairy = rasterize(head.vertices(params.replace(static_offset=offsets))[0], head.faces, camera).mask
    rim = (far > near)[:120]
    share = float((upper(hairy) & rim).sum() / (upper(matte > 0.5) & rim).sum())
    assert 0.75 < share < 1.25


def test_ears_are_what_stands_out_of_the_skull(portrait) -> None:
    head = portrait[0]
    surface, region = HairSurface(head, head.zeros()), head.regions["ears"].numpy()
    ears, place = surface.ears[0] | surface.ears[1], head.template.numpy()
    assert 0.3 * region.sum() < ears.sum() < 0.95 * region.sum()
    # The outermost points are ear, the skull above and behind is not, whatever the region's name.
    assert ears[region & (np.abs(place[:, 0]) > 0.085)].all()
    assert place[ears, 1].max() < place[region, 1].max() - 0.01
    assert (ears == ears[head.mirror.numpy()]).mean() > 0.99


@pytest.mark.parametrize(("hair", "skin"), [((26, 17, 12), (52, 38, 28)), ((60, 35, 20), (205, 160, 140))])
def test_hair_is_told_from_skin_of_any_colour(portrait, hair: tuple[int, ...], skin: tuple[int, ...]) -> None:
    head, params, camera, mask, image = portrait
    seen = rasterize(head.vertices(params)[0], head.faces, camera)
    scalp = head.regions["scalp"].numpy()[head.faces.numpy()[np.maximum(seen.face, 0)]].all(-1) & seen.mask
    painted = np.where(mask[..., None], np.array(skin, np.uint8), image)
    painted[scalp] = hair
    likely = hair_likelihood(painted, mask.astype(np.float32), seen, head, 150.0)
    face = head.regions["face"].numpy()[head.faces.numpy()[np.maximum(seen.face, 0)]].all(-1) & seen.mask & ~scalp
    assert likely[scalp].mean() > 0.8 > 0.2 > likely[face].mean()
