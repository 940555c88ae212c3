"""Synthetic people: paint, hair, light, and frames with ground truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from heads import ellipsoid_head

from geodiff.conditioning import framed_camera, head_frame
from geodiff.geometry import normals_to_map_axes
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.synth.appearance import paint, random_appearance, template_fields
from geodiff.synth.hair import STYLES, HairStyle, grow_hair, random_style
from geodiff.synth.light import Lighting, ShadowMap, ambient_occlusion, random_lighting, shade, shadow_test
from geodiff.synth.motion import NAMES, random_expressions, random_sequence
from geodiff.synth.noise import fractal_noise
from geodiff.synth.subject import Subject

SIZE = 64


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return ellipsoid_head()


def camera(head: HeadModel, yaw: float = 0.0):
    return framed_camera(head_frame(head, head.zeros()), yaw, 0.0, 1.0, SIZE)


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


def test_normals_of_a_bald_person_are_those_of_the_head(head: HeadModel) -> None:
    seed = next(s for s in range(200) if Subject(head, s, texture_size=32).style.kind == "bald")
    subject = Subject(head, seed, texture_size=32)
    vertices = head.vertices(subject.params)[0]
    frame = subject.render(subject.pose(subject.params), camera(head))
    assert np.allclose(frame.normals, mesh.render_normals(vertices, head.faces, camera(head), 2), atol=0.08)


def test_hair_stands_off_the_skull_and_long_hair_hangs(head: HeadModel) -> None:
    look = random_appearance(np.random.default_rng(0))
    shaped = head.shaped(head.zeros())[0]
    assert grow_hair(head, shaped, HairStyle("bald", 0, 0, 0, 0, 0, 0, 1), look) is None
    short = grow_hair(head, shaped, HairStyle("short", 0.02, 0.0, 0.0, 0.0, 0.1, 0.0, 1), look)
    long = grow_hair(head, shaped, HairStyle("long", 0.02, 0.0, 0.12, 0.0, 0.1, 0.0, 1), look)
    assert short is not None and long is not None
    assert short[:, 1].max() > float(shaped[:, 1].max()) + 0.008
    assert long[:, 1].min() < short[:, 1].min() - 0.01


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


def test_painting_needs_landmarks() -> None:
    head = ellipsoid_head(8, 12)
    object.__setattr__(head, "landmarks", None)
    with pytest.raises(ValueError, match="needs all of MediaPipe"):
        template_fields(head)


def test_shadow_falls_behind_and_light_brightens(head: HeadModel) -> None:
    vertices = head.template
    shadow = ShadowMap.make(vertices, head.faces, np.array([0.0, 0.0, 1.0], np.float32))
    lit = shadow_test(shadow, np.array([[0.0, 0.0, 0.3], [0.0, 0.0, -0.3]], np.float32))
    assert lit[0] == pytest.approx(1.0, abs=1e-5) and lit[1] == pytest.approx(0.0, abs=1e-5)
    light = Lighting(
        harmonics=np.eye(9, 3, dtype=np.float32)[:, :1].repeat(3, 1) * 0.3,
        direction=np.array([0, 0, 1], np.float32),
        color=np.full(3, 0.5, np.float32),
        gloss=0.0,
        gain=np.ones(3, np.float32),
        gamma=2.2,
    )
    surface = np.zeros((2, 8), np.float32)
    surface[:, 5], surface[:, 6] = 1.0, 1.0
    surface[0, 2], surface[1, 2] = 0.3, -0.3
    albedo = np.full((2, 3), 0.5, np.float32)
    bright, dark = shade(albedo, surface, np.array([0.0, 0.0, 2.0]), light, shadow)
    assert bright[0] == pytest.approx((0.5 * 0.8) ** (1 / 2.2), abs=1e-3)
    assert dark[0] == pytest.approx((0.5 * 0.3) ** (1 / 2.2), abs=1e-3)


def test_occlusion_and_random_light_are_sane(head: HeadModel) -> None:
    occlusion = ambient_occlusion(head)
    assert occlusion.shape == (head.num_vertices,) and occlusion.min() > 0 and occlusion.max() <= 1
    assert occlusion[head.regions["scalp"].numpy()].mean() > 0.8
    light = random_lighting(np.random.default_rng(0))
    assert np.linalg.norm(light.direction) == pytest.approx(1.0, abs=1e-5)


def test_expressions_are_mixtures_and_sequences_smooth() -> None:
    rng = np.random.default_rng(1)
    motion = random_expressions(rng, 300)
    assert motion.num_frames == 300 and set(NAMES) <= set(motion.weights)
    assert all(column.min() >= 0 and column.max() <= 1 for column in motion.weights.values())
    assert 0.2 < (motion.weights["jawOpen"] > 0).mean() < 0.6
    mild = random_expressions(rng, 300, mild=True)
    assert mild.weights["jawOpen"].mean() < 0.5 * motion.weights["jawOpen"].mean()
    for seed in range(5):
        sequence = random_sequence(np.random.default_rng(seed), 8)
        steps = [np.abs(np.diff(v)).max() for name, v in sequence.weights.items() if "Blink" not in name]
        assert max(steps) < 0.5


def test_normals_follow_the_camera(head: HeadModel) -> None:
    world = torch.tensor([[0.0, 0.0, 1.0]])
    assert torch.allclose(normals_to_map_axes(world, camera(head)), torch.tensor([[0.0, 0.0, 1.0]]), atol=1e-5)
