"""The loop of every per-subject method: samples in a fixed random order, checkpoints, progress.

A run that was killed goes on from its last checkpoint and sees the same samples as if it had never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from geodiff.files import save_tensors

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
    """iterations: steps in all. seed: of the order of samples. checkpoint_seconds: time between two checkpoints."""

    iterations: int
    seed: int = 0
    checkpoint_seconds: float = 20.0


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
) -> int:
    """Runs the problem to its end and returns the iteration that it started from (0, or that of the checkpoint).

    checkpoint: file that is written every `checkpoint_seconds` and at the end. fingerprint: names source
    and configuration; a checkpoint with another one is not taken over.
    """
    start = _resume(problem, checkpoint, fingerprint)
    threads = torch.get_num_threads()
    # Tensors of a step are small: handing them out to threads costs more than it saves. The rasteriser has its own.
    torch.set_num_threads(1)
    try:
        _run(problem, schedule, start, checkpoint, fingerprint, progress)
    finally:
        torch.set_num_threads(threads)
    if checkpoint is not None and start < schedule.iterations:
        _save(problem, checkpoint, fingerprint, schedule.iterations)
    return start


def _run(
    problem: Problem,
    schedule: Schedule,
    start: int,
    checkpoint: Path | None,
    fingerprint: str,
    progress: Progress | None,
) -> None:
    saved, shown = time.monotonic(), 0.0
    for iteration in range(start, schedule.iterations):
        figures = problem.step(sample_order(problem.samples, schedule.seed, iteration), iteration)
        now = time.monotonic()
        if progress is not None and (now - shown > 0.25 or iteration + 1 == schedule.iterations):
            progress(iteration + 1, schedule.iterations, figures)
            shown = now
        if checkpoint is not None and now - saved > schedule.checkpoint_seconds:
            _save(problem, checkpoint, fingerprint, iteration + 1)
            saved = time.monotonic()


def _save(problem: Problem, path: Path, fingerprint: str, iteration: int) -> None:
    save_tensors(path, problem.state(), {"iteration": str(iteration), "fingerprint": fingerprint})


def _resume(problem: Problem, path: Path | None, fingerprint: str) -> int:
    """Takes over a checkpoint of the same fingerprint; a missing, foreign or broken one means a new start."""
    if path is None or not path.is_file():
        return 0
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("fingerprint") != fingerprint:
                return 0
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            iteration = int(metadata["iteration"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return 0
    problem.restore(state)
    return iteration
