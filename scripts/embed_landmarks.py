"""Find MediaPipe's 478 landmarks on a head model: render it, detect the landmarks, carry them back to the surface.

    python scripts/embed_landmarks.py builtin [--out FILE] [--picture FILE]
    python scripts/embed_landmarks.py ict:PATH_TO_NPZ

The head is painted simply (skin, lips, brows, irises, hair) and rendered from several sides, as several people with
mild expressions. Each detection is carried back to the surface; the positions are combined robustly and made symmetric.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from geodiff.geometry import normals_to_map_axes, orbit_camera, project, to_camera, vertex_normals
from geodiff.head.embedding import DATA, save_embedding
from geodiff.head.model import HeadModel, LandmarkEmbedding
from geodiff.raster.mesh import Fragments, interpolate, rasterize
from geodiff.tracking.groups import INNER_LIPS, IRISES, OVAL
from geodiff.tracking.landmarks import NUM_LANDMARKS, detect_faces
from geodiff.types import Camera, HeadParams, Motion

SIZE = 448
#: Right and left brow, upper and lower row of landmarks, from the temple inwards.
BROWS = (
    ((70, 63, 105, 66, 107), (46, 53, 52, 65, 55)),
    ((300, 293, 334, 296, 336), (276, 283, 282, 295, 285)),
)
IRIS_RADIUS, PUPIL_RADIUS = 0.0059, 0.0022
#: Mild expressions; the first two have the mouth open.
EXPRESSIONS: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.25},
    {"jawOpen": 0.4, "browInnerUp": 0.3},
    {},
    {"mouthSmileLeft": 0.4, "mouthSmileRight": 0.4},
    {"eyeWideLeft": 0.5, "eyeWideRight": 0.5},
)
VIEWS = [(yaw, pitch) for yaw in (-35, -18, 0, 18, 35) for pitch in (-15, 0, 15)]


@dataclass(frozen=True)
class Surface:
    """A head's paint: what a pixel's colour is computed from, per vertex, in the template."""

    head: HeadModel
    attributes: torch.Tensor  # (V, 3 + 5): template position; lips, scalp, eyeballs, mouth interior, teeth
    brows: np.ndarray | None = None  # (2, 2, 5, 3) template positions of the brow landmarks

    @staticmethod
    def of(head: HeadModel, brows: np.ndarray | None = None) -> Surface:
        masks = [head.regions[name].float() for name in ("lips", "scalp", "eyeballs", "mouth_interior", "teeth")]
        return Surface(head, torch.cat([head.template, torch.stack(masks, 1)], 1), brows)


@dataclass(frozen=True)
class View:
    """Some of a head's triangles seen by a camera: numbers (K,) of the faces drawn, what was hit, normals (H, W, 3)."""

    drawn: np.ndarray
    fragments: Fragments
    normals: np.ndarray

    @staticmethod
    def of(head: HeadModel, vertices: torch.Tensor, camera: Camera, drawn: np.ndarray | None = None) -> View:
        numbers = np.arange(len(head.faces)) if drawn is None else drawn
        fragments = rasterize(vertices, head.faces[numbers], camera)
        normals = normals_to_map_axes(vertex_normals(vertices, head.faces), camera)
        seen = interpolate(fragments, head.faces[numbers], normals)
        return View(numbers, fragments, seen / np.maximum(np.linalg.norm(seen, axis=-1, keepdims=True), 1e-9))


def paint(surface: Surface, view: View) -> np.ndarray:
    """A simple portrait of the head in a view of all its faces: (H, W, 3) uint8."""
    head, fragments, normals = surface.head, view.fragments, view.normals
    values = interpolate(fragments, head.faces, surface.attributes)
    rest, lips, scalp, balls, mouth, teeth = values[..., :3], *(values[..., i : i + 1] for i in range(3, 8))
    albedo = np.broadcast_to(np.array([0.80, 0.60, 0.50]), rest.shape).copy()
    albedo = albedo + lips * (np.array([0.68, 0.32, 0.31]) - albedo)
    albedo = albedo + scalp.clip(0, 1) * (np.array([0.16, 0.11, 0.08]) - albedo)
    albedo = np.where(mouth > 0.5, np.array([0.30, 0.10, 0.10]), albedo)
    albedo = np.where(teeth > 0.5, np.array([0.85, 0.83, 0.78]), albedo)
    albedo = np.where(balls > 0.5, _eye_colour(head, rest), albedo)
    if surface.brows is not None:
        albedo = albedo + _brow_weight(surface.brows, rest) * (np.array([0.18, 0.12, 0.09]) - albedo)
    key = (normals @ np.array([0.35, 0.55, 0.76])).clip(0, 1)[..., None]
    shade = 0.30 + 0.15 * normals[..., 1:2] + 0.62 * key
    image = np.where(fragments.mask[..., None], albedo * shade, np.array([0.55, 0.60, 0.66]))
    image = cv2.GaussianBlur(image.astype(np.float32).clip(0, 1) ** (1 / 1.6), (0, 0), 0.7)
    return (image * 255).round().astype(np.uint8)


def _eye_colour(head: HeadModel, rest: np.ndarray) -> np.ndarray:
    joints = (head.joint_regressor @ head.template)[3:].numpy()
    centre = np.where(rest[..., :1] > 0, joints[0], joints[1])
    off_axis = np.linalg.norm((rest - centre)[..., :2], axis=-1, keepdims=True)
    white, iris, pupil = np.array([0.88, 0.87, 0.86]), np.array([0.34, 0.24, 0.16]), np.array([0.04, 0.04, 0.04])
    return np.where(off_axis < PUPIL_RADIUS, pupil, np.where(off_axis < IRIS_RADIUS, iris, white))


def _brow_weight(brows: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """(H, W, 1) in 0..1: pixels whose template position lies between the two rows of a brow, seen from the front."""
    weight = np.zeros(rest.shape[:2])
    for upper, lower in brows:
        middle = (upper + lower)[:, :2] / 2
        half = np.abs(upper - lower)[:, 1].mean() / 2 + 0.0005
        for a, b in zip(middle[:-1], middle[1:], strict=True):
            along = ((rest[..., :2] - a) @ (b - a) / ((b - a) @ (b - a))).clip(0, 1)
            distance = np.linalg.norm(rest[..., :2] - a - along[..., None] * (b - a), axis=-1)
            weight = np.maximum(weight, (1.5 - distance / half).clip(0, 1))
    return (0.9 * weight * (rest[..., 2] > 0))[..., None]


def subjects(head: HeadModel, people: int, seed: int) -> list[tuple[int, HeadParams]]:
    """(number of the expression, parameters): the mean head and `people` random ones, each with every expression."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for person in range(people + 1):
        shape = torch.randn(head.num_shape, generator=generator).clamp(-1.5, 1.5) * (0.7 if person else 0.0)
        base = head.zeros().replace(shape=shape)
        for number, weights in enumerate(EXPRESSIONS):
            motion = Motion({k: np.array([v]) for k, v in weights.items()}, np.zeros((1, 3)), np.zeros((1, 2)))
            rows.append((number, head.motion_params(motion, base)))
    return rows


def collect(surface: Surface, people: int, seed: int) -> list[list[tuple[int, int, np.ndarray, float]]]:
    """For each landmark its hits: (expression, face, barycentrics (3,), weight: how much the surface faces the
    camera)."""
    head = surface.head
    balls = head.face_region("eyeballs").numpy()
    inside = np.zeros(len(balls), bool)
    for name in ("eyeballs", "teeth", "mouth_interior"):
        inside |= head.regions[name][head.faces].any(-1).numpy()
    hits: list[list[tuple[int, int, np.ndarray, float]]] = [[] for _ in range(NUM_LANDMARKS)]
    target = torch.tensor([0.0, float(head.template[head.regions["face"], 1].mean()), 0.0])
    for number, params in subjects(head, people, seed):
        vertices = head.vertices(params)[0]
        for yaw, pitch in VIEWS:
            camera = orbit_camera(np.radians(yaw), np.radians(pitch), 1.0, target, 1.35 * SIZE, SIZE, SIZE)
            view = View.of(head, vertices, camera)
            faces = detect_faces(paint(surface, view), limit=1)
            if not faces:
                continue
            points = faces[0].points
            _record(hits, view, ~inside, np.arange(468), points, (number, abs(yaw)))
            # The lids hide parts of the irises: they are looked for on the eyeballs alone.
            view = View.of(head, vertices, camera, np.flatnonzero(balls))
            _record(hits, view, balls, np.array(IRISES), points, (number, abs(yaw)))
    return hits


def _record(
    hits: list, view: View, allowed: np.ndarray, marks: np.ndarray, points: np.ndarray, seen: tuple[int, int]
) -> None:
    """Carry detections back to the nearest allowed face that is seen.

    allowed: (F,) bool. marks: landmark numbers. points: (478, 2). seen: number of the expression, |yaw| in degrees.
    """
    fragments, normals = view.fragments, view.normals
    rows, columns = np.nonzero(fragments.mask & allowed[view.drawn][fragments.face])
    pixels = np.stack([columns, rows], 1) + 0.5
    distance, nearest = cKDTree(pixels).query(points[marks])
    for mark, gap, index in zip(marks, distance, nearest, strict=True):
        # The contour of the face is where it is in front views: from the side it slides along the surface.
        contour = mark in OVAL
        if contour and seen[1] > 20:
            continue
        row, column = rows[index], columns[index]
        facing = float(normals[row, column, 2])
        if gap < (12.0 if contour else 5.0) and facing > (0.02 if contour else 0.35):
            face = int(view.drawn[fragments.face[row, column]])
            weight = 1.0 if contour else facing**2
            hits[mark].append((seen[0], face, fragments.barycentrics[row, column].astype(np.float64), weight))


def combine(head: HeadModel, hits: list) -> LandmarkEmbedding:
    """Robust means of the hits in the template, made symmetric, and put back on the faces that were hit."""
    template, triangles = head.template.double().numpy(), head.faces.numpy()
    means, opened = np.zeros((NUM_LANDMARKS, 3)), np.zeros((NUM_LANDMARKS, 3))
    for mark, found in enumerate(hits):
        # The upper and lower rows of the lips touch in a shut mouth: they are measured on open mouths only.
        chosen = [h for h in found if h[0] < 2] if mark in INNER_LIPS else found
        means[mark] = _median(template, triangles, chosen)
        opened[mark] = means[mark]
    partner = _partners(opened)
    flip = np.array([-1.0, 1.0, 1.0])
    faces, barycentrics = np.zeros(NUM_LANDMARKS, np.int64), np.zeros((NUM_LANDMARKS, 3))
    mirrored = _mirror_faces(head)
    for mark in range(NUM_LANDMARKS):
        other = partner[mark]
        middle = (means[mark] + flip * means[other]) / 2
        near = {h[1] for h in hits[mark]} | {int(mirrored[h[1]]) for h in hits[other]}
        candidates = np.array(sorted(face for face in near if face >= 0))
        faces[mark], barycentrics[mark] = _closest(template, triangles, candidates, middle)
    return LandmarkEmbedding(
        torch.arange(NUM_LANDMARKS), torch.as_tensor(faces), torch.as_tensor(barycentrics, dtype=torch.float32)
    )


def _median(template: np.ndarray, triangles: np.ndarray, found: list) -> np.ndarray:
    """(3,) weighted geometric median of hits, in the template (Weiszfeld's iteration)."""
    if not found:
        raise SystemExit("a landmark was never seen: the detector does not recognise this head")
    points = np.stack([h[2] @ template[triangles[h[1]]] for h in found])
    weights = np.array([h[3] for h in found])
    centre = np.average(points, axis=0, weights=weights)
    for _ in range(30):
        pull = weights / np.maximum(np.linalg.norm(points - centre, axis=1), 1e-4)
        centre = (points * pull[:, None]).sum(0) / pull.sum()
    return centre


def _partners(points: np.ndarray) -> np.ndarray:
    """(L,) the landmark on the other side of the face: a minimal matching of the mirrored positions."""
    flipped = points * np.array([-1.0, 1.0, 1.0])
    cost = np.linalg.norm(points[:, None] - flipped[None], axis=-1) ** 2
    cost = cost + cost.T
    skin, irises = np.arange(468), np.array(IRISES)
    cost[np.ix_(irises, skin)] = cost[np.ix_(skin, irises)] = 1.0
    return linear_sum_assignment(cost)[1]


def _mirror_faces(head: HeadModel) -> np.ndarray:
    """(F,) the triangle whose corners are the mirrored vertices, -1 where there is none."""
    flipped = np.sort(head.mirror.numpy()[head.faces.numpy()], 1)
    index = {tuple(row): number for number, row in enumerate(np.sort(head.faces.numpy(), 1))}
    return np.array([index.get(tuple(row), -1) for row in flipped])


def _closest(
    template: np.ndarray, triangles: np.ndarray, faces: np.ndarray, point: np.ndarray
) -> tuple[int, np.ndarray]:
    """The face and barycentrics of the point of the given faces that is closest to `point` (3,)."""
    best, answer = np.inf, (int(faces[0]), np.full(3, 1 / 3))
    for face in faces:
        corners = template[triangles[face]]
        weights = _closest_in_triangle(corners, point)
        distance = np.linalg.norm(weights @ corners - point)
        if distance < best:
            best, answer = distance, (int(face), weights)
    return answer


def _closest_in_triangle(corners: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(3,) barycentrics of the triangle's point closest to `point`: the plane's foot, or else the best edge's."""
    edges = (corners[1:] - corners[0]).T
    uv = np.linalg.lstsq(edges, point - corners[0], rcond=None)[0]
    weights = np.array([1 - uv.sum(), *uv])
    if (weights >= 0).all():
        return weights
    best, answer = np.inf, weights
    for a, b in ((0, 1), (1, 2), (2, 0)):
        side = corners[b] - corners[a]
        t = np.clip((point - corners[a]) @ side / max(side @ side, 1e-18), 0, 1)
        distance = np.linalg.norm(corners[a] + t * side - point)
        if distance < best:
            best, answer = distance, np.zeros(3)
            answer[a], answer[b] = 1 - t, t
    return answer


def embed(head: HeadModel, people: int = 6, seed: int = 0) -> tuple[LandmarkEmbedding, Surface]:
    """Two passes: where the first finds the brows, the second paints them."""
    first = combine(head, collect(Surface.of(head), 0, seed))
    points = first.points(head.template, head.faces).numpy()
    surface = Surface.of(head, points[np.array(BROWS)])
    return combine(head, collect(surface, people, seed)), surface


def picture(surface: Surface, embedding: LandmarkEmbedding) -> np.ndarray:
    """The embedding drawn on the head from three sides and with an open mouth, for a person to look at."""
    head, tiles = surface.head, []
    blink = {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}
    for yaw, weights in ((-30, {}), (0, {}), (30, {}), (0, EXPRESSIONS[1]), (0, blink)):
        motion = Motion({k: np.array([v]) for k, v in weights.items()}, np.zeros((1, 3)), np.zeros((1, 2)))
        vertices = head.vertices(head.motion_params(motion, head.zeros()))[0]
        target = torch.tensor([0.0, float(head.template[head.regions["face"], 1].mean()), 0.0])
        camera = orbit_camera(np.radians(yaw), 0.0, 1.0, target, 3200, 800, 800)
        tile = paint(surface, View.of(head, vertices, camera))
        marks = embedding.points(vertices, head.faces)
        pixels, _ = project(marks, camera)
        near = to_camera(marks, camera)[:, 2] < 1.02
        for number, (point, shown) in enumerate(zip(pixels.numpy(), near, strict=True)):
            if shown:
                colour = (255, 255, 0) if number in IRISES else (0, 255, 0)
                cv2.circle(tile, tuple(int(x * 8) for x in point), 16, colour, -1, cv2.LINE_AA, 3)
        tiles.append(tile)
    return np.concatenate(tiles, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("head", help="builtin, ict:PATH or flame:PATH")
    parser.add_argument("--out", type=Path, help="archive to write (default: the one bundled with geodiff)")
    parser.add_argument("--picture", type=Path, help="also draw the embedding")
    parser.add_argument("--people", type=int, default=6)
    options = parser.parse_args()
    from geodiff.head import load_head

    head = load_head(options.head)
    embedding, surface = embed(head, options.people)
    out = options.out or DATA / f"{head.name}_mediapipe.npz"
    save_embedding(out, embedding, head)
    if options.picture:
        cv2.imwrite(str(options.picture), picture(surface, embedding)[..., ::-1])
    print(f"{out}: {len(embedding.indices)} landmarks on {head.name} ({head.hash})")


if __name__ == "__main__":
    main()
