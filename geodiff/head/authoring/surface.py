"""Discrete differential geometry used while authoring the head: Laplacians, bending energy, interpolation of landmarks.

The surface between landmarks is the one of least bending, in the sense of Botsch and Kobbelt, "An Intuitive Framework
for Real-Time Freeform Modeling" (2004): minimise the integral of the squared Laplacian subject to the landmarks.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

#: Length that makes the bending of a boundary curve comparable to the bending of the surface beside it, in metres.
CURVE_LENGTH = 0.004
#: Rounds of averaging of the areas that weigh the surface's bending.
AREA_SMOOTHING = 8


def edges_of(faces: np.ndarray) -> np.ndarray:
    """(F, 3) -> (3F, 2) directed edges."""
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def boundary_loops(faces: np.ndarray) -> list[np.ndarray]:
    """Closed boundary loops as vertex indices, each in the direction of its triangles' edges."""
    directed = {(int(a), int(b)) for a, b in edges_of(faces)}
    following = {a: b for a, b in sorted(directed) if (b, a) not in directed}
    loops = []
    while following:
        first = min(following)
        loop, current = [first], following.pop(first)
        while current != first:
            loop.append(current)
            current = following.pop(current)
        loops.append(np.array(loop))
    return loops


def cotangent_laplacian(
    vertices: np.ndarray, faces: np.ndarray, floor: float = 0.02
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Stiffness (V, V), positive semidefinite, and lumped vertex areas (V,).

    Edge weights are floored at `floor`, which keeps badly shaped triangles from turning the surface inside out.
    """
    count = len(vertices)
    rows, cols, weights = [], [], []
    corners = vertices[faces]
    for k in range(3):
        a, b = corners[:, (k + 1) % 3] - corners[:, k], corners[:, (k + 2) % 3] - corners[:, k]
        area = np.linalg.norm(np.cross(a, b), axis=1)
        weights.append(0.5 * (a * b).sum(1) / np.maximum(area, 1e-14))
        rows.append(faces[:, (k + 1) % 3])
        cols.append(faces[:, (k + 2) % 3])
    i, j, w = np.concatenate(rows), np.concatenate(cols), np.concatenate(weights)
    adjacency = sparse.coo_matrix((np.r_[w, w], (np.r_[i, j], np.r_[j, i])), shape=(count, count)).tocsr()
    adjacency.data = np.clip(adjacency.data, floor, 20.0)
    stiffness = sparse.diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency
    areas = np.zeros(count)
    double = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    np.add.at(areas, faces.ravel(), np.repeat(double / 6, 3))
    return stiffness.tocsr(), np.maximum(areas, 1e-14)


def smoothed(values: np.ndarray, faces: np.ndarray, rounds: int) -> np.ndarray:
    """(V,) values averaged with their neighbours, over and over."""
    pairs = edges_of(faces)
    graph = sparse.coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(values),) * 2).tocsr()
    graph = graph + graph.T
    total = np.asarray(graph.sum(1)).ravel()
    for _ in range(rounds):
        values = 0.5 * values + 0.5 * (graph @ values) / total
    return values


def bending_energy(
    vertices: np.ndarray, faces: np.ndarray, chart: np.ndarray, loops: list[np.ndarray], rings: list[np.ndarray]
) -> sparse.csc_matrix:
    """Quadratic form (V, V) of the surface's bending plus that of its boundary curves and of other closed curves.

    The chart (V, 2) is close to conformal, and the Laplacian's stiffness does not change under conformal maps: it is
    taken from the chart, whose triangles are well shaped, and the surface (V, 3) gives only the areas, smoothed. That
    is much steadier than measuring angles on a surface that is not known yet. Only interior vertices count: at the
    boundary the Laplacian would ask for a vanishing slope.
    """
    stiffness, flat_areas = cotangent_laplacian(np.c_[chart, np.zeros(len(chart))], faces)
    _, areas = cotangent_laplacian(vertices, faces)
    areas = flat_areas * np.exp(smoothed(np.log(areas / flat_areas), faces, rounds=AREA_SMOOTHING))
    inverse = 1.0 / areas
    inverse[np.concatenate(loops)] = 0.0
    energy = stiffness.T @ sparse.diags(inverse) @ stiffness
    for loop in [*loops, *rings]:
        after, before = np.roll(loop, -1), np.roll(loop, 1)
        step = 0.5 * (
            np.linalg.norm(vertices[after] - vertices[loop], axis=1)
            + np.linalg.norm(vertices[before] - vertices[loop], axis=1)
        )
        weight = np.sqrt(CURVE_LENGTH / np.maximum(step, 1e-6) ** 3)
        ahead = np.linalg.norm(vertices[after] - vertices[loop], axis=1)
        behind = np.linalg.norm(vertices[before] - vertices[loop], axis=1)
        total = np.maximum(ahead + behind, 1e-9)
        rows = np.tile(np.arange(len(loop)), 3)
        values = np.concatenate([-2 * weight, 2 * weight * behind / total, 2 * weight * ahead / total])
        second = sparse.coo_matrix(
            (values, (rows, np.concatenate([loop, after, before]))), shape=(len(loop), len(vertices))
        )
        energy = energy + second.T @ second
    return sparse.csc_matrix(energy)


def interpolation_operator(
    energy: sparse.csc_matrix, constraints: sparse.csr_matrix, trust: np.ndarray, stiffness: float = 1e7
) -> np.ndarray:
    """The linear map (V, L) from landmark values to vertex values that bends least.

    constraints: (L, V), one row a landmark: the barycentric coordinates where it lies. stiffness: how strongly the
    landmarks hold, in units of the energy; finite, so that near-coincident landmarks do not fight. trust: (L,) factor
    on the stiffness of each landmark.
    """
    pull = stiffness * constraints.T @ sparse.diags(trust)
    system = sparse.csc_matrix(energy + pull @ constraints)
    regular = system + sparse.identity(system.shape[0]) * (1e-9 * system.diagonal().mean())
    return splu(sparse.csc_matrix(regular)).solve(np.asarray(pull.todense()))
