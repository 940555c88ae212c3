"""Measure a generator or an avatar method on SynthBench: synthetic people that nothing was trained on.

    python scripts/benchmark.py --generator bundled:preview --quick --truth ict:PATH/ict_facekit.npz --out DIR

Tasks: self (self-reenactment from one view), cross (cross-reenactment), normals (the normals of self), avatar (new
views and expressions of an avatar made from true clips). DIR gets benchmark.md, benchmark.json and a sheet of pictures
a task. The filled proposal stands beside every result. A run that was stopped goes on where it was. Figures of people
drawn from different heads (--truth) do not compare.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from geodiff.config import choose, load_config
from geodiff.errors import ConfigError, UserError
from geodiff.files import atomic_write, make_folder, read_json, read_npz, write_json, write_npz
from geodiff.head import load_head
from geodiff.media import write_image
from geodiff.metrics.registry import Metric, Setup
from geodiff.synth.bench import record as recorded
from geodiff.synth.bench import report
from geodiff.synth.bench.clips import score_avatar, try_clips
from geodiff.synth.bench.definition import IDENTITIES, TASKS, BenchConfig
from geodiff.synth.bench.observe import KINDS, Kind
from geodiff.synth.bench.scores import Score, frame_metrics
from geodiff.synth.bench.sheet import sheet, tiles
from geodiff.synth.bench.tasks import Bench, Compared, Method, Proposal
from pipelines.generate import PRECISIONS, GenerateConfig, load_networks, network_hashes
from pipelines.synthbench import NetworkMethod
from recon.reconstruct import method_config, resolve_device
from recon.synthbench import make_avatar

ALL_TASKS = ("self", "cross", "normals", "avatar")
#: Iterations of an avatar in the quick form.
QUICK_ITERATIONS = 250
#: Side of the pictures in sheets, and how many columns they have.
TILE, COLUMNS = 160, 16


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="key=value of the generation, for instance sampling.steps=4")
    parser.add_argument("--generator", default="bundled:preview", help="bundled:NAME, a folder of weights, or proposal")
    parser.add_argument("--avatar-method", default="geodiff4d")
    parser.add_argument("--avatar", action="append", default=[], metavar="KEY=VALUE", help="of the avatar method")
    parser.add_argument("--tasks", default="self,cross,normals,avatar", help="comma-separated")
    parser.add_argument("--kinds", default="tracked,true", help="parameters: tracked, true or both")
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
        networks, args.generator, config.sampling, config.keep_visible, args.seed, device, PRECISIONS[precision]
    )
    hashes = {name: value[:12] for name, value in network_hashes(config.networks).items()}
    about = {
        "generator": args.generator, "weights": hashes, "sampling": asdict(config.sampling),
        "keep_visible": config.keep_visible, "precision": precision, "seed": args.seed,
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


class Timed:
    """A method that keeps the time; the first call warms it up and does not count where others follow."""

    def __init__(self, method: Method) -> None:
        self.method, self.name, self.size = method, method.name, method.size
        self.calls: list[tuple[int, float]] = []

    def __call__(self, request: Any) -> Any:
        started = time.perf_counter()
        pictures = self.method(request)
        self.calls.append((len(request), time.perf_counter() - started))
        return pictures

    def seconds(self) -> float | None:
        """Seconds a frame, the portrait's own networks included."""
        counted = self.calls[1:] or self.calls
        return sum(s for _, s in counted) / sum(n for n, _ in counted) if counted else None


def columns_of(shown: list[Compared], count: int) -> list[np.ndarray]:
    return [tiles(one, TILE) for one in shown[:count]]


def run(args: argparse.Namespace, bench: Bench, console: Console) -> report.Run:
    """Everything that was asked for, scored."""
    tasks = [choose("tasks", task, ALL_TASKS) for task in args.tasks.split(",")]
    kinds = tuple(kind for kind in KINDS if kind in [choose("kinds", k, KINDS) for k in args.kinds.split(",")])
    metrics = frame_metrics(args.metrics.split(",") if args.metrics else None)
    generated = [task for task in TASKS if task in tasks or (task == "self" and "normals" in tasks)]
    method, about = method_of(args) if generated else (Proposal(args.size), {})
    timed = Timed(method)
    avatar = _avatar_config(args) if "avatar" in tasks else None
    check = recorded.check(bench, range(bench.config.identities))
    console.print(f"Set {check.text}", style=None if check.same else "yellow")
    settings = [
        check.digest, asdict(bench.config), about, args.head, bench.head.hash, kinds, [m.name for m in metrics],
        args.avatar_method, str(avatar), recorded.kind_of(bench.truth),
        [recorded.thumbnail(bench.person(i).photo.image) for i in range(bench.config.identities)],
    ]  # fmt: skip
    parts = Parts(args.out, hashlib.sha256(json.dumps(settings, default=str).encode()).hexdigest()[:12])
    setup = Setup(weights=args.weights)
    scores: list[Score] = []
    lost: list[str] = []
    columns: dict[str, list[np.ndarray]] = {}
    seconds: list[float] = []
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with bar as progress:
        bars = {
            task: progress.add_task(task, total=bench.config.identities * bench.config.shots(task) * len(kinds))
            for task in generated
        }
        share = max(1, -(-COLUMNS // bench.config.identities))
        for identity, task in itertools.product(range(bench.config.identities), generated):
            part = parts.load(f"{task}-{identity:02d}")
            if part is None:
                step = functools.partial(progress.advance, bars[task])
                outcome = bench.run(task, identity, timed, metrics, kinds, setup, step)
                part = outcome.scores, columns_of(outcome.shown, share), {"lost": outcome.lost}
                parts.save(f"{task}-{identity:02d}", *part)
            progress.update(bars[task], completed=(identity + 1) * bench.config.shots(task) * len(kinds))
            scores += part[0]
            columns.setdefault(task, []).extend(part[1])
            lost += part[2]["lost"]
        if avatar is not None:
            found = _avatars(args, bench, kinds, metrics, setup, avatar, parts, progress)
            scores, lost = scores + found[0], lost + found[1]
            columns["avatar"], seconds = found[2], found[3]
    names = {task: timed.name for task in generated} | ({"avatar": args.avatar_method} if avatar is not None else {})
    for task, pictures in columns.items():
        if pictures:
            write_image(args.out / f"{task}.png", sheet(pictures[:COLUMNS], names[task]))
    facts = _facts(args, bench, check, about, timed, seconds)
    return report.Run(scores, names, tasks, facts, lost, check.same)


def _avatar_config(args: argparse.Namespace) -> Any:
    """The avatar method's configuration; in the quick form with fewer iterations, unless they are named."""
    config = method_config(args.avatar_method, args.preset, args.avatar)
    named = any(text.startswith("iterations=") for text in args.avatar)
    if args.quick and not named and "iterations" in {f.name for f in fields(config)}:
        config = replace(config, iterations=min(config.iterations, QUICK_ITERATIONS))
    return config


def _avatars(
    args: argparse.Namespace, bench: Bench, kinds: Sequence[Kind], metrics: list[Metric], setup: Setup, config: Any,
    parts: Parts, progress: Progress,
) -> tuple[list[Score], list[str], list[np.ndarray], list[float]]:  # fmt: skip
    """Scores, what is missing, sheet columns, and seconds an avatar took."""
    scores: list[Score] = []
    lost: list[str] = []
    columns: list[np.ndarray] = []
    seconds: list[float] = []
    # An avatar of each kind would not fit into the quick form's minutes.
    kinds = kinds[:1] if args.quick else kinds
    shown = progress.add_task("avatar", total=bench.config.avatars * len(kinds))
    for identity in range(bench.config.avatars):
        for kind in kinds:
            name = f"avatar-{identity:02d}-{kind}"
            part = parts.load(name)
            if part is None:
                clips, reason = try_clips(bench, identity, kind)
                found: tuple[list[Score], list[Compared]] = ([], [])
                took: list[float] = []
                if clips is not None:
                    started = time.perf_counter()
                    device = resolve_device(args.device)
                    renderer = make_avatar(clips, args.avatar_method, parts.folder / name, config, device)
                    took = [time.perf_counter() - started]
                    found = score_avatar(clips, renderer, metrics, setup)
                pictures = columns_of(found[1], COLUMNS) if kind == kinds[0] else []
                part = found[0], pictures, {"lost": [reason] if reason else [], "seconds": took}
                parts.save(name, *part)
            scores += part[0]
            columns += part[1][: max(1, COLUMNS // bench.config.avatars)]
            lost += part[2]["lost"]
            seconds += part[2]["seconds"]
            progress.advance(shown)
    return scores, lost, columns, seconds


def _facts(
    args: argparse.Namespace, bench: Bench, check: recorded.Check, about: dict[str, Any], timed: Timed,
    seconds: list[float],
) -> dict[str, Any]:  # fmt: skip
    """What a reader has to know to make the figures again."""
    config = bench.config
    facts: dict[str, Any] = {
        "date": date.today().isoformat(),
        "command": "python scripts/benchmark.py " + " ".join(args.arguments),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
        "people": f"{config.identities} on {recorded.kind_of(bench.truth)}; figures of other heads do not compare",
        "set": check.text,
        "conditioning": f"{bench.head.name} ({bench.head.hash[:12]})",
        "frames": f"{config.size} px, {config.self_shots} and {config.cross_shots} a person",
        **about,
    }
    if (each := timed.seconds()) is not None and timed.name != "proposal":
        facts["seconds_a_frame"] = round(each, 3)
    if seconds:
        facts["seconds_an_avatar"] = round(float(np.mean(seconds)), 1)
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
        bench = bench_of(args)
        if args.record:
            recorded.record(bench)
            console.print(f"Set {recorded.check(bench, range(bench.config.identities)).text}")
            return 0
        if args.out is None:
            raise ConfigError("--out must name a folder for tables and pictures")
        done = run(args, bench, console)
        done.about["minutes"] = round((time.monotonic() - started) / 60, 2)
        done.about["processor_minutes"] = round(time.process_time() / 60, 2)
        text = report.markdown(done)
        write_json(args.out / "benchmark.json", report.record(done))
        atomic_write(args.out / "benchmark.md", lambda path: _write_text(path, text))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    console.print(Markdown(text))
    return 0


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
