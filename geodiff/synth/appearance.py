"""Random colours of a person, painted into the head's UV layout.

Everything is a function of the place on the template head, so the paint has no seams; masks come from the head's
regions and from its MediaPipe landmarks, so any head that has both can be painted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geodiff.conditioning.noise import fractal_noise
from geodiff.head.model import HeadModel
from geodiff.raster.chart import uv_chart
from geodiff.synth.fields import Canvas, canvas, template_fields

#: Share of people in colours that no person has, unless asked otherwise.
WILD = 0.1
#: Skin colours (sRGB) from light to dark.
SKIN = np.array(
    [
        (0.95, 0.80, 0.72), (0.88, 0.70, 0.59), (0.80, 0.60, 0.47),
        (0.66, 0.46, 0.34), (0.47, 0.31, 0.22), (0.30, 0.19, 0.14),
    ]
)  # fmt: skip
HAIR = np.array(
    [
        (0.05, 0.04, 0.04), (0.14, 0.09, 0.06), (0.27, 0.17, 0.10), (0.45, 0.30, 0.17),
        (0.72, 0.59, 0.41), (0.50, 0.20, 0.09), (0.58, 0.57, 0.56), (0.85, 0.84, 0.82),
    ]
)  # fmt: skip
HAIR_ODDS = np.array([0.16, 0.25, 0.24, 0.15, 0.12, 0.05, 0.02, 0.01])
IRIS = np.array(
    [
        (0.22, 0.12, 0.06), (0.33, 0.20, 0.10), (0.42, 0.36, 0.18),
        (0.30, 0.40, 0.28), (0.33, 0.45, 0.58), (0.50, 0.56, 0.60),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Appearance:
    """The random choices that decide a person's colours. Colours are sRGB, (3,) in 0..1."""

    seed: int
    skin: np.ndarray
    hair: np.ndarray
    brow: np.ndarray
    iris: np.ndarray
    lips: np.ndarray
    cloth: np.ndarray
    iris_radius: float
    pupil_radius: float
    brow_width: float
    brow_strength: float
    lash: float
    hairline: float
    recession: float
    scalp_hair: float
    beard: float
    beard_length: float
    moustache: float
    cloth_height: float
    roughness: float
    freckles: float
    age: float
    flush: float
    shadow: np.ndarray
    makeup: float
    blush: float
    wild: bool


def random_appearance(rng: np.random.Generator, wild_share: float = WILD) -> Appearance:
    """A person's colours at random; a share of all people is painted wildly, so that colours carry no geometry."""
    tone = rng.uniform(0, len(SKIN) - 1)
    low = int(tone)
    skin = SKIN[low] + (tone - low) * (SKIN[min(low + 1, len(SKIN) - 1)] - SKIN[low])
    skin = np.clip(skin * (1 + rng.normal(0, 0.03, 3)), 0.05, 1)
    dark = tone > 2.8
    hair = HAIR[rng.choice(3 if dark else len(HAIR), p=HAIR_ODDS[:3] / HAIR_ODDS[:3].sum() if dark else HAIR_ODDS)]
    hair = np.clip(hair * rng.uniform(0.8, 1.35) * (1 + rng.normal(0, 0.04, 3)) + 0.01, 0.02, 0.95)
    age = float(rng.beta(1.2, 2.0))
    if age > 0.6 and rng.random() < 0.5:
        hair = hair + rng.uniform(0.2, 0.9) * (np.array([0.62, 0.61, 0.60]) - hair)
    wild = rng.random() < wild_share
    if wild:
        skin, hair = rng.uniform(0.1, 0.95, 3), rng.uniform(0.05, 0.95, 3)
    bearded = rng.random() < 0.3
    made_up = not bearded and rng.random() < 0.3
    lips = np.clip(skin * np.array([0.86, 0.70, 0.72]) * (1 + rng.normal(0, 0.04, 3)), 0.05, 1)
    if made_up and rng.random() < 0.6:
        red = np.array([rng.uniform(0.4, 0.8), rng.uniform(0.05, 0.35), rng.uniform(0.1, 0.4)])
        lips = lips + rng.uniform(0.3, 0.9) * (red - lips)
    iris = IRIS[rng.integers(2 if dark else len(IRIS))]
    return Appearance(
        seed=int(rng.integers(1 << 30)),
        skin=skin,
        hair=hair,
        brow=np.clip(hair * rng.uniform(0.6, 1.0), 0.03, 0.6),
        iris=np.clip(iris + rng.normal(0, 0.03, 3), 0.03, 0.9),
        lips=lips,
        cloth=rng.uniform(0.03, 0.9, 3) if rng.random() < 0.5 else np.full(3, rng.uniform(0.03, 0.9)),
        iris_radius=float(rng.uniform(0.44, 0.52)),
        pupil_radius=float(rng.uniform(0.13, 0.24)),
        brow_width=float(rng.uniform(0.85, 1.5)),
        brow_strength=float(rng.uniform(0.4, 1.0)),
        lash=float(rng.uniform(0.2, 0.95)),
        hairline=float(np.clip(rng.normal(0.47, 0.09), 0.28, 0.7)),
        recession=float(rng.uniform(0, 1) ** 2 * (0.06 + 0.34 * age)),
        scalp_hair=1.0 if rng.random() < 0.9 else float(rng.uniform(0.0, 0.5)),
        beard=float(rng.uniform(0.25, 0.95)) if bearded else 0.0,
        beard_length=float(rng.choice([0.0, rng.uniform(0.004, 0.010), rng.uniform(0.01, 0.05)])) if bearded else 0.0,
        moustache=float(rng.uniform(0.3, 0.9)) if bearded or (not made_up and rng.random() < 0.05) else 0.0,
        cloth_height=float(rng.uniform(0.035, 0.09)) if rng.random() < 0.75 else 1.0,
        roughness=float(rng.uniform(0.3, 1.0)),
        freckles=float(rng.uniform(0.2, 0.8)) if not dark and rng.random() < 0.15 else 0.0,
        age=age,
        flush=float(rng.uniform(0.3, 1.2)),
        shadow=rng.uniform(0.05, 0.7, 3) * np.array([1.0, 0.7, 0.8]),
        makeup=float(rng.uniform(0.2, 0.8)) if made_up else 0.0,
        blush=float(rng.uniform(0.0, 0.35)) if made_up else 0.0,
        wild=wild,
    )


def _ramp(x: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _over(color: np.ndarray, layer: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    return color + opacity[:, None].astype(np.float32) * (np.asarray(layer, np.float32) - color)


def paint(head: HeadModel, look: Appearance, size: int) -> np.ndarray:
    """The person's texture, (U, U, 3) float32 sRGB in 0..1, rows from v = 1 down."""
    ground = canvas(head, size)
    value = ground.values
    color = _skin(ground, look)
    color = _over(color, look.lips, _ramp(value["lips"], 0.25, 0.7))
    color = _over(color, look.brow, _brows(ground, look))
    color = _beard(color, ground, look)
    color = _makeup(color, ground, look)
    color = _over(color, look.brow * 0.4, look.lash * (1 - _ramp(ground.lash, 0.0005, 0.0022)))
    color = _hair(color, ground, look)
    color = _cloth(color, ground, look)
    color = _eyes(color, ground, look)
    color = _mouth(color, ground, look)
    return uv_chart(head, size).spread(np.clip(color, 0.01, 1.0))


def _skin(ground: Canvas, look: Appearance) -> np.ndarray:
    place, seed = ground.place, look.seed
    large = fractal_noise(place, 0.05, 3, seed + 1)
    fine = fractal_noise(place, 0.0025, 2, seed + 2)
    color = look.skin[None] * (1 + 0.05 * large[:, None] + 0.035 * look.roughness * fine[:, None])
    # Blood shows on the nose, cheeks, chin and ears, and less on the forehead; lids are darker.
    red = 0.05 * fractal_noise(place, 0.03, 2, seed + 3) + 0.075 * look.flush * (ground.flush - 0.3)
    color = color * (1 + red[:, None] * np.array([0.5, -1.0, -0.8]))
    tired = (1 - _ramp(ground.under_eye, 0.003, 0.012)) * (0.06 + 0.14 * look.age)
    color = color * (1 - tired[:, None] * np.array([0.7, 1.1, 0.9]))
    spots = fractal_noise(place, 0.006, 1, seed + 4)
    color = color * (1 - 0.25 * look.roughness**2 * _ramp(spots, 0.84, 0.98)[:, None])
    if look.freckles:
        dots = _ramp(fractal_noise(place, 0.0018, 2, seed + 17), 0.35, 0.8)
        where = np.exp(-((np.minimum(ground.cheek, np.abs(place[:, 0]) + 0.01) / 0.03) ** 2))
        color = color * (1 - 0.6 * look.freckles * dots * where)[:, None] ** np.array([0.5, 0.75, 0.9])
    if look.wild:
        rng = np.random.default_rng(seed)
        tint = np.stack([fractal_noise(place, rng.uniform(0.01, 0.06), 3, seed + 20 + i) for i in range(3)], 1)
        color = color + 0.35 * tint
    return color.astype(np.float32)


def _brows(ground: Canvas, look: Appearance) -> np.ndarray:
    """(N,) 0..1: hairs that lean outwards, dense along the middle of the brow and sparse at its edges."""
    near = ground.brow < 2.0 * look.brow_width
    place = ground.place[near]
    x, y, z = place.T
    lean = np.stack([0.8 * np.abs(x) + 0.6 * y, 0.8 * y - 0.6 * np.abs(x), z], 1)
    hairs = fractal_noise(lean, (0.006, 0.0011, 0.02), 2, look.seed + 5)
    dense = 1 - (ground.brow[near] / (1.25 * look.brow_width)) ** 2
    dense += 0.25 * fractal_noise(place, 0.006, 1, look.seed + 18)
    seen = np.zeros(len(ground.place), np.float32)
    seen[near] = np.clip(1.1 * dense + 0.8 * hairs + 0.05, 0, 1) * (dense > -0.6)
    return seen * look.brow_strength * (ground.values["eyes"] < 0.999)


def _makeup(color: np.ndarray, ground: Canvas, look: Appearance) -> np.ndarray:
    """Shadow over the lids and blush on the cheeks."""
    if look.makeup == 0:
        return color
    lid = (1 - _ramp(ground.lash, 0.002, 0.011)) * (1 - ground.values["eyeballs"])
    color = _over(color, look.shadow, look.makeup * lid)
    pink = color * np.array([1.05, 0.75, 0.78], np.float32)
    return color + (look.blush * (1 - _ramp(ground.cheek, 0.012, 0.030)))[:, None].astype(np.float32) * (pink - color)


def wrinkles(head: HeadModel, look: Appearance, size: int) -> np.ndarray:
    """(U, U) float32 0..1: where skin folds when it is pressed together. Lines run across the forehead, between the
    brows, outwards from the eyes and beside the mouth; fine ones everywhere."""
    ground = canvas(head, size)
    place, marks = ground.place, template_fields(head).marks
    warp = 0.006 * fractal_noise(place, 0.03, 2, look.seed + 15)
    forehead = _ramp(place[:, 1], marks[[105, 334], 1].mean() + 0.004, marks[[105, 334], 1].mean() + 0.02)
    lines = np.maximum(np.sin((place[:, 1] + warp) * 2 * np.pi / 0.0095), 0) ** 3 * forehead
    # Lines come and go.
    lines = lines * np.clip(0.55 + 0.9 * fractal_noise(place, (0.025, 0.006, 0.025), 2, look.seed + 19), 0, 1)
    frown = np.exp(-((place[:, 0] / 0.010) ** 2) - ((place[:, 1] - marks[9, 1]) / 0.015) ** 2)
    lines = np.maximum(lines, frown * np.exp(-(((np.abs(place[:, 0]) - 0.006) / 0.0014) ** 2)))
    for corner in (33, 263):
        ray = place - marks[corner]
        side = np.sign(marks[corner, 0])
        fan = np.arctan2(ray[:, 1] + warp, side * ray[:, 0])
        near = np.exp(-((np.linalg.norm(ray, axis=1) / 0.022) ** 2)) * (side * ray[:, 0] > 0.002)
        lines = np.maximum(lines, near * np.maximum(np.sin(fan * 9), 0) ** 2)
    lines = np.maximum(lines, np.exp(-((ground.fold / 0.0016) ** 2)))
    fine = 0.35 * np.clip(fractal_noise(place, (0.004, 0.0012, 0.004), 2, look.seed + 16), 0, 1)
    skin = (1 - ground.values["lips"]) * (1 - ground.values["eyeballs"]) * (1 - ground.values["mouth_interior"])
    values = np.clip(np.maximum(lines, fine) * skin * (1 - ground.values["scalp"]), 0, 1)
    return uv_chart(head, size).spread(values[:, None].astype(np.float32))[..., 0]


def _beard(color: np.ndarray, ground: Canvas, look: Appearance) -> np.ndarray:
    if look.beard == 0 and look.moustache == 0:
        return color
    near = (ground.jaw < 0.045) | (ground.moustache < 0.02)
    place = ground.place[near]
    strands = fractal_noise(place, (0.0012, 0.004, 0.004), 2, look.seed + 5)
    wobble = 0.006 * fractal_noise(place, 0.012, 2, look.seed + 6)
    free = (1 - _ramp(ground.values["lips"][near], 0.1, 0.4)) * (1 - ground.values["mouth_interior"][near])
    beard = (1 - _ramp(ground.jaw[near] + wobble + 0.004 * strands, 0.010, 0.034)) * look.beard
    lip = ground.moustache[near] + 0.5 * wobble + 0.002 * strands
    moustache = (1 - _ramp(lip, 0.002, 0.009)) * look.moustache
    opacity = np.maximum(beard, moustache) * free * np.clip(0.85 + 0.4 * strands, 0, 1)
    color[near] = _over(color[near], look.brow, opacity)
    return color


def grown(place: np.ndarray, hairline: np.ndarray, temple: np.ndarray, look: Appearance) -> np.ndarray:
    """(N,) how far inside the person's own hairline a place (N, 3) lies, 0.1 a centimetre, negative outside. hairline,
    temple: (N,) as `Fields`. The border wanders with noise."""
    wobble = 0.06 * fractal_noise(place, 0.025, 2, look.seed + 7) + 0.03 * fractal_noise(
        place, 0.006, 2, look.seed + 21
    )
    return hairline + wobble - look.hairline - look.recession * temple


def hair_opacity(inside: np.ndarray, place: np.ndarray, look: Appearance) -> np.ndarray:
    """(N,) 0..1: how much of the skin hair hides; at the border single hairs. inside: (N,) as `grown` has it."""
    fine = fractal_noise(_combed(place), (0.0016, 0.0016, 0.03), 2, look.seed + 22)
    return np.where(inside > -0.2, _ramp(inside + 0.12 * fine, -0.03, 0.17), 0)


def _hair(color: np.ndarray, ground: Canvas, look: Appearance) -> np.ndarray:
    near = ground.values["hairline"] > 0.02
    place = ground.place[near]
    inside = grown(place, ground.values["hairline"][near], ground.values["temple"][near], look)
    opacity = hair_opacity(inside, place, look) * look.scalp_hair
    color[near] = _over(color[near], _hair_color(place, look), opacity)
    return color


def paint_hair(head: HeadModel, look: Appearance, size: int, skin: np.ndarray) -> np.ndarray:
    """The texture of hair next to the skin, in the head's own layout: (U, U, 3) float32 sRGB in 0..1. skin: (3,) its
    colour, which shows between the hairs at the border."""
    ground = canvas(head, size)
    color = np.broadcast_to(look.hair.astype(np.float32), ground.place.shape).copy()
    near = ground.values["hairline"] > 0.02
    place = ground.place[near]
    inside = grown(place, ground.values["hairline"][near], ground.values["temple"][near], look)
    opacity = hair_opacity(inside, place, look)
    color[near] = _over(np.broadcast_to(skin.astype(np.float32), place.shape), _hair_color(place, look), opacity)
    return uv_chart(head, size).spread(np.clip(color, 0.01, 1.0))


def _combed(place: np.ndarray) -> np.ndarray:
    """Places (N, 3) laid out so that hair, which runs from the crown down, runs along the third axis."""
    x, y, z = (place - np.array([0.0, 0.03, -0.04])).T
    around, along = np.arctan2(x, z), np.arctan2(np.hypot(x, z), y)
    return np.stack([0.08 * np.cos(around), 0.08 * np.sin(around), 0.1 * along], 1)


def _hair_color(place: np.ndarray, look: Appearance) -> np.ndarray:
    cylinder = _combed(place)
    strands = fractal_noise(cylinder, (0.003, 0.003, 0.05), 3, look.seed + 8)
    tufts = fractal_noise(cylinder, (0.015, 0.015, 0.08), 2, look.seed + 9)
    shade = np.clip(1 + 0.25 * strands + 0.15 * tufts, 0.3, 1.8)[:, None]
    return np.clip(look.hair[None] * shade, 0.0, 1.0)


def _cloth(color: np.ndarray, ground: Canvas, look: Appearance) -> np.ndarray:
    edge = look.cloth_height + 0.15 * (ground.place[:, 2] + 0.02)
    worn = _ramp(ground.values["below_chin"], edge, edge + 0.004) * (ground.values["mouth_interior"] < 0.5)
    seen = worn > 0
    folds = fractal_noise(ground.place[seen], 0.015, 3, look.seed + 10)
    color[seen] = _over(color[seen], look.cloth[None] * (1 + 0.15 * folds[:, None]), worn[seen])
    return color


def _eyes(color: np.ndarray, ground: Canvas, look: Appearance) -> np.ndarray:
    ball = ground.values["eyeballs"] > 0.5
    angle = ground.values["eye_angle"][ball]
    white = np.array([0.83, 0.80, 0.78]) * (1 - 0.12 * _ramp(angle, 0.8, 1.4))[:, None]
    rays = fractal_noise(ground.place[ball], 0.0015, 2, look.seed + 11)[:, None]
    iris = np.clip(look.iris[None] * (1 + 0.35 * rays), 0, 1)
    iris = iris * (1 - 0.5 * _ramp(angle, look.iris_radius - 0.09, look.iris_radius))[:, None]
    eye = white + (1 - _ramp(angle, look.iris_radius - 0.02, look.iris_radius + 0.03))[:, None] * (iris - white)
    color[ball] = eye * _ramp(angle, look.pupil_radius - 0.02, look.pupil_radius + 0.02)[:, None] + 0.02
    return color


def _mouth(color: np.ndarray, ground: Canvas, look: Appearance) -> np.ndarray:
    inner, teeth = ground.values["mouth_interior"] > 0.5, ground.values["teeth"] > 0.5
    near = np.exp(-ground.values["depth"] / 0.025)[:, None]
    pink = np.array([0.62, 0.30, 0.29]) * (
        1 + 0.1 * fractal_noise(ground.place[inner], 0.006, 2, look.seed + 12)[:, None]
    )
    dark = np.array([0.16, 0.05, 0.05])
    rng = np.random.default_rng(look.seed + 13)
    enamel = np.array([0.93, 0.90, 0.83]) * rng.uniform(0.85, 1.03) * np.array([1, 1, rng.uniform(0.86, 1.0)])
    color[inner] = dark + near[inner] * (pink - dark)
    color[teeth] = enamel * (0.35 + 0.65 * near[teeth])
    return color
