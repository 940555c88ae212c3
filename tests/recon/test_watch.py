"""What a run tells while it lasts, how it ends early, and that a killed one ends where an unbroken one does."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geodiff.errors import ConfigError, MissingDependencyError
from geodiff.files import read_json
from geodiff.head.model import HeadModel
from geodiff.raster import threads
from recon.methods.geodiff4d import GeoDiff4DConfig
from recon.optimise import Schedule, optimise
from recon.reconstruct import Job, method_config, reconstruct
from recon.watch import LogConfig, PlateauConfig

JOB = Job(device="cpu", preview_frames=0)


class Slide:
    """A problem whose loss falls to a floor and stays there. psnr: what is measured, where anything is."""

    samples = [0, 1]

    def __init__(self, floor: int, psnr: bool = False) -> None:
        self.floor, self.psnr, self.done = floor, psnr, torch.zeros(1)

    def step(self, sample: int, iteration: int) -> dict[str, float]:
        self.done += 1
        return {"loss": max(1.0 - float(self.done) / self.floor, 0.1), "part": float(iteration)}

    def state(self) -> dict[str, torch.Tensor]:
        return {"done": self.done}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.done = state["done"].clone()


class Measured(Slide):
    def measure(self) -> float | None:
        return min(float(self.done), self.floor) / 10

    def picture(self) -> np.ndarray:
        return np.zeros((8, 16, 3), np.uint8)


def test_kernels_keep_their_threads_while_torch_has_one() -> None:
    """One thread of torch for small tensors; a rasteriser with one would waste the other cores."""
    seen: list[tuple[int, int]] = []

    class Watching(Slide):
        def step(self, sample: int, iteration: int) -> dict[str, float]:
            seen.append((threads.count(), torch.get_num_threads()))
            return super().step(sample, iteration)

    usual = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        optimise(Watching(5), Schedule(2))
        assert seen == [(3, 1)] * 2 and threads.count() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(usual)


@pytest.mark.parametrize("kind", [Slide, Measured])
def test_a_run_ends_when_it_gains_nothing(tmp_path: Path, kind: type[Slide]) -> None:
    plateau = PlateauConfig(patience=2, every=10, gain=0.5, start=0.1)
    problem, file = kind(100), tmp_path / "c.safetensors"
    shown: list[tuple[int, int]] = []
    optimise(problem, Schedule(1000, plateau=plateau), file, "a", lambda done, of, _: shown.append((done, of)))
    # The running mean of the loss comes down a little later than the loss.
    assert 110 <= float(problem.done) <= (130 if kind is Measured else 500) and shown[-1] == (1000, 1000)
    again = kind(100)
    assert optimise(again, Schedule(1000, plateau=plateau), file, "a") == int(problem.done), "it has ended"
    assert float(again.done) == float(problem.done)


def test_runs_do_not_end_early_by_default_or_before_their_start() -> None:
    for plateau in (PlateauConfig(), PlateauConfig(patience=1, every=5, start=1.0)):
        problem = Measured(10)
        optimise(problem, Schedule(60, plateau=plateau))
        assert float(problem.done) == 60
    with pytest.raises(ConfigError, match="plateau needs"):
        PlateauConfig(every=0)
    with pytest.raises(ConfigError, match=r"log.every and log.pictures"):
        LogConfig(pictures=0)
    config = method_config("geodiff4d", "preview", ["plateau.patience=5", "log.tensorboard=true"])
    assert config.plateau.patience == 5 and config.log.tensorboard


def test_an_early_end_is_the_same_after_a_kill(tmp_path: Path) -> None:
    """The patience that was used up, and the running mean, are part of the checkpoint."""
    schedule = Schedule(1000, checkpoint_seconds=0.0, plateau=PlateauConfig(patience=3, every=10, gain=1.0, start=0.0))
    whole = Slide(50)
    optimise(whole, schedule)
    for kill in (7, 95, int(whole.done) - 2):
        file = tmp_path / f"{kill}.safetensors"
        with pytest.raises(KeyboardInterrupt):
            optimise(Killed(Slide(50), kill), schedule, file, "a")
        again = Slide(50)
        assert optimise(again, schedule, file, "a") > 0 and float(again.done) == float(whole.done)


class Killed:
    """A problem that is interrupted at an iteration."""

    def __init__(self, inner: Slide, at: int) -> None:
        self.inner, self.at, self.samples = inner, at, inner.samples
        self.state, self.restore = inner.state, inner.restore

    def step(self, sample: int, iteration: int) -> dict[str, float]:
        if iteration == self.at:
            raise KeyboardInterrupt
        return self.inner.step(sample, iteration)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_figures_are_written_and_gone_on_with(tmp_path: Path) -> None:
    schedule = Schedule(20, log=LogConfig(every=5))
    optimise(Slide(100), schedule, tmp_path / "c.safetensors", "a", folder=tmp_path)
    assert [row["step"] for row in rows(tmp_path / "log.csv")] == ["5", "10", "15", "20"]
    assert float(rows(tmp_path / "log.csv")[1]["part"]) == 7.0, "means since the last row"
    optimise(Slide(100), replace(schedule, iterations=33), tmp_path / "c.safetensors", "b", folder=tmp_path)
    assert [row["step"] for row in rows(tmp_path / "log.csv")][-2:] == ["30", "33"]


def test_tensorboard_holds_losses_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = LogConfig(every=5, tensorboard=True, pictures=10)
    optimise(Measured(100), Schedule(20, log=log), folder=tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [5, 10, 15, 20]
    assert [event.step for event in events.Images("frame and truth")] == [10, 20]
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'geodiff\[train\]'"):
        optimise(Measured(100), Schedule(20, log=log), folder=tmp_path)


def test_logs_of_a_reconstruction(tmp_path: Path, clips: Path, small_head: HeadModel, quick: GeoDiff4DConfig) -> None:
    pytest.importorskip("tensorboard")
    config = replace(quick, iterations=6, log=LogConfig(every=2, tensorboard=True, pictures=3))
    out = tmp_path / "a"
    for seed in (0, 1):
        reconstruct(clips, "geodiff4d", out, replace(config, seed=seed), job=JOB, head=small_head)
    found = rows(out / "log.csv")
    assert len(found) == 3 and {"loss", "photometric", "normal", "mask", "gaussians"} <= found[0].keys()
    assert len(list((out / "tensorboard").iterdir())) == 1 and not (out / ".work").exists()


KILLED = """
import sys
from pathlib import Path
from heads import ellipsoid_head
from recon.reconstruct import Job, method_config, reconstruct
clips, out, *overrides = sys.argv[1:]
config = method_config("geodiff4d", "test", overrides)
reconstruct(Path(clips), "geodiff4d", Path(out), config, job=Job("cpu", preview_frames=0), head=ellipsoid_head(18, 24))
"""


@pytest.mark.slow
def test_a_run_that_was_shot_ends_bitwise_as_an_unbroken_one(
    tmp_path: Path, clips: Path, small_head: HeadModel
) -> None:
    """SIGKILL, as by a machine that is turned off, with all refinements and density control on."""
    overrides = [
        "iterations=14", "checkpoint_seconds=0", "refinement.enabled=true", "deform.enabled=true",
        "attributes.enabled=true", "density.enabled=true", "density.every=5",
    ]  # fmt: skip
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    out, checkpoint = tmp_path / "shot", tmp_path / "shot" / ".work" / "checkpoint.safetensors"
    command = [sys.executable, "-c", KILLED, str(clips), str(out), *overrides]
    with (tmp_path / "said.txt").open("wb") as said:
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stderr=said)
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert checkpoint.exists(), (tmp_path / "said.txt").read_text()[-2000:]
    assert process.returncode == -signal.SIGKILL and not (out / "avatar.json").exists()
    assert [p for p in (out / ".work").iterdir() if p.name == checkpoint.name], "a whole checkpoint is there"
    config = method_config("geodiff4d", "test", overrides)
    starts: list[float] = []
    reconstruct(
        clips, "geodiff4d", out, config, lambda _, done, words="": starts.append(done), job=JOB, head=small_head
    )
    whole = tmp_path / "whole"
    reconstruct(clips, "geodiff4d", whole, config, job=JOB, head=small_head)
    for name in ("point_cloud.ply", "flame_param.npz", "networks.safetensors"):
        if (whole / name).exists():
            assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert read_json(out / "avatar.json")["metrics"] == read_json(whole / "avatar.json")["metrics"]
