"""The full preset is the paper's configuration (3.2, 4.1, A.1)."""

from __future__ import annotations

import pytest

from geodiff.config import load_config
from geodiff.models.networks import FULL
from geodiff.training.config import TrainConfig
from pipelines.generate import GenerateConfig


def test_networks() -> None:
    assert (FULL.image_size, FULL.autoencoder, FULL.autoencoder_args) == (512, "kl", {})
    assert FULL.unet.channels == (320, 640, 1280, 1280)
    assert (FULL.encoder.tokens, FULL.encoder.width) == (32, 16)
    assert (FULL.proposal, FULL.motion, FULL.prediction) == (False, True, "epsilon")
    assert not FULL.schedule.rescale_betas_zero_snr, "it would erase the start from the reference"


def test_generation() -> None:
    config = load_config(GenerateConfig, "generate", "full")
    assert (config.image_size, config.views) == (512, 12)
    sampling = config.sampling
    assert (sampling.steps, sampling.guidance_scale, sampling.init, sampling.strength) == (25, 2.5, "reference", 1.0)
    assert sampling.window == 16
    assert not sampling.share_frame_noise
    assert config.runtime.half_weights


@pytest.mark.parametrize(("stage", "steps", "batch"), [("images", 80_000, 32), ("clips", 20_000, 8)])
def test_training(stage: str, steps: int, batch: int) -> None:
    config = load_config(TrainConfig, f"train_{stage}", "full", [f"stage={stage}"])
    assert (config.model, config.steps, config.batch, config.lr) == ("full", steps, batch, 1e-5)
    assert config.loss.expression_drop == 0.1
    assert config.gradient_checkpointing
