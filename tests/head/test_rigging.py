"""Triangle frames and the transforms of bound Gaussians."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodiff.geometry import axis_angle_to_matrix, matrix_to_quat, quat_to_matrix
from geodiff.head.rigging import bind, to_local, to_world, triangle_frames

FACES = torch.tensor([[0, 1, 2], [1, 3, 2]])


def _random_mesh(seed: int) -> torch.Tensor:
    return torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_frame_of_one_triangle_follows_the_published_formula() -> None:
    v0, v1, v2 = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.1, 0.2]), np.array([0.2, 0.9, -0.4])
    unit = lambda v: v / np.linalg.norm(v)  # noqa: E731
    a0 = unit(v1 - v0)
    a1 = unit(np.cross(a0, v2 - v0))
    a2 = -unit(np.cross(a1, a0))
    scale = (np.linalg.norm(v1 - v0) + abs(a2 @ (v2 - v0))) / 2
    frames = triangle_frames(torch.tensor(np.stack([v0, v1, v2]))[None], torch.tensor([[0, 1, 2]]))
    np.testing.assert_allclose(frames.rotations[0, 0], np.stack([a0, a1, a2], 1), atol=1e-12)
    np.testing.assert_allclose(frames.origins[0, 0], (v0 + v1 + v2) / 3, atol=1e-12)
    np.testing.assert_allclose(frames.scales[0, 0], scale, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_rotations_are_proper_and_follow_a_rigid_motion(seed: int) -> None:
    vertices = _random_mesh(seed)
    rotation = axis_angle_to_matrix(torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64))
    frames = triangle_frames(vertices, FACES)
    moved = triangle_frames(vertices @ rotation.T * 2.0 + 1.0, FACES)
    torch.testing.assert_close(torch.linalg.det(frames.rotations), torch.ones(2, 2, dtype=torch.float64))
    torch.testing.assert_close(moved.rotations, rotation @ frames.rotations)
    torch.testing.assert_close(moved.scales, frames.scales * 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_local_and_world_are_inverse(seed: int) -> None:
    vertices = _random_mesh(seed)
    generator = torch.Generator().manual_seed(seed)
    means, quats = (torch.randn(5, k, generator=generator, dtype=torch.float64) for k in (3, 4))
    scales = torch.rand(5, 3, generator=generator, dtype=torch.float64) + 0.1
    frames = bind(triangle_frames(vertices, FACES), 1, torch.tensor([0, 1, 1, 0, 1]))
    world = to_world(means, quats, scales, frames)
    local = to_local(*world, frames)
    torch.testing.assert_close(local[0], means)
    torch.testing.assert_close(quat_to_matrix(local[1]), quat_to_matrix(quats))
    torch.testing.assert_close(local[2], scales)


def test_world_values_follow_the_file_format() -> None:
    """World mean = R xyz s + centroid, rotation = q_face * q, scale = scale * s."""
    vertices = _random_mesh(3)
    frames = triangle_frames(vertices, FACES)
    bound = bind(frames, 0, torch.tensor([1]))
    xyz = torch.tensor([[0.2, 0.5, -0.3]], dtype=torch.float64)
    quat = torch.tensor([[0.9, 0.1, -0.3, 0.2]], dtype=torch.float64)
    means, quats, scales = to_world(xyz, quat, torch.tensor([[0.5, 0.1, 0.4]], dtype=torch.float64), bound)
    R, s = frames.rotations[0, 1], frames.scales[0, 1]
    torch.testing.assert_close(means[0], R @ xyz[0] * s + frames.origins[0, 1])
    torch.testing.assert_close(quat_to_matrix(quats[0]), R @ quat_to_matrix(quat[0]))
    torch.testing.assert_close(scales[0], torch.tensor([0.5, 0.1, 0.4], dtype=torch.float64) * s)
    torch.testing.assert_close(matrix_to_quat(R), bound.quats[0])


def test_gradients_are_finite_on_a_collapsed_triangle() -> None:
    vertices = torch.zeros(1, 3, 3, requires_grad=True)
    frames = triangle_frames(vertices, torch.tensor([[0, 1, 2]]))
    (frames.rotations.sum() + frames.scales.sum()).backward()
    assert vertices.grad is not None and torch.isfinite(vertices.grad).all()


def test_gradients_agree_with_differences() -> None:
    vertices = _random_mesh(5).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v: tuple(triangle_frames(v, FACES)), (vertices,), atol=1e-5)
