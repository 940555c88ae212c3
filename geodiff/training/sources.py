"""What to train on, by folder: sets of synthetic people and clip sets of filmed ones, one or several of them mixed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from geodiff.errors import ConfigError, InputError
from geodiff.training.dataset import Mixture, Split, SynthShards, clip_length

#: What marks a folder as a set that `geodiff synth` made.
SET_FILE = "set.json"
#: Where, below a run's folder, finished samples of filmed people are kept.
CACHE = "samples"


def is_synthetic(folder: Path) -> bool:
    return (folder / SET_FILE).is_file()


def window_length(folders: Sequence[Path]) -> int:
    """Frames of a sample where none were asked for: the length of the first synthetic set's clips.

    Raises InputError where no folder tells.
    """
    return clip_length(next((folder for folder in folders if is_synthetic(folder)), folders[0]))


def open_sources(
    folders: Sequence[Path],
    shares: Sequence[float] = (),
    *,
    frames: int = 1,
    split: Split = "train",
    size: int = 256,
    cache: Path | None = None,
) -> Dataset[dict[str, Tensor]]:
    """The samples of all folders, drawn from each in its share.

    folders: sets of `geodiff synth`, clip sets, VHAP exports, or folders of those. shares: one a folder, in any unit;
    all alike by default. size: side of the images. cache: folder to keep finished samples of filmed people in.

    Raises ConfigError where shares and folders differ in number, InputError where a folder holds no samples; of
    held-out people, some folders may have none, but not all of them.
    """
    if shares and len(shares) != len(folders):
        raise ConfigError(
            f"every --data needs its --share, and there are {len(folders)} of the one and {len(shares)} of the other: "
            "give as many, or no --share at all"
        )
    found: list[Dataset[dict[str, Tensor]]] = []
    kept: list[float] = []
    missing: InputError | None = None
    for number, folder in enumerate(folders):
        try:
            found.append(_open(folder, frames, split, size, cache))
            kept.append(shares[number] if shares else 1.0)
        except InputError as error:
            if split != "held_out":
                raise
            missing = error
    if missing is not None and not found:
        raise missing
    return found[0] if len(found) == 1 else Mixture(found, kept)


def _open(folder: Path, frames: int, split: Split, size: int, cache: Path | None) -> Dataset[dict[str, Tensor]]:
    from geodiff.training.vhap_source import FilmConfig, FilmedClips, has_clip_sets

    if is_synthetic(folder) or not has_clip_sets(folder):
        return SynthShards(folder, frames=frames, split=split, size=size)
    return FilmedClips(folder, frames, split, config=FilmConfig(size=size), cache=cache)
