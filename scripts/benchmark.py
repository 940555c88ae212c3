"""Measure a generator or an avatar method on SynthBench: synthetic people that nothing was trained on.

    python scripts/benchmark.py --generator bundled:preview --quick --truth ict:PATH/ict_facekit.npz --out DIR

Tasks: self (self-reenactment from one view), cross (cross-reenactment), normals (the normals of self), avatar (new
views and expressions of an avatar made from true clips). DIR gets benchmark.md, benchmark.json and a sheet of pictures
a task. The filled proposal stands beside every result. A run that was stopped goes on where it was. Figures of people
drawn from different heads (--truth) do not compare.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from geodiff.config import choose, load_config
from geodiff.errors import ConfigError, UserError
from geodiff.files import make_folder, read_json, read_npz, write_json, write_npz, write_text
from geodiff.head import load_head
from geodiff.media import write_image
from geodiff.metrics.picture import Picture
from geodiff.metrics.registry import Setup
from geodiff.synth.bench import record as recorded
from geodiff.synth.bench import report
from geodiff.synth.bench.clips import score_avatar, try_clips
from geodiff.synth.bench.definition import IDENTITIES, TASKS, BenchConfig
from geodiff.synth.bench.observe import AVATAR_KINDS, KINDS, Kind
from geodiff.synth.bench.scores import Score, frame_metrics
from geodiff.synth.bench.sheet import sheet, tiles
from geodiff.synth.bench.tasks import Bench, Compared, Method, Proposal, Request
from pipelines.generate import GenerateConfig
from pipelines.synthbench import NetworkMethod
from pipelines.views import PRECISIONS, load_networks, network_hashes
from recon.reconstruct import method_config, resolve_device
from recon.synthbench import make_avatar

ROOT = Path(__file__).resolve().parents[1]
ALL_TASKS = ("self", "cross", "normals", "avatar")
#: Iterations of an avatar in the quick form.
QUICK_ITERATIONS = 250
#: People that follow one another and stay in one process.
NEIGHBOURS = 2
#: A piece of work: task, identity, and the kind of parameters of avatars.
Unit = tuple[str, int, str]
#: Side of the pictures in sheets, and how many columns they have.
TILE, COLUMNS = 160, 16


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="key=value of the generation, for instance sampling.steps=4")
    parser.add_argument("--generator", default="bundled:preview", help="bundled:NAME, a folder of weights, or proposal")
    parser.add_argument("--avatar-method", default="geodiff4d")
    parser.add_argument("--avatar", action="append", default=[], metavar="KEY=VALUE", help="of the avatar method")
    parser.add_argument("--tasks", default="self,cross,normals,avatar", help="comma-separated")
    parser.add_argument("--kinds", default="tracked,true", help="parameters: tracked, true; of avatars also captured")
    parser.add_argument("--truth", default="builtin", help="head that people are drawn from: builtin or ict:PATH")
    parser.add_argument("--head", default="builtin", help="head that conditions")
    parser.add_argument("--preset", default="preview")
    parser.add_argument("--quick", action="store_true", help="32 generated frames and a small avatar")
    parser.add_argument("--people", type=int, help="only the first so many of the 16 people")
    parser.add_argument("--shots", type=int, help="frames a person of each reenactment task")
    parser.add_argument("--size", type=int, default=BenchConfig.size, help="side of the frames in pixels")
    parser.add_argument("--metrics", help="comma-separated names; all that fit by default (docs/metrics.md)")
    parser.add_argument("--weights", type=Path, help="folder of the networks that some metrics need")
    parser.add_argument("--seed", type=int, default=0, help="of the generator's noise; the people never change")
    parser.add_argument("--workers", type=int, help="processes; by default one a core, four at most, one on a GPU")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--record", action="store_true", help="record the set's digest and portraits, and stop")
    parser.add_argument("--out", type=Path, help="folder for tables and pictures")
    return parser.parse_args(arguments)


def bench_of(args: argparse.Namespace) -> Bench:
    """The set that the arguments name. Raises ConfigError."""
    changes = {"size": args.size}
    if args.people is not None:
        if not 1 <= args.people <= IDENTITIES:
            raise ConfigError(f"--people must be 1 to {IDENTITIES}, got {args.people}")
        changes |= {"identities": args.people}
    if args.shots is not None:
        if args.shots < 1:
            raise ConfigError(f"--shots must be at least 1, got {args.shots}")
        changes |= {"self_shots": args.shots, "cross_shots": args.shots}
    config = BenchConfig.quick(**changes) if args.quick else BenchConfig(**changes)
    config = replace(config, avatars=min(config.avatars, config.identities))
    return Bench(load_head(args.truth), load_head(args.head), config, args.head)


def method_of(args: argparse.Namespace) -> tuple[Method, dict[str, Any]]:
    """The generator and what the record says about it."""
    if args.generator == "proposal":
        return Proposal(args.size), {"generator": "proposal"}
    overrides = [*args.overrides, f"networks={args.generator}"]
    config = load_config(GenerateConfig, "generate", args.preset, overrides)
    device = resolve_device(args.device)
    precision = config.resolved_precision(device)
    networks = load_networks(config.networks)
    method = NetworkMethod(
        networks, args.generator, config.sampling, config.finish, args.seed, device, PRECISIONS[precision]
    )
    hashes = {name: value[:12] for name, value in network_hashes(config.networks).items()}
    about = {
        "generator": args.generator, "weights": hashes, "sampling": asdict(config.sampling),
        **asdict(config.finish), "precision": precision, "seed": args.seed,
    }  # fmt: skip
    return method, about


class Parts:
    """Finished pieces of a run, so that a run that was stopped goes on: scores and sheet columns, by name."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = make_folder(folder / "parts" / fingerprint)

    def load(self, name: str) -> tuple[list[Score], list[np.ndarray], dict[str, Any]] | None:
        path = self.folder / f"{name}.json"
        if not path.is_file():
            return None
        kept = read_json(path)
        columns = list(read_npz(path.with_suffix(".npz"))["columns"]) if kept["columns"] else []
        return [Score(**score) for score in kept["scores"]], columns, kept["more"]

    def save(self, name: str, scores: list[Score], columns: list[np.ndarray], more: dict[str, Any]) -> None:
        path = self.folder / f"{name}.json"
        if columns:
            write_npz(path.with_suffix(".npz"), columns=np.stack(columns))
        records = [score.record() for score in scores]
        write_json(path, {"scores": records, "columns": len(columns), "more": more})


class Work:
    """What one process needs to make and score frames: the set, the method, and where finished parts lie.

    fingerprint: of the run, where another process found it."""

    def __init__(self, args: argparse.Namespace, fingerprint: str | None = None) -> None:
        self.args = args
        self.tasks = [choose("tasks", task, ALL_TASKS) for task in args.tasks.split(",")]
        named = [choose("kinds", kind, AVATAR_KINDS) for kind in args.kinds.split(",")]
        self.kinds: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind in named)
        if not self.kinds and {*self.tasks} - {"avatar"}:
            raise ConfigError("--kinds captured is for avatars alone: add --tasks avatar, or another kind")
        self.avatar_kinds = tuple(kind for kind in AVATAR_KINDS if kind in named)
        self.metrics = frame_metrics(args.metrics.split(",") if args.metrics else None)
        self.bench = bench_of(args)
        self.generated = [task for task in TASKS if task in self.tasks or (task == "self" and "normals" in self.tasks)]
        self.method, self.about = method_of(args) if self.generated else (Proposal(args.size), {})
        self.avatar = _avatar_config(args) if "avatar" in self.tasks else None
        self.setup = Setup(weights=args.weights)
        self.fingerprint = fingerprint or self._fingerprint()
        self.parts = Parts(args.out, self.fingerprint)

    def units(self) -> list[Unit]:
        """Pieces of work, the longest first: an avatar, or a person's frames of all tasks."""
        # An avatar of each kind would not fit into the quick form's minutes.
        kinds = self.avatar_kinds[:1] if self.args.quick else self.avatar_kinds
        avatars = range(self.bench.config.avatars if self.avatar is not None else 0)
        people = range(self.bench.config.identities if self.generated else 0)
        return [("avatar", i, kind) for i in avatars for kind in kinds] + [
            (task, i, "") for i in people for task in self.generated
        ]

    def do(self, unit: Unit) -> None:
        """One piece of work, unless it is finished."""
        if self.parts.load(_name(unit)) is None:
            (self._avatar if unit[0] == "avatar" else self._reenact)(unit)

    def _reenact(self, unit: Unit) -> None:
        task, identity, _ = unit
        took: list[float] = []

        def timed(request: Request) -> list[Picture]:
            started = time.perf_counter()
            pictures = self.method(request)
            took.append((time.perf_counter() - started) / len(request))
            return pictures

        method = Named(self.method.name, self.method.size, timed)
        outcome = self.bench.run(task, identity, method, self.metrics, self.kinds, self.setup)
        columns = columns_of(outcome.shown, max(1, -(-COLUMNS // self.bench.config.identities)))
        self._save(unit, outcome.scores, columns, outcome.lost, took)

    def _avatar(self, unit: Unit) -> None:
        _, identity, kind = unit
        clips, reason = try_clips(self.bench, identity, kind)
        if clips is None:
            self._save(unit, [], [], [reason], [])
            return
        started = time.perf_counter()
        folder, device = self.parts.folder / _name(unit), resolve_device(self.args.device)
        renderer = make_avatar(clips, self.args.avatar_method, folder, self.avatar, device)
        took = time.perf_counter() - started
        scores, shown = score_avatar(clips, renderer, self.metrics, self.setup)
        share = max(1, COLUMNS // self.bench.config.avatars)
        self._save(unit, scores, columns_of(shown, share) if kind == self.avatar_kinds[0] else [], [], [took])

    def _save(
        self, unit: Unit, scores: list[Score], columns: list[np.ndarray], lost: list[str],
        took: list[float],
    ) -> None:  # fmt: skip
        portrait = recorded.thumbnail(self.bench.person(unit[1]).photo.image)
        self.parts.save(_name(unit), scores, columns, {"lost": lost, "seconds": took, "portrait": portrait})

    def _fingerprint(self) -> str:
        """Names all that decides the figures, the program included: parts of another run are not mixed in."""
        settings = [
            asdict(self.bench.config), self.about, self.bench.truth.hash, self.bench.head.hash, self.avatar_kinds,
            [metric.name for metric in self.metrics], self.args.avatar_method, str(self.avatar),
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(settings, default=str).encode())
        for package in ("geodiff", "pipelines", "recon"):
            for path in sorted((ROOT / package).rglob("*.py")):
                digest.update(path.read_bytes())
        return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Named:
    """A method under another call."""

    name: str
    size: int
    call: Callable[[Request], list[Picture]]

    def __call__(self, request: Request) -> list[Picture]:
        return self.call(request)


def columns_of(shown: list[Compared], count: int) -> list[np.ndarray]:
    return [tiles(one, TILE) for one in shown[:count]]


def _name(unit: Unit) -> str:
    task, identity, kind = unit
    return f"{task}-{identity:02d}" + (f"-{kind}" if kind else "")


def _avatar_config(args: argparse.Namespace) -> Any:
    """The avatar method's configuration; in the quick form with fewer iterations, unless they are named."""
    config = method_config(args.avatar_method, args.preset, args.avatar)
    named = any(text.startswith("iterations=") for text in args.avatar)
    if args.quick and not named and "iterations" in {f.name for f in fields(config)}:
        config = replace(config, iterations=min(config.iterations, QUICK_ITERATIONS))
    return config


#: The work of a process of the pool.
_work: Work | None = None


def _begin(args: argparse.Namespace, threads: int, fingerprint: str) -> None:
    global _work
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    _work = Work(args, fingerprint)


def _do(units: list[Unit]) -> int:
    assert _work is not None
    for unit in units:
        _work.do(unit)
    return len(units)


def finish(work: Work, workers: int) -> None:
    """All pieces of work. A person's frames of all tasks stay in one process: they share what the portrait gives. So do
    neighbours': in the quick form the next person drives."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    units = [unit for unit in work.units() if work.parts.load(_name(unit)) is None]
    with Progress(*columns) as progress:
        bar = progress.add_task("people and avatars", total=len(work.units()), completed=len(work.units()) - len(units))
        if workers <= 1 or len(units) <= 1:
            for unit in units:
                work.do(unit)
                progress.advance(bar)
            return
        threads = max(1, (os.cpu_count() or 1) // workers)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, _begin, (work.args, threads, work.fingerprint)) as pool:
            people = itertools.groupby(units, key=lambda unit: unit if unit[0] == "avatar" else unit[1] // NEIGHBOURS)
            for future in as_completed([pool.submit(_do, list(group)) for _, group in people]):
                progress.advance(bar, future.result())


def run(args: argparse.Namespace, console: Console) -> report.Run:
    """Everything that was asked for, scored."""
    work = Work(args)
    on_gpu = resolve_device(args.device) != "cpu"
    finish(work, args.workers or (1 if on_gpu else min(4, os.cpu_count() or 1)))
    scores: list[Score] = []
    lost: list[str] = []
    portraits: dict[int, str] = {}
    columns: dict[str, list[np.ndarray]] = {}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for unit in work.units():
        part = work.parts.load(_name(unit))
        assert part is not None
        scores += part[0]
        columns.setdefault(unit[0], []).extend(part[1])
        lost += part[2]["lost"]
        seconds[unit[0] == "avatar"] += part[2]["seconds"]
        portraits[unit[1]] = part[2]["portrait"]
    names = {task: work.method.name for task in work.generated}
    if work.avatar is not None:
        names["avatar"] = args.avatar_method
    for task, pictures in columns.items():
        if pictures:
            write_image(args.out / f"{task}.png", sheet(pictures[:COLUMNS], names[task]))
    check = recorded.check(work.bench, portraits)
    console.print(f"Set {check.text}", style=None if check.same else "yellow")
    return report.Run(scores, names, work.tasks, _facts(work, check, seconds), lost, check.same)


def _facts(work: Work, check: recorded.Check, seconds: dict[bool, list[float]]) -> dict[str, Any]:
    """What a reader has to know to make the figures again. seconds: of avatars (True), of a frame (False)."""
    bench, config = work.bench, work.bench.config
    facts: dict[str, Any] = {
        "date": date.today().isoformat(),
        "command": "python scripts/benchmark.py " + " ".join(work.args.arguments),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
        "people": f"{config.identities} on {recorded.kind_of(bench.truth)}; figures of other heads do not compare",
        "set": check.text,
        "conditioning": f"{bench.head.name} ({bench.head.hash[:12]})",
        "frames": f"{config.size} px, {config.self_shots} and {config.cross_shots} a person",
        **work.about,
    }
    if seconds[False] and work.method.name != "proposal":
        facts["seconds_a_frame"] = round(float(np.median(seconds[False])), 3)
    if seconds[True]:
        facts["seconds_an_avatar"] = round(float(np.median(seconds[True])), 1)
    return facts


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in path.read_text().splitlines() if line.startswith("model name")
             ] if path.is_file() else []  # fmt: skip
    return f"{len(names)} cores of {names[0]}" if names else platform.processor() or "unknown processor"


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    args.arguments = list(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    started = time.monotonic()
    try:
        if args.record:
            bench = bench_of(args)
            recorded.record(bench)
            console.print(f"Set {recorded.check(bench, recorded.thumbnails(bench)).text}")
            return 0
        if args.out is None:
            raise ConfigError("--out must name a folder for tables and pictures")
        done = run(args, console)
        done.about["minutes"] = round((time.monotonic() - started) / 60, 2)
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        done.about["processor_minutes"] = round(sum(one.ru_utime + one.ru_stime for one in used) / 60, 2)
        text = report.markdown(done)
        write_json(args.out / "benchmark.json", report.record(done))
        write_text(args.out / "benchmark.md", text)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    console.print(Markdown(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
