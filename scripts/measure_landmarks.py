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
import torch
from landmark_source import PARTS, Skin, Source, chart_of, read_source, skin_of
from scipy import sparse
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree

from geodiff.geometry import vertex_normals
from geodiff.head.authoring.landmarks import Landmarks, mirror_of
from geodiff.head.authoring.skin import build_mesh_and_skin, locate
from geodiff.head.authoring.surface import edges_of

MAX_LANDMARKS = 500
NUM_MODES = 60

# --- choice of landmarks on the skin ---------------------------------------------------------------------------------


def distance_from(skin: Skin, points: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """(S,) length of the shortest path along edges to the nearest of some vertices, metres."""
    pairs = edges_of(skin.faces)
    length = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    graph = sparse.coo_matrix((length, (pairs[:, 0], pairs[:, 1])), shape=(len(points),) * 2).tocsr()
    return dijkstra(graph, directed=False, indices=sources, min_only=True)


def ring_around(
    chart: np.ndarray, field: np.ndarray, level: float, centre: np.ndarray, angles: np.ndarray
) -> list[int]:
    """For every angle about an opening's centre in the chart, the vertex there whose field is nearest to a level."""
    near = np.flatnonzero(np.abs(field - level) < 0.5 * level)
    offset = chart[near] - centre
    turn = np.arctan2(offset[:, 0], -offset[:, 1])
    chosen = []
    for angle in angles:
        gap = np.abs((turn - angle + np.pi) % (2 * np.pi) - np.pi)
        chosen.append(int(near[np.argmin((gap / 0.15) ** 2 + ((field[near] - level) / (0.2 * level)) ** 2)]))
    return chosen


#: Closed curves around the openings: name, share of the way from the rim to the lips' contour or metres from the lids'
#: rim, and number of landmarks on each.
MOUTH_CURVES = (("lip_wet", 0.44, 20), ("lip_mid", 0.72, 16))
EYE_CURVES = (("edge", 0.0027, 16), ("fold", 0.0056, 14), ("outer", 0.0090, 10))
RIMS = (("mouth", 14), ("eye_left", 12), ("neck", 12))


def angles_of(offset: np.ndarray) -> np.ndarray:
    """(N, 2) chart offsets -> angles, 0 downwards, counter-clockwise."""
    return np.arctan2(offset[:, 0], -offset[:, 1])


def curve_landmarks(source: Source, skin: Skin, points: np.ndarray, chart: np.ndarray) -> dict[int, str]:
    """Landmarks on the openings' rims and on curves around them (wet line, vermilion, lid's edge): vertex -> curve."""
    chosen: dict[int, str] = {}

    def add(vertices: list[int], curve: str) -> None:
        for vertex in vertices:
            twin = int(skin.mirror[vertex])
            if vertex not in chosen and twin not in chosen:
                chosen[vertex] = curve
                chosen[twin] = curve.replace("left", "right")

    contour = skin.index.searchsorted(source.landmarks68[48:60])
    for name, count in RIMS:
        loop = skin.loops[name]
        if name != "eye_left":
            start = int(np.argmax(points[loop, 1] + 10 * points[loop, 2] - 10 * np.abs(points[loop, 0])))
            loop = np.roll(loop, -start)
        length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points[np.r_[loop, loop[:1]]], axis=0), axis=1))]
        wanted = np.linspace(0, length[-1], count, endpoint=False)
        add([int(loop[np.argmin(np.abs(length[:-1] - w))]) for w in wanted], f"{name}_rim")
        centre = chart[loop].mean(0)
        field = distance_from(skin, points, loop)
        if name == "mouth":
            known = angles_of(chart[contour] - centre)
            order = np.argsort(known)
            reach = np.interp(angles_of(chart - centre), known[order], field[contour][order], period=2 * np.pi)
            add(contour.tolist(), "lip_contour")
            between = 0.5 * (known[order] + np.r_[known[order][1:], known[order][0] + 2 * np.pi])
            add(ring_around(chart, field / reach, 1.0, centre, between), "lip_contour")
            for curve, level, amount in MOUTH_CURVES:
                turns = 2 * np.pi * np.arange(amount) / amount
                add(ring_around(chart, field / reach, level, centre, turns[: amount // 2 + 1]), curve)
        elif name == "eye_left":
            for curve, level, amount in EYE_CURVES:
                turns = 2 * np.pi * np.arange(amount) / amount
                add(ring_around(chart, field, level, centre, turns), f"eye_left_{curve}")
    return chosen


def forced_landmarks(source: Source, skin: Skin, points: np.ndarray, curves: dict[int, str]) -> list[int]:
    """Landmarks that anatomy names: curves of lids and lips, the neck's ring, the usual 68, the midline profile."""
    chosen = list(curves)
    usual = np.setdiff1d(np.arange(68), np.r_[36:68])
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
    expressions = np.stack(list(source.expressions.values()))
    moves = [source.identity[:, skin.index], expressions[:, skin.index] * 0.7]
    stacked = np.concatenate(moves).transpose(1, 0, 2).reshape(len(skin.index), -1)
    left, scale, _ = np.linalg.svd(stacked, full_matrices=False)
    return np.concatenate([neutral, left[:, :rank] * scale[:rank] / 2], 1)


def importance_of(skin: Skin, points: np.ndarray) -> np.ndarray:
    """(S,) how much an error counts: most on lids and lips, least on the back of the head and the neck."""
    weight = np.ones(len(points))
    for name, gain in (("mouth", 1.5), ("eye_left", 2.5), ("eye_right", 2.5)):
        distance = cKDTree(points[skin.loops[name]]).query(points)[0]
        weight += gain * np.exp(-((distance / 0.012) ** 2))
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    ear = (x > 0.068) & (np.abs(z) < 0.035) & (y > -0.04) & (y < 0.045)
    weight += 1.0 * ((x < 0.022) & (y < -0.005) & (y > -0.03) & (z > 0.08))
    weight *= np.where((z < 0.0) & (y < 0.07) & ~ear, 0.6, 1.0)
    return weight * np.where(y < -0.10, 0.5, np.where(y > 0.07, 0.9, 1.0))


def as_landmarks(
    source: Source, skin: Skin, chart: np.ndarray, curves: dict[int, str], chosen: list[int], signals: np.ndarray
) -> Landmarks:
    """Some skin points as landmarks whose modes are the signals."""
    points = source.points[skin.index]
    names = tuple(name_skin(source, skin, curves, np.array(chosen), points))
    modes = signals[chosen].reshape(len(chosen), -1, 3).transpose(1, 0, 2)
    on_curve = np.array([curves.get(v, "") for v in chosen])
    twin = mirror_of(names)
    mean = 0.5 * (points[chosen] + points[chosen][twin] * [-1, 1, 1])
    flat = 0.5 * (chart[chosen] + chart[chosen][twin] * [-1, 1])
    return Landmarks(names, on_curve, flat, mean, modes, modes[:0], ())


@dataclass
class Trial:
    """What a head built from some landmarks misses: error (S,) at every skin point, loss without each landmark (L,)."""

    error: np.ndarray
    loss: np.ndarray


def try_landmarks(source: Source, skin: Skin, chart: np.ndarray, landmarks: Landmarks, chosen: list[int],
                  signals: np.ndarray) -> Trial:  # fmt: skip
    """Build the head's skin from the landmarks and compare it with the source, point by point of the chart.

    Errors across the surface count in full, along it by a third, those of the modes by half.
    """
    points = source.points[skin.index]
    normals = vertex_normals(torch.from_numpy(points), torch.from_numpy(skin.faces)).numpy()
    mesh, built = build_mesh_and_skin(landmarks)

    def operator_at(places: np.ndarray) -> np.ndarray:
        face, inside = locate(places, mesh.points, mesh.faces)
        return np.einsum("nk,nkl->nl", inside, built.operator[mesh.faces[face]])

    operator = operator_at(chart)
    missed = signals - operator @ signals[chosen]
    across = (missed[:, :3] * normals).sum(1)
    along = np.linalg.norm(missed[:, :3] - across[:, None] * normals, axis=1)
    moved = np.linalg.norm(missed[:, 3:], axis=1)
    weight = importance_of(skin, points)
    error = np.sqrt(across**2 + (0.3 * along) ** 2 + (0.5 * moved) ** 2) * weight
    print(f"{len(chosen)} landmarks: {1000 * np.abs(across).mean():.2f} mm off the mean surface, "
          f"{1000 * moved.mean():.2f} mm off its modes, largest weighted {1000 * error.max():.1f} mm, "
          f"score {1000 * np.sqrt((error**2).mean()):.3f}")  # fmt: skip
    # Leave-one-out residuals of a linear smoother with the hat matrix H: (I - H) y / diag(I - H).
    rest = np.eye(len(chosen)) - operator_at(landmarks.chart)
    left_out = rest @ signals[chosen] / np.maximum(np.diag(rest), 1e-9)[:, None]
    return Trial(error, np.sqrt((left_out[:, :3] ** 2).sum(1) + (0.5 * left_out[:, 3:] ** 2).sum(1)) * weight[chosen])


def choose_landmarks(
    source: Source, skin: Skin, chart: np.ndarray, curves: dict[int, str], count: int, rounds: int = 14
) -> np.ndarray:
    """Greedy choice with exchange: in every round the head is built from the landmarks so far, pairs are added where it
    errs most, and where there is no more room the pairs that matter least make way. The best set of all rounds is kept.
    """
    points = source.points[skin.index]
    chosen = forced_landmarks(source, skin, points, curves)
    signals = signals_of(source, skin)
    tree = cKDTree(points)
    best, best_score = chosen, np.inf
    for step in range(rounds):
        landmarks = as_landmarks(source, skin, chart, curves, chosen, signals[:, 3:])
        trial = try_landmarks(source, skin, chart, landmarks, chosen, signals)
        score = float((trial.error**2).mean())
        if score < best_score:
            best, best_score = chosen, score
        error = np.where(points[:, 0] < -1e-5, 0.0, trial.error)
        batch = 11 if step < 12 else 6
        order = [chosen[i] for i in np.argsort(trial.loss)]
        removable = [v for v in order if v not in curves and points[v, 0] > 1e-5]
        while len(chosen) + 2 * batch > count:
            vertex = removable.pop(0)
            chosen = sorted(set(chosen) - {vertex, int(skin.mirror[vertex])})
        for _ in range(batch):
            vertex = int(np.argmax(error))
            chosen = sorted({*chosen, vertex, int(skin.mirror[vertex])})
            error[tree.query_ball_point(points[vertex], 0.006)] = 0.0
    return np.array(best)


# --- names ------------------------------------------------------------------------------------------------------------


def region_of(point: np.ndarray) -> str:
    """Anatomical region of a skin point (metres, head's origin)."""
    x, y, z = abs(point[0]), point[1], point[2]
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
CURVES = {"jawline": range(0, 17), "brow": range(17, 27), "nose_bridge": range(27, 31), "nose_base": range(31, 36)}


def name_skin(source: Source, skin: Skin, curves: dict[int, str], chosen: np.ndarray, points: np.ndarray) -> list[str]:
    curve_of = {int(skin.index.searchsorted(source.landmarks68[k])): n for n, ks in CURVES.items() for k in ks}
    upper = {"mouth": -0.0455, "lip": -0.0455, "eye": 0.0235}
    for vertex, curve in curves.items():
        kind = curve.split("_")[0]
        half = ("upper" if points[vertex, 1] > upper[kind] else "lower") if kind in upper else "ring"
        kind = curve.replace("left_", "").replace("right_", "").replace("eye_", "lid_")
        curve_of.setdefault(vertex, f"{kind}_{half}")
    counts: dict[str, int] = {}
    names: dict[int, str] = {}
    for vertex in chosen:
        if points[vertex, 0] < -1e-5:
            continue
        region = curve_of.get(int(vertex)) or region_of(points[vertex])
        counts[region] = counts.get(region, 0) + 1
        twin = int(skin.mirror[vertex])
        if twin == vertex:
            names[vertex] = f"{region}_mid_{counts[region]:02d}"
        else:
            names[vertex] = f"{region}_left_{counts[region]:02d}"
            names[twin] = f"{region}_right_{counts[region]:02d}"
    return [names[v] for v in chosen]


# --- landmarks inside: eyes, teeth, tongue ----------------------------------------------------------------------------


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
    """Edge and root of four teeth a quadrant: both incisors, canine, second molar."""
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
        for number in (1, 2, 3, 7):
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
    for number, depth in enumerate((0.075, 0.063, 0.050, 0.040)):
        for side, x in (("mid", 0.0), ("left", 0.01), ("right", -0.01)):
            if side != "mid" and number != 2:
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
    curves = curve_landmarks(source, skin, source.points[skin.index], chart)
    chosen = choose_landmarks(source, skin, chart, curves, MAX_LANDMARKS - len(inner))
    points = source.points[skin.index]
    names = name_skin(source, skin, curves, chosen, points) + list(inner)
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
    on_curve = [curves.get(int(v), "") for v in chosen] + [""] * len(inner)
    return {
        "names": np.array(names),
        "curves": np.array(on_curve),
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
