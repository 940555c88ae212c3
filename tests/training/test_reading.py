"""The expression encoder by itself: it learns to read, and the generator's training takes it over."""

import dataclasses
from pathlib import Path

import pytest
import torch
from model_helpers import tiny
from torch import Tensor
from torch.utils.data import Dataset
from training_helpers import quick, write_set

from geodiff.errors import AssetError, ConfigError, InputError
from geodiff.models.expression_encoder import ExpressionEncoder
from geodiff.models.networks import build_networks
from geodiff.training.augment import AugmentConfig
from geodiff.training.loop import train_task
from geodiff.training.reading import ExpressionCrops, ReadingConfig, reading_figures
from geodiff.training.run import DataConfig, run_stage, stage_config
from geodiff.training.stages import with_encoder
from geodiff.training.tasks import ReadingTask


class Bars(Dataset[dict[str, Tensor]]):
    """Crops in which two bars are as bright as two expressions are strong."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        expression = torch.rand(1, 2, generator=torch.Generator().manual_seed(index))
        crop = torch.zeros(1, 3, 16, 16)
        crop[..., :8, :], crop[..., 8:, :] = expression[0, 0] * 2 - 1, expression[0, 1] * 2 - 1
        return {"driving": crop, "expression": expression}


def reading_task() -> ReadingTask:
    torch.manual_seed(0)
    encoder = ExpressionEncoder(tokens=2, width=8, channels=(8, 8), bottleneck=8, crop=16)
    return ReadingTask(encoder, torch.tensor([0.29, 0.29]), ReadingConfig(AugmentConfig(strength=0.0)))


def test_tokens_learn_to_tell_expressions(tmp_path: Path) -> None:
    crops = Bars()
    batch = torch.utils.data.default_collate([crops[i] for i in range(100, 132)])
    before = reading_figures(reading_task().objective, batch)
    task = reading_task()
    train_task(task, crops, quick(steps=150, batch=16, lr=5e-3), tmp_path)
    after = reading_figures(task.objective, batch)
    assert before["unexplained"] > 0.9
    assert after["unexplained"] < 0.4
    assert after["token_spread"] > 0.1


def test_a_run_goes_on_where_it_was_and_its_encoder_is_taken_over(tmp_path: Path) -> None:
    data, out = write_set(tmp_path / "set", (0, 1)), tmp_path / "run"
    config = stage_config("expression", "test", ["steps=2", "sheet_every=0"])
    run_stage(config, DataConfig([data]), out)
    weights = run_stage(dataclasses.replace(config, steps=3), DataConfig([data]), out)
    assert len((out / "log.csv").read_text().splitlines()) == 4

    networks = build_networks(tiny())
    networks.expression_encoder.null.data.fill_(0.25)
    before = networks.expression_encoder.squeeze.weight.clone()
    with_encoder(networks, weights)
    assert not torch.equal(networks.expression_encoder.squeeze.weight, before)
    assert torch.equal(networks.expression_encoder.null, torch.full_like(networks.expression_encoder.null, 0.25))
    assert all(parameter.requires_grad for parameter in networks.expression_encoder.parameters())
    with pytest.raises(AssetError, match="do not fit"):
        with_encoder(build_networks(tiny(encoder=dataclasses.replace(tiny().encoder, tokens=3))), weights)


def test_only_synthetic_sets_tell_expressions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="synthetic sets alone"):
        ExpressionCrops([tmp_path])
    with pytest.raises(InputError, match="held_out"):
        ExpressionCrops([write_set(tmp_path / "set", (0, 1))], "held_out")
