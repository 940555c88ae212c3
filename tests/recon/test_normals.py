"""Rendered normals of Gaussians: right way up, right way round, on a sphere whose normals are known."""

from __future__ import annotations

import math

import pytest
import torch

from geodiff.geometry import matrix_to_quat, orbit_camera
from geodiff.raster import mesh
from geodiff.raster.gaussians import rasterize
from geodiff.types import Camera, Gaussians
from recon import losses
from recon.layers.normals import camera_normals

RADIUS, SIZE = 0.1, 96


def _directions(count: int) -> torch.Tensor:
    """(count, 3) unit vectors spread evenly (a Fibonacci lattice)."""
    number = torch.arange(count) + 0.5
    height, turn = 1 - 2 * number / count, math.pi * (1 + 5**0.5) * number
    ring = (1 - height.square()).sqrt()
    return torch.stack([ring * turn.cos(), height, ring * turn.sin()], 1)


def _sphere(count: int = 6000) -> Gaussians:
    """Flat Gaussians on a sphere, every other one with its shortest axis turned inwards."""
    outward = _directions(count)
    side = torch.nn.functional.normalize(torch.linalg.cross(outward, torch.tensor([[0.3, 0.5, 0.8]])), dim=1)
    sign = torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0)[:, None]
    axes = torch.stack([side, torch.linalg.cross(outward * sign, side), outward * sign], 2)
    wide = 1.2 * RADIUS * math.sqrt(4 * math.pi / count) / 2
    scales = torch.tensor([[wide, wide, wide / 20]]).expand(count, 3)
    return Gaussians(RADIUS * outward, matrix_to_quat(axes), scales, torch.full((count,), 0.95), torch.zeros(count, 3))


def _truth(camera: Camera) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal map (H, W, 3) and mask (H, W) of the sphere, by casting rays."""
    rows, columns = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    rays = torch.stack([columns, rows, torch.ones_like(rows)], -1) @ torch.linalg.inv(camera.K).T
    rays = torch.nn.functional.normalize(rays @ camera.viewmat[:3, :3], dim=-1)
    origin = camera.center
    b = (rays * origin).sum(-1)
    inside = b.square() - (origin.square().sum() - RADIUS**2)
    distance = -b - inside.clamp_min(0).sqrt()
    normal = (origin + distance[..., None] * rays) / RADIUS
    # Normal maps: x right, y up, z towards the camera.
    axes = camera.viewmat[:3, :3] * torch.tensor([[1.0], [-1.0], [-1.0]])
    return normal @ axes.T * (inside > 0)[..., None], inside > 0


@pytest.mark.parametrize(("yaw", "elevation"), [(0.0, 0.0), (0.9, 0.4), (-2.2, -0.5)])
def test_a_sphere_has_the_normals_of_a_sphere(yaw: float, elevation: float) -> None:
    camera = orbit_camera(yaw, elevation, 1.0, torch.zeros(3), 380.0, SIZE, SIZE)
    sphere = _sphere()
    normals = camera_normals(sphere.means, sphere.quats, sphere.scales, camera)
    shown = Gaussians(sphere.means, sphere.quats, sphere.scales, sphere.opacities, normals)
    seen = rasterize(shown, camera.viewmat[None], camera.K[None], SIZE, SIZE)
    truth, mask = _truth(camera)
    facing = mask & (truth[..., 2] > 0.4)
    cosine = torch.nn.functional.cosine_similarity(seen.colors[0], truth, dim=-1)[facing]
    assert float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).mean()) < 4.0
    # The loss is small for them, and large for the same ones upside down.
    right = losses.normal_loss(seen.colors[0], truth, facing[..., None].float())
    wrong = losses.normal_loss(seen.colors[0] * torch.tensor([1.0, -1.0, 1.0]), truth, facing[..., None].float())
    assert float(right) < 0.06 and float(wrong) > 3 * float(right)


def test_meshes_and_gaussians_agree_on_the_axes_of_normal_maps() -> None:
    """The clip set's normal maps come from meshes: the same sphere as triangles."""
    camera = orbit_camera(0.6, 0.3, 1.0, torch.zeros(3), 380.0, SIZE, SIZE)
    rows, columns = 24, 48
    polar, angle = torch.meshgrid(
        torch.linspace(0.02, math.pi - 0.02, rows + 1), torch.linspace(0, 2 * math.pi, columns + 1), indexing="ij"
    )
    points = torch.stack([polar.sin() * angle.sin(), polar.cos(), polar.sin() * angle.cos()], -1).reshape(-1, 3)
    number = torch.arange((rows + 1) * (columns + 1)).view(rows + 1, columns + 1)
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
    faces = torch.cat([torch.stack([a, c, b], -1).view(-1, 3), torch.stack([b, c, d], -1).view(-1, 3)])
    shown = torch.from_numpy(mesh.render_normals(RADIUS * points, faces, camera))
    truth, mask = _truth(camera)
    facing = mask & (truth[..., 2] > 0.4) & (shown.norm(dim=-1) > 0.5)
    cosine = torch.nn.functional.cosine_similarity(shown, truth, dim=-1)[facing]
    assert float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).mean()) < 3.0
