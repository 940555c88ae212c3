"""Stages from the command line: from folders of data to weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.utils.data import default_collate
from training_helpers import RandomClips, write_set

from geodiff.errors import ConfigError, InputError
from geodiff.models.networks import Networks
from geodiff.training.batches import Share, batches
from geodiff.training.config import TrainConfig
from geodiff.training.dataset import Mixture, SynthShards
from geodiff.training.log import CsvLog
from geodiff.training.resident import kept_decoded
from geodiff.training.run import generator_configs, stage_config
from geodiff.training.stages import starting_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"), people=(0, 1, 19))


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("size", [None, 24])
def test_sets_kept_decoded_give_the_same_samples(folder: Path, frames: int, size: int | None) -> None:
    dataset = SynthShards(folder, frames=frames, size=size)
    chosen = [len(dataset) - 1, 0, 0]
    batch = kept_decoded(dataset).batch(chosen, "cpu")
    expected = default_collate([dataset[i] for i in chosen])
    assert batch.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(batch[key], value, atol=1e-6, rtol=0)


def test_mixtures_kept_decoded_give_the_same_samples(folder: Path) -> None:
    mixture = Mixture([SynthShards(folder), SynthShards(folder, split="held_out")], [1, 1])
    chosen = [len(mixture) - 1, 0, len(mixture) - 2]
    batch = kept_decoded(mixture).batch(chosen, "cpu")
    for key, value in default_collate([mixture[i] for i in chosen]).items():
        torch.testing.assert_close(batch[key], value, atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match="keep_in=disk"):
        kept_decoded(RandomClips())


def test_batches_are_the_same_from_disk_and_from_memory(folder: Path) -> None:
    config = TrainConfig(steps=3, batch=2)
    dataset, share = SynthShards(folder), Share(at_once=2)
    read = list(batches(dataset, config, 1, share))
    kept = list(batches(dataset, dataclasses.replace(config, keep_in="memory"), 1, share))
    assert [positions for positions, _ in read] == [positions for positions, _ in kept] == [range(2, 4), range(4, 6)]
    for (_, one), (_, other) in zip(read, kept, strict=True):
        torch.testing.assert_close(one["images"], other["images"], atol=1e-6, rtol=0)


def test_the_papers_configuration_is_the_full_preset() -> None:
    stages = generator_configs("full")
    assert [(c.batch, c.steps, c.lr, c.precision) for c in stages.values()] == [
        (32, 80_000, 1e-5, "bf16"),
        (8, 20_000, 1e-5, "bf16"),
    ]
    assert all(c.gradient_checkpointing and c.loss.expression_drop == 0.1 for c in stages.values())
    told = generator_configs("full", ["images.steps=3", "clips.batch=4", "lr=1.0", "loss.augment.roll=0.5"])
    assert (told["images"].steps, told["clips"].steps, told["clips"].batch) == (3, 20_000, 4)
    assert told["clips"].lr == told["images"].lr == 1.0 and told["images"].loss.augment.roll == 0.5
    with pytest.raises(ConfigError, match="one of autoencoder, expression, images, clips"):
        stage_config("video", "full")


def test_both_stages_one_after_the_other_from_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from geodiff import cli

    command = ["train", "generator", "--data", str(folder), "--out", str(tmp_path), "--preset", "test"]
    small = ["--device", "cpu", "--frames", "2", "steps=1", "sheet_every=0"]
    assert cli.run([*command, "--frames", "1", *small, "images.seed=3"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "clips" / "weights")
    first, second = (Networks.load(tmp_path / stage / "weights") for stage in ("images", "clips"))
    assert not first.config.motion and second.config.motion
    assert cli.run([*command, *small]) == 0, "what is done is not done again"


def test_weights_of_other_programs_are_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def convert(config: object, out: Path) -> None:
        calls.append(config)
        out.mkdir(parents=True)
        (out / "conversion.json").write_text("{}")

    monkeypatch.setattr("geodiff.training.stages.convert", convert)
    base = tmp_path / "sd15"
    (base / "unet").mkdir(parents=True)
    (base / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    config = TrainConfig(start=str(base), stage="images")
    for _ in range(2):
        assert starting_weights(config, tmp_path / "run") == tmp_path / "run" / "start"
    assert len(calls) == 1 and calls[0].base == str(base) and calls[0].stage == "images"
    assert starting_weights(TrainConfig(), tmp_path) is None
    with pytest.raises(ConfigError, match="names none: set start"):
        starting_weights(TrainConfig(motion="mm"), tmp_path)


def test_a_set_too_small_to_hold_people_out_is_told(tmp_path: Path) -> None:
    from geodiff.training.run import DataConfig, open_splits

    said: list[str] = []
    folder = write_set(tmp_path / "few", people=(0, 1))
    training, held_out = open_splits(TrainConfig(), DataConfig([folder]), 48, tmp_path, said.append)
    assert len(training) == 10 and held_out is None
    assert said == ["The data hold nobody out: sample sheets show people that are trained on."]
    with pytest.raises(InputError):
        open_splits(TrainConfig(), DataConfig([tmp_path / "nothing"]), 48, tmp_path)


@pytest.mark.parametrize("torn", ["7,0.", "7", "ste"])
def test_a_log_with_half_a_row_is_gone_on_with(tmp_path: Path, torn: str) -> None:
    path, header = tmp_path / "log.csv", "" if torn == "ste" else "step,loss,lr\r\n5,0.5,0.1\r\n"
    path.write_text(header + torn, newline="")
    CsvLog(path, ("step", "loss", "lr"), 9).write({"step": 10, "loss": 0.25, "lr": 0.1})
    kept = ["5,0.5,0.1"] if header else []
    assert path.read_text().split() == ["step,loss,lr", *kept, "10,0.25,0.1"]
