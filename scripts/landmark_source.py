"""Reading the measured model, and a planar chart of its skin; shared by the scripts that measure on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from geodiff.head.authoring.surface import boundary_loops, cotangent_laplacian

#: The head's origin in the source's coordinates, metres: between the ears, as in FLAME.
ORIGIN = np.array([0.0, 0.012, 0.012])
PARTS = {name: number for number, name in enumerate(["face", "head_neck", "mouth_socket", "eye_socket_left",
         "eye_socket_right", "gums_tongue", "teeth", "eyeball_left", "eyeball_right"])}  # fmt: skip


@dataclass
class Source:
    """The measured model: positions (N, 3) in metres, identity (100, N, 3), expressions by name (N, 3), parts (N,)."""

    points: np.ndarray
    faces: np.ndarray
    parts: np.ndarray
    identity: np.ndarray
    expressions: dict[str, np.ndarray]
    landmarks68: np.ndarray


def read_source(path: Path) -> Source:
    with np.load(path, allow_pickle=False) as data:
        moves = data["expression"].astype(np.float64) / 100
        expressions = dict(zip(data["expression_names"].tolist(), moves, strict=True))
        return Source(
            data["vertices"].astype(np.float64) / 100 - ORIGIN,
            data["faces"].astype(np.int64),
            data["vertex_part"].astype(int),
            data["identity"].astype(np.float64) / 100,
            expressions,
            data["landmarks68"],
        )


@dataclass
class Skin:
    """The outer skin: indices into the source (S,), triangles, mirror partner of each vertex, rims by name."""

    index: np.ndarray
    faces: np.ndarray
    mirror: np.ndarray
    loops: dict[str, np.ndarray]


def skin_of(source: Source) -> Skin:
    kept = np.isin(source.parts, [PARTS["face"], PARTS["head_neck"]])
    index = np.flatnonzero(kept)
    number = np.full(len(kept), -1)
    number[index] = np.arange(len(index))
    faces = number[source.faces[kept[source.faces].all(1)]]
    points = source.points[index]
    mirror = cKDTree(points).query(points * [-1, 1, 1])[1]
    loops: dict[str, np.ndarray] = {}
    for loop in boundary_loops(faces):
        centre = points[loop].mean(0)
        if len(loop) < 10:
            continue
        if centre[2] < 0.06 and centre[1] < -0.1:
            loops["neck"] = loop
        elif abs(centre[0]) < 0.01:
            loops["mouth"] = loop
        else:
            loops["eye_left" if centre[0] > 0 else "eye_right"] = loop
    return Skin(index, faces, mirror, loops)


def chart_of(source: Source, skin: Skin) -> np.ndarray:
    """Conformal-like map of the skin onto the unit disc (S, 2): the neck's ring is the circle, the face in the middle.

    The mouth and the eyes are opened before the map is made, so that upper and lower lips and lids lie far apart.
    Mirror images lie at (-u, v).
    """
    posed = source.points + source.expressions["jawOpen"]
    for side in "LR":
        posed = posed + source.expressions[f"eyeWide_{side}"]
    posed = posed[skin.index]
    faces = [skin.faces]
    for number, name in enumerate(("mouth", "eye_left", "eye_right")):
        loop = skin.loops[name]
        posed = np.concatenate([posed, posed[loop].mean(0, keepdims=True)])
        centre = np.full(len(loop), len(skin.index) + number)
        faces.append(np.stack([np.roll(loop, -1), loop, centre], 1))
    stiffness, _ = cotangent_laplacian(posed, np.concatenate(faces), floor=0.05)

    ring = skin.loops["neck"]
    front = int(np.argmax(posed[ring, 2] - 10 * np.abs(posed[ring, 0])))
    ring = np.roll(ring, -front)
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(posed[np.r_[ring, ring[:1]]], axis=0), axis=1))]
    angle = 2 * np.pi * length[:-1] / length[-1]
    if posed[ring[len(ring) // 4], 0] < 0:
        angle = -angle
    circle = np.stack([np.sin(angle), -np.cos(angle)], 1)
    free = np.setdiff1d(np.arange(len(posed)), ring)
    inner = splu(sparse.csc_matrix(stiffness[free][:, free]))
    chart = np.zeros((len(posed), 2))
    chart[ring] = circle
    chart[free] = inner.solve(-(stiffness[free][:, ring] @ circle))
    chart = chart[: len(skin.index)]
    chart = 0.5 * (chart + chart[skin.mirror] * [-1, 1])

    nose = skin.index.searchsorted(source.landmarks68[27])
    pivot = complex(0.0, chart[nose, 1])
    z = chart[:, 0] + 1j * chart[:, 1]
    z = (z - pivot) / (1 - np.conj(pivot) * z)
    return np.stack([z.real, z.imag], 1)
