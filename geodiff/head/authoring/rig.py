"""Joints, skinning weights and region masks of the head."""

from __future__ import annotations

import numpy as np

from geodiff.geometry import smoothstep
from geodiff.head.authoring.landmarks import Landmarks
from geodiff.head.authoring.parts import RigidMotion, best_rigid
from geodiff.head.authoring.skin import Skin

#: Rest positions of root and neck in head axes, metres; jaw and eyes are measured.
ROOT = np.array([0.0, -0.135, -0.030])
NECK = np.array([0.0, -0.055, -0.022])


def jaw_motion(landmarks: Landmarks, name: str) -> RigidMotion | None:
    """Rigid motion of the lower teeth under an expression; None where they hardly move (under half a millimetre)."""
    members = landmarks.find("tooth_lower")
    move = landmarks.expression[landmarks.expression_names.index(name)][members]
    if np.linalg.norm(move, axis=1).max() < 5e-4:
        return None
    return best_rigid(landmarks.mean[members], landmarks.mean[members] + move)


def jaw_hinge(landmarks: Landmarks) -> np.ndarray:
    """(3,) the point of the midline plane that jawOpen turns about: the fixed point of its rigid motion."""
    motion = jaw_motion(landmarks, "jawOpen")
    assert motion is not None
    system = (np.eye(3) - motion.rotation)[1:, 1:]
    return np.r_[0.0, np.linalg.solve(system, motion.translation[1:])]


def skin_jaw_share(landmarks: Landmarks, skin: Skin) -> np.ndarray:
    """(V,) share of the jaw's motion, 0..1: the part of jawOpen's rigid motion that the landmarks make, spread out."""
    motion = jaw_motion(landmarks, "jawOpen")
    assert motion is not None
    rigid = motion.displacement(landmarks.mean)
    seen = landmarks.expression[landmarks.expression_names.index("jawOpen")]
    size = (rigid**2).sum(1)
    share = np.where(size > 1e-5, (rigid * seen).sum(1) / np.maximum(size, 1e-5), 0.0)
    return smoothstep(skin.operator @ np.clip(share, 0, 1), 0.03, 0.97)


def head_share(vertices: np.ndarray) -> np.ndarray:
    """(V,) 0..1: what turns with the neck joint. The transition runs down the neck, higher behind than in front."""
    height = vertices[:, 1] + 0.25 * (vertices[:, 2] - 0.02)
    return smoothstep(height, -0.150, -0.062)


def affine_regressor(vertices: np.ndarray, members: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(V,) least-norm weights over some vertices that sum to one and give the target (3,)."""
    points = vertices[members]
    middle = points.mean(0)
    spread = np.c_[(points - middle) * 10, np.ones(len(members))]
    weights = np.linalg.lstsq(spread.T, np.r_[(target - middle) * 10, 1.0], rcond=None)[0]
    row = np.zeros(len(vertices))
    row[members] = weights
    return row


def skin_regions(landmarks: Landmarks, skin: Skin) -> dict[str, np.ndarray]:
    """Masks (V,) of the skin's own regions: face with lips and eyes in it, scalp, ears, neck."""
    x, y, z = skin.vertices.T
    rim_distance = {
        side: np.linalg.norm(skin.vertices[:, None] - skin.vertices[skin.rims[f"eye_{side}"]][None], axis=-1).min(1)
        for side in ("left", "right")
    }
    eyes = (rim_distance["left"] < 0.011) | (rim_distance["right"] < 0.011)
    lips = np.zeros(len(skin.vertices), bool)
    lips[np.concatenate(skin.rings["mouth"])] = True
    is_ear = np.zeros(len(landmarks.names))
    is_ear[landmarks.find("ear")] = 1.0
    earlike = skin.operator @ is_ear
    # The canal lies deep, but is surrounded by ear alone.
    ears = (earlike > 0.6) & ((np.abs(x) > 0.070) | (earlike > 0.9)) & (z < 0.026)
    hairline = np.interp(z, [-0.10, -0.05, 0.00, 0.03, 0.06, 0.10], [-0.050, -0.045, 0.000, 0.045, 0.070, 0.080])
    scalp = (y > hairline) & ~ears
    jaw = np.interp(z, [-0.10, -0.03, 0.01, 0.045, 0.085, 0.11], [-0.050, -0.045, -0.035, -0.070, -0.090, -0.092])
    neck = (y < jaw) & ~scalp & ~ears
    face = ~(scalp | neck | ears) & (z > 0.0)
    neck |= ~(scalp | ears | face)
    return {"face": face, "lips": lips, "eyes": eyes & face, "scalp": scalp, "ears": ears, "neck": neck}
