"""Random clips and short runs that the tests of training share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from model_helpers import tiny
from torch.utils.data import Dataset

from geodiff.models.networks import Networks, build_networks
from geodiff.synth.samples import EXPRESSIONS, Person, Target
from geodiff.synth.shards import FRAME_KEYS, REFERENCE_KEYS, write_shard
from geodiff.training.config import TrainConfig

SIDE = 32


class RandomClips(Dataset[dict[str, torch.Tensor]]):
    """Smooth random frames under the dataset's names; the truth is the proposal moved towards the reference."""

    def __init__(self, length: int = 6, frames: int = 2) -> None:
        self.length, self.frames = length, frames

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)

        def smooth(*shape: int) -> torch.Tensor:
            coarse = torch.rand(*shape, 4, 4, generator=generator) * 1.6 - 0.8
            return torch.nn.functional.interpolate(coarse.reshape(-1, 1, 4, 4), size=(SIDE, SIDE)).reshape(
                *shape, SIDE, SIDE
            )

        reference, proposals = smooth(3), smooth(self.frames, 3)
        return {
            "reference_image": reference,
            "reference_normals": smooth(3),
            "reference_pose_map": smooth(3),
            "images": 0.5 * proposals + 0.5 * reference,
            "normals": smooth(self.frames, 3),
            "masks": torch.ones(self.frames, 1, SIDE, SIDE),
            "pose_maps": smooth(self.frames, 3),
            "proposals": proposals,
            "proposal_normals": smooth(self.frames, 3),
            "visibility": torch.ones(self.frames, 1, SIDE, SIDE) * 0.5,
            "driving": torch.rand(self.frames, 3, 64, 64, generator=generator) * 2 - 1,
        }


def batch_of(count: int = 2, frames: int = 2) -> dict[str, torch.Tensor]:
    data = RandomClips(frames=frames)
    return torch.utils.data.default_collate([data[i] for i in range(count)])


def quick(**changes: object) -> TrainConfig:
    defaults = TrainConfig(
        steps=6,
        batch=2,
        lr=2e-3,
        warmup=1,
        log_every=1,
        sheet_every=0,
        checkpoint_minutes=1e9,
        ema_decay=0.5,
        tensorboard=False,
    )
    return dataclasses.replace(defaults, **changes)


def fresh(**changes: object) -> Networks:
    torch.manual_seed(0)
    return build_networks(tiny(**changes))


SIZE, CROP = 48, 16


def fake_person(seed: int, frames: int = 3) -> Person:
    """A person of smooth random arrays."""
    rng = np.random.default_rng(seed)

    def array(key: str) -> np.ndarray:
        side = CROP if key == "driving" else SIZE
        shape = (side, side) if key in ("masks", "visibility") else (side, side, 3)
        return np.broadcast_to(rng.integers(0, 256, shape[2:] or ()), shape).astype(np.uint8)

    def target(count: int, kind: str, reference: int = 0) -> Target:
        weights = rng.random((count, len(EXPRESSIONS))).astype(np.float32) * (kind == "tracked")
        frames = [{key: array(key) for key in FRAME_KEYS} for _ in range(count)]
        return Target(frames, kind, 25.0, 0.0, reference, weights)

    references = [{key: array(key) for key in REFERENCE_KEYS} for _ in range(2)]
    return Person(references, [target(1, "tracked"), target(1, "neutral", 1)], [target(frames, "tracked")], 0.01)


def write_set(folder: Path, people: tuple[int, ...]) -> Path:
    """A set of fake people with these numbers, two of them a shard."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "set.json").write_text("{}")
    for shard, first in enumerate(range(0, len(people), 2)):
        write_shard(folder, shard, [(identity, fake_person(identity)) for identity in people[first : first + 2]])
    return folder
