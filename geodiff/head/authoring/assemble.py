"""The whole head: parts joined to one mesh, with modes, expressions, rig, regions and texture coordinates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from geodiff.head.authoring.bust import bust
from geodiff.head.authoring.eyes import (
    CORNEA_ANGLE,
    CORNEA_RISE,
    LID_CLEARANCE,
    clear_eyeballs,
    eye_sphere,
    eyeball,
    eyeball_radius,
    socket,
)
from geodiff.head.authoring.landmarks import Landmarks
from geodiff.head.authoring.layout import place, skin_layout
from geodiff.head.authoring.meeting import close_rings, contact_rows
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
        tongue(landmarks), bust(landmarks, skin),
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
#: A blink goes this much further than the mean head's lower lid, metres, so that eyes that open wider shut as well;
#: the contacts stop it where the lids meet.
BLINK_RESERVE = 0.0032
#: How far lips and lids may pass each other before the contacts hold them, metres.
TOUCH = 0.0004
#: Skin within this distance of an eyeball is kept outside it, metres.
LID_REACH = 0.010


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
    return surface + close_rings(posed, rings, LID_CONTACT, LID_FADING, overlap=BLINK_RESERVE, upper_share=0.85)


def lips_kept_shut(skin: Skin, modes: np.ndarray) -> np.ndarray:
    """Modes of identity (M, V, 3) of the skin under which lips that touch go on touching, to first order."""
    rings = skin.rings["mouth"]
    kept = modes.copy()
    for number, mode in enumerate(modes):
        shifts = [
            close_rings(skin.vertices + step * mode, rings, LIP_CONTACT, LIP_FADING, overlap=0.0001, upper_share=0.5)
            for step in (-1.0, 1.0)
        ]
        kept[number] += 0.5 * (shifts[1] - shifts[0])
    return kept


def contacts_of(skin: Skin, blinks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The contacts of lips and lids, on the vertices that they touch; blinks: side -> the blink's field (V, 3).

    Lips part half each, straight up and down; an upper lid goes back along the way of its blink.
    """
    fading = np.array(LIP_FADING)[:, None, None] * [0.0, 0.5, 0.0]
    half = np.broadcast_to(fading, (len(LIP_FADING), len(skin.rims["mouth"]), 3))
    rows = [contact_rows(skin.vertices, skin.rings["mouth"], LIP_CONTACT, {1: half, -1: -half}, TOUCH)]
    for side, blink in blinks.items():
        rings = skin.rings[f"eye_{side}"]
        drop = np.minimum(blink[rings[LID_CONTACT], 1], -0.002)
        back = np.stack([blink[ring] / drop[:, None] for ring in rings])
        rows.append(contact_rows(skin.vertices, rings, LID_CONTACT, {1: back}, TOUCH))
    measure, respond = np.concatenate([r.measure for r in rows]), np.concatenate([r.respond for r in rows])
    used = np.flatnonzero((measure != 0).any((0, 2)) | (respond != 0).any((0, 2)))
    return {
        "contact_vertices": used.astype(np.int32),
        "contact_measure": measure[:, used].astype(np.float32),
        "contact_rest": np.concatenate([r.rest for r in rows]).astype(np.float32),
        "contact_respond": respond[:, used].astype(np.float32),
    }


def lids_over_eyeballs(landmarks: Landmarks, skin: Skin, whole: Assembly) -> dict[str, np.ndarray]:
    """What keeps the lids outside the eyeballs, left eye first; see `geodiff.head.contact`."""
    lids: list[np.ndarray] = []
    clearance, poles = [], []
    for side in ("left", "right"):
        centre, radius = eye_sphere(landmarks, side)
        offset = skin.vertices - centre
        distance = np.linalg.norm(offset, axis=1)
        near = np.flatnonzero((distance < radius + LID_REACH) & (offset[:, 2] > -0.2 * radius))
        if side == "right":
            near = skin.mirror[lids[0]]
        lids.append(near)
        clearance.append(np.minimum(LID_CLEARANCE, distance[near] - eyeball_radius(offset[near], radius)))
        ball = whole.index[f"eyeball_{side}"]
        poles.append([ball[0], ball[-1]])
    radius = eye_sphere(landmarks, "left")[1]
    return {
        "contact_poles": np.array(poles, dtype=np.int32),
        "contact_ball": np.array([radius, CORNEA_RISE, CORNEA_ANGLE], dtype=np.float32),
        "contact_lids": np.stack(lids).astype(np.int32),
        "contact_clearance": np.stack(clearance).astype(np.float32),
    }


def lips_and_jaw(
    landmarks: Landmarks, names: list[str], contacts: dict[str, np.ndarray], template: np.ndarray, jaw_share: np.ndarray
) -> dict[str, np.ndarray]:
    """What the contacts of the lips know of the jaw joint; jaw_share: (V,) skinning weight of the jaw."""
    motion = jaw_motion(landmarks, "jawOpen")
    assert motion is not None
    hinge = jaw_hinge(landmarks)
    used = contacts["contact_vertices"]
    drop = jaw_share[used] * (hinge[2] - template[used, 2])
    angle = np.arccos(0.5 * (np.trace(motion.rotation) - 1))
    return {
        "contact_jaw": (contacts["contact_measure"][:, :, 1] @ drop).astype(np.float32),
        "contact_mouth": np.array([names.index("mouthClose"), names.index("jawOpen")], dtype=np.int32),
        "contact_opening": np.array(angle, dtype=np.float32),
    }


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


def regions_of(landmarks: Landmarks, skin: Skin, parts: list[Part], whole: Assembly) -> dict[str, np.ndarray]:
    """Masks (V,) of all of the model's regions, symmetric."""
    masks = {name: np.zeros(len(whole.vertices), bool) for name in REGIONS}
    for name, mask in skin_regions(landmarks, skin).items():
        masks[name][: len(mask)] = mask | mask[skin.mirror]
    for part in parts:
        own = whole.index[part.name][part.rim_length :]
        for region in part.regions:
            masks[region][own] = True
    return masks


def build_head(landmarks: Landmarks) -> dict[str, np.ndarray]:
    """All arrays of the bundled head, by the names of `HeadModel`'s fields; regions as one array in REGIONS' order."""
    skin = with_closed_lips(build_mesh_and_skin(landmarks)[1])
    parts = build_parts(landmarks, skin)
    regions = skin_regions(landmarks, skin)
    importance = np.where(regions["face"] | regions["ears"], 2.2, 1.0) + 1.5 * regions["eyes"] + 0.8 * regions["lips"]
    whole = join(skin, parts, importance)

    shape = np.einsum("vl,mlc->mvc", whole.operator, landmarks.identity[:NUM_SHAPE])
    on_skin = whole.index["skin"]
    shape[:, on_skin] = lips_kept_shut(skin, shape[:, on_skin])
    names, fields = [], []
    for name, sources in measured_expressions(landmarks).items():
        names.append(name)
        fields.append(np.sum([expression_field(landmarks, skin, parts, whole, source) for source in sources], axis=0))
    tongue_part = next(part for part in parts if part.name == "tongue")
    out = np.zeros_like(whole.vertices)
    out[whole.index["tongue"]] = tongue_out(tongue_part)
    names.append("tongueOut")
    fields.append(out)

    blinks = {side: fields[names.index(f"eyeBlink{side.title()}")] for side in ("left", "right")}
    contacts = contacts_of(skin, blinks)
    skinning = skinning_of(landmarks, skin, parts, whole)
    masks = regions_of(landmarks, skin, parts, whole)
    return {
        "template": whole.vertices.astype(np.float32),
        "faces": whole.faces.astype(np.int32),
        "shape_basis": shape.astype(np.float32),
        "expr_basis": np.stack(fields).astype(np.float32),
        "joint_regressor": regressor_of(landmarks, skin, whole).astype(np.float32),
        "skinning": skinning.astype(np.float32),
        "uvs": whole.uvs.astype(np.float32),
        "faces_uv": whole.faces_uv.astype(np.int32),
        "mirror": whole.mirror.astype(np.int32),
        "regions": np.stack([masks[name] for name in REGIONS]),
        "expression_names": np.array(names),
        **contacts,
        **lids_over_eyeballs(landmarks, skin, whole),
        **lips_and_jaw(landmarks, names, contacts, whole.vertices, skinning[:, JOINTS.index("jaw")]),
    }
