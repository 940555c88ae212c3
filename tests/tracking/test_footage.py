"""Landmarks of a film: kept on disk in chunks, continued after a kill as if nothing had happened, pictures not kept."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tracking.staged import Actor, Stage

from geodiff.errors import InputError
from geodiff.tracking import footage
from geodiff.tracking.follow import Event
from geodiff.tracking.footage import Footage, interludes, shots, watch


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Two shots with a flash in the second, and a person who is lost now and then."""
    monkeypatch.setattr(footage, "CHUNK", 4)
    actors = [[Actor(0, 40 + t), Actor(1, 130)] if t % 7 else [Actor(1, 130)] for t in range(1, 31)]
    return Stage(monkeypatch, actors, [0] * 14 + [1] * 5 + [2] + [1] * 10)


def same(one: Footage, other: Footage) -> bool:
    looks = all(np.array_equal(a, b) for a, b in zip(one.looks, other.looks, strict=True))
    equal = np.array_equal(one.points, other.points, equal_nan=True) and np.array_equal(one.shot, other.shot)
    return looks and equal and one.size == other.size


def test_a_film_is_watched(stage: Stage) -> None:
    seen = watch(stage.frames())
    assert seen.points.shape == (30, 478, 2) and seen.points.dtype == np.float32 and seen.size == (160, 120)
    assert seen.shot.tolist() == [0] * 14 + [1] * 16, "the flash belongs to its shot"
    assert len(seen.looks) == 2 and all(len(look) for look in seen.looks)
    lost = [t for t in range(30) if (t + 1) % 7 == 0]
    assert not seen.found[[*lost, 19]].any() and seen.found.sum() >= 22


@pytest.mark.parametrize("killed", [2, 4, 9, 17, 20, 21, 29])
def test_a_killed_run_goes_on_where_it_was(stage: Stage, tmp_path: Path, killed: int) -> None:
    whole = watch(stage.frames())

    def dying() -> Iterator[np.ndarray]:
        yield from stage.frames(killed)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(dying(), tmp_path, "film")
    stage.measured = stage.searches = 0
    reported: list[int] = []
    again = watch(stage.frames(), tmp_path, "film", reported.append)
    assert same(again, whole)
    assert stage.measured <= 30 - killed // 4 * 4, "chunks that are on disk are not measured again"
    assert reported == list(range(1, 31))
    stage.measured = stage.searches = 0
    assert same(watch(stage.frames(), tmp_path, "film"), whole)
    assert stage.measured == stage.searches == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_chunks_of_another_film_or_damaged_ones_are_measured_again(stage: Stage, tmp_path: Path) -> None:
    whole = watch(stage.frames(), tmp_path, "film")
    chunks = sorted(tmp_path.iterdir())
    assert [path.name for path in chunks][:3] == ["000000.npz", "000004.npz", "000008.npz"]
    stage.measured = 0
    assert same(watch(stage.frames(), tmp_path, "another"), whole) and stage.measured > 20
    assert same(watch(stage.frames(), tmp_path, "film"), whole)
    chunks[2].write_bytes(chunks[2].read_bytes()[:200])
    stage.measured = 0
    assert same(watch(stage.frames(), tmp_path, "film"), whole) and 0 < stage.measured <= 22
    with np.load(chunks[1], allow_pickle=False) as arrays:
        short = {name: arrays[name] for name in arrays.files if name != "state_counts"}
    np.savez(chunks[1], **short)
    assert same(watch(stage.frames(), tmp_path, "film"), whole)


def test_frames_are_taken_once_and_not_kept(stage: Stage) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal most
        for frame in stage.frames():
            most = max(most, sum(ref() is not None for ref in alive))
            alive.append(weakref.ref(frame))
            yield frame

    source = counted()
    watch(source)
    assert most <= 2, f"{most} frames were held at once"
    assert next(source, None) is None and len(alive) == 30


def test_frames_of_two_sizes_are_refused(stage: Stage) -> None:
    frames = [stage.frame(0), stage.frame(1)[:100]]
    with pytest.raises(InputError, match=r"must have one size, and frames of \(160, 120\) and of \(160, 100\) pixels"):
        watch(frames)


def test_interludes_belong_to_the_shot_around_them() -> None:
    none, cut, back = Event.NONE, Event.CUT, Event.RETURN
    events = [none, cut, none, cut, none, back, none, cut]
    assert shots(events).tolist() == [0, 1, 1, 1, 1, 1, 1, 2]
    assert interludes(events).tolist() == [False] * 3 + [True] * 2 + [False] * 3
    assert shots([]).shape == (0,)
