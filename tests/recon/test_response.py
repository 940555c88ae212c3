"""What Gaussians do beside their triangles: local, learnt from frames, true of expressions that were never seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sample_clips import paint, picture, sample_camera

from geodiff.errors import InputError
from geodiff.geometry import axis_angle_to_matrix
from geodiff.head.model import HeadModel
from geodiff.metrics.image import psnr
from geodiff.types import Clip, Drive, HeadParams
from recon.avatar import render
from recon.frames import FrameSet, collect
from recon.layers.refinement import RefinementConfig
from recon.layers.response import FIELD, WIDTH, ResponseConfig, Surface, answered, first_matrices, respond
from recon.methods import load_avatar
from recon.methods.geodiff4d import GeoDiff4DAvatar, GeoDiff4DConfig, fit_frames

RESPONSE = ResponseConfig(enabled=True)
#: How much farther than the true surface the parameters move the face, and the opening that is held out.
TOO_FAR, HELD_OUT = 2.0, 2
OPEN = (0.0, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def misled(small_head: HeadModel) -> FrameSet:
    """A mouth that opens half as far as its parameters say; one opening is never shown in fitting."""
    jaw = small_head.expression_names.index("jawOpen")
    expr = torch.zeros(len(OPEN), small_head.num_expr)
    expr[:, jaw] = torch.tensor(OPEN)
    true, colors = small_head.zeros(len(OPEN)).replace(expr=expr), paint(small_head)
    clips = []
    for index, yaw in enumerate((0.0, -40.0, 40.0)):
        camera = sample_camera(yaw, 48)
        shown = [picture(small_head, true.frame(t), camera, colors) for t in range(len(OPEN))]
        images, masks, normals = (torch.stack([torch.from_numpy(f[k]) for f in shown]).numpy() for k in range(3))
        said = true.replace(expr=TOO_FAR * expr)
        clips.append(Clip(images, masks, camera, said, index, torch.arange(len(OPEN)).numpy(), normals))
    return collect(clips, [(HELD_OUT, camera) for camera in range(3)])


def _shown(avatar: GeoDiff4DAvatar, frames: FrameSet) -> float:
    """Mean PSNR of the held-out frames."""
    everywhere = torch.ones(frames.size[::-1], dtype=torch.bool).numpy()
    figures = []
    for sample in frames.held_out:
        drive = Drive(frames.params.frame(int(frames.steps[sample])))
        image = render(avatar, drive, frames.cameras[sample]).rgb.numpy()
        figures.append(psnr(image, frames.image(sample).numpy(), everywhere))
    return sum(figures) / len(figures)


@pytest.fixture(scope="module")
def answering(small_head: HeadModel, misled: FrameSet, quick: GeoDiff4DConfig) -> GeoDiff4DAvatar:
    return fit_frames(small_head, misled, replace(quick, gaussians=900, iterations=80, response=RESPONSE))


def test_an_expression_that_was_never_seen_profits(
    small_head: HeadModel, misled: FrameSet, quick: GeoDiff4DConfig, answering: GeoDiff4DAvatar
) -> None:
    plain = fit_frames(small_head, misled, replace(quick, gaussians=900, iterations=80))
    assert _shown(answering, misled) > _shown(plain, misled) + 1.0


def test_nothing_answers_at_rest_and_nothing_at_the_start(small_head: HeadModel, answering: GeoDiff4DAvatar) -> None:
    assert answering.response is not None and answering.splats.binding is not None
    still = replace(answering.response, matrices=first_matrices(len(answering.splats)))
    plain = GeoDiff4DAvatar(small_head, answering.params, answering.info, answering.splats)
    same = GeoDiff4DAvatar(small_head, answering.params, answering.info, answering.splats, response=still)
    moving = Drive(answering.params.frame(3))
    torch.testing.assert_close(same.pose(moving).means, plain.pose(moving).means)
    assert not torch.allclose(answering.pose(moving).means, plain.pose(moving).means, atol=1e-4)
    torch.testing.assert_close(answering.pose(plain.neutral()).means, plain.pose(plain.neutral()).means)


def test_it_is_saved_read_and_thinned_with_its_gaussians(
    tmp_path: Path, small_head: HeadModel, answering: GeoDiff4DAvatar
) -> None:
    drive = Drive(answering.params.frame(3))
    folder = answering.save(tmp_path / "a")
    again = load_avatar(folder, small_head)
    torch.testing.assert_close(again.pose(drive).means, answering.pose(drive).means, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(again.pose(drive).colors, answering.pose(drive).colors, atol=1e-5, rtol=1e-4)
    few = answering.level(300)
    assert few.response is not None and few.response.matrices.shape == (300, WIDTH)
    assert len(few.pose(drive).means) == 300
    path = folder / "networks.safetensors"
    save_file({**load_file(path), FIELD: torch.zeros(7, WIDTH)}, path)
    with pytest.raises(InputError, match="must hold response of"):
        load_avatar(folder, small_head)


def test_gaussians_that_no_frame_shows_never_answer(answering: GeoDiff4DAvatar) -> None:
    """The back of the head is in none of the three views; its outline is."""
    assert answering.response is not None and answering.splats.binding is not None
    head = answering.head
    behind = head.template[head.faces[answering.splats.binding]].mean(1)[:, 2] < -0.05
    size = answering.response.matrices.abs().amax(1)
    assert behind.any() and float(size[behind].max()) < 1e-5 * float(size.max())


def test_refined_frames_answer_their_refined_surface(
    small_head: HeadModel, misled: FrameSet, quick: GeoDiff4DConfig
) -> None:
    refinement = RefinementConfig(True, scaled=False, expression_rate=1e-2, warmup=0.0)
    made = fit_frames(
        small_head, misled, replace(quick, gaussians=900, iterations=12, response=RESPONSE, refinement=refinement)
    )
    tracked, refined = (made.pose(Drive(params.frame(3))) for params in (misled.params, made.params))
    torch.testing.assert_close(tracked.means, refined.means, atol=1e-6, rtol=1e-5)


def _posed(head: HeadModel, weights: list[float]) -> HeadParams:
    return head.zeros().replace(expr=torch.tensor([weights]))


weights = st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4)
angles = st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3)


@settings(max_examples=15, deadline=None)
@given(weights, angles, angles)
def test_where_the_head_is_says_nothing(small_head: HeadModel, expr: list[float], turn: list[float], at: list) -> None:
    surface = Surface(small_head, small_head.zeros(), 6.0)
    params = _posed(small_head, expr)
    moved = params.replace(
        rotation=torch.tensor([turn]), neck_pose=torch.tensor([turn]), translation=torch.tensor([at])
    )
    assert torch.equal(surface.changes(params), surface.changes(moved))


@settings(max_examples=15, deadline=None)
@given(weights)
def test_changes_are_those_of_the_triangles(small_head: HeadModel, expr: list[float]) -> None:
    """Against normals and areas by rotation of a triangle's rest, and within the reach that was asked for."""
    surface, reach = Surface(small_head, small_head.zeros(), 0.5), 0.5
    changes = surface.changes(_posed(small_head, expr))
    assert float(changes[:, :3].norm(dim=1).max()) <= reach + 1e-5
    now = small_head.vertices(_posed(small_head, expr))[0][small_head.faces]
    rest = small_head.vertices(small_head.zeros())[0][small_head.faces]
    sides = [torch.linalg.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]) for t in (rest, now)]
    unit = [torch.nn.functional.normalize(s, dim=1) for s in sides]
    torch.testing.assert_close(changes[:, 3:6], unit[1] - unit[0], atol=1e-3, rtol=1e-3)
    share = (sides[1].norm(dim=1) / sides[0].norm(dim=1) - 1).clamp(-0.6, 0.6)
    torch.testing.assert_close(changes[:, 6], share, atol=1e-3, rtol=1e-3)


@settings(max_examples=20, deadline=None)
@given(angles)
def test_the_answer_is_linear_in_what_changes(turn: list[float]) -> None:
    """A matrix that is a rotation turns the movement of the triangle; colours take none of it."""
    rotation = axis_angle_to_matrix(torch.tensor([turn]))[0]
    matrices = torch.zeros(5, WIDTH)
    # Columns one after the other.
    matrices[:, :9] = rotation.T.reshape(-1)
    changes = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    binding = torch.tensor([0, 1, 1, 0, 1])
    fields = {"means": torch.zeros(5, 3), "sh_dc": torch.zeros(5, 1, 3)}
    answered = respond(fields, matrices, changes, binding)
    torch.testing.assert_close(answered["means"], changes[binding, :3] @ rotation.T, atol=1e-5, rtol=1e-4)
    assert not answered["sh_dc"].any()
    matrices[:, 9:] = 1.0
    colored = respond(fields, matrices, changes, binding)["sh_dc"]
    torch.testing.assert_close(colored, changes[binding, 3:].sum(1)[:, None, None].expand(5, 1, 3))


def test_the_kernels_are_the_plain_sums(small_head: HeadModel) -> None:
    generator = torch.Generator().manual_seed(2)
    surface = Surface(small_head, small_head.zeros(), 0.7)
    params = _posed(small_head, [0.8, 0.1, 0.6, 0.0])
    changes = surface.changes(params)
    torch.testing.assert_close(changes, surface.plain_changes(small_head.vertices(params)[0]), atol=1e-5, rtol=1e-4)
    binding = torch.randint(0, len(small_head.faces), (200,), generator=generator)
    moving = torch.rand(200, 2, generator=generator) > 0.3
    found = []
    for way in (lambda m, *rest: respond({"means": rest[0], "sh_dc": rest[1][:, None]}, m, *rest[2:]), answered):
        leaves = [
            torch.randn(200, n, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in (WIDTH, 3, 4)
        ]
        out = way(leaves[0], leaves[1], leaves[2][:, :3], changes, binding, moving)
        means, colors = (out["means"], out["sh_dc"][:, 0]) if isinstance(out, dict) else out
        (means.sin().sum() + colors.cos().sum()).backward()
        found.append([means, colors, *(leaf.grad for leaf in leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
