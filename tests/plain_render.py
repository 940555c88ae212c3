"""The readable twin of `geodiff.synth.render`: every sample is lit by itself, in plain numpy."""

from __future__ import annotations

import numpy as np

from geodiff.raster import mesh
from geodiff.raster.shadow import SHADOW_BIAS
from geodiff.synth.light import (
    COLORED,
    COLORED_SHIFT,
    REACH,
    SEARCH,
    TAPS,
    WHITE_SHIFT,
    WRAP,
    Lamps,
)
from geodiff.synth.render import HAIR
from geodiff.types import Camera


def plain_render(points, faces, table, layer, uvs, texture, lamps: Lamps, camera: Camera, supersample: int):
    """Colours on black, world normals, covered shares: as `geodiff.synth.render.render`."""
    fine = camera.resized(camera.width * supersample, camera.height * supersample)
    seen = mesh.rasterize(points, faces, fine)
    covered = seen.face >= 0
    surface = mesh.interpolate(seen, faces, table)[covered]
    uv = mesh.interpolate(seen, faces, uvs)[covered]
    eye = camera.center.numpy()
    towards = eye - surface[:, :3]
    facing = np.minimum((surface[:, 3:6] * towards).sum(1), 0) / (towards**2).sum(1)
    hair = layer[seen.face[covered]] & HAIR > 0
    surface[:, 3:6] *= np.where((facing < 0) & ~hair, -1, 1)[:, None]
    surface[:, 3:6] -= 2 * (facing * hair)[:, None] * towards
    rows, columns = np.nonzero(covered)
    spin = ((columns // supersample) * 73856093) ^ ((rows // supersample) * 19349663)
    corners = faces[seen.face[covered]]
    root, tip = corners[:, [0, 2]].min(1), corners[:, [0, 2]].max(1)
    tangent = unit(points[tip] - points[root]) * hair[:, None]
    colors = shade(texel(texture, uv), surface, towards, lamps, spin, tangent)

    def pixels(values: np.ndarray) -> np.ndarray:
        full = np.zeros((*covered.shape, values.shape[1]))
        full[covered] = values
        return full.reshape(camera.height, supersample, camera.width, supersample, -1).mean((1, 3))

    return pixels(colors), pixels(surface[:, 3:6]), pixels(np.ones((len(surface), 1)))[..., 0]


def texel(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear samples (N, 4) at places (N, 2) in 0..1."""
    size = np.array(texture.shape[1::-1])
    place = np.clip(uv * size - 0.5, 0, size - 1)
    low = np.minimum(place.astype(int), size - 2)
    fx, fy = (place - low).T[..., None]
    x, y = low.T
    upper = texture[y, x] * (1 - fx) + texture[y, x + 1] * fx
    return upper * (1 - fy) + (texture[y + 1, x] * (1 - fx) + texture[y + 1, x + 1] * fx) * fy


def shade(
    paint: np.ndarray, surface: np.ndarray, towards: np.ndarray, lamps: Lamps, spin: np.ndarray, tangent: np.ndarray
) -> np.ndarray:
    """Colours (N, 3) of painted (N, 4) points, rows (N, 9) of the table; towards: (N, 3) the eye; tangent: (N, 3) the
    way hair runs, 0 where there is none."""
    normal, view = unit(surface[:, 3:6]), unit(towards)
    hair = np.abs(tangent).max(1) > 0
    x, y, z = normal.T
    basis = np.stack([np.ones_like(x), y, z, x, x * y, y * z, x * z, (3 * z * z - 1) / 2, x * x - y * y], 1)
    light = np.maximum(basis @ lamps.harmonics, 0.05 * lamps.harmonics[0]) * surface[:, 6:7]
    glints = np.zeros_like(light)
    unfolded = 1 - np.clip(surface[:, 8] * paint[:, 3], 0, 0.6)
    for number, (direction, color) in enumerate(zip(lamps.directions, lamps.colors, strict=True)):
        raw, lit = normal @ direction, reaches(lamps, number, surface[:, :3], spin)
        cosine = np.maximum(raw, 0)
        middle = unit(view + direction)
        half = np.maximum((normal * middle).sum(1), 0)
        glint = lamps.gloss * (0.35 + 3 * surface[:, 7]) * half ** (16 + 180 * surface[:, 7])
        glint *= np.minimum(8 * cosine, 1) * lit
        wrapped = np.maximum((raw + WRAP) / (1 + WRAP), 0) * lit
        along, lean = (tangent * middle).sum(1), (normal * middle).sum(1)
        white, colored = (
            np.maximum(1 - (along - shift * lean) ** 2 / (1 + shift**2), 0) ** (power / 2)
            for shift, power in ((WHITE_SHIFT, 60), (COLORED_SHIFT, 14))
        )
        light += color * np.where(hair, wrapped * (0.75 + COLORED * colored), cosine * lit)[:, None]
        glints += color * np.where(hair, wrapped * lamps.gloss * 0.6 * white * unfolded, glint)[:, None]
    linear = np.clip(lamps.gain * (paint[:, :3] * unfolded[:, None] * light + glints), 0, 1)
    return lamps.curve[(linear * (len(lamps.curve) - 1)).astype(int)]


def reaches(lamps: Lamps, number: int, points: np.ndarray, spin: np.ndarray) -> np.ndarray:
    """(N,) how much of a light reaches points (N, 3)."""
    depth = lamps.depths[number]
    local = points @ lamps.rotations[number].T + lamps.shifts[number]
    away, scale = local[:, 2], lamps.focal / local[:, 2]
    middle = scale[:, None] * local[:, :2] + len(depth) / 2
    angle = ((spin * 1274126177 >> 8) & 0xFFFF) * 2 * np.pi / 65536
    turn = np.stack([np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], 1)

    def tries(taps: np.ndarray, wide: np.ndarray) -> np.ndarray:
        place = middle[:, None] + np.einsum("nij,tj->nti", turn, taps) * wide[:, None, None]
        column, row = np.clip(place.astype(int), 0, len(depth) - 1).transpose(2, 0, 1)
        return depth[row, column]

    wide = np.maximum(lamps.radii[number] * REACH * scale, 1.5)
    front = away[:, None] - tries(TAPS[2 : 3 * SEARCH : 3], wide)
    blocks = front > SHADOW_BIAS + (wide / scale * 0.5)[:, None]
    gap = (front * blocks).sum(1) / np.maximum(blocks.sum(1), 1)
    wide = np.maximum(lamps.radii[number] * gap * scale, 1.5)
    bias = SHADOW_BIAS + (wide - 1.5) / scale * 0.5
    return (away[:, None] <= tries(TAPS, wide) + bias[:, None]).mean(1)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
