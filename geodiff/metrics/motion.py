"""Agreement of motion: distances of facial landmarks, expression and head pose as a tracker sees them.

Landmarks are MediaPipe's (`geodiff.tracking.landmarks`), expression and pose those of `geodiff.tracking.fit` on each
picture alone. The papers use other detectors (Bulat and Tzimiropoulos 2017) and estimators (Deng et al. 2019), and do
not say how they scale pixels: figures compare methods measured here, not with a paper's table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from geodiff.head.model import HeadModel
from geodiff.metrics.checks import NotMeasured
from geodiff.tracking.fit import fit_landmarks
from geodiff.tracking.groups import INNER_FACE, INNER_LIPS, OUTER_LIPS, OVAL

#: Landmark distances are given in pixels of an image whose longer side is this, the size of the papers' frames.
REFERENCE_SIDE = 512
#: The 68 points of the iBUG annotation (jaw line, brows, nose, eyes, outer and inner lips) in MediaPipe's numbers.
KEYPOINTS = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
#: Contour, brows, eyes, nose and lips.
FACE = tuple(sorted({*INNER_FACE, *OVAL}))
MOUTH = tuple(sorted({*OUTER_LIPS, *INNER_LIPS}))


@dataclass(frozen=True)
class Pose:
    """expression: (E,) coefficients and the jaw's rotation, radians. angles: (3,) pitch, yaw, roll, radians."""

    expression: np.ndarray
    angles: np.ndarray


def estimate_pose(points: np.ndarray, size: tuple[int, int], head: HeadModel) -> Pose:
    """Fits a head to the landmarks (478, 2) of one picture. size: width and height in pixels."""
    params = fit_landmarks(points, size, head).params
    rotation = Rotation.from_rotvec(params.rotation[0].numpy())
    if np.abs(params.neck_pose.numpy()).any():
        rotation = rotation * Rotation.from_rotvec(params.neck_pose[0].numpy())
    # Intrinsic yaw, pitch, roll: turned far to a side, a head still has the yaw that one would name.
    yaw, pitch, roll = rotation.as_euler("YXZ")
    expression = np.concatenate([params.expr[0].numpy(), params.jaw_pose[0].numpy()])
    return Pose(expression.astype(np.float64), np.array([pitch, yaw, roll]))


def landmark_distance(
    points: np.ndarray, truth: np.ndarray, side: float, chosen: tuple[int, ...] | None = None
) -> float:
    """Mean Euclidean distance of landmarks in pixels of an image of side 512.

    points, truth: (K, 2) pixels. side: longer side of the image that they are measured in, pixels. chosen: numbers of
    the landmarks that count, or all. Raises ValueError for other shapes and values that are not finite.
    """
    if points.shape != truth.shape or points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"landmarks must have one shape (K, 2), found {points.shape} and {truth.shape}")
    if not (np.isfinite(points).all() and np.isfinite(truth).all()) or not side > 0:
        raise ValueError(f"landmarks must be finite and the side above 0, found NaN or infinity or the side {side}")
    index = np.arange(len(points)) if chosen is None else np.asarray(chosen)
    distances = np.linalg.norm(points[index].astype(np.float64) - truth[index], axis=1)
    return float(distances.mean() * REFERENCE_SIDE / side)


def akd(points: np.ndarray, truth: np.ndarray, side: float) -> float:
    """Average keypoint distance: mean Euclidean distance of 68 facial keypoints (SplitAvatar, appendix A.2; GeoDiff4D,
    section 5.1; FlexAvatar, section 4).

    points, truth: (478, 2) pixels of an image of longer side `side`; the unit is a pixel at 512.
    """
    return landmark_distance(points, truth, side, KEYPOINTS)


def flmd(points: np.ndarray, truth: np.ndarray, side: float) -> float:
    """Facial landmark mean distance (RAR, "Evaluation Metrics"): contour, brows, eyes, nose and lips. As `akd`."""
    return landmark_distance(points, truth, side, FACE)


def mlmd(points: np.ndarray, truth: np.ndarray, side: float) -> float:
    """Mouth landmark mean distance (RAR, "Evaluation Metrics"): both contours of the lips. As `akd`."""
    return landmark_distance(points, truth, side, MOUTH)


def aed(pose: Pose, truth: Pose) -> float:
    """Average expression distance: mean absolute difference of the expression coefficients (SplitAvatar, appendix
    A.2)."""
    return _mean_absolute(pose.expression, truth.expression)


def apd(pose: Pose, truth: Pose) -> float:
    """Average pose distance: mean absolute difference of pitch, yaw and roll in radians (SplitAvatar, appendix A.2).

    Translation is left out: a single picture does not tell it from the focal length.
    """
    turn = pose.angles - truth.angles
    return _mean_absolute((turn + np.pi) % (2 * np.pi), np.full(3, np.pi))


def aec(pose: Pose, truth: Pose) -> float:
    """Average expression cosine, -1..1: cosine similarity of the expression coefficients (RAR, "Evaluation Metrics").

    Raises NotMeasured when either expression is neutral, which has no direction.
    """
    return cosine(pose.expression, truth.expression, "an expression is neutral, and its cosine is undefined")


def apc(pose: Pose, truth: Pose) -> float:
    """Average pose cosine, -1..1: cosine similarity of pitch, yaw and roll (RAR, "Evaluation Metrics").

    Says little about heads that look straight ahead, where small errors turn the vector; APD does not suffer from it.
    Raises NotMeasured when either head is turned by less than half a degree.
    """
    if min(np.linalg.norm(pose.angles), np.linalg.norm(truth.angles)) < np.radians(0.5):
        raise NotMeasured("a head looks straight ahead, and the cosine of its pose is undefined")
    return cosine(pose.angles, truth.angles, "")


def cosine(a: np.ndarray, b: np.ndarray, undefined: str) -> float:
    """Cosine of the angle between two vectors of one length. Raises NotMeasured(undefined) when one is zero."""
    _check_vectors(a, b)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if lengths < 1e-12:
        raise NotMeasured(undefined)
    return float(np.clip(a @ b / lengths, -1.0, 1.0))


def _mean_absolute(a: np.ndarray, b: np.ndarray) -> float:
    _check_vectors(a, b)
    return float(np.abs(a - b).mean())


def _check_vectors(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"coefficients must be vectors of one length, found {a.shape} and {b.shape}: use one head")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("coefficients must be finite, found NaN or infinity: track the picture again")
