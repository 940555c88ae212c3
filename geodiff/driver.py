"""The driver: a fixed, textured head whose frontal face crops show an expression to the expression encoder.

A driving video gives the encoder face crops of a person. Motions that are only numbers (built-in motions, parameter
files) have no pictures, so they are put on this head and rendered. Training shows the encoder other faces: crops of
synthetic people on white, from views within about 30 degrees of the front. The driver's crops are framed like them, but
its one face is new to the encoder, as a filmed face is.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from torch import Tensor

from geodiff.conditioning import face_camera, framed_camera, head_frame
from geodiff.geometry import vertex_normals
from geodiff.head.model import JOINTS, HeadModel
from geodiff.raster import mesh
from geodiff.types import Camera, HeadParams

#: Side of a face crop in pixels, as the expression encoder takes it.
CROP_SIZE = 64

_SKIN = (0.78, 0.58, 0.48)
_COLOURS = {
    "scalp": (0.16, 0.11, 0.08),
    "lips": (0.62, 0.25, 0.25),
    "mouth_interior": (0.30, 0.08, 0.08),
    "teeth": (0.92, 0.90, 0.84),
    "eyeballs": (0.93, 0.93, 0.92),
}
#: Half opening angles of the iris and of the pupil as seen from the eyeball's centre, radians.
_IRIS, _PUPIL = math.radians(29.0), math.radians(12.0)
_LIGHT = (-0.25, 0.45, 0.85)
#: MediaPipe's numbers of the brow landmarks, both sides.
_BROWS = (70, 63, 105, 66, 107, 46, 53, 52, 65, 55, 300, 293, 334, 296, 336, 276, 283, 282, 295, 285)


class Driver:
    """Renders frontal face crops of one fixed head with a fixed texture."""

    def __init__(self, head: HeadModel) -> None:
        self.head = head
        self.colors = _vertex_colors(head)

    def crops(self, params: HeadParams, size: int = CROP_SIZE, supersample: int = 2) -> np.ndarray:
        """Frontal crops of T expressions.

        params: the driving parameters on this driver's head; only expression, jaw and gaze are used.
        Returns (T, size, size, 3) float32 in 0..1.
        """
        still = self.head.zeros(params.num_frames).replace(
            expr=params.expr, jaw_pose=params.jaw_pose, eyes_pose=params.eyes_pose
        )
        large = size * supersample
        neutral = self.head.zeros()
        frontal = framed_camera(head_frame(self.head, neutral), 0.0, 0.0, 1.0, large)
        camera = face_camera(self.head, neutral, frontal, large)
        crops = []
        for vertices in self.head.vertices(still):
            image = self._shade(vertices, camera)
            crops.append(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA))
        return np.stack(crops)

    def _shade(self, vertices: Tensor, camera: Camera) -> np.ndarray:
        fragments = mesh.rasterize(vertices, self.head.faces, camera)
        normals = vertex_normals(vertices, self.head.faces).numpy()
        light = np.array(_LIGHT, np.float32) / np.linalg.norm(_LIGHT)
        shade = 0.45 + 0.6 * np.clip(normals @ light, 0.0, 1.0)
        lit = (self.colors * shade[:, None]).astype(np.float32)
        image = mesh.interpolate(fragments, self.head.faces, lit)
        image[fragments.face < 0] = 1.0
        return np.clip(image, 0.0, 1.0)


def _vertex_colors(head: HeadModel) -> np.ndarray:
    """(V, 3) colours in 0..1 painted by region, with brows from the landmarks and irises from the eyeballs' axes."""
    colors = np.tile(np.array(_SKIN, np.float32), (head.num_vertices, 1))
    template = head.template.numpy()
    if head.landmarks is not None:
        points = head.landmarks.points(head.template, head.faces).numpy()
        brow = points[np.isin(head.landmarks.indices.numpy(), _BROWS)]
        if len(brow):
            near = np.linalg.norm(template[:, None] - brow[None], axis=-1).min(1) < 0.0045
            colors[near] = (0.20, 0.13, 0.09)
    for region, colour in _COLOURS.items():
        colors[head.regions[region].numpy()] = colour
    joints = head.joint_regressor @ head.template
    eyeballs = head.regions["eyeballs"].numpy()
    for joint in ("left_eye", "right_eye"):
        centre = joints[JOINTS.index(joint)].numpy()
        offset = template - centre
        angle = np.arccos(np.clip(offset[:, 2] / np.maximum(np.linalg.norm(offset, axis=1), 1e-9), -1.0, 1.0))
        near = eyeballs & (np.linalg.norm(offset, axis=1) < 0.025)
        colors[near & (angle < _IRIS)] = (0.30, 0.20, 0.12)
        colors[near & (angle < _PUPIL)] = (0.03, 0.03, 0.03)
    return colors
