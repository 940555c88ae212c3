"""The stages of training (paper 4.1): images first, without temporal modules; then clips, with them. Before both, where
one is wanted, a learned autoencoder, and the expression encoder by itself."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from pathlib import Path

from geodiff.assets import find_weights
from geodiff.errors import ConfigError
from geodiff.models.convert import REPORT_FILE, ConvertConfig, convert
from geodiff.models.expression_encoder import ExpressionEncoder
from geodiff.models.networks import MODEL_FILE, MODELS, ModelConfig, Networks, build_networks, load_weights
from geodiff.training.config import TrainConfig
from geodiff.training.reading import ExpressionCrops
from geodiff.training.reconstruction import ReconstructionConfig
from geodiff.training.tasks import ENCODER_FILE, AutoencoderTask, ReadingTask, autoencoder_of


@dataclass(frozen=True)
class Stage:
    """motion: with temporal modules. frames: the fewest frames of a clip that make sense."""

    motion: bool
    frames: int


#: In `images` a clip's frames are independent views that share one run of the reference net.
STAGES = {"images": Stage(motion=False, frames=1), "clips": Stage(motion=True, frames=2)}
#: Stages before them.
AUTOENCODER, EXPRESSION = "autoencoder", "expression"


def networks_for(
    stage: str, model: ModelConfig, start: Path | str | None = None, autoencoder: Path | str | None = None
) -> Networks:
    """The networks a stage trains: fresh, or those of the folder `start`.

    A `clips` stage takes the weights of an `images` stage and begins as the same function; sizes come from `start`
    then. autoencoder: folder of one trained by itself, for networks that begin fresh.
    """
    if stage not in STAGES:
        raise ConfigError(f"The stage must be one of {', '.join(STAGES)}; found {stage!r}.")
    motion = STAGES[stage].motion
    if start is None:
        return _fresh(dataclasses.replace(model, motion=motion), autoencoder)
    if autoencoder is not None:
        raise ConfigError(
            f"weights that training starts from bring their own autoencoder; found start={start} and "
            f"autoencoder={autoencoder}: leave one out."
        )
    loaded = Networks.load(start)
    if loaded.config.motion == motion:
        return loaded
    if loaded.config.motion:
        raise ConfigError(
            f"The stage {stage!r} cannot start from weights with temporal modules ({start}): use `clips`."
        )
    networks = build_networks(dataclasses.replace(loaded.config, motion=True))
    networks.unet.load_2d(loaded.unet.state_dict())
    return dataclasses.replace(
        networks,
        autoencoder=loaded.autoencoder,
        reference_net=loaded.reference_net,
        expression_encoder=loaded.expression_encoder,
    )


def with_encoder(networks: Networks, folder: Path | str | None, fixed: bool = False) -> Networks:
    """The networks with the expression encoder that was trained by itself; its null tokens stay the networks' own.
    folder: of that encoder, None to keep the networks' own. fixed: it shall not learn further; null tokens that are
    learned still do.

    Raises AssetError where it is of another size.
    """
    encoder = networks.expression_encoder
    null, learned = encoder.null.detach().clone(), encoder.null.requires_grad
    if folder is not None:
        load_weights(encoder, Path(folder) / ENCODER_FILE)
        encoder.null.data.copy_(null)
    if fixed:
        encoder.requires_grad_(False)
        encoder.null.requires_grad_(learned)
    return networks


def starting_weights(config: TrainConfig, out: Path) -> Path | None:
    """The folder that a run starts from, None for none: weights of this program as they are, others converted to
    `out`/start with an account of every tensor. Called by one process, before the others look.

    Raises AssetError where the sources are missing or not what they should be.
    """
    if config.start is None:
        if config.motion or config.xnemo:
            raise ConfigError("motion and xnemo go over the weights that start names, and it names none: set start")
        return None
    kept = out / "start"
    if (kept / REPORT_FILE).is_file():
        return kept
    if not (config.motion or config.xnemo):
        found = find_weights(config.start, parts=("", "unet/", "vae/"))
        if (found / MODEL_FILE).is_file():
            return found
    sources = ConvertConfig(config.start, config.motion, config.xnemo, stage=config.stage, precision="fp32")
    convert(sources, kept)
    return kept


def _fresh(model: ModelConfig, autoencoder: Path | str | None) -> Networks:
    if autoencoder is None:
        return build_networks(model)
    folder = Path(autoencoder)
    kind, arguments = autoencoder_of(folder)
    networks = build_networks(dataclasses.replace(model, autoencoder=kind, autoencoder_args=arguments))
    load_weights(networks.autoencoder, folder / "autoencoder.safetensors")
    return networks


def autoencoder_task(config: TrainConfig) -> AutoencoderTask:
    """The autoencoder that a run trains: fresh, or that of the folder `config.start`, of which the kind comes then."""
    model = MODELS[config.model]
    kind, arguments = model.autoencoder, model.autoencoder_args
    settings: ReconstructionConfig = config.reconstruction
    if config.start is not None:
        kind, arguments = autoencoder_of(Path(config.start))
    elif settings.kind and settings.kind != kind:
        kind, arguments = settings.kind, {}
    task = AutoencoderTask(kind, arguments, settings)
    if config.start is not None:
        task.restore(Path(config.start))
    return task


def reading_task(config: TrainConfig, crops: ExpressionCrops) -> ReadingTask:
    """The encoder that a run trains by itself: fresh, or that of the folder `config.start`."""
    task = ReadingTask(ExpressionEncoder(**asdict(MODELS[config.model].encoder)), crops.spread, config.reading)
    if config.start is not None:
        task.restore(Path(config.start))
    return task
