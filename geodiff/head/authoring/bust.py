"""The shoulders below the measured skin: a closed stub that hangs on the rim of neck and chest."""

from __future__ import annotations

import numpy as np

from geodiff.head.authoring.landmarks import Landmarks
from geodiff.head.authoring.parts import Part, grid_faces, mirror_by_position
from geodiff.head.authoring.skin import Skin

#: Height of the stub's bottom in head axes, and the half axes and middle depth of its outline there, metres.
BOTTOM = -0.262
HALF_WIDTH, FRONT, BACK, MIDDLE = 0.150, 0.082, 0.092, -0.026
STEPS = 5
#: How far the surface goes on in its own direction before it turns down, as a share of the way down.
TANGENT = 0.9


def rim_tangent(skin: Skin, rim: np.ndarray) -> np.ndarray:
    """(N, 3) unit directions in which the skin leaves through its rim: across the curve, within the surface."""
    points = skin.vertices[rim]
    along = np.roll(points, -1, 0) - np.roll(points, 1, 0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    inside = np.zeros((len(skin.vertices), 3))
    count = np.zeros(len(skin.vertices))
    for corner in range(3):
        np.add.at(inside, skin.faces[:, corner], skin.vertices[skin.faces].mean(1))
        np.add.at(count, skin.faces[:, corner], 1.0)
    away = points - inside[rim] / count[rim, None]
    away -= (away * along).sum(1, keepdims=True) * along
    for _ in range(3):
        away = 0.5 * away + 0.25 * (np.roll(away, 1, 0) + np.roll(away, -1, 0))
    return away / np.linalg.norm(away, axis=1, keepdims=True)


def bust(landmarks: Landmarks, skin: Skin) -> Part:
    """Rings from the rim to an oval at `BOTTOM`, each column a cubic that leaves the skin smoothly, and a bottom."""
    rim = skin.rims["neck"]
    start = skin.vertices[rim]
    count = len(rim)
    turn = np.arctan2(start[:, 0] / HALF_WIDTH, (start[:, 2] - MIDDLE) / (0.5 * (FRONT + BACK)))
    depth = np.where(np.cos(turn) > 0, FRONT, BACK)
    end = np.stack([HALF_WIDTH * np.sin(turn), np.full(count, BOTTOM), MIDDLE + depth * np.cos(turn)], 1)
    way = np.linalg.norm(end - start, axis=1, keepdims=True)
    leave = TANGENT * way * rim_tangent(skin, rim)
    arrive = 0.8 * way * np.array([0.0, -1.0, 0.0])
    rings = []
    for t in np.linspace(0, 1, STEPS + 1):
        rings.append((2 * t**3 - 3 * t**2 + 1) * start + (t**3 - 2 * t**2 + t) * leave
                     + (3 * t**2 - 2 * t**3) * end + (t**3 - t**2) * arrive)  # fmt: skip
    bottom = np.array([[0.0, BOTTOM, MIDDLE]])
    vertices = np.concatenate([*rings, bottom])
    faces = grid_faces(len(rings), count, closed=True)
    last = (len(rings) - 1) * count
    after = np.roll(np.arange(count), -1)
    cap = np.stack([last + np.arange(count), last + after, np.full(count, len(vertices) - 1)], 1)
    # The rim runs the way round that makes the grid face inwards or outwards: the skin's own edges decide.
    directed = {(int(a), int(b)) for f in skin.faces for a, b in ((f[0], f[1]), (f[1], f[2]), (f[2], f[0]))}
    faces = np.concatenate([faces, cap])
    if (int(rim[0]), int(rim[1])) in directed:
        faces = faces[:, ::-1]
    own = skin.operator[rim]
    operator = np.concatenate([np.tile(own, (len(rings), 1)), own.mean(0, keepdims=True)])
    radius = np.concatenate([np.repeat(np.linspace(1, 0.45, len(rings)), count), [0.0]])
    around = 2 * np.pi * np.arange(count) / count
    around = np.concatenate([np.tile(around, len(rings)), [0.0]])
    # The outermost ring is the rim, seen from outside: the island is wound against the rim.
    uv = 0.5 + 0.5 * radius[:, None] * np.stack([np.cos(around), -np.sin(around)], 1)
    return Part("bust", vertices, faces, mirror_by_position(vertices), operator, np.zeros(len(vertices)), uv,
                faces.copy(), ("neck",), "neck", count, np.ones(len(vertices)))  # fmt: skip
