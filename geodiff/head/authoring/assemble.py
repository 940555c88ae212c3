"""The whole head: parts joined to one mesh, with modes, expressions, rig, regions and texture coordinates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from geodiff.head.authoring.chartmesh import ChartMesh
from geodiff.head.authoring.eyes import clear_eyeballs, eye_sphere, eyeball, socket
from geodiff.head.authoring.landmarks import Landmarks
from geodiff.head.authoring.layout import place, skin_layout
from geodiff.head.authoring.meeting import close_rings
from geodiff.head.authoring.mouth import bag, teeth, tongue, tongue_out
from geodiff.head.authoring.parts import Part
from geodiff.head.authoring.rig import (
    NECK,
    ROOT,
    affine_regressor,
    head_share,
    jaw_hinge,
    jaw_motion,
    skin_jaw_share,
    skin_regions,
)
from geodiff.head.authoring.skin import Skin, build_mesh_and_skin
from geodiff.head.model import JOINTS, REGIONS

NUM_SHAPE = 45
#: Expressions that the measured model splits into sides and ARKit does not.
MERGED = {"browInnerUp": ("browInnerUp_L", "browInnerUp_R"), "cheekPuff": ("cheekPuff_L", "cheekPuff_R")}
#: Measured expressions that ARKit does not name.
LEFT_OUT = ("cheekRaiser_L", "cheekRaiser_R")


@dataclass
class Assembly:
    """The joined mesh. index: part name -> (V_part,) its vertices' numbers in the whole; the skin comes first."""

    vertices: np.ndarray
    faces: np.ndarray
    mirror: np.ndarray
    operator: np.ndarray
    uvs: np.ndarray
    faces_uv: np.ndarray
    index: dict[str, np.ndarray]


def build_parts(landmarks: Landmarks, skin: Skin) -> list[Part]:
    return [
        eyeball(landmarks, "left"), eyeball(landmarks, "right"), socket(landmarks, skin, "left"),
        socket(landmarks, skin, "right"), bag(landmarks, skin), teeth(landmarks, "upper"), teeth(landmarks, "lower"),
        tongue(landmarks),
    ]  # fmt: skip


def join(skin: Skin, parts: list[Part], importance: np.ndarray) -> Assembly:
    """Weld the parts to the skin's rims and lay out all texture coordinates."""
    uvs, faces_uv = skin_layout(skin, importance)
    vertices, faces, operators, mirrors = [skin.vertices], [skin.faces], [skin.operator], [skin.mirror]
    uv_list, uv_faces, count, uv_count = [uvs], [faces_uv], len(skin.vertices), len(uvs)
    index: dict[str, np.ndarray] = {"skin": np.arange(count)}
    for part in parts:
        own = np.arange(part.rim_length, len(part.vertices))
        number = np.zeros(len(part.vertices), int)
        number[: part.rim_length] = skin.rims[part.rim] if part.rim else 0
        number[own] = count + np.arange(len(own))
        index[part.name] = number
        vertices.append(part.vertices[own])
        operators.append(part.operator[own])
        faces.append(number[part.faces])
        mirrors.append(np.where(part.mirror[own] < 0, -1, number[part.mirror[own]]))
        uv_list.append(place(part))
        uv_faces.append(part.faces_uv + uv_count)
        count, uv_count = count + len(own), uv_count + len(part.uv)
    mirror = np.concatenate(mirrors)
    whole = np.concatenate(vertices)
    for name in ("eyeball", "socket"):
        left, right = index[f"{name}_left"], index[f"{name}_right"]
        left, right = left[left >= len(skin.vertices)], right[right >= len(skin.vertices)]
        image = np.linalg.norm(whole[left][:, None] * [-1, 1, 1] - whole[right][None], axis=-1).argmin(1)
        mirror[left], mirror[right[image]] = right[image], left
    return Assembly(whole, np.concatenate(faces), mirror, np.concatenate(operators), np.concatenate(uv_list),
                    np.concatenate(uv_faces), index)  # fmt: skip


def arkit_name(name: str) -> str:
    for ending, side in (("_L", "Left"), ("_R", "Right")):
        if name.endswith(ending):
            return name[: -len(ending)] + side
    return name


def measured_expressions(landmarks: Landmarks) -> dict[str, tuple[str, ...]]:
    """ARKit name -> measured expressions whose sum it is."""
    result: dict[str, tuple[str, ...]] = {}
    merged = {part for parts in MERGED.values() for part in parts}
    for name in landmarks.expression_names:
        if name not in merged and name not in LEFT_OUT:
            result[arkit_name(name)] = (name,)
    result.update(MERGED)
    return dict(sorted(result.items()))


#: Which ring of an opening meets its counterpart (the wet line, the lid's edge) and how far the others follow.
LIP_CONTACT, LIP_FADING = 2, [1.0, 1.0, 1.0, 0.55, 0.25, 0.1, 0.0]
LID_CONTACT, LID_FADING = 2, [1.0, 1.0, 1.0, 0.7, 0.45, 0.2, 0.0]


def with_closed_lips(skin: Skin) -> Skin:
    """The skin with lips that touch at rest."""
    rings = skin.rings["mouth"]
    moved = close_rings(skin.vertices, rings, LIP_CONTACT, LIP_FADING, overlap=0.0001, upper_share=0.5)
    moved = 0.5 * (moved + moved[skin.mirror] * [-1, 1, 1])
    return replace(skin, vertices=skin.vertices + moved)


def closed_lids(skin: Skin, surface: np.ndarray, side: str) -> np.ndarray:
    """The blink's displacement (V, 3) with a lid edge that reaches the other one."""
    rings = skin.rings[f"eye_{side}"]
    posed = skin.vertices + surface
    return surface + close_rings(posed, rings, LID_CONTACT, LID_FADING, overlap=0.0003, upper_share=0.75)


def expression_field(landmarks: Landmarks, skin: Skin, parts: list[Part], whole: Assembly, name: str) -> np.ndarray:
    """(V, 3) displacement of the whole head under one measured expression.

    The skin follows its landmarks; the lower teeth, the tongue and the lower half of the bag follow the jaw's rigid
    motion; bags and sockets hang on their rims. Eyelids are then kept off the eyeballs.
    """
    move = landmarks.expression[landmarks.expression_names.index(name)]
    field = np.zeros_like(whole.vertices)
    surface = skin.operator @ move
    size = np.linalg.norm(surface, axis=1, keepdims=True)
    surface *= np.clip((size - 1e-4) / 3e-4, 0, 1)
    if name.startswith("eyeBlink"):
        surface = closed_lids(skin, surface, "left" if name.endswith("L") else "right")
    for side in ("left", "right"):
        centre, radius = eye_sphere(landmarks, side)
        close = (np.linalg.norm(skin.vertices - centre, axis=1) < radius + 0.012) & (size[:, 0] > 1e-4)
        surface[close] = clear_eyeballs(skin.vertices[close], surface[close], centre, radius)
    field[whole.index["skin"]] = surface
    jaw = jaw_motion(landmarks, name)
    for part in parts:
        own = np.arange(part.rim_length, len(part.vertices))
        moved = np.zeros_like(part.vertices)
        if jaw is not None:
            moved += part.jaw[:, None] * jaw.displacement(part.vertices)
        if part.follow is not None:
            rim = skin.rims[part.rim]
            column = np.arange(len(part.vertices)) % part.rim_length
            moved += part.follow[:, None] * surface[rim][column]
        field[whole.index[part.name][own]] = moved[own]
    return field


def skinning_of(landmarks: Landmarks, skin: Skin, parts: list[Part], whole: Assembly) -> np.ndarray:
    """(V, 5) weights of root, neck, jaw, left eye, right eye."""
    weights = np.zeros((len(whole.vertices), len(JOINTS)))
    head = head_share(whole.vertices)
    jaw = np.zeros(len(whole.vertices))
    share = skin_jaw_share(landmarks, skin)
    jaw[whole.index["skin"]] = share
    for part in parts:
        own = np.arange(part.rim_length, len(part.vertices))
        moved = part.jaw.copy()
        if part.follow is not None and part.rim == "mouth":
            column = np.arange(len(part.vertices)) % part.rim_length
            moved += part.follow * share[skin.rims[part.rim]][column]
        jaw[whole.index[part.name][own]] = moved[own]
        if part.name != "skin" and not part.rim:
            head[whole.index[part.name][own]] = 1.0
    jaw = 0.5 * (jaw + jaw[whole.mirror])
    weights[:, 0] = 1 - head
    weights[:, 1] = head * (1 - jaw)
    weights[:, 2] = head * jaw
    for joint, side in ((3, "left"), (4, "right")):
        members = whole.index[f"eyeball_{side}"]
        weights[members] = 0.0
        weights[members, joint] = 1.0
    return weights


def regressor_of(landmarks: Landmarks, skin: Skin, whole: Assembly) -> np.ndarray:
    """(5, V) joint regressor; every row sums to one and is exact on the mean head."""
    low = np.flatnonzero(skin.vertices[:, 1] < -0.10)
    collar = np.flatnonzero((skin.vertices[:, 1] < -0.03) & (np.abs(skin.vertices[:, 2]) < 0.07))
    ears = landmarks.mean[landmarks.find("ear")]
    hinge_area = np.flatnonzero(np.linalg.norm(skin.vertices[:, None] - ears[None], axis=-1).min(1) < 0.01)
    rows = [
        affine_regressor(whole.vertices, low, ROOT),
        affine_regressor(whole.vertices, collar, NECK),
        affine_regressor(whole.vertices, hinge_area, jaw_hinge(landmarks)),
    ]
    for side in ("left", "right"):
        rows.append(affine_regressor(whole.vertices, whole.index[f"eyeball_{side}"], eye_sphere(landmarks, side)[0]))
    return np.stack(rows)


def regions_of(
    landmarks: Landmarks, skin: Skin, mesh: ChartMesh, parts: list[Part], whole: Assembly
) -> dict[str, np.ndarray]:
    """Masks (V,) of all of the model's regions, symmetric."""
    masks = {name: np.zeros(len(whole.vertices), bool) for name in REGIONS}
    for name, mask in skin_regions(landmarks, skin, mesh.points).items():
        masks[name][: len(mask)] = mask | mask[skin.mirror]
    for part in parts:
        own = whole.index[part.name][part.rim_length :]
        for region in part.regions:
            masks[region][own] = True
    return masks


def build_head(landmarks: Landmarks) -> dict[str, np.ndarray]:
    """All arrays of the bundled head, by the names of `HeadModel`'s fields; regions as one array in REGIONS' order."""
    mesh, skin = build_mesh_and_skin(landmarks)
    skin = with_closed_lips(skin)
    parts = build_parts(landmarks, skin)
    regions = skin_regions(landmarks, skin, mesh.points)
    importance = np.where(regions["face"] | regions["ears"], 2.2, 1.0) + 1.5 * regions["eyes"] + 0.8 * regions["lips"]
    whole = join(skin, parts, importance)

    shape = np.einsum("vl,mlc->mvc", whole.operator, landmarks.identity[:NUM_SHAPE])
    names, fields = [], []
    for name, sources in measured_expressions(landmarks).items():
        names.append(name)
        fields.append(sum(expression_field(landmarks, skin, parts, whole, source) for source in sources))
    tongue_part = next(part for part in parts if part.name == "tongue")
    out = np.zeros_like(whole.vertices)
    out[whole.index["tongue"]] = tongue_out(tongue_part)
    names.append("tongueOut")
    fields.append(out)

    masks = regions_of(landmarks, skin, mesh, parts, whole)
    return {
        "template": whole.vertices.astype(np.float32),
        "faces": whole.faces.astype(np.int32),
        "shape_basis": shape.astype(np.float32),
        "expr_basis": np.stack(fields).astype(np.float32),
        "joint_regressor": regressor_of(landmarks, skin, whole).astype(np.float32),
        "skinning": skinning_of(landmarks, skin, parts, whole).astype(np.float32),
        "uvs": whole.uvs.astype(np.float32),
        "faces_uv": whole.faces_uv.astype(np.int32),
        "mirror": whole.mirror.astype(np.int32),
        "regions": np.stack([masks[name] for name in REGIONS]),
        "expression_names": np.array(names),
    }
