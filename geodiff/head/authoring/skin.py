"""The skin through the landmarks: position of every vertex, and the linear map that carries displacements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from geodiff.head.authoring.chartmesh import ChartMesh, build_chart_mesh
from geodiff.head.authoring.landmarks import Landmarks, RoughSkin, SolvedSkin
from geodiff.head.authoring.surface import bending_energy, boundary_loops, interpolation_operator

#: Landmarks that lie in loose skin and hold less: where many are close together they would wrinkle it.
SOFT_LANDMARKS, SOFT_TRUST = ("neck", "nape"), 0.02


@dataclass(frozen=True)
class Skin:
    """vertices: (V, 3) metres. faces: (F, 3). mirror: (V,). rims: opening -> loop. rings: opening -> loops
    from its rim outwards (mouth, eye_left, eye_right). operator: (V, L), weights that carry displacements of the
    landmarks (all L; columns of inner ones are zero) to the vertices.
    """

    vertices: np.ndarray
    faces: np.ndarray
    mirror: np.ndarray
    rims: dict[str, np.ndarray]
    rings: dict[str, list[np.ndarray]]
    operator: np.ndarray


def locate(points: np.ndarray, mesh_points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangle (N,) and barycentric coordinates (N, 3) of planar points; points just outside go to the nearest edge."""
    corners = mesh_points[faces]
    centres = corners.mean(1)
    _, near = cKDTree(centres).query(points, k=min(64, len(faces)))
    a, b, c = (corners[near][:, :, k] for k in range(3))
    area = np.cross(b - a, c - a)
    p = points[:, None]
    weights = np.stack([np.cross(b - p, c - p), np.cross(c - p, a - p), np.cross(a - p, b - p)], -1) / area[..., None]
    best = np.argmax(weights.min(-1), 1)
    rows = np.arange(len(points))
    chosen = np.clip(weights[rows, best], 0, None)
    return near[rows, best], chosen / chosen.sum(1, keepdims=True)


def build_mesh_and_skin(landmarks: Landmarks) -> tuple[ChartMesh, Skin]:
    """Triangulation and skin: made on a rough skin first, then anew with edges measured on the first."""
    rough = RoughSkin(landmarks)
    mesh = build_chart_mesh(landmarks, rough, rounds=15)
    first = build_skin(landmarks, mesh, rough(mesh.points), rounds=2)
    solved = SolvedSkin(mesh.points, mesh.faces, first.vertices)
    mesh = build_chart_mesh(landmarks, solved)
    return mesh, build_skin(landmarks, mesh, solved(mesh.points))


def rings_by_opening(mesh: ChartMesh) -> dict[str, list[np.ndarray]]:
    """The chart's rings, sorted by the opening that they go around."""
    mouth = [ring for ring in mesh.rings if len(ring) == len(mesh.rims["mouth"])]
    lids = [ring for ring in mesh.rings if len(ring) == len(mesh.rims["eye_left"])]
    return {"mouth": mouth, "eye_left": lids[0::2], "eye_right": lids[1::2]}


def build_skin(landmarks: Landmarks, mesh: ChartMesh, guess: np.ndarray, rounds: int = 3) -> Skin:
    """Least-bending surface through the landmarks; the weights of the energy follow the surface, hence the rounds."""
    members = np.flatnonzero(landmarks.on_skin)
    triangle, weights = locate(landmarks.chart[members], mesh.points, mesh.faces)
    rows = np.repeat(np.arange(len(members)), 3)
    constraints = sparse.coo_matrix(
        (weights.ravel(), (rows, mesh.faces[triangle].ravel())), shape=(len(members), len(mesh.points))
    ).tocsr()
    loops = boundary_loops(mesh.faces)
    soft = np.isin(members, landmarks.find(*SOFT_LANDMARKS))
    trust = np.where(soft, SOFT_TRUST, 1.0)
    vertices = guess
    operator = np.zeros((len(vertices), len(members)))
    for _ in range(rounds):
        energy = bending_energy(vertices, mesh.faces, mesh.points, loops, mesh.rings)
        operator = interpolation_operator(energy, constraints, trust)
        vertices = operator @ landmarks.mean[members]
        vertices = 0.5 * (vertices + vertices[mesh.mirror] * [-1, 1, 1])
    whole = np.zeros((len(vertices), len(landmarks.names)))
    whole[:, members] = operator
    return Skin(vertices, mesh.faces, mesh.mirror, mesh.rims, rings_by_opening(mesh), whole)
