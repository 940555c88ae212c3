"""A synthetic set decoded once and kept, as bytes, in memory or on the GPU.

Decoding a frame's eight pictures takes a core about 8 ms at 256 pixels: a small network on a fast GPU waits for it.
A frame takes 1.1 MB as bytes at 256 pixels; 2400 people with 24 frames each are 65 GB.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from geodiff.errors import ConfigError, InputError
from geodiff.synth.shards import FRAME_KEYS, PLANES, REFERENCE_KEYS, ShardFile
from geodiff.training.dataset import Mixture, SynthShards

Place = tuple[ShardFile, dict[str, Any]]


class ResidentSamples:
    """The samples of a `SynthShards`, equal to its own, without reading the disk again.

    device: where the bytes wait. Raises InputError where they do not fit.
    """

    def __init__(self, dataset: SynthShards, device: torch.device | str = "cpu") -> None:
        self.frames = dataset.frames
        portraits, steps = _Numbers(), _Numbers()
        rows = []
        for file, reference, frames, _ in dataset.entries:
            numbers = [steps.of(file, frame) for frame in frames]
            padded = numbers + numbers[-1:] * (dataset.frames - len(numbers))
            rows.append([portraits.of(file, reference), *padded, len(numbers)])
        self._rows = torch.tensor(rows)
        self._bytes = _decoded(portraits.places, REFERENCE_KEYS, dataset.size, device)
        self._bytes |= _decoded(steps.places, FRAME_KEYS, dataset.size, device)

    def batch(self, indices: Sequence[int], device: torch.device | str) -> dict[str, Tensor]:
        """Samples as `default_collate` would stack them."""
        rows = self._rows[list(indices)]
        batch = {key: self._floats(key, rows[:, 0], device) for key in REFERENCE_KEYS}
        frames = rows[:, 1:-1]
        for key in FRAME_KEYS:
            batch[key] = self._floats(key, frames.flatten(), device).unflatten(0, frames.shape)
        if self.frames > 1:
            batch["frame_mask"] = (torch.arange(self.frames) < rows[:, -1:]).float().to(device)
        return batch

    def _floats(self, key: str, numbers: Tensor, device: torch.device | str) -> Tensor:
        kept = self._bytes[key]
        pictures = kept[numbers.to(kept.device)].to(device, non_blocking=True)
        if key in PLANES:
            return pictures[:, None].float().div_(255.0)
        return pictures.permute(0, 3, 1, 2).contiguous().float().mul_(1 / 127.5).sub_(1.0)


class ResidentMixture:
    """`Mixture` of synthetic sets, kept decoded."""

    def __init__(self, mixture: Mixture, device: torch.device | str) -> None:
        self.starts = mixture.starts
        self.sources = [kept_decoded(source, device) for source in mixture.sources]

    def batch(self, indices: Sequence[int], device: torch.device | str) -> dict[str, Tensor]:
        numbers = np.searchsorted(self.starts, indices, side="right") - 1
        parts, order = [], []
        for number, source in enumerate(self.sources):
            chosen = np.flatnonzero(numbers == number)
            if len(chosen):
                parts.append(source.batch([indices[i] - int(self.starts[number]) for i in chosen], device))
                order.extend(chosen.tolist())
        back = torch.tensor(order).argsort().to(device)
        return {key: torch.cat([part[key] for part in parts])[back] for key in parts[0]}


def kept_decoded(
    dataset: Dataset[dict[str, Tensor]], device: torch.device | str = "cpu"
) -> ResidentSamples | ResidentMixture:
    """A synthetic set, or a mixture of some. Raises ConfigError for other sources, InputError where they do not fit."""
    if isinstance(dataset, SynthShards):
        return ResidentSamples(dataset, device)
    if isinstance(dataset, Mixture):
        return ResidentMixture(dataset, device)
    raise ConfigError("only synthetic sets can be kept decoded, and another source is among the data: keep_in=disk")


class _Numbers:
    """Numbers what it is given in order of appearance, each thing once."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self._found: dict[int, int] = {}

    def of(self, file: ShardFile, place: dict[str, Any]) -> int:
        # An index's entries live as long as the dataset does, which makes their identity a key.
        if id(place) not in self._found:
            self._found[id(place)] = len(self.places)
            self.places.append((file, place))
        return self._found[id(place)]


def _decoded(
    places: list[Place], keys: Sequence[str], size: int | None, device: torch.device | str
) -> dict[str, Tensor]:
    """name -> (N, S, S[, 3]) uint8 on the device; decoded by all cores, moved in pieces."""
    first = {key: _read(places[0], key, size) for key in keys}
    try:
        found = {
            key: torch.empty((len(places), *array.shape), dtype=torch.uint8, device=device)
            for key, array in first.items()
        }
    except RuntimeError as error:
        needed = len(places) * sum(array.nbytes for array in first.values()) / 1e9
        raise InputError(
            f"the set needs {needed:.1f} GB to be kept decoded, and there is less: keep_in=disk or a smaller set"
        ) from error

    def fill(number: int) -> None:
        for key in keys:
            found[key][number].copy_(torch.from_numpy(_read(places[number], key, size)))

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(fill, range(len(places))))
    return found


def _read(place: Place, key: str, size: int | None) -> np.ndarray:
    file, entry = place
    array = file.read(entry[key])
    if size is not None and key != "driving" and array.shape[0] != size:
        return cv2.resize(array, (size, size), interpolation=cv2.INTER_AREA)
    return array
