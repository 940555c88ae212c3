"""ICT-FaceKit's light face model (Li et al. 2020, MIT licence) as a `HeadModel`.

`ict_files.py` reads the toolkit's meshes as arrays: centimetres, y up, face towards +z. Overlay surfaces that are meant
to be rendered with transparency (lashes, tear film, occlusion shells, the iris behind the cornea) are left out: the
head is one opaque surface. Joints, skinning and regions are authored here from the toolkit's parts and its 68
landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

from geodiff.head.embedding import DATA, load_embedding
from geodiff.head.ict_files import LIGHT, Layout, read_arrays
from geodiff.head.model import HeadModel

#: Parts that stay; the rest are transparent overlays.
SOLID_PARTS = (
    "face", "head_neck", "mouth_socket", "eye_socket_left", "eye_socket_right", "gums_tongue", "teeth",
    "eyeball_left", "eyeball_right",
)  # fmt: skip
#: Inner layer of the eyeballs, hidden behind the cornea.
HIDDEN_MATERIALS = ("M_IrisLeft", "M_IrisRight")

#: Where UVs go, lower left corner and size (u, v, width, height): face, back of the head, gums and tongue, teeth, left
#: and right eyeball.
SHEETS = (
    (0.0, 0.0, 0.6, 0.6), (0.6, 0.0, 0.4, 0.5), (0.6, 0.5, 0.2, 0.2), (0.8, 0.5, 0.2, 0.2),
    (0.0, 0.62, 0.38, 0.38), (0.4, 0.62, 0.38, 0.38),
)  # fmt: skip

#: FLAME's eyes lie about here in its own frame; the head is moved so that its eyes do as well (metres).
EYE_CENTRE = np.array([0.0, 0.032, 0.025])


@dataclass(frozen=True)
class _Parts:
    """The arrays of the archive after the overlays have been dropped, in centimetres."""

    vertices: np.ndarray
    faces: np.ndarray
    part: np.ndarray
    names: tuple[str, ...]
    expression: np.ndarray
    expression_names: tuple[str, ...]
    marks: np.ndarray

    def of(self, *names: str) -> np.ndarray:
        """(V,) bool: vertices of the named parts."""
        return np.isin(self.part, [self.names.index(name) for name in names if name in self.names])

    def motion(self, name: str) -> np.ndarray:
        """(V, 3) displacement of the toolkit's expression `name`, zero where the file has none."""
        if name not in self.expression_names:
            return np.zeros_like(self.vertices)
        return self.expression[self.expression_names.index(name)]


def arkit_name(name: str) -> str:
    """The toolkit's expression name in Apple's spelling: eyeBlink_L -> eyeBlinkLeft."""
    for suffix, side in (("_L", "Left"), ("_R", "Right")):
        if name.endswith(suffix):
            name = name[: -len(suffix)] + side
    return name[0].lower() + name[1:]


def load_ict(path: str | Path, layout: Layout = LIGHT) -> HeadModel:
    """ICT-FaceKit from a clone of its repository (its folder) or from an archive of its arrays (.npz).

    All expressions stay; names are Apple's, and shapes that Apple has once for both sides (`browInnerUp`, `cheekPuff`)
    are given in `HeadModel.arkit` as the sum of the two sides. layout: what a clone must hold, by release.

    Raises:
        HeadModelError: the files are missing, damaged or of another release.
    """
    arrays = read_arrays(Path(path).expanduser(), layout)
    parts, uvs, faces_uv, identity = _solid(arrays)
    centres = [_sphere_centre(parts.vertices[parts.of(f"eyeball_{side}")]) for side in ("left", "right")]
    shift = EYE_CENTRE * 100 - (centres[0] + centres[1]) / 2
    mirror = _mirror(parts)
    jaw = _jaw_field(parts)
    regressor = _joint_regressor(parts, centres, jaw)
    names = tuple(arkit_name(name) for name in parts.expression_names)
    faces = torch.as_tensor(parts.faces, dtype=torch.int64)
    return HeadModel(
        name="ict",
        template=_tensor((parts.vertices + shift) / 100),
        faces=faces,
        shape_basis=_tensor(identity / 100),
        expr_basis=_tensor(parts.expression / 100),
        joint_regressor=_tensor(regressor),
        skinning=_tensor(_skinning(parts, jaw)),
        uvs=_tensor(uvs),
        faces_uv=torch.as_tensor(faces_uv, dtype=torch.int64),
        regions={name: torch.as_tensor(mask) for name, mask in _regions(parts, mirror).items()},
        mirror=torch.as_tensor(mirror, dtype=torch.int64),
        expression_names=names,
        landmarks=load_embedding(DATA / "ict_mediapipe.npz", faces),
        arkit=_merged(names),
    )


def _solid(arrays: dict[str, np.ndarray]) -> tuple[_Parts, np.ndarray, np.ndarray, np.ndarray]:
    """Drop the overlays. Returns the parts, uvs (U, 2), faces_uv (F, 3) and the identity modes (S, V, 3)."""
    names = tuple(str(n) for n in arrays["part_names"])
    materials = [str(n) for n in arrays["material_names"]]
    faces = arrays["faces"].astype(np.int64)
    solid = [i for i, name in enumerate(names) if name in SOLID_PARTS]
    hidden = [materials.index(name) for name in HIDDEN_MATERIALS if name in materials]
    keep = np.isin(arrays["vertex_part"][faces[:, 0]], solid) & ~np.isin(arrays["face_material"], hidden)
    kept, packed = np.unique(faces[keep], return_inverse=True)
    sheet = _sheets(arrays, names)[keep]
    pairs = arrays["faces_uv"][keep].astype(np.int64) * len(SHEETS) + sheet[:, None]
    kept_uv, packed_uv = np.unique(pairs, return_inverse=True)
    position = np.full(len(arrays["vertices"]), -1, np.int64)
    position[kept] = np.arange(len(kept))
    parts = _Parts(
        vertices=arrays["vertices"][kept].astype(np.float64),
        faces=packed.reshape(-1, 3),
        part=arrays["vertex_part"][kept],
        names=names,
        expression=arrays["expression"][:, kept].astype(np.float32),
        expression_names=tuple(str(n) for n in arrays["expression_names"]),
        marks=position[arrays["landmarks68"]],
    )
    uvs = _pack_sheets(arrays["uv"][kept_uv // len(SHEETS)], kept_uv % len(SHEETS))
    return parts, uvs, packed_uv.reshape(-1, 3), arrays["identity"][:, kept].astype(np.float32)


def _sphere_centre(points: np.ndarray) -> np.ndarray:
    """(3,) centre of the sphere that fits points (N, 3) in least squares."""
    system = np.concatenate([2 * points, np.ones((len(points), 1))], 1)
    return np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0][:3]


def _jaw_rotation(parts: _Parts) -> tuple[np.ndarray, np.ndarray]:
    """The rigid motion (rotation (3, 3), pivot (3,)) of the lower teeth in `jawOpen`; a hinge at the ears without
    teeth."""
    motion = parts.motion("jawOpen").astype(np.float64)
    length = np.linalg.norm(motion, axis=1)
    lower = parts.of("teeth") & (length > 0.3 * length.max()) if length.max() > 0 else np.zeros(len(length), bool)
    if lower.sum() < 4:
        ears = parts.vertices[parts.marks[[0, 16]]].mean(0)
        return np.eye(3), ears - np.array([0.0, 4.0, 2.0])
    before = parts.vertices[lower]
    after = before + motion[lower]
    u, _, vt = np.linalg.svd((before - before.mean(0)).T @ (after - after.mean(0)))
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))])
    rotation = vt.T @ sign @ u.T
    shift = after.mean(0) - rotation @ before.mean(0)
    pivot = np.zeros(3)
    # The hinge is horizontal, so the motion leaves a point of the sagittal plane where it is.
    pivot[1:] = np.linalg.lstsq((np.eye(3) - rotation)[1:, 1:], shift[1:], rcond=None)[0]
    return rotation, pivot


def _jaw_field(parts: _Parts) -> np.ndarray:
    """(V,) weight of the jaw in 0..1: how much of the lower teeth's rigid motion a vertex follows in `jawOpen`."""
    rotation, pivot = _jaw_rotation(parts)
    rigid = (parts.vertices - pivot) @ (rotation - np.eye(3)).T
    length = (rigid**2).sum(1)
    followed = (parts.motion("jawOpen") * rigid).sum(1) / np.maximum(length, 1e-2)
    weight = np.clip(followed, 0.0, 1.0)
    weight[parts.of("eyeball_left", "eyeball_right")] = 0.0
    return weight


def _joint_regressor(parts: _Parts, centres: list[np.ndarray], jaw: np.ndarray) -> np.ndarray:
    """(5, V): joints as affine combinations of vertices that stay near them when the shape changes."""
    v = parts.vertices
    eyes, chin = (centres[0] + centres[1]) / 2, v[parts.marks[8]]
    skin = parts.of("face", "head_neck")
    height = np.abs(v[:, 1] - chin[1])
    neck = skin & (height < 1.5) & (jaw < 0.3)
    targets = {
        # The root turns the head about the middle of the neck, the neck joint lies below the skull.
        0: (neck, np.array([0.0, chin[1] - 4.5, eyes[2] - 8.0])),
        1: (neck, np.array([0.0, chin[1] + 2.5, eyes[2] - 8.0])),
        2: (skin & (np.abs(v[:, 1] - eyes[1]) < 6.0), _jaw_rotation(parts)[1]),
        3: (parts.of("eyeball_left"), centres[0]),
        4: (parts.of("eyeball_right"), centres[1]),
    }
    regressor = np.zeros((5, len(v)))
    for joint, (candidates, target) in targets.items():
        chosen = np.flatnonzero(candidates if candidates.sum() >= 4 else skin)
        regressor[joint, chosen] = _affine_weights(v[chosen], target)
    return regressor


def _affine_weights(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N,) smallest weights with sum 1 whose combination of points (N, 3) is target (3,)."""
    system = np.concatenate([points.T, np.ones((1, len(points)))])
    return np.linalg.pinv(system) @ np.append(target, 1.0)


def _skinning(parts: _Parts, jaw: np.ndarray) -> np.ndarray:
    """(V, 5): eyeballs follow their joints, the skull follows the neck joint, the shoulders stay with the root."""
    v = parts.vertices
    chin = v[parts.marks[8]]
    # The throat bends lower than the nape: the border between root and neck falls towards the front.
    level = v[:, 1] - (chin[1] - 3.0) + 0.15 * (v[:, 2] - (chin[2] - 8.0))
    head = _smoothstep(level, -5.0, 2.0)
    weights = np.zeros((len(v), 5))
    weights[:, 2] = jaw * head
    weights[:, 1] = head - weights[:, 2]
    weights[:, 0] = 1.0 - head
    for joint, side in ((3, "left"), (4, "right")):
        ball = parts.of(f"eyeball_{side}")
        weights[ball] = 0.0
        weights[ball, joint] = 1.0
    return weights


def _smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)


def _regions(parts: _Parts, mirror: np.ndarray) -> dict[str, np.ndarray]:
    """Region masks (V,) from the parts and the 68 landmarks (iBUG's order)."""
    v, marks = parts.vertices, parts.vertices[parts.marks]
    skin = parts.of("face", "head_neck")
    chin, brow = marks[8], marks[17:27]
    side_z, side_y, side_x = marks[[0, 16], 2].mean(), marks[[0, 16], 1].mean(), np.abs(marks[[0, 16], 0]).mean()
    mouth = marks[48:60]
    spread = mouth.mean(0) + 1.12 * (mouth - mouth.mean(0))
    lips = parts.of("face") & _inside(v[:, :2], spread[:, :2]) & (v[:, 2] > mouth[:, 2].min() - 1.5)
    eyes = parts.of("eye_socket_left", "eye_socket_right")
    for eye in (marks[36:42], marks[42:48]):
        centre, half = eye.mean(0), np.ptp(eye[:, 0]) / 2
        near = ((v[:, 0] - centre[0]) / (1.6 * half)) ** 2 + ((v[:, 1] - centre[1]) / (1.2 * half)) ** 2 < 1
        eyes |= parts.of("face") & near & (v[:, 2] > centre[2] - 2.5)
    # The concha lies deeper than the temple, so the ear is bounded in height and depth more than in width.
    ears = parts.of("face") & (np.abs(v[:, 0]) > side_x - 1.2) & (v[:, 2] < side_z - 1.2) & (v[:, 2] > side_z - 5.0)
    ears &= (v[:, 1] > side_y - 7.5) & (v[:, 1] < side_y + 0.8)
    neck = skin & (v[:, 1] < chin[1] - 1.0 + 0.45 * (chin[2] - v[:, 2]))
    neck &= ~ears
    # The hairline: above the brows by two thirds of the nose at the front, falling behind the ears towards the nape.
    forehead = brow[:, 1].max() + 0.55 * (marks[27, 1] - marks[33, 1]) + 1.2
    front = np.clip((v[:, 2] - side_z) / (chin[2] - side_z), -1.2, 1.0)
    hairline = side_y + 1.0 + (forehead - side_y - 1.0) * np.clip(front, 0, 1) ** 0.6
    hairline = np.where(front < 0, side_y + 1.0 + front * 8.0, hairline)
    scalp = skin & (v[:, 1] > hairline) & ~ears & ~neck
    return {
        "face": skin & ~scalp & ~neck & ~ears,
        "lips": lips,
        "eyes": eyes,
        "eyeballs": parts.of("eyeball_left", "eyeball_right"),
        "teeth": parts.of("teeth"),
        "mouth_interior": parts.of("mouth_socket", "gums_tongue"),
        "scalp": scalp | scalp[mirror],
        "ears": ears,
        "neck": neck,
    }


def _inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """(N,) bool: points (N, 2) inside the closed polygon (M, 2), by crossings."""
    inside = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > points[:, 1]) != (y1 > points[:, 1])
        inside ^= crosses & (points[:, 0] < (x1 - x0) * (points[:, 1] - y0) / (y1 - y0) + x0)
    return inside


def _mirror(parts: _Parts) -> np.ndarray:
    """(V,) nearest vertex of the mirrored head, of the same part on the other side."""
    mirror = np.arange(len(parts.vertices))
    for index, name in enumerate(parts.names):
        other = name.replace("left", "?").replace("right", "left").replace("?", "right")
        here = np.flatnonzero(parts.part == index)
        there = np.flatnonzero(parts.part == parts.names.index(other)) if other in parts.names else here
        if len(here) and len(there):
            flipped = parts.vertices[here] * np.array([-1.0, 1.0, 1.0])
            mirror[here] = there[cKDTree(parts.vertices[there]).query(flipped)[1]]
    return mirror


def _sheets(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """(F,) row in SHEETS for each face: its UDIM tile, but a sheet of its own for each eyeball, whose UVs overlap the
    face's in the toolkit."""
    tile = np.floor(arrays["uv"][arrays["faces_uv"]][..., 0].mean(1)).astype(int).clip(0, 3)
    part = arrays["vertex_part"][arrays["faces"][:, 0]]
    for row, name in ((4, "eyeball_left"), (5, "eyeball_right")):
        if name in names:
            tile[part == names.index(name)] = row
    return tile


def _pack_sheets(uvs: np.ndarray, sheet: np.ndarray) -> np.ndarray:
    """Sheets beside one another without overlap, (U, 2) -> (U, 2) in 0..1. The face gets the most room."""
    tile = np.where(sheet < 4, sheet, 0)
    local = np.stack([uvs[:, 0] - tile, uvs[:, 1]], 1).clip(0, 1)
    place = np.array(SHEETS)[sheet]
    return local * place[:, 2:] + place[:, :2]


def _merged(names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """ARKit names that the toolkit splits into sides -> expression coefficients (E,)."""
    merged = {}
    for name in ("browInnerUp", "cheekPuff"):
        sides = [f"{name}Left", f"{name}Right"]
        if all(side in names for side in sides):
            merged[name] = torch.tensor([1.0 if n in sides else 0.0 for n in names])
    return merged


def _tensor(array: np.ndarray) -> torch.Tensor:
    """float32, rounded to a tenth of a micrometre so that the head's hash is the same whatever linear algebra made
    it."""
    return torch.as_tensor(np.round(np.ascontiguousarray(array, dtype=np.float64), 7), dtype=torch.float32)
