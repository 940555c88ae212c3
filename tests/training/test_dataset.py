"""Samples of synthetic people, on disk and back."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from training_helpers import CROP, SIZE, fake_person, write_set

from geodiff.errors import ConfigError, InputError
from geodiff.head import load_head
from geodiff.raster import mesh
from geodiff.synth.samples import EXPRESSIONS, SampleConfig, Session
from geodiff.synth.shards import (
    FRAME_KEYS,
    REFERENCE_KEYS,
    SetConfig,
    ShardFile,
    build_set,
    decode,
    encode,
    read_truth,
)
from geodiff.synth.subject import Subject
from geodiff.training.batches import StepSampler
from geodiff.training.config import TrainConfig
from geodiff.training.dataset import Mixture, SynthShards, clip_length, windows
from geodiff.types import Camera, HeadParams


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"), people=(0, 1, 19))


def test_encoding_keeps_planes_exactly_and_pictures_nearly() -> None:
    plane = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    assert np.array_equal(decode(encode(plane)), plane)
    ramp = np.stack(np.broadcast_arrays(*np.ogrid[0:64, 0:64], 128), -1).astype(np.uint8)
    assert np.abs(decode(encode(ramp)).astype(int) - ramp).max() <= 6


def test_samples_have_the_contracts_shapes_and_ranges(folder: Path) -> None:
    dataset = SynthShards(folder, frames=3)
    assert len(dataset) == 2
    sample = dataset[0]
    assert set(sample) == {*REFERENCE_KEYS, *FRAME_KEYS, "frame_mask"}
    assert sample.pop("frame_mask").tolist() == [1, 1, 1]
    for key, value in sample.items():
        channels = 1 if key in ("masks", "visibility") else 3
        side = CROP if key == "driving" else SIZE
        shape = (channels, side, side) if key in REFERENCE_KEYS else (3, channels, side, side)
        assert value.shape == shape and value.dtype == torch.float32, key
        assert (0 if channels == 1 else -1) <= float(value.min()) and float(value.max()) <= 1
    person = fake_person(0)
    assert float(sample["masks"][1, 0, 0, 0]) == pytest.approx(person.clips[0].frames[1]["masks"][0, 0] / 255)
    assert float(sample["images"][2, 1, 5, 5]) == pytest.approx(
        person.clips[0].frames[2]["images"][5, 5, 1] / 127.5 - 1, abs=0.03
    )


def test_splits_hold_out_identities(folder: Path) -> None:
    train, held_out = SynthShards(folder), SynthShards(folder, split="held_out")
    assert len(train) == 2 * 5 and len(held_out) == 5
    assert {held_out.about(i)["identity"] for i in range(5)} == {19}
    tracked = SynthShards(folder, split="all", proposals=("tracked",))
    assert len(tracked) == 3 * 4 and {tracked.about(i)["proposal"] for i in range(len(tracked))} == {"tracked"}


def test_smaller_sizes_are_averaged_down(folder: Path) -> None:
    sample = SynthShards(folder, size=24)[0]
    assert sample["images"].shape == (1, 3, 24, 24) and sample["driving"].shape == (1, 3, CROP, CROP)


def test_loads_in_workers(folder: Path) -> None:
    loader = DataLoader(SynthShards(folder), batch_size=5, num_workers=1)
    batches = [batch["images"].shape for batch in loader]
    assert batches == [(5, 1, 3, SIZE, SIZE)] * 2


def test_references_go_with_their_targets(folder: Path) -> None:
    dataset, person = SynthShards(folder), fake_person(0)
    for index, number in ((0, 0), (1, 1)):
        image = person.references[number]["reference_image"]
        assert float(dataset[index]["reference_image"][0, 4, 4]) == pytest.approx(image[4, 4, 0] / 127.5 - 1, abs=0.03)


def test_short_clips_are_padded_and_masked(folder: Path) -> None:
    sample = SynthShards(folder, frames=5)[0]
    assert sample["frame_mask"].tolist() == [1, 1, 1, 0, 0] and sample["images"].shape[0] == 5
    assert torch.equal(sample["images"][4], sample["images"][2])


def test_long_clips_are_cut_into_windows(folder: Path) -> None:
    assert windows(8, 3) == [(0, 3), (3, 6), (6, 8)] and windows(7, 3) == [(0, 3), (3, 6)] and windows(1, 3) == []
    dataset = SynthShards(folder, frames=2)
    assert len(dataset) == 2 and dataset[0]["frame_mask"].tolist() == [1, 1]


def test_rare_expressions_are_drawn_more_often(folder: Path) -> None:
    dataset = SynthShards(folder)
    vectors = np.zeros((len(dataset), len(EXPRESSIONS)))
    vectors[:, 0] = 1.0  # all but two samples share one expression
    vectors[3], vectors[7] = np.eye(len(EXPRESSIONS))[[5, 9]]
    dataset.entries = [
        (a, b, c, {**d, "weights": [v]}) for (a, b, c, d), v in zip(dataset.entries, vectors, strict=True)
    ]
    odds = dataset.rarity()
    assert odds.mean() == pytest.approx(1.0)
    common = np.delete(odds, [3, 7])
    assert np.ptp(common) < 1e-9 and odds[3] > 3 * common[0] and odds[7] == pytest.approx(odds[3])
    drawn = [i for batch in StepSampler(10, TrainConfig(steps=100, batch=10), 0, odds) for i in batch]
    assert np.bincount(drawn, minlength=10) / 100 == pytest.approx(odds, abs=0.12)


def test_sources_are_mixed_by_their_shares(folder: Path) -> None:
    one, other = SynthShards(folder), SynthShards(folder, split="held_out")
    mixture = Mixture([one, other], [3.0, 1.0])
    odds = mixture.rarity()
    assert len(mixture) == 15 and odds.mean() == pytest.approx(1.0)
    assert odds[10:].sum() / odds.sum() == pytest.approx(0.25)
    assert torch.equal(mixture[12]["images"], other[2]["images"]) and torch.equal(
        mixture[9]["images"], one[9]["images"]
    )
    with pytest.raises(ConfigError, match="every source needs a share"):
        Mixture([one], [0.0])


def test_wrong_folders_are_told(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"no set\.json"):
        SynthShards(tmp_path)
    with pytest.raises(InputError, match="must hold samples of 1 frame.* 'held_out'"):
        (tmp_path / "set.json").write_text("{}")
        SynthShards(tmp_path, split="held_out")
    (tmp_path / "set.json").unlink()
    with pytest.raises(InputError, match=r"no set\.json"):
        clip_length(tmp_path)


def test_no_set_reaches_the_benchmarks_people() -> None:
    for wrong in ({"seed": 2**64}, {"seed": -1}, {"people": 0}):
        with pytest.raises(ConfigError, match="at least one person and a seed of 0 to"):
            SetConfig(**wrong)


def test_the_length_of_clips_is_the_sets_own(tmp_path: Path) -> None:
    settings = asdict(SetConfig(samples=SampleConfig(clip_frames=5)))
    (tmp_path / "set.json").write_text(json.dumps(settings))
    assert clip_length(tmp_path) == 5
    (tmp_path / "set.json").write_text("{}")
    with pytest.raises(InputError, match="must record the length"):
        clip_length(tmp_path)


SMALL = SampleConfig(size=48, crop=16, timesteps=1, views=1, clips=1, clip_frames=2, supersample=1)


@pytest.fixture(scope="module")
def session() -> Session:
    head = load_head("builtin")
    return Session(Subject(head, 3, texture_size=144), head, 3, SMALL)


def test_sets_without_wild_people(tmp_path: Path) -> None:
    small = replace(SMALL, references=1, clips=0, wild=1.0)
    config = SetConfig(people=1, people_per_shard=1, samples=small)
    plain = replace(config, samples=replace(small, wild=0.0))
    for name, one in (("wild", config), ("plain", plain)):
        assert list(build_set(tmp_path / name, one))[-1] == (1, 1)
    wild, tame = ((tmp_path / name / "shard-00000.bin").read_bytes() for name in ("wild", "plain"))
    assert wild != tame
    with pytest.raises(InputError, match="samples differ"):
        list(build_set(tmp_path / "wild", plain))
    # Sets made before the share had a name are gone on with.
    stamp = tmp_path / "plain" / "set.json"
    settings = json.loads(stamp.read_text())
    del settings["samples"]["wild"]
    stamp.write_text(json.dumps(settings))
    assert list(build_set(tmp_path / "plain", replace(config, samples=replace(small, wild=0.1)))) == [(1, 1)]
    with pytest.raises(ConfigError, match=r"samples\.wild is a share"):
        SetConfig(samples=replace(small, wild=1.5))


def test_the_fit_sees_what_the_truth_shows(session: Session) -> None:
    """Truth rendered in the moved camera and the proposal rendered in the fitted head's camera show the same head."""
    from geodiff.conditioning import framed_camera

    assert session.error < 0.05
    camera = framed_camera(session.frame, 0.3, 0.0, session.distance, 48)
    truth = session.subject.render(session.subject.pose(session.expression), session.true_camera(camera))
    condition = session.conditioner.render(session.reference.params, camera)
    both = (truth.mask > 0.5) & (condition.silhouette > 0.5)
    either = (truth.mask > 0.5) | (condition.silhouette > 0.5)
    assert both.sum() / either.sum() > 0.8
    clear = both & (condition.visibility > 0.9)
    assert np.abs(truth.image - condition.proposal)[clear].mean() < 0.08


def test_a_set_is_made_once_and_continued(tmp_path: Path) -> None:
    config = SetConfig(people=2, people_per_shard=1, samples=SMALL)
    assert list(build_set(tmp_path, config)) == [(0, 2), (1, 2), (2, 2)]
    before = (tmp_path / "shard-00001.bin").read_bytes()
    (tmp_path / "shard-00001.json").unlink()
    (tmp_path / "shard-00001.bin").write_bytes(b"half")
    assert list(build_set(tmp_path, config)) == [(1, 2), (2, 2)]
    assert (tmp_path / "shard-00001.bin").read_bytes() == before, "the same seed must give the same samples"
    assert len(SynthShards(tmp_path)) == 2 * 3 and len(SynthShards(tmp_path, frames=2)) == 2
    with pytest.raises(InputError, match="seed differ"):
        list(build_set(tmp_path, SetConfig(people=2, people_per_shard=1, samples=SMALL, seed=1)))


def test_any_number_of_workers_makes_the_same_set(tmp_path: Path) -> None:
    config = SetConfig(people=2, people_per_shard=1, samples=replace(SMALL, references=1, clips=0, ground_truth=True))
    for workers in (1, 2):
        assert list(build_set(tmp_path / str(workers), config, workers))[-1] == (2, 2)
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert names == ["set.json", *(f"shard-0000{n}.{kind}" for n in (0, 1) for kind in ("bin", "json"))]
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
    _check_truth(tmp_path / "1")


def _check_truth(folder: Path) -> None:
    """Depth, UV, cameras and parameters of the set's first frame are of one head."""
    head = load_head("builtin")
    target = json.loads((folder / "shard-00000.json").read_text())["people"][0]["singles"][0]
    file, truth = ShardFile(folder / "shard-00000.bin"), target["truth"]
    depth, uv = read_truth(file, target["frames"][0])
    mask = file.read(target["frames"][0]["masks"])
    assert depth.shape == (48, 48) and uv.shape == (48, 48, 2) and ((depth > 0) & (mask == 255)).any()
    skin = uv[..., 0] >= 0
    assert skin.any() and (skin <= (depth > 0)).all() and uv[skin].max() <= 1
    view = truth["camera"]
    camera = Camera(torch.tensor(view["viewmat"]), torch.tensor(view["K"]), *view["size"])
    params = HeadParams(**{name: torch.tensor(values) for name, values in truth["params"].items()})
    # What lies under a place in the UV layout is where the camera saw it.
    vertices = head.vertices(params)[0]
    seen = mesh.rasterize(vertices, head.faces, camera)
    same = skin & (np.abs(seen.depth - depth) < 2e-3)
    assert same.sum() > 0.8 * skin.sum()
    places = mesh.interpolate(seen, head.faces, head.uvs[head.faces_uv].numpy())
    assert np.median(np.abs(places - uv)[same]) < 1e-3
    assert set(truth["fitted"]) == set(truth["params"]) and len(truth["fitted"]["expr"]) == 1
    assert len(SynthShards(folder)) == 2
