"""A motion at another frame rate."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from geodiff.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from geodiff.types import Camera, Drive

#: Fields of `HeadParams` that are axis-angle rotations, three numbers each.
_TURNS = ("rotation", "neck_pose", "jaw_pose", "eyes_pose")
_STRAIGHT = ("expr", "translation")


def at_rate(drive: Drive, fps: float) -> Drive:
    """The same motion, as long, at `fps` frames a second: rotations on the shortest arc, the rest on straight lines."""
    if abs(drive.fps - fps) < 1e-6 * fps:
        return drive
    low, share = _places(drive.num_frames, drive.fps, fps)
    params = drive.params
    changes: dict[str, Tensor | None] = {name: _line(getattr(params, name), low, share) for name in _STRAIGHT}
    changes.update({name: _arc(getattr(params, name), low, share) for name in _TURNS})
    codes = {name: _line(code, low, share) for name, code in drive.codes.items()}
    return Drive(params.replace(**changes), codes, fps)


def cameras_at_rate(cameras: list[Camera], frames: int, fps: float, wanted: float) -> list[Camera]:
    """Cameras of `frames` frames at another rate. A single camera stands still."""
    if len(cameras) == 1 or abs(fps - wanted) < 1e-6 * wanted:
        return cameras
    low, share = _places(frames, fps, wanted)
    poses = torch.stack([torch.linalg.inv(camera.viewmat.double()) for camera in cameras])
    turns = _arc(matrix_to_axis_angle(poses[:, :3, :3]), low, share)
    moved = torch.eye(4, dtype=torch.float64).repeat(len(low), 1, 1)
    moved[:, :3, :3], moved[:, :3, 3] = axis_angle_to_matrix(turns), _line(poses[:, :3, 3], low, share)
    Ks = _line(torch.stack([camera.K for camera in cameras]), low, share)
    views = torch.linalg.inv(moved).float()
    return [replace(cameras[int(i)], viewmat=view, K=K) for i, view, K in zip(low, views, Ks, strict=True)]


def _places(frames: int, fps: float, wanted: float) -> tuple[Tensor, Tensor]:
    """For each new frame the old one before it, and the share of the way to the next."""
    count = max(1, round(frames / fps * wanted))
    place = (torch.arange(count, dtype=torch.float64) * fps / wanted).clamp(max=frames - 1)
    low = place.floor().long().clamp(max=max(0, frames - 2))
    return low, place - low


def _line(values: Tensor, low: Tensor, share: Tensor) -> Tensor:
    """values: (T, ...)."""
    following = (low + 1).clamp(max=len(values) - 1)
    weight = share.view(-1, *[1] * (values.ndim - 1)).to(values.dtype)
    return values[low] + weight * (values[following] - values[low])


def _arc(values: Tensor, low: Tensor, share: Tensor) -> Tensor:
    """values: (T, 3 n) axis-angle."""
    turns = axis_angle_to_matrix(values.double().reshape(len(values), -1, 3))
    start, end = turns[low], turns[(low + 1).clamp(max=len(turns) - 1)]
    step = matrix_to_axis_angle(start.transpose(-1, -2) @ end) * share.view(-1, 1, 1)
    between = matrix_to_axis_angle(start @ axis_angle_to_matrix(step))
    return between.reshape(len(low), -1).to(values.dtype)
