"""Colours for what the photograph does not show: from the nearest visible surface of the same kind, and priors."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree

from geodiff.conditioning.reference import Reference
from geodiff.conditioning.surface import (
    GROUPS,
    Chart,
    Visibility,
    sample,
    smoother,
    smoothstep,
    to_local,
    to_pixels,
    unit,
    vertex_groups,
)
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.types import Camera

#: Distances (metres) over which a fill turns from the nearest visible colours into the mean of its kind.
FILL_RANGE = (0.02, 0.12)
#: Colours that a closed mouth hides, for a face of average brightness 0.55; gums and tongue at the front of the mouth
#: turn into its dark depth over MOUTH_DEPTH metres.
TEETH, GUMS, THROAT, REFERENCE_LUMINANCE = (0.84, 0.79, 0.71), (0.50, 0.22, 0.20), (0.10, 0.03, 0.03), 0.55
MOUTH_DEPTH = 0.022
#: Difference to the skin's colour (of the forehead) from which scalp counts as haired.
HAIR_CONTRAST = 0.12

FOREHEAD_LANDMARKS = (9, 151, 108, 337, 69, 299, 107, 336)

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def fill_vertices(
    head: HeadModel, reference: Reference, chart: Chart, vertices: np.ndarray, normals: np.ndarray, seeing: Visibility
) -> tuple[np.ndarray, np.ndarray]:
    """Smooth colours (V, 3) for every vertex, and log gains (V, 3) that match mirrored colours to this side."""
    seen = seeing(vertices, normals)
    blurred = _blurred(reference, 0.012)
    camera = reference.camera.resized(blurred.shape[1], blurred.shape[0])
    color = sample(blurred, to_pixels(to_local(vertices, camera), camera))
    flip = head.mirror.numpy()
    place = head.shaped(reference.params, expression=False)[0].numpy()
    skin = vertex_groups(head)["skin"]

    both = (np.minimum(seen, seen[flip]) > 0.5) & skin
    ratio = np.clip(np.log((color + 0.03) / (color[flip] + 0.03)), -0.4, 0.4)
    matching = np.zeros_like(color)
    if both.sum() > 50:
        spread = _nearest_mean(place[both], ratio[both], place, FILL_RANGE, np.zeros(3, np.float32))
        matching = np.where(both[:, None], ratio, spread)

    known = np.maximum(seen, 0.8 * seen[flip])
    mirrored = np.clip(color[flip] * np.exp(matching), 0.0, 1.0)
    color = np.where((seen >= 0.8 * seen[flip])[:, None], color, mirrored)
    sources = _Sources.collect(head, chart, vertices, normals, place, matching, blurred, camera, seeing)
    forehead = _forehead(head, vertices, blurred, camera, seen, color[skin & (known > 0.5)])
    beyond = _beyond(reference, vertices, place, seeing)
    filled = _fill_groups(head, place, color, known, sources, forehead, beyond)
    blend = known[:, None]
    smooth = smoother(head)
    for _ in range(6):
        filled = blend * color + (1.0 - blend) * (smooth @ filled)
    return filled.astype(np.float32), (smooth @ (smooth @ matching)).astype(np.float32)


@dataclass(frozen=True)
class _Sources:
    """Surface points spread evenly over the chart that the photograph sees, itself or mirrored: place (N, 3), color
    (N, 3), group (N,) index into GROUPS; and totals, the number of points of each group, seen or not."""

    place: np.ndarray
    color: np.ndarray
    group: np.ndarray
    totals: np.ndarray

    @staticmethod
    def collect(
        head: HeadModel,
        chart: Chart,
        vertices: np.ndarray,
        normals: np.ndarray,
        place: np.ndarray,
        matching: np.ndarray,
        blurred: np.ndarray,
        camera: Camera,
        seeing: Visibility,
    ) -> _Sources:
        step = max(1, len(chart.texels) // 16000)
        points = mesh.Fragments(*(np.ascontiguousarray(part[:, ::step]) for part in vars(chart.fragments).values()))
        flip = head.mirror.numpy()
        kinds = np.stack([vertex_groups(head)[name] for name in GROUPS], 1).astype(np.float32)
        table = np.concatenate(
            [vertices, normals, vertices[flip], normals[flip], place, matching, kinds], 1, dtype=np.float32
        )
        texel = mesh.interpolate(points, head.faces, table)[0]
        group = texel[:, 18:].argmax(1)
        places, colors, groups = [], [], []
        seen = np.zeros(len(texel), bool)
        for start, gain in ((0, 0.0), (6, texel[:, 15:18])):
            here = texel[:, start : start + 3]
            certain = (seeing(here, unit(texel[:, start + 3 : start + 6])) > 0.5) & ~seen
            shown = sample(blurred, to_pixels(to_local(here, camera), camera)) * np.exp(gain)
            places.append(texel[certain, 12:15])
            colors.append(np.clip(shown[certain], 0.0, 1.0))
            groups.append(group[certain])
            seen |= certain
        totals = np.bincount(group, minlength=len(GROUPS))
        return _Sources(np.concatenate(places), np.concatenate(colors), np.concatenate(groups), totals)


def _fill_groups(
    head: HeadModel,
    place: np.ndarray,
    color: np.ndarray,
    known: np.ndarray,
    sources: _Sources,
    forehead: np.ndarray,
    beyond: np.ndarray,
) -> np.ndarray:
    """Each kind of surface from its own visible part; priors where a kind is not seen at all.

    forehead: (3,) its colour. beyond: (N, 3) colours of the portrait outside the mesh, hair that it does not reach.
    """
    groups = vertex_groups(head)
    skin = sources.group == GROUPS.index("skin")
    tone = np.median(sources.color[skin], 0) if skin.sum() > 20 else np.array([0.7, 0.55, 0.47], np.float32)
    priors = _priors(place, groups, tone)
    filled = color.astype(np.float32).copy()
    for number, name in enumerate(GROUPS):
        target = groups[name] & (known < 0.999)
        if not target.any():
            continue
        source = sources.group == number
        # Teeth and mouth are shown by an open mouth only; a few points between closed lips say nothing about them.
        share = 0.15 if name in ("teeth", "mouth_interior") else 0.02
        if source.sum() < max(10, share * sources.totals[number]):
            filled[target] = priors[name][target]
            if name == "scalp" and len(beyond) > 50:
                filled[target] = np.median(beyond, 0)
            continue
        mean = np.median(sources.color[source], 0)
        reach = (0.15, 0.5) if name == "neck" else FILL_RANGE
        if name == "scalp":
            source, mean = _haired(source, sources.color, forehead, beyond)
        # Clothes and collars go round the neck at one height.
        metric = np.array([1.0, 3.0, 1.0] if name == "neck" else [1.0, 1.0, 1.0], np.float32)
        filled[target] = _nearest_mean(
            sources.place[source] * metric, sources.color[source], place[target] * metric, reach, mean
        )
    return filled


def _priors(place: np.ndarray, groups: dict[str, np.ndarray], tone: np.ndarray) -> dict[str, np.ndarray]:
    """Colours (V, 3) of each kind for a photograph that does not show it, in its brightness and saturation."""
    light = float(np.clip(tone @ LUMA / REFERENCE_LUMINANCE, 0.35, 1.2))
    saturation = float(np.clip((tone.max() - tone.min()) / 0.15, 0.0, 1.0))
    front = place[groups["lips"], 2].max() if groups["lips"].any() else place[:, 2].max()
    depth = np.clip(front - 0.012 - place[:, 2], 0.0, None)
    inside = np.exp(-depth / MOUTH_DEPTH)[:, None]
    gums, throat = np.array(GUMS), np.array(THROAT)
    colors = {
        "teeth": np.array(TEETH) * light * (0.45 + 0.55 * inside) ** np.array([1.0, 1.25, 1.35]),
        "mouth_interior": (throat + (gums - throat) * inside) * light,
        "eyeballs": np.array(TEETH) * 0.95 * light,
        "lips": tone * np.array([0.92, 0.68, 0.68]),
        "scalp": tone * 0.6,
        "skin": tone,
    }
    priors = {}
    for name, color in colors.items():
        grey = (color @ LUMA)[..., None]
        toned = color if name == "skin" else grey + saturation * (color - grey)
        priors[name] = np.broadcast_to(np.clip(toned, 0.0, 1.0), place.shape).astype(np.float32)
    return priors


def _forehead(
    head: HeadModel, vertices: np.ndarray, blurred: np.ndarray, camera: Camera, seen: np.ndarray, skin: np.ndarray
) -> np.ndarray:
    """(3,) colour of the forehead, at its landmarks where the head has them; else the median of skin colours (N, 3)."""
    fallback = np.median(skin, 0) if len(skin) else np.array([0.7, 0.55, 0.47], np.float32)
    if head.landmarks is None:
        return fallback
    rows = torch.isin(head.landmarks.indices, torch.tensor(FOREHEAD_LANDMARKS))
    corners = head.faces[head.landmarks.faces[rows]].numpy()
    corners = corners[seen[corners].min(1, initial=1.0) > 0.5]
    if not len(corners):
        return fallback
    return np.median(sample(blurred, to_pixels(to_local(vertices[corners].mean(1), camera), camera)), 0)


def _beyond(reference: Reference, vertices: np.ndarray, place: np.ndarray, seeing: Visibility) -> np.ndarray:
    """(N, 3) colours of the portrait above the chin that lie outside the mesh: hair."""
    size = reference.size
    covered = cv2.resize(seeing.far, (size, size), interpolation=cv2.INTER_AREA) > 0
    chin = vertices[place[:, 1] > np.quantile(place[:, 1], 0.35)]
    row = to_pixels(to_local(chin, reference.camera), reference.camera)[:, 1].max()
    outside = (reference.mask > 0.98) & ~covered & (np.arange(size)[:, None] < row)
    return reference.image[outside]


def _haired(
    scalp: np.ndarray, color: np.ndarray, forehead: np.ndarray, beyond: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of the visible scalp (N,) bool, the part that differs from the forehead, and the hair's colour (3,).

    The head's hairline and the person's differ; without this a high forehead would colour the back of the head. Who
    shows little that differs is bald, or has hair over the forehead: then all of the scalp counts.
    """
    haired = scalp & (np.abs(color - forehead).max(-1) > HAIR_CONTRAST)
    if haired.sum() < 0.08 * scalp.sum() + 5:
        return scalp, np.median(color[scalp], 0)
    outer = beyond[np.abs(beyond - forehead).max(-1) > HAIR_CONTRAST]
    return haired, np.median(np.concatenate([color[haired], outer]), 0)


def _nearest_mean(
    sources: np.ndarray, values: np.ndarray, targets: np.ndarray, reach: tuple[float, float], far: np.ndarray
) -> np.ndarray:
    """Inverse-distance mean of the nearest sources' values, turning into `far` beyond `reach` metres. (N, C)."""
    if len(sources) > 4000:
        kept = np.linspace(0, len(sources) - 1, 4000).round().astype(int)
        sources, values = sources[kept], values[kept]
    count = min(40, len(sources))
    distance, index = cKDTree(sources).query(targets, k=count)
    distance, index = distance.reshape(len(targets), count), index.reshape(len(targets), count)
    weight = 1.0 / (distance + 0.003) ** 2
    mean = (weight[..., None] * values[index]).sum(1) / weight.sum(1)[:, None]
    away = smoothstep(distance[:, 0], *reach)[:, None]
    return (mean + away * (far - mean)).astype(np.float32)


def _blurred(reference: Reference, radius: float) -> np.ndarray:
    """The reference's image, blurred by `radius` (share of the side) inside its matte alone."""
    size = min(reference.size, 256)
    image = cv2.resize(reference.image, (size, size), interpolation=cv2.INTER_AREA)
    matte = cv2.resize(reference.mask, (size, size), interpolation=cv2.INTER_AREA)
    inside = cv2.erode(matte, np.ones((5, 5), np.uint8))[..., None]
    sigma = max(radius * size, 0.5)
    weight = cv2.GaussianBlur(inside, (0, 0), sigma)[..., None]
    return cv2.GaussianBlur(image * inside, (0, 0), sigma) / np.maximum(weight, 1e-3)
