"""Synthetic people: paint, hair, light, and frames with ground truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from heads import ellipsoid_head
from plain_render import plain_render, reaches
from plain_render import shade as plain_shade
from scipy.spatial import cKDTree

from geodiff.conditioning import framed_camera, head_frame
from geodiff.conditioning.noise import fractal_noise
from geodiff.geometry import normals_to_map_axes, vertex_normals
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.raster.shadow import ShadowMap
from geodiff.synth.appearance import grown, paint, random_appearance, wrinkles
from geodiff.synth.fields import template_fields
from geodiff.synth.hair import STYLES, beard_layer, hair_layers, outer_skin, random_style
from geodiff.synth.layers import Layer, Stack
from geodiff.synth.light import Light, Lighting, lamps, random_lighting
from geodiff.synth.motion import NAMES, random_expressions, random_sequence
from geodiff.synth.render import render
from geodiff.synth.subject import Subject
from geodiff.synth.wear import Wear, _trimmed, under_hat, wear_layers
from geodiff.types import Motion

SIZE = 64


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return ellipsoid_head()


def camera(head: HeadModel, yaw: float = 0.0, size: int = SIZE):
    return framed_camera(head_frame(head, head.zeros()), yaw, 0.0, 1.0, size)


def test_noise_is_smooth_bounded_and_repeatable() -> None:
    points = np.random.default_rng(0).uniform(-0.1, 0.1, (4000, 3))
    noise = fractal_noise(points, 0.02, 3, seed=5)
    assert np.array_equal(noise, fractal_noise(points, 0.02, 3, seed=5))
    assert not np.array_equal(noise, fractal_noise(points, 0.02, 3, seed=6))
    assert abs(noise.mean()) < 0.1 and 0.2 < noise.std() < 0.8 and np.abs(noise).max() < 1.75
    near = fractal_noise(points + 1e-5, 0.02, 3, seed=5)
    assert np.abs(near - noise).max() < 0.02


def test_people_differ_by_seed_and_repeat(head: HeadModel) -> None:
    frames = []
    for seed in (0, 0, 1):
        subject = Subject(head, seed, texture_size=96)
        frames.append(subject.render(subject.pose(subject.params), camera(head)).image)
    assert np.array_equal(frames[0], frames[1])
    assert np.abs(frames[0] - frames[2]).mean() > 0.01


@pytest.mark.parametrize("seed", range(4))
def test_frames_are_on_white_with_unit_normals_inside_the_mask(head: HeadModel, seed: int) -> None:
    subject = Subject(head, seed, texture_size=96)
    frame = subject.render(subject.pose(subject.params), camera(head, 0.5))
    assert frame.image.shape == (SIZE, SIZE, 3) and frame.image.dtype == np.float32
    assert np.allclose(frame.image[frame.mask == 0], 1.0)
    assert np.allclose(frame.normals[frame.mask == 0], 0.0)
    inside = frame.mask > 0.999
    assert inside.mean() > 0.15
    assert np.allclose(np.linalg.norm(frame.normals[inside], axis=-1), 1.0, atol=1e-3)
    assert frame.normals[inside][:, 2].mean() > 0.4, "normals must look at the camera"
    assert ((frame.mask > 0) & (frame.mask < 1)).any(), "silhouettes must be smooth"


def test_normals_of_a_bare_head_are_those_of_the_head(head: HeadModel) -> None:
    def bare(seed: int) -> bool:
        subject = Subject(head, seed, texture_size=32)
        return len(subject.layers) == 1

    seed = next(s for s in range(400) if bare(s))
    subject = Subject(head, seed, texture_size=32)
    vertices = head.vertices(subject.params)[0]
    frame = subject.render(subject.pose(subject.params), camera(head))
    difference = np.abs(frame.normals - mesh.render_normals(vertices, head.faces, camera(head), 2)).max(2)
    # At silhouettes a smooth normal may look away from the camera; frames turn it to the camera's side.
    assert (difference > 0.08).mean() < 1e-3 and difference.mean() < 2e-3


@pytest.mark.parametrize("kind", STYLES)
def test_hair_stands_off_the_skull_and_long_hair_hangs(head: HeadModel, kind: str) -> None:
    look = random_appearance(np.random.default_rng(0))
    style = random_style(np.random.default_rng(5), kind)
    shaped, everywhere = head.shaped(head.zeros())[0], np.ones(head.num_vertices, bool)
    layers = hair_layers(head, shaped, style, look, 32, everywhere)
    assert len(layers) == {"bald": 0, "buzz": 1, "bun": 3}.get(kind, 2)
    again = hair_layers(head, shaped, style, look, 32, everywhere)
    assert all(np.array_equal(a.vertices, b.vertices) for a, b in zip(layers, again, strict=True))
    if kind in ("bald", "buzz"):
        return
    locks = layers[1].vertices
    skin = outer_skin(head, shaped.numpy(), vertex_normals(shaped, head.faces).numpy())
    gap, _ = skin.near(locks)
    assert np.quantile(gap, 0.02) > -0.004, "no lock runs through the head"
    assert np.isfinite(locks).all() and np.abs(np.linalg.norm(layers[1].normals, axis=1) - 1).max() < 1e-4
    lowest = {"long": -0.10, "medium": -0.02}
    if kind in lowest:
        assert np.quantile(locks[:, 1], 0.05) < lowest[kind], "long hair falls below the chin"
    none = hair_layers(head, shaped, style, look, 32, ~everywhere)
    assert len(none) == 1, "no locks grow under a hat"


@pytest.fixture(scope="module")
def long_hair(head: HeadModel) -> Layer:
    style = random_style(np.random.default_rng(5), "long")
    look, free = random_appearance(np.random.default_rng(0)), np.ones(head.num_vertices, bool)
    return hair_layers(head, head.shaped(head.zeros())[0], style, look, 32, free)[1]


def test_long_hair_closes_over_what_is_behind_it(head: HeadModel, long_hair: Layer) -> None:
    seen = mesh.visible(long_hair.vertices, long_hair.faces, camera(head, np.pi)).face >= 0
    columns = np.flatnonzero(seen.sum(0) > SIZE / 4)
    middle = slice(columns[len(columns) // 5], columns[-len(columns) // 5])
    assert seen[SIZE // 3 : 3 * SIZE // 4, middle].mean() > 0.97, "no gaps between locks"


def test_normals_of_hair_are_those_of_its_locks(head: HeadModel, long_hair: Layer) -> None:
    shaped = head.shaped(head.zeros())[0]
    skin = outer_skin(head, shaped.numpy(), vertex_normals(shaped, head.faces).numpy())
    hull = skin.hull(long_hair.vertices.astype(np.float64))[1]
    turned = np.degrees(np.arccos(np.clip((hull * long_hair.normals).sum(1), -1, 1)))
    assert 4 < np.median(turned) < 25 and np.quantile(turned, 0.98) < 45
    # The two edges of a strand look to its sides, but hardly: they belong to one lock.
    edges = long_hair.normals.reshape(-1, 2, 3)
    assert np.median((edges[:, 0] * edges[:, 1]).sum(1)) > np.cos(np.radians(12))


def test_hair_grows_above_the_brows_and_recedes_at_the_temples() -> None:
    model = load_head("builtin")
    fields, place = template_fields(model), model.template.numpy()
    look = replace(random_appearance(np.random.default_rng(3)), hairline=0.47, recession=0.0)
    inside = grown(place, fields.hairline, fields.temple, look)
    crown = place[:, 1] > place[:, 1].max() - 0.01
    brows = np.linalg.norm(place[:, None] - fields.marks[[105, 334]], axis=2).min(1) < 0.015
    assert inside[crown].min() > 0.15 and inside[brows].max() < -0.15
    receding = grown(place, fields.hairline, fields.temple, replace(look, recession=0.3))
    assert np.allclose(receding[crown], inside[crown], atol=0.31) and (receding <= inside).all()
    corner = fields.temple > 0.9
    assert np.allclose(inside[corner] - receding[corner], 0.3, atol=0.04)


def test_borders_of_hats_run_where_they_should() -> None:
    x, y = np.meshgrid(np.arange(5.0), np.arange(5.0))
    points = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1)
    first = np.array([5 * row + column for row in range(4) for column in range(4)])
    faces = np.concatenate([np.stack([first, first + 1, first + 5], 1), np.stack([first + 1, first + 6, first + 5], 1)])
    inside = points[:, 1] - 1.3 + 0.1 * points[:, 0]
    trimmed, kept = _trimmed(points, faces, inside)
    used = np.unique(kept)
    border = used[inside[used] <= 0]
    assert np.abs(trimmed[border, 1] - 1.3 + 0.1 * trimmed[border, 0]).max() < 1e-9
    assert np.array_equal(trimmed[inside > 0], points[inside > 0])


def test_beards_go_with_the_jaw(head: HeadModel) -> None:
    shaven = replace(random_appearance(np.random.default_rng(0)), beard_length=0.0)
    shaped = head.shaped(head.zeros())[0]
    assert beard_layer(head, shaped, shaven) is None
    bearded = replace(shaven, beard=0.9, moustache=0.8, beard_length=0.02)
    layer = beard_layer(head, shaped, bearded)
    assert layer is not None and layer.anchor is not None
    move = np.zeros((head.num_vertices, 3), np.float32)
    move[:, 1] = -0.01
    assert np.allclose(layer.anchor.moved(layer.vertices, move) - layer.vertices, [0, -0.01, 0], atol=1e-6)


@pytest.mark.parametrize("glasses", ["glasses", "sunglasses"])
@pytest.mark.parametrize("hat", ["beanie", "cap"])
def test_what_is_worn_stays_outside_the_head(glasses: str, hat: str) -> None:
    head = load_head("builtin")
    look, shaped = random_appearance(np.random.default_rng(0)), head.shaped(head.zeros())[0]
    layers = wear_layers(head, shaped, Wear(glasses, hat, "crew", 3), look, 0.01)
    assert len(layers) == 3 + (hat == "cap") + (glasses == "sunglasses")
    for layer in layers:
        assert np.isfinite(layer.vertices).all() and layer.faces.max() < len(layer.vertices)
        assert layer.uvs.min() >= 0 and layer.uvs.max() <= 1
        assert layer.texture.min() > 0 and layer.texture.max() <= 1
    crown = layers[1].vertices
    assert crown[:, 1].max() > float(shaped[:, 1].max()) + 0.01
    inside = under_hat(head, Wear("none", hat, "none", 0))
    assert (inside > 0).any() and not (inside > 0)[head.regions["neck"].numpy()].any()
    assert (under_hat(head, Wear("none", "none", "none", 0)) < 0).all()


def test_layers_share_one_texture_without_bleeding(head: HeadModel) -> None:
    square = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    corners = np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]], np.float32)

    def layer(value: float, size: int) -> Layer:
        return Layer(square, np.array([[0, 1, 2]]), corners, np.full((size, size, 3), value, np.float32))

    stack = Stack.of(layer(0.2, 16), np.zeros((3, 2)), [layer(0.9, 8), layer(0.5, 32)])
    height, width = stack.texture.shape[:2]
    assert width == 16 and stack.faces.max() == 8 and stack.static.shape == (9, 3)
    for number, value in enumerate((0.2, 0.9, 0.5)):
        for u, v in stack.uvs[number]:
            texel = stack.texture[min(int(v * height), height - 1), min(int(u * width), width - 1)]
            assert texel[:3] == pytest.approx(value) and texel[3] == 0


def test_styles_and_looks_cover_their_kinds() -> None:
    rng = np.random.default_rng(0)
    assert {random_style(rng).kind for _ in range(200)} == set(STYLES)
    looks = [random_appearance(rng) for _ in range(300)]
    assert 0.04 < np.mean([look.wild for look in looks]) < 0.17
    assert 0.1 < np.mean([look.beard > 0 for look in looks]) < 0.5


def test_paint_puts_eyes_and_lips_where_they_are(head: HeadModel) -> None:
    look = random_appearance(np.random.default_rng(3))
    texture = paint(head, look, 128)
    assert texture.shape == (128, 128, 3) and texture.min() > 0 and texture.max() <= 1
    fields = template_fields(head)
    assert fields.eye_angle[head.regions["eyeballs"].numpy()].min() < 0.3
    assert fields.hairline[head.regions["face"].numpy()].mean() < fields.hairline[head.regions["scalp"].numpy()].mean()


def test_wrinkles_deepen_where_the_face_is_pressed_together() -> None:
    subject = Subject(load_head("builtin"), 3, texture_size=64)
    rest, head = subject.pose(subject.params), subject.head
    brow = head.motion_params(
        Motion({"browInnerUp": np.ones(1, np.float32)}, np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32)),
        subject.params,
    )
    pressed = subject.pose(brow).table[: head.num_vertices, 8] - rest.table[: head.num_vertices, 8]
    marks = head.landmarks.points(head.template, head.faces).numpy()
    place = head.template.numpy()
    forehead = np.linalg.norm(place - (marks[9] + [0, 0.025, 0]), axis=1) < 0.015
    chin = np.linalg.norm(place - marks[152], axis=1) < 0.015
    assert pressed[forehead].mean() > 0.02 and np.abs(pressed[chin]).max() < 1e-3
    depth = wrinkles(head, subject.look, 64)
    assert depth.shape == (64, 64) and depth.min() >= 0 and 0.2 < depth.max() <= 1


def test_painting_needs_landmarks() -> None:
    head = ellipsoid_head(8, 12)
    object.__setattr__(head, "landmarks", None)
    with pytest.raises(ValueError, match="needs all of MediaPipe"):
        template_fields(head)


def test_shadow_falls_behind_and_light_brightens(head: HeadModel) -> None:
    shadow = ShadowMap.make(head.template, head.faces, np.array([0.0, 0.0, 1.0], np.float32))
    ahead = Light(np.array([0, 0, 1], np.float32), np.full(3, 0.5, np.float32), radius=0.03)
    light = Lighting(np.eye(9, 3, dtype=np.float32)[:, :1].repeat(3, 1) * 0.3, (ahead,), 0.0, np.ones(3), 2.2)
    surface = np.zeros((2, 9), np.float32)
    surface[:, 5], surface[:, 6] = 1.0, 1.0
    surface[0, 2], surface[1, 2] = 0.3, -0.3
    paint = np.full((2, 4), 0.5, np.float32)
    towards = np.array([0.0, 0.0, 2.0]) - surface[:, :3]
    bright, dark = plain_shade(paint, surface, towards, lamps(light, [shadow]), np.zeros(2, int), np.zeros((2, 3)))
    assert bright[0] == pytest.approx((0.5 * 0.8) ** (1 / 2.2), abs=1e-3)
    assert dark[0] == pytest.approx((0.5 * 0.3) ** (1 / 2.2), abs=1e-3)


def test_shadows_soften_with_the_light_and_the_distance(head: HeadModel) -> None:
    """Behind a head whose edge lies at x = 0, as the light sees it."""
    edge = float(head.template[:, 0].max())
    direction = np.array([0.0, 0.0, 1.0], np.float32)
    shadow = ShadowMap.make(head.template, head.faces, direction)

    def width(radius: float, behind: float) -> float:
        across = np.linspace(edge - 0.03, edge + 0.03, 601)
        points = np.stack([across, 0 * across, 0 * across - behind], 1)
        points[:, 1] = float(head.template[head.template[:, 0].argmax(), 1])
        light = Lighting(np.zeros((9, 3)), (Light(direction, np.ones(3), radius),), 0.0, np.ones(3), 2.2)
        lit = reaches(lamps(light, [shadow]), 0, points, np.arange(601))
        return float(((lit > 0.05) & (lit < 0.95)).mean()) * 0.06

    assert width(0.03, 0.05) < 0.008 < width(1.5, 0.05) < width(1.5, 0.10)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_picture_is_that_of_the_plain_renderer(seed: int) -> None:
    head = load_head("builtin")
    subject = Subject(head, seed, texture_size=256)
    posed, view = subject.pose(subject.params), camera(head, 0.4, 2 * SIZE)
    uvs, texture = subject._stack.uvs, subject._texture
    drawn = (posed.vertices, subject._faces, posed.table, subject._layer, uvs, texture, posed.lamps, view, 3)
    fast, plain = render(*drawn), plain_render(*drawn)
    assert np.abs(fast[2] - plain[2]).max() < 1e-5, "coverage"
    # Faces that a pixel sees from both sides, at silhouettes, are turned as one.
    turned = np.abs(fast[1] - plain[1]).max(2)
    assert turned.mean() < 6e-4 and (turned > 1e-3).mean() < 0.02, "normals"
    difference = np.abs(fast[0] - plain[0])[plain[2] > 0]
    assert difference.mean() < 0.006 and np.quantile(difference, 0.99) < 0.06, "colours"


def test_depth_and_uv_are_those_of_the_surface(head: HeadModel) -> None:
    subject = Subject(head, 3, texture_size=32)
    posed, view = subject.pose(subject.params), camera(head, 0.3)
    plain, frame = subject.render(posed, view, 3), subject.render(posed, view, 3, truth=True)
    assert plain.depth is None and plain.uv is None and np.array_equal(plain.image, frame.image)
    assert ((frame.depth > 0) <= (frame.mask > 0)).all() and ((frame.mask > 0.999) <= (frame.depth > 0)).all()
    rows, columns = np.nonzero(frame.depth)
    depth = frame.depth[rows, columns]
    rays = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], 1) @ np.linalg.inv(view.K.numpy()).T
    world = (rays * depth[:, None] - view.viewmat[:3, 3].numpy()) @ view.viewmat[:3, :3].numpy()
    gap = cKDTree(posed.vertices).query(world)[0]
    assert np.median(gap) < 0.01, "depth gives points of the surface back"
    skin = frame.uv[..., 0] >= 0
    assert skin.any() and ((frame.uv[skin] >= 0) & (frame.uv[skin] <= 1)).all() and (skin <= (frame.depth > 0)).all()
    corners = head.uvs[head.faces_uv].numpy()
    seen = mesh.rasterize(head.vertices(subject.params)[0], head.faces, view)
    same = skin & (np.abs(seen.depth - frame.depth) < 1e-4)
    assert same.sum() > 50 and np.allclose(mesh.interpolate(seen, head.faces, corners)[same], frame.uv[same], atol=1e-4)


def test_random_light_is_sane() -> None:
    scenes = [random_lighting(np.random.default_rng(seed)) for seed in range(100)]
    assert {len(scene.lights) for scene in scenes} == {0, 1, 2, 3}
    for light in (light for scene in scenes for light in scene.lights):
        assert np.linalg.norm(light.direction) == pytest.approx(1.0, abs=1e-5) and light.color.min() >= 0
        assert 0.03 <= light.radius <= 1.5


def test_expressions_are_mixtures_and_sequences_smooth() -> None:
    rng = np.random.default_rng(1)
    motion = random_expressions(rng, 300)
    assert motion.num_frames == 300 and set(NAMES) <= set(motion.weights)
    assert all(column.min() >= 0 and column.max() <= 1 for column in motion.weights.values())
    assert 0.2 < (motion.weights["jawOpen"] > 0).mean() < 0.6
    mild = random_expressions(rng, 300, mild=True)
    assert mild.weights["jawOpen"].mean() < 0.5 * motion.weights["jawOpen"].mean()
    smiling = random_expressions(rng, 300, smiles=0.5)
    shut = (smiling.weights["mouthLowerDownLeft"] > 0.2) & (smiling.weights["mouthSmileLeft"] > 0.2)
    assert 0.3 < (shut & (smiling.weights["jawOpen"] == 0)).mean() < 0.6
    for seed in range(5):
        sequence = random_sequence(np.random.default_rng(seed), 8)
        steps = [np.abs(np.diff(v)).max() for name, v in sequence.weights.items() if "Blink" not in name]
        assert max(steps) < 0.5


def test_normals_follow_the_camera(head: HeadModel) -> None:
    world = torch.tensor([[0.0, 0.0, 1.0]])
    assert torch.allclose(normals_to_map_axes(world, camera(head)), torch.tensor([[0.0, 0.0, 1.0]]), atol=1e-5)


def test_how_many_people_are_painted_wildly() -> None:
    looks = {
        share: [random_appearance(np.random.default_rng(n), share) for n in range(40)] for share in (0.0, 0.5, 1.0)
    }
    count = {share: sum(look.wild for look in found) for share, found in looks.items()}
    assert count[0.0] == 0 and 8 < count[0.5] < 32 and count[1.0] == 40
    # Who is not wild by default is the same person in a set without wild ones.
    usual = [random_appearance(np.random.default_rng(n)) for n in range(40)]
    assert all(np.array_equal(a.skin, b.skin) for a, b in zip(usual, looks[0.0], strict=True) if not a.wild)
    assert any(look.wild for look in usual)
