"""The command line: exit codes, dry runs, and the path from a tracked photograph to a video."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from geodiff import cli, config, console
from geodiff.cli import tracking
from geodiff.console import StageProgress
from geodiff.errors import InputError
from geodiff.files import read_json
from geodiff.media import read_video, write_image, write_video

COMMANDS = (
    "generate", "reconstruct", "animate", "track", "evaluate", "export", "view", "batch", "train", "synth",
    "convert-weights", "doctor",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEODIFF_CACHE", str(tmp_path / "cache"))


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    text = capsys.readouterr().out
    assert "Usage" in text
    if command != "doctor":
        for option in ("--dry-run", "--seed", "--device", "--preset"):
            assert option in text, option
    if command in ("generate", "reconstruct", "animate", "track", "batch", "train", "synth"):
        assert "KEY=VALUE" in text
    if command not in ("train", "convert-weights"):
        assert "--head" in text, "training sets carry their head"


def test_help_is_quick() -> None:
    code = "import sys, geodiff.cli; print([m for m in ('torch', 'cv2', 'mediapipe', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", "heavy packages are imported by the commands that need them"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("geodiff 0.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("track none.png", "none.png does not exist"),
        ("track . --preset prevew", "did you mean 'preview'"),
        ("track x.png --device gpu", "the device must be one of auto, cpu, cuda"),
        ("track x.png --seed -1", "the seed must be 0 or more"),
        ("track x.png keyfrmes=2", "did you mean 'keyframes'"),
        ("track x.png keyframes=two", "'keyframes' a value of the wrong kind"),
        ("track x.png --head flam", "flam"),
        ("track x.png --head flame:none.pkl", "none.pkl does not exist"),
        ("track x.png --convert builtin", "track pixels with --head builtin instead"),
        ("track nowhere --convert builtin", "nowhere does not exist"),
        ("track sub --convert builtin", "a tracking result is one of"),
        ("track sub", "a tracking result is one of"),
        ("track broken.npz", "broken.npz"),
        ("track broken.npz --convert builtin", "broken.npz"),
        ("track sub --face 1", "--face chooses among the faces of an image"),
        ("track sub --convert bultin", "'bultin'"),
        ("track sub --convert builtin shape.round=2", "did you mean 'shape.rounds'"),
        ("evaluate nowhere --against nowhere --head ict:none.npz", "none.npz does not exist"),
        ("synth --out o --head ict:none.npz", "none.npz does not exist"),
        ("doctor --head flam", "marked broken"),
        ("reconstruct nowhere", "nowhere does not exist"),
        ("reconstruct . ", "holds transforms.json"),
        ("reconstruct nowhere --method geodiff4", "did you mean 'geodiff4d'"),
        ("animate nowhere", "avatar"),
        ("evaluate nowhere --against nowhere", "nowhere does not exist"),
        ("export nowhere --format obj", "must be one of ply"),
        ("view nowhere", "avatar"),
        ("batch nowhere --out o", "nowhere does not exist"),
        ("batch . --out o", "holds none"),
        ("batch . --out o views=3", "must begin with the stage"),
        (
            "train imags --data x --out y",
            "stage must be one of autoencoder, expression, generator, images, clips, not 'imags'",
        ),
        ("train images --data nowhere --out y --preset test model=test", "nowhere"),
        ("generate", "--ref"),
        ("nonsense", "nonsense"),
        ("track", "SOURCE"),
    ],
)
def test_wrong_input_is_one_sentence_and_code_2(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_image(tmp_path / "sub" / "x.png", np.zeros((80, 80, 3), np.uint8))
    (tmp_path / "broken.npz").write_bytes(b"PK not much of an archive")
    words_given = [a.replace("x.png", "sub/x.png") for a in arguments.split()]
    assert run(*words_given) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told
    if told.startswith("Error:"):
        assert len(told.strip().splitlines()) == 1


def test_cuda_is_asked_for_honestly(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("track", "x.png", "--device", "cuda") == 2
    assert "--device cuda needs a CUDA GPU, and" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        "track x.png keyframes=4",
        "reconstruct x iterations=7",
        "animate x size=64",
        "evaluate x --against y",
        "export x",
        "view x",
        "track x --convert builtin measured_frames=3",
        "synth --out x people=3",
    ],
)
def test_dry_runs_print_yaml_and_write_nothing(
    arguments: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(*arguments.split(), "--dry-run") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert isinstance(printed, dict) and printed
    for item in arguments.split():
        if "=" in item:
            key, value = item.split("=")
            assert printed[key] == int(value)
    assert not list(tmp_path.iterdir())


def raising(error: BaseException):
    def load(*_args, **_kwargs):
        raise error

    return load


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("odd\nthing"), 1, "Fault in geodiff: ValueError: odd thing; the details are in"),
        (KeyboardInterrupt(), 130, "run the same command again to go on"),
        (OSError(errno.ENOSPC, "No space left", "out/a.png"), 2, "out/a.png needs free disk space"),
        (MemoryError(), 2, "more memory than there is"),
        (InputError("one\nsentence"), 2, "Error: one sentence"),
    ],
)
def test_exit_codes_of_errors(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(tracking, "load_config", raising(error))
    assert run("track", "x.png") == code
    told = capsys.readouterr().err
    assert words in told and "Traceback" not in told
    logs = list((tmp_path / "cache" / "logs").glob("*.log")) if code == 1 else []
    assert all("Traceback" in log.read_text() for log in logs) and len(logs) == (code == 1)


def test_doctor_names_what_is_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from geodiff import assets

    code = run("doctor")
    text = capsys.readouterr().out
    for name in ("python", "torch", "mediapipe", "ffmpeg", "opencv", "weights", "numba", "head builtin", "head flame",
                 "head ict", "disk", "gsplat"):  # fmt: skip
        assert name in text
    assert code in (0, 2)
    monkeypatch.setattr(assets, "bundled_names", raising(InputError("damaged")))
    assert run("doctor") == 2
    assert "broken" in capsys.readouterr().out


def test_progress_without_a_terminal_speaks_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(console.time, "monotonic", lambda: now.value)
    times: list[tuple[str, float]] = []
    with StageProgress(lambda stage, seconds: times.append((stage, seconds))) as report:
        for done in range(11):
            report("fit", done / 10, "loss 0.1")
            now.value += 4.0
        report("preview", 1.0)
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "fit: 0% after 0 s loss 0.1"
    assert told[-1] == "preview: 100% after 0 s"
    assert 4 <= sum(line.startswith("fit") for line in told) <= 6
    assert times == [("fit", 44.0), ("preview", 0.0)]


def test_from_a_photograph_to_a_video(
    tmp_path: Path, astronaut: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", astronaut[:384, 64:448])
    assert run("track", "a.png", "--out", "track", "--preset", "test") == 0
    record = read_json(tmp_path / "track" / "run.json")
    assert record["status"] == "done" and record["results"]["landmark_error"] < 0.06
    assert run("reconstruct", "track", "--out", "avatar", "--preset", "test", "iterations=3") == 0
    assert "no normal maps" in capsys.readouterr().err
    assert read_json(tmp_path / "avatar" / "run.json")["config"]["iterations"] == 3
    assert run("animate", "avatar", "--preset", "test", "--out", "deep/talk.mp4", "frames=3") == 0
    assert read_video(tmp_path / "deep" / "talk.mp4").read().shape == (3, 64, 64, 3)
    assert read_json(tmp_path / "deep" / "talk.run.json")["config"]["frames"] == 3
    assert run("export", "avatar", "--out", "head.ply") == 0
    assert (tmp_path / "head.ply").stat().st_size > 1000
    assert run("evaluate", "avatar", "--against", "track") == 0
    assert "PSNR" in capsys.readouterr().out and (tmp_path / "avatar" / "metrics.json").exists()


def test_tracking_a_video(tmp_path: Path, astronaut: np.ndarray) -> None:
    from geodiff.clipset import ClipSet

    crop = astronaut[:256, 96:352]
    write_video(tmp_path / "a.mp4", [np.roll(crop, 3 * t, 1) for t in range(3)], fps=10)
    assert run("track", "a.mp4", "--preset", "test") == 0
    clips = ClipSet.open(tmp_path / "out" / "a" / "track")
    assert clips.num_timesteps == 3 and clips.fps == pytest.approx(10)
    frame = clips.frame(1, 0)
    assert frame.image.shape == (256, 256, 3) and (frame.image[frame.mask == 0] == 255).all()


def test_presets_are_listed_in_the_help() -> None:
    assert config.DEFAULT_PRESET in config.preset_names()
