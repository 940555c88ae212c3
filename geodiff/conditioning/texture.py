"""The photograph baked into the head's UV layout, and what it does not show filled in.

Three sources, best first: the photograph where it sees the surface, the photograph at the mirrored point where it
sees that (its colours matched to this side), and a smooth fill from the nearest visible surface of the same kind, with
priors for teeth and mouth, which a photograph with a closed mouth never shows.
"""

from __future__ import annotations

import numpy as np

from geodiff.conditioning.fill import fill_vertices
from geodiff.conditioning.reference import Reference
from geodiff.conditioning.surface import Visibility, sample, to_local, to_pixels, unit, uv_chart
from geodiff.geometry import vertex_normals
from geodiff.head.model import HeadModel
from geodiff.raster import mesh


def bake(head: HeadModel, reference: Reference, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The completed texture of a reference, (U, U, 3) float32 0..1, and how much was seen directly, (U, U) 0..1."""
    chart = uv_chart(head, size)
    photo = reference.image if reference.detail is None else reference.detail
    camera = reference.camera.resized(photo.shape[1], photo.shape[0])
    vertices = head.vertices(reference.params)[0]
    normals = vertex_normals(vertices, head.faces)
    visibility = Visibility(head, reference, vertices)
    fill, matching = fill_vertices(head, reference, chart, vertices.numpy(), normals.numpy(), visibility)
    flip = head.mirror
    table = np.concatenate(
        [vertices.numpy(), normals.numpy(), vertices[flip].numpy(), normals[flip].numpy(), fill, matching], 1
    )
    texel = mesh.interpolate(chart.fragments, head.faces, table)[0]
    here, there, color, match = texel[:, :6], texel[:, 6:12], texel[:, 12:15], texel[:, 15:18]
    for points, gain in ((there, np.exp(match)), (here, None)):
        seen = visibility(points[:, :3], unit(points[:, 3:]))
        pixels = to_pixels(to_local(points[:, :3], camera), camera)
        shown = sample(photo, pixels)
        shown = shown if gain is None else np.clip(shown * gain, 0.0, 1.0)
        color = color + seen[:, None] * (shown - color)
    texture = chart.spread(np.concatenate([color, seen[:, None]], 1))
    return np.ascontiguousarray(texture[..., :3]), np.ascontiguousarray(texture[..., 3])
