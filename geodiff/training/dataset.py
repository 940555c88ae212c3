"""Training samples from shards of synthetic people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from geodiff.errors import ConfigError, InputError
from geodiff.files import read_json
from geodiff.synth.samples import Arrays
from geodiff.synth.shards import FRAME_KEYS, PLANES, REFERENCE_KEYS, SCHEMA, ShardFile

#: Every so many identities one is held out.
HELD_OUT_EVERY = 20

Split = Literal["train", "held_out", "all"]


def clip_length(root: Path | str) -> int:
    """Frames of each clip of a set, as its set.json records. Raises InputError where that is not there."""
    settings = _settings(Path(root))
    samples = settings.get("samples") if isinstance(settings, dict) else None
    length = samples.get("clip_frames") if isinstance(samples, dict) else None
    if not isinstance(length, int) or length < 1:
        raise InputError(
            f"{Path(root) / 'set.json'} must record the length of the set's clips, and it does not: "
            "name it with --frames, or make the training set anew"
        )
    return length


def _settings(root: Path) -> Any:
    if not (root / "set.json").is_file():
        raise InputError(f"{root} must be a training set, but it has no set.json: make one with geodiff synth")
    return read_json(root / "set.json")


class SynthShards(Dataset[dict[str, Tensor]]):
    """Samples of T frames.

    root: folder of a set. frames: 1 for single images (those of the clips as well), or the clips' length. split:
    identities to take; every twentieth is held out. proposals: kinds of proposal to take ("tracked", "reference",
    "neutral"), all by default. size: side of the images; the set's own by default, smaller sizes are averaged down.

    A sample is a dict of float32 tensors; images, normals and pose maps in -1..1:
        reference_image, reference_normals, reference_pose_map (3, S, S); images, normals, pose_maps, proposals,
        proposal_normals (T, 3, S, S); masks, visibility (T, 1, S, S) in 0..1; driving (T, 3, crop, crop).
    With T > 1 also frame_mask (T,), 0 where a shorter clip was padded with its last frame.

    Raises InputError where the folder holds no samples of this kind.
    """

    def __init__(
        self,
        root: Path | str,
        frames: int = 1,
        split: Split = "train",
        proposals: tuple[str, ...] | None = None,
        size: int | None = None,
    ) -> None:
        self.root, self.frames, self.size = Path(root), frames, size
        self.entries: list[tuple[ShardFile, dict[str, Any], list[dict[str, Any]], dict[str, Any]]] = []
        _settings(self.root)
        for path in sorted(self.root.glob("shard-*.json")):
            index = read_json(path)
            if index["schema"] != SCHEMA:
                raise InputError(
                    f"{path} must have schema {SCHEMA}, and it has {index['schema']}: make the training set anew"
                )
            self._add(ShardFile(path.with_suffix(".bin")), index["people"], split, proposals)
        if not self.entries:
            raise InputError(
                f"{self.root} must hold samples of {frames} frame(s) for the split {split!r}, and there are none: "
                "make more people or choose another split"
            )

    def _add(self, file: ShardFile, people: list[dict[str, Any]], split: Split, kinds: tuple[str, ...] | None) -> None:
        for person in people:
            held_out = person["identity"] % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
            if split != "all" and held_out != (split == "held_out"):
                continue
            for target in (*person["singles"], *person["clips"]):
                if kinds is not None and target["proposal"] not in kinds:
                    continue
                about = {"identity": person["identity"]} | {k: target[k] for k in ("proposal", "yaw", "elevation")}
                steps, weights = target["frames"], target["weights"]
                reference = person["references"][target["reference"]]
                if self.frames == 1:
                    pairs = zip(steps, weights, strict=True)
                    self.entries += [(file, reference, [step], {**about, "weights": [w]}) for step, w in pairs]
                    continue
                for start, end in windows(len(steps), self.frames):
                    self.entries.append((file, reference, steps[start:end], {**about, "weights": weights[start:end]}))

    def __len__(self) -> int:
        return len(self.entries)

    def about(self, index: int) -> dict[str, Any]:
        """identity, proposal (its kind), yaw and elevation (degrees) and the frames' expression weights."""
        return self.entries[index][3]

    def rarity(self) -> np.ndarray:
        """(N,) how often to draw each sample, mean 1; see `expression_odds`."""
        return expression_odds(np.stack([np.mean(entry[3]["weights"], axis=0) for entry in self.entries]))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        file, reference, steps, _ = self.entries[index]
        portrait = {key: file.read(reference[key]) for key in REFERENCE_KEYS}
        frames = [{key: file.read(step[key]) for key in FRAME_KEYS} for step in steps]
        return stacked(portrait, frames, self.frames, self.size)


def stacked(portrait: Arrays, steps: list[Arrays], frames: int, size: int | None = None) -> dict[str, Tensor]:
    """A sample of `frames` frames from uint8 arrays: those of the portrait, and of each frame that is there; the last
    one is repeated. size: side of the images, None for the arrays' own."""
    sample = {key: _tensor(key, array, size) for key, array in portrait.items()}
    for key in steps[0]:
        values = [_tensor(key, step[key], size) for step in steps]
        sample[key] = torch.stack(values + values[-1:] * (frames - len(steps)))
    if frames > 1:
        sample["frame_mask"] = (torch.arange(frames) < len(steps)).float()
    return sample


def _tensor(key: str, array: np.ndarray, size: int | None) -> Tensor:
    """uint8 (H, W[, 3]) -> float32 (C, H, W): 0..1 for planes, -1..1 for the rest."""
    if size is not None and key != "driving" and array.shape[0] != size:
        array = cv2.resize(array, (size, size), interpolation=cv2.INTER_AREA)
    if key in PLANES:
        return torch.from_numpy(array).float().div_(255.0)[None]
    return torch.from_numpy(array).permute(2, 0, 1).contiguous().float().mul_(1 / 127.5).sub_(1.0)


def windows(length: int, frames: int) -> list[tuple[int, int]]:
    """First and past-the-last frames of the windows that a clip is cut into, one after the other; a shorter rest of at
    least two frames is one as well, to be padded."""
    starts = range(0, length, frames)
    return [(start, min(start + frames, length)) for start in starts if min(frames, length - start) > 1]


def expression_odds(vectors: np.ndarray, anchors: int = 32, floor: float = 0.25, seed: int = 0) -> np.ndarray:
    """(N,) how often to draw each of N samples, mean 1: rare expressions more often than common ones.

    vectors: (N, E) expression weights, about 1 at their strongest. Samples are put to the anchor expression that is
    nearest in cosine similarity, and anchors share the draws evenly, as FlexAvatar adjusts its data's distribution;
    `floor` of the draws stays uniform. Anchors are chosen farthest from one another.
    """
    # The neutral face has a direction too.
    vectors = np.concatenate([vectors, np.full((len(vectors), 1), 0.15)], 1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = [int(np.random.default_rng(seed).integers(len(vectors)))]
    nearest = vectors @ vectors[chosen[0]]
    while len(chosen) < min(anchors, len(vectors)) and nearest.min() < 0.999:
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, vectors @ vectors[chosen[-1]])
    group = (vectors @ vectors[chosen].T).argmax(1)
    counts = np.bincount(group, minlength=len(chosen))
    odds = len(vectors) / (np.count_nonzero(counts) * counts[group])
    return floor + (1 - floor) * odds


class Mixture(Dataset[dict[str, Tensor]]):
    """Several sources as one, each drawn from in its own share; within a source by its `rarity`, if it has one.

    shares: how much of the draws each source gets, in any unit.
    """

    def __init__(self, sources: Sequence[Dataset[dict[str, Tensor]]], shares: Sequence[float]) -> None:
        if len(sources) != len(shares) or not sources or min(shares) < 0 or sum(shares) <= 0:
            raise ConfigError(
                f"every source needs a share of 0 or more, one of them above 0; found {len(sources)} sources with "
                f"shares {list(shares)}."
            )
        self.sources, self.shares = list(sources), np.asarray(shares, np.float64) / sum(shares)
        self.starts = np.cumsum([0, *(len(source) for source in self.sources)])  # type: ignore[arg-type]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.sources[number][index - int(self.starts[number])]

    def rarity(self) -> np.ndarray:
        """(N,) how often to draw each sample, mean 1."""
        odds = []
        for source, share in zip(self.sources, self.shares, strict=True):
            own = draw_odds(source)
            odds.append(share * own / own.sum())
        return np.concatenate(odds) * len(self)


@runtime_checkable
class HasRarity(Protocol):
    """A dataset that knows which of its samples are to be drawn more often."""

    def rarity(self) -> np.ndarray:
        """(N,) how often to draw each sample, mean 1."""
        ...


def draw_odds(dataset: Dataset[dict[str, Tensor]]) -> np.ndarray:
    """(N,) how often each sample is to be drawn: the dataset's `rarity`, or all alike."""
    if isinstance(dataset, HasRarity):
        return dataset.rarity()
    return np.ones(len(dataset))  # type: ignore[arg-type]
