"""How far lips part: light hardly comes between lips that are nearly shut."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from geodiff.geometry import smoothstep
from geodiff.head.model import HeadModel

#: MediaPipe's numbers along the inner border of the upper lip, and those opposite to them on the lower.
UPPER, LOWER = (82, 13, 312), (87, 14, 317)
#: Metres between the lips at which a mouth begins to be lit and is, and what it keeps of its brightness before.
LIT, DARK = (0.0005, 0.0035), 0.3


@dataclass(frozen=True)
class Lips:
    """Points on the lips' inner borders: corners (2, N, 3) of the mesh's faces, and barycentrics (2, N, 3). rest:
    metres between them where the lips touch: their borders are inside."""

    corners: np.ndarray
    barycentrics: np.ndarray
    rest: float = 0.0

    @staticmethod
    def of(head: HeadModel) -> Lips | None:
        """None where the head has no such landmarks."""
        if head.landmarks is None:
            return None
        row = {int(number): n for n, number in enumerate(head.landmarks.indices.tolist())}
        if not all(number in row for number in UPPER + LOWER):
            return None
        chosen = np.array([[row[number] for number in part] for part in (UPPER, LOWER)])
        corners = head.faces.numpy()[head.landmarks.faces.numpy()[chosen]]
        lips = Lips(corners, head.landmarks.barycentrics.numpy()[chosen])
        return replace(lips, rest=lips.opening(head.vertices(head.zeros())[0].numpy()))

    def opening(self, vertices: np.ndarray) -> float:
        """Metres, at least 0, by which the lips of posed vertices (V, 3) part."""
        upper, lower = (vertices[self.corners] * self.barycentrics[..., None]).sum(2)
        return max(float(np.linalg.norm(upper - lower, axis=1).mean()) - self.rest, 0.0)

    def light(self, vertices: np.ndarray) -> float:
        """DARK..1, how bright the inside of the mouth is beside what it is when wide open."""
        return float(DARK + (1 - DARK) * smoothstep(self.opening(vertices), *LIT))
