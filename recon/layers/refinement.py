"""Learnable residuals of the head parameters (GeoDiff4D, sections 3.3 and A.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geodiff.types import HeadParams

#: The two groups of A.2: pose and shape, and what moves with the expression.
POSE_GROUP = ("shape", "rotation", "translation", "neck_pose")
EXPRESSION_GROUP = ("expr", "jaw_pose", "eyes_pose")


#: Length of the run that the paper's rates are for, and the most that shorter ones raise them.
PAPER_ITERATIONS, MOST = 100_000, 100.0
#: Rate of the translation as a share of the other parameters': it is in metres, of which a head has a quarter.
METRES = 0.1
_BETAS = 0.9, 0.999


@dataclass(frozen=True)
class RefinementConfig:
    """pose_rate, expression_rate: the paper's peak learning rates of the two groups.

    scaled: raises them in shorter runs than the paper's, so that a parameter may go as far in the whole run.
    warmup, stable: shares of the run at which the linear ramp ends and the exponential decay begins. The paper ramps
    over 40K and holds from 20K to 80K of 100K iterations, which overlap; the ramp ends at 20% here.
    """

    enabled: bool = False
    pose_rate: float = 1e-5
    expression_rate: float = 1e-4
    scaled: bool = True
    warmup: float = 0.2
    stable: float = 0.8
    floor: float = 1e-10
    final: float = 0.01

    def factor(self, iterations: int) -> float:
        """What the rates are multiplied with in a run of that length."""
        return min(MOST, max(1.0, PAPER_ITERATIONS / iterations)) if self.scaled else 1.0


class HeadResidual:
    """Residuals of all parameters of T time steps, starting at zero, with their own Adam, over `iterations` steps.

    A step moves the time step that it saw and no other: the momentum of an ordinary Adam would go on moving the rest
    for another ten steps, at full rate and by nothing but noise. A pose that is the same in all time steps stays so.
    """

    def __init__(self, params: HeadParams, config: RefinementConfig, iterations: int = PAPER_ITERATIONS) -> None:
        self.config = config
        factor = config.factor(iterations)
        self._peaks = {name: factor * config.pose_rate for name in POSE_GROUP}
        self._peaks |= {name: factor * config.expression_rate for name in EXPRESSION_GROUP}
        self._peaks["translation"] *= METRES
        self.values = {name: torch.zeros_like(_rows(name, params)).requires_grad_() for name in self._peaks}
        like = self.values.items()
        self._first = {name: torch.zeros_like(value, requires_grad=False) for name, value in like}
        self._second = {name: torch.zeros_like(value, requires_grad=False) for name, value in like}
        self._count = {name: torch.zeros_like(value[..., :1], requires_grad=False) for name, value in like}
        self._seen = 0

    def apply(self, params: HeadParams) -> HeadParams:
        """All time steps with their residuals."""
        return params.replace(**{name: getattr(params, name) + value for name, value in self.values.items()})

    def frame(self, params: HeadParams, step: int) -> HeadParams:
        """One time step with its residuals; differentiable in them. The next `step` moves these."""
        self._seen = step
        base = params.frame(step)
        picked = {name: value[_row(value, step)] for name, value in self.values.items()}
        return base.replace(**{name: getattr(base, name) + value for name, value in picked.items()})

    def rate(self, peak: float, share: float) -> float:
        """Learning rate after a share of the run: warm-up, stable, decay."""
        config = self.config
        if share < config.warmup:
            return config.floor + (peak - config.floor) * share / config.warmup
        if share < config.stable:
            return peak
        return peak * config.final ** ((share - config.stable) / (1 - config.stable))

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for value in self.values.values():
            value.grad = None

    @torch.no_grad()
    def step(self, share: float) -> None:
        """One Adam step (betas 0.9 and 0.999) of the time step seen last, after a share of the run."""
        for name, value in self.values.items():
            if value.grad is None:
                continue
            row = _row(value, self._seen)
            slope, count = value.grad[row], self._count[name][row].add_(1)
            first, second = self._first[name][row], self._second[name][row]
            first.lerp_(slope, 1 - _BETAS[0])
            second.lerp_(slope.square(), 1 - _BETAS[1])
            size = (second / (1 - _BETAS[1] ** count)).sqrt() + 1e-8
            value[row] -= self.rate(self._peaks[name], share) * first / (1 - _BETAS[0] ** count) / size

    def state(self) -> dict[str, Tensor]:
        """Residuals and moments."""
        state = dict(self.values)
        for name in self.values:
            for key, kept in (("exp_avg", self._first), ("exp_avg_sq", self._second), ("step", self._count)):
                state[f"{key}/{name}"] = kept[name]
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, value in self.values.items():
            value.data.copy_(state[name])
            for key, kept in (("exp_avg", self._first), ("exp_avg_sq", self._second), ("step", self._count)):
                kept[name].copy_(state[f"{key}/{name}"])


def _rows(name: str, params: HeadParams) -> Tensor:
    """(T, K) a parameter, or (1, K) of one of the pose that stands still."""
    value = getattr(params, name)
    return value[:1] if name in POSE_GROUP[1:] and bool((value == value[:1]).all()) else value


def _row(value: Tensor, step: int) -> slice:
    """The row of a time step; everything where there is one for all times: the shape, and a pose that stands still."""
    return slice(None) if value.ndim == 1 or len(value) == 1 else slice(step, step + 1)
