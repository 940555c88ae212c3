"""Shadow maps: what of a mesh a distant light reaches, and how much of the sky each vertex of a head sees."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch

from geodiff.geometry import look_at, vertex_normals
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.raster.compiled import kept
from geodiff.types import Camera

#: Side of shadow maps in pixels and how far off the light is, metres: far enough to be nearly parallel.
SHADOW_SIZE, LIGHT_DISTANCE, SHADOW_SPAN = 320, 6.0, 0.56
SHADOW_BIAS = 0.004
#: From how many sides the sky is looked at.
DIRECTIONS = 48

_occlusions: WeakKeyDictionary[HeadModel, np.ndarray] = WeakKeyDictionary()


@dataclass(frozen=True)
class ShadowMap:
    """Depths seen from a light: camera (R (3, 3), t (3,), focal, centre) and depth (S, S), huge where nothing is."""

    rotation: np.ndarray
    shift: np.ndarray
    focal: float
    depth: np.ndarray

    @staticmethod
    def make(vertices: mesh.Array, faces: mesh.Array, direction: np.ndarray) -> ShadowMap:
        middle = torch.tensor([0.0, 0.0, -0.02])
        eye = middle + LIGHT_DISTANCE * torch.as_tensor(direction)
        up = (0.0, 0.0, 1.0) if abs(direction[1]) > 0.95 else (0.0, 1.0, 0.0)
        viewmat = look_at(eye, middle, up)
        focal = SHADOW_SIZE * LIGHT_DISTANCE / SHADOW_SPAN
        half = SHADOW_SIZE / 2
        K = torch.tensor([[focal, 0, half], [0, focal, half], [0, 0, 1]])
        depth = mesh.visible(vertices, faces, Camera(viewmat, K, SHADOW_SIZE, SHADOW_SIZE)).depth()
        depth = np.where(depth > 0, depth, np.float32(1e3))
        return ShadowMap(viewmat[:3, :3].numpy(), viewmat[:3, 3].numpy(), focal, depth)


@kept(fastmath=True)
def _shadow_kernel(points, rotation, shift, focal, depth, bias, out):  # noqa: ANN001, ANN202
    size = depth.shape[0]
    for n in range(points.shape[0]):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        cz = rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z + shift[2]
        u = focal * (rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z + shift[0]) / cz + size / 2
        v = focal * (rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z + shift[1]) / cz + size / 2
        lit = 0.0
        # Bilinear weights over a 3 x 3 neighbourhood: the test is soft over about two texels.
        bu, bv = int(np.floor(u - 0.5)), int(np.floor(v - 0.5))
        fu, fv = u - 0.5 - bu, v - 0.5 - bv
        for j in range(-1, 3):
            wv = (1 - fv) if j == -1 else (fv if j == 2 else 1.0)
            for i in range(-1, 3):
                wu = (1 - fu) if i == -1 else (fu if i == 2 else 1.0)
                row, column = min(max(bv + j, 0), size - 1), min(max(bu + i, 0), size - 1)
                if cz < depth[row, column] + bias:
                    lit += wu * wv
        out[n] = lit / 9.0


def shadow_test(shadow: ShadowMap, points: np.ndarray) -> np.ndarray:
    """(N, 3) points -> (N,) 0..1, how much of the light reaches them."""
    out = np.empty(len(points), np.float32)
    _shadow_kernel(points, shadow.rotation, shadow.shift, shadow.focal, shadow.depth, SHADOW_BIAS, out)
    return out


def ambient_occlusion(head: HeadModel) -> np.ndarray:
    """(V,) 0..1: share of the sky that a vertex sees on the template with the mouth ajar; made once for each head."""
    if head not in _occlusions:
        params = head.zeros()
        if "jawOpen" in head.expression_names:
            params.expr[0, head.expression_names.index("jawOpen")] = 0.35
        vertices = head.vertices(params)[0]
        normals = vertex_normals(vertices, head.faces).numpy()
        total, seen = np.zeros(len(vertices)), np.zeros(len(vertices))
        for i in range(DIRECTIONS):
            height = 1 - 2 * (i + 0.5) / DIRECTIONS
            angle = i * np.pi * (3 - np.sqrt(5))
            ring = np.sqrt(1 - height * height)
            direction = np.array([ring * np.cos(angle), height, ring * np.sin(angle)], np.float32)
            cosine = np.clip(normals @ direction, 0, None)
            total += cosine
            seen += cosine * shadow_test(ShadowMap.make(vertices, head.faces, direction), vertices.numpy())
        _occlusions[head] = (np.clip(seen / np.maximum(total, 1e-6), 0.04, 1.0) ** 0.7).astype(np.float32)
    return _occlusions[head]
