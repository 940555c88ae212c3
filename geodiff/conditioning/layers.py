"""Layers of colour over a head's vertices: what is bare, the neck in clothes, and the scalp in hair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from geodiff.conditioning.clothes import Neckline
from geodiff.conditioning.garments import parted
from geodiff.conditioning.sources import Sources
from geodiff.conditioning.surface import GROUPS
from geodiff.geometry import smoothstep
from geodiff.media import LUMA
from geodiff.raster.compiled import kept
from geodiff.tracking.tones import LEAST, NO_SKIN, SHADOW, Tones

#: Distances (metres) over which a fill turns from the nearest visible colours into the mean of its kind.
FILL_RANGE = (0.02, 0.12)
#: The same on the neck, which turns into the mean of its height.
NECK_RANGE = (0.05, 0.2)
#: Metres from the border of hair up to which both sides' colours are wanted on the other.
RING = 0.03
#: Pixels of hair beside the mesh, or points of it on the scalp, that tell its colour.
HAIRS, FEW = 50, 6
#: Metres: hair that stands off less is none if it has the face's colour, within ALIKE of its spreads; and from which
#: on what has the face's colour is hair.
CLOSE, ALIKE, STANDS = 0.003, 1.5, 0.008
#: Share of what may be hair that is taken for it where it has the face's colour, or too little is seen of it.
UNLIKE = 0.4
#: Colours of eyes and of what a closed mouth hides, for a face of average brightness 0.55; gums at the front of the
#: mouth turn into its dark depth over MOUTH_DEPTH metres.
WHITE, GUMS, THROAT, REFERENCE_LUMINANCE = (0.80, 0.75, 0.67), (0.50, 0.22, 0.20), (0.10, 0.03, 0.03), 0.55
MOUTH_DEPTH = 0.022
#: The same of the tongue, which is what faces upwards: the lips let light fall on its front. Metres from its middle to
#: its side, and how much darker it is there.
TONGUE, TONGUE_DEPTH = (0.74, 0.40, 0.37), 0.034
ROUND = (0.016, 0.45)


@dataclass(frozen=True)
class Layers:
    """Colours of V vertices in several layers. bare: (V, 3). cloth, inner: (V, 3) the neck in either of two garments,
    wherever it is; second: (V,) 0..1 whether it is rather in the second. hair: (V, 3) the scalp and what is close to it
    in hair. haired: whether there is hair."""

    bare: np.ndarray
    cloth: np.ndarray
    inner: np.ndarray
    second: np.ndarray
    hair: np.ndarray
    haired: bool


@dataclass(frozen=True)
class HairColors:
    """What tells of hair: beyond, (N, 3) colours of the portrait's hair outside the mesh; brows, (3,) their colour,
    where it is known; standing, metres by which it usually stands off the skull."""

    beyond: np.ndarray
    brows: np.ndarray | None
    standing: float


def fill_layers(
    place: np.ndarray,
    color: np.ndarray,
    known: np.ndarray,
    sources: Sources,
    colors: HairColors,
    groups: dict[str, np.ndarray],
    neckline: Neckline,
    lying: np.ndarray,
    line: np.ndarray,
    collar: np.ndarray,
) -> Layers:
    """Each kind of surface from its own visible part, priors where a kind is not seen at all. Teeth are left to
    `tooth_colors`, which needs finer steps than vertices.

    lying: (V,) bool what faces upwards. line, collar: (V,) metres inside of the scalp and of the neck, at most RING.
    """
    priors = _priors(place, lying, groups, sources.tone)
    filled = color.astype(np.float32).copy()
    cloth, inner, hair = filled.copy(), filled.copy(), filled.copy()
    second = np.zeros((len(place), 1), np.float32)
    for number, name in enumerate(GROUPS):
        # Skin and clothes of the neck are both wanted on either side of a neckline.
        target = groups[name] & ((known < 0.999) | (name == "neck" and neckline.level is not None))
        if name in ("teeth", "scalp") or not target.any():
            continue
        source = sources.group == number
        if not sources.shows(name):
            filled[target] = priors[name][target]
            continue
        if name == "neck":
            bare, dressed = sources.of_neck(neckline)
            _fill_neck(filled, place, target, sources.place[bare], sources.color[bare], neckline)
            around = target | (groups["skin"] & (collar > -RING))
            _fill_garments((cloth, inner, second), place, around, sources, dressed, neckline)
            continue
        mean = np.median(sources.color[source], 0)
        filled[target] = nearest_mean(sources.place[source], sources.color[source], place[target], FILL_RANGE, mean)
    near = (line > -RING) & ~(groups["scalp"] & (known >= 0.999))
    haired = _fill_scalp(hair, place, sources, colors, near, priors["scalp"])
    close = groups["scalp"] & (line < RING)
    filled[groups["scalp"]] = sources.tone
    skin = sources.group == GROUPS.index("skin")
    if skin.any() and close.any():
        tone = np.asarray(sources.tone)
        filled[close] = nearest_mean(sources.place[skin], sources.color[skin], place[close], FILL_RANGE, tone)
    return Layers(filled, cloth, inner, second[:, 0], hair, haired)


def _fill_scalp(
    hair: np.ndarray,
    place: np.ndarray,
    sources: Sources,
    colors: HairColors,
    near: np.ndarray,
    prior: np.ndarray,
) -> bool:
    """Hair (V, 3) on the scalp and close to it, in place. Returns whether it is hair or, on a bald head, skin.

    near: (V,) bool, where it is asked for. prior: (V, 3) hair where neither it nor brows are seen."""
    if not sources.shows("scalp"):
        few = (sources.group == GROUPS.index("scalp")) & (sources.hair > 0.5)
        if len(colors.beyond) >= HAIRS or few.sum() >= FEW:
            hair[:] = np.median(np.concatenate([colors.beyond, sources.color[few]]), 0)
        else:
            hair[:] = prior if colors.brows is None else colors.brows
        return True
    source, mean, haired = _haired(sources.group == GROUPS.index("scalp"), sources, colors)
    hair[:] = mean
    hair[near] = nearest_mean(sources.place[source], sources.color[source], place[near], FILL_RANGE, mean)
    return haired


def _fill_garments(
    layers: tuple[np.ndarray, np.ndarray, np.ndarray],
    place: np.ndarray,
    target: np.ndarray,
    sources: Sources,
    dressed: np.ndarray,
    neckline: Neckline,
) -> None:
    """The neck in clothes, in place: two layers (V, 3), and (V, 1) which of them it is. dressed: (N,) bool."""
    cloth, inner, second = layers
    spots, colors = sources.place[dressed], sources.color[dressed]
    rarer = parted(spots, colors)
    if rarer is None:
        _fill_neck(cloth, place, target, spots, colors, neckline)
        return
    _fill_neck(cloth, place, target, spots[~rarer], colors[~rarer], neckline)
    _fill_neck(inner, place, target, spots[rarer], colors[rarer], neckline)
    _fill_neck(second, place, target, spots, rarer[:, None].astype(np.float32), neckline)


def _fill_neck(
    filled: np.ndarray, place: np.ndarray, target: np.ndarray, spots: np.ndarray, values: np.ndarray, neckline: Neckline
) -> None:
    """Neck and shoulders (V, C) from values (N, C) at places (N, 3), in place. target: (V,) bool."""
    # Collars go round the neck at one height.
    heights, levels = neckline.height(spots), neckline.height(place[target])
    metric = np.array([1.0, 3.0, 1.0], np.float32)
    here, there = spots * metric, place[target] * metric
    here[:, 1], there[:, 1] = 3.0 * heights, 3.0 * levels
    mean = _by_height(heights, values, levels)
    filled[target] = nearest_mean(here, values, there, NECK_RANGE, mean)


def _priors(
    place: np.ndarray, lying: np.ndarray, groups: dict[str, np.ndarray], tone: np.ndarray
) -> dict[str, np.ndarray]:
    """Colours (V, 3) of each kind but teeth for a photograph that does not show it, in its brightness and saturation.
    lying: (V,) bool what faces upwards."""
    light = float(np.clip(tone @ LUMA / REFERENCE_LUMINANCE, 0.35, 1.2))
    saturation = float(np.clip((tone.max() - tone.min()) / 0.15, 0.0, 1.0))
    front = place[groups["lips"], 2].max() if groups["lips"].any() else place[:, 2].max()
    depth = np.clip(front - 0.012 - place[:, 2], 0.0, None)
    colors = {
        "mouth_interior": _mouth(place[:, 0], depth, lying) * light,
        "eyeballs": np.array(WHITE) * light,
        "lips": tone * np.array([0.92, 0.68, 0.68]),
        "scalp": tone * 0.6,
        "skin": tone,
        "neck": tone,
    }
    priors = {}
    for name, color in colors.items():
        grey = (color @ LUMA)[..., None]
        toned = color if name in ("skin", "neck") else grey + saturation * (color - grey)
        priors[name] = np.broadcast_to(np.clip(toned, 0.0, 1.0), place.shape).astype(np.float32)
    return priors


def _mouth(across: np.ndarray, depth: np.ndarray, lying: np.ndarray) -> np.ndarray:
    """(V, 3) colours of the mouth's inside. across: (V,) metres from its middle. depth: (V,) metres behind the lips.
    lying: (V,) bool what faces upwards."""
    tongue = np.array(TONGUE) * (1.0 - ROUND[1] * smoothstep(np.abs(across) / ROUND[0], 0.4, 1.0))[:, None]
    near = np.where(lying, np.exp(-((depth / TONGUE_DEPTH) ** 2)), np.exp(-depth / MOUTH_DEPTH))[:, None]
    throat = np.array(THROAT)
    return throat + (np.where(lying[:, None], tongue, GUMS) - throat) * near


def _haired(scalp: np.ndarray, sources: Sources, colors: HairColors) -> tuple[np.ndarray, np.ndarray, bool]:
    """Of the visible scalp (N,) bool, the part that has hair, the hair's colour (3,), and whether there is any.

    The head's hairline and the person's differ; without this a high forehead would colour the back of the head. Who
    shows little hair is bald, as is whose scalp has the face's colour and nothing that stands off it: then all of the
    scalp counts. (Or wears a cap: then it has not the face's colour.) What stands off is hair, though it be fair.
    """
    skin, haired = sources.skin, scalp & (sources.hair > 0.5)
    some = haired.sum() >= 0.08 * scalp.sum() + 5
    if not some:
        haired = scalp
    color, unlike = np.median(sources.color[haired], 0), np.zeros(len(scalp))
    away = 0.0
    if len(skin) >= LEAST:
        tones = Tones.of(skin, SHADOW)
        unlike, away = tones.away(sources.color), float(tones.away(color[None])[0])
    if colors.standing < (CLOSE if some else STANDS) and away < (ALIKE if some else NO_SKIN[1]):
        return scalp, np.median(sources.color[scalp], 0), False
    if not some or away < ALIKE:
        # A part of that may be forehead: what is least like the face is not.
        haired &= unlike >= np.quantile(unlike[haired], 1 - UNLIKE)
    beyond = colors.beyond if some else colors.beyond[:0]
    return haired, np.median(np.concatenate([sources.color[haired], beyond]), 0), True


def _by_height(heights: np.ndarray, color: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(M, C) colours at heights (M,) in metres: the medians of those (N, C) seen at the same height, or nearest it."""
    order = np.argsort(heights)
    slices = [part for part in np.array_split(order, max(1, min(12, len(order) // 8))) if len(part)]
    levels = np.array([heights[part].mean() for part in slices])
    medians = np.array([np.median(color[part], 0) for part in slices])
    return np.stack([np.interp(targets, levels, medians[:, c]) for c in range(color.shape[1])], 1).astype(np.float32)


def nearest_mean(
    sources: np.ndarray, values: np.ndarray, targets: np.ndarray, reach: tuple[float, float], far: np.ndarray
) -> np.ndarray:
    """Inverse-distance mean of the nearest sources' values, turning into `far` beyond `reach` metres. (N, C)."""
    if len(sources) > 4000:
        kept = np.linspace(0, len(sources) - 1, 4000).round().astype(int)
        sources, values = sources[kept], values[kept]
    count = min(40, len(sources))
    distance, index = cKDTree(sources).query(targets, k=count)
    distance, index = distance.reshape(len(targets), count), index.reshape(len(targets), count)
    mean = np.empty((len(targets), values.shape[1]), np.float32)
    _mean_kernel(distance, index, np.ascontiguousarray(values, np.float32), mean)
    away = smoothstep(distance[:, 0], *reach)[:, None]
    return (mean + away * (far - mean)).astype(np.float32)


@kept()
def _mean_kernel(distance, index, values, mean):  # noqa: ANN001, ANN202
    """Means (N, C) of values (M, C) at index (N, K), weighted by distance (N, K) metres, in place."""
    for n in range(index.shape[0]):
        total = 0.0
        sums = np.zeros(values.shape[1])
        for k in range(index.shape[1]):
            weight = 1.0 / (distance[n, k] + 0.003) ** 2
            total += weight
            for c in range(values.shape[1]):
                sums[c] += weight * values[index[n, k], c]
        for c in range(values.shape[1]):
            mean[n, c] = sums[c] / total
