"""Hair as a second surface: the scalp, subdivided, standing off the skull, hanging where it is long."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch

from geodiff.geometry import vertex_normals
from geodiff.head.model import HeadModel
from geodiff.synth.appearance import Appearance, template_fields
from geodiff.synth.noise import fractal_noise

#: Kinds of hair and how often they are drawn.
STYLES = {"bald": 0.12, "buzz": 0.15, "short": 0.38, "medium": 0.22, "long": 0.13}


@dataclass(frozen=True)
class HairStyle:
    """volume: metres off the skull. lift: extra on top, as a share of the volume. drop: metres that sides and back hang
    down. fringe: metres that the front hangs down. roughness: share of the volume that noise adds. asymmetry: -1..1."""

    kind: str
    volume: float
    lift: float
    drop: float
    fringe: float
    roughness: float
    asymmetry: float
    seed: int


@dataclass(frozen=True)
class Shell:
    """A head's scalp, subdivided: each point is a mean of three head vertices.

    corners: (N, 3) int64 head vertices, weights: (N, 3) their weights; faces (M, 3); corner_uvs (M, 3, 2).
    """

    corners: np.ndarray
    weights: np.ndarray
    faces: np.ndarray
    corner_uvs: np.ndarray

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Head vertices' values (V, C) -> the shell's (N, C)."""
        return np.einsum("nk,nkc->nc", self.weights, values[self.corners])


_shells: WeakKeyDictionary[HeadModel, Shell] = WeakKeyDictionary()


def random_style(rng: np.random.Generator) -> HairStyle:
    """A hair style at random."""
    kind = str(rng.choice(list(STYLES), p=list(STYLES.values())))
    volume = {
        "bald": 0.0,
        "buzz": rng.uniform(0.002, 0.006),
        "short": rng.uniform(0.008, 0.028),
        "medium": rng.uniform(0.012, 0.032),
        "long": rng.uniform(0.010, 0.025),
    }[kind]
    drop = {"medium": rng.uniform(0.02, 0.07), "long": rng.uniform(0.07, 0.16)}.get(kind, 0.0)
    fringed = kind in ("short", "medium", "long") and rng.random() < 0.5
    return HairStyle(
        kind=kind,
        volume=float(volume),
        lift=float(rng.uniform(0.0, 0.5)),
        drop=float(drop),
        fringe=float(rng.uniform(0.01, 0.04)) if fringed else 0.0,
        roughness=float(rng.uniform(0.06, 0.32)),
        asymmetry=float(rng.uniform(-1, 1)),
        seed=int(rng.integers(1 << 30)),
    )


def scalp_shell(head: HeadModel) -> Shell:
    """The part of a head's surface that can carry hair, subdivided once; made once for each head."""
    if head not in _shells:
        fields = template_fields(head)
        haired = torch.as_tensor(fields.hairline > 0.12)
        kept = haired[head.faces].any(-1)
        faces, uvs = head.faces[kept].numpy(), head.uvs[head.faces_uv[kept]].numpy()
        used, faces = np.unique(faces, return_inverse=True)
        faces = faces.reshape(-1, 3)
        edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
        unique, middle = np.unique(edges, axis=0, return_inverse=True)
        m01, m12, m20 = (len(used) + part for part in np.split(middle.ravel(), 3))
        a, b, c = faces.T
        fine = np.concatenate([np.stack(t, 1) for t in ((a, m01, m20), (m01, b, m12), (m20, m12, c), (m01, m12, m20))])
        ua, ub, uc = uvs[:, 0], uvs[:, 1], uvs[:, 2]
        uab, ubc, uca = (ua + ub) / 2, (ub + uc) / 2, (uc + ua) / 2
        fine_uvs = np.concatenate(
            [np.stack(t, 1) for t in ((ua, uab, uca), (uab, ub, ubc), (uca, ubc, uc), (uab, ubc, uca))]
        )
        points = np.stack([used, used, used], 1)
        halves = np.stack([used[unique[:, 0]], used[unique[:, 1]], used[unique[:, 1]]], 1)
        corners = np.concatenate([points, halves])
        weights = np.concatenate([np.tile([1.0, 0, 0], (len(points), 1)), np.tile([0.5, 0.5, 0], (len(halves), 1))])
        _shells[head] = Shell(corners, weights.astype(np.float32), fine, fine_uvs.astype(np.float32))
    return _shells[head]


def grow_hair(head: HeadModel, shaped: torch.Tensor, style: HairStyle, look: Appearance) -> np.ndarray | None:
    """Vertices (N, 3) of the person's hair over the unposed head `shaped` (V, 3), or None for the bald."""
    if style.kind == "bald":
        return None
    shell, fields = scalp_shell(head), template_fields(head)
    normal = shell.gather(vertex_normals(shaped, head.faces).numpy())
    base, place = shell.gather(shaped.numpy()), shell.gather(head.template.numpy())
    field = shell.gather(fields.hairline[:, None])[:, 0]
    wobble = 0.12 * fractal_noise(place, 0.02, 2, look.seed + 7)
    grown = np.clip((field + wobble - look.hairline + 0.08) / 0.35, -0.3, 1.0)
    rounded = np.where(grown > 0, 0.35 + 0.65 * np.sqrt(np.clip(grown, 0, 1)), grown)
    rough = fractal_noise(place, (0.012, 0.03, 0.012), 3, style.seed) * style.roughness
    large = fractal_noise(place, 0.06, 2, style.seed + 1) * 0.35
    side = 1 + 0.3 * style.asymmetry * np.clip(place[:, 0] / 0.08, -1, 1)
    thickness = style.volume * (1 + style.lift * np.clip(normal[:, 1], 0, 1)) * side * (1 + rough + large)
    hair = base + normal * (thickness * rounded - 0.004 * (grown < 0))[:, None]
    return _hang(hair, place, grown, fields.marks, style).astype(np.float32)


def _hang(hair: np.ndarray, place: np.ndarray, grown: np.ndarray, marks: np.ndarray, style: HairStyle) -> np.ndarray:
    """Sides, back and fringe fall: points low on the scalp go further down, and outwards to clear ears and neck."""
    eyes, tip = marks[[33, 263], 1].mean(), marks[10]
    rising = np.clip(grown * 3, 0, 1)
    edge = 1 - np.clip(grown, 0, 1)
    behind = np.clip((0.03 - place[:, 2]) / 0.04, 0, 1)
    low = np.clip((tip[1] - place[:, 1]) / (tip[1] - eyes + 0.04), 0, 1) ** 2
    fall = style.drop * low * behind * (0.4 + 0.6 * edge) * rising
    away = place * np.array([1, 0, 1]) - np.array([0, 0, -0.03])
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    ahead = np.clip((place[:, 2] - 0.0) / 0.03, 0, 1) * edge**1.5 * rising
    down = fall + style.fringe * ahead
    out = 0.12 * fall + 0.006 * (style.drop > 0) * low * behind + 0.25 * style.fringe * ahead
    return hair - down[:, None] * np.array([0, 1.0, 0]) + out[:, None] * away
