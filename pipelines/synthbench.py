"""The generator as a method of SynthBench (`geodiff.synth.bench`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from geodiff.conditioning import Condition, Reference
from geodiff.metrics.picture import Picture
from geodiff.models.networks import Networks
from geodiff.models.sampling import SamplingConfig
from geodiff.synth.bench.expression import Ask
from geodiff.synth.bench.tasks import Request
from pipelines.foreground import Finish, composite
from pipelines.portrait_normal import PortraitNormalOutput, PortraitNormalPipeline


class NetworkMethod:
    """Frames as `geodiff generate` makes them, every one a clip of its own.

    seed: of the noise.
    """

    def __init__(
        self, networks: Networks, name: str, sampling: SamplingConfig, finish: Finish = Finish(), seed: int = 0,
        device: str = "cpu", compute_dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        self.name, self.size = name, networks.config.image_size
        self.pipeline = PortraitNormalPipeline.from_networks(networks).to(device)
        self.sampling, self.finish, self.seed, self.compute_dtype = sampling, finish, seed, compute_dtype

    def __call__(self, request: Request) -> list[Picture]:
        seeds = [1000 * shot.identity + shot.number for shot in request.shots]
        outputs = self.outputs(request.reference, request.conditions, self.tokens(request.crops), seeds)
        return [
            finished(output, condition, self.finish)
            for output, condition in zip(outputs, request.conditions, strict=True)
        ]

    def tokens(self, crops: np.ndarray) -> Tensor:
        """(T, 64, 64, 3) face crops 0..1 -> (T, tokens, width)."""
        return self.pipeline.encode_expression(torch.from_numpy(crops).permute(0, 3, 1, 2) * 2.0 - 1.0)

    @property
    def null_tokens(self) -> Tensor:
        """(1, tokens, width) that stand for no expression."""
        return self.pipeline.expression_encoder.null.detach().float().cpu()[None]

    def outputs(
        self, reference: Reference, conditions: Sequence[Condition], tokens: Tensor, seeds: Sequence[int]
    ) -> list[PortraitNormalOutput]:
        """Decoded frames, each from noise of its own; tokens: (T, tokens, width)."""
        identity = self.pipeline.encode_reference(reference)
        return [
            self.pipeline(
                identity,
                [condition],
                tokens[number : number + 1],
                sampling=self.sampling,
                generator=torch.Generator().manual_seed(self.seed * 1_000_003 + seed),
                compute_dtype=self.compute_dtype,
            )
            for number, (condition, seed) in enumerate(zip(conditions, seeds, strict=True))
        ]


class ExpressionMaker:
    """A method as `geodiff.synth.bench.expression` asks it. ways: name -> how frames are finished."""

    def __init__(self, method: NetworkMethod, ways: Mapping[str, Finish]) -> None:
        self.method, self.ways, self.size = method, ways, method.size

    def __call__(self, reference: Reference, asks: Sequence[Ask], seed: int) -> dict[str, list[Picture]]:
        method = self.method
        tokens = [method.null_tokens if ask.crop is None else method.tokens(ask.crop[None]) for ask in asks]
        conditions = [ask.condition for ask in asks]
        outputs = method.outputs(reference, conditions, torch.cat(tokens), [seed] * len(asks))
        pairs = list(zip(outputs, conditions, strict=True))
        return {name: [finished(*pair, finish) for pair in pairs] for name, finish in self.ways.items()}


def finished(output: PortraitNormalOutput, condition: Condition, finish: Finish) -> Picture:
    """What is stored of a decoded frame; output: of one frame."""
    shown = finish(output.images[0], condition)
    image, normals, mask = composite(shown, output.normals[0], condition.silhouette, condition.beside)
    return Picture(image.astype(np.float32), mask, normals)
