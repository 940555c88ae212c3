"""The training loop on accelerate: averaged weights, atomic checkpoints, exact resume, a log and sample sheets.

What happens in a step depends on the step's number and the seed alone (data order, noise, learning rate), so a run
that was killed and started again ends with the same weights as one that was not. Processes share a step's samples and
average their gradients: with more or fewer of them, or in parts one after the other, a step differs by rounding only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from geodiff.errors import InputError
from geodiff.files import make_folder, write_json
from geodiff.media import read_image
from geodiff.models.networks import Networks
from geodiff.training.batches import Samples, Share, batches, first_samples
from geodiff.training.checkpoint import Ema, checkpoints, load_checkpoint, save_checkpoint
from geodiff.training.config import TrainConfig, learning_rate
from geodiff.training.draws import Draws
from geodiff.training.log import Board, CsvLog
from geodiff.training.objective import Batch
from geodiff.training.tasks import GeneratorTask, Task

LOG_FIELDS = (
    "step", "loss", "image", "normal", "pixel", "gradient", "kl", "expression", "grad_norm", "lr", "seconds",
    "samples_per_second", "waiting",
)  # fmt: skip

#: Told how much is done, 0..1, and a few words.
Report = Callable[[float, str], None]


def train(
    networks: Networks,
    dataset: Samples,
    config: TrainConfig,
    folder: Path | str,
    held_out: Samples | None = None,
    report: Report | None = None,
) -> Networks:
    """Train to `config.steps` from the last checkpoint in `folder` on; returns the networks with averaged weights.

    Writes checkpoints, `log.csv`, `validation.csv`, `sheets/*.png`, and at the end `weights/` (averaged, float32).
    """
    train_task(GeneratorTask(networks, config.loss), dataset, config, folder, held_out, report)
    return networks.eval()


def train_task(
    task: Task,
    dataset: Samples,
    config: TrainConfig,
    folder: Path | str,
    held_out: Samples | None = None,
    report: Report | None = None,
) -> None:
    """`train` for any task, which holds the averaged weights afterwards."""
    Trainer(task, dataset, config, make_folder(folder), held_out).run(report)


class Trainer:
    """The state of a run; `run` is the loop."""

    def __init__(
        self, task: Task, dataset: Samples, config: TrainConfig, folder: Path, held_out: Samples | None = None
    ) -> None:
        self.task, self.dataset, self.config, self.folder = task, dataset, config, folder
        self.accelerator = Accelerator(mixed_precision=config.precision)
        processes, device = self.accelerator.num_processes, self.accelerator.device
        own, at_once = config.share(processes)
        self.share = Share(self.accelerator.process_index, processes, at_once, device)
        self.parts = own // at_once
        task.to(device)
        task.prepare(config)
        self.parameters = task.parameters()
        groups = parameter_groups(self.parameters, config.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=device.type in ("cpu", "cuda"))
        self.ema = Ema(self.parameters, config.ema_decay)
        self.step = self._resume(optimizer)
        self.loss, self.optimizer = self.accelerator.prepare(task.objective, optimizer)
        self.main = self.accelerator.is_main_process
        self.sheet_batch = None
        if config.sheet_every and self.main:
            self.sheet_batch = first_samples(held_out or dataset, config.sheet_clips)
        self.log = CsvLog(folder / "log.csv", LOG_FIELDS, self.step) if self.main else None
        self.board = Board(folder / "tensorboard", self.step) if self.main and config.tensorboard else None

    def _resume(self, optimizer: torch.optim.Optimizer) -> int:
        """Restore the last checkpoint; the step to go on with. Raises InputError where processes see different ones."""
        found = checkpoints(self.folder)
        step = self.config.first_step
        if found:
            step = load_checkpoint(found[-1], self.task, self.ema, optimizer)
        if self.share.processes > 1:
            seen = self.accelerator.gather(torch.tensor([step], device=self.accelerator.device))
            if int(seen.min()) != int(seen.max()):
                raise InputError(
                    f"all processes of a run go on from the same checkpoint in {self.folder}, and they found steps "
                    f"{sorted(set(seen.tolist()))}: name a folder that every machine shares"
                )
        return step

    def run(self, report: Report | None = None) -> None:
        config = self.config
        for module in self.task.trained.values():
            module.train()
        source = batches(self.dataset, config, self.step, self.share)
        clock = Clock(self.step)
        saved = clock.began
        while self.step < config.steps:
            entry = self._train_step(source, clock)
            if self.step % config.log_every == 0 or self.step == config.steps:
                self._write_log(entry, clock, report)
            if config.sheet_every and self.step % config.sheet_every == 0:
                with clock.paused():
                    self.write_sheet()
            now = time.monotonic()
            out_of_time = self._agreed(bool(config.max_minutes) and now - clock.began > 60 * config.max_minutes)
            if now - saved > 60 * config.checkpoint_minutes or out_of_time or self.step == config.steps:
                with clock.paused():
                    self.save()
                saved = time.monotonic()
            if out_of_time:
                break
        self.finish()

    def _agreed(self, wish: bool) -> bool:
        """Whether the first process wishes it; several ask one another when they log, so that it seldom costs."""
        if self.share.processes == 1:
            return wish
        if self.step % self.config.log_every:
            return False
        told = self.accelerator.gather(torch.tensor([int(wish)], device=self.accelerator.device))
        return bool(told[0])

    def _train_step(self, source: Any, clock: Clock) -> dict[str, Any]:
        lr = learning_rate(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        entry: dict[str, Any] = {}
        for part in range(self.parts):
            waiting = time.monotonic()
            positions, batch = next(source)
            clock.waited += time.monotonic() - waiting
            draws = Draws(self.config.seed, positions, self.accelerator.device)
            with self._synchronised(part == self.parts - 1):
                loss, parts = self.loss(batch, draws)
                self.accelerator.backward(loss / self.parts)
            for name, value in {"loss": loss.detach(), **parts}.items():
                entry[name] = entry.get(name, 0) + value / self.parts
        norm = self.accelerator.clip_grad_norm_(list(self.parameters.values()), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.ema.update(self.parameters, self.step)
        return {**entry, "grad_norm": norm, "lr": lr}

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients travel once a step, with its last part."""
        return nullcontext() if last else self.accelerator.no_sync(self.loss)

    def _write_log(self, entry: dict[str, Any], clock: Clock, report: Report | None) -> None:
        values = {}
        for name in LOG_FIELDS:
            if name in entry:
                value = torch.as_tensor(entry[name], dtype=torch.float32, device=self.accelerator.device)
                values[name] = float(self.accelerator.reduce(value, "mean"))
        values |= clock.figures(self.step, self.config.batch)
        if self.log is not None:
            self.log.write({"step": self.step, **values})
        if self.board is not None:
            self.board.numbers(values, self.step)
        if report is not None and self.main:
            words = f"step {self.step}, loss {values['loss']:.4f}, {values['samples_per_second']:.1f} samples/s"
            report(self.step / self.config.steps, words)

    def save(self) -> None:
        if self.main:
            save_checkpoint(self.folder, self.step, self.task, self.ema, self.optimizer)

    def write_sheet(self) -> None:
        """Try held-out samples with the averaged weights; a picture and a line of figures."""
        if self.sheet_batch is None:
            return
        batch: Batch = {name: value.to(self.accelerator.device) for name, value in self.sheet_batch.items()}
        path = self.folder / "sheets" / f"{self.step:07d}.png"
        self.ema.swap(self.parameters)
        measured = self.task.validate(batch, self.config, path, self.accelerator.autocast())
        self.ema.swap(self.parameters)
        rounded = {name: round(value, 3) for name, value in measured.items()}
        CsvLog(self.folder / "validation.csv", ("step", *rounded), self.step - 1).write({"step": self.step, **rounded})
        if self.board is not None:
            self.board.numbers({f"held out/{name}": value for name, value in measured.items()}, self.step)
            self.board.picture("held out", read_image(path), self.step)

    def finish(self) -> None:
        """Put the averages into the networks and write them."""
        self.accelerator.wait_for_everyone()
        self.ema.swap(self.parameters)
        if self.main:
            self.task.save(self.folder / "weights")
            write_json(self.folder / "weights" / "training.json", {"step": self.step, "stage": self.config.stage})
        if self.board is not None:
            self.board.close()


class Clock:
    """Time since the run began, and since the last line of the log without sheets and checkpoints."""

    def __init__(self, step: int) -> None:
        self.began = self._since = time.monotonic()
        self.waited = 0.0
        self._step = step

    @contextmanager
    def paused(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def figures(self, step: int, batch: int) -> dict[str, float]:
        """seconds since the beginning; samples a second and the share of time spent waiting for data since the last
        call."""
        now = time.monotonic()
        passed = max(now - self._since, 1e-9)
        told = {
            "seconds": round(now - self.began, 1),
            "samples_per_second": round((step - self._step) * batch / passed, 2),
            "waiting": round(self.waited / passed, 3),
        }
        self._since, self._step, self.waited = now, step, 0.0
        return told


def parameter_groups(parameters: dict[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases, norms and the null tokens do not."""
    decayed = [p for p in parameters.values() if p.ndim > 1]
    plain = [p for p in parameters.values() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
