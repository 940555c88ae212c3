"""Clips of a coloured mesh, rendered with the project's own rasteriser."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from geodiff.clipset import ClipSetSpec, ClipSetWriter
from geodiff.geometry import orbit_camera, vertex_normals
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.types import Camera, Clip, HeadParams

YAWS = (0.0, -40.0, 40.0, 75.0)


def paint(head: HeadModel) -> np.ndarray:
    """(V, 3) colours in 0..1 by region, with a soft pattern on the skin."""
    v = head.template.numpy()
    colors = np.tile(np.array([0.75, 0.55, 0.45], np.float32), (len(v), 1))
    colors += 0.06 * np.sin(v * 160.0).astype(np.float32)
    for region, colour in {
        "scalp": (0.2, 0.12, 0.08), "lips": (0.65, 0.2, 0.2), "teeth": (0.9, 0.9, 0.85), "eyeballs": (0.95, 0.95, 0.95),
        "mouth_interior": (0.4, 0.1, 0.1),
    }.items():  # fmt: skip
        colors[head.regions[region].numpy()] = colour
    return np.clip(colors, 0, 1).astype(np.float32)


def picture(
    head: HeadModel, params: HeadParams, camera: Camera, colors: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (H, W, 3), mask (H, W), normals (H, W, 3), uint8 each, of parameters of one frame."""
    large = camera.resized(camera.width * 2, camera.height * 2)
    vertices = head.vertices(params)[0]
    fragments = mesh.rasterize(vertices, head.faces, large)
    normals = vertex_normals(vertices, head.faces).numpy()
    shade = 0.55 + 0.45 * np.clip(normals @ np.array([0.2, 0.4, 0.9], np.float32), 0, 1)
    image = mesh.interpolate(fragments, head.faces, (colors * shade[:, None]).astype(np.float32))
    image[fragments.face < 0] = 1.0
    seen = mesh.render_normals(vertices, head.faces, large)
    mask = fragments.mask.astype(np.float32)
    halve = lambda a: a.reshape(camera.height, 2, camera.width, 2, -1).mean((1, 3))  # noqa: E731
    to_bytes = lambda a: (np.clip(a, 0, 1) * 255 + 0.5).astype(np.uint8)  # noqa: E731
    return to_bytes(halve(image)), to_bytes(halve(mask))[..., 0], to_bytes(halve(seen) * 0.5 + 0.5)


def motion(head: HeadModel, steps: int) -> HeadParams:
    """The first expression opens and shuts, the eyes blink once."""
    params = head.zeros(steps)
    share = torch.linspace(0, 1, steps)
    expr = params.expr.clone()
    for name, weight in {
        "jawOpen": torch.sin(share * math.pi) ** 2, "eyeBlinkLeft": (share > 0.7).float(),
        "eyeBlinkRight": (share > 0.7).float(),
    }.items():  # fmt: skip
        if name in head.expression_names:
            expr[:, head.expression_names.index(name)] = weight
    return params.replace(expr=expr)


def sample_camera(yaw_degrees: float, size: int, elevation_degrees: float = 0.0, height: float = 0.23) -> Camera:
    """A camera that sees the whole head from a metre away."""
    focal = 0.75 * size / height
    return orbit_camera(
        math.radians(yaw_degrees), math.radians(elevation_degrees), 1.0, torch.zeros(3), focal, size, size
    )


def sample_clips(head: HeadModel, size: int = 64, steps: int = 4, yaws: tuple[float, ...] = YAWS) -> list[Clip]:
    """One clip a view."""
    params, colors = motion(head, steps), paint(head)
    clips = []
    for index, yaw in enumerate(yaws):
        camera = sample_camera(yaw, size)
        frames = [picture(head, params.frame(t), camera, colors) for t in range(steps)]
        images, masks, normals = (np.stack(part) for part in zip(*frames, strict=True))
        clips.append(Clip(images, masks, camera, params, index, np.arange(steps), normals))
    return clips


def write_clips(
    folder: Path, head: HeadModel, size: int = 48, steps: int = 4, yaws: tuple[float, ...] = YAWS, normals: bool = True
) -> Path:
    """The same as a clip set on disk."""
    domains = ("image", "normal") if normals else ("image",)
    spec = ClipSetSpec(len(yaws), steps, "sample", "test", domains=domains, head_spec="builtin")
    writer = ClipSetWriter(folder, spec, head)
    for clip in sample_clips(head, size, steps, yaws):
        writer.write_view(clip if normals else replace(clip, normals=None))
    writer.finish()
    return folder
