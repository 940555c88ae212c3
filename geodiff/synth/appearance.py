"""Random colours of a person, painted into the head's UV layout.

Everything is a function of the place on the template head, so the paint has no seams; masks come from the head's
regions and from its MediaPipe landmarks, so any head that has both can be painted.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from scipy.spatial import cKDTree

from geodiff.conditioning.surface import smoother, uv_chart
from geodiff.geometry import vertex_normals
from geodiff.head.model import JOINTS, HeadModel
from geodiff.raster import mesh
from geodiff.synth.noise import fractal_noise

NUM_LANDMARKS = 478
#: Share of people in colours that no person has, unless asked otherwise.
WILD = 0.1
#: MediaPipe's numbers: brows (upper edge, lower edge; right, left), lid edges, and lines of the lower face.
BROWS = (((70, 63, 105, 66, 107), (46, 53, 52, 65, 55)), ((300, 293, 334, 296, 336), (276, 283, 282, 295, 285)))
LIDS = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (263, 466, 388, 387, 386, 385, 384, 398, 362))
LOWER_LIDS = ((33, 7, 163, 144, 145, 153, 154, 155, 133), (263, 249, 390, 373, 374, 380, 381, 382, 362))
JAW = (58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288)
MOUSTACHE = (57, 92, 165, 167, 164, 393, 391, 322, 287)
CHEEKS = (50, 280)
#: From the wings of the nose past the corners of the mouth.
FOLDS = ((129, 203, 206, 216, 212), (358, 423, 426, 436, 432))

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
        (0.70, 0.55, 0.33), (0.50, 0.20, 0.09), (0.58, 0.57, 0.56), (0.85, 0.84, 0.82),
    ]
)  # fmt: skip
HAIR_ODDS = np.array([0.14, 0.20, 0.20, 0.15, 0.12, 0.06, 0.08, 0.05])
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
    scalp_hair: float
    beard: float
    beard_length: float
    moustache: float
    cloth_height: float
    roughness: float
    freckles: float
    age: float
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
    hair = np.clip(hair * rng.uniform(0.8, 1.6) * (1 + rng.normal(0, 0.04, 3)) + 0.01, 0.02, 0.95)
    wild = rng.random() < wild_share
    if wild:
        skin, hair = rng.uniform(0.1, 0.95, 3), rng.uniform(0.05, 0.95, 3)
    bearded = rng.random() < 0.3
    made_up = not bearded and rng.random() < 0.3
    lips = np.clip(skin * np.array([0.92, 0.70, 0.70]) * (1 + rng.normal(0, 0.06, 3)), 0.05, 1)
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
        brow_width=float(rng.uniform(0.7, 1.5)),
        brow_strength=float(rng.uniform(0.4, 1.0)),
        lash=float(rng.uniform(0.2, 0.95)),
        hairline=float(rng.uniform(0.3, 0.75)),
        scalp_hair=1.0 if rng.random() < 0.9 else float(rng.uniform(0.0, 0.5)),
        beard=float(rng.uniform(0.25, 0.95)) if bearded else 0.0,
        beard_length=float(rng.choice([0.0, rng.uniform(0.004, 0.010), rng.uniform(0.01, 0.05)])) if bearded else 0.0,
        moustache=float(rng.uniform(0.3, 0.9)) if bearded or rng.random() < 0.05 else 0.0,
        cloth_height=float(rng.uniform(0.035, 0.09)) if rng.random() < 0.75 else 1.0,
        roughness=float(rng.uniform(0.3, 1.0)),
        freckles=float(rng.uniform(0.2, 0.8)) if not dark and rng.random() < 0.15 else 0.0,
        age=float(rng.beta(1.2, 2.0)),
        shadow=rng.uniform(0.05, 0.7, 3) * np.array([1.0, 0.7, 0.8]),
        makeup=float(rng.uniform(0.2, 0.8)) if made_up else 0.0,
        blush=float(rng.uniform(0.0, 0.35)) if made_up else 0.0,
        wild=wild,
    )


@dataclass(frozen=True)
class Fields:
    """Masks and distances on a head's template, one value a vertex (V,), metres or 0..1; made once for each head."""

    regions: dict[str, np.ndarray]
    hairline: np.ndarray
    depth: np.ndarray
    below_chin: np.ndarray
    eye_angle: np.ndarray
    marks: np.ndarray

    def line(self, points: np.ndarray, numbers: tuple[int, ...]) -> np.ndarray:
        """Distance (N,) of points (N, 3) from the polyline through landmarks."""
        corners = self.marks[list(numbers)]
        steps = np.linspace(0, 1, 12, endpoint=False)[:, None]
        dense = np.concatenate([a + steps * (b - a) for a, b in zip(corners[:-1], corners[1:], strict=True)])
        return cKDTree(dense).query(points)[0].astype(np.float32)


_fields: WeakKeyDictionary[HeadModel, Fields] = WeakKeyDictionary()


def template_fields(head: HeadModel) -> Fields:
    """The fields of a head. Raises ValueError for a head without a MediaPipe embedding."""
    if head in _fields:
        return _fields[head]
    if head.landmarks is None or len(head.landmarks.indices) < NUM_LANDMARKS:
        raise ValueError(f"painting needs all of MediaPipe's landmarks, and the head {head.name!r} lacks them.")
    v = head.template.numpy()
    marks = np.full((NUM_LANDMARKS, 3), np.nan, np.float32)
    marks[head.landmarks.indices.numpy()] = head.landmarks.points(head.template, head.faces).numpy()
    smooth = smoother(head)
    regions = {}
    for name, mask in head.regions.items():
        value = mask.numpy().astype(np.float32)
        for _ in range(2 if name in ("lips", "eyeballs", "teeth", "mouth_interior") else 8):
            value = smooth @ value
        regions[name] = value
    # How far inside the scalp a vertex lies: grows from the region's border to 1.
    hairline = head.regions["scalp"].numpy().astype(np.float32)
    for _ in range(25):
        hairline = smooth @ hairline
    rest = (head.joint_regressor @ head.template).numpy()
    angle = np.full(len(v), np.pi, np.float32)
    for name in ("left_eye", "right_eye"):
        ray = v - rest[JOINTS.index(name)]
        near = head.regions["eyeballs"].numpy() & (np.linalg.norm(ray, axis=1) < 0.022)
        angle[near] = np.arccos(np.clip(ray[near, 2] / np.linalg.norm(ray[near], axis=1), -1, 1))
    front = v[head.regions["lips"].numpy(), 2].max()
    _fields[head] = Fields(
        regions=regions,
        hairline=hairline,
        depth=np.clip(front - 0.012 - v[:, 2], 0, None).astype(np.float32),
        below_chin=(marks[152, 1] - v[:, 1]).astype(np.float32),
        eye_angle=angle,
        marks=marks,
    )
    return _fields[head]


@dataclass(frozen=True)
class Canvas:
    """The covered texels of a head's chart: places (N, 3), normals (N, 3), and what paint needs to know there."""

    place: np.ndarray
    normal: np.ndarray
    values: dict[str, np.ndarray]
    brow: np.ndarray
    lash: np.ndarray
    jaw: np.ndarray
    moustache: np.ndarray
    cheek: np.ndarray
    fold: np.ndarray


_canvases: WeakKeyDictionary[HeadModel, dict[int, Canvas]] = WeakKeyDictionary()


def canvas(head: HeadModel, size: int) -> Canvas:
    """The canvas of a head at a texture size, made once."""
    known = _canvases.setdefault(head, {})
    if size not in known:
        fields = template_fields(head)
        scalars = {
            **fields.regions, "hairline": fields.hairline, "depth": fields.depth, "below_chin": fields.below_chin,
            "eye_angle": fields.eye_angle,
        }  # fmt: skip
        normals = vertex_normals(head.template, head.faces).numpy()
        table = np.concatenate([head.template.numpy(), normals, np.stack(list(scalars.values()), 1)], 1)
        chart = uv_chart(head, size)
        texel = mesh.interpolate(chart.fragments, head.faces, table.astype(np.float32))[0]
        place = np.ascontiguousarray(texel[:, :3])
        known[size] = Canvas(
            place=place,
            normal=np.ascontiguousarray(texel[:, 3:6]),
            values={name: np.ascontiguousarray(texel[:, 6 + i]) for i, name in enumerate(scalars)},
            brow=np.minimum(*(_brow_distance(fields, place, pair) for pair in BROWS)),
            lash=np.minimum(fields.line(place, LIDS[0]), fields.line(place, LIDS[1])),
            jaw=fields.line(place, JAW),
            moustache=fields.line(place, MOUSTACHE),
            cheek=np.minimum(*(np.linalg.norm(place - fields.marks[n], axis=1) for n in CHEEKS)),
            fold=np.minimum(*(fields.line(place, line) for line in FOLDS)),
        )
    return known[size]


def _brow_distance(fields: Fields, place: np.ndarray, pair: tuple[tuple[int, ...], tuple[int, ...]]) -> np.ndarray:
    """Distance from the middle line of a brow, in brow half widths."""
    upper, lower = fields.marks[list(pair[0])], fields.marks[list(pair[1])]
    middle, half = (upper + lower) / 2, np.linalg.norm(upper - lower, axis=1) / 2
    t = np.linspace(0, len(middle) - 1, 12 * (len(middle) - 1))
    dense = np.stack([np.interp(t, np.arange(len(middle)), middle[:, i]) for i in range(3)], 1)
    width = np.interp(t, np.arange(len(middle)), np.maximum(half, 0.0025))
    distance, index = cKDTree(dense).query(place)
    return (distance / width[index]).astype(np.float32)


def _ramp(x: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _over(color: np.ndarray, layer: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    return color + opacity[:, None].astype(np.float32) * (np.asarray(layer, np.float32) - color)


def paint(head: HeadModel, look: Appearance, size: int) -> np.ndarray:
    """The person's texture, (U, U, 3) float32 sRGB in 0..1, rows from v = 1 down."""
    ground = canvas(head, size)
    value, seed = ground.values, look.seed
    color = _skin(ground, look)
    color = _over(color, look.lips, _ramp(value["lips"], 0.25, 0.7))
    strands = fractal_noise(ground.place, (0.0012, 0.004, 0.004), 2, seed + 5)
    brow = (1 - _ramp(ground.brow, 0.6 * look.brow_width, 1.15 * look.brow_width)) * (0.75 + 0.5 * strands)
    color = _over(color, look.brow, np.clip(brow, 0, 1) * look.brow_strength * (value["eyes"] < 0.999))
    color = _beard(color, ground, look, strands)
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
    red = fractal_noise(place, 0.03, 2, seed + 3) * 0.03
    color = color * (1 + red[:, None] * np.array([1.0, -0.6, -0.5]) * 1.5)
    spots = fractal_noise(place, 0.006, 1, seed + 4)
    color = color * (1 - 0.35 * look.roughness * _ramp(spots, 0.75, 0.95)[:, None])
    if look.freckles:
        dots = _ramp(fractal_noise(place, 0.0022, 1, seed + 17), 0.45, 0.7)
        where = np.exp(-((np.minimum(ground.cheek, np.abs(place[:, 0]) + 0.01) / 0.03) ** 2))
        color = color * (1 - look.freckles * dots * where)[:, None] ** np.array([0.5, 0.9, 1.1])
    if look.wild:
        rng = np.random.default_rng(seed)
        tint = np.stack([fractal_noise(place, rng.uniform(0.01, 0.06), 3, seed + 20 + i) for i in range(3)], 1)
        color = color + 0.35 * tint
    return color.astype(np.float32)


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


def _beard(color: np.ndarray, ground: Canvas, look: Appearance, strands: np.ndarray) -> np.ndarray:
    if look.beard == 0 and look.moustache == 0:
        return color
    wobble = 0.006 * fractal_noise(ground.place, 0.012, 2, look.seed + 6)
    free = (1 - _ramp(ground.values["lips"], 0.1, 0.4)) * (1 - ground.values["mouth_interior"])
    beard = (1 - _ramp(ground.jaw + wobble, 0.018, 0.030)) * look.beard
    moustache = (1 - _ramp(ground.moustache + 0.5 * wobble, 0.004, 0.008)) * look.moustache
    opacity = np.maximum(beard, moustache) * free * np.clip(0.85 + 0.4 * strands, 0, 1)
    return _over(color, look.brow, opacity)


def hair_opacity(place: np.ndarray, hairline: np.ndarray, look: Appearance) -> np.ndarray:
    """(N,) 0..1: where hair grows; the border wanders with noise."""
    wobble = 0.12 * fractal_noise(place, 0.02, 2, look.seed + 7)
    return _ramp(hairline + wobble, look.hairline - 0.12, look.hairline + 0.05)


def _hair(color: np.ndarray, ground: Canvas, look: Appearance) -> np.ndarray:
    opacity = hair_opacity(ground.place, ground.values["hairline"], look) * look.scalp_hair
    seen = opacity > 0
    color[seen] = _over(color[seen], _hair_color(ground.place[seen], look), opacity[seen])
    return color


def paint_hair(head: HeadModel, look: Appearance, size: int) -> np.ndarray:
    """The texture of hair that stands off the head, in the head's own layout: (U, U, 3) float32 sRGB in 0..1."""
    ground = canvas(head, size)
    color = np.broadcast_to(look.hair.astype(np.float32), ground.place.shape).copy()
    grown = ground.values["hairline"] > 0.05
    color[grown] = _hair_color(ground.place[grown], look)
    return uv_chart(head, size).spread(np.clip(color, 0.01, 1.0))


def _hair_color(place: np.ndarray, look: Appearance) -> np.ndarray:
    x, y, z = (place - np.array([0.0, 0.03, -0.04])).T
    # Strands run from the crown down: the noise is long in height and short around the head.
    around, along = np.arctan2(x, z), np.arctan2(np.hypot(x, z), y)
    cylinder = np.stack([0.08 * np.cos(around), 0.08 * np.sin(around), 0.1 * along], 1)
    strands = fractal_noise(cylinder, (0.003, 0.003, 0.05), 3, look.seed + 8)
    tufts = fractal_noise(cylinder, (0.015, 0.015, 0.08), 2, look.seed + 9)
    shade = np.clip(1 + 0.35 * strands + 0.2 * tufts, 0.3, 1.8)[:, None]
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
    white = np.array([0.90, 0.87, 0.84]) * (1 - 0.12 * _ramp(angle, 0.8, 1.4))[:, None]
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
