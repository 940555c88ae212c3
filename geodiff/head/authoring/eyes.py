"""Eyeballs, the sockets behind the lids, and lids that slide over the eyeballs."""

from __future__ import annotations

import numpy as np

from geodiff.head.authoring.landmarks import Landmarks
from geodiff.head.authoring.parts import Part, grid_faces
from geodiff.head.authoring.skin import Skin

RINGS, SEGMENTS = 15, 24
#: The eyeball is a little smaller than measured, which leaves room for lids that move along straight lines.
SHRINK = 0.975
#: The cornea rises above the sphere by this share of the radius, within this angle of the gaze axis (radians).
CORNEA_RISE, CORNEA_ANGLE = 0.10, 0.60
#: Clearance of the lids over the eyeball, metres.
LID_CLEARANCE = 0.0005


def eye_sphere(landmarks: Landmarks, side: str) -> tuple[np.ndarray, float]:
    """Centre (3,) and radius in metres of an eyeball. The measured pupil lies on the cornea, ahead of the sphere."""
    centre = landmarks.mean[landmarks.index(f"eye_{side}_centre")]
    pupil = landmarks.mean[landmarks.index(f"eye_{side}_pupil")]
    return centre, SHRINK * float(np.linalg.norm(pupil - centre)) / (1 + CORNEA_RISE)


def eyeball_radius(offset: np.ndarray, radius: float) -> np.ndarray:
    """(N,) distance of the eyeball's surface from its centre in the directions offset (N, 3), looking along +z."""
    away = np.arccos(np.clip(offset[:, 2] / np.linalg.norm(offset, axis=1), -1, 1)) / CORNEA_ANGLE
    return radius * (1 + CORNEA_RISE * np.where(away < 1, (1 - away**2) ** 2, 0.0))


def eyeball(landmarks: Landmarks, side: str) -> Part:
    """A sphere with a cornea, its pole on the gaze axis (+z); vertex 0 is the middle of the pupil."""
    centre, radius = eye_sphere(landmarks, side)
    polar = np.pi * np.linspace(0, 1, RINGS + 2)[1:-1] ** 1.15
    turn = 2 * np.pi * np.arange(SEGMENTS) / SEGMENTS
    if side == "right":
        turn = np.pi - turn
    directions = np.stack(
        [
            np.sin(polar)[:, None] * np.cos(turn),
            np.sin(polar)[:, None] * np.sin(turn),
            np.broadcast_to(np.cos(polar)[:, None], (RINGS, SEGMENTS)),
        ],
        -1,
    ).reshape(-1, 3)
    directions = np.concatenate([[[0, 0, 1.0]], directions, [[0, 0, -1.0]]])
    vertices = centre + directions * eyeball_radius(directions, radius)[:, None]
    body = grid_faces(RINGS, SEGMENTS, closed=True) + 1
    after = np.roll(np.arange(SEGMENTS), -1)
    front = np.stack([np.zeros(SEGMENTS, int), 1 + np.arange(SEGMENTS), 1 + after], 1)
    last = 1 + (RINGS - 1) * SEGMENTS
    back = np.stack([np.full(SEGMENTS, len(vertices) - 1), last + after, last + np.arange(SEGMENTS)], 1)
    body = body[:, [0, 2, 1]]
    faces = np.concatenate([front, body, back])
    if side == "right":
        faces = faces[:, ::-1]
    # Azimuthal equidistant: the iris sits in the middle of its island, the far pole is spread over the rim.
    angle = np.arccos(np.clip(directions[:, 2], -1, 1)) / np.pi
    flat = directions[:, :2] / np.maximum(np.linalg.norm(directions[:, :2], axis=1, keepdims=True), 1e-9)
    uv = 0.5 + 0.5 * flat * angle[:, None]
    operator = np.zeros((len(vertices), len(landmarks.names)))
    operator[:, landmarks.index(f"eye_{side}_centre")] = 1.0
    kept = ~(faces == len(vertices) - 1).any(1)
    rim_uv = 0.5 + 0.5 * np.stack([np.cos(turn), np.sin(turn)], 1)
    uv = np.concatenate([uv[:-1], rim_uv])
    faces_uv = faces.copy()
    base = len(vertices) - 1
    for row in np.flatnonzero(~kept):
        ring = [int(v) for v in faces[row] if v != base]
        columns = sorted((ring[0] - last, ring[1] - last))
        pick = columns[1] if columns == [0, SEGMENTS - 1] else columns[0]
        faces_uv[row] = np.where(faces[row] == base, base + pick, faces[row])
    return Part(f"eyeball_{side}", vertices, faces, np.full(len(vertices), -1), operator, np.zeros(len(vertices)),
                uv, faces_uv, ("eyeballs",))  # fmt: skip


def socket(landmarks: Landmarks, skin: Skin, side: str) -> Part:
    """Two rings that carry the lids' inner side around the eyeball's equator. Its first ring repeats the rim."""
    rim = skin.rims[f"eye_{side}"]
    centre, radius = eye_sphere(landmarks, side)
    start = skin.vertices[rim]
    outward = start - centre
    polar = np.arctan2(np.linalg.norm(outward[:, :2], axis=1), outward[:, 2])
    turn = outward[:, :2] / np.maximum(np.linalg.norm(outward[:, :2], axis=1, keepdims=True), 1e-9)
    rings, shares = [start], [0.0]
    for share, clearance in ((0.35, 1.035), (0.7, 1.05), (1.0, 1.06)):
        angle = polar + share * (np.radians(105) - polar)
        direction = np.concatenate([turn * np.sin(angle)[:, None], np.cos(angle)[:, None]], 1)
        rings.append(centre + clearance * radius * direction)
        shares.append(share)
    vertices = np.concatenate(rings)
    count = len(rim)
    faces = grid_faces(len(rings), count, closed=True)
    own = np.zeros((1, len(landmarks.names)))
    own[0, landmarks.index(f"eye_{side}_centre")] = 1.0
    operator = np.concatenate([(1 - s) * skin.operator[rim] + s * own for s in shares])
    across = np.arange(count + 1) / count
    uv = np.stack(np.meshgrid(across, np.linspace(0, 1, len(rings))), -1).reshape(-1, 2)
    wide = grid_faces(len(rings), count + 1, closed=False)
    return Part(f"socket_{side}", vertices, faces, np.full(len(vertices), -1), operator, np.zeros(len(vertices)),
                uv, wide, (), f"eye_{side}", count, 1 - np.repeat(shares, count))  # fmt: skip


def clear_eyeballs(positions: np.ndarray, moves: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Correct displacements (V, 3) so that lids stay outside the eyeball on their way as well as at full strength.

    Vertices that rest inside the clearance keep their depth: they are the lids' inner side.
    """
    moved = moves.copy()
    neutral = np.linalg.norm(positions - centre, axis=1, keepdims=True) - radius
    wanted = radius + np.minimum(LID_CLEARANCE, neutral)
    weight = np.clip((np.linalg.norm(moves, axis=1, keepdims=True) - 3e-4) / 1e-3, 0, 1)
    for _ in range(4):
        for strength in (0.35, 0.5, 0.7, 0.85, 1.0):
            offset = positions + strength * moved - centre
            distance = np.linalg.norm(offset, axis=1, keepdims=True)
            missing = np.clip(wanted - distance, 0, None) * weight
            moved += missing / strength * offset / np.maximum(distance, 1e-9)
    return moved
