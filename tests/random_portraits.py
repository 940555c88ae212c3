"""A reference and conditions of random smooth maps, for tests of the pipeline."""

from __future__ import annotations

import numpy as np
import torch

from geodiff.conditioning import Condition, Reference
from geodiff.types import Camera, HeadParams

SIDE = 32


def smooth(rng: np.random.Generator, channels: int) -> np.ndarray:
    coarse = rng.random((4, 4, channels))
    return np.kron(coarse, np.ones((SIDE // 4, SIDE // 4, 1))).astype(np.float32)


def reference(seed: int = 0) -> Reference:
    rng = np.random.default_rng(seed)
    camera = Camera(torch.eye(4), torch.eye(3), SIDE, SIDE)
    return Reference(
        image=smooth(rng, 3),
        mask=np.ones((SIDE, SIDE), np.float32),
        normals=smooth(rng, 3) * 2 - 1,
        pose_map=smooth(rng, 3) * 2 - 1,
        camera=camera,
        params=HeadParams.zeros(2, 2),
    )


def conditions(count: int, seed: int = 1) -> list[Condition]:
    rng = np.random.default_rng(seed)
    return [
        Condition(
            pose_map=smooth(rng, 3) * 2 - 1,
            proposal=smooth(rng, 3),
            normals=smooth(rng, 3) * 2 - 1,
            visibility=smooth(rng, 1)[..., 0],
            silhouette=np.ones((SIDE, SIDE), np.float32),
            mouth=np.zeros((SIDE, SIDE), np.float32),
            beside=np.zeros((SIDE, SIDE), np.float32),
        )
        for _ in range(count)
    ]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
