"""The photograph baked into the head's UV layout, and what it does not show filled in.

Three sources, best first: the photograph where it sees the surface, the photograph at the mirrored point where it
sees that (its colours matched to this side), and a smooth fill from the nearest visible surface of the same kind, with
the texture of the seen hair on the scalp, and priors for teeth and mouth, which a closed mouth never shows.
"""

from __future__ import annotations

import numpy as np

from geodiff.conditioning.clothes import HEM, without_shoulders
from geodiff.conditioning.fill import fill_vertices
from geodiff.conditioning.hair import HairTexture, hair_pixels, person_groups
from geodiff.conditioning.reference import Reference, foreground_colors
from geodiff.conditioning.surface import Visibility, smoothstep, unit
from geodiff.conditioning.teeth import tooth_colors, tooth_coordinates
from geodiff.geometry import vertex_normals
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.raster.chart import sample, to_local, to_pixels, uv_chart
from geodiff.types import Camera


def bake(
    head: HeadModel, reference: Reference, size: int, photo: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The completed texture of a reference, (U, U, 3) float32 0..1, and how much was seen directly, (U, U) 0..1.

    photo: (D, D, 3) the reference's `foreground_colors`, where they are known already.
    """
    chart = uv_chart(head, size)
    photo = foreground_colors(reference) if photo is None else photo
    camera = reference.camera.resized(photo.shape[1], photo.shape[0])
    vertices = head.vertices(reference.params)[0]
    normals = vertex_normals(vertices, head.faces)
    visibility = Visibility(head, reference, vertices)
    front = mesh.rasterize(vertices, head.faces, reference.camera)
    hair = hair_pixels(head, reference, front)
    groups = person_groups(head, reference, bool((hair > 0.5).mean() > 0.005))
    groups = without_shoulders(groups, head, reference, front, hair)
    fill = fill_vertices(head, reference, chart, vertices.numpy(), normals.numpy(), visibility, photo, hair, groups)
    flip = head.mirror
    kinds = np.stack([groups["scalp"], groups["skin"] & head.regions["ears"].numpy()], 1).astype(np.float32)
    table = np.concatenate(
        [
            vertices.numpy(),
            normals.numpy(),
            vertices[flip].numpy(),
            normals[flip].numpy(),
            fill.color,
            fill.matching,
            kinds,
            fill.cloth,
            fill.hem[:, None],
            fill.guessed[:, None],
            head.regions["teeth"].numpy()[:, None],
            tooth_coordinates(head),
        ],
        1,
    )
    texel = mesh.interpolate(chart.fragments, head.faces, table)[0]
    here, there, color, match = texel[:, :6], texel[:, 6:12], texel[:, 12:15], texel[:, 15:18]
    covered = smoothstep(texel[:, 23], -HEM, HEM)[:, None]
    color = color + covered * (texel[:, 20:23] - color)
    teeth = np.flatnonzero(texel[:, 25] > 0)
    color[teeth] += texel[teeth, 25:26] * (tooth_colors(texel[teeth, 26:], fill.tints) - color[teeth])
    _add_hair(color, here, texel[:, 18], HairTexture(reference, hair * _beside_face(head, front), _depth(here, camera)))
    for points, gain in ((there, np.exp(match)), (here, None)):
        seen = visibility(points[:, :3], unit(points[:, 3:])) * (1.0 - texel[:, 24])
        pixels = to_pixels(to_local(points[:, :3], camera), camera)
        # An ear sits hardly ever where the fitted one does: hair beside it is not to be painted on it.
        seen = seen * (1.0 - texel[:, 19] * sample(hair, pixels * np.float32(reference.size / camera.width)))
        shown = sample(photo, pixels)
        shown = shown if gain is None else np.clip(shown * gain, 0.0, 1.0)
        color = color + seen[:, None] * (shown - color)
    texture = chart.spread(np.concatenate([color, seen[:, None]], 1))
    return np.ascontiguousarray(texture[..., :3]), np.ascontiguousarray(texture[..., 3])


def _add_hair(color: np.ndarray, surface: np.ndarray, scalp: np.ndarray, hair: HairTexture) -> None:
    """Give the filled colours (N, 3) of the scalp the texture of hair, in place. surface: (N, 6) places, normals."""
    chosen = np.flatnonzero(scalp > 0.05)
    if hair.empty or len(chosen) < 100:
        return
    contrast = hair.over(surface[chosen, :3], surface[chosen, 3:])
    color[chosen] = np.clip(color[chosen] * np.exp(scalp[chosen, None] * contrast), 0.0, 1.0)


def _beside_face(head: HeadModel, seen: mesh.Fragments) -> np.ndarray:
    """(S, S) 1 outside the face: brows and beards are no patches of the head's hair."""
    corners = head.faces.numpy()[np.maximum(seen.face, 0)]
    return 1.0 - (head.regions["face"].numpy()[corners].any(-1) & seen.mask).astype(np.float32)


def _depth(surface: np.ndarray, camera: Camera) -> float:
    return float(to_local(surface[:, :3].mean(0, keepdims=True), camera)[0, 2])
