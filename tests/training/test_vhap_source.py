"""Clip sets of filmed people as a source of training samples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from heads import ellipsoid_head
from sample_clips import write_clips
from torch.utils.data import DataLoader

from geodiff.cli import run
from geodiff.errors import ConfigError, InputError
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.synth.shards import FRAME_KEYS, REFERENCE_KEYS
from geodiff.training.dataset import Mixture, draw_odds
from geodiff.training.sources import open_sources, window_length
from geodiff.training.vhap_source import FilmConfig, FilmedClips, find_clip_sets

CONFIG = FilmConfig(size=40, crop=16)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return ellipsoid_head()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, head: HeadModel) -> Path:
    """Two people: one with normals and four cameras, one without and with two cameras, in a sequence's folder."""
    folder = tmp_path_factory.mktemp("films")
    write_clips(folder / "anna", head, steps=5)
    write_clips(folder / "berta" / "talk", head, steps=3, yaws=(0.0, 40.0), normals=False)
    return folder


def test_samples_have_the_names_and_ranges_of_synthetic_ones(root: Path, head: HeadModel) -> None:
    dataset = FilmedClips(root, frames=3, split="all", head=head, config=CONFIG)
    assert len(dataset) == 4 * 2 + 2
    sample = dataset[0]
    assert set(sample) == {*REFERENCE_KEYS, *FRAME_KEYS, "frame_mask"}
    for key, value in sample.items():
        if key == "frame_mask":
            continue
        channels, side = 1 if key in ("masks", "visibility") else 3, 16 if key == "driving" else 40
        shape = (channels, side, side) if key in REFERENCE_KEYS else (3, channels, side, side)
        assert value.shape == shape and value.dtype == torch.float32, key
        assert (0 if channels == 1 else -1) <= float(value.min()) and float(value.max()) <= 1
    assert sample["frame_mask"].tolist() == [1, 1, 1] and dataset[1]["frame_mask"].tolist() == [1, 1, 0]
    assert torch.equal(dataset[1]["images"][2], dataset[1]["images"][1])
    assert next(iter(DataLoader(dataset, batch_size=2)))["images"].shape == (2, 3, 3, 40, 40)


def test_what_is_seen_agrees_with_its_conditions(root: Path, head: HeadModel) -> None:
    """Masks with the mesh's silhouette, true normals with the mesh's, proposals with pictures where they are sure."""
    dataset = FilmedClips(root, split="all", head=head, config=CONFIG)
    tracked = [i for i in range(len(dataset)) if dataset.about(i)["proposal"] == "tracked"][:6]
    for index in tracked:
        sample = dataset[index]
        mask = sample["masks"][0, 0] > 0.99
        mesh = sample["proposal_normals"][0].norm(dim=0) > 0.9
        assert (mask & mesh).sum() > 0.85 * (mask | mesh).sum()
        both = mask & mesh
        cosine = (sample["normals"][0] * sample["proposal_normals"][0]).sum(0)
        assert float(cosine[both].mean()) > 0.95
        sure = both & (sample["visibility"][0, 0] > 0.9)
        assert float((sample["images"][0] - sample["proposals"][0]).abs()[:, sure].mean()) < 0.12
        assert float(sample["images"][0][:, sample["masks"][0, 0] == 0].min()) > 0.99, "white around the person"


def test_references_and_driving_crops_come_from_elsewhere(root: Path, head: HeadModel) -> None:
    dataset = FilmedClips(root, split="all", head=head, config=CONFIG)
    for index in range(len(dataset)):
        about = dataset.about(index)
        assert about["reference"][0] not in about["timesteps"]
        assert all(t in about["timesteps"] and c != about["camera"] for t, c in about["driving"])
    assert {dataset.about(i)["identity"] for i in range(len(dataset))} == {"anna", "berta"}
    kinds = [dataset.about(i)["proposal"] for i in range(len(dataset))]
    assert {"tracked", "reference"} <= set(kinds)


def test_one_camera_drives_itself(tmp_path: Path, head: HeadModel) -> None:
    write_clips(tmp_path / "carla", head, steps=2, yaws=(10.0,))
    dataset = FilmedClips(tmp_path / "carla", head=head, config=replace(CONFIG, references=1), split="all")
    assert dataset.about(0)["driving"] == [(0, 0)] and dataset.about(0)["identity"] == "carla"


def test_normals_turn_with_the_crop(tmp_path: Path, head: HeadModel) -> None:
    """Cameras that were rolled see the same cropped normals as upright ones."""
    folder = write_clips(tmp_path / "dora", head, steps=1, yaws=(0.0, 30.0))
    upright = FilmedClips(folder, split="all", head=head, config=CONFIG)[1]
    quarter = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    for listing in folder.glob("transforms*.json"):
        told = json.loads(listing.read_text())
        for frame in told["frames"]:
            frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ quarter).tolist()
        listing.write_text(json.dumps(told))
    for path in [*folder.glob("images/*.png"), *folder.glob("fg_masks/*.png"), *folder.glob("normals/*.png")]:
        picture = np.rot90(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), -1).copy()
        if path.parent.name == "normals":
            z, y, x = picture[..., 0].copy(), picture[..., 1].copy(), picture[..., 2].copy()
            picture = np.stack([z, 255 - x, y], -1)
        cv2.imwrite(str(path), picture)
    rolled = FilmedClips(folder, split="all", head=head, config=CONFIG)[1]
    inside = (upright["masks"][0, 0] > 0.99) & (rolled["masks"][0, 0] > 0.99)
    assert inside.sum() > 0.9 * (upright["masks"][0, 0] > 0.99).sum()
    for key in ("images", "normals", "pose_maps"):
        assert float((upright[key] - rolled[key])[0][:, inside].abs().mean()) < 0.05, key


def test_people_are_held_out_and_mixed(root: Path, head: HeadModel) -> None:
    train, held_out = (FilmedClips(root, split=s, head=head, config=CONFIG) for s in ("train", "held_out"))
    assert {film.identity for film in train.films} == {"anna"}
    assert {film.identity for film in held_out.films} == {"berta"}
    odds = draw_odds(train)
    assert odds.shape == (len(train),) and odds.mean() == pytest.approx(1.0)
    assert draw_odds(Mixture([train, held_out], [1, 3]))[len(train) :].sum() == pytest.approx(
        0.75 * (len(train) + len(held_out))
    )


def test_finished_samples_are_kept(root: Path, tmp_path: Path, head: HeadModel) -> None:
    fresh = FilmedClips(root, frames=2, head=head, config=CONFIG)
    cached = FilmedClips(root, frames=2, head=head, config=CONFIG, cache=tmp_path)
    first = cached[2]
    cached._made = None  # type: ignore[assignment]
    again = cached[2]
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(float((fresh[2][key] - first[key]).abs().mean()) < 0.02 for key in first)
    other = FilmedClips(root, frames=2, head=head, config=replace(CONFIG, seed=1), cache=tmp_path)
    assert other._cache != cached._cache


def test_what_is_no_film_is_told(root: Path, tmp_path: Path, head: HeadModel) -> None:
    with pytest.raises(InputError, match="must be a clip set or hold clip sets"):
        find_clip_sets(tmp_path)
    with pytest.raises(InputError, match="for the split 'held_out'"):
        FilmedClips(root / "anna", split="held_out", head=head)


def test_folders_are_opened_as_what_they_are_and_mixed(root: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    head = load_head("builtin")
    for name in ("anna", "berta"):
        write_clips(films / name, head, size=32, steps=2, yaws=(0.0, 30.0))
    dataset = open_sources([films, films / "anna"], [1, 3], size=32)
    assert isinstance(dataset, Mixture) and len(dataset) == 8
    assert dataset.rarity()[4:].sum() == pytest.approx(6.0)
    held_out = open_sources([films, films / "anna"], [1, 3], split="held_out", size=32)
    assert isinstance(held_out, FilmedClips) and held_out.films[0].identity == "berta"
    with pytest.raises(ConfigError, match="2 of the one and 1 of the other"):
        open_sources([films, films], [1.0])
    with pytest.raises(InputError, match=r"no set\.json"):
        open_sources([tmp_path / "nothing"])
    with pytest.raises(InputError, match=r"no set\.json"):
        window_length([films])


def test_filmed_people_are_trained_on_from_the_command_line(tmp_path: Path) -> None:
    head = load_head("builtin")
    for name in ("anna", "berta"):
        write_clips(tmp_path / "films" / name, head, size=32, steps=2, yaws=(0.0, 30.0))
    films, out = str(tmp_path / "films"), tmp_path / "run"
    mixed = ["--data", films, "--data", films, "--share", "10", "--share", "1", "--frames", "2"]
    assert run(["train", "clips", *mixed, "--out", str(out), "--preset", "test", "--device", "cpu"]) == 0
    assert (out / "weights").is_dir() and any((out / "samples").rglob("*.npz"))
