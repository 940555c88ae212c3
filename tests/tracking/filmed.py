"""Synthetic films: landmarks of a head with known motion, and pictures of a person pasted at known places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from geodiff.geometry import project
from geodiff.head.model import HeadModel
from geodiff.tracking.footage import Footage
from geodiff.types import Camera, HeadParams

SIZE = (640, 480)
FPS = 30.0


@dataclass(frozen=True)
class Film:
    """params: the truth. camera: likewise. points: (T, 478, 2) true landmarks. noise: (T, 478, 2) pixels added to them.
    blinks: (N, 2) first frame and length of each blink."""

    params: HeadParams
    camera: Camera
    points: np.ndarray
    noise: np.ndarray
    blinks: np.ndarray

    @property
    def eyes(self) -> float:
        """Mean distance of the outer eye corners in pixels."""
        return float(np.linalg.norm(self.points[:, 33] - self.points[:, 263], axis=1).mean())

    def footage(self, shot: np.ndarray | None = None, lost: np.ndarray | None = None) -> Footage:
        points = (self.points + self.noise).astype(np.float32)
        if lost is not None:
            points[lost] = np.nan
        shot = np.zeros(len(points), np.int64) if shot is None else shot
        looks = [np.eye(1, 1024, dtype=np.float32)] * (int(shot.max()) + 1)
        return Footage(points, shot, SIZE, looks)


def film(head: HeadModel, frames: int = 150, noise: float = 0.008, seed: int = 0) -> Film:
    """A person who turns the head, talks and blinks for 3 to 5 frames at a time, filmed with 30 frames a second.

    noise: standard deviation of the landmarks' errors as a share of the distance of the outer eye corners, independent
    from frame to frame.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(frames) / FPS
    weights = {
        "jawOpen": 0.25 * (1 + np.sin(2 * np.pi * 3.1 * t)) * (0.6 + 0.4 * np.sin(2 * np.pi * 0.7 * t)),
        "mouthFunnel": 0.2 * (1 + np.sin(2 * np.pi * 2.3 * t + 1)),
        "mouthSmileLeft": 0.2 * (1 + np.sin(2 * np.pi * 0.4 * t)),
        "mouthSmileRight": 0.2 * (1 + np.sin(2 * np.pi * 0.4 * t)),
        "browInnerUp": 0.3 * (1 + np.sin(2 * np.pi * 0.3 * t + 2)),
    }
    lid, blinks = np.zeros(frames), []
    for number, first in enumerate(range(12, frames - 8, 24)):
        length = 3 + number % 3
        blinks.append((first, length))
        lid[first : first + length] = np.sin(np.pi * np.arange(1, length + 1) / (length + 1)) ** 0.7
    # Lids that meet stay where they are (`head.contact`): more than this no landmark can tell.
    weights["eyeBlinkLeft"] = weights["eyeBlinkRight"] = 0.7 * lid
    expr = np.zeros((frames, head.num_expr))
    for name, values in weights.items():
        expr[:, head.expression_names.index(name)] = values
    turn = np.stack([
        0.10 * np.sin(2 * np.pi * 1.3 * t), 0.40 * np.sin(2 * np.pi * 0.6 * t), 0.06 * np.sin(2 * np.pi * 0.8 * t + 1)
    ], 1)  # fmt: skip
    place = np.array([0.0, 0.0, -0.9]) + 0.02 * np.sin(2 * np.pi * np.outer(t, [0.5, 0.9, 0.3]))
    single = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in (
        ("expr", expr), ("rotation", turn), ("translation", place), ("shape", rng.normal(0, 0.8, head.num_shape)),
    )}  # fmt: skip
    params = head.zeros(frames).replace(**single)
    K = torch.tensor([[1000.0, 0, SIZE[0] / 2], [0, 1000.0, SIZE[1] / 2], [0, 0, 1]])
    camera = Camera(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])), K, *SIZE)
    points = project(head.landmark_points(params), camera)[0].double().numpy()
    eyes = np.linalg.norm(points[:, 33] - points[:, 263], axis=1).max()
    return Film(params, camera, points, rng.normal(0, noise * eyes, points.shape), np.array(blinks))


def jitter(values: np.ndarray) -> float:
    """Root mean square of the second differences over time (T, ...)."""
    return float(np.sqrt((np.diff(values, n=2, axis=0) ** 2).mean()))


def lag(found: np.ndarray, truth: np.ndarray, reach: int = 6) -> float:
    """By how many frames (T,) comes after the truth: the peak of the correlation, between frames by a parabola."""
    found, truth = found - found.mean(), truth - truth.mean()
    inner = truth[reach:-reach]
    scores = np.array([
        found[reach + k : len(found) - reach + k] @ inner
        / np.linalg.norm(found[reach + k : len(found) - reach + k])
        for k in range(-reach, reach + 1)
    ])  # fmt: skip
    k = int(np.clip(scores.argmax(), 1, len(scores) - 2))
    a, b, c = scores[k - 1 : k + 2]
    return k - reach + 0.5 * (a - c) / (a - 2 * b + c)
