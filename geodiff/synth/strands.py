"""Locks of hair: ribbons that grow out of the skin, are combed, fall, curl and lie on the head.

A lock is a polyline that is integrated step by step: it keeps its direction, is drawn by the comb and by gravity, and
is pushed off the head to its own height, so that locks lie in layers. Ribbons carry the normals of the hair's surface
(that of the head below, tilted about the lock), not their own, as the hair's shading and normals should.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from geodiff.conditioning.surface import unit
from geodiff.synth.layers import Anchor, Layer
from geodiff.synth.noise import fractal_noise

DOWN = np.array([0.0, -1.0, 0.0])
#: Shades of a palette and its rows from root to tip.
PALETTE = (16, 64)

#: Roots (N, 3) and normals there -> the direction in which the comb draws, (N, 3).
Comb = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Roots:
    """Where locks begin: points, normals (N, 3), lengths (N,) in metres, head triangles' corners and weights (N, 3)."""

    points: np.ndarray
    normals: np.ndarray
    lengths: np.ndarray
    corners: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Growth:
    """How locks grow. segments: of each polyline. volume: metres between the skin and the topmost locks. stiffness: how
    much of its direction a lock keeps in a centimetre. combed: metres after which gravity has taken over from the comb.
    cling: how strongly it is drawn back to its height over the skin. curl, turns: radius in metres and turns of a helix
    in ten centimetres. clump: how far locks join their neighbours at the tips. width: metres. frizz: metres of noise.
    normal_mix: share of the skin's normal in the hair's."""

    segments: int = 10
    volume: float = 0.012
    stiffness: float = 0.6
    combed: float = 0.2
    cling: float = 0.5
    curl: float = 0.0
    turns: float = 2.0
    clump: float = 0.5
    width: float = 0.0022
    frizz: float = 0.002
    normal_mix: float = 0.9


class Skin:
    """The head's outer surface (V', 3) as something to lie on."""

    def __init__(self, points: np.ndarray, normals: np.ndarray) -> None:
        self.points, self.normals = points, normals
        self.tree = cKDTree(points)

    def near(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Height (N,) over the surface and its normal (N, 3), each a mean over the four nearest vertices."""
        distance, index = self.tree.query(points, k=4)
        weight = 1 / (distance + 1e-4)
        weight /= weight.sum(1, keepdims=True)
        normal = np.einsum("nk,nkc->nc", weight, self.normals[index])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        base = np.einsum("nk,nkc->nc", weight, self.points[index])
        return ((points - base) * normal).sum(1), normal


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

    normal = at(normals)
    lengths = at(length) * rng.uniform(0.75, 1.1, count)
    return Roots(at(vertices), normal / np.linalg.norm(normal, axis=1, keepdims=True), lengths, picked, weights)


def grow(rng: np.random.Generator, roots: Roots, skin: Skin, comb: Comb, growth: Growth) -> np.ndarray:
    """Locks (N, K + 1, 3)."""
    count, steps = len(roots.points), growth.segments
    step = (roots.lengths / steps)[:, None]
    height = growth.volume * rng.uniform(0.25, 1.0, count)
    direction = _tangential(comb(roots.points, roots.normals), roots.normals, 0.15)
    points = [roots.points]
    # Per centimetre, so that long and short locks bend alike.
    keep = growth.stiffness ** (step / 0.01)
    gap, normal = np.zeros(count), roots.normals
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
    locks = np.stack(points, 1)
    return _kept_off(_clumped(rng, _curled(rng, locks, roots.lengths, growth), growth), skin)


def _curled(rng: np.random.Generator, locks: np.ndarray, lengths: np.ndarray, growth: Growth) -> np.ndarray:
    """Helices around the locks, and noise."""
    along = np.linspace(0, 1, locks.shape[1])
    tangent = unit(np.gradient(locks, axis=1))
    side = unit(np.cross(tangent, np.array([0.31, 0.92, 0.22])))
    other = np.cross(tangent, side)
    seed = int(rng.integers(1 << 30))
    phase = 2 * np.pi * (fractal_noise(locks[:, 0], 0.025, 2, seed) + 0.08 * rng.normal(size=len(locks)))[:, None]
    angle = phase + 2 * np.pi * growth.turns * along[None] * lengths[:, None] / 0.1
    rise = np.minimum(1.0, 3 * along)[None]
    out = (
        locks
        + (growth.curl * rise * np.cos(angle))[..., None] * side
        + (growth.curl * rise * np.sin(angle))[..., None] * other
    )
    flat = locks.reshape(-1, 3)
    wave = np.stack([fractal_noise(flat, 0.03, 2, seed + 1 + i) for i in range(3)], 1).reshape(locks.shape)
    loose = rng.exponential(0.5, len(locks))[:, None, None]
    return out + growth.frizz * rise[..., None] * (wave + loose * rng.normal(size=(len(locks), 1, 3)) * 0.7)


def _clumped(rng: np.random.Generator, locks: np.ndarray, growth: Growth) -> np.ndarray:
    """Neighbours join towards the tips."""
    if growth.clump <= 0:
        return locks
    leaders = rng.choice(len(locks), max(1, len(locks) // 14), replace=False)
    nearest = leaders[cKDTree(locks[leaders, 0]).query(locks[:, 0])[1]]
    along = np.linspace(0, 1, locks.shape[1])[None, :, None] ** 1.3
    strength = growth.clump * rng.uniform(0.4, 1.0, len(locks))[:, None, None]
    goal = locks[nearest] + 0.35 * (locks[:, :1] - locks[nearest][:, :1])
    return locks + strength * along * (goal - locks)


def _kept_off(locks: np.ndarray, skin: Skin) -> np.ndarray:
    flat = locks[:, 1:].reshape(-1, 3)
    gap, normal = skin.near(flat)
    flat = flat + np.maximum(0.0015 - gap, 0)[:, None] * normal
    return np.concatenate([locks[:, :1], flat.reshape(len(locks), -1, 3)], 1)


def ribbons(
    rng: np.random.Generator,
    locks: np.ndarray,
    skin: Skin,
    growth: Growth,
    color: np.ndarray,
    anchor: Roots | None = None,
) -> Layer:
    """Locks (N, K + 1, 3) as ribbons. color: (3,) sRGB. anchor: roots that carry the locks with the face."""
    count, points = locks.shape[:2]
    tangent = unit(np.gradient(locks, axis=1))
    _, below = skin.near(locks.reshape(-1, 3))
    below = below.reshape(locks.shape)
    outward = unit(below - (below * tangent).sum(-1, keepdims=True) * tangent)
    across = np.cross(tangent, outward)
    roll = rng.normal(0, 0.45, count)[:, None, None]
    across, up = np.cos(roll) * across + np.sin(roll) * outward, np.cos(roll) * outward - np.sin(roll) * across
    along = np.linspace(0, 1, points)
    taper = np.interp(along, [0, 0.15, 0.6, 1], [0.7, 1.0, 0.9, 0.15])
    width = growth.width * rng.uniform(0.6, 1.3, count)[:, None] * taper[None]
    edges = np.stack([locks - width[..., None] * across / 2, locks + width[..., None] * across / 2], 2)
    normal = unit(growth.normal_mix * outward + (1 - growth.normal_mix) * up)
    # Round the ribbon: its edges look sideways.
    normals = np.stack([unit(normal - 0.3 * across), unit(normal + 0.3 * across)], 2)
    first = (np.arange(count)[:, None] * points + np.arange(points - 1)[None]) * 2
    a, b, c, d = first, first + 1, first + 2, first + 3
    faces = np.stack([np.stack([a, b, c], -1), np.stack([b, d, c], -1)], 2).reshape(-1, 3)
    shade = np.broadcast_to(rng.uniform(0.02, 0.98, count)[:, None, None], (count, points, 2))
    uv = np.stack([shade, np.broadcast_to(along[None, :, None], shade.shape)], -1).reshape(-1, 2)
    return Layer(
        vertices=edges.reshape(-1, 3).astype(np.float32),
        faces=faces.astype(np.int64),
        uvs=uv[faces].astype(np.float32),
        texture=palette(rng, color),
        normals=normals.reshape(-1, 3).astype(np.float32),
        occlusion=0.92,
        shine=0.02,
        anchor=None if anchor is None else Anchor(
            np.repeat(anchor.corners, 2 * points, 0), np.repeat(anchor.weights, 2 * points, 0)
        ),
        hair=True,
    )  # fmt: skip


def palette(rng: np.random.Generator, color: np.ndarray) -> np.ndarray:
    """Shades of a hair colour (sRGB): columns differ from lock to lock, rows run from root to tip."""
    rows, columns = PALETTE
    shade = rng.normal(0, 0.16, columns) * rng.uniform(0.5, 1.3)
    hue = rng.normal(0, 0.03, (columns, 3))
    length = np.interp(np.linspace(0, 1, rows), [0, 0.25, 1], [0.62, 0.95, 1.0 + rng.uniform(0.0, 0.25)])
    base = np.asarray(color)[None] * (1 + shade[:, None]) * (1 + hue)
    grey = rng.random(columns) < rng.choice([0.0, 0.2, 0.5], p=[0.86, 0.1, 0.04])
    base[grey] = 0.6 * base[grey].mean(-1, keepdims=True) + 0.28
    return np.clip(length[:, None, None] * base[None], 0.01, 0.98).astype(np.float32)


def _tangential(directions: np.ndarray, normals: np.ndarray, rise: float) -> np.ndarray:
    """Directions (N, 3) laid along the surface, rising from it by a share."""
    flat = directions - (directions * normals).sum(-1, keepdims=True) * normals
    outward = np.maximum((directions * normals).sum(-1, keepdims=True), rise)
    return unit(flat + outward * normals)
