"""The training loop on accelerate: averaged weights, atomic checkpoints, exact resume, a log and sample sheets.

What happens in a step depends on the step's number and the seed alone (data order, noise, learning rate), so a run
that was killed and started again ends with the same weights as one that was not.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from geodiff.errors import ConfigError
from geodiff.files import make_folder, write_json
from geodiff.models.networks import Networks, channels_last
from geodiff.models.sampling import SamplingConfig
from geodiff.training.checkpoint import Ema, checkpoints, load_checkpoint, save_checkpoint
from geodiff.training.dataset import draw_odds
from geodiff.training.objective import Batch, LossConfig, Objective
from geodiff.training.sheet import figures, sample_batch, write_sheet

LOG_FIELDS = ("step", "loss", "image", "normal", "grad_norm", "lr", "seconds")


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    stage: see `stages.STAGES`. model: a name in `networks.MODELS`. start: folder of weights to begin with. steps: in
    all, also after a resume. first_step: number of the step that a run without a checkpoint begins with: where an
    earlier run ended whose weights alone, `start`, could travel. moment_warmup: steps from there on that only gather
    the optimizer's moments, so that the loss does not jump. batch: clips a step and process. precision: no | bf16 |
    fp16. channels_last: memory layout of convolutions, faster on CPUs. balance: draw rare expressions more often.
    sheet_*: held-out clips sampled every so many steps, 0 for never. max_minutes: stop with a checkpoint after that
    long, 0 for never.
    """

    stage: str = "images"
    model: str = "preview"
    start: str | None = None
    steps: int = 80_000
    first_step: int = 0
    batch: int = 8
    lr: float = 1e-5
    warmup: int = 500
    final_lr: float = 0.05
    moment_warmup: int = 0
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    precision: str = "no"
    channels_last: bool = True
    gradient_checkpointing: bool = False
    balance: bool = True
    workers: int = 0
    seed: int = 0
    checkpoint_minutes: float = 10.0
    max_minutes: float = 0.0
    log_every: int = 20
    tensorboard: bool = False
    sheet_every: int = 1000
    sheet_clips: int = 4
    loss: LossConfig = field(default_factory=LossConfig)
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(steps=8, guidance_scale=1.0, init="reference", share_frame_noise=True)
    )

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ConfigError(f"`steps` and `batch` must be at least 1; found {self.steps} and {self.batch}.")
        if self.precision not in ("no", "bf16", "fp16"):
            raise ConfigError(f"`precision` must be no, bf16 or fp16; found {self.precision!r}.")


def learning_rate(config: TrainConfig, step: int) -> float:
    """Zero while moments are gathered; linear warm-up, then half a cosine down to `final_lr` times the peak."""
    if 0 <= step - config.first_step < config.moment_warmup:
        return 0.0
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * (config.final_lr + (1 - config.final_lr) * cosine)


class StepSampler(Sampler[list[int]]):
    """Batches of indices from step `first` on, a function of seed and step alone: each epoch a new permutation, or as
    many draws by odds (N,)."""

    def __init__(self, length: int, config: TrainConfig, first: int, odds: np.ndarray | None = None) -> None:
        if length < 1:
            raise ConfigError("Training needs at least one sample; the dataset is empty: render or choose another.")
        self.length = length
        self.odds = None if odds is None else torch.as_tensor(odds, dtype=torch.float64)
        self.batch_size = config.batch
        self.drop_last = False
        self.config = config
        self.first = first

    def __len__(self) -> int:
        return self.config.steps - self.first

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, []
        for step in range(self.first, self.config.steps):
            indices = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.length != epoch:
                    epoch = position // self.length
                    generator = torch.Generator().manual_seed(self.config.seed + 7919 * epoch)
                    order = self._order(generator)
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


def train(
    networks: Networks,
    dataset: Dataset[dict[str, Tensor]],
    config: TrainConfig,
    folder: Path | str,
    held_out: Dataset[dict[str, Tensor]] | None = None,
) -> Networks:
    """Train to `config.steps` from the last checkpoint in `folder` on; returns the networks with averaged weights.

    Writes checkpoints, `log.csv`, `validation.csv`, `sheets/*.png`, and at the end `weights/` (averaged, float32).
    """
    return Trainer(networks, dataset, config, make_folder(folder), held_out).run()


class Trainer:
    """The state of a run; `run` is the loop."""

    def __init__(
        self,
        networks: Networks,
        dataset: Dataset[dict[str, Tensor]],
        config: TrainConfig,
        folder: Path,
        held_out: Dataset[dict[str, Tensor]] | None,
    ) -> None:
        self.config, self.folder = config, folder
        self.accelerator = Accelerator(mixed_precision=config.precision)
        self.networks = networks.to(self.accelerator.device)
        self.objective = Objective(networks, config.loss).to(self.accelerator.device)
        if config.channels_last:
            for module in networks.trained().values():
                channels_last(module)
        if config.gradient_checkpointing:
            networks.unet.checkpoint_gradients()
        self.parameters = {n: p for n, p in self.objective.trained.named_parameters() if p.requires_grad}
        fused = self.accelerator.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.parameters, config.weight_decay), lr=config.lr, fused=fused
        )
        self.ema = Ema(self.parameters, config.ema_decay)
        self.step = self._resume()
        length = len(dataset) if isinstance(dataset, Sized) else 0
        odds = draw_odds(dataset) if config.balance and length else None
        sampler = StepSampler(length, config, self.step, odds)
        seeded = torch.Generator().manual_seed(config.seed)
        loader = DataLoader(dataset, batch_sampler=sampler, num_workers=config.workers, generator=seeded)
        self.loss, self.optimizer, self.loader = self.accelerator.prepare(self.objective, self.optimizer, loader)
        self.sheet_batch = first_samples(held_out or dataset, config.sheet_clips) if config.sheet_every else None
        self.log = CsvLog(folder / "log.csv", LOG_FIELDS, self.step)
        self.board = _tensorboard(folder) if config.tensorboard else None

    def _resume(self) -> int:
        found = checkpoints(self.folder)
        if not found:
            return self.config.first_step
        return load_checkpoint(found[-1], self.parameters, self.ema, self.optimizer, self.networks)

    def run(self) -> Networks:
        config = self.config
        began = saved = time.monotonic()
        for module in self.networks.trained().values():
            module.train()
        for batch in self.loader:
            entry = self._train_step(batch)
            now = time.monotonic()
            if self.step % config.log_every == 0 or self.step == config.steps:
                self._write_log(entry, now - began)
            if config.sheet_every and self.step % config.sheet_every == 0:
                self.write_sheet()
            out_of_time = bool(config.max_minutes) and now - began > 60 * config.max_minutes
            if now - saved > 60 * config.checkpoint_minutes or out_of_time or self.step == config.steps:
                self.save()
                saved = time.monotonic()
            if out_of_time:
                break
        return self.finish()

    def _train_step(self, batch: Batch) -> dict[str, Any]:
        lr = learning_rate(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        seed = hash((self.config.seed, self.step, self.accelerator.process_index)) % 2**63
        loss, parts = self.loss(batch, torch.Generator().manual_seed(seed))
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(list(self.parameters.values()), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.ema.update(self.parameters, self.step)
        return {"loss": loss.detach(), **parts, "grad_norm": norm, "lr": lr}

    def _write_log(self, entry: dict[str, Any], seconds: float) -> None:
        if not self.accelerator.is_main_process:
            return
        values = {name: float(entry[name]) for name in LOG_FIELDS if name in entry}
        self.log.write({"step": self.step, **values, "seconds": round(seconds, 1)})
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, self.step)

    def save(self) -> None:
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder, self.step, self.networks, self.ema, self.optimizer)

    def write_sheet(self) -> None:
        """Sample held-out clips with the averaged weights; a picture and a line of figures."""
        if self.sheet_batch is None or not self.accelerator.is_main_process:
            return
        batch = {name: value.to(self.accelerator.device) for name, value in self.sheet_batch.items()}
        self.ema.swap(self.parameters)
        with self.accelerator.autocast():
            generated = sample_batch(self.networks, batch, self.config.sampling, self.config.seed).float()
        self.ema.swap(self.parameters)
        write_sheet(self.folder / "sheets" / f"{self.step:07d}.png", generated, batch)
        measured = {name: round(value, 3) for name, value in figures(generated, batch).items()}
        CsvLog(self.folder / "validation.csv", ("step", *measured), self.step - 1).write(
            {"step": self.step, **measured}
        )

    def finish(self) -> Networks:
        """Put the averages into the networks and write them."""
        self.accelerator.wait_for_everyone()
        self.ema.swap(self.parameters)
        if self.accelerator.is_main_process:
            self.networks.save(self.folder / "weights")
            write_json(self.folder / "weights" / "training.json", {"step": self.step, "stage": self.config.stage})
        return self.networks.eval()


def parameter_groups(parameters: dict[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases, norms and the null tokens do not."""
    decayed = [p for p in parameters.values() if p.ndim > 1]
    plain = [p for p in parameters.values() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def first_samples(dataset: Dataset[dict[str, Tensor]], count: int) -> Batch:
    """The first samples, spread over the dataset, as a batch."""
    length = len(dataset) if isinstance(dataset, Sized) else count
    count = min(count, length)
    return default_collate([dataset[i * length // count] for i in range(count)])


class CsvLog:
    """A CSV that a resumed run goes on with: rows after the step it resumes from are dropped."""

    def __init__(self, path: Path, names: tuple[str, ...], step: int) -> None:
        self.path, self.names = path, names
        kept = []
        if path.is_file():
            with path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(kept)

    def write(self, row: dict[str, Any]) -> None:
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.names).writerow(row)


def _tensorboard(folder: Path):  # noqa: ANN202 - the writer's class is an optional import
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))
