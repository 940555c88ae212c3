"""What is known of a head's template before anybody is painted on it: where its hair begins, brows, lids and jaw lie.

Everything is found from the head's regions and its MediaPipe landmarks, so any head that has both can be painted.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from scipy.spatial import cKDTree

from geodiff.conditioning.surface import smoother
from geodiff.geometry import vertex_normals
from geodiff.head.model import JOINTS, HeadModel
from geodiff.raster import mesh
from geodiff.raster.chart import uv_chart

NUM_LANDMARKS = 478
#: Metres over which `Fields.hairline` goes from 0 to 1.
HAIRLINE_WIDTH = 0.10
#: Metres beyond which nobody asks how far a line is.
REACH = 0.06
#: MediaPipe's numbers: brows (upper edge, lower edge; right, left), lid edges, and lines of the lower face.
BROWS = (((70, 63, 105, 66, 107), (46, 53, 52, 65, 55)), ((300, 293, 334, 296, 336), (276, 283, 282, 295, 285)))
LIDS = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (263, 466, 388, 387, 386, 385, 384, 398, 362))
LOWER_LIDS = ((33, 7, 163, 144, 145, 153, 154, 155, 133), (263, 249, 390, 373, 374, 380, 381, 382, 362))
JAW = (58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288)
MOUSTACHE = (57, 92, 165, 167, 164, 393, 391, 322, 287)
CHEEKS = (50, 280)
#: From the wings of the nose past the corners of the mouth.
FOLDS = ((129, 203, 206, 216, 212), (358, 423, 426, 436, 432))


@dataclass(frozen=True)
class Fields:
    """Masks and distances on a head's template, one value a vertex (V,), metres or 0..1; made once for each head.

    hairline: how far above a usual hairline, 1 / HAIRLINE_WIDTH a metre about 0.5. temple: 0..1 where hairlines recede.
    """

    regions: dict[str, np.ndarray]
    hairline: np.ndarray
    temple: np.ndarray
    depth: np.ndarray
    below_chin: np.ndarray
    eye_angle: np.ndarray
    marks: np.ndarray

    def line(self, points: np.ndarray, numbers: tuple[int, ...]) -> np.ndarray:
        """Distance (N,) of points (N, 3) from the polyline through landmarks, infinite beyond REACH."""
        corners = self.marks[list(numbers)]
        steps = np.linspace(0, 1, 12, endpoint=False)[:, None]
        dense = np.concatenate([a + steps * (b - a) for a, b in zip(corners[:-1], corners[1:], strict=True)])
        return cKDTree(dense).query(points, distance_upper_bound=REACH)[0].astype(np.float32)


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
    hairline, temple = _hairline(v, marks, regions)
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
        temple=temple,
        depth=np.clip(front - 0.012 - v[:, 2], 0, None).astype(np.float32),
        below_chin=(marks[152, 1] - v[:, 1]).astype(np.float32),
        eye_angle=angle,
        marks=marks,
    )
    return _fields[head]


def _hairline(v: np.ndarray, marks: np.ndarray, regions: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(V,) height over a hairline that runs round the head (V, 3), and where it recedes, as `Fields` has them.

    From the front: forehead (a third of the face above the brows, by the canon of thirds), temple, sideburn, over
    the ear, and down behind it to the nape.
    """
    middle = marks[10, 2] - 0.10
    around = np.degrees(np.arctan2(np.abs(v[:, 0]), v[:, 2] - middle))
    brow, eye, ear, lobe = (
        marks[9, 1],
        marks[[127, 356], 1].mean(),
        marks[[234, 454], 1].mean(),
        marks[[93, 323], 1].mean(),
    )
    turns = [0, 22, 38, 50, 60, 67, 74, 95, 110, 130, 180]
    heights = [
        brow + 0.056, brow + 0.060, brow + 0.054, eye + 0.054, eye + 0.028, eye + 0.002, ear - 0.012, ear - 0.012,
        lobe - 0.015, lobe - 0.035, lobe - 0.045,
    ]  # fmt: skip
    above = v[:, 1] - np.interp(around, turns, heights)
    bare = np.maximum.reduce([regions[name] for name in ("ears", "eyeballs", "teeth", "mouth_interior")])
    bare = np.clip(3 * bare - 1.5, 0, 1)
    grown = np.clip(0.5 + above / HAIRLINE_WIDTH, 0, 1) * (1 - bare)
    return grown.astype(np.float32), np.exp(-(((around - 26) / 13) ** 2)).astype(np.float32)


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
    under_eye: np.ndarray
    flush: np.ndarray


_canvases: WeakKeyDictionary[HeadModel, dict[int, Canvas]] = WeakKeyDictionary()


def canvas(head: HeadModel, size: int) -> Canvas:
    """The canvas of a head at a texture size, made once."""
    known = _canvases.setdefault(head, {})
    if size not in known:
        fields = template_fields(head)
        scalars = {
            **fields.regions, "hairline": fields.hairline, "temple": fields.temple, "depth": fields.depth,
            "below_chin": fields.below_chin,            "eye_angle": fields.eye_angle,
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
            under_eye=np.minimum(fields.line(place, LOWER_LIDS[0]), fields.line(place, LOWER_LIDS[1])),
            flush=_flush(fields, place, texel[:, 6 + list(scalars).index("ears")]),
            fold=np.minimum(*(fields.line(place, line) for line in FOLDS)),
        )
    return known[size]


def _flush(fields: Fields, place: np.ndarray, ears: np.ndarray) -> np.ndarray:
    """(N,) 0..1: where blood shows through the skin: tip of the nose, cheeks, chin, ears (N,)."""
    strength = ears.copy()
    for mark, width in ((4, 0.016), (50, 0.026), (280, 0.026), (152, 0.018)):
        strength = np.maximum(strength, np.exp(-(((place - fields.marks[mark]) ** 2).sum(1)) / width**2))
    return strength.astype(np.float32)


def _brow_distance(fields: Fields, place: np.ndarray, pair: tuple[tuple[int, ...], tuple[int, ...]]) -> np.ndarray:
    """Distance from the middle line of a brow, in brow half widths."""
    upper, lower = fields.marks[list(pair[0])], fields.marks[list(pair[1])]
    middle, half = (upper + lower) / 2, np.linalg.norm(upper - lower, axis=1) / 2
    t = np.linspace(0, len(middle) - 1, 12 * (len(middle) - 1))
    dense = np.stack([np.interp(t, np.arange(len(middle)), middle[:, i]) for i in range(3)], 1)
    width = np.interp(t, np.arange(len(middle)), np.maximum(half, 0.0025))
    distance, index = cKDTree(dense).query(place, distance_upper_bound=REACH)
    return (distance / np.append(width, 1.0)[index]).astype(np.float32)
