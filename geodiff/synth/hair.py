"""Hair: a close shell over the scalp, and locks on it that are combed, fall, curl, or are gathered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch

from geodiff.conditioning.noise import fractal_noise
from geodiff.conditioning.surface import unit
from geodiff.geometry import vertex_normals
from geodiff.head.model import HeadModel
from geodiff.synth.appearance import Appearance, grown, paint_hair
from geodiff.synth.fields import JAW, MOUSTACHE, template_fields
from geodiff.synth.layers import Layer
from geodiff.synth.strands import Comb, Growth, Roots, Skin, Strands, grow, ribbons, scatter_roots

#: Kinds of hair and how often they are drawn.
STYLES = {
    "bald": 0.09, "buzz": 0.11, "crop": 0.16, "short": 0.20, "curly": 0.12, "medium": 0.12, "long": 0.14, "bun": 0.06,
}  # fmt: skip
COMBS = ("crown", "part", "back")
#: Strands on a whole head.
STRANDS = 2200


@dataclass(frozen=True)
class HairStyle:
    """kind: of STYLES. comb: of COMBS. volume: metres between the skin and the topmost locks. top, side, back: lengths
    in metres. fringe: length of the hair over the forehead that is combed forward, 0 for none. part: metres to the
    person's left at which the hair is parted. curl, turns, frizz, clump: as `Growth`. seed: of all that is random in
    it."""

    kind: str
    comb: str
    volume: float
    top: float
    side: float
    back: float
    fringe: float
    part: float
    curl: float
    turns: float
    frizz: float
    clump: float
    seed: int


@dataclass(frozen=True)
class Shell:
    """A head's scalp, subdivided: each point is a mean of two head vertices.

    corners: (N, 2) int64 head vertices; faces (M, 3); corner_uvs (M, 3, 2).
    """

    corners: np.ndarray
    faces: np.ndarray
    corner_uvs: np.ndarray

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Head vertices' values (V, C) -> the shell's (N, C)."""
        return (values[self.corners[:, 0]] + values[self.corners[:, 1]]) / 2


_shells: WeakKeyDictionary[HeadModel, Shell] = WeakKeyDictionary()


def random_style(rng: np.random.Generator, kind: str | None = None) -> HairStyle:
    """A hair style at random, of one kind if named."""
    kind = kind or str(rng.choice(list(STYLES), p=list(STYLES.values())))
    volume, top, side, back = {
        "bald": (0.0, 0.0, 0.0, 0.0),
        "buzz": (rng.uniform(0.002, 0.005), 0.0, 0.0, 0.0),
        "crop": (rng.uniform(0.006, 0.020), rng.uniform(0.02, 0.07), 0.006, 0.006),
        "short": (rng.uniform(0.008, 0.022), rng.uniform(0.03, 0.09), rng.uniform(0.02, 0.05), rng.uniform(0.02, 0.06)),
        "curly": (rng.uniform(0.012, 0.040), rng.uniform(0.03, 0.09), rng.uniform(0.02, 0.08), rng.uniform(0.02, 0.08)),
        "medium": (rng.uniform(0.012, 0.026), *(rng.uniform(0.13, 0.20) + rng.normal(0, 0.015, 3))),
        "long": (rng.uniform(0.010, 0.024), *(rng.uniform(0.22, 0.40) + rng.normal(0, 0.02, 3))),
        "bun": (rng.uniform(0.003, 0.007), 0.16, 0.13, 0.12),
    }[kind]
    fringe = float(rng.uniform(0.045, 0.08)) if kind in ("short", "medium", "long") and rng.random() < 0.35 else 0.0
    loose = kind in ("medium", "long")
    comb = "crown" if kind == "buzz" else str(rng.choice(COMBS, p=(0.0, 0.7, 0.3) if loose else (0.3, 0.45, 0.25)))
    curly = kind == "curly" or (kind in ("medium", "long") and rng.random() < 0.4)
    return HairStyle(
        kind=kind,
        comb=comb,
        volume=float(volume),
        top=float(top),
        side=float(side),
        back=float(back),
        fringe=fringe,
        part=float(rng.choice([-1, 1]) * rng.uniform(0.0, 0.04)),
        curl=float(rng.uniform(0.003, 0.006)) if curly else float(rng.uniform(0, 0.001)),
        turns=float(rng.uniform(3.0, 6.0)) if kind == "curly" else float(rng.uniform(0.8, 2.5)),
        frizz=float(rng.uniform(0.0005, 0.004)),
        clump=float(rng.uniform(0.1, 0.5) if kind == "curly" else rng.uniform(0.2, 0.9)),
        seed=int(rng.integers(1 << 30)),
    )


def hair_layers(
    head: HeadModel, shaped: torch.Tensor, style: HairStyle, look: Appearance, size: int, free: np.ndarray
) -> list[Layer]:
    """The person's hair over the unposed head `shaped` (V, 3).

    size: side of the shell's texture. free: (V,) bool, where locks may begin (not under a hat).
    """
    if style.kind == "bald":
        return []
    layers = [close_shell(head, shaped, style, look, size)]
    if style.kind == "buzz":
        return layers
    rng = np.random.default_rng(style.seed)
    vertices, normals = shaped.numpy().astype(np.float64), vertex_normals(shaped, head.faces).numpy()
    skin = outer_skin(head, vertices, normals)
    roots = _roots(rng, head, vertices, normals, style, look, free)
    if roots is None:
        return layers
    growth = _growth(style)
    strands = grow(rng, roots, skin, _comb(style, vertices, head), growth)
    layers.append(ribbons(rng, strands, growth, look.hair))
    if style.kind == "bun" and free.all():
        layers.append(_bun(rng, _knot(vertices, head, style), style, look))
    return layers


def outer_skin(head: HeadModel, vertices: np.ndarray, normals: np.ndarray) -> Skin:
    """What hair lies on: all of the head but eyes, teeth and mouth. Ears only push sideways: hair falls over them."""
    inner = head.regions["eyeballs"] | head.regions["teeth"] | head.regions["mouth_interior"]
    ears, outer = head.regions["ears"].numpy(), ~inner.numpy()
    facing = normals.copy()
    facing[ears] = np.stack([np.sign(vertices[ears, 0]), 0 * vertices[ears, 0], 0 * vertices[ears, 0]], 1)
    return Skin(vertices[outer], facing[outer])


def _growth(style: HairStyle) -> Growth:
    loose = style.kind in ("medium", "long")
    return Growth(
        segments={"crop": 5, "short": 6, "curly": 12, "medium": 10, "long": 14, "bun": 9}[style.kind],
        volume=style.volume,
        stiffness={"curly": 0.85, "bun": 0.5, "long": 0.75, "medium": 0.75}.get(style.kind, 0.6),
        combed={"curly": 0.12, "bun": 1.0, "long": 0.10, "medium": 0.09}.get(style.kind, 0.10),
        cling=0.35 if loose else (0.0 if style.kind == "curly" else 0.5),
        curl=style.curl,
        turns=style.turns,
        clump=style.clump if style.kind != "bun" else 0.1,
        strands={"crop": 5, "short": 6}.get(style.kind, 8),
        width=0.0030 if loose else 0.0024,
        frizz=style.frizz,
        under=0.0 if style.kind == "crop" else 1.5,
    )


def beard_layer(head: HeadModel, shaped: torch.Tensor, look: Appearance) -> Layer | None:
    """Locks on jaw, chin and lip that move with the face; None for the shaven and for stubble, which is paint."""
    if look.beard_length < 0.003:
        return None
    rng = np.random.default_rng(look.seed + 14)
    fields, place = template_fields(head), head.template.numpy()
    wobble = 0.006 * fractal_noise(place, 0.012, 2, look.seed + 6)
    jaw, lip = fields.line(place, JAW) + wobble, fields.line(place, MOUSTACHE) + 0.5 * wobble
    free = (fields.regions["lips"] < 0.3) & ~head.regions["mouth_interior"].numpy() & ~head.regions["teeth"].numpy()
    density = np.maximum((jaw < 0.026) * look.beard, (lip < 0.006) * look.moustache) * free
    if density.sum() < 10:
        return None
    vertices, normals = shaped.numpy().astype(np.float64), vertex_normals(shaped, head.faces).numpy()
    length = np.where(jaw < 0.026, look.beard_length, min(look.beard_length, 0.008))
    roots = scatter_roots(rng, vertices, head.faces.numpy(), normals, density, length, 1500)
    skin = outer_skin(head, vertices, normals)
    growth = Growth(
        segments=4, strands=3, volume=0.3 * look.beard_length, combed=0.03, cling=0.3, curl=0.0004, turns=4, clump=0.3,
        width=0.0013, frizz=0.0015, under=0.0,
    )  # fmt: skip
    ahead = np.array([0.0, -0.8, 0.5])
    strands = grow(rng, roots, skin, lambda points, _: np.broadcast_to(ahead, points.shape), growth)
    return ribbons(rng, strands, growth, look.brow * 1.1, roots)


def _roots(
    rng: np.random.Generator,
    head: HeadModel,
    vertices: np.ndarray,
    normals: np.ndarray,
    style: HairStyle,
    look: Appearance,
    free: np.ndarray,
) -> Roots | None:
    fields, place = template_fields(head), head.template.numpy()
    inside = grown(place, fields.hairline, fields.temple, look)
    density = np.clip((inside + 0.03) / 0.15, 0.0, 1.0) * free
    if density.sum() < 10:
        return None
    crown = fields.marks[10, 1] + 0.01
    over = np.clip((place[:, 1] - crown + 0.05) / 0.05, 0, 1)
    behind = np.clip((0.0 - place[:, 2]) / 0.05, 0, 1) * (1 - over)
    length = over * style.top + (1 - over) * (behind * style.back + (1 - behind) * style.side)
    if style.fringe:
        forehead = _forehead(place, head)
        length = np.where(forehead > 0.05, style.fringe, length)
    return scatter_roots(rng, vertices, head.faces.numpy(), normals, density, length, STRANDS)


def _forehead(points: np.ndarray, head: HeadModel) -> np.ndarray:
    """(N,) 0..1: where a fringe grows, over the forehead and back to the middle of the skull."""
    marks = template_fields(head).marks
    ahead = np.clip((points[:, 2] - marks[10, 2] + 0.06) / 0.02, 0, 1)
    return ahead * np.clip((0.055 - np.abs(points[:, 0])) / 0.015, 0, 1)


def _comb(style: HairStyle, vertices: np.ndarray, head: HeadModel) -> Comb:
    """The direction in which hair is drawn at a place, tangential or away from the head."""
    scalp = vertices[head.regions["scalp"].numpy()]
    top, rear = scalp[:, 1].max(), scalp[:, 2].min()
    middle = scalp.mean(0) - np.array([0, 0.02, 0])
    whorl = np.array([0.3 * style.part, top - 0.012, 0.55 * rear])
    knot = _knot(vertices, head, style)

    def comb(points: np.ndarray, _: np.ndarray) -> np.ndarray:
        if style.kind == "bun":
            return unit(knot - points)
        if style.kind == "curly":
            return unit(unit(points - middle) + 0.6 * unit((points - whorl) * np.array([1.0, 0.3, 1.0])))
        around = (points - whorl) * np.array([1.0, 0.0, 1.0])
        away = unit(around - 0.6 * np.linalg.norm(around, axis=1, keepdims=True) * np.array([0, 1.0, 0]))
        if style.comb == "crown":
            return away
        forward = _forehead(points, head)[:, None] if style.fringe else np.zeros((len(points), 1))
        front = np.clip((points[:, 2] - whorl[2]) / 0.05, 0, 1)[:, None]
        if style.comb == "back":
            back = front * np.array([0, 0.0, -1.0]) + (1 - front) * away
            return unit(forward * away + (1 - forward) * back)
        apart = np.tanh((points[:, :1] - style.part) / 0.008) * np.array([[1.0, 0, 0]])
        lift = np.array([[0.0, 0.0, -0.3]])
        parted = front * (apart + lift) + (1 - front) * away
        return unit(forward * away + (1 - forward) * parted)

    return comb


def _knot(vertices: np.ndarray, head: HeadModel, style: HairStyle) -> np.ndarray:
    """(3,) where a bun sits: high or low at the back of the head."""
    scalp = vertices[head.regions["scalp"].numpy()]
    high = (style.seed % 7) / 6
    low_point = np.array([0.0, scalp[:, 1].max() - 0.12, scalp[:, 2].min() + 0.005])
    high_point = np.array([0.0, scalp[:, 1].max() + 0.005, 0.45 * scalp[:, 2].min()])
    return (1 - high) * low_point + high * high_point


def _bun(rng: np.random.Generator, centre: np.ndarray, style: HairStyle, look: Appearance) -> Layer:
    """A ball of wound locks."""
    radius = rng.uniform(0.026, 0.042)
    count, points = 260, 14
    axis = unit(rng.normal(0, 1, (count, 3)) * np.array([0.5, 0.5, 1.0]))
    side = unit(np.cross(axis, np.array([0.2, 1.0, 0.1])))
    other = np.cross(axis, side)
    angle = rng.uniform(0, 2 * np.pi, count)[:, None] + np.linspace(0, rng.uniform(2.0, 4.0), points)[None]
    lift = rng.uniform(-0.6, 0.6, count)[:, None, None]
    ring = np.cos(angle)[..., None] * side[:, None] + np.sin(angle)[..., None] * other[:, None] + lift * axis[:, None]
    ball = unit(ring) * radius * rng.uniform(0.8, 1.05, count)[:, None, None]
    locks = centre + ball * np.array([1.0, 1.0, 0.85])
    along = np.linspace(0, 1, points)
    even = np.ones((count, points))
    dark = 0.45 * np.clip(1 - np.linalg.norm(ball, axis=2) / (0.95 * radius), 0, 1)
    width = 0.005 * even * np.interp(along, [0, 0.1, 0.9, 1], [0.3, 1, 1, 0.3])
    shade = rng.uniform(0.02, 0.85, count)
    strands = Strands(locks, unit(ball), 0 * even, 0.004 * even, width, dark, shade, np.arange(count))
    return ribbons(rng, strands, Growth(), look.hair)


def scalp_shell(head: HeadModel) -> Shell:
    """The part of a head's surface that can carry hair, subdivided once; made once for each head."""
    if head not in _shells:
        fields = template_fields(head)
        haired = torch.as_tensor(fields.hairline > 0.05)
        kept = haired[head.faces].any(-1)
        faces, uvs = head.faces[kept].numpy(), head.uvs[head.faces_uv[kept]].numpy()
        used, faces = np.unique(faces, return_inverse=True)
        faces = faces.reshape(-1, 3)
        edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
        unique, middle = np.unique(edges, axis=0, return_inverse=True)
        m01, m12, m20 = (len(used) + part for part in np.split(middle.ravel(), 3))
        a, b, c = faces.T
        fine = np.concatenate([np.stack(t, 1) for t in ((a, m01, m20), (m01, b, m12), (m20, m12, c), (m01, m12, m20))])
        ua, ub, uc = uvs[:, 0], uvs[:, 1], uvs[:, 2]
        uab, ubc, uca = (ua + ub) / 2, (ub + uc) / 2, (uc + ua) / 2
        fine_uvs = np.concatenate(
            [np.stack(t, 1) for t in ((ua, uab, uca), (uab, ub, ubc), (uca, ubc, uc), (uab, ubc, uca))]
        )
        corners = np.concatenate([np.stack([used, used], 1), used[unique]])
        fine_uvs = np.stack([fine_uvs[..., 0], 1 - fine_uvs[..., 1]], -1)
        _shells[head] = Shell(corners, fine, fine_uvs.astype(np.float32))
    return _shells[head]


def close_shell(head: HeadModel, shaped: torch.Tensor, style: HairStyle, look: Appearance, size: int) -> Layer:
    """The hair next to the skin: opaque, so that no skin shows between locks."""
    shell, fields = scalp_shell(head), template_fields(head)
    normal = shell.gather(vertex_normals(shaped, head.faces).numpy())
    base, place = shell.gather(shaped.numpy()), shell.gather(head.template.numpy())
    field, temple = shell.gather(np.stack([fields.hairline, fields.temple], 1)).T
    inside = grown(place, field, temple, look)
    locks = style.kind != "buzz"
    # Between locks the shell rises behind the hairline.
    risen = np.clip((inside - (0.06 if locks else 0.0)) / 0.25, 0, 1)
    rounded = risen * (2 - risen)
    rough = 0.15 * fractal_noise(place, (0.012, 0.03, 0.012), 3, style.seed)
    thickness = style.volume * {"buzz": 1.0, "curly": 0.65}.get(style.kind, 0.5) * (1 + rough)
    if style.kind == "crop":
        over = np.clip((place[:, 1] - fields.marks[10, 1] + 0.04) / 0.05, 0, 1)
        thickness = 0.003 + (thickness - 0.003) * over
    sunk = np.clip(-(inside + 0.04) / 0.1, 0, 1)
    vertices = base + normal * (thickness * rounded + 0.0005 - 0.004 * sunk)[:, None]
    shade = 0.95 if style.kind in ("buzz", "crop") else 0.65
    return Layer(
        vertices=vertices.astype(np.float32),
        faces=shell.faces,
        uvs=shell.corner_uvs,
        texture=paint_hair(head, replace(look, hair=shade * look.hair), size, look.skin),
        occlusion=0.85,
        shine=0.04,
    )
