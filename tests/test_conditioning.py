"""The crop rule, the baked texture, and the conditioner."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch
from heads import ellipsoid_head
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_conditions import plain_carry, plain_visibility

from geodiff.conditioning import CHIN_TO_CROWN, Conditioner, crop_reference, framed_camera, head_frame, resample
from geodiff.conditioning.pixels import carry
from geodiff.conditioning.reference import Reference, foreground_colors, with_size
from geodiff.conditioning.surface import Visibility
from geodiff.geometry import axis_angle_to_matrix, project, vertex_normals
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.types import Camera, HeadParams

SIZE = 96


def painted(head: HeadModel) -> np.ndarray:
    """Smooth vertex colours (V, 3), the same on both sides, and a dark scalp."""
    v = head.template.numpy()
    colors = 0.55 + 0.25 * np.stack([np.sin(40 * v[:, 1]), np.cos(60 * v[:, 0]), np.sin(30 * v[:, 2])], 1)
    colors[head.regions["scalp"].numpy()] = 0.15
    return colors.astype(np.float32)


def photograph(head: HeadModel, params: HeadParams, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) uint8 of the painted head before green, and its matte."""
    fine = camera.resized(camera.width * 2, camera.height * 2)
    seen = mesh.rasterize(head.vertices(params)[0], head.faces, fine)
    image = mesh.interpolate(seen, head.faces, painted(head))
    image[~seen.mask] = [0.0, 1.0, 0.0]
    size = (camera.width, camera.height)
    matte = cv2.resize(seen.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return (cv2.resize(image, size, interpolation=cv2.INTER_AREA) * 255).round().astype(np.uint8), matte


def tracked(roll: float = 0.0, yaw: float = 0.0, width: int = 320, height: int = 240) -> tuple[HeadParams, Camera]:
    """A head before a camera at the origin that looks along -z, as the tracker returns it."""
    head = ellipsoid_head()
    K = torch.tensor([[500.0, 0, width / 2], [0, 500.0, height / 2], [0, 0, 1]])
    params = head.zeros().replace(
        rotation=torch.tensor([[0.0, yaw, roll]]), translation=torch.tensor([[0.05, 0.02, -0.8]])
    )
    return params, Camera(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])), K, width, height)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return ellipsoid_head()


@pytest.fixture(scope="module")
def reference(head: HeadModel) -> Reference:
    params, camera = tracked(roll=0.3, yaw=0.2)
    image, matte = photograph(head, params, camera)
    return crop_reference(image, matte, params, camera, head, SIZE)


def projected_height(head: HeadModel, params: HeadParams, camera: Camera) -> float:
    frame = head_frame(head, params)
    axis = torch.linalg.inv(camera.viewmat)[:3, 1] * -1
    ends = torch.stack([frame.center - axis * frame.height / 2, frame.center + axis * frame.height / 2])
    pixels, _ = project(ends, camera)
    return float((pixels[0] - pixels[1]).norm())


@settings(max_examples=20, deadline=None)
@given(
    yaw=st.floats(-1.5, 1.5), elevation=st.floats(-0.5, 0.6), distance=st.floats(0.4, 3.0), size=st.integers(16, 512)
)
def test_framed_camera_follows_the_crop_rule(yaw: float, elevation: float, distance: float, size: int) -> None:
    head = ellipsoid_head(8, 12)
    frame = head_frame(head, head.zeros())
    camera = framed_camera(frame, yaw, elevation, distance, size)
    pixel, depth = project(frame.center, camera)
    assert torch.allclose(pixel, torch.full((2,), size / 2), atol=1e-2 * size)
    assert float(depth) == pytest.approx(distance, rel=1e-4)
    assert projected_height(head, head.zeros(), camera) == pytest.approx(CHIN_TO_CROWN * size, rel=1e-3)
    assert frame.distance(camera) == pytest.approx(distance, rel=1e-4)


def test_frame_ignores_pose_and_expression_and_follows_the_shape(head: HeadModel) -> None:
    neutral = head_frame(head, head.zeros())
    moved = head.zeros().replace(expr=torch.ones(1, 4), rotation=torch.ones(1, 3), translation=torch.ones(1, 3))
    assert head_frame(head, moved).height == neutral.height
    taller = head_frame(head, head.zeros().replace(shape=torch.tensor([0.0, 2.0, 0.0])))
    assert taller.height > neutral.height * 1.05


@settings(max_examples=6, deadline=None)
@given(roll=st.floats(-1.2, 1.2), yaw=st.floats(-0.6, 0.6))
def test_crop_is_upright_centred_and_sized(roll: float, yaw: float) -> None:
    head = ellipsoid_head()
    params, camera = tracked(roll, yaw)
    matte = np.ones((camera.height, camera.width), np.float32)
    result = crop_reference(np.full((camera.height, camera.width, 3), 90, np.uint8), matte, params, camera, head, SIZE)
    frame = head_frame(head, result.params)
    pixel, _ = project(frame.center, result.camera)
    assert torch.allclose(pixel, torch.full((2,), SIZE / 2), atol=0.01 * SIZE)
    up = result.camera.viewmat[:3, 1]
    assert abs(float(up[0])) < 1e-4 and float(up[1]) < 0
    assert projected_height(head, result.params, result.camera) == pytest.approx(CHIN_TO_CROWN * SIZE, rel=0.02)
    assert float(result.params.rotation.abs().max()) == 0.0 and float(result.params.translation.abs().max()) == 0.0


def test_crop_shows_the_pixels_that_its_camera_says(head: HeadModel, reference: Reference) -> None:
    """Rendering the painted head in the crop's camera gives the crop: image and camera were changed alike."""
    image, mask = photograph(head, reference.params, reference.camera)
    inside = cv2.erode(np.minimum(mask, reference.mask), np.ones((5, 5), np.uint8)) > 0.99
    assert inside.mean() > 0.2
    assert np.abs(image[inside] / 255.0 - reference.image[inside]).mean() < 0.02
    assert np.abs(mask - reference.mask).mean() < 0.02


def test_crop_is_white_outside_and_cuts_what_is_no_head(head: HeadModel) -> None:
    params, camera = tracked()
    image, _ = photograph(head, params, camera)
    everything = np.ones((camera.height, camera.width), np.float32)
    result = crop_reference(image, everything, params, camera, head, SIZE)
    assert result.mask[0, 0] == 0.0 and np.allclose(result.image[0, 0], 1.0)
    assert result.mask[SIZE // 2, SIZE // 2] == 1.0
    assert np.abs(result.normals[0, 0]).max() == 0.0


def test_detail_keeps_the_photographs_resolution(head: HeadModel) -> None:
    params, camera = tracked(width=960, height=720)
    camera = Camera(camera.viewmat, torch.tensor([[1500.0, 0, 480], [0, 1500.0, 360], [0, 0, 1]]), 960, 720)
    image, matte = photograph(head, params, camera)
    small = crop_reference(image, matte, params, camera, head, SIZE)
    assert small.detail is not None and small.detail.shape == (2 * SIZE, 2 * SIZE, 3)
    larger = with_size(small, head, 2 * SIZE)
    assert larger.image.shape == (2 * SIZE, 2 * SIZE, 3) and larger.camera.width == 2 * SIZE
    assert np.allclose(larger.image, small.detail)


def test_resample_moves_and_scales() -> None:
    K = torch.tensor([[100.0, 0, 32], [0, 100.0, 32], [0, 0, 1]])
    source = Camera(torch.eye(4), K, 64, 64)
    image = np.zeros((64, 64), np.float32)
    image[32:, :] = 1.0
    half = resample(image, source, source.resized(32, 32))
    assert np.allclose(half, cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA), atol=1e-5)
    same = resample(image, source, source)
    assert np.array_equal(same, image)


def test_proposal_at_the_references_own_view_is_the_reference(head: HeadModel, reference: Reference) -> None:
    condition = Conditioner(head, reference, texture_size=256).render(reference.params, reference.camera)
    clear = condition.visibility > 0.95
    assert clear.mean() > 0.08
    assert np.abs(condition.proposal - reference.image)[clear].mean() < 0.01
    assert np.allclose(condition.proposal[0, 0], 1.0) and condition.visibility[0, 0] == 0.0


@pytest.mark.parametrize("yaw", [-75, 0, 75, 180])
def test_proposal_has_no_holes_and_is_near_the_truth(head: HeadModel, reference: Reference, yaw: int) -> None:
    frame = head_frame(head, reference.params)
    camera = framed_camera(frame, math.radians(yaw), 0.1, frame.distance(reference.camera), SIZE)
    condition = Conditioner(head, reference, texture_size=256).render(reference.params, camera)
    truth, mask = photograph(head, reference.params, camera)
    inside = cv2.erode(mask, np.ones((3, 3), np.uint8)) > 0.99
    assert np.abs(condition.silhouette - mask).mean() < 0.01
    assert np.abs(condition.proposal - truth / 255.0)[inside].mean() < 0.15
    greens = (condition.proposal[inside] - [0, 1, 0]).__abs__().sum(-1) < 0.3
    assert greens.mean() < 0.001, "the photograph's background bled into the proposal"
    assert np.isfinite(condition.proposal).all()


def test_hidden_side_comes_from_the_mirrored_side(head: HeadModel) -> None:
    params, camera = tracked(yaw=0.7)
    image, matte = photograph(head, params, camera)
    reference = crop_reference(image, matte, params, camera, head, SIZE)
    conditioner = Conditioner(head, reference, texture_size=256)
    frame = head_frame(head, reference.params)
    seen_from_there = framed_camera(frame, 0.7, 0.0, 0.8, SIZE)
    condition = conditioner.render(reference.params, seen_from_there)
    truth, _ = photograph(head, reference.params, seen_from_there)
    hidden = (condition.visibility < 0.1) & (condition.silhouette > 0.99) & (condition.normals[..., 2] > 0.6)
    assert hidden.mean() > 0.03
    # The paint changes along the surface, a part of which is taken for light.
    assert np.abs(condition.proposal - truth / 255.0)[hidden].mean() < 0.12


def test_expression_moves_the_proposal_and_not_the_pose_map(head: HeadModel, reference: Reference) -> None:
    conditioner = Conditioner(head, reference, texture_size=256)
    opened = reference.params.replace(expr=torch.tensor([[1.0, 0, 0, 0]]), jaw_pose=torch.tensor([[0.2, 0, 0]]))
    neutral = conditioner.render(reference.params, reference.camera)
    moved = conditioner.render(opened, reference.camera)
    assert np.array_equal(neutral.pose_map, moved.pose_map)
    assert np.allclose(neutral.pose_map, reference.pose_map)
    assert np.abs(neutral.normals - moved.normals).max() > 0.1
    # Teeth that the photograph does not show are brighter than the mouth's surroundings, not grey holes.
    assert np.abs(neutral.proposal - moved.proposal).max() > 0.05


def test_static_offsets_move_the_proposal_and_not_the_pose_map(head: HeadModel) -> None:
    params, camera = tracked()
    image, matte = photograph(head, params, camera)
    offset = torch.where(head.regions["scalp"][:, None], 0.15 * head.template, torch.zeros(()))
    plain = crop_reference(image, matte, params, camera, head, SIZE)
    hair = crop_reference(image, matte, params.replace(static_offset=offset), camera, head, SIZE)
    assert np.allclose(plain.camera.K, hair.camera.K)
    bare = Conditioner(head, plain, texture_size=128).render(plain.params, plain.camera)
    full = Conditioner(head, hair, texture_size=128).render(hair.params, hair.camera)
    assert np.array_equal(bare.pose_map, full.pose_map)
    assert full.silhouette.sum() > 1.03 * bare.silhouette.sum()


def test_head_pose_moves_everything(head: HeadModel, reference: Reference) -> None:
    conditioner = Conditioner(head, reference, texture_size=128)
    turned = reference.params.replace(rotation=torch.tensor([[0.0, 0.5, 0.0]]))
    still, moved = (conditioner.render(params, reference.camera) for params in (reference.params, turned))
    assert np.abs(still.pose_map - moved.pose_map).max() > 0.2
    vertices = head.vertices(turned)[0]
    expected = axis_angle_to_matrix(turned.rotation)[0] @ (head.template - head.joints(turned)[0]).T
    assert torch.allclose(vertices, expected.T + head.joints(turned)[0], atol=1e-5)


def test_texture_is_complete(head: HeadModel, reference: Reference) -> None:
    conditioner = Conditioner(head, reference, texture_size=128)
    assert conditioner.texture.shape == (128, 128, 3) and conditioner.texture.dtype == np.float32
    assert conditioner.texture.min() >= 0.0 and conditioner.texture.max() <= 1.0
    assert conditioner.texture_visibility.shape == (128, 128)
    assert conditioner.texture_visibility.max() > 0.9


def test_the_texture_is_as_fine_as_the_reference(head: HeadModel, reference: Reference) -> None:
    assert Conditioner(head, reference).texture_size == 2 * SIZE
    assert Conditioner(head, reference, texture_size=64).texture_size == 64
    large = dataclasses.replace(reference, image=np.ones((768, 768, 3), np.float32))
    assert Conditioner(head, large).texture_size == 1024


def haired(head: HeadModel) -> np.ndarray:
    """Vertex colours (V, 3): fair skin, and a dark brown scalp."""
    colors = np.tile(np.array([[0.85, 0.68, 0.58]], np.float32), (head.num_vertices, 1))
    colors[head.regions["scalp"].numpy()] = [0.22, 0.13, 0.08]
    return colors


def portrait_of(head: HeadModel, params: HeadParams, camera: Camera, colors: np.ndarray) -> tuple[np.ndarray, ...]:
    """Image (H, W, 3) uint8 before green, with stripes of hair, and the matte."""
    seen = mesh.rasterize(head.vertices(params)[0], head.faces, camera)
    image = mesh.interpolate(seen, head.faces, colors)
    stripes = 1 + 0.35 * np.sin(np.arange(camera.width) * 1.3)[None, :, None]
    dark = image.max(-1, keepdims=True) < 0.4
    image = np.where(dark, image * stripes, image)
    image[~seen.mask] = [0.0, 1.0, 0.0]
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), seen.mask.astype(np.float32)


@pytest.fixture(scope="module")
def brunette() -> tuple[HeadModel, Reference, np.ndarray]:
    """The builtin head with dark hair, photographed from the front: its reference and the back of its proposal."""
    head = load_head("builtin")
    _, camera = tracked(width=360, height=360)
    params = head.zeros().replace(translation=torch.tensor([[0.0, 0.0, -0.8]]))
    image, matte = portrait_of(head, params, camera, haired(head))
    reference = crop_reference(image, matte, params, camera, head, 128)
    frame = head_frame(head, reference.params)
    behind = framed_camera(frame, math.pi, 0.0, 0.8, 128)
    return head, reference, Conditioner(head, reference).render(reference.params, behind).proposal


def test_the_back_of_the_head_has_the_portraits_hair(brunette) -> None:
    head, reference, back = brunette
    frame = head_frame(head, reference.params)
    fragments = mesh.rasterize(
        head.vertices(reference.params)[0], head.faces, framed_camera(frame, math.pi, 0, 0.8, 128)
    )
    scalp = head.regions["scalp"].numpy()[head.faces.numpy()[np.maximum(fragments.face, 0)]].all(-1) & fragments.mask
    scalp = cv2.erode(scalp.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert scalp.mean() > 0.1
    colors = back[scalp]
    # The palette of the seen hair: no skin, no background, no white.
    assert np.abs(np.median(colors, 0) - [0.22, 0.13, 0.08]).max() < 0.06
    assert (colors.max(-1) > 0.5).mean() < 0.01
    # It is not a smooth blur: its contrast is of the order of the seen hair's.
    grey = back.mean(-1)
    detail = (grey - cv2.GaussianBlur(grey, (0, 0), 3))[scalp]
    assert detail.std() > 0.006


def test_who_has_no_hair_gets_none_behind(brunette) -> None:
    head, reference, _ = brunette
    _, camera = tracked(width=360, height=360)
    params = head.zeros().replace(translation=torch.tensor([[0.0, 0.0, -0.8]]))
    skin = np.tile(np.array([[0.85, 0.68, 0.58]], np.float32), (head.num_vertices, 1))
    image, matte = portrait_of(head, params, camera, skin)
    bald = crop_reference(image, matte, params, camera, head, 128)
    frame = head_frame(head, bald.params)
    back = Conditioner(head, bald).render(bald.params, framed_camera(frame, math.pi, 0.0, 0.8, 128))
    inside = back.silhouette[:100] > 0.99
    away = np.abs(back.proposal[:100][inside] - skin[0])
    # Hollows of ears and below the skull are darker, as they would be in any light; hair would be by 0.34.
    assert away.max() < 0.2 and np.median(away) < 0.02


def test_colours_are_continued_beyond_the_matte(brunette) -> None:
    """Where background shines through the matte's edge, the person's own colours stand in for it."""
    _, reference, _ = brunette
    colors = foreground_colors(reference)
    photo = reference.image if reference.detail is None else reference.detail
    matte = reference.mask if reference.detail_mask is None else reference.detail_mask
    inner = cv2.erode((matte > 0.98).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert np.abs(colors - photo)[inner].max() < 0.02
    edge = (matte > 0.02) & (matte < 0.98)
    assert edge.any() and (colors[edge].min(-1) > 0.9).mean() == 0, "white of the background at the outline"
    assert (np.abs(colors[edge] - [0, 1, 0]).sum(-1) < 0.5).mean() < 0.01


def test_what_lies_outside_the_picture_is_not_seen(head: HeadModel) -> None:
    """Points below the crop are filled: its last row is not drawn out over them."""
    params, camera = tracked()
    image, matte = photograph(head, params, camera)
    whole = crop_reference(image, matte, params, camera, head, SIZE)
    K = whole.camera.K.clone()
    K[1, 2] += 0.3 * SIZE
    moved = dataclasses.replace(whole.camera, K=K)
    low = crop_reference(image, matte, params, camera, head, SIZE)
    shift = np.float32([[1, 0, 0], [0, 1, 0.3 * SIZE]])
    warp = lambda a, v: cv2.warpAffine(a, shift, (SIZE, SIZE), borderValue=v)  # noqa: E731
    low = dataclasses.replace(
        low, image=warp(low.image, (1, 1, 1)), mask=warp(low.mask, 0), camera=moved, detail=None, detail_mask=None
    )
    vertices = head.vertices(low.params)[0]
    pixels, _ = project(vertices, moved)
    outside = (pixels[:, 1] > SIZE).numpy()
    assert outside.any()
    seen = Visibility(head, low, vertices)(vertices.numpy(), vertex_normals(vertices, head.faces).numpy())
    assert seen[outside].max() == 0 and seen.max() > 0.9


@pytest.mark.parametrize("yaw", [-70, 25])
def test_conditions_are_those_of_their_plain_twin(head: HeadModel, reference: Reference, yaw: int) -> None:
    conditioner = Conditioner(head, reference)
    camera = framed_camera(head_frame(head, reference.params), math.radians(yaw), 0.1, 1.0, 48)
    vertices = head.vertices(reference.params)[0]
    normals = mesh.vertex_normals(vertices, head.faces, mesh.map_axes(camera))
    carried = conditioner._carried
    carried = carried._replace(table=np.concatenate([carried.table[:, :3], normals], 1))
    for found, plain in zip(
        carry(vertices, carried, camera, 2), plain_carry(vertices, carried, camera, 2), strict=True
    ):
        np.testing.assert_allclose(found, plain, atol=2e-4)


def test_the_mouths_inside_is_shown_where_the_mouth_opens() -> None:
    builtin = load_head("builtin")
    params = builtin.zeros().replace(translation=torch.tensor([[0.0, 0.0, -0.8]]))
    K = torch.tensor([[400.0, 0, 64], [0, 400.0, 64], [0, 0, 1]])
    camera = Camera(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])), K, 128, 128)
    conditioner = Conditioner(
        builtin, crop_reference(*photograph(builtin, params, camera), params, camera, builtin, 64)
    )
    view = framed_camera(head_frame(builtin, conditioner.reference.params), 0.0, 0.0, 1.0, 96)
    jaw = builtin.expression_names.index("jawOpen")
    shut, opened = (
        conditioner.render(params.replace(expr=torch.eye(builtin.num_expr)[jaw : jaw + 1] * strength), view)
        for strength in (0.0, 0.8)
    )
    assert shut.mouth.sum() < 3 and 10 < opened.mouth.sum() < 0.05 * opened.silhouette.sum()
    rows, columns = np.nonzero(opened.mouth > 0.5)
    assert abs(columns.mean() - 47.5) < 4 and rows.mean() > 50


def test_visibility_is_that_of_its_plain_twin(head: HeadModel, reference: Reference) -> None:
    vertices = head.vertices(reference.params)[0]
    normals = vertex_normals(vertices, head.faces).numpy()
    seeing = Visibility(head, reference, vertices)
    found, plain = seeing(vertices.numpy(), normals), plain_visibility(seeing, vertices.numpy(), normals)
    assert 0.1 < found.mean() < 0.9
    assert np.abs(found - plain).mean() < 1e-3
    np.testing.assert_allclose(found, plain, atol=0.1)
