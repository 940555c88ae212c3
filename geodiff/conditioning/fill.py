"""Colours for what the photograph does not show: from the nearest visible surface of the same kind, and priors."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from geodiff.conditioning.layers import FILL_RANGE, RING, HairColors, fill_layers, nearest_mean
from geodiff.conditioning.reference import Reference
from geodiff.conditioning.shading import log_shading
from geodiff.conditioning.sources import Sources, brow_color, hair_beyond
from geodiff.conditioning.surface import GROUPS, PosedMesh, Visibility, smoother, vertex_groups
from geodiff.conditioning.teeth import Tints
from geodiff.head.model import HeadModel
from geodiff.raster.chart import Chart, sample, to_local, to_pixels
from geodiff.raster.shadow import ambient_occlusion

#: Rounds in which borders are smoothed, and metres by which ears stay outside of hair.
LINE_ROUNDS, EARS_BARE = 4, 0.004
#: Rounds in which shading is smoothed, and how well a scalp has to be seen for its light to be that of the hair around.
SHADE_ROUNDS, RIM_SEEN = 2, 0.2


@dataclass(frozen=True)
class Fill:
    """Colours of all V vertices, 0..1. color: (V, 3). matching: (V, 3) log gains that match mirrored colours to this
    side. cloth: (V, 3) the colour where a point is covered by clothes. hem: (V,) metres, at most RING, by which it lies
    below the neckline and inside of the neck. hair: (V, 3) the colour where hair grows. hairline: (V,) metres by
    which a point lies inside of it; at most RING counts. haired: whether that is hair, and no bald head's skin.
    guessed: (V,) bool, teeth and inside of a mouth that is shut. tints: of teeth."""

    color: np.ndarray
    matching: np.ndarray
    cloth: np.ndarray
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
    blurred = _blurred(reference, photo, 0.012)
    camera = reference.camera.resized(blurred.shape[1], blurred.shape[0])
    likely = cv2.resize(hair, blurred.shape[:2], interpolation=cv2.INTER_LINEAR)
    picture = np.concatenate([blurred, likely[..., None]], 2)
    shown = sample(picture, to_pixels(to_local(posed.vertices, camera), camera))
    shade = _shade(head, posed, shown, seen, groups)
    color = shown[:, :3] * np.exp(-shade)[:, None]
    flip = head.mirror.numpy()
    matching = _matching(color, (np.minimum(seen, seen[flip]) > 0.5) & groups["skin"], place, flip)
    known = np.maximum(seen, 0.8 * seen[flip])
    mirrored = color[flip] * np.exp(matching)
    color = np.where((seen >= 0.8 * seen[flip])[:, None], color, mirrored)
    sources = Sources.collect(head, chart, posed, shade, matching, picture, camera, seeing, groups, teeth)
    rim = groups["scalp"] & (seen > RIM_SEEN)
    beyond = hair_beyond(reference, posed, seeing, photo, hair) * np.exp(-np.median(shade[rim]) if rim.any() else 0.0)
    colors = HairColors(beyond, brow_color(head, reference, photo), _standing(head, reference))
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
    layers, haired = fill_layers(
        place, color, known, sources, colors, groups, neckline, posed.normals[:, 1] > 0.3, line, collar
    )
    # What the picture shows stays as it is on its own side of neckline and hairline alone.
    dressed = (hem > 0) & groups["neck"]
    own = np.stack([~dressed & ~groups["scalp"], dressed, groups["scalp"]], 1)
    stays = (own * known[:, None])[..., None]
    apart = _within(smoother(head), groups, dressed)
    for _ in range(6):
        spread = (apart @ layers.reshape(len(place), 9)).reshape(layers.shape)
        layers = stays * color[:, None] + (1.0 - stays) * spread
    smooth = smoother(head)
    matching = (smooth @ (smooth @ matching)).astype(np.float32)
    # From here on everything stands in its light again.
    matching = matching + (shade - shade[flip])[:, None]
    bare, clothes, grown = (
        np.clip(layers[:, n] * np.exp(shade)[:, None], 0.0, 1.0).astype(np.float32) for n in range(3)
    )
    return Fill(
        bare, matching, clothes, hem.astype(np.float32), grown, line.astype(np.float32), haired, guessed, sources.tints
    )


def _shade(
    head: HeadModel, posed: PosedMesh, shown: np.ndarray, seen: np.ndarray, groups: dict[str, np.ndarray]
) -> np.ndarray:
    """(V,) log of the light that falls on each vertex. shown: (V, 4) colours and likelihood of hair. seen: (V,)."""
    skin = (seen > 0.9) & groups["skin"] & (shown[:, 3] < 0.3)
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


def _blurred(reference: Reference, photo: np.ndarray, radius: float) -> np.ndarray:
    """The portrait's colours, blurred by `radius` (share of the side) inside its matte alone."""
    size = min(reference.size, 256)
    image = cv2.resize(photo, (size, size), interpolation=cv2.INTER_AREA)
    matte = cv2.resize(reference.mask, (size, size), interpolation=cv2.INTER_AREA)
    inside = np.maximum(cv2.erode(matte, np.ones((3, 3), np.uint8)), 1e-3)[..., None]
    sigma = max(radius * size, 0.5)
    weight = cv2.GaussianBlur(inside, (0, 0), sigma)[..., None]
    return cv2.GaussianBlur(image * inside, (0, 0), sigma) / np.maximum(weight, 1e-6)
