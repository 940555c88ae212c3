"""The real commands, one after the other, as a user runs them: a photograph becomes an avatar that moves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from skimage.data import astronaut

from geodiff.clipset import ClipSet
from geodiff.media import read_image, read_video, write_image

ROOT = Path(__file__).resolve().parents[1]


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "geodiff", *map(str, words)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}


def geodiff(*words: object) -> subprocess.CompletedProcess[str]:
    """Runs one command; its output is in the failure message."""
    done = subprocess.run(command(*words), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"geodiff {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("portrait") / "astronaut.png"
    write_image(path, astronaut())
    return path


@pytest.fixture(scope="module")
def clips(portrait: Path) -> Path:
    out = portrait.parent / "clips"
    geodiff("generate", "--ref", portrait, "--out", out, "--preset", "test", "--views", 3, "--frames", 3)
    return out


@pytest.fixture(scope="module")
def avatar(clips: Path) -> Path:
    out = clips.parent / "avatar"
    geodiff("reconstruct", clips, "--out", out, "--preset", "test")
    return out


def test_a_portrait_becomes_a_clip_set(clips: Path) -> None:
    found = ClipSet.open(clips)
    assert (found.num_cameras, found.num_timesteps) == (3, 3)
    assert found.has_normals
    latents = found.expression
    assert latents is not None and latents.shape[0] == 3
    frame = found.frame(2, 1)
    assert frame.image.shape == (64, 64, 3)
    assert frame.mask.max() == 255 and frame.mask.min() == 0
    # Outside the mask: white in the image, the zero vector in the normals.
    outside = frame.mask == 0
    assert frame.image[outside].min() >= 250
    assert frame.normal is not None
    assert np.abs(frame.normal[outside].astype(int) - 128).max() <= 1
    record = json.loads((clips / "run.json").read_text())
    assert record["status"] == "done" and record["command"] == "generate"


def test_the_proposals_show_the_person(clips: Path) -> None:
    """Whatever untrained networks make of it, the frontal proposal is the photograph: compared with the reference."""
    proposal = read_image(clips / "proposals" / "00000_00.png").astype(float)
    reference = read_image(clips / "reference" / "image.png").astype(float)
    center = (slice(20, 44), slice(20, 44))
    assert np.abs(proposal[center] - reference[center]).mean() < 40
    assert np.corrcoef(proposal[center].ravel(), reference[center].ravel())[0, 1] > 0.7


def test_a_killed_generation_goes_on_and_ends_the_same(portrait: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips"
    words = ("generate", "--ref", portrait, "--out", out, "--preset", "test", "--views", 3, "--frames", 3)
    process = subprocess.Popen(command(*words), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    listed = out / "clipset.json"

    def begun() -> bool:
        return listed.exists() and bool(json.loads(listed.read_text())["views"])

    deadline = time.monotonic() + 300
    while process.poll() is None and not begun() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert begun(), "the run ended before it wrote a view"
    finished = (out / "images" / "00000_00.png").stat().st_mtime_ns
    geodiff(*words)
    assert (out / "images" / "00000_00.png").stat().st_mtime_ns == finished
    for image in sorted((clips / "images").iterdir()):
        np.testing.assert_array_equal(read_image(image), read_image(out / "images" / image.name))


def test_the_avatar_moves_and_leaves(avatar: Path) -> None:
    video = avatar.parent / "talk.mp4"
    geodiff("animate", avatar, "--drive", "builtin:talk", "--camera", "orbit", "--out", video, "--preset", "test")
    frames = list(read_video(video))
    assert len(frames) >= 2
    assert np.abs(frames[0].astype(int) - frames[-1].astype(int)).mean() > 0.1
    splats = avatar.parent / "splats.ply"
    geodiff("export", avatar, "--format", "splats", "--out", splats)
    assert splats.read_bytes().startswith(b"ply\nformat binary_little_endian 1.0\n")


def test_an_avatar_is_measured_against_its_clips(avatar: Path, clips: Path) -> None:
    geodiff("evaluate", avatar, "--against", clips)
    metrics = json.loads((avatar / "metrics.json").read_text())
    assert "psnr" in json.dumps(metrics)


def test_a_missing_portrait_leaves_what_was_there(clips: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command("generate", "--ref", tmp_path / "missing.png", "--out", clips, "--preset", "test"),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert ClipSet.open(clips).num_cameras == 3
