"""What the loop trains: the generator's networks, or an autoencoder, behind one small interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geodiff.errors import AssetError
from geodiff.files import make_folder, read_json, save_tensors, write_json
from geodiff.models.autoencoder import AUTOENCODERS, Autoencoder
from geodiff.models.expression_encoder import ExpressionEncoder
from geodiff.models.networks import Networks, channels_last, load_weights
from geodiff.models.runtime import compile_blocks
from geodiff.models.weight_files import read_state
from geodiff.training.config import TrainConfig
from geodiff.training.objective import Batch, LossConfig, Objective
from geodiff.training.reading import ReadingConfig, ReadingObjective, reading_figures
from geodiff.training.reconstruction import ReconstructionConfig, ReconstructionObjective, reconstruction_figures
from geodiff.training.sheet import figures, sample_batch, write_crops, write_reconstructions, write_sheet

#: The encoder's weights, and those of the map that read expressions from its tokens, in their folder.
ENCODER_FILE, READOUT_FILE = "expression_encoder.safetensors", "readout.safetensors"
#: Names the kind of a trained autoencoder and its arguments, in its folder.
AUTOENCODER_FILE = "autoencoder.json"


class Task(ABC):
    """`objective(batch, draws)` gives (loss, parts); all that learns is in its `trained`."""

    objective: nn.Module

    @property
    def trained(self) -> nn.ModuleDict:
        found = self.objective.trained
        assert isinstance(found, nn.ModuleDict)
        return found

    def parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer changes."""
        return {name: p for name, p in self.trained.named_parameters() if p.requires_grad}

    def to(self, device: torch.device | str) -> None:
        self.objective.to(device)

    def prepare(self, config: TrainConfig) -> None:
        """Memory layout, compilation and checkpointed gradients."""
        for module in self.trained.values():
            if config.channels_last:
                channels_last(module)

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights that `restore`, and whoever uses them, can read."""

    @abstractmethod
    def restore(self, folder: Path) -> None:
        """Take the weights of a folder in place. Raises AssetError where they are of other networks."""

    @abstractmethod
    def validate(
        self, batch: Batch, config: TrainConfig, sheet: Path, autocast: AbstractContextManager[Any]
    ) -> dict[str, float]:
        """Try held-out samples: writes a sheet and returns figures."""


def other_networks(folder: Path) -> AssetError:
    return AssetError(
        f"A run goes on with the networks it began with; {folder} holds others: choose another output folder."
    )


class GeneratorTask(Task):
    """All networks of the generator but the autoencoder, end to end (paper 3.1, 3.2)."""

    def __init__(self, networks: Networks, config: LossConfig) -> None:
        self.networks = networks
        self.objective = Objective(networks, config)

    def to(self, device: torch.device | str) -> None:
        self.networks.to(device)
        super().to(device)

    def prepare(self, config: TrainConfig) -> None:
        super().prepare(config)
        if config.gradient_checkpointing:
            self.networks.unet.checkpoint_gradients()
            self.networks.reference_net.checkpoint_gradients()
        networks = self.networks
        if config.compile == "blocks":
            for module in (networks.unet, networks.reference_net):
                compile_blocks(module)
        elif config.compile == "whole":
            for module in (networks.unet.unet, networks.reference_net.unet, networks.expression_encoder):
                module.compile(dynamic=False)

    def save(self, folder: Path) -> None:
        self.networks.save(folder)

    def restore(self, folder: Path) -> None:
        saved = Networks.load(folder)
        if saved.config != self.networks.config:
            raise other_networks(folder)
        for name, module in self.networks.modules():
            module.load_state_dict(getattr(saved, name).state_dict())

    def validate(
        self, batch: Batch, config: TrainConfig, sheet: Path, autocast: AbstractContextManager[Any]
    ) -> dict[str, float]:
        with autocast:
            generated = sample_batch(self.networks, batch, config.sampling, config.seed).float()
        write_sheet(sheet, generated, batch)
        return figures(generated, batch)


class AutoencoderTask(Task):
    """A learned autoencoder. kind, arguments: as in `ModelConfig`."""

    def __init__(self, kind: str, arguments: dict[str, Any], config: ReconstructionConfig) -> None:
        self.kind, self.arguments = kind, arguments
        self.objective: ReconstructionObjective = ReconstructionObjective(AUTOENCODERS[kind](**arguments), config)

    @property
    def autoencoder(self) -> Autoencoder:
        return self.objective.autoencoder

    def save(self, folder: Path) -> None:
        save_tensors(make_folder(folder) / "autoencoder.safetensors", self.autoencoder.state_dict())
        write_json(folder / AUTOENCODER_FILE, {"autoencoder": self.kind, "autoencoder_args": self.arguments})

    def restore(self, folder: Path) -> None:
        kind, arguments = autoencoder_of(folder)
        if (kind, arguments) != (self.kind, self.arguments):
            raise other_networks(folder)
        # In place: an optimizer may hold the parameters.
        saved = AUTOENCODERS[kind](**arguments)
        load_weights(saved, folder / "autoencoder.safetensors")
        self.autoencoder.load_state_dict(saved.state_dict())

    def validate(
        self, batch: Batch, config: TrainConfig, sheet: Path, autocast: AbstractContextManager[Any]
    ) -> dict[str, float]:
        with autocast:
            measured, decoded = reconstruction_figures(self.autoencoder, batch)
        write_reconstructions(sheet, decoded, batch)
        return measured


class ReadingTask(Task):
    """The expression encoder by itself. spread: (E,) of `reading.ExpressionCrops`, what is read."""

    def __init__(self, encoder: ExpressionEncoder, spread: Tensor, config: ReadingConfig) -> None:
        self.objective: ReadingObjective = ReadingObjective(encoder, spread, config)

    def save(self, folder: Path) -> None:
        make_folder(folder)
        save_tensors(folder / ENCODER_FILE, self.objective.encoder.state_dict())
        save_tensors(folder / READOUT_FILE, self.objective.readout.state_dict())

    def restore(self, folder: Path) -> None:
        try:
            for module, name in ((self.objective.encoder, ENCODER_FILE), (self.objective.readout, READOUT_FILE)):
                module.load_state_dict(read_state(folder / name))
        except RuntimeError as error:
            raise other_networks(folder) from error

    def validate(
        self, batch: Batch, config: TrainConfig, sheet: Path, autocast: AbstractContextManager[Any]
    ) -> dict[str, float]:
        with autocast:
            measured = reading_figures(self.objective, batch)
        write_crops(sheet, batch)
        return measured


def autoencoder_of(folder: Path) -> tuple[str, dict[str, Any]]:
    """Kind and arguments of the autoencoder in a folder: one that was trained by itself, or of a whole generator."""
    name = AUTOENCODER_FILE if (folder / AUTOENCODER_FILE).is_file() else "model.json"
    if not (folder / name).is_file():
        raise AssetError(
            f"an autoencoder's folder holds {AUTOENCODER_FILE} or model.json, and {folder} holds neither: name the "
            "`weights` folder of a run"
        )
    told = read_json(folder / name)
    return told["autoencoder"], told["autoencoder_args"]
