"""The photograph baked into the head's UV layout, and what it does not show filled in.

Three sources, best first: the photograph where it sees the surface, the photograph at the mirrored point where it
sees that (its colours matched to this side), and a smooth fill from the nearest visible surface of the same kind, with
the texture of the seen hair on the scalp, and priors for teeth and mouth, which a closed mouth never shows.
"""

from __future__ import annotations

import numpy as np

from geodiff.conditioning.clothes import HEM, without_shoulders
from geodiff.conditioning.fill import fill_vertices
from geodiff.conditioning.hair import HairTexture, grown_pixels, hair_pixels, person_groups
from geodiff.conditioning.layers import RING
from geodiff.conditioning.noise import fractal_noise
from geodiff.conditioning.reference import Reference, foreground_colors
from geodiff.conditioning.surface import PosedMesh, Visibility, unit
from geodiff.conditioning.teeth import seen_teeth, tooth_colors, tooth_coordinates
from geodiff.geometry import smoothstep
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.raster.chart import Chart, sample, to_local, to_pixels, uv_chart
from geodiff.types import Camera

#: Metres over which hair begins at its line, how far the line strays, and how wide the locks are that make it do so.
SOFT, RAGGED, LOCKS = 0.003, 0.003, 0.005
#: How much clothes have to be rather of the second garment to begin to show it, and to show nothing else.
SEAM = (0.45, 0.55)
#: Share of RING over which a bald head's scalp turns into face and neck.
BALD = 0.9


def bake(
    head: HeadModel, reference: Reference, size: int, photo: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The completed texture of a reference, (U, U, 3) float32 0..1, and how much was seen directly, (U, U) 0..1.

    photo: (D, D, 3) the reference's `foreground_colors`, where they are known already.
    """
    chart = uv_chart(head, size)
    photo = foreground_colors(reference) if photo is None else photo
    camera = reference.camera.resized(photo.shape[1], photo.shape[0])
    posed = PosedMesh.of(head, reference.params)
    visibility = Visibility(head, reference, posed.vertices)
    front = mesh.rasterize(posed.vertices, head.faces, reference.camera)
    hair = hair_pixels(head, reference, front)
    grown = grown_pixels(head, reference, front, hair)
    groups = person_groups(head, reference, bool((hair > 0.5).mean() > 0.005))
    groups = without_shoulders(groups, head, reference, front, hair)
    likely = np.where(front.of(head.faces, groups["scalp"]), grown, hair)
    fill = fill_vertices(
        head, reference, chart, posed, visibility, photo, likely, groups, seen_teeth(head, reference, front)
    )
    flip = head.mirror
    surface = np.concatenate([posed.vertices, posed.normals], 1)
    texel = _interpolated(head, chart, {
        "here": surface, "there": surface[flip], "matching": fill.matching,
        "color": fill.color, "cloth": fill.cloth, "inner": fill.inner, "second": fill.second, "hem": fill.hem,
        "hair": fill.hair, "hairline": fill.hairline,
        "guessed": fill.guessed, "ears": groups["skin"] & head.regions["ears"].numpy(),
        "teeth": head.regions["teeth"].numpy(), "tooth": tooth_coordinates(head),
    })  # fmt: skip
    here, color = texel["here"], texel["color"]
    cloth = texel["cloth"] + smoothstep(texel["second"], *SEAM) * (texel["inner"] - texel["cloth"])
    color = color + smoothstep(texel["hem"], -HEM, HEM) * (cloth - color)
    teeth = np.flatnonzero(texel["teeth"])
    color[teeth] += texel["teeth"][teeth] * (tooth_colors(texel["tooth"][teeth], fill.tints) - color[teeth])
    strands = HairTexture(reference, grown, _depth(here, camera)) if fill.haired else None
    _add_hair(color, texel["hair"], texel["hairline"][:, 0], here, strands)
    for points, gain in ((texel["there"], np.exp(texel["matching"])), (here, None)):
        seen = visibility(points[:, :3], unit(points[:, 3:])) * (1.0 - texel["guessed"][:, 0])
        pixels = to_pixels(to_local(points[:, :3], camera), camera)
        # An ear sits hardly ever where the fitted one does: hair beside it is not to be painted on it.
        seen = seen * (1.0 - texel["ears"][:, 0] * sample(hair, pixels * np.float32(reference.size / camera.width)))
        shown = sample(photo, pixels)
        shown = shown if gain is None else np.clip(shown * gain, 0.0, 1.0)
        color = color + seen[:, None] * (shown - color)
    texture = chart.spread(np.concatenate([color, seen[:, None]], 1))
    return np.ascontiguousarray(texture[..., :3]), np.ascontiguousarray(texture[..., 3])


def _interpolated(head: HeadModel, chart: Chart, parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What vertices have (V,) or (V, C), at the chart's texels: (N, C) float32."""
    columns = {name: part.reshape(len(part), -1).astype(np.float32) for name, part in parts.items()}
    texel = mesh.interpolate(chart.fragments, head.faces, np.concatenate(list(columns.values()), 1))[0]
    ends = np.cumsum([part.shape[1] for part in columns.values()])
    return dict(zip(columns, np.split(texel, ends[:-1], 1), strict=True))


def _add_hair(
    color: np.ndarray, grown: np.ndarray, hairline: np.ndarray, surface: np.ndarray, strands: HairTexture | None
) -> None:
    """Let hair grow on filled colours (N, 3), in place. grown: (N, 3) its colours there. hairline: (N,) metres inside
    of it. surface: (N, 6) places, normals. strands: none on a bald head."""
    if strands is None:
        # A bald head's skin is the neck's: no line is to be seen between them.
        inside = smoothstep(hairline, -BALD * RING, BALD * RING)
    else:
        inside = (hairline > 0).astype(np.float32)
        near = np.flatnonzero(np.abs(hairline) < SOFT + 2 * RAGGED)
        ragged = RAGGED * fractal_noise(surface[near, :3], (LOCKS, 4 * LOCKS, LOCKS), 2, 7)
        inside[near] = smoothstep(hairline[near] + ragged, -SOFT, SOFT)
    chosen = np.flatnonzero(inside > 0.01)
    if not len(chosen):
        return
    hairs = grown[chosen]
    if strands is not None and len(chosen) >= 100:
        contrast = strands.over(surface[chosen, :3], surface[chosen, 3:])
        hairs = np.clip(hairs * np.exp(contrast), 0.0, 1.0)
    color[chosen] += inside[chosen, None] * (hairs - color[chosen])


def _depth(surface: np.ndarray, camera: Camera) -> float:
    return float(to_local(surface[:, :3].mean(0, keepdims=True), camera)[0, 2])
