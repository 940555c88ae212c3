"""The generator as a method of SynthBench (`geodiff.synth.bench`)."""

from __future__ import annotations

import numpy as np
import torch

from geodiff.metrics.picture import Picture
from geodiff.models.networks import Networks
from geodiff.models.sampling import SamplingConfig
from geodiff.synth.bench.tasks import Request
from pipelines.foreground import composite, with_portrait
from pipelines.portrait_normal import PortraitNormalPipeline


class NetworkMethod:
    """Frames as `geodiff generate` makes them, every one a clip of its own.

    keep_visible: share of the portrait's own pixels where it sees what a frame shows. seed: of the noise.
    """

    def __init__(
        self, networks: Networks, name: str, sampling: SamplingConfig, keep_visible: float = 0.0, seed: int = 0,
        device: str = "cpu", compute_dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        self.name, self.size = name, networks.config.image_size
        self.pipeline = PortraitNormalPipeline.from_networks(networks).to(device)
        self.sampling, self.keep_visible, self.seed, self.compute_dtype = sampling, keep_visible, seed, compute_dtype

    def __call__(self, request: Request) -> list[Picture]:
        identity = self.pipeline.encode_reference(request.reference)
        crops = torch.from_numpy(request.crops).permute(0, 3, 1, 2) * 2.0 - 1.0
        expression = self.pipeline.encode_expression(crops)
        pictures = []
        for number, (shot, condition) in enumerate(zip(request.shots, request.conditions, strict=True)):
            noise = torch.Generator().manual_seed(self.seed * 1_000_003 + 1000 * shot.identity + shot.number)
            output = self.pipeline(
                identity,
                [condition],
                expression[number : number + 1],
                sampling=self.sampling,
                generator=noise,
                compute_dtype=self.compute_dtype,
            )
            shown = with_portrait(output.images[0], condition.proposal, condition.visibility, self.keep_visible)
            image, normals, mask = composite(shown, output.normals[0], condition.silhouette)
            pictures.append(Picture(image.astype(np.float32), mask, normals))
        return pictures
