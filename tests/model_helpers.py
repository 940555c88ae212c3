"""Small networks and random conditions shared by the tests of the models, the pipeline and training."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from geodiff.models.joint_unet import Condition
from geodiff.models.networks import TEST, ModelConfig, Networks, build_networks

SIDE = 8


def tiny(**changes: object) -> ModelConfig:
    settings = {"autoencoder_args": {"factor": 4}, "image_size": 32, "motion": False}
    return dataclasses.replace(TEST, **(settings | changes))


def scrambled(config: ModelConfig, seed: int = 0) -> Networks:
    """Networks whose zero-initialised layers have weights too, so that every input matters."""
    torch.manual_seed(seed)
    networks = build_networks(config).eval()
    for module in networks.trained().values():
        for name, parameter in module.named_parameters():
            if "motion_modules" not in name and not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    return networks


def random_condition(
    networks: Networks, batch: int = 1, frames: int = 3, seed: int = 0, reference: bool = True
) -> Condition:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    channels = networks.autoencoder.channels
    encoder = networks.config.encoder
    features = None
    if reference:
        domains = networks.config.reference_domains
        with torch.no_grad():
            features = networks.reference_net(draw(batch, domains, channels, SIDE, SIDE), draw(batch, 3, SIDE, SIDE))
    with_proposal = networks.config.proposal
    return Condition(
        pose_map=draw(batch, 3, frames, SIDE, SIDE),
        expression=draw(batch, frames, encoder.tokens, encoder.width),
        reference=features,
        proposal=draw(batch, 2, channels, frames, SIDE, SIDE) if with_proposal else None,
        visibility=draw(batch, 1, frames, SIDE, SIDE) if with_proposal else None,
    )


def random_latents(networks: Networks, batch: int = 1, frames: int = 3, seed: int = 1) -> torch.Tensor:
    shape = (batch, 2, networks.autoencoder.channels, frames, SIDE, SIDE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
