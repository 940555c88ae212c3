"""Colours for what the photograph does not show: from the nearest visible surface of the same kind, and priors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from geodiff.conditioning.clothes import FAR, Neckline
from geodiff.conditioning.reference import Reference
from geodiff.conditioning.surface import GROUPS, Visibility, smoother, smoothstep, unit
from geodiff.conditioning.teeth import Tints
from geodiff.head.model import HeadModel
from geodiff.media import LUMA
from geodiff.raster import mesh
from geodiff.raster.chart import Chart, sample, to_local, to_pixels
from geodiff.raster.compiled import kept
from geodiff.types import Camera

#: Distances (metres) over which a fill turns from the nearest visible colours into the mean of its kind.
FILL_RANGE = (0.02, 0.12)
#: The same on the neck, which turns into the mean of its height.
NECK_RANGE = (0.05, 0.2)
#: Metres above a neckline from which colours are the neck's, whatever they are.
ABOVE = 0.006
#: Colours of eyes and of what a closed mouth hides, for a face of average brightness 0.55; gums and tongue at the
#: front of the mouth turn into its dark depth over MOUTH_DEPTH metres, and what faces upwards there, as the tongue
#: does, over TONGUE_DEPTH.
WHITE, GUMS, THROAT, REFERENCE_LUMINANCE = (0.80, 0.75, 0.67), (0.50, 0.22, 0.20), (0.10, 0.03, 0.03), 0.55
MOUTH_DEPTH, TONGUE_DEPTH = 0.022, 0.06


@dataclass(frozen=True)
class Fill:
    """Colours of all V vertices, 0..1. color: (V, 3). matching: (V, 3) log gains that match mirrored colours to this
    side. cloth: (V, 3) the colour where a point is covered by clothes. hem: (V,) metres by which it lies below the
    neckline; far below or above where there is none. guessed: (V,) bool, teeth and inside of a mouth that is shut.
    tints: of teeth."""

    color: np.ndarray
    matching: np.ndarray
    cloth: np.ndarray
    hem: np.ndarray
    guessed: np.ndarray
    tints: Tints


def fill_vertices(
    head: HeadModel,
    reference: Reference,
    chart: Chart,
    vertices: np.ndarray,
    normals: np.ndarray,
    seeing: Visibility,
    photo: np.ndarray,
    hair: np.ndarray,
    groups: dict[str, np.ndarray],
) -> Fill:
    """Smooth colours for every vertex.

    photo: (D, D, 3) the portrait's colours, continued beyond its matte. hair: (S, S) 0..1 where its pixels are hair.
    groups: the person's kinds of surface.
    """
    seen = seeing(vertices, normals)
    blurred = _blurred(reference, photo, 0.012)
    camera = reference.camera.resized(blurred.shape[1], blurred.shape[0])
    color = sample(blurred, to_pixels(to_local(vertices, camera), camera))
    flip = head.mirror.numpy()
    place = head.shaped(reference.params, expression=False)[0].numpy()
    skin = groups["skin"]

    both = (np.minimum(seen, seen[flip]) > 0.5) & skin
    ratio = np.clip(np.log((color + 0.03) / (color[flip] + 0.03)), -0.4, 0.4)
    matching = np.zeros_like(color)
    if both.sum() > 50:
        none = np.zeros(3, np.float32)
        matching[both] = ratio[both]
        matching[~both] = _nearest_mean(place[both], ratio[both], place[~both], FILL_RANGE, none)

    known = np.maximum(seen, 0.8 * seen[flip])
    mirrored = np.clip(color[flip] * np.exp(matching), 0.0, 1.0)
    color = np.where((seen >= 0.8 * seen[flip])[:, None], color, mirrored)
    picture = np.concatenate(
        [blurred, cv2.resize(hair, blurred.shape[:2], interpolation=cv2.INTER_LINEAR)[..., None]], 2
    )
    sources = _Sources.collect(head, chart, vertices, normals, place, matching, picture, camera, seeing, groups)
    beyond = _beyond(reference, vertices, place, seeing, photo, hair)
    neckline = sources.neckline()
    hem = np.where(groups["neck"], neckline.below(place), -FAR)
    guessed = sources.unseen_mouth(groups)
    # What is seen of a mouth that is shut are lips that lie a little otherwise than the mesh's.
    known = np.where(guessed, 0.0, known)
    filled, cloth = _fill_groups(place, color, known, sources, beyond, groups, neckline, normals[:, 1] > 0.3)
    # What the picture shows stays as it is on its own side of the neckline alone.
    dressed = hem > 0
    stays = np.stack([np.where(dressed, 0.0, known), np.where(dressed, known, 0.0)], 1)[..., None]
    both = np.stack([filled, cloth], 1)
    apart = _within(smoother(head), groups, dressed)
    for _ in range(6):
        spread = (apart @ both.reshape(len(place), 6)).reshape(both.shape)
        both = stays * color[:, None] + (1.0 - stays) * spread
    smooth = smoother(head)
    matching = (smooth @ (smooth @ matching)).astype(np.float32)
    colors, clothes = (both[:, n].astype(np.float32) for n in range(2))
    return Fill(colors, matching, clothes, hem.astype(np.float32), guessed, sources.tints)


def _within(links: sparse.csr_matrix, groups: dict[str, np.ndarray], clothed: np.ndarray) -> sparse.csr_matrix:
    """A smoother (V, V) that mixes vertices of one kind alone; the neck's skin is of the face's kind. clothed: (V,)
    bool."""
    kind = np.stack([groups[name] for name in GROUPS], 1).argmax(1)
    kind[kind == GROUPS.index("neck")] = GROUPS.index("skin")
    kind[clothed] = len(GROUPS)
    pairs = links.tocoo()
    kept = kind[pairs.row] == kind[pairs.col]
    inner = sparse.coo_matrix((pairs.data[kept], (pairs.row[kept], pairs.col[kept])), pairs.shape).tocsr()
    return sparse.diags(1.0 / np.maximum(np.asarray(inner.sum(1)).ravel(), 1e-9)).dot(inner).tocsr()


@dataclass(frozen=True)
class _Sources:
    """Surface points spread evenly over the chart that the photograph sees, itself or mirrored: place (N, 3), color
    (N, 3), hair (N,) 0..1, group (N,) index into GROUPS; and totals, the number of points of each group, seen or
    not."""

    place: np.ndarray
    color: np.ndarray
    hair: np.ndarray
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
        picture: np.ndarray,
        camera: Camera,
        seeing: Visibility,
        groups: dict[str, np.ndarray],
    ) -> _Sources:
        """picture: (S, S, 4) colours and likelihood of hair."""
        step = max(1, len(chart.texels) // 16000)
        points = mesh.Fragments(*(np.ascontiguousarray(part[:, ::step]) for part in vars(chart.fragments).values()))
        flip = head.mirror.numpy()
        kinds = np.stack([groups[name] for name in GROUPS], 1).astype(np.float32)
        table = np.concatenate(
            [vertices, normals, vertices[flip], normals[flip], place, matching, kinds], 1, dtype=np.float32
        )
        texel = mesh.interpolate(points, head.faces, table)[0]
        group = texel[:, 18:].argmax(1)
        places, colors, hairs, kind = [], [], [], []
        seen = np.zeros(len(texel), bool)
        for start, gain in ((0, 0.0), (6, texel[:, 15:18])):
            here = texel[:, start : start + 3]
            certain = (seeing(here, unit(texel[:, start + 3 : start + 6])) > 0.5) & ~seen
            shown = sample(picture, to_pixels(to_local(here, camera), camera))
            places.append(texel[certain, 12:15])
            colors.append(np.clip((shown[:, :3] * np.exp(gain))[certain], 0.0, 1.0))
            hairs.append(shown[certain, 3])
            kind.append(group[certain])
            seen |= certain
        totals = np.bincount(group, minlength=len(GROUPS))
        place, color, likely, number = (np.concatenate(parts) for parts in (places, colors, hairs, kind))
        return _Sources(place, color, likely, number, totals)

    @cached_property
    def tone(self) -> np.ndarray:
        """(3,) the skin's usual colour."""
        skin = self.group == GROUPS.index("skin")
        return np.median(self.color[skin], 0) if skin.sum() > 20 else np.array([0.7, 0.55, 0.47], np.float32)

    @property
    def tints(self) -> Tints:
        """Of teeth."""
        return Tints.of(self.tone, self.color[self.group == GROUPS.index("teeth")] if self.shows("teeth") else None)

    def shows(self, name: str) -> bool:
        """Whether enough is seen of a kind of surface to fill the rest of it."""
        number = GROUPS.index(name)
        # The mouth is shown when it is open only; a few points between closed lips say nothing about it.
        share = 0.15 if name == "mouth_interior" else 0.02
        return bool((self.group == number).sum() >= max(10, share * self.totals[number]))

    def unseen_mouth(self, groups: dict[str, np.ndarray]) -> np.ndarray:
        """(V,) bool teeth and mouth of which the portrait tells nothing."""
        hidden = [groups[name] for name in ("teeth", "mouth_interior") if not self.shows(name)]
        return np.any([np.zeros(len(groups["skin"]), bool), *hidden], axis=0)

    def neckline(self) -> Neckline:
        skin, neck = (self.group == GROUPS.index(name) for name in ("skin", "neck"))
        skin &= self.hair < 0.5
        return Neckline.found(self.color[skin], self.place[neck], self.color[neck])


def _fill_groups(
    place: np.ndarray,
    color: np.ndarray,
    known: np.ndarray,
    sources: _Sources,
    beyond: np.ndarray,
    groups: dict[str, np.ndarray],
    neckline: Neckline,
    lying: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Each kind of surface (V, 3) from its own visible part, priors where a kind is not seen at all; and the same with
    the neck, wherever it is, in clothes. Teeth are left to `tooth_colors`, which needs finer steps than vertices.

    beyond: (N, 3) colours of the portrait's hair outside the mesh. lying: (V,) bool what faces upwards.
    """
    priors = _priors(place, lying, groups, sources.tone)
    filled = color.astype(np.float32).copy()
    cloth, dressed = filled.copy(), neckline.clothed(sources.color) > 0.5
    # A beard and its shadow may look like a coat, but not above the neckline.
    bare = ~dressed | (neckline.below(sources.place) < -ABOVE)
    for number, name in enumerate(GROUPS):
        # Skin and clothes of the neck are both wanted on either side of a neckline.
        target = groups[name] & ((known < 0.999) | (name == "neck" and neckline.level is not None))
        if name == "teeth" or not target.any():
            continue
        source = sources.group == number
        if not sources.shows(name):
            filled[target] = priors[name][target]
            if name == "scalp" and len(beyond) > 50:
                filled[target] = np.median(beyond, 0)
            continue
        mean = np.median(sources.color[source], 0)
        if name == "scalp":
            source, mean = _haired(source, sources, beyond)
        if name == "neck":
            for layer, kind in ((filled, source & bare), (cloth, source & dressed)):
                enough = neckline.level is not None and kind.sum() >= 10
                _fill_neck(layer, place, target, sources, kind if enough else source, neckline)
            continue
        filled[target] = _nearest_mean(sources.place[source], sources.color[source], place[target], FILL_RANGE, mean)
    return filled, cloth


def _fill_neck(
    filled: np.ndarray,
    place: np.ndarray,
    target: np.ndarray,
    sources: _Sources,
    allowed: np.ndarray,
    neckline: Neckline,
) -> None:
    """Neck and shoulders from some of the sources, in place. target: (V,) bool. allowed: (N,) bool."""
    # Collars go round the neck at one height.
    heights, levels = neckline.height(sources.place[allowed]), neckline.height(place[target])
    metric = np.array([1.0, 3.0, 1.0], np.float32)
    here, there = sources.place[allowed] * metric, place[target] * metric
    here[:, 1], there[:, 1] = 3.0 * heights, 3.0 * levels
    mean = _by_height(heights, sources.color[allowed], levels)
    filled[target] = _nearest_mean(here, sources.color[allowed], there, NECK_RANGE, mean)


def _priors(
    place: np.ndarray, lying: np.ndarray, groups: dict[str, np.ndarray], tone: np.ndarray
) -> dict[str, np.ndarray]:
    """Colours (V, 3) of each kind but teeth for a photograph that does not show it, in its brightness and saturation.
    lying: (V,) bool what faces upwards."""
    light = float(np.clip(tone @ LUMA / REFERENCE_LUMINANCE, 0.35, 1.2))
    saturation = float(np.clip((tone.max() - tone.min()) / 0.15, 0.0, 1.0))
    front = place[groups["lips"], 2].max() if groups["lips"].any() else place[:, 2].max()
    depth = np.clip(front - 0.012 - place[:, 2], 0.0, None)
    inside = np.exp(-depth / np.where(lying, TONGUE_DEPTH, MOUTH_DEPTH))[:, None]
    gums, throat = np.array(GUMS), np.array(THROAT)
    colors = {
        "mouth_interior": (throat + (gums - throat) * inside) * light,
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


def _beyond(
    reference: Reference,
    vertices: np.ndarray,
    place: np.ndarray,
    seeing: Visibility,
    photo: np.ndarray,
    hair: np.ndarray,
) -> np.ndarray:
    """(N, 3) colours of the portrait's hair above the chin that lies outside the mesh."""
    size = reference.size
    covered = cv2.resize(seeing.far, (size, size), interpolation=cv2.INTER_AREA) > 0
    chin = vertices[place[:, 1] > np.quantile(place[:, 1], 0.35)]
    row = to_pixels(to_local(chin, reference.camera), reference.camera)[:, 1].max()
    outside = (reference.mask > 0.98) & (hair > 0.5) & ~covered & (np.arange(size)[:, None] < row)
    return cv2.resize(photo, (size, size), interpolation=cv2.INTER_AREA)[outside]


def _haired(scalp: np.ndarray, sources: _Sources, beyond: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the visible scalp (N,) bool, the part that has hair, and the hair's colour (3,).

    The head's hairline and the person's differ; without this a high forehead would colour the back of the head. Who
    shows little hair is bald: then all of the scalp counts.
    """
    haired = scalp & (sources.hair > 0.5)
    if haired.sum() < 0.08 * scalp.sum() + 5:
        return scalp, np.median(sources.color[scalp], 0)
    return haired, np.median(np.concatenate([sources.color[haired], beyond]), 0)


def _by_height(heights: np.ndarray, color: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(M, 3) colours at heights (M,) in metres: the medians of those (N, 3) seen at the same height, or nearest it."""
    order = np.argsort(heights)
    slices = [part for part in np.array_split(order, max(1, min(12, len(order) // 8))) if len(part)]
    levels = np.array([heights[part].mean() for part in slices])
    medians = np.array([np.median(color[part], 0) for part in slices])
    return np.stack([np.interp(targets, levels, medians[:, c]) for c in range(3)], 1).astype(np.float32)


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


def _blurred(reference: Reference, photo: np.ndarray, radius: float) -> np.ndarray:
    """The portrait's colours, blurred by `radius` (share of the side) inside its matte alone."""
    size = min(reference.size, 256)
    image = cv2.resize(photo, (size, size), interpolation=cv2.INTER_AREA)
    matte = cv2.resize(reference.mask, (size, size), interpolation=cv2.INTER_AREA)
    inside = np.maximum(cv2.erode(matte, np.ones((3, 3), np.uint8)), 1e-3)[..., None]
    sigma = max(radius * size, 0.5)
    weight = cv2.GaussianBlur(inside, (0, 0), sigma)[..., None]
    return cv2.GaussianBlur(image * inside, (0, 0), sigma) / np.maximum(weight, 1e-6)
