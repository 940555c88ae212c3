"""What metrics look at: one picture, or a picture beside its truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from geodiff.head.model import HeadModel
from geodiff.metrics.checks import NotMeasured, check_pair
from geodiff.metrics.image import evaluation_mask, interior_mask
from geodiff.metrics.motion import Pose, estimate_pose
from geodiff.tracking.landmarks import detect_faces
from geodiff.types import Camera


@dataclass
class Picture:
    """A picture and what is measured on it, each only once.

    image: (H, W, 3) float32 0..1. alpha: (H, W) 0..1 foreground, or None. normals: (H, W, 3) -1..1, or None.
    """

    image: np.ndarray
    alpha: np.ndarray | None = None
    normals: np.ndarray | None = None

    def __post_init__(self) -> None:
        self._poses: dict[str, Pose] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[1], self.image.shape[0]

    @cached_property
    def bytes(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        return (np.clip(self.image, 0, 1) * 255 + 0.5).astype(np.uint8)

    @cached_property
    def landmarks(self) -> np.ndarray | None:
        """(478, 2) float32 pixels of the largest face (`geodiff.tracking.landmarks`), or None where none is found."""
        faces = detect_faces(self.bytes)
        return faces[0].points if faces else None

    def face(self, name: str) -> np.ndarray:
        """The landmarks. Raises NotMeasured where no face is found; name: which picture this is, for the reason."""
        if self.landmarks is None:
            raise NotMeasured(f"no face was found in {name}")
        return self.landmarks

    def pose(self, head: HeadModel, name: str) -> Pose:
        """Expression and pose by a fit of `head` to the landmarks. Raises NotMeasured where no face is found."""
        if head.hash not in self._poses:
            self._poses[head.hash] = estimate_pose(self.face(name), self.size, head)
        return self._poses[head.hash]


@dataclass
class Pair:
    """One frame that is measured beside the true one. t, c: its timestep and camera.

    Raises ValueError when the two pictures differ in size or hold values that are not finite.
    """

    result: Picture
    truth: Picture
    t: int = 0
    c: int = 0
    camera: Camera | None = None

    def __post_init__(self) -> None:
        check_pair(self.result.image, self.truth.image)

    @property
    def matte(self) -> np.ndarray:
        """(H, W) the true foreground. Raises NotMeasured where it is unknown or empty."""
        if self.truth.alpha is None:
            raise NotMeasured("the truth has no foreground masks")
        if not (self.truth.alpha > 0.5).any():
            raise NotMeasured("the true foreground mask is empty")
        return self.truth.alpha

    @cached_property
    def region(self) -> np.ndarray:
        """(H, W) bool: the true matte dilated by 2% of the side."""
        return evaluation_mask(self.matte)

    @cached_property
    def interior(self) -> np.ndarray:
        """(H, W) bool: the true matte eroded by 2% of the side. Raises NotMeasured where nothing is left of it."""
        inside = interior_mask(self.matte)
        if not inside.any():
            raise NotMeasured("the true foreground is too thin to have an inside")
        return inside
