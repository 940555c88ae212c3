"""Synthetic photographs of known heads: what a tracker is measured on.

A person, an expression, a distance and a lens are drawn from a seed; the same person is then seen at any head angle,
before a plain background, with a photograph's blur, grain and compression.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from geodiff.conditioning import head_frame
from geodiff.conditioning.noise import fractal_noise
from geodiff.geometry import orbit_camera
from geodiff.head.model import HeadModel
from geodiff.synth.motion import BLINK, random_expressions, shut_smile
from geodiff.synth.subject import Subject
from geodiff.types import Camera, HeadParams, Motion


@dataclass(frozen=True)
class PortraitConfig:
    """size: side of the square image, pixels. distance: nearest and farthest camera, metres (uniform in logarithms).
    chin_to_crown: range of the head's height as a share of the side. pitch, roll: standard deviations in degrees.
    open_mouths, closed_eyes, smiles: shares of the people whose mouth is wide open, whose eyes are shut, and who show
    their shut teeth in a smile and do nothing else. texture: side of the painted skin in pixels."""

    size: int = 512
    distance: tuple[float, float] = (0.5, 2.0)
    chin_to_crown: tuple[float, float] = (0.4, 0.65)
    pitch: float = 8.0
    roll: float = 8.0
    open_mouths: float = 0.2
    closed_eyes: float = 0.15
    smiles: float = 0.0
    texture: int = 1024


@dataclass(frozen=True)
class SyntheticPortrait:
    """image: (H, W, 3) uint8 RGB. mask: (H, W) 0..1. params: of the true head, at rest in the world. camera: where it
    was seen from. yaw: degrees by which the head is turned away from the camera."""

    image: np.ndarray
    mask: np.ndarray
    params: HeadParams
    camera: Camera
    yaw: float


class Sitter:
    """One person in one expression who can be photographed at any head angle; the same for the same seed."""

    def __init__(self, head: HeadModel, seed: int, config: PortraitConfig | None = None) -> None:
        self.config = config or PortraitConfig()
        self.seed = seed
        rng = np.random.default_rng([seed, 7])
        self.subject = Subject(head, seed, texture_size=self.config.texture, natural=True)
        self.frame = head_frame(head, self.subject.params)
        self.change_expression(rng)
        self.change_lens(rng)

    def change_expression(self, rng: np.random.Generator) -> None:
        """Another expression, in the subject's present light."""
        self.params = self._expression(rng)
        self._posed = self.subject.pose(self.params)

    def change_lens(self, rng: np.random.Generator) -> None:
        """Another distance in metres, and a lens under which the head fills its share of the picture."""
        low, high = np.log(self.config.distance)
        self.distance = float(np.exp(rng.uniform(low, high)))
        share = rng.uniform(*self.config.chin_to_crown)
        self.focal = share * self.config.size * self.distance / self.frame.height

    def _expression(self, rng: np.random.Generator) -> HeadParams:
        head = self.subject.head
        motion = random_expressions(rng, 1)
        draw = rng.random(3)
        if draw[0] < self.config.open_mouths:
            motion.weights["jawOpen"] = np.array([rng.uniform(0.5, 1.0)], np.float32)
        for name in BLINK:
            if draw[1] < self.config.closed_eyes:
                motion.weights[name] = np.array([rng.uniform(0.85, 1.0)], np.float32)
        if self.config.smiles > 0 and rng.random() < self.config.smiles:
            smile = {name: np.array([weight], np.float32) for name, weight in shut_smile(rng).items()}
            motion = Motion(smile, motion.rotation, motion.gaze)
        return head.motion_params(motion, self.subject.params)

    def photograph(self, yaw: float) -> SyntheticPortrait:
        """The person with the head turned by `yaw` degrees (positive shows its left side), a little pitched, rolled
        and off the middle."""
        c = self.config
        rng = np.random.default_rng([self.seed, 11, int(round(yaw * 10)) + 3600])
        pitch, roll = np.clip(rng.normal(0, [c.pitch, c.roll]), -25, 25)
        camera = orbit_camera(
            math.radians(yaw), math.radians(pitch), self.distance, self.frame.center, self.focal, c.size, c.size
        )
        # A small turn of the camera moves the head in the picture, as in a photograph that is not centred on it.
        aside = rng.uniform(-0.08, 0.08, 2) * c.size / self.focal
        camera = rolled(camera, math.radians(roll), aside)
        frame = self.subject.render(self._posed, camera)
        return SyntheticPortrait(develop(frame.image, frame.mask, rng), frame.mask, self.params, camera, yaw)


def rolled(camera: Camera, roll: float, aside: np.ndarray) -> Camera:
    """The camera turned about its optical axis by `roll`, then to the side and up by `aside` (2,); radians."""
    turn = Rotation.from_euler("zyx", [roll, aside[0], aside[1]]).as_matrix()
    viewmat = torch.eye(4)
    viewmat[:3, :3] = torch.as_tensor(turn, dtype=torch.float32)
    return Camera(viewmat @ camera.viewmat, camera.K, camera.width, camera.height)


def develop(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square frame (S, S, 3) 0..1 on white with its mask (S, S) -> a photograph before a wall, (S, S, 3) uint8."""
    alpha = mask[..., None]
    return _photographic(image - (1 - alpha) + (1 - alpha) * _background(len(image), rng), rng)


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) a wall out of focus."""
    grid = np.linspace(0, 1, 32)
    places = np.stack([*np.meshgrid(grid, grid), np.zeros((32, 32))], -1).reshape(-1, 3)
    base = rng.uniform(0.15, 0.85, 3) * 0.4 + rng.uniform(0.15, 0.85) * 0.6
    noise = [fractal_noise(places, 0.7, 2, int(rng.integers(1 << 30))).reshape(32, 32) for _ in range(3)]
    wall = base + 0.12 * noise[0][..., None] + 0.05 * np.stack(noise, -1)
    return cv2.resize(np.clip(wall, 0, 1).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)


def _photographic(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What lenses and files do to a portrait: a little blur, grain, JPEG. (H, W, 3) 0..1 -> uint8."""
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9))
    image = image + rng.normal(0, rng.uniform(0.003, 0.015), (*image.shape[:2], 1)).astype(np.float32)
    coded = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    _, data = cv2.imencode(".jpg", coded[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(75, 96))])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
