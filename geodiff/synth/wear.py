"""Glasses, hats and clothes: simple meshes fitted to the person's own head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from geodiff.conditioning.noise import fractal_noise
from geodiff.conditioning.surface import smoother
from geodiff.geometry import vertex_normals
from geodiff.head.model import HeadModel
from geodiff.synth.appearance import Appearance
from geodiff.synth.fields import template_fields
from geodiff.synth.layers import Layer

GLASSES = {"none": 0.72, "glasses": 0.21, "sunglasses": 0.07}
HATS = {"none": 0.90, "beanie": 0.06, "cap": 0.04}
NECKLINES = {"none": 0.22, "crew": 0.46, "v": 0.16, "high": 0.16}
#: MediaPipe's corners of the right and the left eye (inner, outer), and the points of the face next to the ears.
_EYES = ((133, 33), (362, 263))
_SIDES = (234, 454)


@dataclass(frozen=True)
class Wear:
    """What a person wears. glasses, hat, neckline: keys of the tables above. seed: of everything random in it."""

    glasses: str
    hat: str
    neckline: str
    seed: int


def random_wear(rng: np.random.Generator, eyes_free: bool = False) -> Wear:
    """Glasses, hat and neckline at random. eyes_free: no sunglasses."""
    glasses, hat, neckline = (str(rng.choice(list(t), p=list(t.values()))) for t in (GLASSES, HATS, NECKLINES))
    if eyes_free and glasses == "sunglasses":
        glasses = "glasses"
    return Wear(glasses, hat, neckline, seed=int(rng.integers(1 << 30)))


def wear_layers(head: HeadModel, shaped: torch.Tensor, wear: Wear, look: Appearance, hair: float) -> list[Layer]:
    """The layers over the unposed head `shaped` (V, 3); hair: metres that a hat has to leave for the hair below it."""
    rng = np.random.default_rng(wear.seed)
    layers = []
    if wear.neckline != "none":
        layers += _shirt(rng, head, shaped, wear, look)
    if wear.hat != "none":
        layers += _hat(rng, head, shaped, wear, hair)
    if wear.glasses != "none":
        layers += _glasses(rng, head, shaped, wear)
    return layers


def under_hat(head: HeadModel, wear: Wear) -> np.ndarray:
    """(V,) metres by which a vertex of the template lies inside the hat's rim; negative outside, and without a hat."""
    if wear.hat == "none":
        return np.full(head.num_vertices, -1.0)
    marks, place = template_fields(head).marks, head.template.numpy()
    eyes = marks[[33, 263], 1].mean()
    front = marks[10, 1] - (0.012 if wear.hat == "beanie" else 0.004)
    back = eyes - 0.015 if wear.hat == "beanie" else eyes + 0.015
    share = np.clip((marks[10, 2] - place[:, 2]) / (marks[10, 2] - place[:, 2].min()), 0, 1)
    inside = place[:, 1] - (front + share * (back - front))
    ears = head.regions["ears"].numpy() | head.regions["neck"].numpy()
    return np.where(ears, -1.0, inside)


def _hat(rng: np.random.Generator, head: HeadModel, shaped: torch.Tensor, wear: Wear, hair: float) -> list[Layer]:
    inside = under_hat(head, wear)
    smooth = smoother(head)
    vertices = shaped.numpy().astype(np.float64)
    normal = vertex_normals(shaped, head.faces).numpy()
    thickness = np.full(len(vertices), hair + 0.006)
    if wear.hat == "beanie":
        thickness += 0.004 * (inside < 0.035) + 0.012 * np.clip(normal[:, 1], 0, 1) * rng.uniform(0, 1.5)
    points = vertices + thickness[:, None] * normal
    for _ in range(6):
        points = smooth @ points
    # Smoothing shrinks: what sank comes out again.
    points += np.maximum(thickness - ((points - vertices) * normal).sum(1), 0)[:, None] * normal
    points, kept = _trimmed(points, head.faces.numpy(), inside)
    used, faces = np.unique(kept, return_inverse=True)
    inside = np.maximum(inside, 0)
    color = rng.uniform(0.04, 0.8, 3) if rng.random() < 0.5 else np.full(3, rng.uniform(0.03, 0.7))
    fabric = _fabric(rng, color, ribbed=wear.hat == "beanie")
    around = np.arctan2(points[used, 0], points[used, 2]) / (2 * np.pi) + 0.5
    uv = np.stack([around, np.clip((inside[used]) / 0.16, 0, 1)], 1)
    crown = Layer(points[used], faces.reshape(-1, 3), _unwrapped(uv[faces.reshape(-1, 3)]), fabric, shine=0.02)
    return [crown] if wear.hat == "beanie" else [crown, _visor(points[used], inside[used], fabric)]


def _trimmed(points: np.ndarray, faces: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (V, 3) and the faces of the part of a mesh where inside (V,) > 0, with a border that runs where it is 0:
    the points just outside are drawn in to it."""
    kept = faces[(inside > 0)[faces].any(1)]
    edges = np.concatenate([kept[:, [i, j]] for i in range(3) for j in range(3) if i != j])
    outer, inner = edges[(inside[edges[:, 0]] <= 0) & (inside[edges[:, 1]] > 0)].T
    share = (-inside[outer] / (inside[inner] - inside[outer]))[:, None]
    crossing = points[outer] + share * (points[inner] - points[outer])
    drawn, count = np.zeros_like(points), np.bincount(outer, minlength=len(points))[:, None]
    np.add.at(drawn, outer, crossing)
    return np.where(count > 0, drawn / np.maximum(count, 1), points), kept


def _visor(points: np.ndarray, inside: np.ndarray, fabric: np.ndarray) -> Layer:
    """The peak of a cap: a curved sheet from the rim forwards."""
    rim = points[(inside < 0.012) & (points[:, 2] > 0.4 * points[:, 2].max())]
    across, ahead = np.meshgrid(np.linspace(-1, 1, 25), np.linspace(0, 1, 9), indexing="ij")
    half = min(0.068, 0.95 * np.abs(rim[:, 0]).max())
    x = half * across
    base = np.stack([np.polyval(np.polyfit(rim[:, 0], rim[:, k], 2), x[:, 0]) for k in (1, 2)], 1)
    reach = 0.072 * np.sqrt(np.clip(1 - 0.96 * across**2, 0, 1)) * ahead
    y = base[:, :1] - 0.22 * reach - 0.016 * across**2 * ahead
    sheet = np.stack([x, y, base[:, 1:] - 0.003 + reach], -1)
    faces = _grid_faces(25, 9)
    uv = np.stack([0.5 + 0.25 * across, 0.5 + 0.2 * ahead], -1).reshape(-1, 2)
    return Layer(sheet.reshape(-1, 3), faces, uv[faces].astype(np.float32), 0.9 * fabric, shine=0.03)


def _shirt(
    rng: np.random.Generator, head: HeadModel, shaped: torch.Tensor, wear: Wear, look: Appearance
) -> list[Layer]:
    """Cloth over the neck's lower end, with a hem that stands off the skin; none on a head without a neck."""
    fields, place = template_fields(head), head.template.numpy()
    edge = {"crew": 0.075, "v": 0.075, "high": 0.035}[wear.neckline] + rng.uniform(-0.01, 0.012)
    if wear.neckline == "v":
        edge = edge + np.clip(0.045 - np.abs(place[:, 0]), 0, 1) * 1.3 * (place[:, 2] > 0)
    below = fields.below_chin - edge - 0.25 * (place[:, 2] - place[:, 2].mean()) * (wear.neckline != "v")
    ramp = np.clip(below / 0.008, 0, 1)
    hem = np.exp(-(((below - 0.006) / 0.006) ** 2)) * rng.uniform(0.001, 0.004)
    folds = fractal_noise(place, (0.02, 0.03, 0.02), 3, wear.seed) * 0.002
    normal = vertex_normals(shaped, head.faces).numpy()
    points = shaped.numpy() + normal * (ramp * (0.004 + folds) + hem - 0.003 * (below < 0))[:, None]
    inner = (head.regions["mouth_interior"] | head.regions["teeth"] | head.regions["eyeballs"]).numpy()
    kept = torch.as_tensor((below > -0.01) & ~inner)[head.faces].all(-1)
    if not kept.any():
        return []
    used, faces = np.unique(head.faces[kept].numpy(), return_inverse=True)
    uv = np.stack([(place[used, 0] * 2.0) % 1.0, (place[used, 1] * 4.0) % 1.0], 1)
    fabric = _fabric(rng, look.cloth, ribbed=bool(rng.random() < 0.3))
    faces = faces.reshape(-1, 3)
    return [Layer(points[used].astype(np.float32), faces, _unwrapped(uv[faces]), fabric, shine=0.02)]


def _glasses(rng: np.random.Generator, head: HeadModel, shaped: torch.Tensor, wear: Wear) -> list[Layer]:
    marks = np.full((478, 3), np.nan)
    assert head.landmarks is not None
    marks[head.landmarks.indices.numpy()] = head.landmarks.points(shaped, head.faces).numpy()
    half_width, half_height = rng.uniform(0.022, 0.029), rng.uniform(0.015, 0.024)
    power, radius = rng.uniform(2.0, 5.0), rng.choice([0.0009, 0.0022, 0.003]) * rng.uniform(0.8, 1.2)
    front = np.nanmax(marks[[33, 133, 263, 362, 105, 334], 2]) + 0.010
    angle = np.linspace(0, 2 * np.pi, 41)
    paths, lenses = [], []
    for (inner, outer), side in zip(_EYES, (-1, 1), strict=True):
        centre = (marks[inner] + marks[outer]) / 2
        centre[0] = side * max(abs(centre[0]), half_width + 0.009)
        bent = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / power)
        risen = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** (2 / power)
        x, y = centre[0] + half_width * bent, centre[1] - 0.003 + half_height * risen
        z = front - 1.1 * (np.abs(x) - 0.03) * np.abs(x) - 0.12 * (y - centre[1])
        loop = np.stack([x, y, np.minimum(z, front)], 1)
        lenses.append(loop)
        ear = marks[_SIDES[(side + 1) // 2]]
        hinge = loop[np.argmax(side * loop[:, 0] + 0.3 * loop[:, 1])]
        x_ear = side * (abs(ear[0]) + 0.003)
        arm = np.array([
            hinge, [side * (abs(hinge[0]) + 0.005), hinge[1], hinge[2] - 0.006], [x_ear, hinge[1], ear[2]],
            [x_ear, hinge[1] - 0.001, ear[2] - 0.022], [x_ear - side * 0.003, hinge[1] - 0.02, ear[2] - 0.038],
        ])  # fmt: skip
        paths += [loop, _resampled(arm, 16)]
    a = lenses[0][np.argmax(lenses[0][:, 0] + 0.3 * lenses[0][:, 1])]
    b = lenses[1][np.argmin(lenses[1][:, 0] - 0.3 * lenses[1][:, 1])]
    t = np.linspace(0, 1, 9)[:, None]
    paths.append((1 - t) * a + t * b + np.array([0, 0.003, 0.003]) * np.sin(np.pi * t))
    color = np.array([(0.03, 0.03, 0.03), (0.25, 0.14, 0.07), (0.55, 0.53, 0.50), (0.6, 0.1, 0.1), (0.7, 0.6, 0.3)])
    layers = [_tubes(paths, radius, color[rng.integers(5)] * rng.uniform(0.7, 1.2))]
    if wear.glasses == "sunglasses":
        layers.append(_filled(lenses, rng.uniform(0.02, 0.10, 3)))
    return layers


def _tubes(paths: list[np.ndarray], radius: float, color: np.ndarray, sides: int = 6) -> Layer:
    """Polylines as tubes of one colour."""
    points, faces, first = [], [], 0
    turn = 2 * np.pi * np.arange(sides) / sides
    for path in paths:
        tangent = np.gradient(path, axis=0)
        tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
        side = np.cross(tangent, np.array([0.13, 0.35, 0.93]))
        side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9)
        other = np.cross(tangent, side)
        ring = np.cos(turn)[None, :, None] * side[:, None] + np.sin(turn)[None, :, None] * other[:, None]
        points.append((path[:, None] + radius * ring).reshape(-1, 3))
        i, j = np.meshgrid(np.arange(len(path) - 1) * sides, np.arange(sides), indexing="ij")
        k = (j + 1) % sides
        quads = np.stack([i + j, i + k, i + sides + k, i + sides + j], -1).reshape(-1, 4) + first
        faces += [quads[:, [0, 2, 1]], quads[:, [0, 3, 2]]]
        first += len(path) * sides
    return _plain(np.concatenate(points), np.concatenate(faces), color, 0.6)


def _filled(loops: list[np.ndarray], color: np.ndarray) -> Layer:
    points = np.concatenate([np.concatenate([loop, loop.mean(0, keepdims=True)]) for loop in loops])
    faces, first = [], 0
    for loop in loops:
        ring, count = np.arange(len(loop) - 1), len(loop)
        faces.append(np.stack([ring, ring + 1, np.full_like(ring, count)], 1) + first)
        first += count + 1
    return _plain(points, np.concatenate(faces), color, 0.9)


def _plain(points: np.ndarray, faces: np.ndarray, color: np.ndarray, shine: float) -> Layer:
    uv = np.full((len(faces), 3, 2), 0.5, np.float32)
    texture = np.tile(np.clip(color, 0.01, 1).astype(np.float32), (8, 8, 1))
    return Layer(points.astype(np.float32), faces, uv, texture, occlusion=1.0, shine=shine)


def _fabric(rng: np.random.Generator, color: np.ndarray, ribbed: bool, size: int = 128) -> np.ndarray:
    """(size, size, 3) sRGB: weave, ribs, sometimes stripes."""
    y, x = np.mgrid[0:size, 0:size] / size
    points = np.stack([x, y, 0 * x], -1).reshape(-1, 3)
    shade = 1 + 0.10 * fractal_noise(points, 0.15, 3, int(rng.integers(1 << 30))).reshape(size, size)
    if ribbed:
        shade *= 1 + 0.22 * np.sin(2 * np.pi * 40 * x)
    cloth = np.asarray(color)[None, None] * shade[..., None]
    if rng.random() < 0.25:
        other = rng.uniform(0.05, 0.9, 3)
        stripes = (np.sin(2 * np.pi * rng.integers(3, 9) * y) > rng.uniform(-0.3, 0.7))[..., None]
        cloth = np.where(stripes, other * shade[..., None], cloth)
    return np.clip(cloth, 0.01, 0.98).astype(np.float32)


def _unwrapped(uvs: np.ndarray) -> np.ndarray:
    """Corner places (M, 3, 2) without triangles that run across the texture's border."""
    wide = np.ptp(uvs, axis=1, keepdims=True) > 0.5
    return np.where(wide & (uvs < 0.5), 1.0, uvs).astype(np.float32)


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
    first = (i * columns + j).ravel()
    a, b, c, d = first, first + 1, first + columns, first + columns + 1
    return np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])


def _resampled(path: np.ndarray, count: int) -> np.ndarray:
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.linspace(0, length[-1], count)
    return np.stack([np.interp(at, length, path[:, k]) for k in range(3)], 1)
