"""A run on two processes is the run on one: the same samples, averaged gradients, one writer, a resume."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import socket
from pathlib import Path

import pytest
import torch
from training_helpers import RandomClips, fresh, quick

from geodiff.errors import ConfigError
from geodiff.models.networks import Networks
from geodiff.training.batches import Share, StepSampler
from geodiff.training.checkpoint import checkpoints
from geodiff.training.config import TrainConfig
from geodiff.training.loop import train

#: The learning rate must not depend on the number of steps, which differ before and after the resume.
CONFIG = quick(steps=3, batch=4, lr=1e-3, final_lr=1.0)


class Recorded(RandomClips):
    """Notes which samples a process takes."""

    def __init__(self) -> None:
        super().__init__(length=8, frames=1)
        self.taken: list[int] = []

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.taken.append(index)
        return super().__getitem__(index)


def work(rank: int, folder: str, port: int) -> None:
    """One process of two: two steps, then, as a run that goes on, one more."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in told.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    data, run = Recorded(), Path(folder) / "run"
    # The second part of the run takes its share in two pieces.
    train(fresh(), data, dataclasses.replace(CONFIG, steps=2), run)
    train(fresh(), data, dataclasses.replace(CONFIG, microbatch=1), run)
    (Path(folder) / f"taken-{rank}.json").write_text(json.dumps(data.taken))
    try:
        train(fresh(), data, dataclasses.replace(CONFIG, batch=3), run)
    except ConfigError as error:
        (Path(folder) / f"refused-{rank}").write_text(str(error))


def weights_of(folder: Path) -> torch.Tensor:
    return flat(Networks.load(folder))


def flat(networks: Networks) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for module in networks.trained().values() for p in module.parameters()])


def losses(folder: Path) -> list[float]:
    with (folder / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_two_processes_are_one_run(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (str(tmp_path), port), nprocs=2)
    whole = RandomClips(8, frames=1)
    train(fresh(), whole, CONFIG, tmp_path / "whole")

    taken = [json.loads((tmp_path / f"taken-{rank}.json").read_text()) for rank in (0, 1)]
    sampler = StepSampler(8, CONFIG, 0, torch.ones(8).numpy())
    assert [sorted(taken[0][2 * s :][:2] + taken[1][2 * s :][:2]) for s in range(3)] == [
        sorted(step) for step in sampler
    ]

    run = tmp_path / "run"
    assert losses(run) == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)
    before = flat(fresh())
    one, two = weights_of(tmp_path / "whole" / "weights"), weights_of(run / "weights")
    assert float((two - one).norm()) < 0.02 * float((one - before).norm())

    assert [path.name for path in checkpoints(run)] == ["checkpoint-0000002", "checkpoint-0000003"]
    assert "shared evenly by all processes" in (tmp_path / "refused-1").read_text()


def test_processes_take_their_parts_in_order() -> None:
    config = TrainConfig(steps=3, batch=6)
    whole = [list(part) for part in StepSampler(50, config, 0).positions()]
    parts = [list(StepSampler(50, config, 0, share=Share(rank, 2, 1)).positions()) for rank in (0, 1)]
    assert len(parts[0]) == len(StepSampler(50, config, 0, share=Share(0, 2, 1))) == 9
    for step in range(3):
        own = [position for part in parts for piece in part[3 * step : 3 * step + 3] for position in piece]
        assert own == whole[step]
    assert config.share(3) == (2, 2)
    with pytest.raises(ConfigError, match="choose multiples"):
        config.share(4)
