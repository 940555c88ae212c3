"""The contract of the mesh rasteriser on every backend: PyTorch3D itself where it is built; everywhere, a few lines
that rasterise as its notes on cameras say, to hold our conversion to its coordinates to them."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from mesh_truth import brute_force, make_camera

from geodiff.errors import MissingDependencyError
from geodiff.raster import mesh_pytorch3d
from geodiff.raster.mesh import interpolate, rasterize


def documented(meshes: SimpleNamespace, image_size: tuple[int, int], **settings: object) -> tuple[torch.Tensor, ...]:
    """x from left to right falls from +rx to -rx, y from top to bottom from +ry to -ry, 1 for the shorter side."""
    height, width = image_size
    rx, ry = (side / min(image_size) for side in (width, height))
    x = rx - (2 * np.arange(width) + 1) / width * rx
    y = ry - (2 * np.arange(height) + 1) / height * ry
    places = np.stack([*np.meshgrid(x, y), np.ones((height, width))], -1)
    found, nearest = np.full((height, width), -1), np.full((height, width), -1.0)
    weights = np.full((height, width, 3), -1.0)
    points = meshes.verts[0].double().numpy()
    for index, corners in enumerate(meshes.faces[0].numpy()):
        flat, z = np.c_[points[corners, :2], np.ones(3)], points[corners, 2]
        plain = places @ np.linalg.inv(flat)
        true = plain / z / (plain / z).sum(-1, keepdims=True)
        depth = true @ z
        nearer = (plain > 0).all(-1) & ((found < 0) | (depth < nearest))
        found[nearer], nearest[nearer], weights[nearer] = index, depth[nearer], true[nearer]
    tensors = (torch.from_numpy(values)[None, :, :, None] for values in (found, nearest, weights))
    return (*tensors, torch.zeros(1))


@pytest.fixture(params=["numba", "pytorch3d", "documented"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "pytorch3d" and not mesh_pytorch3d.available():
        pytest.skip("PyTorch3D is not built here")
    if request.param != "documented":
        return request.param
    names = ("pytorch3d", "pytorch3d.renderer", "pytorch3d.renderer.mesh", "pytorch3d.structures")
    for name in (*names, "pytorch3d.renderer.mesh.rasterize_meshes"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["pytorch3d.renderer.mesh.rasterize_meshes"].rasterize_meshes = documented  # type: ignore[attr-defined]
    sys.modules["pytorch3d.structures"].Meshes = SimpleNamespace  # type: ignore[attr-defined]
    return "pytorch3d"


@pytest.mark.parametrize(("width", "height"), [(24, 20), (18, 30), (25, 25)])
def test_fragments_are_those_of_brute_force(backend: str, width: int, height: int) -> None:
    generator = np.random.default_rng(width)
    vertices = generator.uniform([-1.5, -1.5, -0.3], [1.5, 1.5, 3.0], (60, 3)).astype(np.float32)
    faces = np.arange(60).reshape(-1, 3)
    camera = make_camera(width, height, cx=11.0, cy=8.5)
    face, depth, margin = brute_force(vertices, faces, camera)
    found = rasterize(vertices, faces, camera, backend=backend)
    sure = margin > 1e-4
    assert (face[sure] >= 0).sum() > 50
    np.testing.assert_array_equal(found.face[sure], face[sure])
    np.testing.assert_allclose(found.depth[sure], depth[sure], rtol=1e-3)
    assert (found.face.dtype, found.barycentrics.dtype, found.depth.dtype) == (np.int32, np.float32, np.float32)
    np.testing.assert_allclose(found.barycentrics.sum(-1), found.mask, atol=1e-4)


def test_weights_are_correct_in_perspective(backend: str) -> None:
    vertices = torch.tensor([[-3.0, -2.0, 1.0], [4.0, -1.0, 6.0], [0.0, 5.0, 3.0]])
    faces = torch.tensor([[0, 1, 2]])
    camera = make_camera(40, 30)
    fragments = rasterize(vertices, faces, camera, backend=backend)
    assert fragments.mask.sum() > 200
    position = interpolate(fragments, faces, vertices)[fragments.mask]
    rows, columns = np.nonzero(fragments.mask)
    seen = position @ camera.K.numpy().T
    np.testing.assert_allclose(seen[:, 0] / seen[:, 2], columns + 0.5, atol=2e-3)
    np.testing.assert_allclose(seen[:, 1] / seen[:, 2], rows + 0.5, atol=2e-3)


def test_faces_behind_degenerate_or_turned_away(backend: str) -> None:
    vertices = np.array([[0.0, 0, 2], [1, 1, 2], [2, 2, 2], [-3, -3, -1], [3, -3, 2], [0, 4, 2]])
    skipped = np.array([[0, 1, 2], [0, 0, 1], [3, 4, 5]])
    assert not rasterize(vertices, skipped, make_camera(), backend=backend).mask.any()
    assert not rasterize(vertices, np.zeros((0, 3), int), make_camera(), backend=backend).mask.any()
    triangle = np.array([[-1.0, 1, 3], [1, 1, 3], [0, -1, 3]])
    front, back = np.array([[0, 1, 2]]), np.array([[0, 2, 1]])
    assert rasterize(triangle, front, make_camera(), cull=True, backend=backend).mask.any()
    assert not rasterize(triangle, back, make_camera(), cull=True, backend=backend).mask.any()
    assert rasterize(triangle, np.concatenate([skipped * 0, back]), make_camera(), backend=backend).face.max() == 3


def test_backends_that_are_not_there_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch3d", None)
    triangle, face = np.array([[-1.0, 1, 3], [1, 1, 3], [0, -1, 3]]), np.array([[0, 1, 2]])
    with pytest.raises(MissingDependencyError, match="build it from source, or use numba"):
        rasterize(triangle, face, make_camera(), backend="pytorch3d")
    with pytest.raises(ValueError, match="backend must be one of numba, pytorch3d"):
        rasterize(triangle, face, make_camera(), backend="opengl")
