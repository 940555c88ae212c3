"""How near the bundled head comes to other heads: fitted to random ICT-FaceKit identities, and to its expressions.

    python scripts/head_accuracy.py PATH/ict_facekit.npz [--identities 50]

Prints mean distances in millimetres from points of the target's surface to the fitted head's surface. The fit is
iterative closest points with a prior of one standard deviation on every mode; the global pose is free.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from landmark_source import Source, read_source, skin_of
from scipy.spatial import cKDTree

from geodiff.head.builtin import load_builtin
from geodiff.head.model import HeadModel


def point_triangle_distance(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(N, 3) points, (N, K, 3, 3) candidate triangles -> (N,) distance to the nearest of them (Ericson 2005, 5.1.5)."""
    a, b, c = (corners[:, :, k] for k in range(3))
    p = points[:, None]
    normal = np.cross(b - a, c - a)
    area = np.maximum((normal**2).sum(-1), 1e-20)
    weights = np.stack([(np.cross(c - b, p - b) * normal).sum(-1), (np.cross(a - c, p - c) * normal).sum(-1),
                        (np.cross(b - a, p - a) * normal).sum(-1)], -1)  # fmt: skip
    inside = (weights >= 0).all(-1)
    plane = np.abs(((p - a) * normal).sum(-1)) / np.sqrt(area)

    def to_edge(start: np.ndarray, end: np.ndarray) -> np.ndarray:
        edge = end - start
        along = np.clip(((p - start) * edge).sum(-1) / np.maximum((edge**2).sum(-1), 1e-20), 0, 1)
        return np.linalg.norm(p - start - along[..., None] * edge, axis=-1)

    border = np.minimum(np.minimum(to_edge(a, b), to_edge(b, c)), to_edge(c, a))
    return np.where(inside, plane, border).min(1)


class Comparison:
    """The bundled head's skin against the source's skin."""

    def __init__(self, head: HeadModel, source: Source) -> None:
        self.head = head
        skin = skin_of(source)
        self.skin_index = skin.index
        inner = head.regions["eyeballs"] | head.regions["teeth"] | head.regions["mouth_interior"]
        self.faces = head.faces[~inner[head.faces].any(-1)].numpy()
        points = source.points[skin.index]
        x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
        hidden = np.zeros(len(points), bool)
        for loop in skin.loops.values():
            hidden |= cKDTree(points[loop]).query(points)[0] < 0.002
        ears = (x > 0.070) & (np.abs(z) < 0.035) & (y > -0.04) & (y < 0.045)
        face = (z > 0.02) & (y > -0.085) & (y < 0.075) & ~ears
        masks = {"face and ears": face | ears, "face": face, "whole head": y > -0.10}
        self.regions = {name: mask & ~hidden for name, mask in masks.items()}

    def distance(self, target: np.ndarray, vertices: np.ndarray) -> np.ndarray:
        """(S,) metres from each point of the target's skin to the head's surface."""
        triangles = vertices[self.faces]
        near = cKDTree(triangles.mean(1)).query(target, k=12)[1]
        return point_triangle_distance(target, triangles[near])

    def fit(
        self, target: np.ndarray, template: np.ndarray, basis: np.ndarray, prior: float, rounds: int = 12
    ) -> np.ndarray:
        """Vertices of template + basis (M, V, 3), and a small rigid motion, fitted to the target's points."""
        used = np.unique(self.faces)
        movement = np.concatenate([basis[:, used], rigid_basis(template[used])])
        scale = np.r_[np.full(len(basis), prior), np.full(6, 1e-6)]
        weights = np.zeros(len(movement))
        tree = cKDTree(target)
        for _ in range(rounds):
            current = template[used] + np.einsum("m,mvc->vc", weights, movement)
            whole = np.zeros_like(template)
            whole[used] = current
            normals = normals_of(whole, self.faces)[used]
            distance, nearest = tree.query(current)
            trust = (distance < 0.012).astype(float)
            rows = np.einsum("mvc,vc->vm", movement, normals)
            slide = movement.reshape(len(movement), -1).T * 0.15
            wanted = target[nearest] - template[used]
            each = np.repeat(trust, 3)
            system = rows.T @ (trust[:, None] * rows) + slide.T @ (each[:, None] * slide) + np.diag(scale)
            right = rows.T @ (trust * (wanted * normals).sum(1)) + 0.15 * slide.T @ (each * wanted.ravel())
            weights = np.linalg.solve(system, right)
        moves = np.concatenate([basis, rigid_basis(template)])
        return template + np.einsum("m,mvc->vc", weights, moves)


def rigid_basis(points: np.ndarray) -> np.ndarray:
    """(6, V, 3) infinitesimal rotations and translations."""
    axes = np.eye(3)
    turns = np.stack([np.cross(axis, points) for axis in axes])
    return np.concatenate([turns, np.broadcast_to(axes[:, None], (3, *points.shape)) * 0.1])


def normals_of(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = vertices[faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, faces[:, k], flat)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def report(label: str, distances: np.ndarray, regions: dict[str, np.ndarray]) -> None:
    parts = [f"{name} {1000 * distances[:, mask].mean():.2f} mm" for name, mask in regions.items()]
    print(f"{label}: " + ", ".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--identities", type=int, default=50)
    parser.add_argument("--expressions", type=int, default=40)
    options = parser.parse_args()
    source, head = read_source(options.source), load_builtin()
    comparison = Comparison(head, source)
    neutral = source.points[comparison.skin_index]
    template = head.template.double().numpy()
    shapes, expressions = head.shape_basis.double().numpy(), head.expr_basis.double().numpy()
    report("mean head", comparison.distance(neutral, template)[None], comparison.regions)

    random = np.random.default_rng(0)
    distances = []
    for _ in range(options.identities):
        weights = random.normal(size=len(source.identity))
        target = neutral + np.einsum("m,mvc->vc", weights, source.identity[:, comparison.skin_index])
        distances.append(comparison.distance(target, comparison.fit(target, template, shapes, prior=2e-6)))
    report(f"{options.identities} identities", np.stack(distances), comparison.regions)

    fields = {name: field[comparison.skin_index] for name, field in source.expressions.items()}
    strongest = sorted(fields, key=lambda name: -float((fields[name] ** 2).sum()))[: options.expressions]
    distances = []
    for name in strongest:
        target = neutral + fields[name]
        distances.append(comparison.distance(target, comparison.fit(target, template, expressions, prior=2e-5)))
    report(f"{len(strongest)} expressions", np.stack(distances), comparison.regions)


if __name__ == "__main__":
    main()
