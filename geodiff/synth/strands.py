"""Locks of hair: ribbons that grow out of the skin, are combed, fall, curl and lie on the head.

The middle of each lock is a polyline that is integrated step by step: it keeps its direction, is drawn by the comb and
by gravity, and is pushed off the head to its own height, so that locks lie in layers. Strands, ribbons of a few hairs,
keep their place in the lock and draw together towards its tip; a broad dark ribbon below each lock closes the gaps.

Ribbons carry the normals of the hair as a volume, not their own: those of its hull, rounded over each lock. That is
what a surface fitted to the hair can have and what a photograph shows; single hairs are in colours and highlights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

from geodiff.conditioning.noise import fractal_noise
from geodiff.conditioning.surface import unit
from geodiff.synth.layers import Anchor, Layer

DOWN = np.array([0.0, -1.0, 0.0])
#: Rows of a palette, from root to tip, and its columns, each a hair of HAIR_WIDTH metres.
PALETTE, HAIR_WIDTH = (48, 256), 0.0005
#: Share of strands that stray from their lock.
STRAYS = 0.05

#: Roots (N, 3) and normals there -> the direction in which the comb draws, (N, 3).
Comb = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Roots:
    """Where strands begin: points, normals (N, 3), lengths (N,) in metres, density (N,) 0..1 of the hair there, head
    triangles' corners and weights (N, 3)."""

    points: np.ndarray
    normals: np.ndarray
    lengths: np.ndarray
    density: np.ndarray
    corners: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Growth:
    """How locks grow. segments: of each polyline. strands: of a lock. volume: metres between the skin and the topmost
    locks. stiffness: how much of its direction a lock keeps in a centimetre. combed: metres after which gravity has
    taken over from the comb. cling: how strongly it is drawn back to its height over the skin. curl, turns: radius in
    metres and turns of a helix in ten centimetres. clump: how far strands draw together at the tips. width: of a
    strand, metres. frizz: metres of noise. round: how far normals turn from the middle of a lock to its side. under:
    width of the ribbon below a lock, in widths of the lock, 0 for none."""

    segments: int = 10
    strands: int = 7
    volume: float = 0.012
    stiffness: float = 0.6
    combed: float = 0.2
    cling: float = 0.5
    curl: float = 0.0
    turns: float = 2.0
    clump: float = 0.5
    width: float = 0.0022
    frizz: float = 0.002
    round: float = 0.4
    under: float = 1.5


@dataclass(frozen=True)
class Strands:
    """N polylines of K + 1 points.

    points, hull: (N, K + 1, 3) places and the normals of the hair's hull there. aside: (N, K + 1) where in its lock,
    in half widths of it from its middle, and half: (N, K + 1) those in metres. width, dark: (N, K + 1)
    metres, and 0..1, what other hair keeps from the light. shade: (N,) place in the palette, 0..1. root: (N,) which
    root it has.
    """

    points: np.ndarray
    hull: np.ndarray
    aside: np.ndarray
    half: np.ndarray
    width: np.ndarray
    dark: np.ndarray
    shade: np.ndarray
    root: np.ndarray

    def and_(self, other: Strands) -> Strands:
        """These and the others."""
        return Strands(*(np.concatenate([a, b]) for a, b in zip(self._all(), other._all(), strict=True)))

    def _all(self) -> tuple[np.ndarray, ...]:
        return tuple(vars(self).values())


class Skin:
    """The head's outer surface (V', 3) as something to lie on."""

    def __init__(self, points: np.ndarray, normals: np.ndarray) -> None:
        self.points, self.normals = points, normals
        self.tree = cKDTree(points)
        skull = points[points[:, 1] > points[:, 1].max() - 0.1]
        self.middle = np.array([0.0, points[:, 1].max() - 0.1, skull[:, 2].mean()])

    def near(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Height (N,) over the surface and its normal (N, 3), each a mean over the four nearest vertices."""
        distance, index = self.tree.query(points, k=4)
        weight = 1 / (distance + 1e-4)
        weight /= weight.sum(1, keepdims=True)
        normal = np.einsum("nk,nkc->nc", weight, self.normals[index])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        base = np.einsum("nk,nkc->nc", weight, self.points[index])
        return ((points - base) * normal).sum(1), normal

    def hull(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Height (N,) of points (N, 3) over the surface, and normals (N, 3) of hair there: the skin's where it lies on
        it, farther off those of a dome over the skull with a wall below."""
        gap, normal = self.near(points)
        dome = points - self.middle
        dome[:, 1] = np.maximum(dome[:, 1], 0)
        share = np.clip(0.2 + gap / 0.03, 0, 0.85)[:, None]
        return gap, unit((1 - share) * normal + share * unit(dome))


def scatter_roots(
    rng: np.random.Generator,
    vertices: np.ndarray,
    faces: np.ndarray,
    normals: np.ndarray,
    density: np.ndarray,
    length: np.ndarray,
    count: int,
) -> Roots:
    """`count` roots on the triangles of a head (V, 3), in proportion to area and density (V,); length: (V,) metres."""
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    odds = area * density[faces].mean(1)
    chosen = rng.choice(len(faces), count, p=odds / odds.sum())
    weights = rng.dirichlet([1.0, 1.0, 1.0], count)
    picked = faces[chosen]

    def at(values: np.ndarray) -> np.ndarray:
        return np.einsum("nk,nk...->n...", weights, values[picked])

    lengths = at(length) * rng.uniform(0.75, 1.1, count)
    return Roots(at(vertices), unit(at(normals)), lengths, np.clip(at(density), 0, 1), picked, weights)


def grow(rng: np.random.Generator, roots: Roots, skin: Skin, comb: Comb, growth: Growth) -> Strands:
    """The strands of all roots, and the ribbons below their locks."""
    count = len(roots.points)
    leaders = rng.choice(count, max(1, count // growth.strands), replace=False)
    guides = _guides(rng, roots, leaders, skin, comb, growth)
    owner = cKDTree(roots.points[leaders]).query(roots.points)[1]
    gap, hull = (x.reshape(*guides.shape[:2], -1) for x in skin.hull(guides.reshape(-1, 3)))
    curled = _curled(rng, guides, roots.lengths[leaders], growth)
    tangent, across, outward = _frames(curled, hull)
    offset = roots.points - roots.points[leaders[owner]]
    ahead, beside, above = ((offset * axis[owner, 0]).sum(1) for axis in (tangent, across, outward))
    half = max(1.6 * float(np.sqrt((beside**2).mean())), 1e-3)
    clump = growth.clump * rng.uniform(0.6, 1.0, count)
    shade, jitter = rng.uniform(0.02, 0.75, len(leaders)), rng.uniform(0, 0.12, count)
    layer, stray = rng.uniform(-1, 1, count), rng.random(count) < STRAYS

    # A strand of another length than its lock's ends elsewhere along it.
    along = np.linspace(0, 1, growth.segments + 1)
    part = np.clip(roots.lengths / roots.lengths[leaders[owner]], 0.3, 1.05)[:, None] * along[None] * growth.segments
    low = np.minimum(part.astype(int), growth.segments - 1)
    share, own = (part - low)[..., None], owner[:, None]

    def at(values: np.ndarray) -> np.ndarray:
        return values[own, low] + share * (values[own, low + 1] - values[own, low])

    spread, rise = 1 - clump[:, None] * along[None] ** 1.2, np.minimum(1.0, 3 * along)[None]
    lift = (above[:, None] + (0.3 * half * layer)[:, None] * rise) * spread
    points = at(curled) + ahead[:, None, None] * at(tangent)
    points += (beside[:, None] * spread)[..., None] * at(across) + lift[..., None] * at(outward)
    points = _kept_off(_frizzy(rng, points, stray, growth), skin)
    taper = np.interp(along, [0, 0.15, 0.55, 1], [0.7, 1.0, 0.9, 0.12])
    width = growth.width * (rng.uniform(0.6, 1.3, count) * (0.4 + 0.6 * roots.density) * np.where(stray, 0.4, 1))
    aside = np.clip(beside / half, -1.2, 1.2)[:, None] * np.ones_like(spread)
    # Hair is darkest at the roots, deep in a lock and between locks.
    rooted = np.exp(-along[None] * roots.lengths[:, None] / 0.012)
    dark = 0.35 * rooted + 0.10 * (1 - layer)[:, None] + 0.14 * aside**2
    wide, tone = width[:, None] * taper, shade[owner] + jitter
    strands = Strands(points, unit(at(hull)), aside, half * spread, wide, dark, tone, np.arange(count))
    return strands.and_(_beneath(guides, hull, gap, half, growth, shade, leaders)) if growth.under else strands


def _beneath(
    guides: np.ndarray, hull: np.ndarray, gap: np.ndarray, half: float, growth: Growth, shade: np.ndarray,
    leaders: np.ndarray,
) -> Strands:  # fmt: skip
    """The broad dark ribbons below locks. guides, hull: (L, K + 1, 3) middles of the locks and normals there; gap:
    (L, K + 1, 1) over the skin; half: of a lock's width, metres."""
    along = np.linspace(0, 1, guides.shape[1])
    level = np.ones(guides.shape[:2])
    points = guides - (0.45 * gap * np.minimum(1.0, 3 * along)[None, :, None]) * hull
    narrow = (1 - 0.5 * growth.clump * along**1.2) * np.interp(along, [0, 0.15, 0.6, 1], [0.2, 1, 0.85, 0.15])
    wide = 2 * half * growth.under * narrow * level
    return Strands(points, hull, 0 * level, 0.6 * wide, wide, (0.58 - 0.1 * along) * level, shade, leaders)


def _guides(
    rng: np.random.Generator, roots: Roots, leaders: np.ndarray, skin: Skin, comb: Comb, growth: Growth
) -> np.ndarray:
    """The middles of the locks that begin at the roots `leaders` (L,): (L, K + 1, 3), before they curl."""
    count, steps = len(leaders), growth.segments
    step = (roots.lengths[leaders] / steps)[:, None]
    height = growth.volume * rng.uniform(0.45, 1.0, count)
    normal = roots.normals[leaders]
    points = [roots.points[leaders]]
    direction = _tangential(comb(points[0], normal), normal, 0.15)
    # Per centimetre, so that long and short locks bend alike.
    keep = growth.stiffness ** (step / 0.01)
    gap = np.zeros(count)
    for k in range(steps):
        here = points[-1]
        fallen = 1 - np.exp(-(((k + 0.5) * step / growth.combed) ** 2))
        drawn = (1 - fallen) * comb(here, direction) + fallen * DOWN
        if growth.cling:
            # Combs draw along the head, not off it.
            off = np.maximum((drawn * normal).sum(1), 0) * np.clip(1.5 - gap / 0.03, 0, 1)
            drawn = drawn - off[:, None] * normal
        direction = unit(keep * direction + (1 - keep) * drawn)
        ahead = here + step * direction
        gap, normal = skin.near(ahead)
        # A lock rises to its height within the first two centimetres.
        wanted = height * np.minimum(1.0, (k + 1) * step[:, 0] / 0.02) + 0.001
        lift = np.where(gap < wanted, wanted - gap, growth.cling * (wanted - gap) * (gap < 0.04))
        lift = np.clip(lift, -0.7 * step[:, 0], 0.7 * step[:, 0])
        ahead = ahead + lift[:, None] * normal
        direction = unit(ahead - here)
        points.append(here + step * direction)
    return np.stack(points, 1)


def _frames(locks: np.ndarray, hull: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit tangents, and directions across locks (N, K + 1, 3) and out of the hair, given the hull's normals."""
    tangent = unit(np.gradient(locks, axis=1))
    outward = unit(hull - (hull * tangent).sum(-1, keepdims=True) * tangent)
    return tangent, np.cross(tangent, outward), outward


def _curled(rng: np.random.Generator, locks: np.ndarray, lengths: np.ndarray, growth: Growth) -> np.ndarray:
    """Locks as helices."""
    along = np.linspace(0, 1, locks.shape[1])
    tangent = unit(np.gradient(locks, axis=1))
    side = unit(np.cross(tangent, np.array([0.31, 0.92, 0.22])))
    other = np.cross(tangent, side)
    phase = fractal_noise(locks[:, 0], 0.025, 2, int(rng.integers(1 << 30))) + 0.08 * rng.normal(size=len(locks))
    angle = 2 * np.pi * (phase[:, None] + growth.turns * along[None] * lengths[:, None] / 0.1)
    radius = growth.curl * np.minimum(1.0, 3 * along)[None]
    return locks + (radius * np.cos(angle))[..., None] * side + (radius * np.sin(angle))[..., None] * other


def _frizzy(rng: np.random.Generator, strands: np.ndarray, stray: np.ndarray, growth: Growth) -> np.ndarray:
    """Strands (N, K + 1, 3) that wave together, and a little each by itself; strays (N,) leave their locks."""
    along = np.linspace(0, 1, strands.shape[1])
    flat, seed = strands.reshape(-1, 3), int(rng.integers(1 << 30))
    wave = np.stack([fractal_noise(flat, 0.03, 2, seed + i) for i in range(3)], 1).reshape(strands.shape)
    loose = 0.35 * growth.frizz * rng.exponential(1.0, len(strands)) + np.where(stray, 0.005, 0.0)
    own = rng.normal(size=(len(strands), 1, 3)) * loose[:, None, None] * along[None, :, None] ** 1.5
    return strands + growth.frizz * np.minimum(1.0, 3 * along)[None, :, None] * wave + own


def _kept_off(strands: np.ndarray, skin: Skin) -> np.ndarray:
    flat = strands[:, 1:].reshape(-1, 3)
    gap, normal = skin.near(flat)
    flat = flat + np.maximum(0.0015 - gap, 0)[:, None] * normal
    return np.concatenate([strands[:, :1], flat.reshape(len(strands), -1, 3)], 1)


def ribbons(
    rng: np.random.Generator, strands: Strands, growth: Growth, color: np.ndarray, anchor: Roots | None = None
) -> Layer:
    """Strands as ribbons. color: (3,) sRGB. anchor: roots that carry them with the face."""
    locks = strands.points
    count, points = locks.shape[:2]
    _, across, outward = _frames(locks, strands.hull)
    roll = rng.normal(0, 0.3, count)[:, None, None]
    flat = np.cos(roll) * across + np.sin(roll) * outward
    side = (strands.width / 2)[..., None] * flat
    edges = np.stack([locks - side, locks + side], 2)
    reach = strands.width / 2 / np.maximum(strands.half, 1e-4)
    aside = np.clip(np.stack([strands.aside - reach, strands.aside + reach], 2), -1.2, 1.2)[..., None]
    normals = unit(strands.hull[:, :, None] + growth.round * aside * across[:, :, None])
    first = (np.arange(count)[:, None] * points + np.arange(points - 1)[None]) * 2
    a, b, c, d = first, first + 1, first + 2, first + 3
    # Counter-clockwise from outside, and corners' numbers grow along the hair between the first corner and the last.
    faces = np.stack([np.stack([a, b, c], -1), np.stack([d, c, b], -1)], 2).reshape(-1, 3)
    wide = np.minimum(strands.width.max(1) / HAIR_WIDTH / PALETTE[1], 0.12)
    across_u = strands.shade[:, None, None] + wide[:, None, None] * np.array([0.0, 1.0])
    u = np.broadcast_to(across_u, (count, points, 2))
    v = np.broadcast_to(np.linspace(0, 1, points)[None, :, None], u.shape)
    uv = np.stack([u, v], -1).reshape(-1, 2)
    carried = strands.root
    return Layer(
        vertices=edges.reshape(-1, 3).astype(np.float32),
        faces=faces.astype(np.int64),
        uvs=uv[faces].astype(np.float32),
        texture=palette(rng, color),
        normals=normals.reshape(-1, 3).astype(np.float32),
        occlusion=0.92,
        dark=np.repeat(np.clip(strands.dark, 0, 0.6), 2, axis=1).reshape(-1).astype(np.float32),
        anchor=None if anchor is None else Anchor(
            np.repeat(anchor.corners[carried], 2 * points, 0), np.repeat(anchor.weights[carried], 2 * points, 0)
        ),
        hair=True,
    )  # fmt: skip


def palette(rng: np.random.Generator, color: np.ndarray) -> np.ndarray:
    """(rows, columns, 4) hairs of a colour (sRGB), from root to tip; the last channel lets `Layer.dark` darken them.
    Neighbours resemble each other, and tips are lighter and warmer, bleached by the sun."""
    rows, columns = PALETTE

    def rough(*shape: int) -> np.ndarray:
        return cv2.resize(rng.normal(0, 1, shape).astype(np.float32), (columns, rows), interpolation=cv2.INTER_CUBIC)

    shade = 0.13 * rough(1, columns // 12) + 0.15 * rough(1, columns) + 0.10 * rough(4, columns)
    warm = 0.02 * rough(1, columns // 8)[..., None] * np.array([1.0, 0.0, -1.0])
    tip = np.linspace(0, 1, rows)[:, None, None] ** 1.5 * rng.uniform(0.0, 0.4) * np.array([1.0, 0.9, 0.75])
    hairs = np.asarray(color)[None, None] * (1 + np.clip(shade, -0.5, 0.6))[..., None] * (1 + warm) * (1 + tip)
    grey = rng.random(columns) < rng.choice([0.0, 0.15], p=[0.92, 0.08])
    hairs[:, grey] = 0.6 * hairs[:, grey].mean(-1, keepdims=True) + 0.25
    return np.concatenate([np.clip(hairs, 0.01, 0.98), np.ones((rows, columns, 1))], -1).astype(np.float32)


def _tangential(directions: np.ndarray, normals: np.ndarray, rise: float) -> np.ndarray:
    """Directions (N, 3) laid along the surface, rising from it by a share."""
    flat = directions - (directions * normals).sum(-1, keepdims=True) * normals
    outward = np.maximum((directions * normals).sum(-1, keepdims=True), rise)
    return unit(flat + outward * normals)
