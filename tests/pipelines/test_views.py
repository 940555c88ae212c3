"""Views shared by several devices: the same clip set, and failures in words."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geodiff.clipset import ClipSetSpec, ClipSetWriter
from geodiff.errors import ConfigError, InputError
from geodiff.head import load_head
from geodiff.media import read_image
from geodiff.models.networks import MODELS, build_networks
from geodiff.models.runtime import RuntimeConfig
from geodiff.models.sampling import SamplingConfig
from geodiff.tracking.track import track_image
from geodiff.types import Camera, HeadParams
from pipelines import views
from pipelines.foreground import Finish
from pipelines.generate import GenerateConfig, _prepare
from pipelines.views import Job, ViewMaker, chosen_devices, clip_parts, make_views, make_views_on

SAMPLING = SamplingConfig(steps=2, init="proposal", strength=0.5)


@pytest.fixture(scope="module")
def job(astronaut: np.ndarray) -> Job:
    head = load_head("builtin")
    config = GenerateConfig(image_size=64, views=3, frames=2, sampling=SAMPLING)
    plan = _prepare(astronaut, track_image(astronaut, head), head, 64, config, None)
    spec = ClipSetSpec(3, 2, fingerprint="test", preset="test")
    return Job(plan, spec, "random:test", "fp32", RuntimeConfig(), SAMPLING, Finish(), True, seed=3)


def writer_of(folder: Path, job: Job) -> ClipSetWriter:
    return ClipSetWriter(folder, job.spec, job.plan.head)


def test_two_processes_make_what_one_makes(job: Job, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    make_views(writer_of(one, job), ViewMaker.on("cpu", job), lambda done: None)
    # A view that is there already is not made again.
    writer = writer_of(two, job)
    maker = ViewMaker.on("cpu", job)
    maker.make(writer, 1, lambda done, total: None)
    writer.finish_view(1, job.plan.cameras[1], job.plan.drive.params)
    before = (two / "images" / "00000_01.png").stat().st_mtime_ns
    told: list[float] = []
    make_views_on(("cpu", "cpu"), writer, job, told.append)
    assert (two / "images" / "00000_01.png").stat().st_mtime_ns == before
    assert told == sorted(told) and told[-1] == 1.0
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(two)) for path in two.rglob("*") if path.is_file())
    for name in names:
        if name.endswith((".png", ".npz")):
            assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert writer_of(one, job).finished_views == writer_of(two, job).finished_views == [0, 1, 2]


def test_a_long_clip_is_made_in_parts(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the clip: never more than a window's frames at once, and the same frames."""
    torch.manual_seed(0)
    networks = build_networks(dataclasses.replace(MODELS["test"], motion=False))
    torch.nn.init.normal_(networks.unet.unet.conv_out.weight, std=0.05)
    lengths: list[int] = []
    render = views.render_conditions

    def counted(conditioner: Any, params: HeadParams, camera: Camera) -> Any:
        lengths.append(params.num_frames)
        return render(conditioner, params, camera)

    monkeypatch.setattr(views, "render_conditions", counted)
    found = {}
    for window in (1, 2):
        sampling = dataclasses.replace(SAMPLING, window=window, overlap=0, share_frame_noise=True)
        maker = ViewMaker.on("cpu", dataclasses.replace(job, sampling=sampling), networks)
        told: list[tuple[int, int]] = []
        maker.make(writer_of(tmp_path / str(window), job), 1, lambda *steps, told=told: told.append(steps))  # type: ignore[misc]
        assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))
        found[window] = [read_image(tmp_path / str(window) / "images" / f"0000{t}_01.png") for t in (0, 1)]
    assert lengths == [1, 1, 2]
    assert np.abs(found[1][0].astype(int) - found[1][1]).max() > 8, "the frames differ"
    for one, whole in zip(found[1], found[2], strict=True):
        assert np.abs(one.astype(int) - whole).max() <= 1


def test_the_portrait_is_seen_once(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of views, parts and steps: its keys and values are kept."""
    networks = build_networks(dataclasses.replace(MODELS["test"], motion=False))
    calls: list[str] = []
    networks.reference_net.register_forward_hook(lambda *_: calls.append("reference"))
    sampling = dataclasses.replace(SAMPLING, window=1, overlap=0, steps=2, strength=1.0)
    maker = ViewMaker.on("cpu", dataclasses.replace(job, sampling=sampling), networks)
    monkeypatch.setattr(networks.unet, "project_reference", lambda *_: calls.append("keys and values"))
    writer = writer_of(tmp_path, job)
    for view in (0, 1):
        maker.make(writer, view, lambda done, total: None)
    assert calls == ["reference"]


def test_temporal_modules_see_the_whole_clip() -> None:
    assert clip_parts(40, SamplingConfig(window=16), motion=True) == [slice(0, 40)]
    assert clip_parts(40, SamplingConfig(window=16), motion=False) == [slice(0, 16), slice(16, 32), slice(32, 40)]


class Threads:
    """Stands for multiprocessing's context: threads start at once, and share what is loaded."""

    Pipe = staticmethod(multiprocessing.Pipe)

    class Process(threading.Thread):
        exitcode = 1

        def __init__(self, target: Callable[..., None], args: tuple[Any, ...], daemon: bool) -> None:
            def run(pipe: Connection, *rest: object) -> None:
                with pipe:
                    if rest[0] != "dead":
                        target(pipe, *rest)

            # The other side closes its own copy of this end.
            mine = Connection(os.dup(args[0].fileno()))
            super().__init__(target=run, args=(mine, *args[1:]), daemon=daemon)

        def terminate(self) -> None:
            pass


def test_a_process_that_fails_says_which_and_why(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.views.multiprocessing.get_context", lambda kind: Threads)
    writer = writer_of(tmp_path, job)
    with pytest.raises(InputError, match=r"meta failed at view 0 \(\w+: .*finished views are kept"):
        make_views_on(("meta", "cpu"), writer, job, lambda done: None)
    assert writer.finished_views == [1], "the other process finishes what it is at"
    with pytest.raises(InputError, match=r"dead failed at view \d \(its process ended with exit code 1\)"):
        make_views_on(("dead", "dead"), writer, job, lambda done: None)
    with pytest.raises(ConfigError, match="takes one of"):
        make_views_on(("cpu",), writer, dataclasses.replace(job, networks="random:none"), lambda done: None)
    make_views_on(("cpu", "cpu", "cpu"), writer, job, lambda done: None)
    assert writer.finished_views == [0, 1, 2]


def test_devices_are_named_or_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert chosen_devices("2", "cuda") == ("cuda:0", "cuda:1")
    assert chosen_devices("3", "cpu") == ("cpu", "cpu", "cpu")
    assert chosen_devices("cuda:1, cpu", "cuda") == ("cuda:1", "cpu")
    for wrong in ("3", "0", "cuda", "cuda:0,gpu"):
        with pytest.raises(ConfigError, match="--devices takes a number, or names among cpu, cuda:0, cuda:1"):
            chosen_devices(wrong, "cuda")
