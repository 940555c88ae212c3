"""The expression code that refinements are conditioned on: latents of the generator's encoder, or head parameters.

A clip set of ours holds one latent (tokens, width) for each time step (`expression.safetensors`); an export of another
tool holds none, and built-in motions, parameter files and tracked videos bring none. So where an avatar was fitted with
latents, a linear estimate from head parameters stands in for those that a drive does not have; and where it was fitted
without, the head parameters that the expression moves are the code themselves, as a single token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geodiff.types import HeadParams

#: Standard deviations beyond which a code is held: what lies further out was never seen in fitting.
REACH = 3.0
#: Name of the code in a `Drive`.
LATENT = "expression_latent"
#: Ridge of the estimate of latents, as a share of the parameters' variance.
_RIDGE = 0.05
#: Spread below which an entry of the code says nothing.
_STILL = 1e-4


def expression_vector(params: HeadParams) -> Tensor:
    """(T, E + 9) what moves with the expression: weights, jaw and eyes."""
    return torch.cat([params.expr, params.jaw_pose, params.eyes_pose], 1)


@dataclass(frozen=True)
class CodeSource:
    """Turns a frame's parameters (and latent) into a code (tokens, width) of mean 0 and deviation 1 over the frames.

    mean, deviation: (tokens, width) of the code; entries that stand still have an infinite deviation. estimate:
    (E + 10, tokens * width) from parameters and 1 to latents, or None where parameters are the code.
    """

    mean: Tensor
    deviation: Tensor
    estimate: Tensor | None = None

    @property
    def tokens(self) -> int:
        return self.mean.shape[0]

    @property
    def width(self) -> int:
        return self.mean.shape[1]

    @property
    def takes_latents(self) -> bool:
        return self.estimate is not None

    def code(self, params: HeadParams, latent: Tensor | None = None) -> Tensor:
        """(tokens, width) of one frame (T = 1). latent: (tokens, width) of the encoder, None where there is none."""
        if self.estimate is None:
            raw = expression_vector(params)
        elif latent is None:
            vector = expression_vector(params)[0]
            raw = (torch.cat([vector, vector.new_ones(1)]) @ self.estimate).view_as(self.mean)
        else:
            raw = latent
        return ((raw - self.mean) / self.deviation).clamp(-REACH, REACH)

    def blurred(self, code: Tensor, noise: float, seed: int) -> Tensor:
        """The code with noise of so many deviations, where it moves at all.

        Few expressions leave room for functions of them that only hold at those very ones; noise closes it.
        """
        if noise <= 0:
            return code
        drawn = torch.randn(code.shape, generator=torch.Generator().manual_seed(seed)).to(code)
        return code + noise * drawn * torch.isfinite(self.deviation)

    def tensors(self) -> dict[str, Tensor]:
        """What a file must hold."""
        found = {"mean": self.mean, "deviation": self.deviation}
        return found if self.estimate is None else {**found, "estimate": self.estimate}

    def to(self, device: torch.device | str) -> CodeSource:
        return CodeSource.of({name: value.to(device) for name, value in self.tensors().items()})

    @staticmethod
    def of(tensors: dict[str, Tensor]) -> CodeSource:
        """The inverse of `tensors`."""
        return CodeSource(tensors["mean"], tensors["deviation"], tensors.get("estimate"))


def fit_codes(params: HeadParams, latents: Tensor | None) -> CodeSource:
    """The code of a set of frames. params: T frames. latents: (T, tokens, width), or None to take the parameters."""
    vectors = expression_vector(params)
    if latents is None:
        return CodeSource(*_spread(vectors[:, None]))
    known = torch.cat([vectors, vectors.new_ones(len(vectors), 1)], 1).double()
    # The constant carries the mean and is not held back; what stands still is held at nothing.
    spread = known.var(0, unbiased=False) * _RIDGE + _STILL**2
    spread[-1] = _STILL**2
    ridge = len(known) * torch.diag(spread)
    estimate = torch.linalg.solve(known.T @ known + ridge, known.T @ latents.flatten(1).double())
    return CodeSource(*_spread(latents), estimate.float())


def _spread(values: Tensor) -> tuple[Tensor, Tensor]:
    deviation = values.std(0, unbiased=False)
    return values.mean(0), torch.where(deviation > _STILL, deviation, torch.full_like(deviation, torch.inf))
