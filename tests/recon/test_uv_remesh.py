"""The grid over the head: nothing is joined that the head keeps apart, and it lies on the head in every expression."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch

from geodiff.head.builtin import load_builtin
from geodiff.head.model import HeadModel
from geodiff.types import HeadParams
from recon.layers.uv_remesh import MAX_HOPS, GridMesh, _kept_faces, build, face_graph, remesh


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_builtin()


@pytest.fixture(scope="module")
def grid(head: HeadModel) -> GridMesh:
    return build(head, 128)


def _expression(head: HeadModel, **weights: float) -> HeadParams:
    expr = torch.zeros(1, head.num_expr)
    for name, weight in weights.items():
        expr[0, head.expression_names.index(name)] = weight
    return head.zeros().replace(expr=expr)


def _hops(neighbours: list[list[int]], start: int, goal: int, limit: int) -> int:
    """Steps from one triangle to another by plain breadth-first search; limit + 1 where there are more."""
    seen, queue = {start}, deque([(start, 0)])
    while queue:
        current, depth = queue.popleft()
        if current == goal:
            return depth
        if depth < limit:
            for other in neighbours[current]:
                if other not in seen:
                    seen.add(other)
                    queue.append((other, depth + 1))
    return limit + 1


def test_corners_of_kept_faces_are_within_five_hops(head: HeadModel, grid: GridMesh) -> None:
    edges: dict[tuple[int, int], list[int]] = {}
    for number, triangle in enumerate(head.faces.tolist()):
        for a, b in ((0, 1), (1, 2), (2, 0)):
            edges.setdefault(tuple(sorted((triangle[a], triangle[b]))), []).append(number)
    neighbours: list[list[int]] = [[] for _ in range(len(head.faces))]
    for owners in edges.values():
        for one in owners:
            neighbours[one] += [other for other in owners if other != one]
    chosen = grid.triangles[torch.randperm(len(grid.triangles), generator=torch.Generator().manual_seed(0))[:1500]]
    for a, b, c in grid.face[chosen].tolist():
        assert max(_hops(neighbours, *pair, MAX_HOPS) for pair in ((a, b), (b, c), (c, a))) <= MAX_HOPS


def test_no_face_bridges_the_lips_or_the_lids(head: HeadModel, grid: GridMesh) -> None:
    """With the mouth wide open and the eyes wide, a bridge would be as long as the opening."""
    shut = head.vertices(_expression(head, eyeBlinkLeft=1.0, eyeBlinkRight=1.0))[0]
    wide = head.vertices(_expression(head, jawOpen=1.0, eyeWideLeft=1.0, eyeWideRight=1.0))[0]
    edges = grid.edges()
    points = [grid.points(vertices, head.faces) for vertices in (shut, wide)]
    lengths = [(p[edges[:, 0]] - p[edges[:, 1]]).norm(dim=1) for p in points]
    opening = float((wide - shut).norm(dim=1).max())
    assert opening > 0.02 and float((lengths[1] - lengths[0]).max()) < 0.4 * opening


def test_faces_between_parts_that_only_meet_in_the_layout_are_dropped() -> None:
    """Two strips of triangles side by side in the layout, joined at the far end alone, like lips at their corner."""
    length, size = 40, 42
    faces = np.array([[i, i + 1, i + 2] for i in range(length)])
    owner = np.full((size, size), -1)
    owner[1 : length // 2 + 1, 3] = np.arange(length // 2)
    owner[1 : length // 2 + 1, 4] = np.arange(length)[::-1][: length // 2]
    kept = _kept_faces(owner.ravel(), face_graph(faces), size, MAX_HOPS)
    rows = kept // size
    assert len(kept) and (np.ptp(owner.ravel()[kept], axis=1) <= MAX_HOPS).all()
    assert rows.min() > length // 2 - MAX_HOPS
    assert len(_kept_faces(owner.ravel(), face_graph(faces), size, length)) > 2 * len(kept)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_texels_lie_on_the_surface_in_every_expression(head: HeadModel, grid: GridMesh, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    params = head.zeros().replace(
        expr=torch.rand(1, head.num_expr, generator=generator), shape=torch.randn(head.num_shape, generator=generator)
    )
    vertices = head.vertices(params)[0]
    points = grid.points(vertices, head.faces)
    inside = grid.face >= 0
    assert not points[~inside].any()
    corners = vertices[head.faces[grid.face[inside]]]
    a, b, c = corners.unbind(1)
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
    assert float((((points[inside] - a) * normal).sum(1)).abs().max()) < 1e-5
    assert float((grid.barycentrics[inside].sum(1) - 1).abs().max()) < 1e-5
    assert float(grid.barycentrics[inside].min()) >= -1e-6


def test_vertices_read_a_smooth_field_back(head: HeadModel, grid: GridMesh) -> None:
    """A field that is linear over the head is read at the vertices almost as it is; each reading is an average."""
    field = head.template @ torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, 2.0]])
    read = grid.at_vertices(grid.points(field, head.faces))
    face = head.regions["face"]
    assert float((read - field)[face].abs().mean()) < 0.002
    total = grid.at_vertices(torch.ones(128 * 128, 1))
    torch.testing.assert_close(total, torch.ones(head.num_vertices, 1), atol=1e-5, rtol=0)


def test_reading_and_its_gradient_agree_with_double_precision(grid: GridMesh) -> None:
    """Single precision on the CPU takes a faster way."""
    values = torch.randn(128 * 128, 3, generator=torch.Generator().manual_seed(0))
    fast, slow = values.clone().requires_grad_(), values.double().requires_grad_()
    read, other = grid.at_vertices(fast), grid.at_vertices(slow)
    torch.testing.assert_close(read.double(), other, atol=1e-5, rtol=1e-4)
    weights = torch.randn(read.shape, generator=torch.Generator().manual_seed(1))
    (quick,) = torch.autograd.grad((read * weights).sum(), fast)
    (exact,) = torch.autograd.grad((other * weights).sum(), slow)
    torch.testing.assert_close(quick.double(), exact, atol=1e-4, rtol=1e-4)


def test_reading_never_crosses_the_mouth(head: HeadModel, grid: GridMesh) -> None:
    """What only the lower lip does is not read by the upper lip."""
    lowered = _expression(head, mouthLowerDownLeft=1.0, mouthLowerDownRight=1.0)
    moved = head.vertices(lowered)[0] - head.vertices(head.zeros())[0]
    size = moved.norm(dim=1, keepdim=True)
    read = grid.at_vertices(grid.points(size, head.faces))
    still = head.regions["lips"] & (size[:, 0] < 1e-6)
    assert still.any() and float(read[still].mean()) < 0.05 * float(size.max())


def test_the_grid_is_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_head: HeadModel) -> None:
    monkeypatch.setenv("GEODIFF_CACHE", str(tmp_path))
    first = remesh(small_head, 32)
    files = list(tmp_path.rglob("*.npz"))
    assert len(files) == 1
    monkeypatch.setattr("recon.layers.uv_remesh.build", None)
    again = remesh(small_head, 32)
    assert torch.equal(first.triangles, again.triangles) and torch.equal(first.weights, again.weights)
    monkeypatch.undo()
    monkeypatch.setenv("GEODIFF_CACHE", str(tmp_path))
    files[0].write_bytes(b"broken")
    assert torch.equal(remesh(small_head, 32).face, first.face)


def test_the_graph_joins_triangles_over_edges() -> None:
    graph = face_graph(np.array([[0, 1, 2], [2, 1, 3], [3, 4, 5]]))
    assert graph.toarray().astype(bool).tolist() == [[False, True, False], [True, False, False], [False, False, False]]
