"""A stage with actors in place of a detector: frames say by their first pixel which they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from geodiff.tracking import follow
from geodiff.tracking.landmarks import Face


@dataclass(frozen=True)
class Actor:
    """Somebody in a frame: who, where the middle of the face is, and how large it is, in pixels."""

    who: int
    x: float
    y: float = 60.0
    size: float = 40.0

    def face(self) -> Face:
        rng = np.random.default_rng(0)
        points = rng.uniform(-0.5, 0.5, (478, 2))
        points[:4] = [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
        points[33], points[263] = [-0.3, -0.2], [0.3, -0.2]
        points = np.array([self.x, self.y]) + self.size * points
        return Face(points.astype(np.float32), np.zeros(478, np.float32), follow.box_of(points))


class Stage:
    """Actors by frame, and the colour scheme of each frame's background."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, actors: list[list[Actor]], scenery: list[int]) -> None:
        self.actors, self.scenery, self.searches, self.measured = actors, scenery, 0, 0
        monkeypatch.setattr(follow, "detect_faces", self._detect)
        monkeypatch.setattr(follow, "LandmarkTracker", lambda last: lambda frame: self._nearest(frame, last))
        monkeypatch.setattr(follow, "look", self._look)

    def __len__(self) -> int:
        return len(self.actors)

    def frames(self, stop: int | None = None) -> Iterator[np.ndarray]:
        for number in range(len(self))[:stop]:
            yield self.frame(number)

    def frame(self, number: int) -> np.ndarray:
        coarse = np.random.default_rng(self.scenery[number]).uniform(0, 255, (6, 8, 3))
        frame = np.kron(coarse, np.ones((20, 20, 1))).astype(np.uint8)
        frame[0, 0] = number
        return frame

    def _present(self, frame: np.ndarray) -> list[Actor]:
        return self.actors[int(frame[0, 0, 0])]

    def _detect(self, frame: np.ndarray) -> list[Face]:
        self.searches += 1
        return sorted((actor.face() for actor in self._present(frame)), key=lambda face: -face.size)

    def _nearest(self, frame: np.ndarray, last: Face) -> Face | None:
        self.measured += 1
        faces = [actor.face() for actor in self._present(frame)]
        middle = (last.box[:2] + last.box[2:]) / 2
        return min(faces, key=lambda f: float(np.linalg.norm((f.box[:2] + f.box[2:]) / 2 - middle)), default=None)

    def _look(self, frame: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Everybody looks like themselves, and a little like anybody."""
        middle = points[:4].mean(0)
        who = min(self._present(frame), key=lambda a: float(np.hypot(a.x - middle[0], a.y - middle[1]))).who
        picture = np.zeros(1024, np.float32)
        picture[0], picture[1 + who] = np.sqrt(0.3), np.sqrt(0.7)
        return picture
