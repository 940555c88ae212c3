"""Random light, and the shading of a frame: spherical harmonics of degree 2 with ambient occlusion, one directional
light with a shadow map, and a highlight."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numba
import numpy as np
import torch

from geodiff.geometry import look_at, vertex_normals
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.types import Camera

#: Side of shadow maps in pixels and how far off the light is, metres: far enough to be nearly parallel.
SHADOW_SIZE, LIGHT_DISTANCE, SHADOW_SPAN = 320, 6.0, 0.56
SHADOW_BIAS = 0.004


@dataclass(frozen=True)
class Lighting:
    """harmonics: (9, 3) irradiance coefficients, linear RGB. direction: (3,) towards the light, world. color: (3,) of
    the directional light. gloss: strength of highlights. gain: (3,) exposure and white balance. gamma: of the
    picture."""

    harmonics: np.ndarray
    direction: np.ndarray
    color: np.ndarray
    gloss: float
    gain: np.ndarray
    gamma: float


def random_lighting(rng: np.random.Generator) -> Lighting:
    """Light at random: mostly from above and in front, sometimes hard, sometimes coloured."""
    azimuth, height = rng.normal(0, 0.9), rng.uniform(-0.2, 1.2)
    direction = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
    key = rng.uniform(0.0, 0.75)
    tint = 1 + rng.normal(0, 0.05, 3)
    harmonics = np.zeros((9, 3))
    harmonics[0] = (1.0 - 0.7 * key) * (1 + rng.normal(0, 0.04, 3))
    bands = np.concatenate([rng.normal(0, 0.22, (3, 1)), rng.normal(0, 0.08, (5, 1))])
    harmonics[1:] = bands * (1 + rng.normal(0, 0.15, (8, 3))) * harmonics[0]
    harmonics[1] += 0.12 * harmonics[0]
    harmonics[2] += 0.10 * harmonics[0]
    exposure = rng.uniform(0.85, 1.15)
    return Lighting(
        harmonics=harmonics.astype(np.float32),
        direction=direction.astype(np.float32),
        color=(key * 1.1 * tint).astype(np.float32),
        gloss=float(rng.uniform(0.02, 0.35)),
        gain=(exposure * (1 + rng.normal(0, 0.03, 3))).astype(np.float32),
        gamma=float(rng.uniform(1.9, 2.5)),
    )


_occlusions: WeakKeyDictionary[HeadModel, np.ndarray] = WeakKeyDictionary()


def ambient_occlusion(head: HeadModel, directions: int = 48) -> np.ndarray:
    """(V,) 0..1: share of the sky that a vertex sees on the template with the mouth ajar; made once for each head."""
    if head not in _occlusions:
        params = head.zeros()
        if "jawOpen" in head.expression_names:
            params.expr[0, head.expression_names.index("jawOpen")] = 0.35
        vertices = head.vertices(params)[0]
        normals = vertex_normals(vertices, head.faces).numpy()
        total, seen = np.zeros(len(vertices)), np.zeros(len(vertices))
        for i in range(directions):
            height = 1 - 2 * (i + 0.5) / directions
            angle = i * np.pi * (3 - np.sqrt(5))
            ring = np.sqrt(1 - height * height)
            direction = np.array([ring * np.cos(angle), height, ring * np.sin(angle)], np.float32)
            cosine = np.clip(normals @ direction, 0, None)
            total += cosine
            seen += cosine * shadow_test(ShadowMap.make(vertices, head.faces, direction), vertices.numpy())
        _occlusions[head] = (np.clip(seen / np.maximum(total, 1e-6), 0.04, 1.0) ** 0.7).astype(np.float32)
    return _occlusions[head]


@dataclass(frozen=True)
class ShadowMap:
    """Depths seen from a light: camera (R (3, 3), t (3,), focal, centre) and depth (S, S), huge where nothing is."""

    rotation: np.ndarray
    shift: np.ndarray
    focal: float
    depth: np.ndarray

    @staticmethod
    def make(vertices: torch.Tensor, faces: torch.Tensor, direction: np.ndarray) -> ShadowMap:
        middle = torch.tensor([0.0, 0.0, -0.02])
        eye = middle + LIGHT_DISTANCE * torch.as_tensor(direction)
        up = (0.0, 0.0, 1.0) if abs(direction[1]) > 0.95 else (0.0, 1.0, 0.0)
        viewmat = look_at(eye, middle, up)
        focal = SHADOW_SIZE * LIGHT_DISTANCE / SHADOW_SPAN
        half = SHADOW_SIZE / 2
        K = torch.tensor([[focal, 0, half], [0, focal, half], [0, 0, 1]])
        depth = mesh.rasterize(vertices, faces, Camera(viewmat, K, SHADOW_SIZE, SHADOW_SIZE)).depth
        depth = np.where(depth > 0, depth, np.float32(1e3))
        return ShadowMap(viewmat[:3, :3].numpy(), viewmat[:3, 3].numpy(), focal, depth)


@numba.njit(cache=True, nogil=True, fastmath=True)
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


@numba.njit(cache=True, nogil=True, fastmath=True)
def _shade_kernel(albedo, surface, eye, harmonics, direction, color, lit, gloss, gain, out):  # noqa: ANN001, ANN202
    """surface: (N, 8) position, normal, occlusion, shininess (0..1); albedo linear; out: (N, 3) linear."""
    for n in range(albedo.shape[0]):
        nx, ny, nz = surface[n, 3], surface[n, 4], surface[n, 5]
        length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
        nx, ny, nz = nx / length, ny / length, nz / length
        vx, vy, vz = eye[0] - surface[n, 0], eye[1] - surface[n, 1], eye[2] - surface[n, 2]
        length = np.sqrt(vx * vx + vy * vy + vz * vz) + 1e-9
        vx, vy, vz = vx / length, vy / length, vz / length
        facing = nx * vx + ny * vy + nz * vz
        if facing < 0.0:
            nx, ny, nz = -nx, -ny, -nz
        cosine = max(nx * direction[0] + ny * direction[1] + nz * direction[2], 0.0) * lit[n]
        hx, hy, hz = vx + direction[0], vy + direction[1], vz + direction[2]
        length = np.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9
        half = max((nx * hx + ny * hy + nz * hz) / length, 0.0)
        shine = surface[n, 7]
        power = 16.0 + 180.0 * shine
        spec = gloss * (0.35 + 3.0 * shine) * half**power * lit[n]
        for c in range(3):
            sky = harmonics[0, c] + harmonics[1, c] * ny + harmonics[2, c] * nz + harmonics[3, c] * nx
            sky += harmonics[4, c] * nx * ny + harmonics[5, c] * ny * nz + harmonics[6, c] * nx * nz
            sky += harmonics[7, c] * (3 * nz * nz - 1) * 0.5 + harmonics[8, c] * (nx * nx - ny * ny)
            light = max(sky, 0.05 * harmonics[0, c]) * surface[n, 6] + color[c] * cosine
            out[n, c] = gain[c] * (albedo[n, c] * light + spec * color[c])


def shade(
    albedo: np.ndarray, surface: np.ndarray, eye: np.ndarray, light: Lighting, shadow: ShadowMap | None
) -> np.ndarray:
    """Colours of surface points in the picture, (N, 3) in 0..1.

    albedo: (N, 3) linear. surface: (N, 8) world position, normal, ambient occlusion, shininess. eye: (3,) the camera.
    """
    points = np.ascontiguousarray(surface[:, :3])
    lit = np.ones(len(points), np.float32) if shadow is None else shadow_test(shadow, points)
    out = np.empty(albedo.shape, np.float32)
    _shade_kernel(
        albedo, surface, eye.astype(np.float32), light.harmonics, light.direction, light.color, lit,
        np.float32(light.gloss), light.gain, out,
    )  # fmt: skip
    steps = np.linspace(0, 1, 4096, dtype=np.float32) ** np.float32(1 / light.gamma)
    return steps[(np.clip(out, 0, 1) * 4095).astype(np.uint16)]
