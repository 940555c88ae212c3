"""Colours for what the photograph does not show: from the nearest visible surface of the same kind, and priors."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from geodiff.conditioning.layers import FILL_RANGE, RING, HairColors, Layers, fill_layers, nearest_mean
from geodiff.conditioning.reference import Reference
from geodiff.conditioning.shading import log_shading
from geodiff.conditioning.sources import Sources, brow_color, hair_beyond, scalp_as_hair
from geodiff.conditioning.surface import GROUPS, PosedMesh, Visibility, smoother, vertex_groups
from geodiff.conditioning.teeth import Tints
from geodiff.head.model import HeadModel
from geodiff.raster.chart import Chart, sample, to_local, to_pixels
from geodiff.raster.shadow import ambient_occlusion

#: Rounds in which borders and layers are smoothed, and metres by which ears stay outside of hair.
LINE_ROUNDS, LAYER_ROUNDS, EARS_BARE = 4, 6, 0.004
#: Width of the blur of colours that fills are made of, as a share of the side.
BLUR = 0.012
#: Rounds in which shading is smoothed, and how well a scalp has to be seen for its light to be that of the hair around.
SHADE_ROUNDS, RIM_SEEN = 2, 0.2


@dataclass(frozen=True)
class Fill:
    """Colours of all V vertices, 0..1. color: (V, 3). matching: (V, 3) log gains that match mirrored colours to this
    side. cloth, inner: (V, 3) the colours where a point is covered by clothes, either of two garments; second: (V,)
    0..1 whether it is rather by the second. hem: (V,) metres, at most RING, by which it lies below the neckline and
    inside of the neck. hair: (V, 3) the colour where hair grows. hairline: (V,) metres by which a point lies inside of
    it; at most RING counts. haired: whether that is hair, and no bald head's skin. guessed: (V,) bool, teeth and inside
    of a mouth that is shut. tints: of teeth."""

    color: np.ndarray
    matching: np.ndarray
    cloth: np.ndarray
    inner: np.ndarray
    second: np.ndarray
    hem: np.ndarray
    hair: np.ndarray
    hairline: np.ndarray
    haired: bool
    guessed: np.ndarray
    tints: Tints


def fill_vertices(
    head: HeadModel,
    reference: Reference,
    chart: Chart,
    posed: PosedMesh,
    seeing: Visibility,
    photo: np.ndarray,
    hair: np.ndarray,
    groups: dict[str, np.ndarray],
    teeth: np.ndarray | None,
) -> Fill:
    """Smooth colours for every vertex.

    photo: (D, D, 3) the portrait's colours, continued beyond its matte. hair: (S, S) 0..1 where its pixels are hair.
    groups: the person's kinds of surface. teeth: (T, 3) as of `seen_teeth`.
    """
    seen, place = seeing(posed.vertices, posed.normals), posed.place
    picture = _blurred(reference.mask, photo, hair)
    camera = reference.camera.resized(picture.shape[1], picture.shape[0])
    shown = sample(picture, to_pixels(to_local(posed.vertices, camera), camera))
    shade = _shade(head, posed, shown, seen, groups)
    color = scalp_as_hair(shown, groups["scalp"]) * np.exp(-shade)[:, None]
    flip = head.mirror.numpy()
    matching = _matching(color, (np.minimum(seen, seen[flip]) > 0.5) & groups["skin"], place, flip)
    known = np.maximum(seen, 0.8 * seen[flip])
    mirrored = color[flip] * np.exp(matching)
    color = np.where((seen >= 0.8 * seen[flip])[:, None], color, mirrored)
    sources = Sources.collect(head, chart, posed, shade, matching, picture, camera, seeing, groups, teeth)
    rim = groups["scalp"] & (seen > RIM_SEEN)
    beyond = hair_beyond(reference, posed, seeing, photo, hair) * np.exp(-np.median(shade[rim]) if rim.any() else 0.0)
    of_hair = HairColors(beyond, brow_color(head, reference, photo), _standing(head, reference))
    neckline = sources.neckline()
    # Hair that hangs over clothes lies over them: under it the neck is the neck.
    neck = vertex_groups(head)["neck"]
    collar = inside_by(head, reference, neck, groups["skin"] & ~neck)
    hem = np.minimum(neckline.below(place), collar)
    guessed = sources.unseen_mouth(groups)
    # What is seen of a mouth that is shut are lips that lie a little otherwise than the mesh's.
    known = np.where(guessed, 0.0, known)
    line = inside_by(head, reference, groups["scalp"], groups["skin"] | groups["neck"])
    line = np.where(head.regions["ears"].numpy() & ~groups["scalp"], np.minimum(line, -EARS_BARE), line)
    layers = fill_layers(
        place, color, known, sources, of_hair, groups, neckline, posed.normals[:, 1] > 0.3, line, collar
    )
    colors, second = _smoothed(head, layers, color, known, groups, (hem > 0) & groups["neck"])
    smooth = smoother(head)
    matching = (smooth @ (smooth @ matching)).astype(np.float32)
    # From here on everything stands in its light again.
    matching = matching + (shade - shade[flip])[:, None]
    lit = np.clip(colors * np.exp(shade)[:, None, None], 0.0, 1.0).astype(np.float32)
    bare, cloth, inner, grown = (np.ascontiguousarray(lit[:, n]) for n in range(4))
    line, hem = line.astype(np.float32), hem.astype(np.float32)
    return Fill(bare, matching, cloth, inner, second, hem, grown, line, layers.haired, guessed, sources.tints)


def _smoothed(
    head: HeadModel,
    layers: Layers,
    color: np.ndarray,
    known: np.ndarray,
    groups: dict[str, np.ndarray],
    dressed: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The layers' colours (V, 4, 3), as they stand in `Layers`, and `second` (V,), smooth within each kind of surface.
    color: (V, 3) what the picture shows, known: (V,) 0..1 how well. dressed: (V,) bool, in clothes."""
    # What the picture shows stays as it is on its own side of neckline and hairline alone.
    first = layers.second < 0.5
    own = np.stack([~dressed & ~groups["scalp"], dressed & first, dressed & ~first, groups["scalp"]], 1)
    stays = (own * known[:, None])[..., None]
    apart = _within(smoother(head), groups, dressed)
    colors, second = np.stack([layers.bare, layers.cloth, layers.inner, layers.hair], 1), layers.second
    for _ in range(LAYER_ROUNDS):
        spread = (apart @ colors.reshape(len(color), -1)).reshape(colors.shape)
        colors = stays * color[:, None] + (1.0 - stays) * spread
        second = (apart @ second).astype(np.float32)
    return colors, second


def _shade(
    head: HeadModel, posed: PosedMesh, shown: np.ndarray, seen: np.ndarray, groups: dict[str, np.ndarray]
) -> np.ndarray:
    """(V,) log of the light that falls on each vertex. shown: (V, 7) as of `_blurred`. seen: (V,)."""
    skin = (seen > 0.9) & groups["skin"] & (shown[:, 6] < 0.3)
    # Ears that hair covers have no folds.
    covered = groups["scalp"] & head.regions["ears"].numpy()
    open_sky = np.where(covered, np.float32(1), ambient_occlusion(head))
    shade = log_shading(shown[:, :3], posed.normals, open_sky, skin)
    # What colours these is chosen with the dark that they lie in.
    shade[groups["eyeballs"] | groups["teeth"] | groups["mouth_interior"]] = 0.0
    for _ in range(SHADE_ROUNDS):
        shade = smoother(head) @ shade
    return shade


def _standing(head: HeadModel, reference: Reference) -> float:
    """Metres by which hair usually stands off the skull."""
    offset, scalp = reference.params.static_offset, head.regions["scalp"]
    return 0.0 if offset is None or not scalp.any() else float(offset[scalp].norm(dim=1).median())


def _matching(color: np.ndarray, both: np.ndarray, place: np.ndarray, flip: np.ndarray) -> np.ndarray:
    """(V, 3) log gains from mirrored colours to colours (V, 3), known where both are seen (V,) bool."""
    ratio = np.clip(np.log((color + 0.03) / (color[flip] + 0.03)), -0.4, 0.4)
    matching = np.zeros_like(color)
    if both.sum() > 50:
        none = np.zeros(3, np.float32)
        matching[both] = ratio[both]
        matching[~both] = nearest_mean(place[both], ratio[both], place[~both], FILL_RANGE, none)
    return matching


def inside_by(head: HeadModel, reference: Reference, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """(V,) metres, at most RING, by which vertices lie inside of a kind of surface (V,) bool that borders on another,
    negative outside. Smoothed: triangles' borders zigzag."""
    place = head.shaped(reference.params, expression=False, offsets=False)[0].numpy()
    line = np.where(inside, RING, -RING).astype(np.float32)
    if inside.any() and outside.any():
        line[inside] = cKDTree(place[outside]).query(place[inside], distance_upper_bound=RING)[0]
        line[outside] = -cKDTree(place[inside]).query(place[outside], distance_upper_bound=RING)[0]
        line = np.clip(line, -RING, RING)
        for _ in range(LINE_ROUNDS):
            line = smoother(head) @ line
    return line.astype(np.float32)


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


def _blurred(matte: np.ndarray, photo: np.ndarray, hair: np.ndarray) -> np.ndarray:
    """(D, D, 7) the portrait's colours, blurred inside its matte (S, S) alone; the same of its hair alone; and how
    likely it is hair."""
    size = min(len(matte), 256)
    image = cv2.resize(photo, (size, size), interpolation=cv2.INTER_AREA)
    matte = cv2.resize(matte, (size, size), interpolation=cv2.INTER_AREA)
    likely = cv2.resize(hair, (size, size), interpolation=cv2.INTER_LINEAR)
    inside = np.maximum(cv2.erode(matte, np.ones((3, 3), np.uint8)), 1e-3)
    sigma = max(BLUR * size, 0.5)
    parts = []
    for weight in (inside, inside * np.maximum(likely, 1e-3)):
        spread = cv2.GaussianBlur(np.concatenate([image * weight[..., None], weight[..., None]], 2), (0, 0), sigma)
        parts.append(spread[..., :3] / np.maximum(spread[..., 3:], 1e-9))
    return np.concatenate([*parts, likely[..., None]], 2).astype(np.float32)
