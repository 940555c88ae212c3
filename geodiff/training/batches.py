"""Which samples a step takes, and how they reach the device: a function of the seed and the step's number alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from geodiff.errors import ConfigError
from geodiff.training.config import TrainConfig
from geodiff.training.dataset import draw_odds
from geodiff.training.objective import Batch
from geodiff.training.resident import kept_decoded

Samples = Dataset[dict[str, Tensor]]


@dataclass(frozen=True)
class Share:
    """One process of several: its number, how many there are, how many samples it takes at once, and where to."""

    rank: int = 0
    processes: int = 1
    at_once: int = 1
    device: torch.device | str = "cpu"


class StepSampler(Sampler[list[int]]):
    """Lists of indices from step `first` on; each epoch a new permutation, or as many draws by odds (N,).

    Each step takes the next `batch` samples; a process takes its own part of them, `at_once` at a time.
    """

    def __init__(
        self, length: int, config: TrainConfig, first: int, odds: np.ndarray | None = None, share: Share | None = None
    ) -> None:
        if length < 1:
            raise ConfigError("Training needs at least one sample; the dataset is empty: render or choose another.")
        self.length, self.config, self.first = length, config, first
        self.odds = None if odds is None else torch.as_tensor(odds, dtype=torch.float64)
        self.share = share or Share(at_once=config.batch)

    def __len__(self) -> int:
        own = self.config.batch // self.share.processes
        return (self.config.steps - self.first) * (own // self.share.at_once)

    def positions(self) -> Iterator[range]:
        """The numbers, in the run, of the samples that are taken at once."""
        own = self.config.batch // self.share.processes
        for step in range(self.first, self.config.steps):
            begin = step * self.config.batch + self.share.rank * own
            for start in range(begin, begin + own, self.share.at_once):
                yield range(start, start + self.share.at_once)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, []
        for taken in self.positions():
            indices = []
            for position in taken:
                if position // self.length != epoch:
                    epoch = position // self.length
                    order = self._order(torch.Generator().manual_seed(self.config.seed + 7919 * epoch))
                indices.append(order[position % self.length])
            yield indices

    def _order(self, generator: torch.Generator) -> list[int]:
        if self.odds is None:
            return torch.randperm(self.length, generator=generator).tolist()
        # Evenly spaced points on the cumulated odds: each sample comes as often as it should, rounded up or down.
        ends = torch.cumsum(self.odds, 0) / self.odds.sum() * self.length
        points = torch.arange(self.length) + torch.rand(1, generator=generator, dtype=torch.float64)
        drawn = torch.searchsorted(ends, points).clamp(max=self.length - 1)
        return drawn[torch.randperm(self.length, generator=generator)].tolist()


def batches(dataset: Samples, config: TrainConfig, first: int, share: Share) -> Iterator[tuple[range, Batch]]:
    """(numbers of the samples in the run, batch on the device) from step `first` on, for one process."""
    length = len(dataset) if isinstance(dataset, Sized) else 0
    sampler = StepSampler(length, config, first, draw_odds(dataset) if config.balance and length else None, share)
    return zip(sampler.positions(), _loaded(dataset, config, sampler, share.device), strict=False)


def _loaded(dataset: Samples, config: TrainConfig, sampler: StepSampler, device: torch.device | str) -> Iterator[Batch]:
    if config.keep_in != "disk":
        resident = kept_decoded(dataset, device if config.keep_in == "device" else "cpu")
        for indices in sampler:
            yield resident.batch(indices, device)
        return
    on_gpu = torch.device(device).type == "cuda"
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=config.workers,
        generator=torch.Generator().manual_seed(config.seed),
        pin_memory=on_gpu,
        persistent_workers=config.workers > 0,
    )
    for batch in loader:
        yield {name: value.to(device, non_blocking=on_gpu) for name, value in batch.items()}


def first_samples(dataset: Samples, count: int) -> Batch:
    """The first samples, spread over the dataset, as a batch."""
    length = len(dataset) if isinstance(dataset, Sized) else count
    count = min(count, length)
    return collated([dataset[i * length // count] for i in range(count)])


def collated(samples: Sequence[dict[str, Tensor]]) -> Batch:
    return default_collate(list(samples))
