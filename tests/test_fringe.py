"""What a portrait shows beside the mesh, and what it does not show: the teeth."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_conditions import plain_carry
from test_conditioning import photograph

from geodiff.conditioning import Conditioner, crop_reference, framed_camera, head_frame
from geodiff.conditioning.fringe import Fringe
from geodiff.conditioning.lips import DARK, Lips
from geodiff.conditioning.personal import personal_head
from geodiff.conditioning.pixels import carry
from geodiff.conditioning.reference import Reference
from geodiff.conditioning.teeth import WIDTHS, Tints, seen_teeth, tooth_colors, tooth_coordinates
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.types import Camera, HeadParams

SIZE = 128
TUFT = np.array([220, 30, 30], np.uint8)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("builtin")


def before_camera(head: HeadModel, height: int = 200) -> tuple[HeadParams, Camera]:
    params = head.zeros().replace(translation=torch.tensor([[0.0, 0.0, -0.8]]))
    K = torch.tensor([[400.0, 0, 100], [0, 400.0, 100], [0, 0, 1]])
    return params, Camera(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])), K, 200, height)


@pytest.fixture(scope="module")
def tufted(head: HeadModel) -> Reference:
    """A portrait with a red tuft that stands out of the mesh at the top, a little to the side."""
    params, camera = before_camera(head)
    image, matte = photograph(head, params, camera)
    top = int(np.flatnonzero(matte[:, 112] > 0.5)[0])
    tuft = np.zeros(matte.shape, bool)
    tuft[top - 12 : top, 106:118] = True
    tuft &= matte < 0.5
    image[tuft], matte[tuft] = TUFT, 1.0
    return crop_reference(image, matte, params, camera, head, SIZE)


def test_a_tuft_beside_the_mesh_is_shown_where_the_portrait_had_it(head: HeadModel, tufted: Reference) -> None:
    condition = Conditioner(head, tufted).render(tufted.params, tufted.camera)
    red = tufted.image[..., 0] - tufted.image[..., 1] > 0.5
    assert red.sum() > 20
    assert condition.beside[red].mean() > 0.8
    assert np.abs(condition.proposal - tufted.image)[red].mean() < 0.1
    # It is all that stands beside the mesh, but for the outline's own half pixels.
    assert condition.beside[~cv2.dilate(red.astype(np.uint8), np.ones((5, 5))).astype(bool)].max() < 0.7


def test_it_turns_with_the_head_and_is_gone_from_the_side(head: HeadModel, tufted: Reference) -> None:
    conditioner, frame = Conditioner(head, tufted), head_frame(head, tufted.params)
    amounts, columns = [], []
    for yaw in (-25, 0, 25, 60, 90, 180):
        camera = framed_camera(frame, math.radians(yaw), 0.0, 1.0, SIZE)
        condition = conditioner.render(tufted.params, camera)
        red = np.clip(condition.proposal[..., 0] - condition.proposal[..., 1], 0, 1) * condition.beside
        amounts.append(red.sum())
        columns.append((red.sum(0) @ np.arange(SIZE)) / max(red.sum(), 1e-6))
    assert min(amounts[:3]) > 15
    assert columns[0] > columns[1] > columns[2], "a camera that goes to the head's left sees it move to the right"
    assert amounts[3] < 0.6 * amounts[1] and amounts[4] == amounts[5] == 0


def test_a_head_that_bends_takes_it_along(head: HeadModel, tufted: Reference) -> None:
    conditioner = Conditioner(head, tufted)
    bent = tufted.params.replace(neck_pose=torch.tensor([[0.0, 0.0, 0.35]]))
    places = []
    for params in (tufted.params, bent):
        condition = conditioner.render(params, tufted.camera)
        red = np.clip(condition.proposal[..., 0] - condition.proposal[..., 1], 0, 1) * condition.beside
        places.append(np.array([(red.sum(axis) @ np.arange(SIZE)) / red.sum() for axis in (0, 1)]))
    crown = head.vertices(tufted.params)[0, :, 1].argmax()
    moved = [
        mesh.visible(head.vertices(params)[0], head.faces, tufted.camera).screen[crown]
        for params in (tufted.params, bent)
    ]
    np.testing.assert_allclose(places[1] - places[0], moved[1] - moved[0], atol=4)


def test_without_anything_beside_the_mesh_there_is_no_sheet(head: HeadModel) -> None:
    params, camera = before_camera(head)
    vertices, faces = head.vertices(params)[0].numpy(), head.faces.numpy()
    inside = (mesh.rasterize(vertices, faces, camera).face >= 0).astype(np.float32)
    away = vertices + np.array([50.0, 0, 0], np.float32)
    for places, matte in ((vertices, np.zeros_like(inside)), (vertices, inside), (away, np.ones_like(inside))):
        fringe = Fringe.around(places, faces, camera, matte)
        assert len(fringe.faces) == 0 and fringe.vertices(places).shape == (0, 3)


@pytest.mark.parametrize(("yaw", "elevation"), [(0.0, 0.0), (0.4, -0.2)])
def test_the_sheet_does_not_tear_between_hair_and_shoulders(head: HeadModel, yaw: float, elevation: float) -> None:
    """Beside the neck its one half is as deep as the hair, its other half as deep as the shoulders."""
    params, camera = before_camera(head)
    camera = camera.resized(256, 256)
    vertices, faces = head.vertices(params)[0].numpy(), head.faces.numpy()
    covered = (mesh.rasterize(vertices, faces, camera).face >= 0).astype(np.uint8)
    bell = cv2.dilate(covered, np.ones((25, 25), np.uint8)).astype(np.float32)
    fringe = Fringe.around(vertices, faces, camera, bell)
    points = np.concatenate([vertices, fringe.vertices(vertices)]).astype(np.float32)
    view = framed_camera(head_frame(head, params), yaw, elevation, 1.0, 200)
    drawn = mesh.rasterize(points, np.concatenate([faces, fringe.faces + len(vertices)]), view).face >= 0
    closed = cv2.morphologyEx(drawn.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    assert closed.sum() - drawn.sum() < 0.01 * drawn.sum()


def test_the_sheet_is_drawn_as_by_its_plain_twin(head: HeadModel, tufted: Reference) -> None:
    conditioner = Conditioner(head, tufted)
    camera = framed_camera(head_frame(head, tufted.params), 0.2, 0.1, 1.0, 48)
    vertices = head.vertices(tufted.params)[0]
    normals = mesh.vertex_normals(vertices, head.faces, mesh.map_axes(camera))
    carried = conditioner._carried
    carried = carried._replace(table=np.concatenate([carried.table[:, :3], normals], 1))
    beside = conditioner._beside(vertices.numpy(), normals, camera)
    assert beside is not None
    found, plain = carry(vertices, carried, camera, 2, beside), plain_carry(vertices, carried, camera, 2, beside)
    assert found[0][..., 8].sum() > 3
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=3e-4)


def test_teeth_are_counted_from_the_middle(head: HeadModel) -> None:
    table, place = tooth_coordinates(head), head.template.numpy()
    teeth = head.regions["teeth"].numpy()
    assert not table[~teeth].any()
    number, height, lower, behind, inner = table[teeth].T
    aside = np.abs(place[teeth, 0]) > 0.001
    np.testing.assert_array_equal(np.sign(number)[aside], np.sign(place[teeth, 0])[aside])
    for row in (0, 1):
        rows = teeth & (table[:, 2] == row)
        front = rows & (np.abs(place[:, 0]) < 0.9 * WIDTHS[row, 0])
        assert np.abs(table[front, 0]).max() < 1.3 and 5 < np.abs(table[rows, 0]).max() <= 7
        mirrored = table[head.mirror.numpy()[rows], 0]
        np.testing.assert_allclose(mirrored, -table[rows, 0], atol=0.15)
    assert place[teeth][lower == 1, 1].mean() < place[teeth][lower == 0, 1].mean()
    assert height.min() >= 0 and behind.min() == 0 and 0 < (inner < 0.003).mean() < 0.8


@pytest.mark.parametrize("tone", [(0.8, 0.62, 0.52), (0.3, 0.2, 0.15)])
def test_teeth_are_brighter_than_gums_and_parted_by_lines(tone: tuple[float, ...]) -> None:
    skin = np.array(tone, np.float32)
    middle, contact, gum, back = tooth_colors(
        np.array(
            [[0.5, 0.004, 0, 0, 0], [1.0, 0.004, 0, 0, 0], [0.5, 0.014, 0, 0, 0], [0.5, 0.004, 0, 0.03, 0]], np.float32
        ),
        Tints.of(skin),
    )
    assert middle.mean() > skin.mean() and middle.mean() > 1.15 * contact.mean() and middle.mean() > back.mean()
    assert gum[0] - gum[1] > 2 * (middle[0] - middle[1])


def test_teeth_that_are_seen_tell_the_colour_of_the_others() -> None:
    rng, yellow = np.random.default_rng(0), np.array([0.8, 0.7, 0.4])
    seen = np.concatenate([yellow + 0.02 * rng.standard_normal((60, 3)), np.full((30, 3), [0.5, 0.2, 0.2])])
    tints = Tints.of(np.array([0.8, 0.6, 0.5]), seen)
    np.testing.assert_allclose(tints.enamel, yellow, atol=0.02)
    front = tooth_colors(np.array([[0.5, 0.004, 1, 0, 0]]), tints)[0]
    np.testing.assert_allclose(front, yellow, atol=0.03)


def opened(head: HeadModel, amount: float) -> HeadParams:
    """The head at rest with its lips apart and its teeth bared."""
    drawn = ("mouthSmileLeft", "mouthSmileRight", "mouthUpperUpLeft", "mouthUpperUpRight", "mouthLowerDownLeft",
             "mouthLowerDownRight")  # fmt: skip
    return head.zeros().replace(expr=torch.tensor([[amount * (name in drawn) for name in head.expression_names]]))


@pytest.mark.parametrize(("colors", "shown"), [("teeth", True), ("lips", False)])
def test_teeth_are_seen_where_they_differ_from_lips(head: HeadModel, colors: str, shown: bool) -> None:
    """The mesh's lips may part where the portrait's do not: then lips are seen in the place of teeth."""
    params, camera = before_camera(head)
    params = params.replace(expr=opened(head, 0.8).expr)
    image, matte = photograph(head, params, camera)
    seen = mesh.rasterize(head.vertices(params)[0], head.faces, camera)
    corners = head.faces.numpy()[np.maximum(seen.face, 0)]
    for name, color in (("lips", (170, 70, 70)), ("teeth", (170, 70, 70) if colors == "lips" else (215, 205, 180))):
        image[seen.mask & head.regions[name].numpy()[corners].any(-1)] = color
    reference = crop_reference(image, matte, params, camera, head, SIZE)
    front = mesh.rasterize(head.vertices(reference.params)[0], head.faces, reference.camera)
    found = seen_teeth(head, reference, front)
    assert (found is not None) == shown
    if found is not None:
        np.testing.assert_allclose(np.median(found, 0), np.array([215, 205, 180]) / 255, atol=0.08)


def test_a_slit_between_lips_is_dark(head: HeadModel) -> None:
    lips = Lips.of(head)
    assert lips is not None
    lights = [lips.light(head.vertices(opened(head, amount))[0].numpy()) for amount in (0.0, 0.1, 0.2, 0.4, 0.8)]
    assert lights == sorted(lights) and lights[0] == DARK and lights[-1] == 1.0 and DARK < lights[1] < 0.8
    params, camera = before_camera(head)
    conditioner = Conditioner(head, crop_reference(*photograph(head, params, camera), params, camera, head, SIZE))
    view = framed_camera(head_frame(head, conditioner.reference.params), 0.0, 0.0, 1.0, 256)
    shown = [conditioner.render(opened(head, amount), view) for amount in (0.1, 0.8)]
    bright = [one.proposal[one.mouth > 0.9].max(1) for one in shown]
    assert len(bright[0]) > 5 and np.median(bright[0]) < 0.6 * np.quantile(bright[1], 0.75)


@given(st.integers(0, 1000))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_everybodys_lips_touch_at_rest(seed: int) -> None:
    """Lips are thick or thin: their inner borders lie apart by the person's own distance when they touch."""
    head = load_head("builtin")
    shape = torch.randn(head.num_shape, generator=torch.Generator().manual_seed(seed))
    params = head.zeros().replace(shape=shape)
    lips = Lips.of(personal_head(head, params))
    assert lips is not None
    assert lips.light(head.vertices(params)[0].numpy()) == DARK
    wide = opened(head, 1.0).replace(shape=shape)
    assert lips.light(head.vertices(wide)[0].numpy()) > 0.9


def test_a_shut_mouth_does_not_colour_the_teeth(head: HeadModel) -> None:
    """Lips that lie a little otherwise than the mesh's are not painted on what is behind them."""
    params, camera = before_camera(head)
    image, matte = photograph(head, params, camera)
    seen = mesh.rasterize(head.vertices(params)[0], head.faces, camera)
    lips = seen.mask & head.regions["lips"].numpy()[head.faces.numpy()[seen.face]].any(-1)
    image[lips] = [150, 0, 0]
    conditioner = Conditioner(head, crop_reference(image, matte, params, camera, head, SIZE))
    view = framed_camera(head_frame(head, conditioner.reference.params), 0.0, 0.0, 1.0, 192)
    condition = conditioner.render(opened(head, 0.8), view)
    inside = condition.mouth > 0.9
    bright = condition.proposal[inside].min(1) > 0.4
    assert inside.sum() > 50 and bright.mean() > 0.6
    assert condition.visibility[inside].max() == 0
