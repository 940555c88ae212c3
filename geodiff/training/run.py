"""A stage of training from its configuration and folders of data to a folder of weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from geodiff.config import choose, load_config
from geodiff.errors import InputError
from geodiff.files import read_json
from geodiff.models.networks import MODELS
from geodiff.training.batches import Samples
from geodiff.training.config import TrainConfig
from geodiff.training.dataset import Split
from geodiff.training.loop import Report, train_task
from geodiff.training.reading import ExpressionCrops
from geodiff.training.sources import CACHE, open_sources, window_length
from geodiff.training.stages import (
    AUTOENCODER,
    EXPRESSION,
    STAGES,
    autoencoder_task,
    networks_for,
    reading_task,
    starting_weights,
    with_encoder,
)
from geodiff.training.tasks import GeneratorTask, Task

#: Both stages of the generator, one after the other.
GENERATOR = "generator"
NAMES = (AUTOENCODER, EXPRESSION, GENERATOR, *STAGES)


@dataclass(frozen=True)
class DataConfig:
    """What to learn from, as `sources.open_sources` takes it; frames None for the stage's own choice."""

    folders: Sequence[Path]
    shares: Sequence[float] = ()
    frames: int | None = None


def stage_config(stage: str, preset: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a stage: the section `train_STAGE` of the preset. Raises ConfigError."""
    choose("stage", stage, (AUTOENCODER, EXPRESSION, *STAGES))
    config = load_config(TrainConfig, f"train_{stage}", preset, [*overrides, f"stage={stage}"])
    choose("model", config.model, MODELS)
    return config


def generator_configs(preset: str, overrides: Sequence[str] = ()) -> dict[str, TrainConfig]:
    """Those of both stages. Overrides count for both, or for one where they begin with its name: images.steps=1000."""
    told = {}
    for stage in STAGES:
        others = tuple(f"{other}." for other in STAGES if other != stage)
        mine = [item.removeprefix(f"{stage}.") for item in overrides if not item.startswith(others)]
        told[stage] = stage_config(stage, preset, mine)
    # What was said for both is meant for the stage that it can be meant for.
    told["images"] = dataclasses.replace(told["images"], motion="")
    return told


def run_stage(
    config: TrainConfig,
    data: DataConfig,
    out: Path,
    report: Report | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Train until the configuration's end, from the last checkpoint in `out` on; returns the folder of weights."""
    task: Task
    if config.stage == EXPRESSION:
        crops = ExpressionCrops(data.folders)
        train_task(reading_task(config, crops), crops, config, out, _held_out_crops(data), report)
        return out / "weights"
    if config.stage == AUTOENCODER:
        task, size = autoencoder_task(config), MODELS[config.model].image_size
    else:
        with PartialState().main_process_first():
            start = starting_weights(config, out)
        networks = networks_for(config.stage, MODELS[config.model], start, config.autoencoder)
        # A run that goes on from another's weights has the encoder in them.
        encoder = config.encoder if config.first_step == 0 else None
        networks = with_encoder(networks, encoder, config.encoder_fixed)
        task, size = GeneratorTask(networks, config.loss), networks.config.image_size
    training, held_out = open_splits(config, data, size, out / CACHE, say)
    train_task(task, training, config, out, held_out, report)
    return out / "weights"


def _held_out_crops(data: DataConfig) -> ExpressionCrops | None:
    try:
        return ExpressionCrops(data.folders, "held_out")
    except InputError:
        return None


def open_splits(
    config: TrainConfig, data: DataConfig, size: int, cache: Path, say: Callable[[str], None] | None = None
) -> tuple[Samples, Samples | None]:
    """People to train on, and held-out ones; None where there are too few people to hold some out."""
    frames = data.frames or (window_length(data.folders) if config.stage == "clips" else 1)

    def opened(split: Split) -> Samples:
        return open_sources(data.folders, data.shares, frames=frames, split=split, size=size, cache=cache)

    training = opened("train")
    try:
        return training, opened("held_out")
    except InputError:
        if say is not None:
            say("The data hold nobody out: sample sheets show people that are trained on.")
        return training, None


def run_generator(
    configs: dict[str, TrainConfig],
    data: DataConfig,
    out: Path,
    report: Callable[[str, float, str], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Both stages, in folders of their names below `out`; the second begins with the first one's averaged weights."""
    weights = None
    for stage, config in configs.items():
        folder = out / stage
        if weights is not None:
            config = dataclasses.replace(config, start=str(weights), xnemo="", encoder=None)

        def told(done: float, words: str, stage: str = stage) -> None:
            if report is not None:
                report(stage, done, words)

        weights = folder / "weights"
        record = weights / "training.json"
        if not (record.is_file() and read_json(record)["step"] >= config.steps):
            run_stage(config, data, folder, told, say)
            if read_json(record)["step"] < config.steps:
                break
    assert weights is not None
    return weights
