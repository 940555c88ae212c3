"""Synthetic samples on disk: shards of encoded images with an index, made by many processes, resumable.

A set is a folder: `set.json` (what it was made with) and, for each shard, `shard-00000.bin` (JPEG and PNG files one
after the other) and `shard-00000.json` (where each lies). The index is written last, so a shard that has one is whole.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from geodiff.errors import ConfigError, InputError
from geodiff.files import atomic_write, make_folder, read_json, write_json
from geodiff.synth.appearance import WILD
from geodiff.synth.samples import Arrays, Person, SampleConfig, Target, Truth, make_person
from geodiff.types import POSE_WIDTHS, Camera, HeadParams

SCHEMA = 2
REFERENCE_KEYS = ("reference_image", "reference_normals", "reference_pose_map")
FRAME_KEYS = (
    "images", "normals", "masks", "pose_maps", "proposals", "proposal_normals", "visibility", "driving",
)  # fmt: skip
#: Frames of a set with ground truth have these as well: see `read_truth`.
TRUTH_KEYS = ("depth", "uv")
#: Keys whose arrays have one channel: kept without loss, they are small.
PLANES = ("masks", "visibility")
_JPEG = [
    cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip


@dataclass(frozen=True)
class SetConfig:
    """What a set is made of.

    truth: head that people are drawn from, head: the one that conditions, both as `geodiff.head.load_head` takes them.
    people: number of identities; people_per_shard of them share a file. seed: of the whole set.
    """

    truth: str = "builtin"
    head: str = "builtin"
    people: int = 400
    people_per_shard: int = 4
    seed: int = 0
    samples: SampleConfig = field(default_factory=SampleConfig)

    def __post_init__(self) -> None:
        # SynthBench's people have seeds from 2^128 on: no set may reach them.
        if not 0 <= self.seed < 2**64 or self.people < 1:
            raise ConfigError(
                f"a training set has at least one person and a seed of 0 to 2^64 - 1; found {self.people} people and "
                f"seed {self.seed}: choose others"
            )
        if not 0 <= self.samples.wild <= 1:
            raise ConfigError(f"samples.wild is a share of the people, 0 to 1, got {self.samples.wild}: choose another")


def build_set(root: Path | str, config: SetConfig, workers: int = 1) -> Iterator[tuple[int, int]]:
    """Make what is missing of a set; yields (shards done, shards in all) as it goes.

    Raises InputError where the folder holds a set made with another configuration.
    """
    folder = make_folder(root)
    settings = {"schema": SCHEMA, **asdict(config)}
    stamp = folder / "set.json"
    if stamp.exists():
        found = read_json(stamp)
        if isinstance(found.get("samples"), dict):
            # What sets were made with before they named it.
            found["samples"] = {"wild": WILD, **found["samples"]}
        # A set may grow; anything else would mix two kinds of samples.
        if {**found, "people": 0} != {**settings, "people": 0}:
            changed = [key for key in settings if key != "people" and found.get(key) != settings[key]]
            raise InputError(
                f"a training set is continued with the configuration it was begun with, but "
                f"{', '.join(changed)} differ from {stamp}: choose another folder"
            )
    write_json(stamp, settings)
    total = -(-config.people // config.people_per_shard)
    missing = [number for number in range(total) if not _index_path(folder, number).exists()]
    done = total - len(missing)
    yield done, total
    if not missing:
        return
    # A process of its own even for one worker: in this one, what other libraries do to threads and rounding would show
    # in the last bit of what is fitted.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, workers), mp_context=context, initializer=_prepare, initargs=(config,)) as pool:
        for future in as_completed([pool.submit(make_shard, folder, number, config) for number in missing]):
            future.result()
            done += 1
            yield done, total


_heads: dict[str, Any] = {}


def _prepare(config: SetConfig) -> None:
    """Load the heads once a process, and keep it to one thread: there are as many processes as cores."""
    import torch

    from geodiff.head import load_head

    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
    for spec in (config.truth, config.head):
        if spec not in _heads:
            _heads[spec] = load_head(spec)


def make_shard(folder: Path, number: int, config: SetConfig) -> None:
    """Make and write one shard. The same number and configuration give the same samples."""
    _prepare(config)
    first = number * config.people_per_shard
    people = []
    for identity in range(first, min(first + config.people_per_shard, config.people)):
        seed = config.seed * 10_000_019 + identity
        person = make_person(_heads[config.truth], _heads[config.head], seed, config.samples)
        people.append((identity, person))
    write_shard(folder, number, people)


def write_shard(folder: Path, number: int, people: list[tuple[int, Person]]) -> None:
    """Write people, each with the number of the identity, as shard `number`."""
    blobs: list[bytes] = []
    position = 0

    def store(arrays: Arrays) -> dict[str, list[int]]:
        nonlocal position
        places = {}
        for key, array in arrays.items():
            data = encode(array)
            places[key] = [position, len(data)]
            blobs.append(data)
            position += len(data)
        return places

    def target(one: Target) -> dict[str, Any]:
        frames = [store(frame) for frame in one.frames]
        about = {"proposal": one.proposal, "yaw": one.yaw, "elevation": one.elevation, "reference": one.reference}
        if one.truth is not None:
            about["truth"] = _truth(one.truth)
        return {**about, "weights": np.round(one.weights, 3).tolist(), "frames": frames}

    index = [
        {
            "identity": identity,
            "error": person.error,
            "references": [store(reference) for reference in person.references],
            "singles": [target(one) for one in person.singles],
            "clips": [target(one) for one in person.clips],
        }
        for identity, person in people
    ]
    path = _index_path(folder, number)
    atomic_write(path.with_suffix(".bin"), lambda temporary: _write_blobs(temporary, blobs))
    write_json(path, {"schema": SCHEMA, "people": index})


def _truth(truth: Truth) -> dict[str, Any]:
    """Cameras and parameters as JSON holds them; without offsets of vertices, which are the conditioning's own."""

    def camera(one: Camera) -> dict[str, Any]:
        return {"viewmat": one.viewmat.tolist(), "K": one.K.tolist(), "size": [one.width, one.height]}

    def params(one: HeadParams) -> dict[str, Any]:
        return {name: getattr(one, name).tolist() for name in ("shape", "expr", *POSE_WIDTHS)}

    return {
        "camera": camera(truth.camera),
        "params": params(truth.params),
        "fitted_camera": camera(truth.fitted_camera),
        "fitted": params(truth.fitted),
    }


def read_truth(file: ShardFile, frame: dict[str, list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Depth (H, W) in metres, 0 where nothing is, and UV (H, W, 2) in 0..1, -1 where no skin is seen, of a frame's
    entry in the index of a set made with ground truth."""
    depth, uv = (file.read(frame[key]).astype(np.float32) for key in TRUTH_KEYS)
    return depth / 1e4, np.where(uv[..., 2:] > 0, uv[..., :2] / 65535, -1)


def _write_blobs(path: Path, blobs: list[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(blobs)


def _index_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.json"


def encode(array: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as JPEG of quality 95 without chroma subsampling, (H, W) and all of uint16 as PNG."""
    if array.ndim == 2 or array.dtype == np.uint16:
        ordered = array if array.ndim == 2 else np.ascontiguousarray(array[..., ::-1])
        return cv2.imencode(".png", ordered, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    return cv2.imencode(".jpg", array[..., ::-1], _JPEG)[1].tobytes()


def decode(data: bytes) -> np.ndarray:
    """The inverse of `encode`, up to JPEG's losses."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1])


class ShardFile:
    """Random access to the blobs of one shard; safe in forked data loaders (positioned reads on a descriptor each)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: tuple[int, int] | None = None

    def read(self, place: list[int]) -> np.ndarray:
        """The array at (offset, length)."""
        if self._descriptor is None or self._descriptor[0] != os.getpid():
            self._descriptor = (os.getpid(), os.open(self.path, os.O_RDONLY))
        return decode(os.pread(self._descriptor[1], place[1], place[0]))

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_descriptor": None}

    def __del__(self) -> None:
        descriptor = getattr(self, "_descriptor", None)
        if descriptor is not None and descriptor[0] == os.getpid():
            os.close(descriptor[1])
