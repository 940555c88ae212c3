"""Random light, and how it falls on a surface: spherical harmonics of degree 2 with ambient occlusion, and a few area
lights, each with a shadow map, shadows that soften with their distance from what throws them, and a highlight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from geodiff.raster.compiled import kept
from geodiff.raster.shadow import LIGHT_DISTANCE, SHADOW_BIAS, SHADOW_SIZE, SHADOW_SPAN, ShadowMap

#: How often a scene has no, one or two lights beside the main one.
MORE_LIGHTS = (0.45, 0.38, 0.17)
#: Lights that are darker than this are left out, with their shadows.
DARK = 0.02


@dataclass(frozen=True)
class Light:
    """direction: (3,) towards the light, world. color: (3,) linear. radius: of the light itself in metres, as large as
    it would be LIGHT_DISTANCE away."""

    direction: np.ndarray
    color: np.ndarray
    radius: float


@dataclass(frozen=True)
class Lighting:
    """harmonics: (9, 3) irradiance coefficients, linear RGB. lights: the main one first. gloss: strength of highlights.
    gain: (3,) exposure and white balance. gamma: of the picture."""

    harmonics: np.ndarray
    lights: tuple[Light, ...]
    gloss: float
    gain: np.ndarray
    gamma: float


def random_lighting(rng: np.random.Generator) -> Lighting:
    """Light at random: mostly from above and in front, sometimes hard, sometimes coloured, sometimes with a second or
    third lamp beside or behind the person."""
    azimuth, height = rng.normal(0, 0.9), rng.uniform(-0.2, 1.2)
    key = rng.uniform(0.0, 0.75)
    tint = 1 + rng.normal(0, 0.05, 3)
    harmonics = np.zeros((9, 3))
    harmonics[0] = (1.0 - 0.7 * key) * (1 + rng.normal(0, 0.04, 3))
    bands = np.concatenate([rng.normal(0, 0.22, (3, 1)), rng.normal(0, 0.08, (5, 1))])
    harmonics[1:] = bands * (1 + rng.normal(0, 0.15, (8, 3))) * harmonics[0]
    harmonics[1] += 0.12 * harmonics[0]
    harmonics[2] += 0.10 * harmonics[0]
    exposure = rng.uniform(0.85, 1.15)
    gloss, balance, gamma = rng.uniform(0.02, 0.35), 1 + rng.normal(0, 0.03, 3), rng.uniform(1.9, 2.5)
    lights = [Light(_direction(azimuth, height), (key * 1.1 * tint).astype(np.float32), _radius(rng))]
    for _ in range(rng.choice(3, p=MORE_LIGHTS)):
        # Beside or behind the person, on either side.
        around, up = rng.choice([-1, 1]) * rng.uniform(0.7, 2.8), rng.uniform(-0.3, 1.1)
        color = rng.uniform(0.1, 0.5) * (1 + rng.normal(0, 0.12, 3))
        lights.append(Light(_direction(around, up), np.clip(color, 0, 1).astype(np.float32), _radius(rng)))
    return Lighting(
        harmonics=harmonics.astype(np.float32),
        lights=tuple(light for light in lights if light.color.max() > DARK),
        gloss=float(gloss),
        gain=(exposure * balance).astype(np.float32),
        gamma=float(gamma),
    )


def _direction(azimuth: float, height: float) -> np.ndarray:
    flat = np.cos(height)
    return np.array([np.sin(azimuth) * flat, np.sin(height), np.cos(azimuth) * flat], np.float32)


def _radius(rng: np.random.Generator) -> float:
    """From a bare bulb or the sun to a window close by."""
    return float(np.exp(rng.uniform(np.log(0.03), np.log(1.5))))


#: Places in a unit disc at which shadows are tried: as even as a sunflower's seeds.
_TURNS = np.arange(24) * np.pi * (3 - np.sqrt(5))
TAPS = (np.sqrt((np.arange(24) + 0.5) / 24)[:, None] * np.stack([np.cos(_TURNS), np.sin(_TURNS)], 1)).astype(np.float32)
#: How many of them look for what throws a shadow, and how far in front of the surface that may be, metres.
SEARCH, REACH = 8, 0.08


class Lamps(NamedTuple):
    """Lights made ready for a kernel, float32. harmonics: (9, 3). directions, colors: (L, 3). radii: (L,) metres of
    light per metre of distance. rotations (L, 3, 3), shifts (L, 3), depths (L, S, S): shadow maps. focal: of all of
    them, pixels. gloss, gain (3,): as `Lighting`. curve: (4096,) from linear light 0..1 to the picture's values."""

    harmonics: np.ndarray
    directions: np.ndarray
    colors: np.ndarray
    radii: np.ndarray
    rotations: np.ndarray
    shifts: np.ndarray
    depths: np.ndarray
    focal: np.float32
    gloss: np.float32
    gain: np.ndarray
    curve: np.ndarray


def lamps(light: Lighting, shadows: Sequence[ShadowMap]) -> Lamps:
    """The lights of a scene; shadows: the map of each."""
    count = len(light.lights)

    def stack(arrays: list[np.ndarray], *shape: int) -> np.ndarray:
        return np.ascontiguousarray(np.array(arrays, np.float32).reshape(count, *shape))

    return Lamps(
        harmonics=light.harmonics.astype(np.float32),
        directions=stack([one.direction for one in light.lights], 3),
        colors=stack([one.color for one in light.lights], 3),
        radii=np.array([one.radius / LIGHT_DISTANCE for one in light.lights], np.float32),
        rotations=stack([shadow.rotation for shadow in shadows], 3, 3),
        shifts=stack([shadow.shift for shadow in shadows], 3),
        depths=stack([shadow.depth for shadow in shadows], SHADOW_SIZE, SHADOW_SIZE),
        focal=np.float32(SHADOW_SIZE * LIGHT_DISTANCE / SHADOW_SPAN),
        gloss=np.float32(light.gloss),
        gain=light.gain.astype(np.float32),
        curve=np.linspace(0, 1, 4096, dtype=np.float32) ** np.float32(1 / light.gamma),
    )


@kept(fastmath=True)
def sky_light(lamps, nx, ny, nz):  # noqa: ANN001, ANN202
    """Irradiance (three numbers) from all sides on a surface with this unit normal."""
    h, least = lamps.harmonics, np.float32(0.05)
    a, b, c = nx * ny, ny * nz, nx * nz
    d, e = (3 * nz * nz - 1) * np.float32(0.5), nx * nx - ny * ny
    red = h[0, 0] + h[1, 0] * ny + h[2, 0] * nz + h[3, 0] * nx
    red += h[4, 0] * a + h[5, 0] * b + h[6, 0] * c + h[7, 0] * d + h[8, 0] * e
    green = h[0, 1] + h[1, 1] * ny + h[2, 1] * nz + h[3, 1] * nx
    green += h[4, 1] * a + h[5, 1] * b + h[6, 1] * c + h[7, 1] * d + h[8, 1] * e
    blue = h[0, 2] + h[1, 2] * ny + h[2, 2] * nz + h[3, 2] * nx
    blue += h[4, 2] * a + h[5, 2] * b + h[6, 2] * c + h[7, 2] * d + h[8, 2] * e
    return max(red, least * h[0, 0]), max(green, least * h[0, 1]), max(blue, least * h[0, 2])


@kept(fastmath=True)
def _reaches(lamps, number, point, spin):  # noqa: ANN001, ANN202
    """0..1, how much of a light reaches a point (3 or more,).

    What throws the shadow is looked for first; the farther in front it is, the wider the shadow's edge (percentage
    closer soft shadows, Fernando 2005). spin: an integer that turns the pattern of places.
    """
    rotation, shift, depth = lamps.rotations[number], lamps.shifts[number], lamps.depths[number]
    size, focal, radius = depth.shape[0], lamps.focal, lamps.radii[number]
    x, y, z = point[0], point[1], point[2]
    away = rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z + shift[2]
    scale, half = focal / away, np.float32(size / 2)
    u = scale * (rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z + shift[0]) + half
    v = scale * (rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z + shift[1]) + half
    angle = np.float32(((spin * 1274126177) >> 8) & 0xFFFF) * np.float32(2 * np.pi / 65536)
    cosine, sine = np.cos(angle), np.sin(angle)
    wide = max(radius * np.float32(REACH) * scale, np.float32(1.5))
    blockers, front = 0, np.float32(0)
    for tap in range(SEARCH):
        # Every third seed, so that the few reach the disc's edge.
        tu, tv = TAPS[3 * tap + 2, 0] * wide, TAPS[3 * tap + 2, 1] * wide
        column = min(max(int(u + cosine * tu - sine * tv), 0), size - 1)
        row = min(max(int(v + sine * tu + cosine * tv), 0), size - 1)
        # A surface that lies askew to the light may be nearer beside the point without shading it.
        if away > depth[row, column] + np.float32(SHADOW_BIAS) + wide / scale * np.float32(0.5):
            blockers += 1
            front += away - depth[row, column]
    wide = np.float32(1.5) if blockers == 0 else max(radius * front / blockers * scale, np.float32(1.5))
    bias = np.float32(SHADOW_BIAS) + (wide - np.float32(1.5)) / scale * np.float32(0.5)
    lit = 0
    for tap in range(TAPS.shape[0]):
        tu, tv = TAPS[tap, 0] * wide, TAPS[tap, 1] * wide
        column = min(max(int(u + cosine * tu - sine * tv), 0), size - 1)
        row = min(max(int(v + sine * tu + cosine * tv), 0), size - 1)
        if away <= depth[row, column] + bias:
            lit += 1
    return np.float32(lit) / TAPS.shape[0]


@kept(fastmath=True)
def lamp_light(lamps, number, point, nx, ny, nz, vx, vy, vz, spin):  # noqa: ANN001, ANN202
    """How brightly a light shines on a point and how much of it glints there towards the view, each to be multiplied by
    its colour. point: (9,) as `render.Surface.table`. n, v: unit normal and direction of the view."""
    lx, ly, lz = lamps.directions[number, 0], lamps.directions[number, 1], lamps.directions[number, 2]
    cosine = nx * lx + ny * ly + nz * lz
    if cosine <= 0:
        return np.float32(0), np.float32(0)
    cosine_lit = _reaches(lamps, number, point, spin)
    hx, hy, hz = vx + lx, vy + ly, vz + lz
    half = (nx * hx + ny * hy + nz * hz) / np.sqrt(hx * hx + hy * hy + hz * hz + np.float32(1e-18))
    glint = np.float32(0)
    if half > np.float32(0.6):  # below, even the widest highlight is nothing
        shine = point[7]
        glint = lamps.gloss * (np.float32(0.35) + 3 * shine) * half ** (16 + 180 * shine)
        # None from light that grazes the surface.
        glint *= min(8 * cosine, np.float32(1)) * cosine_lit
    return cosine * cosine_lit, glint


#: Hair's two highlights: how far they are shifted along it (tangent of the angle; the white one towards the tip, the
#: coloured one towards the root). Their sines are raised to the 60th and the 14th power.
WHITE_SHIFT, COLORED_SHIFT = 0.12, -0.20
#: Brightness of the coloured highlight. How far light wraps round a lock, as light that hair passes on does.
COLORED, WRAP = 0.9, 0.35


@kept(fastmath=True, inline="always")
def _square_sine(along, lean, shift):  # noqa: ANN001, ANN202
    """Of the angle between half vector and a tangent that is shifted towards the normal. along, lean: cosines of the
    half vector with tangent and normal."""
    slope = (along - np.float32(shift) * lean) ** 2 / np.float32(1 + shift * shift)
    return max(1 - slope, np.float32(0))


@kept(fastmath=True)
def hair_light(lamps, number, point, tx, ty, tz, nx, ny, nz, vx, vy, vz, spin):  # noqa: ANN001, ANN202
    """`lamp_light` of hair that runs along the unit tangent t: Kajiya and Kay's highlights, the two of Marschner et al.
    2003 as Scheuermann (2004) shifts them. The first number is of what takes the hair's colour, the second is white."""
    lx, ly, lz = lamps.directions[number, 0], lamps.directions[number, 1], lamps.directions[number, 2]
    wrapped = (nx * lx + ny * ly + nz * lz + np.float32(WRAP)) / np.float32(1 + WRAP)
    if wrapped <= 0:
        return np.float32(0), np.float32(0)
    lit = wrapped * _reaches(lamps, number, point, spin)
    hx, hy, hz = vx + lx, vy + ly, vz + lz
    length = 1 / np.sqrt(hx * hx + hy * hy + hz * hz + np.float32(1e-18))
    along, lean = (tx * hx + ty * hy + tz * hz) * length, (nx * hx + ny * hy + nz * hz) * length
    white, colored = _square_sine(along, lean, WHITE_SHIFT), _square_sine(along, lean, COLORED_SHIFT)
    white, colored = white**30, colored**7
    return lit * (np.float32(0.75) + np.float32(COLORED) * colored), lit * lamps.gloss * np.float32(0.6) * white
