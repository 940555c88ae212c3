"""The fitted mesh drawn over the photograph, for people to look at."""

from __future__ import annotations

import numpy as np
import torch

from geodiff.head.model import HeadModel
from geodiff.raster.mesh import interpolate, rasterize, render_normals
from geodiff.tracking.track import Track
from geodiff.types import Camera, HeadParams


def draw_overlay(image: np.ndarray, track: Track, head: HeadModel, strength: float = 0.65) -> np.ndarray:
    """The shaded mesh blended over the image: (H, W, 3) uint8 -> (H, W, 3) uint8. Hair offsets are shown as well."""
    return draw_mesh(image, track.params, track.camera, head, strength)


def draw_mesh(
    image: np.ndarray, params: HeadParams, camera: Camera, head: HeadModel, strength: float = 0.65
) -> np.ndarray:
    """The same for head parameters (T = 1) and a camera."""
    vertices = head.vertices(params)[0]
    fragments = rasterize(vertices, head.faces, camera)
    mask = fragments.mask
    normals = render_normals(vertices, head.faces, camera)
    key = (normals @ np.array([0.3, 0.5, 0.81])).clip(0, 1)[..., None]
    # Lips and eyeballs are tinted, so that one sees whether they lie on the photograph's.
    tint = torch.tensor([0.62, 0.78, 0.95]).repeat(head.num_vertices, 1)
    tint[head.regions["lips"]] = torch.tensor([0.95, 0.55, 0.55])
    tint[head.regions["eyeballs"]] = torch.tensor([1.0, 1.0, 1.0])
    shaded = (0.25 + 0.75 * key) * interpolate(fragments, head.faces, tint) * 255
    blended = (1 - strength) * image + strength * shaded
    return np.where(mask[..., None], blended, image).round().clip(0, 255).astype(np.uint8)
