"""What teeth look like that a portrait does not show: enamel in its light, gums, and where tooth meets tooth.

Widths and heights of teeth are anatomy's (Wheeler's Dental Anatomy: crowns of permanent teeth, rounded).
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch

from geodiff.conditioning.reference import Reference
from geodiff.head.model import HeadModel
from geodiff.media import LUMA
from geodiff.raster.mesh import Fragments
from geodiff.tracking.tones import lab
from geodiff.types import Motion

#: Widths and heights of crowns from the middle to the second molar, metres: upper and lower.
WIDTHS = np.array([[8.5, 6.5, 7.5, 7.0, 7.0, 10.0, 9.0], [5.5, 6.0, 7.0, 7.0, 7.0, 11.0, 10.5]]) * 1e-3
HEIGHTS = np.array([[10.5, 9.0, 10.0, 8.5, 8.0, 7.5, 7.0], [9.0, 9.5, 10.5, 8.5, 8.0, 7.5, 7.0]]) * 1e-3
#: Metres: distance of the arch's centre behind its front, length of an arch's pieces, how much lower gums stand between
#: teeth, half width of the line between them; how dark that line is.
CENTRE, PIECE, SCALLOP, LINE, CONTACT = 0.03, 0.002, 0.0018, 0.0006, 0.4
#: Colours of a face of average brightness LUMINANCE, and metres behind the front teeth, and behind the front of each,
#: over which shade falls.
ENAMEL, GUM, LUMINANCE = np.array([0.95, 0.91, 0.84]), np.array([0.72, 0.40, 0.38]), 0.55
SHADE, INNER = 0.035, 0.006
#: Metres of teeth that the middle one of a picture's columns has to show between the lips, and by how much their median
#: colour is less red than the lips', or lighter (CIELAB), for teeth to be seen.
BARED, PALER, LIGHTER = 0.0015, 4.0, 8.0

_rows: WeakKeyDictionary[HeadModel, np.ndarray] = WeakKeyDictionary()


@dataclass(frozen=True)
class Arch:
    """The front of a row of teeth. lengths: (P,) metres along it from the middle, to the left positive, at angles (P,)
    about its centre (0, depth); radius, edge: (P,) distance from the centre and heights of the teeth's edges there."""

    depth: float
    angles: np.ndarray
    lengths: np.ndarray
    radius: np.ndarray
    edge: np.ndarray

    @staticmethod
    def of(place: np.ndarray, upward: bool) -> Arch:
        """place: (N, 3) metres at rest. upward: whether roots are above the edges."""
        depth = float(place[:, 2].max()) - CENTRE
        angle = np.arctan2(place[:, 0], place[:, 2] - depth)
        radius = np.hypot(place[:, 0], place[:, 2] - depth)
        count = max(8, int(np.ptp(angle) * CENTRE / PIECE))
        bins = np.linspace(angle.min(), angle.max(), count + 1)
        part = np.digitize(angle, bins[1:-1])
        some = [np.abs(part - n) < 3 for n in range(count)]
        angles = np.array([angle[one].mean() for one in some])
        outer = np.array([np.quantile(radius[one], 0.9) for one in some])
        edge = np.array([place[one, 1].min() if upward else place[one, 1].max() for one in some])
        x, z = outer * np.sin(angles), outer * np.cos(angles)
        lengths = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(z)))])
        return Arch(depth, angles, lengths - np.interp(0, angles, lengths), outer, edge)

    def along(self, place: np.ndarray) -> np.ndarray:
        """(N,) metres along the front."""
        return np.interp(self._angle(place), self.angles, self.lengths)

    def behind(self, place: np.ndarray) -> np.ndarray:
        """(N,) metres from the front of the tooth inwards."""
        radius = np.hypot(place[:, 0], place[:, 2] - self.depth)
        return np.maximum(np.interp(self._angle(place), self.angles, self.radius) - radius, 0)

    def edge_at(self, place: np.ndarray) -> np.ndarray:
        return np.interp(self._angle(place), self.angles, self.edge)

    def _angle(self, place: np.ndarray) -> np.ndarray:
        return np.arctan2(place[:, 0], place[:, 2] - self.depth)


def tooth_coordinates(head: HeadModel) -> np.ndarray:
    """(V, 5) float32 of the vertices of teeth, 0 elsewhere: the number of the tooth from the middle, whole numbers
    where two teeth meet (the left's positive); metres from the edge towards the root; 0 upper, 1 lower; metres behind
    the front teeth; and metres behind the tooth's own front."""
    if head not in _rows:
        teeth = head.regions["teeth"].numpy()
        table = np.zeros((head.num_vertices, 5), np.float32)
        place = head.shaped(head.zeros())[0].numpy()
        lower = teeth & _opening(head)
        for row, rows in enumerate((teeth & ~lower, lower)):
            if rows.sum() < 30:
                continue
            arch = Arch.of(place[rows], upward=row == 0)
            length, bounds = arch.along(place[rows]), np.concatenate([[0], np.cumsum(WIDTHS[row])])
            number = np.sign(length) * np.interp(np.abs(length), bounds, np.arange(len(bounds)))
            height = np.abs(place[rows, 1] - arch.edge_at(place[rows]))
            behind = place[rows, 2].max() - place[rows, 2]
            kind = np.full(len(number), row)
            table[rows] = np.stack([number, height, kind, behind, arch.behind(place[rows])], 1)
        _rows[head] = table
    return _rows[head]


def _opening(head: HeadModel) -> np.ndarray:
    """(V,) bool what moves with the jaw when it opens."""
    motion = Motion({"jawOpen": np.ones(1, np.float32)}, np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32))
    open_ = head.vertices(head.motion_params(motion, head.zeros())) - head.vertices(head.zeros())
    moved = torch.linalg.norm(open_[0], dim=1).numpy()
    return moved > 0.5 * moved[head.regions["teeth"].numpy()].max(initial=0.0)


def seen_teeth(head: HeadModel, reference: Reference, front: Fragments) -> np.ndarray | None:
    """(N, 3) colours 0..1 of the pixels in which a portrait shows teeth; None where it shows none that tell anything:
    the mesh's lips part by a hair's breadth more than the person's. front: the posed mesh in the reference's camera."""
    teeth, lips = (front.of(head.faces, head.regions[name].numpy()) for name in ("teeth", "lips"))
    rows = teeth.sum(0)
    if not rows.any() or not lips.any():
        return None
    depth = float(np.median(front.depth[teeth]))
    if np.median(rows[rows > 0]) * depth / float(reference.camera.K[1, 1]) < BARED:
        return None
    color, other = (lab(reference.image[where]) for where in (teeth, lips))
    lighter, redder = (np.median(color, 0) - np.median(other, 0))[:2]
    return reference.image[teeth] if redder < -PALER or lighter > LIGHTER else None


@dataclass(frozen=True)
class Tints:
    """Colours (3,) 0..1 of front teeth and gums in a portrait's light."""

    enamel: np.ndarray
    gum: np.ndarray

    @staticmethod
    def of(tone: np.ndarray, seen: np.ndarray | None = None) -> Tints:
        """tone: (3,) the face's usual colour, which tells the light. seen: (N, 3) colours that the portrait shows of
        teeth, where it shows them."""
        # Skin may be dark in bright light, or fair in dim: teeth are between what either would make of them.
        light = float(np.clip(np.sqrt(tone @ LUMA / LUMINANCE), 0.5, 1.05))
        saturated = float(np.clip((tone.max() - tone.min()) / 0.15, 0, 1))
        enamel, gum = (light * (color @ LUMA + saturated * (color - color @ LUMA)) for color in (ENAMEL, GUM))
        if seen is not None:
            # The darker half are gums, shadows and what is between teeth.
            luma = seen @ LUMA
            enamel = np.median(seen[luma >= np.median(luma)], 0)
        return Tints(enamel, gum)


def tooth_colors(coordinates: np.ndarray, tints: Tints) -> np.ndarray:
    """(N, 3) float32 0..1 colours at `tooth_coordinates` (N, 5)."""
    number, height, behind = np.abs(coordinates[:, 0]), coordinates[:, 1], coordinates[:, 3]
    row = (coordinates[:, 2] > 0.5).astype(int)
    tooth = np.minimum(number.astype(int), WIDTHS.shape[1] - 1)
    across = np.clip(number - tooth, 0, 1)
    beside = np.minimum(across, 1 - across) * WIDTHS[row, tooth]
    crown = HEIGHTS[row, tooth] - SCALLOP * (2 * across - 1) ** 2
    gum = np.clip((height - crown) / 0.0008 + 0.5, 0, 1)[:, None]
    line = CONTACT * np.exp(-((beside / LINE) ** 2))[:, None]
    shade = np.exp(-np.maximum(behind, 0) / SHADE - np.maximum(coordinates[:, 4], 0) / INNER)[:, None]
    enamel = tints.enamel * (0.25 + 0.75 * shade) ** np.array([1.0, 1.1, 1.3]) * (1 - line * np.array([0.8, 1.0, 1.0]))
    return np.clip(enamel + gum * (tints.gum * (0.4 + 0.6 * shade) - enamel), 0, 1).astype(np.float32)
