"""The one crop rule, for generated, reference and true frames alike.

Square, centred on the fitted head, chin to crown `CHIN_TO_CROWN` of its side (the 3D height of the neutral shaped head,
projected at the depth of the head's centre), upright in the image; the camera's intrinsics change accordingly.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from geodiff.geometry import orbit_camera
from geodiff.head.model import HeadModel
from geodiff.types import Camera, HeadParams

#: Chin to crown as a share of the crop's side.
CHIN_TO_CROWN = 0.6

#: The face's diameter as a share of a face crop's side.
FACE_SHARE = 0.95

#: Yaw and elevation in degrees of the twelve views that clip sets are made of and training draws half of its targets
#: near (GeoDiff4D, supplement A.1, takes twelve cameras of NeRSemble).
VIEWPOINT_DEGREES = (
    (0, 0), (25, 0), (-25, 0), (50, 0), (-50, 0), (75, 0), (-75, 0), (-35, 20), (0, 20), (35, 20),
    (-20, -15), (20, -15),
)  # fmt: skip

#: MediaPipe's number of the lowest point of the chin.
CHIN_LANDMARK = 152


@dataclass(frozen=True)
class HeadFrame:
    """Where the neutral, unposed, shaped head is: center (3,) metres, height chin to crown in metres."""

    center: Tensor
    height: float

    def distance(self, camera: Camera) -> float:
        """Metres from the camera to the head's centre, for cameras in the canonical head's world."""
        return float(torch.linalg.norm(camera.center - self.center))


def head_frame(head: HeadModel, params: HeadParams) -> HeadFrame:
    """The frame of the head with the identity of `params`; expression, pose and static offsets do not matter."""
    shaped = head.shaped(params.frame(0), expression=False, offsets=False)[0]
    regions = head.regions
    skull = regions["face"] | regions["scalp"] | regions["ears"]
    crown = float(shaped[skull, 1].max())
    chin = _chin_height(head, shaped)
    kept = shaped[skull & (shaped[:, 1] >= chin)]
    low, high = kept.min(0).values, kept.max(0).values
    center = (low + high) / 2
    center[1] = (chin + crown) / 2
    return HeadFrame(center, crown - chin)


def _chin_height(head: HeadModel, shaped: Tensor) -> float:
    marks = head.landmarks
    if marks is not None:
        found = (marks.indices == CHIN_LANDMARK).nonzero()
        if len(found):
            row = int(found[0, 0])
            corners = shaped[head.faces[marks.faces[row]]]
            return float((corners * marks.barycentrics[row, :, None]).sum(0)[1])
    face = head.regions["face"] & ~head.regions["neck"]
    return float(shaped[face, 1].min())


def posed_center(head: HeadModel, params: HeadParams, frame: HeadFrame) -> tuple[Tensor, Tensor]:
    """World position (3,) of the head's centre and the head's up axis (3,) under the pose of frame 0."""
    neck = head.joint_transforms(params.frame(0))[0, 1]
    return neck[:3, :3] @ frame.center + neck[:3, 3], neck[:3, 1]


def framed_camera(frame: HeadFrame, yaw: float, elevation: float, distance: float, size: int) -> Camera:
    """The camera of a generated view under the crop rule.

    yaw, elevation: radians, as `geometry.orbit_camera`. distance: metres from the head's centre. size: pixels.
    """
    focal = CHIN_TO_CROWN * size * distance / frame.height
    return orbit_camera(yaw, elevation, distance, frame.center, focal, size, size)


def crop_camera(
    camera: Camera, center: Tensor, up: Tensor, height: float, size: int, share: float = CHIN_TO_CROWN
) -> Camera:
    """`camera` turned upright about its optical axis and cropped to a head, or to another thing `height` metres tall.

    center: (3,) world position of its centre. up: (3,) its up axis in the world. share: of the side that it fills.
    """
    axis = camera.viewmat[:3, :3] @ up
    roll = torch.atan2(axis[0], -axis[1])
    turn = torch.eye(4, dtype=camera.viewmat.dtype)
    turn[0, 0] = turn[1, 1] = torch.cos(roll)
    turn[0, 1], turn[1, 0] = torch.sin(roll), -torch.sin(roll)
    viewmat = turn @ camera.viewmat
    local = viewmat[:3, :3] @ center + viewmat[:3, 3]
    focal = share * size * local[2] / height
    K = torch.eye(3, dtype=camera.K.dtype)
    K[0, 0] = K[1, 1] = focal
    K[:2, 2] = size / 2 - focal * local[:2] / local[2]
    return Camera(viewmat, K, size, size)


def face_camera(head: HeadModel, params: HeadParams, camera: Camera, size: int = 64) -> Camera:
    """`camera` cropped to the face and turned upright, for the expression encoder's crops; see `resample`.

    The crop depends on identity and head pose alone, never on the expression, so that it carries none.
    params: T = 1. size: pixels.
    """
    params = params.frame(0)
    posed = ("expr", "rotation", "translation", "neck_pose", "jaw_pose", "eyes_pose")
    still = params.replace(**{name: getattr(params, name) * 0.0 for name in posed})
    if head.landmarks is not None:
        points = head.landmark_points(still)[0]
    else:
        points = head.vertices(still, offsets=False)[0][head.regions["face"]]
    center = (points.min(0).values + points.max(0).values) / 2
    # On the front of the face rather than inside the head, so that the face stays in the middle as the head turns.
    center[2] = points[:, 2].quantile(0.7)
    radius = float(torch.linalg.norm(points[:, :2] - center[:2], dim=-1).max())
    neck = head.joint_transforms(params)[0, 1]
    return crop_camera(camera, neck[:3, :3] @ center + neck[:3, 3], neck[:3, 1], 2.0 * radius, size, share=FACE_SHARE)


def warp_between(source: Camera, target: Camera) -> np.ndarray:
    """(3, 3) that takes pixels of `source` to those of `target`, a camera at the same place that looks the same way up
    to roll."""
    turn = (target.viewmat @ torch.linalg.inv(source.viewmat))[:3, :3]
    warp = (target.K @ turn @ torch.linalg.inv(source.K)).double().numpy()
    return warp / warp[2, 2]


def resample(
    image: np.ndarray, source: Camera, target: Camera, border: float = 0.0, interpolation: int = cv2.INTER_LINEAR
) -> np.ndarray:
    """An image seen by `source`, resampled to `target`, a camera at the same place that looks the same way up to roll.

    image: (H, W) or (H, W, C) of any type. border: value outside the image. Shrinking is anti-aliased.
    """
    warp = warp_between(source, target)
    zoom = float(np.sqrt(abs(np.linalg.det(warp[:2, :2]))))
    fold = int(min(np.ceil(1.0 / max(zoom, 1e-6) - 1e-3), max(1, 4096 // max(target.width, target.height))))
    fold = max(fold, 1)
    scale = np.diag([fold, fold, 1.0])
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    affine = (np.linalg.inv(half) @ scale @ warp @ half)[:2]
    values = (border,) * 4
    size = (target.width * fold, target.height * fold)
    out = cv2.warpAffine(image, affine, size, flags=interpolation, borderMode=cv2.BORDER_CONSTANT, borderValue=values)
    if fold > 1:
        out = cv2.resize(out, (target.width, target.height), interpolation=cv2.INTER_AREA)
    return out
