"""A run that is interrupted, for tests of checkpoints."""

from __future__ import annotations

from recon.layers.fitting import RiggedProblem


class Breaking:
    """A problem that is interrupted before an iteration."""

    def __init__(self, problem: RiggedProblem, at: int) -> None:
        self._problem, self._at, self.samples = problem, at, problem.samples

    def step(self, sample: int, iteration: int) -> dict[str, float]:
        if iteration == self._at:
            raise KeyboardInterrupt
        return self._problem.step(sample, iteration)

    def __getattr__(self, name: str) -> object:
        return getattr(self._problem, name)
