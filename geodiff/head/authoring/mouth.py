"""The mouth's inside: teeth with gums, the tongue, and a closed bag behind the lips."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline

from geodiff.head.authoring.landmarks import Landmarks
from geodiff.head.authoring.parts import Part, carried_by, grid_faces, mirror_by_position, outward
from geodiff.head.authoring.skin import Skin

#: The teeth stand this much further back than measured, metres, to leave room for the lips.
TEETH_BACK = 0.0030
MEASURED_TEETH = (1, 2, 3, 7)


def arch_curves(landmarks: Landmarks, jaw: str) -> tuple[CubicSpline, CubicSpline]:
    """Edge and root of the teeth as curves over the tooth coordinate: -7 (right) .. 7 (left), teeth at half numbers."""
    at, edges, roots = [], [], []
    for side, sign in (("right", -1), ("left", 1)):
        for number in MEASURED_TEETH:
            at.append(sign * (number - 0.5))
            edges.append(landmarks.mean[landmarks.index(f"tooth_{jaw}_{side}_{number}_edge")])
            roots.append(landmarks.mean[landmarks.index(f"tooth_{jaw}_{side}_{number}_root")])
    order = np.argsort(at)
    shift = np.array([0, 0, -TEETH_BACK])
    edge, root = (CubicSpline(np.array(at)[order], np.array(curve)[order] + shift) for curve in (edges, roots))
    return edge, root


def teeth(landmarks: Landmarks, jaw: str) -> Part:
    """An arch of 14 teeth with its gum: sections of 10 points swept along the measured edge and root curves."""
    edge_curve, root_curve = arch_curves(landmarks, jaw)
    borders = np.arange(-7, 8).astype(float)
    stations = np.sort(np.concatenate([borders, (borders[:-1] + 0.22), (borders[:-1] + 0.78)]))
    gap = np.abs(stations - np.round(stations)) < 1e-6
    edge, root = edge_curve(stations), root_curve(stations)
    tangent = edge_curve(stations, 1)
    out = np.stack([-tangent[:, 2], np.zeros(len(stations)), tangent[:, 0]], 1)
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    out *= np.sign(out[:, 2] + 4 * out[:, 0] * np.sign(stations))[:, None]
    up = np.array([0, 1.0 if jaw == "upper" else -1.0, 0])
    number = np.abs(stations)
    depth = np.interp(number, [0, 2, 3, 4, 7], [0.0024, 0.0027, 0.0033, 0.0041, 0.0048]) * np.where(gap, 0.95, 1.0)
    crown = np.interp(number, [0, 2.5, 4, 7], [0.0098, 0.0095, 0.0075, 0.0062])
    gum = 1.75 if jaw == "upper" else 1.25
    tip = np.interp(number, [0, 2, 3, 4, 7], [0.25, 0.3, 0.4, 0.8, 0.85])
    # The measured second molars stand high behind the open lips, where cheeks and tongue would hide them.
    sunk = np.interp(number, [0, 3, 5, 7], [0.0, 0.0, 0.003, 0.007]) * (jaw == "lower")
    edge = edge + up * (np.where(gap, 0.0003, 0.0) + sunk)[:, None]
    lean = root - edge
    lean = lean / np.linalg.norm(lean, axis=1, keepdims=True)
    dig = np.where(gap, 0.00015, 0.0)[:, None] * out

    def point(height: np.ndarray, offset: np.ndarray, inset: float) -> np.ndarray:
        return edge + lean * height[:, None] + out * offset[:, None] - dig * inset

    section = [
        point(crown * gum, depth * (1.0 if jaw == "upper" else 0.3), 0.0),
        point(crown * 1.25, depth * 1.12, 0.0),
        point(crown * 0.98, depth * 1.02, 0.5),
        point(crown * 0.5, depth * 0.95, 1.0),
        point(crown * 0.12, depth * (0.35 + 0.4 * tip), 1.0),
        point(crown * 0.0, depth * 0.15 * tip, 0.6),
        point(crown * 0.12, -depth * (0.35 + 0.4 * tip), -0.5),
        point(crown * 0.55, -depth * 0.95, -0.5),
        point(crown * 1.05, -depth * 1.05, 0.0),
        point(crown * gum, -depth * 1.2, 0.0),
    ]
    width = len(section)
    vertices = np.stack(section, 1).reshape(-1, 3)
    vertices = 0.5 * (vertices + vertices.reshape(-1, width, 3)[::-1].reshape(-1, 3) * [-1, 1, 1])
    faces = grid_faces(len(stations), width, closed=True)
    ends = (0, (len(stations) - 1) * width)
    half = width - 2
    caps_array = np.array([[base, base + k, base + k + 1] for base in ends for k in range(1, width - 1)])
    caps_array[:half] = caps_array[:half, ::-1]
    faces = outward(vertices, np.concatenate([faces, caps_array]))
    members = landmarks.find(f"tooth_{jaw}")
    uv_grid = np.stack(np.meshgrid(np.arange(width + 1) / width, np.linspace(0, 0.9, len(stations))), -1).reshape(-1, 2)
    wide = grid_faces(len(stations), width + 1, closed=False)
    body = len(stations) - 1
    flipped = not np.array_equal(faces[0], grid_faces(len(stations), width, closed=True)[0])
    turn = 2 * np.pi * np.arange(width) / width
    disc = 0.045 * np.stack([np.cos(turn), np.sin(turn)], 1)
    uv = np.concatenate([uv_grid, disc + [0.25, 0.952], disc + [0.75, 0.952]])
    cap_uv = np.array(caps_array)
    first = cap_uv[:half]
    second = cap_uv[half:]
    cap_uv = np.concatenate([first + len(uv_grid), second - body * width + len(uv_grid) + width])
    faces_uv = np.concatenate([wide, cap_uv])
    if flipped:
        faces_uv = faces_uv[:, ::-1]
    edges = uv[faces_uv[0, 1:]] - uv[faces_uv[0, 0]]
    if edges[0, 0] * edges[1, 1] < edges[0, 1] * edges[1, 0]:
        uv = uv * [-1, 1] + [1, 0]
    operator = carried_by(landmarks, members, vertices)
    share = np.full(len(vertices), 1.0 if jaw == "lower" else 0.0)
    mirror = mirror_by_position(vertices)
    return Part(f"teeth_{jaw}", vertices, faces, mirror, operator, share, uv, faces_uv, ("teeth",))


def tongue(landmarks: Landmarks) -> Part:
    """A flattened body along the measured middle of the tongue, its tip behind the lower incisors."""
    middle = np.stack([landmarks.mean[landmarks.index(f"tongue_mid_{k}")] for k in (4, 3, 2, 1)])
    lower_edge = arch_curves(landmarks, "lower")[0](np.array([-0.5, 0.5])).mean(0)
    tip = np.array([0, lower_edge[1] - 0.0042, lower_edge[2] - 0.0065])
    path = np.concatenate([[middle[0] + [0, -0.010, -0.012]], middle[:3], [tip]])
    path[:, 0] = 0.0
    path[1:4, 1] = np.minimum(path[1:4, 1], lower_edge[1] + np.array([0.0020, 0.0014, -0.0004]))
    knots = np.r_[0, np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))]
    # Denser towards the tip, which is a half ellipse seen from above.
    along = np.sin(0.5 * np.pi * np.linspace(0.02, 0.985, 15))
    curve = CubicSpline(knots / knots[-1], path)
    centre = curve(along)
    half_width = np.interp(along, [0, 0.25, 0.6, 0.8, 1], [0.0140, 0.0165, 0.0165, 0.0158, 0.0150])
    half_width = half_width * np.sqrt(np.clip(1 - np.clip((along - 0.62) / 0.38, 0, 1) ** 3.2, 0, 1))
    thickness = np.interp(along, [0, 0.5, 0.85, 1], [0.0095, 0.0085, 0.0055, 0.0020])
    turn = 2 * np.pi * (np.arange(16) + 0.5) / 16
    ring = np.stack([np.cos(turn), np.sin(turn)], 1)
    groove = -0.0010 * np.exp(-((ring[:, 0] / 0.35) ** 2)) * (ring[:, 1] > 0)
    body = np.zeros((len(along), 16, 3))
    body[:, :, 0] = half_width[:, None] * ring[:, 0]
    body[:, :, 1] = centre[:, 1:2] - thickness[:, None] + thickness[:, None] * ring[:, 1]
    body[:, :, 1] += groove * np.clip(half_width / 0.012, 0, 1)[:, None]
    body[:, :, 2] = centre[:, 2:3]
    back = np.array([[0, centre[0, 1] - thickness[0], centre[0, 2] - 0.002]])
    front = np.array([[0, centre[-1, 1] - thickness[-1], curve(1.0)[2]]])
    vertices = np.concatenate([body.reshape(-1, 3), back, front])
    count = len(along) * 16
    after = np.roll(np.arange(16), -1)
    last = count - 16
    faces = np.concatenate(
        [
            grid_faces(len(along), 16, closed=True),
            np.stack([np.full(16, count), after, np.arange(16)], 1),
            np.stack([np.full(16, count + 1), last + np.arange(16), last + after], 1),
        ]
    )
    uv_grid = np.stack(np.meshgrid(np.arange(17) / 16, np.linspace(0.06, 0.94, len(along))), -1).reshape(-1, 2)
    poles = np.stack([(np.arange(16) + 0.5) / 16, np.zeros(16)], 1)
    uv = np.concatenate([uv_grid, poles, poles + [0, 1]])
    base = len(uv_grid)
    top = (len(along) - 1) * 17
    i = np.arange(16)
    faces_uv = np.concatenate(
        [
            grid_faces(len(along), 17, closed=False),
            np.stack([base + i, i + 1, i], 1),
            np.stack([base + 16 + i, top + i, top + i + 1], 1),
        ]
    )
    turned = outward(vertices, faces)
    if turned is not faces and not np.array_equal(turned, faces):
        faces, faces_uv = faces[:, ::-1], faces_uv[:, ::-1]
    members = landmarks.find("tooth_lower", "tongue")
    operator = carried_by(landmarks, members, vertices)
    return Part("tongue", vertices, faces, mirror_by_position(vertices), operator, np.ones(len(vertices)), uv, faces_uv,
                ("mouth_interior",))  # fmt: skip


def tongue_out(part: Part) -> np.ndarray:
    """(V, 3) displacement of tongueOut: the tongue slides forward over the lower teeth and bends down over the lip."""
    z = part.vertices[:, 2]
    along = (z - z.min()) / (z.max() - z.min())
    reach = np.sin(0.5 * np.pi * np.clip(along / 0.8, 0, 1)) ** 1.6
    ahead = np.clip((along - 0.55) / 0.45, 0, 1)
    move = np.zeros_like(part.vertices)
    move[:, 2] = 0.040 * reach
    move[:, 1] = 0.0115 * np.sin(0.5 * np.pi * np.clip(along / 0.6, 0, 1)) - 0.014 * ahead**2
    move[:, 0] = -0.12 * part.vertices[:, 0] * ahead
    return move


def bag(landmarks: Landmarks, skin: Skin) -> Part:
    """The cavity: from the inner lips around teeth and gums to a closed throat. Its first ring repeats the rim."""
    rim = skin.rims["mouth"]
    start = skin.vertices[rim]
    count = len(rim)
    turn = 2 * np.pi * np.arange(count) / count - np.pi / 2
    cosine, sine = np.cos(turn), np.sin(turn)
    upper_root, lower_root = (arch_curves(landmarks, jaw)[1](0.0) for jaw in ("upper", "lower"))
    middle = 0.5 * (upper_root[1] + lower_root[1])
    tall = 0.5 * (upper_root[1] - lower_root[1]) + 0.002
    first = start + np.stack([0.05 * start[:, 0], 0.0045 * sine, np.full(count, 0.0004)], 1)
    rings, shares = [start, first], [0.0, 0.25]
    front = start[:, 2].max()
    profile = [(0.010, 0.0300, 0.62, 0.4), (0.030, 0.0350, 0.95, 0.9), (0.055, 0.0360, 0.95, 1.0),
               (0.072, 0.0280, 0.75, 1.0), (0.082, 0.0150, 0.4, 1.0)]  # fmt: skip
    for back, wide, high, own_share in profile:
        ring = np.stack(
            [wide * np.sign(cosine) * np.abs(cosine) ** 0.75,
             middle + tall * high * np.sign(sine) * np.abs(sine) ** 0.75,
             np.full(count, front - back)], 1)  # fmt: skip
        if back < 0.02:
            ring[:, 2] = front - 0.0110 - 0.014 * np.abs(cosine) ** 1.5
        rings.append(ring)
        shares.append(own_share)
    throat = np.array([[0, middle, front - 0.086]])
    vertices = np.concatenate([*rings, throat])
    last = (len(rings) - 1) * count
    after = np.roll(np.arange(count), -1)
    end = len(vertices) - 1
    cap = np.stack([last + np.arange(count), last + after, np.full(count, end)], 1)
    faces = np.concatenate([grid_faces(len(rings), count, closed=True), cap])
    share = np.concatenate([np.repeat(shares, count), [1.0]])
    lower = np.concatenate([np.tile(0.5 - 0.5 * np.clip(sine * 1.4, -1, 1), len(rings)), [0.5]])
    carried = (1 - lower)[:, None] * carried_by(landmarks, landmarks.find("tooth_upper"), vertices)
    carried += lower[:, None] * carried_by(landmarks, landmarks.find("tooth_lower"), vertices)
    own = skin.operator[rim]
    rim_operator = np.concatenate([np.tile(own, (len(rings), 1)), own.mean(0, keepdims=True)])
    operator = (1 - share)[:, None] * rim_operator + share[:, None] * carried
    radius = np.concatenate([np.repeat(np.linspace(1, 0.12, len(rings)), count), [0.0]])
    around = np.concatenate([np.tile(turn, len(rings)), [0.0]])
    uv = 0.5 + 0.5 * radius[:, None] * np.stack([np.cos(around), np.sin(around)], 1)
    return Part("bag", vertices, faces, mirror_by_position(vertices), operator, lower * share, uv, faces.copy(),
                ("mouth_interior",), "mouth", count, 1 - share)  # fmt: skip
