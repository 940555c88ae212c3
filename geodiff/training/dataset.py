"""Training samples from shards of synthetic people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from geodiff.errors import InputError
from geodiff.files import read_json
from geodiff.synth.shards import PLANES, REFERENCE_KEYS, SCHEMA, ShardFile

#: Every so many identities one is held out.
HELD_OUT_EVERY = 20

Split = Literal["train", "held_out", "all"]


@dataclass(frozen=True)
class AugmentConfig:
    """Changes to the driving crops, so that the expression latent carries neither place nor colour (section 3.1 of the
    paper). shift: pixels, as a share of the side. zoom: of the scale. roll: radians. color: of brightness and of each
    channel. All are the widths of uniform draws around no change."""

    shift: float = 0.06
    zoom: float = 0.12
    roll: float = 0.12
    color: float = 0.25


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
    identities
    to take; every twentieth is held out. proposals: kinds of proposal to take ("tracked", "reference", "neutral"),
    all by
    default. augment: changes to the driving crops, None for none (evaluation). size: side of the images; the set's
    own by default, smaller sizes are averaged down.

    A sample is a dict of float32 tensors; images, normals and pose maps in -1..1:
        reference_image, reference_normals, reference_pose_map (3, S, S); images, normals, pose_maps, proposals,
        proposal_normals (T, 3, S, S); masks, visibility (T, 1, S, S) in 0..1; driving (T, 3, crop, crop).

    Raises InputError where the folder holds no samples of this kind.
    """

    def __init__(
        self,
        root: Path | str,
        frames: int = 1,
        split: Split = "train",
        augment: AugmentConfig | None = None,
        proposals: tuple[str, ...] | None = None,
        size: int | None = None,
    ) -> None:
        self.root, self.frames, self.augment, self.size = Path(root), frames, augment, size
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
                steps = target["frames"]
                if self.frames == 1:
                    self.entries += [(file, person["reference"], [step], about) for step in steps]
                elif len(steps) >= self.frames:
                    self.entries.append((file, person["reference"], steps[: self.frames], about))

    def __len__(self) -> int:
        return len(self.entries)

    def about(self, index: int) -> dict[str, Any]:
        """identity, proposal (its kind), yaw and elevation (degrees) of a sample."""
        return self.entries[index][3]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        file, reference, steps, _ = self.entries[index]
        sample = {key: self._tensor(key, file.read(reference[key])) for key in REFERENCE_KEYS}
        arrays = {key: np.stack([file.read(step[key]) for step in steps]) for key in steps[0]}
        if self.augment is not None:
            arrays["driving"] = _augmented(arrays["driving"], self.augment)
        for key, values in arrays.items():
            sample[key] = torch.stack([self._tensor(key, value) for value in values])
        return sample

    def _tensor(self, key: str, array: np.ndarray) -> Tensor:
        """uint8 (H, W[, 3]) -> float32 (C, H, W): 0..1 for planes, -1..1 for the rest."""
        if self.size is not None and key != "driving" and array.shape[0] != self.size:
            array = cv2.resize(array, (self.size, self.size), interpolation=cv2.INTER_AREA)
        if key in PLANES:
            return torch.from_numpy(array).float().div_(255.0)[None]
        return torch.from_numpy(array).permute(2, 0, 1).contiguous().float().mul_(1 / 127.5).sub_(1.0)


def _augmented(crops: np.ndarray, config: AugmentConfig) -> np.ndarray:
    """The same random change to all frames of a clip. crops: (T, S, S, 3) uint8. Draws from torch's generator."""
    draw = (torch.rand(8) * 2 - 1).numpy()
    side = crops.shape[1]
    matrix = cv2.getRotationMatrix2D(
        (side / 2, side / 2), float(np.degrees(config.roll * draw[0])), 1 + config.zoom * draw[1]
    )
    matrix[:, 2] = matrix[:, 2] + config.shift * side * draw[2:4]
    gain = (1 + config.color * draw[4]) * (1 + 0.5 * config.color * draw[5:8])
    out = []
    for crop in crops:
        moved = cv2.warpAffine(crop, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        out.append(np.clip(moved * gain, 0, 255).astype(np.uint8))
    return np.stack(out)
