"""The fast kernels of posing against plain torch, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from geodiff.geometry import orbit_camera
from geodiff.head.rigging import to_world
from recon.layers.normals import camera_normals
from recon.layers.pose_kernel import pose_bound
from recon.layers.rigged import bound_frames


def _scene() -> tuple[list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    faces = torch.randint(0, 40, (60, 3), generator=generator)
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])]
    binding = torch.randint(0, len(faces), (200,), generator=generator)
    vertices, means = (torch.randn(n, 3, generator=generator) for n in (40, 200))
    quats, logs = torch.randn(200, 4, generator=generator), torch.randn(200, 3, generator=generator) - 2
    return [vertices, means, quats, logs], faces, binding


def test_posing_agrees_with_its_twin_forward_and_backward() -> None:
    leaves, faces, binding = _scene()
    fast = [leaf.clone().requires_grad_() for leaf in leaves]
    slow = [leaf.double().requires_grad_() for leaf in leaves]
    made = pose_bound(fast[0], faces, binding, *fast[1:])
    frames = bound_frames(slow[0], faces, binding)
    expected = to_world(slow[1], slow[2], slow[3].exp(), frames)
    # A quaternion and its negative are one rotation.
    sign = torch.sign((made[1].detach() * expected[1].detach()).sum(-1, keepdim=True))
    expected = expected[0], expected[1] * sign, expected[2]
    weights = [torch.randn_like(part) for part in made]
    for part, other in zip(made, expected, strict=True):
        torch.testing.assert_close(part.double(), other, atol=2e-5, rtol=2e-4)
    sum((part * weight).sum() for part, weight in zip(made, weights, strict=True)).backward()
    sum((part * weight).sum() for part, weight in zip(expected, weights, strict=True)).backward()
    for quick, exact in zip(fast, slow, strict=True):
        assert quick.grad is not None and exact.grad is not None
        assert float((quick.grad - exact.grad).norm() / exact.grad.norm()) < 1e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_normals_agree_with_their_twin_forward_and_backward(seed: int) -> None:
    torch.manual_seed(seed)
    camera = orbit_camera(0.4, -0.3, 1.0, torch.zeros(3), 300.0, 64, 64)
    quats = torch.nn.functional.normalize(torch.randn(300, 4), dim=-1)
    means, scales = torch.randn(300, 3) * 0.1, torch.rand(300, 3)
    fast, slow = quats.clone().requires_grad_(), quats.double().requires_grad_()
    made = camera_normals(means, fast, scales, camera)
    other = camera_normals(
        means.double(), slow, scales.double(), type(camera)(camera.viewmat.double(), camera.K.double(), 64, 64)
    )
    torch.testing.assert_close(made.double(), other, atol=1e-5, rtol=1e-4)
    weights = torch.randn_like(made)
    (made * weights).sum().backward()
    (other * weights).sum().backward()
    assert fast.grad is not None and slow.grad is not None
    torch.testing.assert_close(fast.grad.double(), slow.grad, atol=1e-4, rtol=1e-3)


def test_collapsed_triangles_give_no_nan() -> None:
    vertices = torch.zeros(3, 3, requires_grad=True)
    fields = [torch.randn(2, n, requires_grad=True) for n in (3, 4, 3)]
    made = pose_bound(vertices, torch.tensor([[0, 1, 2]]), torch.zeros(2, dtype=torch.int64), *fields)
    sum(part.sum() for part in made).backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in (vertices, *fields))
