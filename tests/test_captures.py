"""`geodiff track CAPTURE`: pictures by calibrated cameras become a clip set, or the remedy is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from geodiff import captures, cli
from geodiff.captures import is_capture, read_capture
from geodiff.clipset import ClipSet
from geodiff.clipset.layout import camera_to_json
from geodiff.files import read_json
from geodiff.head import load_head
from geodiff.media import read_image, read_size, write_image
from geodiff.synth.bench.definition import BenchConfig, avatar_motions
from geodiff.synth.bench.people import Person
from geodiff.tracking.accuracy import similarity

TIMES, YAWS = 2, (-40.0, 0.0, 30.0)
#: Millimetres.
UNIT = 0.001


@pytest.fixture(scope="module")
def person() -> Person:
    return Person(load_head("builtin"), 3, BenchConfig(size=224, supersample=1, texture=384))


@pytest.fixture(scope="module")
def capture(person: Person, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures on white with cameras in millimetres; one picture of the second time is lacking."""
    folder = tmp_path_factory.mktemp("capture")
    motions, _ = avatar_motions(3, TIMES, 1)
    cameras = [person.camera(yaw, 3.0) for yaw in YAWS]
    frames: list[dict[str, Any]] = []
    for t in range(TIMES):
        for c, picture in enumerate(person.truth(motions.frame(t), cameras)):
            if (t, c) == (1, 2):
                continue
            name = f"images/{t}_{c}.png"
            write_image(folder / name, picture.bytes)
            entry = {"file_path": name, "timestep_index": 5 * t, "camera_index": c, "camera_id": f"cam{c}"}
            about = camera_to_json(cameras[c])
            for row in about["transform_matrix"][:3]:
                row[3] /= UNIT
            frames.append({**entry, **about})
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    return folder


def test_the_command_makes_a_clip_set_of_a_capture(
    capture: Path, person: Person, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "track"
    looked = captures.look_at
    calls: list[int] = []

    def look_at(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return looked(*arguments)

    monkeypatch.setattr(captures, "look_at", look_at)
    command = ["track", str(capture), "--out", str(out), "capture.dense.rounds=1", "capture.dense.points=200"]
    assert cli.run(command) == 130, "interrupted"
    assert not (out / "transforms.json").exists()
    assert cli.run(command) == 0
    assert len(calls) == 5 + 2, "faces of the first three pictures are kept"
    head = load_head("builtin")
    clips = ClipSet.open(out, head)
    assert clips.num_timesteps == TIMES and clips.camera_ids == ["cam0", "cam1", "cam2"]
    assert clips.timestep_numbers == [0, 5] and not clips.has(1, 2) and clips.has_masks
    np.testing.assert_array_equal(read_image(clips.image_file(0, 1)), read_image(capture / "images" / "0_1.png"))
    assert read_image(out / "overlay.png").shape[1] > 600
    figures = read_json(out / "run.json")["results"]
    assert figures["unit_metres"] == pytest.approx(UNIT, rel=0.12) and figures["frames"] == 5
    assert "the cameras' unit is" in capsys.readouterr().err

    # In the true world, whose unit the size of the head tells to some percent.
    motions, _ = avatar_motions(3, TIMES, 1)
    for t in range(TIMES):
        goal = head.landmark_points(person.params(motions.frame(t)))[0].numpy()
        own = head.landmark_points(clips.params.frame(t).replace(static_offset=None))[0].numpy()
        own = own * UNIT / figures["unit_metres"]
        assert np.linalg.norm(own - goal, axis=1).mean() < 0.006
        rotation = similarity(own, goal)[0]
        assert np.degrees(np.arccos((np.trace(rotation) - 1) / 2)) < 5
    offsets = clips.params.static_offset
    assert offsets is not None and offsets.norm(dim=1).max() > 0.004, "hair was fitted"
    assert cli.run(command) == 0 and len(calls) == 7, "a finished run is not made again"
    assert read_json(out / "run.json")["results"] == figures


def test_pictures_without_times_are_of_one_moment(capture: Path, tmp_path: Path) -> None:
    folder = changed(capture, tmp_path, lambda frames: [
        {k: v for k, v in frame.items() if k not in ("timestep_index", "camera_index", "camera_id")} for frame in frames
    ])  # fmt: skip
    found = read_capture(folder)
    assert found.num_times == 1 and len(found.cameras) == 5 and found.camera_ids[-1] == "04"
    assert torch.allclose(found.cameras[0].viewmat, found.cameras[3].viewmat)


def test_clip_sets_are_no_captures(capture: Path, tmp_path: Path) -> None:
    assert is_capture(capture)
    assert not is_capture(capture / "images") and not is_capture(tmp_path)
    tracked = changed(capture, tmp_path, lambda frames: [{**f, "flame_param_path": "a.npz"} for f in frames])
    assert not is_capture(tracked)


Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def changed(capture: Path, tmp_path: Path, change: Change) -> Path:
    """A copy of the capture with other lists."""
    folder = tmp_path / "changed"
    shutil.copytree(capture, folder)
    content = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").write_text(json.dumps({"frames": change(content["frames"])}))
    return folder


def moved(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    frames[-1]["transform_matrix"][0][3] += 30.0
    return frames


BAD: dict[str, tuple[Change, str]] = {
    "a picture is missing": (lambda f: [{**f[0], "file_path": "images/none.png"}, *f[1:]], "is missing: copy it there"),
    "a picture elsewhere": (lambda f: [{**f[0], "file_path": "../x.png"}, *f[1:]], "leads out of it"),
    "no list": (lambda f: [f[0], "x"], "must list"),  # type: ignore[list-item]
    "a number that is none": (lambda f: [{**f[0], "k1": "abc"}, *f[1:]], "undistort them first"),
    "half a time": (lambda f: [{**f[0], "timestep_index": 1.5}, *f[1:]], "as whole numbers"),
    "infinite": (lambda f: [{**f[0], "fl_x": float("inf")}, *f[1:]], "finite intrinsics"),
    "no name of a file": (lambda f: [{**f[0], "file_path": "a\0.png"}, *f[1:]], "cannot be a file"),
    "a small mask": (lambda f: [{**f[0], "fg_mask_path": "small.png"}, *f[1:]], "masks must have their picture's size"),
    "a camera moves": (moved, "cameras of a capture must stand still"),
    "a bent lens": (lambda f: [{**f[0], "k1": 0.1}, *f[1:]], "undistort them first"),
    "no number of the time": (
        lambda f: [{k: v for k, v in f[0].items() if k != "timestep_index"}, *f[1:]],
        "must give timestep_index",
    ),
    "twice the same": (lambda f: [f[0], *f], "must be the only one"),
    "another size": (lambda f: [{**f[0], "w": 100}, *f[1:]], "scale the one or the other"),
    "two sizes": (lambda f: [{**f[0], "file_path": "small.png", "w": 100, "h": 100}, *f[1:3]], "must have one size"),
    "no matrix": (lambda f: [{k: v for k, v in f[0].items() if k != "transform_matrix"}, *f[1:]], "transform_matrix"),
}


@pytest.mark.parametrize("name", BAD)
def test_captures_that_cannot_be_tracked(
    name: str, capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, remedy = BAD[name]
    folder = changed(capture, tmp_path, change)
    write_image(folder / "small.png", np.zeros((100, 100, 3), np.uint8))
    assert cli.run(["track", str(folder), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert remedy in told and "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_a_capture_without_faces_says_so(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = changed(capture, tmp_path, lambda frames: frames)
    for path in (folder / "images").iterdir():
        write_image(path, np.full((224, 224, 3), 200, np.uint8))
    assert cli.run(["track", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "use cameras that see the face" in capsys.readouterr().err
    assert not (tmp_path / "out" / "transforms.json").exists()


def test_a_moment_nobody_saw_does_not_decide_the_hair(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time shows no face: hair is of the first, and heads of both are alike."""
    folder = changed(capture, tmp_path, lambda frames: frames)
    for path in (folder / "images").glob("1_*.png"):
        write_image(path, np.full((224, 224, 3), 200, np.uint8))
    chosen: list[np.ndarray] = []
    fit = captures.fit_offsets

    def fit_offsets(matte: np.ndarray, *rest: Any) -> Any:
        chosen.append(matte)
        return fit(matte, *rest)

    monkeypatch.setattr(captures, "fit_offsets", fit_offsets)
    assert cli.run(["track", str(folder), "--out", str(tmp_path / "out"), "capture.dense.rounds=0"]) == 0
    assert 0.1 < chosen[0].mean() < 0.9
    clips = ClipSet.open(tmp_path / "out", load_head("builtin"))
    assert torch.equal(clips.params.rotation[0], clips.params.rotation[1])


def test_pictures_are_as_large_as_they_are_read(tmp_path: Path) -> None:
    picture = Image.fromarray(np.zeros((40, 60, 3), np.uint8))
    about = picture.getexif()
    about[274] = 6
    picture.save(tmp_path / "turned.jpg", exif=about)
    Image.fromarray(np.zeros((80, 4200, 3), np.uint8)).save(tmp_path / "wide.png")
    for name in ("turned.jpg", "wide.png"):
        height, width = read_image(tmp_path / name, min_side=1).shape[:2]
        assert read_size(tmp_path / name) == (width, height)


@pytest.mark.parametrize("setting", ["scale_spread=0", "side=-1", "dense.points=-1", "dense.side=8", "dense.outlier=0"])
def test_settings_that_cannot_be(setting: str, capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["track", str(capture), f"capture.{setting}"]) == 2
    assert "must be" in capsys.readouterr().err


def test_a_face_cannot_be_chosen_in_a_capture(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["track", str(capture), "--face", "1"]) == 2
    assert "is a capture: leave it out" in capsys.readouterr().err
