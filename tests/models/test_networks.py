from pathlib import Path

import pytest
import torch
from model_helpers import random_condition, random_latents, scrambled, tiny

from geodiff.errors import AssetError, ConfigError
from geodiff.models.networks import FULL, ModelConfig, Networks, ScheduleConfig


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_round_trip_keeps_weights_and_processors(tmp_path: Path, dtype: torch.dtype) -> None:
    networks = scrambled(tiny(motion=True))
    networks.save(tmp_path, dtype)
    loaded = Networks.load(tmp_path)
    assert loaded.config == networks.config
    assert loaded.unet.dtype == torch.float32
    condition, sample = random_condition(networks), random_latents(networks)
    with torch.no_grad():
        expected = networks.unet(sample, torch.tensor([300]), condition)
        found = loaded.unet(sample, torch.tensor([300]), condition)
    torch.testing.assert_close(found, expected, atol=0.0 if dtype == torch.float32 else 0.05, rtol=0)
    assert loaded.expression_encoder.weights_hash() == networks.expression_encoder.weights_hash()


def test_broken_weights_are_named(tmp_path: Path) -> None:
    networks = scrambled(tiny())
    with pytest.raises(AssetError, match="model.json"):
        Networks.load(tmp_path)
    networks.save(tmp_path)
    (tmp_path / "unet.safetensors").write_bytes(b"half")
    with pytest.raises(AssetError, match=r"unet\.safetensors do not fit"):
        Networks.load(tmp_path)


def test_configuration_round_trip_and_unknown_keys() -> None:
    from dataclasses import asdict

    assert ModelConfig.from_dict(asdict(FULL)) == FULL
    with pytest.raises(ConfigError, match="no setting 'unets'"):
        ModelConfig.from_dict({"unets": {}})
    with pytest.raises(ConfigError, match="Zero terminal SNR"):
        ModelConfig(schedule=ScheduleConfig(rescale_betas_zero_snr=True))


def test_expression_encoder_shapes_hash_and_drop() -> None:
    networks = scrambled(tiny())
    encoder = networks.expression_encoder
    with torch.no_grad():
        tokens = encoder(torch.rand(6, 3, 64, 64) * 2 - 1)
        assert tokens.shape == (6, 4, 16)
        assert encoder(torch.rand(1, 3, 96, 96)).shape == (1, 4, 16)
        dropped = encoder.drop(tokens.view(2, 3, 4, 16), torch.tensor([True, False]))
    torch.testing.assert_close(dropped[0], encoder.null.expand(3, 4, 16))
    torch.testing.assert_close(dropped[1], tokens[3:])
    before = encoder.weights_hash()
    with torch.no_grad():
        encoder.null += 1
    assert encoder.weights_hash() != before
