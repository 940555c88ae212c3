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
    """Residuals of all parameters of T time steps, starting at zero, with their own Adam, over `iterations` steps."""

    def __init__(self, params: HeadParams, config: RefinementConfig, iterations: int = PAPER_ITERATIONS) -> None:
        self.config = config
        factor = config.factor(iterations)
        names = (*POSE_GROUP, *EXPRESSION_GROUP)
        self.values = {name: torch.zeros_like(getattr(params, name)).requires_grad_() for name in names}
        groups = [
            {"params": [self.values[name] for name in POSE_GROUP], "peak": factor * config.pose_rate},
            {"params": [self.values[name] for name in EXPRESSION_GROUP], "peak": factor * config.expression_rate},
        ]
        self._optimiser = torch.optim.Adam(groups, lr=0.0)

    def apply(self, params: HeadParams) -> HeadParams:
        """All time steps with their residuals."""
        return params.replace(**{name: getattr(params, name) + value for name, value in self.values.items()})

    def frame(self, params: HeadParams, step: int) -> HeadParams:
        """One time step with its residuals; differentiable in them."""
        base = params.frame(step)
        picked = {name: value if name == "shape" else value[step : step + 1] for name, value in self.values.items()}
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
        self._optimiser.zero_grad(set_to_none=True)

    def step(self, share: float) -> None:
        """One Adam step after a share of the run."""
        for group in self._optimiser.param_groups:
            group["lr"] = self.rate(group["peak"], share)
        self._optimiser.step()

    def state(self) -> dict[str, Tensor]:
        """Residuals and moments."""
        state = dict(self.values)
        for name, value in self.values.items():
            for key, moment in self._optimiser.state.get(value, {}).items():
                state[f"{key}/{name}"] = moment
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, value in self.values.items():
            value.data.copy_(state[name])
            moments = {key.split("/")[0]: v for key, v in state.items() if key.endswith(f"/{name}")}
            if moments:
                self._optimiser.state[value] = moments
