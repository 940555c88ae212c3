"""Watching a fit: figures into a CSV and TensorBoard, and the end of a run that no longer gains anything."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from geodiff.errors import ConfigError, MissingDependencyError
from geodiff.training.log import Board, CsvLog

#: The CSV, and TensorBoard's folder, where the run keeps its work.
CSV, BOARD = "log.csv", "tensorboard"
#: How much of the smoothed loss is that of the last step.
_SMOOTH = 0.02


@runtime_checkable
class Watched(Protocol):
    """What a problem may tell besides the figures of its steps."""

    def measure(self) -> float | None:
        """PSNR of held-out frames in dB, or None where there are none."""

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8: how far it is."""


@dataclass(frozen=True)
class LogConfig:
    """every: iterations between two rows of figures (means since the last row). tensorboard: log for it as well.
    pictures: iterations between two pictures for it."""

    every: int = 25
    tensorboard: bool = False
    pictures: int = 250

    def __post_init__(self) -> None:
        if self.every < 1 or self.pictures < 1:
            raise ConfigError(f"log.every and log.pictures must be at least 1, got {self.every} and {self.pictures}")


@dataclass(frozen=True)
class PlateauConfig:
    """When a run ends early.

    patience: checks in a row without a gain after which it ends; 0 never. every: iterations between two checks. gain:
    what counts as one, dB of the held-out PSNR; where nothing is held out, percent of the smoothed loss. start: share
    of the run before which it does not end. Rates that fall over the whole run have not come to their end then.
    """

    patience: int = 0
    every: int = 100
    gain: float = 0.02
    start: float = 0.3

    def __post_init__(self) -> None:
        if self.patience < 0 or self.every < 1 or not self.gain >= 0 or not 0 <= self.start <= 1:
            raise ConfigError(
                "plateau needs patience and gain of at least 0, every of at least 1 and start from 0 to 1, got "
                f"{self.patience}, {self.gain}, {self.every} and {self.start}"
            )


@dataclass
class Plateau:
    """Whether a run still gains. loss: its running mean."""

    config: PlateauConfig
    best: float = float("-inf")
    idle: int = 0
    loss: float | None = None

    def step(self, loss: float) -> None:
        """Takes the loss of a step."""
        self.loss = loss if self.loss is None else self.loss + _SMOOTH * (loss - self.loss)

    def due(self, iteration: int) -> bool:
        """Whether to check after so many iterations."""
        return self.config.patience > 0 and iteration % self.config.every == 0

    def check(self, problem: object, share: float) -> bool:
        """Judges a problem after a share of the run; True where the run should end."""
        measured = problem.measure() if isinstance(problem, Watched) else None
        # A percent of the loss is about 1 of a hundred logarithms.
        figure = -100.0 * math.log(max(self.loss or 0.0, 1e-12)) if measured is None else measured
        if figure >= self.best + self.config.gain:
            self.best, self.idle = figure, 0
        else:
            self.idle += 1
        return share >= self.config.start and self.idle >= self.config.patience

    def state(self) -> dict[str, str]:
        """For a checkpoint's header."""
        return {"best": repr(self.best), "idle": str(self.idle), "loss": repr(self.loss)}

    def restore(self, state: dict[str, str]) -> None:
        """The inverse of `state`."""
        self.best, self.idle = float(state["best"]), int(state["idle"])
        self.loss = None if state["loss"] == "None" else float(state["loss"])


@dataclass
class RunLog:
    """The figures of a run in `folder` (None: nowhere), which a resumed run goes on with.

    Raises MissingDependencyError where TensorBoard is wanted and not installed.
    """

    config: LogConfig
    folder: Path | None
    start: int
    _csv: CsvLog | None = None
    _board: Board | None = None
    _sums: dict[str, float] = field(default_factory=dict)
    _count: int = 0
    _since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not self.config.tensorboard or self.folder is None:
            return
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError(
                "log.tensorboard needs the package tensorboard, which is not installed: run pip install "
                f"'geodiff[train]', or leave it out; {CSV} is written in any case"
            ) from error
        self._board = Board(self.folder / BOARD, self.start)

    def figures(self, values: dict[str, float], iteration: int, last: bool = False) -> None:
        """Figures of a step, after so many iterations."""
        if self.folder is None:
            return
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if iteration % self.config.every and not last:
            return
        means = {name: total / self._count for name, total in self._sums.items()}
        if self._csv is None:
            self._csv = CsvLog(self.folder / CSV, ("step", "seconds", *means), self.start)
        seconds = round(time.monotonic() - self._since, 2)
        self._csv.write({"step": iteration, "seconds": seconds, **{k: f"{v:.6g}" for k, v in means.items()}})
        if self._board is not None:
            self._board.numbers(means, iteration)
        self._sums, self._count = {}, 0

    def picture(self, problem: object, iteration: int, last: bool = False) -> None:
        """A picture for TensorBoard, where it is due."""
        due = last or iteration % self.config.pictures == 0
        if self._board is not None and due and isinstance(problem, Watched):
            self._board.picture("frame and truth", problem.picture(), iteration)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
