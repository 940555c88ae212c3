"""Conversion between head models: the surface stays where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from disguise import disguised, motion
from hypothesis import given, settings
from hypothesis import strategies as st

from geodiff.errors import HeadModelError
from geodiff.geometry import axis_angle_to_matrix
from geodiff.head.builtin import load_builtin
from geodiff.head.model import JOINTS, HeadModel
from geodiff.tracking.convert import Conversion, ConvertConfig, convert
from geodiff.tracking.correspond import ShapeConfig, rigid_motion, skin_faces
from geodiff.tracking.surfaces import Surface, closest_barycentrics
from geodiff.tracking.transfer import bounded_step
from geodiff.types import HeadParams

QUICK = ConvertConfig(shape=ShapeConfig(points=1500, rounds=8), measured_frames=2)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_builtin()


@pytest.fixture(scope="module")
def other(head: HeadModel) -> HeadModel:
    return disguised(head)


@pytest.fixture(scope="module")
def source(head: HeadModel) -> HeadParams:
    return motion(head, 4)


@pytest.fixture(scope="module")
def there(head: HeadModel, other: HeadModel, source: HeadParams) -> Conversion:
    return convert(source, head, other, QUICK)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_closest_points_of_triangles(seed: int) -> None:
    random = np.random.default_rng(seed)
    points, corners = random.normal(size=(40, 3)), random.normal(size=(40, 3, 3))
    found = closest_barycentrics(points, corners)
    assert (found >= -1e-9).all() and np.allclose(found.sum(1), 1)
    distance = np.linalg.norm((found[:, :, None] * corners).sum(1) - points, axis=1)
    others = random.dirichlet(np.ones(3), size=(40, 300))
    away = np.linalg.norm(np.einsum("nkc,ncd->nkd", others, corners) - points[:, None], axis=-1).min(1)
    assert (distance <= away + 1e-9).all()


def test_a_surface_admits_only_triangles_that_face_alike() -> None:
    sheet = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]])
    vertices = np.concatenate([sheet, sheet + [0, 0, 0.1]])
    surface = Surface(vertices, np.array([[0, 1, 2], [3, 5, 4]]))
    query, up = np.array([[0.2, 0.2, 0.09]]), np.array([[0.0, 0.0, 1.0]])
    assert surface.nearest(query).faces[0] == 1
    assert surface.nearest(query, up).faces[0] == 0 and surface.nearest(query, up).distances[0] == pytest.approx(0.09)
    assert np.isinf(surface.nearest(query, np.array([[1.0, 0.0, 0.0]])).distances[0])


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_bounded_steps_satisfy_the_conditions_of_optimality(seed: int) -> None:
    random = np.random.default_rng(seed)
    root = random.normal(size=(3, 6, 6))
    hessian = root @ root.transpose(0, 2, 1) + 0.5 * np.eye(6)
    gradient, lower, upper = random.normal(size=(3, 6)), -random.random((3, 6)), random.random((3, 6))
    step = bounded_step(hessian, gradient, lower, upper, 2000)
    slope = gradient - np.einsum("tnm,tm->tn", hessian, step)
    assert ((step >= lower - 1e-12) & (step <= upper + 1e-12)).all()
    inside = (step > lower + 1e-9) & (step < upper - 1e-9)
    assert np.abs(slope[inside]).max(initial=0) < 2e-3
    assert (slope[step <= lower + 1e-9] < 2e-3).all() and (slope[step >= upper - 1e-9] > -2e-3).all()


def test_rigid_motions_are_found() -> None:
    random = np.random.default_rng(0)
    points, angle = random.normal(size=(20, 3)), torch.tensor([0.3, -1.0, 0.4])
    turn = axis_angle_to_matrix(angle).double().numpy()
    rotation, shift = rigid_motion(points, points @ turn.T + [1.0, 2.0, 3.0])
    assert np.allclose(rotation, turn, atol=1e-6) and np.allclose(shift, [1, 2, 3], atol=1e-5)


def test_the_surface_stays_within_a_millimetre(there: Conversion) -> None:
    for region, (mean, high) in there.residuals.frames.by_region.items():
        assert mean < 0.5 and high < 1.5, region
    assert there.residuals.turn == pytest.approx(12.0, abs=1.0)
    assert there.residuals.with_offsets is None
    figures = there.residuals.figures()
    assert figures["frames_face_mean_mm"] < 0.5 and "offsets_face_mean_mm" not in figures
    assert there.residuals.rows()[0] == ("distance (mm), mean / 95%", "face", "ears", "whole")


def test_there_and_back(head: HeadModel, other: HeadModel, source: HeadParams, there: Conversion) -> None:
    back = convert(there.params, other, head, QUICK).params
    kept = np.unique(skin_faces(head))
    kept = kept[~head.regions["neck"].numpy()[kept]]
    away = (head.vertices(back) - head.vertices(source)).norm(dim=-1)[:, kept]
    assert away.mean() < 1e-3, "same surface, and every point of it in its place"
    assert (back.expr - source.expr).abs().mean() < 0.06
    assert back.shape.abs().max() <= 3.0 and back.expr.min() >= 0 and back.expr.max() <= 1


def test_skull_neck_and_gaze_are_carried_exactly(
    head: HeadModel, other: HeadModel, source: HeadParams, there: Conversion
) -> None:
    neck, eyes = JOINTS.index("neck"), [JOINTS.index("left_eye"), JOINTS.index("right_eye")]
    before, after = head.joint_transforms(source), other.joint_transforms(there.params)
    between = torch.linalg.inv(after[:, neck]) @ before[:, neck]
    assert torch.allclose(between, between[:1].expand_as(between), atol=2e-6), "one rigid motion for all frames"
    looks = [transforms[:, eyes, :3, 2] for transforms in (before, after)]
    assert torch.allclose(*looks, atol=1e-5)
    assert torch.allclose(source.neck_pose.norm(dim=1), there.params.neck_pose.norm(dim=1), atol=1e-5)


def test_an_open_jaw_becomes_an_expression_where_the_head_has_one(head: HeadModel, other: HeadModel) -> None:
    """The disguised head opens its mouth by the jaw joint, as FLAME does; the builtin head by `jawOpen`."""
    source = other.zeros(2).replace(jaw_pose=torch.tensor([[0.0, 0.0, 0.0], [0.25, 0.0, 0.0]]))
    done = convert(source, other, head, QUICK)
    assert done.params.expr[1, head.expression_names.index("jawOpen")] > 0.4
    assert done.params.expr[0].max() < 1e-3 and done.params.jaw_pose[0].abs().max() < 1e-3, "rest stays rest"
    assert done.residuals.frames.by_region["face"][0] < 0.8


def test_offsets_are_carried(head: HeadModel, other: HeadModel) -> None:
    out = torch.nn.functional.normalize(head.template, dim=1)
    offset = head.regions["scalp"].float()[:, None] * 0.012 * out
    source = head.zeros().replace(static_offset=offset)
    carried = convert(source, head, other, QUICK)
    assert carried.residuals.with_offsets is not None and carried.params.static_offset is not None
    assert carried.residuals.with_offsets.by_region["whole"][0] < 0.8
    bare = convert(source, head, other, ConvertConfig(QUICK.shape, QUICK.expression, False, 1))
    assert bare.params.static_offset is None and bare.residuals.with_offsets is not None
    assert bare.residuals.with_offsets.by_region["whole"][0] > 2.0, "what is left out is told"
    assert torch.allclose(bare.params.shape, carried.params.shape), "hair does not change the skull"


def test_heads_without_landmarks_are_aligned_by_their_parts(head: HeadModel) -> None:
    bare = disguised(head, seed=4, turn=20.0, landmarks=False)
    done = convert(head.zeros(), head, bare, QUICK)
    assert done.residuals.turn == pytest.approx(20.0, abs=1.5)
    assert done.residuals.neutral.by_region["face"][0] < 0.8


def test_what_cannot_be_converted(head: HeadModel, other: HeadModel) -> None:
    good = head.zeros()
    with pytest.raises(HeadModelError, match="name the head that they were tracked with as --head"):
        convert(good.replace(expr=torch.zeros(1, 3)), head, other)
    with pytest.raises(HeadModelError, match=r"of the \d+ vertices of 'builtin'"):
        convert(good.replace(static_offset=torch.zeros(7, 3)), head, other)
    with pytest.raises(HeadModelError, match="finite numbers"):
        convert(good.replace(expr=torch.full_like(good.expr, torch.nan)), head, other)
    far = disguised(head)
    object.__setattr__(far, "template", far.template * 100)
    with pytest.raises(HeadModelError, match="check the units and axes"):
        convert(good, head, far, QUICK)


def test_ict_and_builtin(shared_data: Path, head: HeadModel) -> None:
    """Random identities and expressions of ICT-FaceKit on the builtin head, and the reverse."""
    from geodiff.head.ict import load_ict

    ict = load_ict(shared_data / "ict" / "ict_facekit.npz")
    for first, second, limit in ((ict, head, 2.0), (head, ict, 1.5)):
        done = convert(motion(first, 4, seed=5), first, second, QUICK)
        assert done.residuals.frames.by_region["face"][0] < limit
        assert done.residuals.frames.by_region["whole"][0] < limit
