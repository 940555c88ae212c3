"""Readable twins of the kernels that make conditions, in plain numpy: `carry`, `Visibility` and `strand_noise`."""

from __future__ import annotations

import numpy as np

from geodiff.conditioning import noise, surface
from geodiff.conditioning.noise import fractal_noise
from geodiff.conditioning.pixels import Carried
from geodiff.conditioning.surface import Visibility, unit
from geodiff.geometry import smoothstep
from geodiff.raster import mesh
from geodiff.raster.chart import sample, to_local, to_pixels
from geodiff.types import Camera


def plain_carry(vertices, carried: Carried, camera: Camera, supersample: int, beside=None):
    """Colour, normal, visibility, mouth, beside (H, W, 9), coverage (H, W): as `geodiff.conditioning.pixels.carry`."""
    fine = camera.resized(camera.width * supersample, camera.height * supersample)
    seen = mesh.rasterize(vertices, carried.faces, fine)
    covered = seen.face >= 0
    point = mesh.interpolate(seen, carried.faces, carried.table)[covered]
    uv = mesh.interpolate(seen, carried.faces, carried.uvs)[covered]
    texel = exact_sample(carried.texture, uv * len(carried.texture))
    place = point[:, :3] @ carried.intrinsics.T
    shown = exact_sample(carried.photo, place[:, :2] / np.maximum(place[:, 2:], 1e-6))
    color = texel[:, :3] + texel[:, 3:] * (shown - texel[:, :3])
    inner = carried.inner[seen.face[covered]][:, None]
    none, all_ = np.zeros((len(uv), 1)), np.ones((len(uv), 1))
    full = np.zeros((*covered.shape, 10))
    full[covered] = np.concatenate([color, point[:, 3:], texel[:, 3:], inner, none, all_], 1)
    if beside is not None:
        more = mesh.rasterize(beside.vertices, beside.faces, fine)
        shown = more.mask & ~covered
        table = mesh.interpolate(more, beside.faces, beside.table)[shown]
        color = exact_sample(beside.photo, table[:, :2])
        part = beside.strength * color[:, 3:].clip(0, 1)
        full[shown] = part * np.concatenate([color[:, :3], table[:, 2:], np.ones((len(part), 4)) * [1, 0, 1, 1]], 1)
    out = full.reshape(camera.height, supersample, camera.width, supersample, 10).mean((1, 3))
    return out[..., :9], out[..., 9]


def exact_sample(image: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Bilinear samples (N, C) of an image at pixels (N, 2), centres at +0.5; cv2.remap rounds places to 1/32."""
    size = np.array(image.shape[1::-1])
    place = np.clip(pixels - 0.5, 0, size - 1)
    low = np.minimum(place.astype(int), size - 2)
    fx, fy = (place - low).T[..., None]
    x, y = low.T
    upper = image[y, x] * (1 - fx) + image[y, x + 1] * fx
    return upper * (1 - fy) + (image[y + 1, x] * (1 - fx) + image[y + 1, x + 1] * fx) * fy


def plain_visibility(seeing: Visibility, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(N,) 0..1: as a call of `Visibility`, but for cv2.remap's rounding."""
    local = to_local(points, seeing.camera)
    pixels = to_pixels(local, seeing.camera)
    directions = normals @ seeing.camera.viewmat[:3, :3].numpy().T
    facing = -(directions * local).sum(-1) / np.maximum(np.linalg.norm(local, axis=-1), 1e-6)
    behind = local[:, 2] - sample(seeing.far, pixels)
    beside = local[:, 2] - sample(seeing.near, pixels)
    seen = smoothstep(facing, *surface.FACING)
    seen *= 1.0 - smoothstep(behind, *surface.DEPTH_TOLERANCE)
    seen *= 1.0 - smoothstep(beside, *surface.EDGE_TOLERANCE)
    border = np.minimum(pixels, seeing.size - pixels).min(1) / seeing.size
    seen *= smoothstep(border, *surface.BORDER)
    return seen * np.clip(2.0 * sample(seeing.matte, pixels) - 1.0, 0.0, 1.0)


def plain_strand_noise(points: np.ndarray, whorl: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """As `strand_noise`."""

    def onto(place: np.ndarray) -> np.ndarray:
        """On a ball above the skull's middle, on a cylinder below it."""
        local = place - centre
        above = np.maximum(local[:, 1:2], 0)
        outward = noise.RADIUS * unit(np.concatenate([local[:, :1], above, local[:, 2:]], 1))
        return centre + outward + (local[:, 1:2] - above) * np.array([0.0, 1.0, 0.0])

    total = np.zeros(len(points))
    for sign in (1, -1):
        place = onto(points.astype(np.float64))
        for tap in range(noise.TAPS + 1):
            sparse = tap % noise.SPARSE == 0
            if tap > 0 or sign > 0:
                total += noise.FINE * fractal_noise(place, noise.STRAND, 1, 1)
                total += sparse * noise.BROAD * fractal_noise(place, noise.LOCK, 1, 2)
            outward = place - centre
            outward[:, 1] = np.maximum(outward[:, 1], 0)
            outward = unit(outward)
            down = place - whorl - [0, noise.FALL, 0]
            down = down - (down * outward).sum(1, keepdims=True) * outward
            if sparse:
                turn = noise.ASIDE * fractal_noise(place, noise.WAVE, 1, 3)[:, None].astype(np.float64)
            down = np.cos(turn) * down + np.sin(turn) * np.cross(outward, down)
            place = onto(place + sign * noise.STEP * unit(down))
    return (total / noise.DEVIATION).astype(np.float32)
