"""The head under the Gaussians while they are fitted: posed, refined, bent and changed by the expression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geodiff.head.model import HeadModel
from geodiff.types import HeadParams
from recon.layers.dynamics import Dynamics
from recon.layers.posing import FastHead
from recon.layers.refinement import PAPER_ITERATIONS, HeadResidual, RefinementConfig
from recon.layers.rigged import Fields, PosedHeads

#: Position maps of so many time steps are kept; of longer sets they are made anew at each step.
_KEPT_MAPS = 512


@dataclass(frozen=True)
class Posed:
    """A time step: vertices (V, 3), fields of the Gaussians, and terms to add to the loss."""

    vertices: Tensor
    fields: Fields
    terms: dict[str, Tensor]


class Rig:
    """Everything that is learnt beside the Gaussians' own fields, with its optimisers.

    latents: (T, tokens, width) of the expression encoder for the time steps of `params`, or None.
    iterations: length of the run.
    """

    def __init__(
        self, head: HeadModel, params: HeadParams, refinement: RefinementConfig, dynamics: Dynamics | None,
        latents: Tensor | None = None,
        iterations: int = PAPER_ITERATIONS,
    ) -> None:  # fmt: skip
        self._head, self._params, self._latents = head, params, latents
        self._iterations = iterations
        self.residual = HeadResidual(params, refinement, iterations) if refinement.enabled else None
        self.dynamics = dynamics
        self._fast = FastHead(head, params.static_offset)
        still = self.residual is None and (dynamics is None or dynamics.deform is None)
        self._posed = PosedHeads(head, params) if still else None
        self._maps: dict[int, Tensor] = {}
        self._optimiser = None if dynamics is None else torch.optim.Adam(_groups(dynamics), lr=0.0)

    @property
    def params(self) -> HeadParams:
        """Head parameters of all time steps, with what was learnt about them."""
        return self.residual.apply(self._params).detach() if self.residual else self._params

    def pose(self, step: int, fields: Fields, known: Tensor, share: float = 1.0, fitting: bool = False) -> Posed:
        """A time step after a share of the run. known: (N,) bool, Gaussians that the expression may change. fitting:
        blurs the expression code."""
        terms: dict[str, Tensor] = {}
        params = self.residual.frame(self._params, step) if self.residual else self._params.frame(step)
        moved = None
        if self.dynamics is not None:
            latent = None if self._latents is None else self._latents[step]
            code = self.dynamics.codes.code(self._params.frame(step), latent)
            number = round(share * self._iterations) if fitting else -1
            if self.dynamics.deform is not None and share >= self.dynamics.deform.config.start:
                moved = self._movement(step, self._blurred(code, self.dynamics.deform.config.noise, number), terms)
            if self.dynamics.attributes is not None and share >= self.dynamics.attributes.config.start:
                config = self.dynamics.attributes.config
                code = self._blurred(code, config.noise, number)
                fields, outputs = self.dynamics.changed(fields, fields["latent"], known, code)
                terms["attributes"] = config.small * outputs.square().mean()
        if self._posed is not None:
            return Posed(self._posed.vertices(step), fields, terms)
        return Posed(self._fast.vertices(params, moved), fields, terms)

    def _blurred(self, code: Tensor, noise: float, iteration: int) -> Tensor:
        assert self.dynamics is not None
        return code if iteration < 0 else self.dynamics.codes.blurred(code, noise, iteration)

    def _movement(self, step: int, code: Tensor, terms: dict[str, Tensor]) -> Tensor:
        assert self.dynamics is not None and self.dynamics.deform is not None
        positions = self._maps.get(step)
        if positions is None:
            positions = self.dynamics.position_map(self._params.frame(step))
            if len(self._maps) < _KEPT_MAPS:
                self._maps[step] = positions
        movement = self.dynamics.movement(positions, code)
        config = self.dynamics.deform.config
        terms["smooth"] = config.smooth * self.dynamics.roughness(movement)
        terms["small"] = config.small * self.dynamics.size_of(movement)
        return self.dynamics.at_vertices(movement)

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        if self.residual:
            self.residual.zero_grad()
        if self._optimiser:
            self._optimiser.zero_grad(set_to_none=True)

    def step(self, share: float) -> None:
        """One step of the optimisers after a share of the run; the networks' rates fall to a tenth."""
        if self.residual:
            self.residual.step(share)
        if self._optimiser:
            for group in self._optimiser.param_groups:
                group["lr"] = group["peak"] * 0.1**share
            self._optimiser.step()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold."""
        found: dict[str, Tensor] = {}
        if self.residual:
            found.update({f"residual.{name}": value for name, value in self.residual.state().items()})
        if self.dynamics is not None and self._optimiser:
            for name, value in self.dynamics.named_parameters():
                found[f"network.{name}"] = value.detach()
                for key, moment in self._optimiser.state.get(value, {}).items():
                    found[f"moment.{key}.{name}"] = moment
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        if self.residual:
            self.residual.restore({k[9:]: v for k, v in state.items() if k.startswith("residual.")})
        if self.dynamics is not None and self._optimiser:
            for name, value in self.dynamics.named_parameters():
                value.data.copy_(state[f"network.{name}"])
                moments = {
                    key: state[f"moment.{key}.{name}"]
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"moment.{key}.{name}" in state
                }
                if moments:
                    self._optimiser.state[value] = {**moments, "step": moments["step"].cpu()}


def _groups(dynamics: Dynamics) -> list[dict[str, object]]:
    nets = [net for net in (dynamics.deform, dynamics.attributes) if net is not None]
    return [{"params": list(net.parameters()), "peak": net_rate(net)} for net in nets]


def net_rate(net: torch.nn.Module) -> float:
    """Peak learning rate of a network that carries its configuration."""
    return float(net.config.rate)  # type: ignore[union-attr, arg-type]
