"""Rotations, projection, a smooth step, and the conventions of the whole project, stated once.

Units: metres, radians, seconds. World: y up, the face looks along +z, so the person's left is +x.
Camera: OpenCV axes (x right, y down, z forward), `viewmat` takes world to camera. Pixel centres lie at +0.5.
Normal maps: camera space with x right, y up, z towards the camera; stored as (n + 1) / 2; background is zero.
On disk, cameras are camera-to-world with OpenGL axes (x right, y up, z backward), as in VHAP.
Quaternions are wxyz.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from geodiff.types import Camera

#: Turns OpenCV camera axes into OpenGL camera axes, and back; also camera-space vectors into the axes of normal maps.
CV_GL = torch.diag(torch.tensor([1.0, -1.0, -1.0]))


def smoothstep(x: np.ndarray | float, low: float, high: float) -> np.ndarray:
    """0 below low, 1 above high, smooth between."""
    t = np.clip((np.asarray(x) - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Rodrigues' formula, smooth at zero. axis_angle: (..., 3) radians -> (..., 3, 3)."""
    squared = (axis_angle * axis_angle).sum(-1)[..., None, None]
    small = squared < 1e-8
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    sine = torch.where(small, 1.0 - squared / 6.0, torch.sin(angle) / angle)
    versine = torch.where(small, 0.5 - squared / 24.0, (1.0 - torch.cos(angle)) / safe)
    cross = skew(axis_angle)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return identity + sine * cross + versine * (cross @ cross)


def skew(v: Tensor) -> Tensor:
    """(..., 3) -> (..., 3, 3), the matrix whose product with w is the cross product of v and w."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, -1).reshape(*v.shape[:-1], 3, 3)


def quat_to_matrix(quat: Tensor) -> Tensor:
    """(..., 4) wxyz, need not be normalised -> (..., 3, 3)."""
    w, x, y, z = torch.nn.functional.normalize(quat, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(*quat.shape[:-1], 3, 3)


def matrix_to_quat(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 4) wxyz with w >= 0.

    Of the four equivalent formulas the one with the largest divisor is taken, so that it is stable everywhere.
    """
    m = matrix
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    squares = torch.stack(
        [1 + trace, 1 + 2 * m[..., 0, 0] - trace, 1 + 2 * m[..., 1, 1] - trace, 1 + 2 * m[..., 2, 2] - trace], -1
    )
    lower, upper, plus = (
        (m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]),
        (m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]),
        squares.unbind(-1),
    )
    candidates = torch.stack(
        [
            torch.stack([plus[0], lower[0], lower[1], lower[2]], -1),
            torch.stack([lower[0], plus[1], upper[0], upper[1]], -1),
            torch.stack([lower[1], upper[0], plus[2], upper[2]], -1),
            torch.stack([lower[2], upper[1], upper[2], plus[3]], -1),
        ],
        -2,
    )
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quat = torch.nn.functional.normalize(torch.gather(candidates, -2, best).squeeze(-2), dim=-1)
    return torch.where(quat[..., :1] < 0, -quat, quat)


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """The inverse of `axis_angle_to_matrix`: (..., 3, 3) -> (..., 3) radians, of length 0 to pi."""
    quat = matrix_to_quat(matrix)
    sine = torch.linalg.vector_norm(quat[..., 1:], dim=-1, keepdim=True)
    angle = 2.0 * torch.atan2(sine, quat[..., :1])
    small = sine < 1e-6
    return quat[..., 1:] * torch.where(small, 2.0 * torch.ones_like(sine), angle / torch.where(small, 1.0, sine))


def quat_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product: the rotation b, then a. (..., 4) wxyz each."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def to_camera(points: Tensor, camera: Camera) -> Tensor:
    """World points (..., 3) -> camera space (..., 3), OpenCV axes."""
    return points @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]


def project(points: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """World points (..., 3) -> pixels (..., 2) and depth (...,)."""
    local = to_camera(points, camera)
    homogeneous = local @ camera.K.T
    return homogeneous[..., :2] / homogeneous[..., 2:], local[..., 2]


def look_at(eye: Tensor, target: Tensor, up: tuple[float, float, float] = (0.0, 1.0, 0.0)) -> Tensor:
    """(4, 4) world-to-camera matrix of a camera at `eye` that looks at `target`, upright (OpenCV axes)."""
    forward = torch.nn.functional.normalize(target - eye, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor(up, dtype=eye.dtype)), dim=0)
    down = torch.linalg.cross(forward, right)
    rotation = torch.stack([right, down, forward])
    viewmat = torch.eye(4, dtype=eye.dtype)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = -rotation @ eye
    return viewmat


def orbit_camera(
    yaw: float, elevation: float, distance: float, target: Tensor, focal: float, width: int, height: int
) -> Camera:
    """A camera on a sphere around `target`.

    yaw, elevation: radians; yaw 0 sees the face from the front, positive yaw stands on the person's left (+x).
    distance: metres. focal: pixels. The principal point is the image's centre.
    """
    direction = torch.tensor(
        [math.sin(yaw) * math.cos(elevation), math.sin(elevation), math.cos(yaw) * math.cos(elevation)]
    )
    viewmat = look_at(target + distance * direction, target)
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return Camera(viewmat, K, width, height)


def cv_to_gl(viewmat: Tensor) -> Tensor:
    """World-to-camera with OpenCV axes (4, 4) -> camera-to-world with OpenGL axes (4, 4), as VHAP stores it."""
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=viewmat.dtype))
    return torch.linalg.inv(viewmat) @ flip


def gl_to_cv(transform: Tensor) -> Tensor:
    """Camera-to-world with OpenGL axes (4, 4) -> world-to-camera with OpenCV axes (4, 4)."""
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=transform.dtype))
    return torch.linalg.inv(transform @ flip)


def normals_to_map_axes(normals: Tensor, camera: Camera) -> Tensor:
    """World-space normals (..., 3) -> the axes of normal maps: x right, y up, z towards the camera."""
    flip = torch.tensor([1.0, -1.0, -1.0], dtype=normals.dtype, device=normals.device)
    return (normals @ camera.viewmat[:3, :3].T) * flip


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted vertex normals. vertices: (..., V, 3), faces: (F, 3) -> (..., V, 3), unit length."""
    a, b, c = (vertices[..., faces[:, i], :] for i in range(3))
    face_normals = torch.linalg.cross(b - a, c - a)
    normals = torch.zeros_like(vertices)
    for corner in range(3):
        normals = normals.index_add(-2, faces[:, corner], face_normals)
    return torch.nn.functional.normalize(normals, dim=-1)
