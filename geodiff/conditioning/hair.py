"""Hair in a reference: which of its pixels and which of the surface are hair, and hair's texture for what is not seen.

The texture is made from the portrait's own: patches of seen hair, freed from shading and turned along the strands, are
laid over the hidden hair and blended so that their variance is kept (Heitz and Neyret 2018). Where seen hair is combed,
patches would be felt: there most of the texture is strands drawn from the whorl on, in the tones of seen hair.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import ndtr

from geodiff.conditioning.noise import strand_noise
from geodiff.conditioning.reference import Reference, wide_blur
from geodiff.conditioning.surface import FACING, bilinear, unit, vertex_groups
from geodiff.geometry import smoothstep
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.raster.chart import sample, to_local, to_pixels
from geodiff.raster.compiled import kept
from geodiff.tracking.hair_color import hair_likelihood
from geodiff.tracking.hair_surface import HairSurface

#: Offsets (metres) from which skin beside the scalp counts as carried by hair, and by which ears that hair covers are
#: bent out of shape.
CARRIED, BENT = 0.004, 0.005
#: Metres from the scalp within which skin above and behind the ears has hair.
NEAR_SCALP = 0.03
#: Radius of a patch in metres, largest and smallest; its centres' distance as a share of it.
PATCH, SPACING = (0.024, 0.007), 0.7
#: Width of the blur (share of the side) that parts a patch's texture from its shading.
SHADING = 0.04
#: Bands that go round the head, as a hat's do: their height in metres, the least number of places seen, the share of
#: the colours' variance that height has to explain and the spread of a channel (0..1) it has to make, and the share of
#: patches' contrast that remains beside them.
BAND, BAND_PLACES, BAND_SHARE, BAND_SPREAD, BAND_PATCHES = 0.006, 200, 0.6, 0.12, 0.3
#: Metres from what is seen over which bands take over from the nearest colours.
BAND_RANGE = (0.02, 0.12)
#: Likelihood from which a pixel's tone is hair's alone, not that of skin between hairs.
SURE = 0.8
#: Portrait pixels among which patches are drawn, the largest log contrast of a texel to its shading, and how much of
#: the contrast is taken: hair that nobody sees shall not draw the eye.
SAMPLES, CONTRAST, STRENGTH = 160, 0.8, 0.75
#: Steps from the darkest to the lightest of hair's tones, and metres from the whorl to the middle of the skull.
TONES, SKULL = 24, 0.09
#: Log contrast of the darkest and the lightest strands where no hair is seen.
PLAIN = 0.3
#: How much less hair has to change along its strands than across for it to count as curls and as combed, and the most
#: that drawn strands take the place of patches.
COMBED, DRAWN = (0.2, 0.4), 0.9

_above: WeakKeyDictionary[HeadModel, np.ndarray] = WeakKeyDictionary()


def hair_pixels(head: HeadModel, reference: Reference, seen: mesh.Fragments) -> np.ndarray:
    """(S, S) 0..1: how likely the reference's pixels are hair, by their colours. seen: the posed mesh in its camera."""
    coded = (np.clip(reference.image, 0, 1) * 255 + 0.5).astype(np.uint8)
    row = _ear_row(head, reference, seen)
    return hair_likelihood(coded, reference.mask, seen, head, row) * (reference.mask > 0.5)


def grown_pixels(head: HeadModel, reference: Reference, seen: mesh.Fragments, hair: np.ndarray) -> np.ndarray:
    """(S, S) `hair_pixels` without brows, beards, eyes, shadows on the neck and gleams on a forehead: pieces that reach
    from above the ears to the outline."""
    inner = head.regions["face"] | head.regions["eyes"] | head.regions["eyeballs"]
    beside = hair * ~seen.of(head.faces, inner.numpy(), every=False)
    count, pieces = cv2.connectedComponents((beside > 0.5).astype(np.uint8))
    outline = cv2.dilate((reference.mask < 0.5).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    outline[[0, -1]] = outline[:, [0, -1]] = True
    above = np.arange(len(hair))[:, None] < _ear_row(head, reference, seen)
    touches = [np.bincount(pieces[where], minlength=count) > 0 for where in (outline, above & (pieces > 0))]
    kept = touches[0] & touches[1]
    kept[0] = True
    return beside * kept[pieces]


def _ear_row(head: HeadModel, reference: Reference, seen: mesh.Fragments) -> float:
    """The picture's row in which the ears are."""
    rows = np.flatnonzero(seen.of(head.faces, head.regions["ears"].numpy(), every=False).any(1))
    return float(rows.mean()) if len(rows) else 0.5 * reference.size


def person_groups(head: HeadModel, reference: Reference, haired: bool) -> dict[str, np.ndarray]:
    """`vertex_groups` of this person: skin and neck that hair carries along count as scalp; where there is hair at all
    (`haired`), the skin between scalp and ears does too."""
    groups = {name: mask.copy() for name, mask in vertex_groups(head).items()}
    if haired:
        near = _above_ears(head) & groups["skin"]
        groups["skin"] &= ~near
        groups["scalp"] |= near
    offset = reference.params.static_offset
    if offset is None:
        return groups
    moved = torch.linalg.norm(offset, dim=1).numpy() > CARRIED
    carried = moved & groups["neck"]
    ears = head.regions["ears"].numpy()
    for side in (1.0, -1.0):
        ear = ears & (side * head.template[:, 0].numpy() > 0)
        if ear.any() and float(offset[ear].std(0).norm()) > BENT:
            carried |= ear | (moved & ~head.regions["face"].numpy() & (side * head.template[:, 0].numpy() > 0))
    carried &= groups["skin"] | groups["neck"]
    for name in ("skin", "neck"):
        groups[name] &= ~carried
    groups["scalp"] |= carried
    return groups


def _above_ears(head: HeadModel) -> np.ndarray:
    """(V,) bool: skin above and behind the ears, close to the scalp. Made once for each head."""
    if head not in _above:
        surface = HairSurface(head, head.zeros())
        ears, scalp = surface.ears[0] | surface.ears[1], head.regions["scalp"].numpy()
        place = head.template.numpy()
        near = np.zeros(len(place), bool)
        if ears.any() and scalp.any():
            behind = (place[:, 2] < place[ears, 2].mean()) & (place[:, 1] > place[ears, 1].min())
            above = (place[:, 1] > place[ears, 1].max()) & (place[:, 2] < place[ears, 2].max() + 0.005)
            near = (cKDTree(place[scalp]).query(place)[0] < NEAR_SCALP) & (behind | above) & ~ears
        _above[head] = near & ~head.regions["eyes"].numpy() & ~head.regions["neck"].numpy()
    return _above[head]


class HairTexture:
    """Patches of a portrait's hair, as log contrasts to its shading; `empty` where it shows too little hair: then plain
    strands."""

    def __init__(self, reference: Reference, hair: np.ndarray, depth: float) -> None:
        photo = reference.finest
        size = photo.shape[0]
        matte = reference.finest_mask
        likely = cv2.resize(hair, (size, size), interpolation=cv2.INTER_LINEAR)
        shown = ((likely > 0.5) & (matte > 0.98)).astype(np.uint8)
        closed = cv2.morphologyEx(shown, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
        inside = ((closed > 0) & (matte > 0.9)).astype(np.uint8)
        focal = float(reference.camera.K[0, 0]) * size / reference.size
        self.scale = focal / depth
        self._photo, self._inside, self._camera = photo, inside, reference.camera.resized(size, size)
        room = cv2.distanceTransform(cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 5)
        room = room[1:-1, 1:-1]
        largest = float(np.percentile(room[room > 0], 97)) if (room > 0).any() else 0.0
        self.radius = float(np.clip(largest / self.scale, 0.0, PATCH[0]))
        self.empty = self.radius < PATCH[1]
        if self.empty:
            self.tones = np.repeat(np.linspace(-PLAIN, PLAIN, TONES)[:, None], 3, 1)
            return
        self.contrast = _contrast(photo, inside.astype(np.float32), SHADING * size)
        rng = np.random.default_rng(0)
        rows, columns = np.nonzero(room >= 0.85 * min(largest, self.radius * self.scale))
        chosen = rng.choice(len(rows), min(SAMPLES, len(rows)), replace=False)
        self.centres = np.stack([columns[chosen], rows[chosen]], 1) + 0.5
        self.strands, self.combed = _strands(photo, self.centres, 0.4 * self.radius * self.scale)
        pure = inside * (likely > SURE)
        self.tones = _tones(self.contrast[(pure if pure.sum() >= SAMPLES else inside) > 0])

    def over(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Log contrasts (N, 3) of hair on surface points (N, 3) with normals (N, 3), in metres around the head."""
        top = points[points[:, 1] >= np.quantile(points[:, 1], 0.98)].mean(0)
        whorl = np.array([top[0], top[1], points[:, 2].mean()])
        if self.empty:
            return self._drawn(points, whorl)
        bands = self._bands(points, normals)
        share = DRAWN * float(smoothstep(np.array(self.combed), *COMBED))
        texture = np.sqrt(1 - share**2) * self._patches(points, normals, whorl)
        if share > 0:
            texture += share * self._drawn(points, whorl)
        return texture if bands is None else BAND_PATCHES * texture + bands

    def _drawn(self, points: np.ndarray, whorl: np.ndarray) -> np.ndarray:
        """Log contrasts (N, 3) of strands in the portrait's tones that fall from the whorl."""
        noise = strand_noise(points, whorl, whorl - [0.0, SKULL, 0.0])
        rank = ndtr(noise) * (len(self.tones) - 1)
        return np.stack([np.interp(rank, np.arange(len(self.tones)), tone) for tone in self.tones.T], 1)

    def _bands(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray | None:
        """Log contrasts (N, 3) of bands that go round the head, where nothing near is seen; None where what is seen has
        none."""
        pixels = to_pixels(to_local(points, self._camera), self._camera)
        facing = (unit(self._camera.center.numpy() - points) * unit(normals)).sum(1)
        # Bilinear samples of a mask beyond the picture repeat its border, which is no hair but where it is cut off.
        seen = (facing > FACING[1]) & (sample(self._inside.astype(np.float32), pixels) > 0.9)
        if seen.sum() < BAND_PLACES:
            return None
        color = sample(np.ascontiguousarray(self._photo, np.float32), pixels[seen])
        height = points[seen, 1]
        order = np.argsort(height, kind="stable")
        parts = np.array_split(order, max(2, round(float(np.ptp(height)) / BAND)))
        levels = np.array([height[part].mean() for part in parts])
        medians = np.array([np.median(color[part], 0) for part in parts])
        level = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        unexplained = ((color[order] - medians[level]) ** 2).sum() / max(((color - color.mean(0)) ** 2).sum(), 1e-9)
        if 1 - unexplained < BAND_SHARE or float(medians.std(0).max()) < BAND_SPREAD:
            return None
        logs = np.log(medians + 0.03) - np.log(np.median(color, 0) + 0.03)
        away = cKDTree(points[seen]).query(points, distance_upper_bound=BAND_RANGE[1])[0]
        share = smoothstep(np.minimum(away, BAND_RANGE[1]), *BAND_RANGE)[:, None]
        return share * np.stack([np.interp(points[:, 1], levels, logs[:, c]) for c in range(3)], 1)

    def _patches(self, points: np.ndarray, normals: np.ndarray, whorl: np.ndarray) -> np.ndarray:
        """Log contrasts (N, 3) of the portrait's patches, laid over a surface."""
        rng = np.random.default_rng(1)
        seeds = _scattered(points, SPACING * self.radius, rng)
        anchor, normal = points[seeds], unit(normals[seeds])
        down = anchor - whorl + np.array([0.0, -0.02, 0.0])
        along = unit(down - (down * normal).sum(1, keepdims=True) * normal)
        across = np.cross(normal, along)
        drawn = rng.integers(len(self.centres), size=len(seeds))
        strand = self.strands[drawn]
        beside = np.stack([-strand[:, 1], strand[:, 0]], 1) * rng.choice([-1.0, 1.0], (len(seeds), 1))
        near = min(4, len(seeds))
        distance, index = cKDTree(anchor).query(points, k=near, distance_upper_bound=1.6 * self.radius)
        distance, index = distance.reshape(len(points), near), index.reshape(len(points), near)
        total = np.zeros((len(points), 3), np.float32)
        frame = np.stack([anchor, along, across], 1).astype(np.float32)
        turn = np.stack([strand, beside], 1).astype(np.float32)
        centres = self.centres[drawn].astype(np.float32)
        place, size = np.ascontiguousarray(points, np.float32), (np.float32(self.scale), np.float32(self.radius))
        _patch_kernel(place, index, frame, turn, centres, *size, self.contrast, total)
        return total


@kept()
def _patch_kernel(points, index, frame, turn, centres, scale, radius, contrast, total):  # noqa: ANN001, ANN202
    """Blend the patches around each point (N, 3) into total (N, 3), in place.

    index: (N, K) the nearest patches, their number where there is none. frame: (P, 3, 3) a patch's middle and the
    directions along and across its strands; turn: (P, 2, 2) the same directions in the portrait's pixels, whose centre
    is centres (P, 2). scale: pixels a metre. radius: metres. contrast: (S, S, 3).
    """
    count = frame.shape[0]
    for n in range(points.shape[0]):
        power = np.float32(0)
        for k in range(index.shape[1]):
            p = index[n, k]
            if p >= count:
                continue
            u = v = np.float32(0)
            for c in range(3):
                away = points[n, c] - frame[p, 0, c]
                u += away * frame[p, 1, c]
                v += away * frame[p, 2, c]
            # Patches are longer than wide, as locks are.
            reach = np.sqrt(np.float32(0.5) * u * u + np.float32(1.6) * v * v)
            weight = 1 - reach / (np.float32(1.2) * radius)
            if weight <= 0:
                continue
            weight *= weight
            x = centres[p, 0] + scale * (u * turn[p, 0, 0] + v * turn[p, 1, 0])
            y = centres[p, 1] + scale * (u * turn[p, 0, 1] + v * turn[p, 1, 1])
            for c in range(3):
                total[n, c] += weight * bilinear(contrast[:, :, c], x, y)
            power += weight * weight
        for c in range(3):
            total[n, c] /= max(np.sqrt(power), np.float32(1e-4))


def _contrast(photo: np.ndarray, inside: np.ndarray, sigma: float) -> np.ndarray:
    """(S, S, 3) log of the photo over its blur within a mask, 0 outside; the mean of what it multiplies by is 1."""
    logs = np.log(photo + 0.03)
    spread = wide_blur(np.concatenate([logs * inside[..., None], inside[..., None]], 2), sigma)
    smooth = spread[..., :3] / np.maximum(spread[..., 3:], 1e-3)
    contrast = STRENGTH * np.clip(logs - smooth, -CONTRAST, CONTRAST) * inside[..., None]
    gain = (np.exp(contrast) * inside[..., None]).sum((0, 1)) / max(float(inside.sum()), 1.0)
    return (contrast - np.log(np.maximum(gain, 1e-3)) * inside[..., None]).astype(np.float32)


def _tones(contrast: np.ndarray) -> np.ndarray:
    """(T, 3) mean log contrasts of hair's pixels (N, 3), from the darkest part to the lightest; T at most TONES."""
    order = np.argsort(contrast.mean(1), kind="stable")
    return np.array([contrast[part].mean(0) for part in np.array_split(order, min(TONES, len(order)))])


def _strands(photo: np.ndarray, centres: np.ndarray, sigma: float) -> tuple[np.ndarray, float]:
    """(N, 2) unit directions of the strands at pixels (N, 2), downwards: where the picture changes least; and how much
    less that is, 0..1."""
    grey = cv2.cvtColor(photo.astype(np.float32), cv2.COLOR_RGB2GRAY)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    products = [cv2.GaussianBlur(p, (0, 0), max(sigma, 1.0)) for p in (dx * dx, dx * dy, dy * dy)]
    xx, xy, yy = (sample(p, centres.astype(np.float32)) for p in products)
    angle = 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2
    direction = np.stack([np.cos(angle), np.sin(angle)], 1)
    combed = np.sqrt((xx - yy) ** 2 + 4 * xy**2) / np.maximum(xx + yy, 1e-12)
    return direction * np.where(direction[:, 1:] < 0, -1.0, 1.0), float(np.median(combed))


def _scattered(points: np.ndarray, spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Indices of points about `spacing` apart: one of each cell of a grid."""
    order = rng.permutation(len(points))
    cells = np.floor((points[order] - points.min(0)) / spacing).astype(np.int64)
    _, first = np.unique(cells @ np.array([1, 1 << 16, 1 << 32]), return_index=True)
    return order[first]
