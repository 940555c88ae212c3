"""The mesh rasteriser against a brute-force twin, and the properties that its users count on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mesh_truth import brute_force, make_camera

from geodiff.geometry import orbit_camera
from geodiff.raster import mesh, mesh_kernels
from geodiff.raster.mesh import interpolate, rasterize, render_normals
from geodiff.types import Camera


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), offset=st.floats(-10, 30))
def test_matches_brute_force(seed: int, count: int, offset: float) -> None:
    generator = np.random.default_rng(seed)
    vertices = generator.uniform([-1.5, -1.5, -0.3], [1.5, 1.5, 3.0], (3 * count, 3)).astype(np.float32)
    faces = np.arange(3 * count).reshape(-1, 3)
    camera = make_camera(cx=offset)
    face, depth, margin = brute_force(vertices, faces, camera)
    found = rasterize(vertices, faces, camera)
    sure = margin > 1e-5
    np.testing.assert_array_equal(found.face[sure], face[sure])
    np.testing.assert_allclose(found.depth[sure], depth[sure], rtol=1e-4)
    assert (found.face.dtype, found.barycentrics.dtype, found.depth.dtype) == (np.int32, np.float32, np.float32)
    np.testing.assert_allclose(found.barycentrics.sum(-1), found.mask, atol=1e-5)
    assert (found.depth[~found.mask] == 0).all()


def test_linear_fields_are_exact_in_perspective() -> None:
    vertices = torch.tensor([[-3.0, -2.0, 1.0], [4.0, -1.0, 6.0], [0.0, 5.0, 3.0]])
    faces = torch.tensor([[0, 1, 2]])
    camera = make_camera(40, 30)
    fragments = rasterize(vertices, faces, camera)
    assert fragments.mask.sum() > 200
    position = interpolate(fragments, faces, vertices)[fragments.mask]
    rows, columns = np.nonzero(fragments.mask)
    projected = position @ camera.K.numpy().T
    np.testing.assert_allclose(projected[:, 0] / projected[:, 2], columns + 0.5, atol=1e-4)
    np.testing.assert_allclose(projected[:, 1] / projected[:, 2], rows + 0.5, atol=1e-4)
    np.testing.assert_allclose(position[:, 2], fragments.depth[fragments.mask], rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), on_grid=st.booleans())
def test_shared_edges_are_watertight(seed: int, on_grid: bool) -> None:
    """A fan and a grid of triangles over the image: every pixel centre belongs to exactly one face, in any winding."""
    size, cells = 16, 6
    generator = np.random.default_rng(seed)
    steps = np.linspace(-4, size + 4, cells + 1)
    grid = np.stack(np.meshgrid(steps, steps), -1)
    grid[1:-1, 1:-1] += generator.uniform(-1.2, 1.2, (cells - 1, cells - 1, 2))
    if on_grid:
        grid = np.round(grid * 2) / 2  # vertices and edges on pixel centres
    index = np.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)
    a, b, c, d = (x.reshape(-1) for x in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])
    turned = generator.random(len(faces)) < 0.5
    faces[turned] = faces[turned][:, ::-1]
    vertices = np.concatenate([grid.reshape(-1, 2), np.ones(((cells + 1) ** 2, 1))], 1)
    camera = Camera(torch.eye(4), torch.eye(3), size, size)
    covers = sum(rasterize(vertices, face[None], camera).mask.astype(int) for face in faces)
    np.testing.assert_array_equal(covers, np.ones((size, size), int))


def test_nearer_faces_win_and_ties_go_to_the_first() -> None:
    triangle = np.array([[-5.0, -5.0, 0.0], [5.0, -5.0, 0.0], [0.0, 8.0, 0.0]])
    depths = [3.0, 2.0, 2.0, 5.0]
    vertices = np.concatenate([triangle + [0, 0, z] for z in depths])
    fragments = rasterize(vertices, np.arange(12).reshape(-1, 3), make_camera())
    assert fragments.face[10, 12] == 1
    assert fragments.depth[10, 12] == pytest.approx(2.0)


def test_large_meshes_are_drawn_in_another_order_and_look_the_same() -> None:
    """Front faces first, hidden ones left out: as if every face had been tried in order; a third of them are ties."""
    generator = np.random.default_rng(3)
    middle = generator.uniform([-1.0, -1.0, 1.0], [1.0, 1.0, 4.0], (mesh_kernels.MANY, 1, 3))
    vertices = (middle + generator.normal(0, 0.06, (mesh_kernels.MANY, 3, 3))).reshape(-1, 3)
    faces = np.arange(len(vertices)).reshape(-1, 3)
    faces = np.concatenate([faces, faces[::2, [0, 2, 1]], faces[::3]])
    K = torch.tensor([[60.0, 0, 40], [0, 60, 30], [0, 0, 1]])
    camera = Camera(torch.eye(4), K, 81, 61)
    whole = mesh.visible(vertices, faces, camera)
    face, nearest = np.full((61, 81), -1), np.zeros((61, 81))
    for start in range(0, len(faces), 3000):
        part = mesh.visible(vertices, faces[start : start + 3000], camera)
        nearer = part.inverse_depth > nearest
        face = np.where(nearer, part.face + start, face)
        nearest = np.where(nearer, part.inverse_depth, nearest)
    np.testing.assert_array_equal(whole.face, face)
    np.testing.assert_array_equal(whole.inverse_depth, nearest)


def test_degenerate_and_hidden_faces_are_skipped() -> None:
    vertices = np.array([[0.0, 0, 2], [1, 1, 2], [2, 2, 2], [-3, -3, -1], [3, -3, 2], [0, 4, 2]])
    faces = np.array([[0, 1, 2], [0, 0, 1], [3, 4, 5]])
    assert not rasterize(vertices, faces, make_camera()).mask.any()
    assert not rasterize(vertices, np.zeros((0, 3), int), make_camera()).mask.any()


def test_cull_skips_the_faces_seen_from_behind() -> None:
    """Counter-clockwise seen from the camera is a front face: its normal points at the camera."""
    vertices = np.array([[-1.0, 1, 3], [1, 1, 3], [0, -1, 3]])  # y points down in the image
    front, back = np.array([[0, 1, 2]]), np.array([[0, 2, 1]])
    assert render_normals(vertices, front, make_camera())[..., 2].max() == pytest.approx(1.0)
    assert rasterize(vertices, front, make_camera(), cull=True).mask.any()
    assert not rasterize(vertices, back, make_camera(), cull=True).mask.any()
    assert rasterize(vertices, back, make_camera()).mask.any()


def test_corner_attributes_keep_seams() -> None:
    vertices = np.array([[-1.0, -1, 2], [1, -1, 2], [1, 1, 2], [-1, 1, 2]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    corners = np.zeros((2, 3, 2), np.float32)
    corners[1] = 7.0
    image = interpolate(rasterize(vertices, faces, make_camera()), faces, corners)
    np.testing.assert_allclose(np.unique(image.round(4)), [0.0, 7.0])


def sphere(radius: float, segments: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A closed sphere whose faces are counter-clockwise seen from outside."""
    around, down = np.meshgrid(np.linspace(0, 2 * np.pi, segments), np.linspace(0, np.pi, segments))
    points = radius * np.stack([np.sin(down) * np.sin(around), np.cos(down), np.sin(down) * np.cos(around)], -1)
    index = np.arange(segments * segments).reshape(segments, segments)
    a, b, c, d = (x.reshape(-1) for x in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    return points.reshape(-1, 3), np.concatenate([np.stack([a, c, d], 1), np.stack([a, d, b], 1)])


@pytest.mark.parametrize("supersample", [1, 3])
def test_normals_of_a_sphere(supersample: int) -> None:
    vertices, faces = sphere(0.1)
    camera = orbit_camera(0.4, 0.2, 1.0, torch.zeros(3), 200.0, 64, 48)
    normals = render_normals(vertices, faces, camera, supersample)
    length = np.linalg.norm(normals, axis=-1)
    assert length.max() < 1 + 1e-5
    full = length > 0.999
    assert (full.mean() > 0.05) and (length[0] == 0).all()
    y, x = np.nonzero(full)
    assert normals[y.min(), x[y.argmin()], 1] > 0.6  # up at the top of the image
    assert normals[y[x.argmax()], x.max(), 0] > 0.6  # right at its right
    np.testing.assert_allclose(normals[24, 32], [0, 0, 1], atol=0.06)  # towards the camera in the middle
    partial = (length > 0.01) & (length < 0.99)
    assert partial.any() == (supersample > 1)
    area = np.pi * (200.0 * 0.1 / np.sqrt(1 - 0.1**2)) ** 2
    assert length.sum() == pytest.approx(area, rel=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vertices": np.full((3, 3), np.nan)}, "vertices must be finite"),
        ({"faces": np.array([[0, 1, 3]])}, "faces must name vertices 0..2, found 0..3"),
        ({"faces": np.array([[0, 1, 2, 2]])}, r"faces must have shape \(F, 3\)"),
        ({"vertices": np.ones((2, 3, 3))}, r"vertices must have shape \(V, 3\)"),
    ],
)
def test_refusals(change: dict, message: str) -> None:
    arguments = {"vertices": np.ones((3, 3)), "faces": np.array([[0, 1, 2]])} | change
    with pytest.raises(ValueError, match=message):
        rasterize(arguments["vertices"], arguments["faces"], make_camera())
