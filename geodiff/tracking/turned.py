"""Rotations of heads that were seen by something else than their landmarks: a second witness for the fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from geodiff.tracking.face_model import FrameStates


@dataclass(frozen=True)
class Turned:
    """How heads were seen to be turned by something else than landmarks.

    rotations: (T, 3, 3) from the tracking head's rest pose to x right, y up, z towards the viewer, as seen along the
    rays through middles (T, 2) of the picture. spread: (T,) radians by which such rotations usually err.
    """

    rotations: np.ndarray
    middles: np.ndarray
    spread: np.ndarray

    def apart(self, states: FrameStates, log_focal: float, middle: np.ndarray) -> np.ndarray:
        """(T, 3) axis-angle by which heads would have to be turned further to be turned as they were seen."""
        aside = (self.middles - middle) * [1, -1] / np.exp(log_focal)
        length = np.linalg.norm(aside, axis=1, keepdims=True)
        # The smallest rotations from the optical axis to the rays.
        axes = np.stack([aside[:, 1], -aside[:, 0], 0 * aside[:, 0]], 1) / np.maximum(length, 1e-12)
        rays = Rotation.from_rotvec(np.arctan(length) * axes).as_matrix()
        return Rotation.from_matrix(rays @ self.rotations @ states.rotation.transpose(0, 2, 1)).as_rotvec()
