"""The expression encoder by itself: its tokens learn to tell the expression of the face in a driving crop.

End to end the encoder learns from the little that a proposal does not say already, and in a short run it falls silent:
all crops get the same tokens, which nothing wakes again. Read from the tokens by one linear map, the true expression
weights of synthetic people give a start at which the tokens differ; the stages after it train end to end (paper 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from geodiff.errors import ConfigError, InputError
from geodiff.models.expression_encoder import ExpressionEncoder
from geodiff.training.augment import AugmentConfig, augment_crops
from geodiff.training.dataset import HELD_OUT_EVERY, Split, SynthShards, expression_odds
from geodiff.training.draws import Draws
from geodiff.training.faces import is_faces, read_faces
from geodiff.training.sources import is_synthetic

#: Expressions that vary less than this (of a weight that is 1 at its strongest) do not count for more than that.
LEAST_SPREAD = 0.05
#: Side of the crops that are taken from photographed faces.
FACE_PIXELS = 64


@dataclass(frozen=True)
class ReadingConfig:
    """augment: of the driving crops, as in the generator's training. apart: weight of what the tokens' standard
    deviation over a batch lacks of `least_apart`, the variance term of VICReg (Bardes et al. 2022)."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    apart: float = 1.0
    least_apart: float = 0.5


#: Reads one crop (S, S, 3) uint8.
Crop = Callable[[], np.ndarray]


def _same(crop: np.ndarray) -> np.ndarray:
    return crop


class ExpressionCrops(Dataset[dict[str, Tensor]]):
    """Driving crops of synthetic sets, or of folders of photographed faces (`faces`), with their expressions.

    A sample: driving (1, 3, crop, crop) in -1..1, expression (1, E), weights of the true head's expressions, of
    photographed faces the movements that these make. spread: (E,) what counts as one of each.
    Raises ConfigError for other data, InputError where sets have different expressions.
    """

    def __init__(self, folders: Sequence[Path], split: Split = "train") -> None:
        filmed = [folder for folder in folders if not is_synthetic(folder) and not is_faces(folder)]
        if filmed:
            raise ConfigError(
                f"the encoder by itself learns from true expressions, which synthetic sets alone have; found "
                f"{filmed[0]}: leave it out"
            )
        self.places: list[Crop] = []
        weights: list[Sequence[float]] = []
        missing: InputError | None = None
        for folder in folders:
            try:
                if is_faces(folder):
                    crops, told = read_faces(folder, HELD_OUT_EVERY, split == "held_out", FACE_PIXELS)
                    self.places += [partial(_same, crop) for crop in crops]
                    weights += list(told)
                    continue
                entries = SynthShards(folder, split=split).entries
            except InputError as error:
                missing = error
                continue
            for file, _, steps, about in entries:
                self.places.append(partial(file.read, steps[0]["driving"]))
                weights.append(about["weights"][0])
        if not self.places and missing is not None:
            raise missing
        if len({len(one) for one in weights}) > 1:
            raise InputError(
                "sets that are learned from together must have people of one head model, and their expressions differ "
                "in number: train with one of them"
            )
        self.expressions = torch.tensor(np.asarray(weights, np.float32))
        deviation = self.expressions.std(dim=0)
        whole = deviation.square().mean().sqrt().expand_as(deviation)
        self.spread = whole if any(is_faces(folder) for folder in folders) else deviation.clamp(min=LEAST_SPREAD)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        crop = torch.from_numpy(self.places[index]()).permute(2, 0, 1).float().mul_(1 / 127.5).sub_(1.0)
        return {"driving": crop[None], "expression": self.expressions[index][None]}

    def rarity(self) -> np.ndarray:
        """(N,) how often to draw each sample, mean 1; see `dataset.expression_odds`."""
        return expression_odds(self.expressions.numpy())


class ReadingObjective(nn.Module):
    """Crops to the share of the expressions' variance that the tokens do not tell.

    spread: (E,) of `ExpressionCrops`.
    """

    def __init__(self, encoder: ExpressionEncoder, spread: Tensor, config: ReadingConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        size = encoder.config.tokens * encoder.config.width
        # Read relative to how far crops stand apart: a small difference is told as loudly as a large one.
        self.readout = nn.Sequential(nn.BatchNorm1d(size, affine=False), nn.Linear(size, len(spread)))
        # All but the null tokens, which nothing here uses.
        encoder.requires_grad_(True)
        encoder.null.requires_grad_(False)
        self.trained = nn.ModuleDict({"expression_encoder": encoder, "readout": self.readout})
        self.spread: Tensor
        self.register_buffer("spread", spread, persistent=False)

    def forward(self, batch: dict[str, Tensor], draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        crops = augment_crops(batch["driving"], draws, self.config.augment)
        tokens = self.encoder(crops.flatten(0, 1)).flatten(1).float()
        loss = self.unexplained(tokens, batch["expression"])
        near = (self.config.least_apart - (tokens.var(dim=0) + 1e-4).sqrt()).clamp(min=0).mean()
        return loss + self.config.apart * near, {"expression": loss.detach()}

    def unexplained(self, tokens: Tensor, expression: Tensor) -> Tensor:
        """Mean over expressions of the squared error in units of their spread. tokens: (N, tokens * width)."""
        return ((self.readout(tokens) - expression.flatten(0, 1)) / self.spread).square().mean()


@torch.no_grad()
def reading_figures(objective: ReadingObjective, batch: dict[str, Tensor]) -> dict[str, float]:
    """unexplained: share of the variance left; token_spread: the tokens' standard deviation over crops, root mean
    square over their numbers (about 0 where the encoder is silent)."""
    was = objective.training
    objective.eval()
    tokens = objective.encoder(batch["driving"].flatten(0, 1)).flatten(1).float()
    left = float(objective.unexplained(tokens, batch["expression"]))
    objective.train(was)
    return {"unexplained": left, "token_spread": math.sqrt(float(tokens.var(dim=0).mean()))}
