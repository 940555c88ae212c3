"""Making one view after the other, on one device or on several at once.

Each view draws its noise from its own seed, so the result does not depend on who makes it, or after which one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geodiff import assets
from geodiff.clipset import ClipSetSpec, ClipSetWriter
from geodiff.conditioning import Condition, Conditioner, Reference
from geodiff.errors import ConfigError, InputError, UserError
from geodiff.head.model import HeadModel
from geodiff.media import write_image
from geodiff.models.networks import MODELS, Networks, build_networks
from geodiff.models.runtime import RuntimeConfig
from geodiff.models.sampling import SamplingConfig
from geodiff.sheets import normals_as_image
from geodiff.types import Camera, HeadParams
from pipelines.foreground import Finish, composite
from pipelines.motion import DriveSequence
from pipelines.portrait_normal import PortraitNormalPipeline

#: Prefix of network names that are built with random weights, for tests of the machinery.
RANDOM_PREFIX = "random:"
#: Precisions that the denoiser can run in; None is that of the weights.
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Generation:
    """What a generation needs once the portrait is understood."""

    head: HeadModel
    reference: Reference
    drive: DriveSequence
    cameras: tuple[Camera, ...]


@dataclass(frozen=True)
class Job:
    """All that a process needs to make views. networks: see `load_networks`. precision: a name in PRECISIONS; the rest
    as in `GenerateConfig`."""

    plan: Generation
    spec: ClipSetSpec
    networks: str
    precision: str
    runtime: RuntimeConfig
    sampling: SamplingConfig
    finish: Finish
    save_proposals: bool
    seed: int


class ViewMaker:
    """Generates views and writes their frames into a clip set's folder.

    Frames are files of their own, so several processes may write at once; the writer alone knows which views are
    finished.
    """

    def __init__(self, job: Job, pipeline: PortraitNormalPipeline) -> None:
        self.job, self.pipeline = job, pipeline
        plan = job.plan
        self._conditioner = Conditioner(plan.head, plan.reference)
        crops = torch.from_numpy(plan.drive.crops).permute(0, 3, 1, 2) * 2.0 - 1.0
        self.latents: Tensor = pipeline.encode_expression(crops)
        self._identity = pipeline.encode_reference(plan.reference)

    @staticmethod
    def on(device: str, job: Job, networks: Networks | None = None) -> ViewMaker:
        """One whose networks run on `device`; networks: those of the job, where they are loaded already."""
        pipeline = PortraitNormalPipeline.from_networks(networks or load_networks(job.networks))
        return ViewMaker(job, pipeline.prepare(job.runtime, device, PRECISIONS[job.precision]))

    def make(self, writer: ClipSetWriter, view: int, step: Callable[[int, int], None]) -> None:
        """Write a view's frames. step: told (steps done, steps in all)."""
        job, plan = self.job, self.job.plan
        parts = clip_parts(plan.drive.params.num_frames, job.sampling, self.pipeline.model_config.motion)
        noise = torch.Generator("cpu")
        for number, part in enumerate(parts):
            if number == 0 or job.sampling.share_frame_noise:
                noise.manual_seed(job.seed * 1000 + view)
            params = plan.drive.params.frames(torch.arange(part.start, part.stop))
            conditions = render_conditions(self._conditioner, params, plan.cameras[view])
            output = self.pipeline(
                self._identity,
                conditions,
                self.latents[part],
                sampling=job.sampling,
                generator=noise,
                progress=lambda done, total, n=number: step(n * total + done, len(parts) * total),  # type: ignore[misc]
                compute_dtype=PRECISIONS[job.precision],
            )
            for i, t in enumerate(job.spec.timesteps(view)[part]):
                self._write(writer, int(t), view, conditions[i], output.images[i], output.normals[i], params.frame(i))

    def _write(
        self, writer: ClipSetWriter, t: int, view: int, condition: Condition, image: np.ndarray, normals: np.ndarray,
        params: HeadParams,
    ) -> None:  # fmt: skip
        """Finish and store one decoded frame; t: its timestep."""
        kept = self.job.finish(image, condition)
        shown, normal, mask = composite(kept, normals, condition.silhouette, condition.beside)
        writer.write_frame(t, view, _as_bytes(shown), _as_bytes(mask), params, _as_bytes(normals_as_image(normal)))
        if self.job.save_proposals:
            write_image(writer.folder / "proposals" / f"{t:05d}_{view:02d}.png", condition.proposal)


def clip_parts(length: int, sampling: SamplingConfig, motion: bool) -> list[slice]:
    """Frames of a clip that are generated together. Temporal modules tie a clip together; networks without them make
    every frame by itself, and parts keep memory from growing with the clip."""
    if motion:
        return [slice(0, length)]
    return [slice(first, min(first + sampling.window, length)) for first in range(0, length, sampling.window)]


def _as_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)


def render_conditions(conditioner: Conditioner, params: HeadParams, camera: Camera) -> list[Condition]:
    """Conditions of T frames in one camera."""
    return [conditioner.render(params.frame(t), camera) for t in range(params.num_frames)]


def make_views(writer: ClipSetWriter, maker: ViewMaker, report: Callable[[float], None]) -> None:
    """Make what is missing of a clip set, view by view. report: told the part that is done, 0..1."""
    plan, views = maker.job.plan, writer.spec.num_cameras
    for view in writer.missing_views():
        finished = len(writer.finished_views)
        maker.make(writer, view, lambda done, total, n=finished: report((n + done / total) / views))  # type: ignore[misc]
        writer.finish_view(view, plan.cameras[view], plan.drive.params)
        report(len(writer.finished_views) / views)


def make_views_on(devices: Sequence[str], writer: ClipSetWriter, job: Job, report: Callable[[float], None]) -> None:
    """`make_views` by a process for each device; whoever is done takes the next missing view.

    Where one fails, the others finish the views they are at, what is finished is kept, and an InputError says which
    device failed and how; an error of the user's own making is raised as it is.
    """
    waiting = iter(writer.missing_views())
    context = multiprocessing.get_context("spawn")
    workers = [_Worker(context, device, writer.folder, job, len(devices)) for device in devices]
    views, failure = writer.spec.num_cameras, None
    try:
        for worker in workers:
            worker.give(next(waiting, None))
        while any(worker.view is not None for worker in workers):
            for worker, told in _heard(workers):
                if isinstance(told, UserError):
                    failure = failure or told
                elif isinstance(told, float):
                    worker.part = told
                    report((len(writer.finished_views) + sum(w.part for w in workers)) / views)
                else:
                    view, worker.part = worker.view, 0.0
                    assert view is not None
                    writer.finish_view(view, job.plan.cameras[view], job.plan.drive.params)
                    report((len(writer.finished_views) + sum(w.part for w in workers)) / views)
                    worker.give(None if failure else next(waiting, None))
    finally:
        for worker in workers:
            worker.end()
    if failure is not None:
        raise failure


class _Worker:
    """A process that makes views on one device, seen from outside. part: of its view, 0..1."""

    def __init__(self, context: Any, device: str, folder: Path, job: Job, count: int) -> None:
        self.device, self.part = device, 0.0
        self.view: int | None = None
        self.ours, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_work, args=(theirs, device, folder, job, count), daemon=True
        )
        self.process.start()
        theirs.close()

    def give(self, view: int | None) -> None:
        """The next view, or None for no more."""
        self.view = view
        # Where it has ended, whoever listens next learns how.
        with contextlib.suppress(OSError):
            self.ours.send(view)

    def failed(self, why: str) -> InputError:
        view, self.view, self.part = self.view, None, 0.0
        return InputError(
            f"every device of --devices must be able to make its views, and {self.device} failed at view {view} "
            f"({why}): leave it out, or choose runtime.memory=low; finished views are kept"
        )

    def end(self) -> None:
        self.ours.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


def _heard(workers: Sequence[_Worker]) -> Iterator[tuple[_Worker, Any]]:
    """What busy workers tell: a float for progress, None for a finished view, an error."""
    busy = {worker.ours: worker for worker in workers if worker.view is not None}
    for connection in wait(list(busy)):
        assert isinstance(connection, Connection)
        worker = busy[connection]
        try:
            told = connection.recv()
        except (EOFError, OSError):
            worker.process.join(5)
            told = f"its process ended with exit code {worker.process.exitcode}"
        if isinstance(told, UserError):
            worker.view = None
        yield worker, worker.failed(told) if isinstance(told, str) else told


def _work(parent: Connection, device: str, folder: Path, job: Job, count: int) -> None:
    """A worker's life: take a view, make it, say so. An end of the pipe ends it."""
    try:
        if device == "cpu":
            torch.set_num_threads(max(1, torch.get_num_threads() // count))
        maker = None
        while (view := parent.recv()) is not None:
            maker = maker or ViewMaker.on(device, job)
            writer = ClipSetWriter(folder, job.spec, job.plan.head)
            maker.make(writer, view, lambda done, total: parent.send(done / total))
            parent.send(None)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
    except UserError as error:
        parent.send(error)
    except Exception as error:  # told where the user sees it
        parent.send(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def chosen_devices(text: str, device: str) -> tuple[str, ...]:
    """What --devices means: a number of GPUs (of CPU processes, where `device` is cpu), or names with commas between.

    Raises ConfigError for what is not there.
    """
    there = torch.cuda.device_count()
    if text.isdigit():
        kind = "cuda" if device.startswith("cuda") else "cpu"
        names = [f"cuda:{n}" if kind == "cuda" else "cpu" for n in range(int(text))]
    else:
        names = [name.strip() for name in text.split(",")]
    known = ["cpu", *(f"cuda:{n}" for n in range(there))]
    if not names or (wrong := [name for name in names if name not in known]):
        raise ConfigError(
            f"--devices takes a number, or names among {', '.join(known)}, with commas between; found {text!r}"
            + (f", of which {wrong[0]} is not there" if names else "")
        )
    return tuple(names)


def load_networks(name: str) -> Networks:
    """Networks by name: "bundled:NAME", "cache:NAME", a folder, a hub id, or "random:NAME" (untrained, for tests).

    Raises ConfigError or AssetError.
    """
    if name.startswith(RANDOM_PREFIX):
        kind = name.removeprefix(RANDOM_PREFIX)
        if kind not in MODELS:
            raise ConfigError(f"networks random:NAME takes one of {', '.join(MODELS)}; {kind!r} was given.")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return build_networks(MODELS[kind]).eval()
    return Networks.load(assets.find_weights(name))


def network_hashes(name: str) -> dict[str, str]:
    """sha256 of every file of weights that `load_networks` would read; empty for untrained networks."""
    return {} if name.startswith(RANDOM_PREFIX) else assets.weight_hashes(assets.find_weights(name))
