"""Tracked videos on disk: written frame by frame, continued after a kill, refused where another run's files lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geodiff import tracked
from geodiff.clipset import ClipSet
from geodiff.errors import ClipSetError
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.media import read_image, write_image, write_video
from geodiff.tracked import track_to_clips
from geodiff.tracking import follow, footage
from geodiff.tracking.track import TrackConfig

FRAMES = 10


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("builtin")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    face = astronaut[:320, 64:384:]
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write_video(path, (np.roll(face, 2 * t, axis=1) for t in range(FRAMES)), fps=20.0)


class Counter:
    """Counts calls, and may stop one of them."""

    def __init__(self, function, stop: int | None = None) -> None:  # noqa: ANN001
        self.function, self.stop, self.calls = function, stop, 0

    def __call__(self, *arguments, **named):  # noqa: ANN002, ANN003, ANN204
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt
        return self.function(*arguments, **named)


def params(folder: Path) -> list[np.ndarray]:
    return [np.load(path)["expr"] for path in sorted((folder / "flame_param").iterdir())]


def test_a_killed_run_keeps_what_it_had(
    film: Path, head: HeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footage, "CHUNK", 4)
    stages: list[str] = []
    figures = track_to_clips(
        film, tmp_path / "whole", TrackConfig(), head, report=lambda stage, done: stages.append(stage)
    )
    assert figures["frames"] == FRAMES and figures["lost_frames"] == 0 and figures["shots"] == 1
    assert figures["landmark_error"] < 0.02
    assert list(dict.fromkeys(stages)) == ["landmarks", "fit", "frames"]

    out = tmp_path / "killed"
    signature = follow.signature
    monkeypatch.setattr(follow, "signature", Counter(signature, stop=7))
    with pytest.raises(KeyboardInterrupt):
        track_to_clips(film, out, TrackConfig(), head)
    assert [path.name for path in (out / "landmarks").iterdir()] == ["000000.npz"]

    matte = tracked.portrait_matte
    monkeypatch.setattr(follow, "signature", measured := Counter(signature))
    monkeypatch.setattr(tracked, "portrait_matte", Counter(matte, stop=6))
    with pytest.raises(KeyboardInterrupt):
        track_to_clips(film, out, TrackConfig(), head)
    assert measured.calls == FRAMES - 4, "landmarks of the first chunk are kept"
    assert len(list((out / "images").glob("*.png"))) == 5

    monkeypatch.setattr(follow, "signature", measured := Counter(signature))
    monkeypatch.setattr(tracked, "portrait_matte", mattes := Counter(matte))
    assert track_to_clips(film, out, TrackConfig(), head) == figures
    assert (measured.calls, mattes.calls) == (0, FRAMES - 5)
    for one, other in zip(params(out), params(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(one, other)
    clips = ClipSet.open(out, head)
    assert len(clips.frames) == FRAMES and clips.clip(0).params.num_frames == FRAMES
    assert (out / "videos" / "view_00.mp4").stat().st_size > 1000
    assert read_image(out / "overlay.png").shape[1] > 1000


def test_a_folder_of_another_run_is_refused_before_any_work(
    film: Path, head: HeadModel, tmp_path: Path, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = write_image(tmp_path / "portrait.png", astronaut[:320, 64:384])
    config = TrackConfig(fit_hair=False)
    figures = track_to_clips(picture, tmp_path / "clips", config, head)
    assert figures == {"frames": 1.0, "landmark_error": pytest.approx(figures["landmark_error"])}
    assert track_to_clips(picture, tmp_path / "clips", config, head) == figures
    monkeypatch.setattr(tracked, "track_video", None)
    with pytest.raises(ClipSetError, match="the output folder must be new or hold a run of the same command"):
        track_to_clips(film, tmp_path / "clips", config, head)
