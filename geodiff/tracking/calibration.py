"""The landmark detector's measured errors, taken off.

MediaPipe's mesh is drawn towards a mean face seen from the front: past 45 degrees it shows the far side of a face that
is not seen, past 60 its apparent yaw hardly grows, and the contour, which it draws along the outline, is no longer the
line on the skin that it is in a front view. `scripts/measure_detector.py` photographs synthetic heads whose landmarks
are known and regresses the errors on what the detector says, in bands of its apparent yaw; this module applies them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np

ASSET = Path(__file__).resolve().parents[1] / "data" / "detector.npz"
#: Apparent yaws in degrees for which corrections are measured, and the width of the Gaussian that blends them.
BANDS = np.array([0.0, 12.0, 24.0, 36.0, 48.0, 60.0])
BAND_WIDTH = 8.0
#: Profiles are those of which the network is unsure: below this score a face counts as turned further than it seems.
SURE_SCORE, PROFILE_YAW = 0.8, 60.0
#: Apparent yaws between which the correction sets in: from the front the detector is trusted as it is.
ONSET = (4.0, 20.0)
#: Landmarks without the irises.
SKIN = 468
_EYE_CORNERS = (33, 263)


@dataclass(frozen=True)
class Calibration:
    """mean: (478, 3) the detector's mean frontal face, unit size, y down. mirror: (478,) numbers on the other side.
    centre: (1434,) and basis (K, 1434): whitened principal components of what the detector says. combine:
    (bands, 3 + K, R) and modes (R, 956): correction = [1, sureness, its square, components] @ combine @ modes."""

    mean: np.ndarray
    mirror: np.ndarray
    centre: np.ndarray
    basis: np.ndarray
    combine: np.ndarray
    modes: np.ndarray

    def __call__(self, points: np.ndarray, z: np.ndarray, score: float) -> np.ndarray:
        """(478, 2) where the landmarks of a face most likely are; points: (478, 2), z: (478,), score as in `Face`."""
        seen = Seen.of(points, z, score, self)
        weights = band_weights(seen.yaw)
        correction = (np.tensordot(weights, seen.inputs(self) @ self.combine, 1) @ self.modes).reshape(-1, 2)
        correction *= np.clip((seen.yaw - ONSET[0]) / (ONSET[1] - ONSET[0]), 0.0, 1.0)
        return seen.in_image(seen.shape[:, :2] + correction, self.mirror)


@dataclass(frozen=True)
class Seen:
    """What the detector says, put into a standard frame: eyes level, unit size, turned to show the same side.

    shape: (478, 3). yaw: apparent, degrees, not negative. sureness: of the network, by its logit. turn (2, 2), middle
    (2,), size: the frame in the image. flipped: whether the face was mirrored.
    """

    shape: np.ndarray
    yaw: float
    sureness: float
    turn: np.ndarray
    middle: np.ndarray
    size: float
    flipped: bool

    @staticmethod
    def of(points: np.ndarray, z: np.ndarray, score: float, calibration: Calibration) -> Seen:
        points = np.asarray(points, np.float64)
        along = points[_EYE_CORNERS[1]] - points[_EYE_CORNERS[0]]
        c, s = along / max(float(np.linalg.norm(along)), 1e-9)
        turn = np.array([[c, s], [-s, c]])
        shape = np.column_stack([points @ turn.T, z])
        middle = shape[:SKIN].mean(0)
        shape = shape - middle
        size = max(float(np.sqrt((shape[:SKIN] ** 2).sum(1).mean())), 1e-9)
        shape /= size
        yaw = apparent_yaw(shape, calibration.mean)
        flipped = yaw < 0
        if flipped:
            shape = (shape * [-1, 1, 1])[calibration.mirror]
        unsure = 1 - min(1.0, score / SURE_SCORE)
        turned = abs(yaw) + unsure * max(PROFILE_YAW - abs(yaw), 0.0)
        inside = float(np.clip(score, 1e-4, 1 - 1e-4))
        sureness = float(np.log(inside / (1 - inside))) / 5
        return Seen(shape, turned, sureness, turn, middle[:2], size, flipped)

    def inputs(self, calibration: Calibration) -> np.ndarray:
        """(3 + K,) what the correction is linear in."""
        components = calibration.basis @ (self.shape.ravel() - calibration.centre)
        return np.concatenate([[1.0, self.sureness, self.sureness**2], components])

    def in_frame(self, points: np.ndarray, mirror: np.ndarray) -> np.ndarray:
        """(478, 2) points of the image in the standard frame."""
        framed = (points @ self.turn.T - self.middle) / self.size
        return (framed * [-1, 1])[mirror] if self.flipped else framed

    def in_image(self, framed: np.ndarray, mirror: np.ndarray) -> np.ndarray:
        """The inverse of `in_frame`."""
        framed = (framed * [-1, 1])[mirror] if self.flipped else framed
        return (framed * self.size + self.middle) @ self.turn


def apparent_yaw(shape: np.ndarray, mean: np.ndarray) -> float:
    """Degrees by which the mean face is turned onto (478, 3) landmarks (Kabsch), positive towards the image's right."""
    u, _, vt = np.linalg.svd(shape[:SKIN].T @ (mean[:SKIN] - mean[:SKIN].mean(0)))
    rotation = (u * [1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return float(np.degrees(np.arctan2(-rotation[0, 2], rotation[2, 2])))


def band_weights(yaw: float) -> np.ndarray:
    """(bands,) how much each band counts at an apparent yaw, sum 1."""
    weights = np.exp(-0.5 * ((yaw - BANDS) / BAND_WIDTH) ** 2)
    return weights / weights.sum()


@lru_cache(maxsize=1)
def load_calibration() -> Calibration | None:
    """The bundled calibration, or None where it is absent."""
    if not ASSET.is_file():
        return None
    with np.load(ASSET, allow_pickle=False) as archive:
        arrays = {f.name: archive[f.name] for f in fields(Calibration)}
    exact = {name: value.astype(np.int64 if name == "mirror" else np.float64) for name, value in arrays.items()}
    return Calibration(**exact)
