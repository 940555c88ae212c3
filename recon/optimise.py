"""The loop of every per-subject method: samples in a fixed random order, checkpoints, progress, logs, an early end.

A run that was killed goes on from its last checkpoint and sees the same samples as if it had never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from geodiff.files import save_tensors
from geodiff.raster.threads import kernels_on
from recon.watch import LogConfig, Plateau, PlateauConfig, RunLog

#: Called with (iterations done, iterations in all, figures to show).
Progress = Callable[[int, int, dict[str, float]], None]


class Problem(Protocol):
    """What a method optimises."""

    samples: list[int]

    def step(self, sample: int, iteration: int) -> dict[str, float]:
        """One optimiser step on one sample; returns figures to show."""

    def state(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes over a checkpoint."""


@dataclass(frozen=True)
class Schedule:
    """iterations: steps in all. seed: of the order of samples. checkpoint_seconds: time between two checkpoints. log:
    what is written about the run. plateau: when it ends early."""

    iterations: int
    seed: int = 0
    checkpoint_seconds: float = 20.0
    log: LogConfig = field(default_factory=LogConfig)
    plateau: PlateauConfig = field(default_factory=PlateauConfig)


@dataclass(frozen=True)
class _Store:
    """Where a run's checkpoint is (None: nowhere), and what it must belong to."""

    path: Path | None
    fingerprint: str

    def save(self, problem: Problem, iteration: int, plateau: Plateau, ended: bool = False) -> None:
        if self.path is not None:
            about = {"iteration": str(iteration), "fingerprint": self.fingerprint, "ended": str(int(ended))}
            save_tensors(self.path, problem.state(), {**about, **plateau.state()})

    def resume(self, problem: Problem, plateau: Plateau) -> tuple[int, bool]:
        """Takes over a checkpoint of the same fingerprint: iterations done, and whether the run had ended. A missing,
        foreign or broken one means a new start."""
        if self.path is None or not self.path.is_file():
            return 0, False
        try:
            with safe_open(str(self.path), "pt") as file:
                about = file.metadata() or {}
                if about.get("fingerprint") != self.fingerprint:
                    return 0, False
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                iteration = int(about["iteration"])
                plateau.restore(about)
        except (SafetensorError, OSError, KeyError, ValueError):
            return 0, False
        problem.restore(state)
        return iteration, about.get("ended") == "1"


def sample_order(samples: list[int], seed: int, iteration: int) -> int:
    """The sample of an iteration: every epoch is a permutation that depends on seed and epoch alone."""
    epoch, position = divmod(iteration, len(samples))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return samples[int(torch.randperm(len(samples), generator=generator)[position])]


def optimise(
    problem: Problem,
    schedule: Schedule,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    progress: Progress | None = None,
    folder: Path | None = None,
) -> int:
    """Runs the problem to its end and returns the iteration that it started from (0, or that of the checkpoint).

    checkpoint: file that is written every `checkpoint_seconds` and at the end. fingerprint: names source
    and configuration; a checkpoint with another one is not taken over. folder: for the logs, None for none.
    """
    plateau, store = Plateau(schedule.plateau), _Store(checkpoint, fingerprint)
    start, ended = store.resume(problem, plateau)
    if ended or start >= schedule.iterations:
        return start
    log = RunLog(schedule.log, folder, start)
    usual = torch.get_num_threads()
    # Tensors of a step are small: handing them out to threads costs more than it saves. Kernels have threads of their
    # own.
    torch.set_num_threads(1)
    try:
        with kernels_on(usual):
            done = _run(problem, schedule, start, store, plateau, log, progress)
    finally:
        torch.set_num_threads(usual)
        log.close()
    store.save(problem, done, plateau, ended=True)
    return start


def _run(
    problem: Problem,
    schedule: Schedule,
    start: int,
    store: _Store,
    plateau: Plateau,
    log: RunLog,
    progress: Progress | None,
) -> int:
    """Returns the number of iterations after which it ended."""
    saved, shown = time.monotonic(), 0.0
    for iteration in range(start, schedule.iterations):
        figures = problem.step(sample_order(problem.samples, schedule.seed, iteration), iteration)
        now, done = time.monotonic(), iteration + 1
        plateau.step(figures["loss"])
        last = done == schedule.iterations
        if not last and plateau.due(done):
            last = plateau.check(problem, done / schedule.iterations)
        log.figures(figures, done, last)
        log.picture(problem, done, last)
        if progress is not None and (now - shown > 0.25 or last):
            progress(schedule.iterations if last else done, schedule.iterations, figures)
            shown = now
        if last:
            return done
        if now - saved > schedule.checkpoint_seconds:
            store.save(problem, done, plateau)
            saved = time.monotonic()
    return schedule.iterations
