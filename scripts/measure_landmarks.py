"""Measure at most 500 named anatomical landmarks on the ICT-FaceKit light model (MIT, USC ICT) and store them.

    python scripts/measure_landmarks.py PATH/ict_facekit.npz geodiff/data/landmarks.npz

For each landmark: a name, a position in a planar chart of the head, the mean position in metres, its displacement under
the strongest modes of identity and under every expression. Nothing else of the model is kept: no triangles, no
texture coordinates, no other points of its surface.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from geodiff.head.authoring.surface import bending_energy, boundary_loops, cotangent_laplacian, edges_of

MAX_LANDMARKS = 500
NUM_MODES = 60
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
        expressions = dict(zip(data["expression_names"].tolist(), data["expression"].astype(np.float64) / 100))
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
    """The outer skin: indices into the source (S,), triangles, mirror partner of each vertex, boundary loops by name."""

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


# --- chart -----------------------------------------------------------------------------------------------------------


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


# --- choice of landmarks on the skin -------------------------------------------------------------------------------------


def distance_from(skin: Skin, points: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """(S,) length of the shortest path along edges to the nearest of some vertices, metres."""
    pairs = edges_of(skin.faces)
    length = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    graph = sparse.coo_matrix((length, (pairs[:, 0], pairs[:, 1])), shape=(len(points),) * 2).tocsr()
    return dijkstra(graph, directed=False, indices=sources, min_only=True)


def ring_around(chart: np.ndarray, field: np.ndarray, level: float, centre: np.ndarray, angles: np.ndarray) -> list[int]:
    """For every angle about an opening's centre in the chart, the vertex there whose field is nearest to a level."""
    near = np.flatnonzero(np.abs(field - level) < 0.5 * level)
    offset = chart[near] - centre
    turn = np.arctan2(offset[:, 0], -offset[:, 1])
    chosen = []
    for angle in angles:
        gap = np.abs((turn - angle + np.pi) % (2 * np.pi) - np.pi)
        chosen.append(int(near[np.argmin((gap / 0.15) ** 2 + ((field[near] - level) / (0.2 * level)) ** 2)]))
    return chosen


#: Closed curves around the openings: share of the way from the rim to the lips' contour, or metres from the lids' rim,
#: and number of landmarks on each.
MOUTH_CURVES = ((0.44, 24), (0.72, 20), (1.0, 20))
EYE_CURVES = ((0.0024, 16), (0.0050, 14))


def curve_landmarks(source: Source, skin: Skin, points: np.ndarray, chart: np.ndarray) -> list[int]:
    """Landmarks on the rims of the openings and on the curves around them (the wet line, the vermilion, the lid's edge)."""
    chosen: list[int] = []
    contour = skin.index.searchsorted(source.landmarks68[48:60])
    for name, count in (("mouth", 20), ("eye_left", 16), ("neck", 16)):
        loop = skin.loops[name]
        if name != "eye_left":
            start = int(np.argmax(points[loop, 1] + 10 * points[loop, 2] - 10 * np.abs(points[loop, 0])))
            loop = np.roll(loop, -start)
        length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points[np.r_[loop, loop[:1]]], axis=0), axis=1))]
        wanted = np.linspace(0, length[-1], count, endpoint=False)
        chosen += [int(loop[np.argmin(np.abs(length[:-1] - w))]) for w in wanted]
        if name == "neck":
            continue
        centre = chart[loop].mean(0)
        field = distance_from(skin, points, loop)
        if name == "mouth":
            offset, about = chart - centre, chart[contour] - centre
            order = np.argsort(np.arctan2(about[:, 0], -about[:, 1]))
            field = field / np.interp(
                np.arctan2(offset[:, 0], -offset[:, 1]), np.arctan2(about[:, 0], -about[:, 1])[order],
                field[contour][order], period=2 * np.pi,
            )  # fmt: skip
        for number, (level, amount) in enumerate(MOUTH_CURVES if name == "mouth" else EYE_CURVES):
            shift = 0.5 * (number % 2 == 0) if name != "mouth" else 0.0
            chosen += ring_around(chart, field, level, centre, 2 * np.pi * (np.arange(amount) + shift) / amount)
    return chosen


def forced_landmarks(source: Source, skin: Skin, points: np.ndarray, chart: np.ndarray) -> list[int]:
    """Landmarks that anatomy names: curves of lids and lips, the neck's ring, the 68 usual points, the midline profile."""
    chosen = curve_landmarks(source, skin, points, chart)
    usual = np.setdiff1d(np.arange(68), np.r_[60:68, 36:48])
    chosen += skin.index.searchsorted(source.landmarks68[usual]).tolist()
    midline = np.flatnonzero(np.abs(points[:, 0]) < 1e-5)
    order = midline[np.argsort(np.arctan2(points[midline, 1], points[midline, 2]))]
    last = None
    for vertex in order:
        if last is None or np.linalg.norm(points[vertex] - points[last]) > 0.025:
            chosen.append(int(vertex))
            last = vertex
    return sorted({v for vertex in chosen for v in (vertex, int(skin.mirror[vertex]))})


def signals_of(source: Source, skin: Skin, rank: int = 48) -> np.ndarray:
    """What the landmarks must carry (S, C): the mean shape and the strongest directions of identity and expression."""
    neutral = source.points[skin.index]
    moves = [source.identity[:, skin.index] * 1.0, np.stack(list(source.expressions.values()))[:, skin.index] * 0.7]
    stacked = np.concatenate(moves).transpose(1, 0, 2).reshape(len(skin.index), -1)
    left, scale, _ = np.linalg.svd(stacked, full_matrices=False)
    return np.concatenate([neutral, left[:, :rank] * scale[:rank] / 2], 1)


def choose_landmarks(source: Source, skin: Skin, chart: np.ndarray, count: int, batch: int = 8) -> np.ndarray:
    """Greedy choice: add pairs where the least-bending surface through the landmarks errs most."""
    points = source.points[skin.index]
    chosen = forced_landmarks(source, skin, points, chart)
    energy = bending_energy(points, skin.faces, list(skin.loops.values()))
    signals = signals_of(source, skin)
    weight = np.ones(len(points))
    for name, gain in (("mouth", 2.0), ("eye_left", 2.5), ("eye_right", 2.5)):
        distance = cKDTree(points[skin.loops[name]]).query(points)[0]
        weight += gain * np.exp(-((distance / 0.012) ** 2))
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    ear = (x > 0.068) & (np.abs(z) < 0.035) & (y > -0.04) & (y < 0.045)
    weight += 1.5 * ((x < 0.018) & (y < -0.008) & (y > -0.03) & (z > 0.085))
    weight *= np.where(((z < 0.0) | (y > 0.07) | (y < -0.10)) & ~ear, 0.5, 1.0)
    tree = cKDTree(points)
    while len(chosen) < count:
        rest = np.setdiff1d(np.arange(len(points)), chosen)
        solved = splu(sparse.csc_matrix(energy[rest][:, rest])).solve(-(energy[rest][:, chosen] @ signals[chosen]))
        error = np.zeros(len(points))
        error[rest] = np.linalg.norm(solved - signals[rest], axis=1) * weight[rest]
        print(f"{len(chosen)} landmarks: mean error {1000 * error.mean():.2f} mm, largest {1000 * error.max():.2f} mm")
        error[points[:, 0] < -1e-5] = 0.0
        for _ in range(batch):
            vertex = int(np.argmax(error))
            pair = {vertex, int(skin.mirror[vertex])} - set(chosen)
            if error[vertex] == 0 or len(chosen) + len(pair) > count:
                return np.array(sorted(chosen))
            chosen += sorted(pair)
            error[tree.query_ball_point(points[vertex], 0.008)] = 0.0
    return np.array(sorted(chosen))


# --- names ------------------------------------------------------------------------------------------------------------


def region_of(point: np.ndarray, hole: str | None) -> str:
    """Anatomical region of a skin point (metres, head's origin)."""
    x, y, z = abs(point[0]), point[1], point[2]
    if hole == "mouth":
        return "inner_lip_upper" if y > -0.0455 else "inner_lip_lower"
    if hole in ("eye_left", "eye_right"):
        return "lid_margin_upper" if y > 0.0235 else "lid_margin_lower"
    if hole == "neck":
        return "neck_ring"
    if x > 0.066 and -0.035 < z < 0.035 and -0.045 < y < 0.05:
        return "ear"
    if y < -0.088 or (y < -0.06 and z < 0.04):
        return "neck" if z > -0.02 else "nape"
    if z < 0.0:
        return "occiput" if y < 0.06 else "cranium"
    if y > 0.06:
        return "forehead" if y < 0.1 and z > 0.03 else "cranium"
    if x < 0.02 and y > -0.028 and z > 0.095:
        return "nose"
    if x < 0.03 and -0.06 < y < -0.03 and z > 0.09:
        return "lip_upper" if y > -0.0455 else "lip_lower"
    if y < -0.055:
        return "chin" if x < 0.025 else "jaw"
    if 0.012 < x < 0.056 and 0.010 < y < 0.038:
        return "eyelid_upper" if y > 0.0235 else "eyelid_lower"
    if y > 0.03:
        return "brow" if x < 0.06 else "temple"
    return "cheek"


#: Regions of the 68 usual facial landmarks that lie on named curves.
CURVES = {"jawline": range(0, 17), "brow": range(17, 27), "nose_bridge": range(27, 31), "nose_base": range(31, 36),
          "lip_contour": range(48, 60)}  # fmt: skip


def name_skin(source: Source, skin: Skin, chosen: np.ndarray, points: np.ndarray) -> list[str]:
    curve_of = {int(skin.index.searchsorted(source.landmarks68[k])): n for n, ks in CURVES.items() for k in ks}
    hole_of = {int(v): name for name, loop in skin.loops.items() for v in loop}
    counts: dict[str, int] = {}
    names: dict[int, str] = {}
    for vertex in chosen:
        if points[vertex, 0] < -1e-5:
            continue
        region = curve_of.get(int(vertex)) or region_of(points[vertex], hole_of.get(int(vertex)))
        counts[region] = counts.get(region, 0) + 1
        twin = int(skin.mirror[vertex])
        if twin == vertex:
            names[vertex] = f"{region}_mid_{counts[region]:02d}"
        else:
            names[vertex] = f"{region}_left_{counts[region]:02d}"
            names[twin] = f"{region}_right_{counts[region]:02d}"
    return [names[v] for v in chosen]


# --- landmarks inside: eyes, teeth, tongue --------------------------------------------------------------------------------


def component_labels(faces: np.ndarray, count: int) -> np.ndarray:
    pairs = (np.r_[faces[:, 0], faces[:, 1]], np.r_[faces[:, 1], faces[:, 2]])
    graph = sparse.coo_matrix((np.ones(len(pairs[0])), pairs), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def eye_weights(source: Source, side: str) -> dict[str, np.ndarray]:
    """Eyeball centre (least-squares sphere of its rear) and pupil, as weights over the source's points (N,)."""
    index = np.flatnonzero(source.parts == PARTS[f"eyeball_{side}"])
    points = source.points[index]
    rear = index[points[:, 2] < np.percentile(points[:, 2], 70)]
    system = np.c_[2 * source.points[rear], np.ones(len(rear))]
    centre = np.linalg.lstsq(system, (source.points[rear] ** 2).sum(1), rcond=None)[0][:3]
    # Affine weights over the rear points whose mean is the centre: least-norm solution.
    affine = np.c_[source.points[rear], np.ones(len(rear))]
    weights = np.linalg.lstsq(affine.T, np.r_[centre, 1.0], rcond=None)[0]
    whole = np.zeros(len(source.points))
    whole[rear] = weights
    pupil = np.zeros(len(source.points))
    front = index[np.argsort(points[:, 2])[-24:]]
    pupil[front] = 1 / len(front)
    return {f"eye_{side}_centre": whole, f"eye_{side}_pupil": pupil}


def teeth_weights(source: Source) -> dict[str, np.ndarray]:
    """Edge and root of five teeth a quadrant (both incisors, canine, second premolar, second molar)."""
    labels = component_labels(source.faces, len(source.points))
    index = np.flatnonzero(source.parts == PARTS["teeth"])
    moved = np.linalg.norm(source.expressions["jawOpen"], axis=1)
    teeth: dict[tuple[str, str], list[np.ndarray]] = {}
    for label in np.unique(labels[index]):
        tooth = np.flatnonzero(labels == label)
        jaw = "lower" if moved[tooth].mean() > 1e-3 else "upper"
        side = "left" if source.points[tooth, 0].mean() > 0 else "right"
        teeth.setdefault((jaw, side), []).append(tooth)
    found = {}
    for (jaw, side), group in teeth.items():
        group.sort(key=lambda tooth: -source.points[tooth, 2].mean())
        for number in (1, 2, 3, 5, 7):
            tooth = group[number - 1]
            height = source.points[tooth, 1] * (1 if jaw == "lower" else -1)
            ends = {"edge": tooth[np.argsort(height)[-8:]], "root": tooth[np.argsort(height)[:8]]}
            for end, members in ends.items():
                weights = np.zeros(len(source.points))
                weights[members] = 1 / len(members)
                found[f"tooth_{jaw}_{side}_{number}_{end}"] = weights
    return found


def tongue_weights(source: Source) -> dict[str, np.ndarray]:
    """Highest points of the tongue along its middle and beside it."""
    moved = np.linalg.norm(source.expressions["jawOpen"], axis=1)
    index = np.flatnonzero((source.parts == PARTS["gums_tongue"]) & (moved > 0.01))
    points = source.points[index]
    found = {}
    for number, depth in enumerate((0.075, 0.066, 0.056, 0.044)):
        for side, x in (("mid", 0.0), ("left", 0.01), ("right", -0.01)):
            if side != "mid" and number in (0,):
                continue
            near = np.flatnonzero((np.abs(points[:, 2] - depth) < 0.003) & (np.abs(points[:, 0] - x) < 0.003))
            best = near[np.argsort(points[near, 1])[-3:]]
            weights = np.zeros(len(source.points))
            weights[index[best]] = 1 / len(best)
            found[f"tongue_{side}_{number + 1}"] = weights
    return found


# --- assembly ---------------------------------------------------------------------------------------------------------


def measure(source: Source) -> dict[str, np.ndarray]:
    skin = skin_of(source)
    chart = chart_of(source, skin)
    inner = {**eye_weights(source, "left"), **eye_weights(source, "right"), **teeth_weights(source),
             **tongue_weights(source)}  # fmt: skip
    chosen = choose_landmarks(source, skin, chart, MAX_LANDMARKS - len(inner))
    points = source.points[skin.index]
    names = name_skin(source, skin, chosen, points) + list(inner)
    weights = sparse.csr_matrix(np.stack(list(inner.values())))

    def at_landmarks(field: np.ndarray) -> np.ndarray:
        return np.concatenate([field[skin.index[chosen]], weights @ field])

    mean = at_landmarks(source.points)
    moved = np.stack([at_landmarks(mode) for mode in source.identity])
    _, scale, modes = np.linalg.svd(moved.reshape(len(moved), -1), full_matrices=False)
    modes = (scale[:NUM_MODES, None] * modes[:NUM_MODES]).reshape(NUM_MODES, -1, 3)
    modes *= np.where(modes.sum((1, 2)) < 0, -1.0, 1.0)[:, None, None]
    kept = {n: f for n, f in source.expressions.items() if not n.startswith("PupilDilate")}
    coordinates = np.full((len(names), 2), np.nan)
    coordinates[: len(chosen)] = chart[chosen]
    hole_of = {int(v): name for name, loop in skin.loops.items() for v in loop}
    holes = [hole_of.get(int(v), "") for v in chosen] + [""] * len(inner)
    return {
        "names": np.array(names),
        "holes": np.array(holes),
        "chart": coordinates.astype(np.float32),
        "mean": mean.astype(np.float32),
        "identity": modes.astype(np.float16),
        "expression": np.stack([at_landmarks(f) for f in kept.values()]).astype(np.float16),
        "expression_names": np.array(list(kept)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    result = measure(read_source(options.source))
    partial = options.output.with_suffix(".partial.npz")
    np.savez_compressed(partial, **result)
    os.replace(partial, options.output)
    print(f"{len(result['names'])} landmarks, {options.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
