"""Measure a generator on real photographs of one person from several sides.

    python scripts/benchmark_real.py FOLDER --sheet real.png --json real.json

One image of FOLDER is the portrait (the one nearest to frontal, or --reference); each of the others is tracked and
generated at its pose and expression. Metrics are those of docs/metrics.md, inside the photograph's matte; the filled
proposal stands beside the result. The sheet shows portrait, photograph, proposal and result side by side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from geodiff.config import load_config
from geodiff.errors import UserError
from geodiff.files import write_json
from geodiff.head import load_head
from geodiff.media import write_image
from geodiff.metrics.registry import Setup
from geodiff.metrics.table import ARROWS, number
from geodiff.sheets import contact_sheet
from geodiff.synth.bench.photographs import Photograph, choose_portrait, compare, read_photographs
from geodiff.synth.bench.scores import DEFAULT_METRICS, FIGURES, Score, chosen, frame_metrics, groups, means
from geodiff.synth.bench.tasks import Compared, Method, Proposal
from pipelines.generate import PRECISIONS, GenerateConfig, load_networks
from pipelines.synthbench import NetworkMethod
from recon.reconstruct import resolve_device

#: Besides those of SynthBench: likeness to the portrait.
METRICS = (*DEFAULT_METRICS, "csim")
SCHEMA = 1


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs of one person")
    parser.add_argument("overrides", nargs="*", help="key=value of the generation, for instance sampling.steps=4")
    parser.add_argument("--reference", help="name of the portrait; by default the photograph nearest to frontal")
    parser.add_argument("--generator", default="bundled:preview", help="bundled:NAME, a folder of weights, or proposal")
    parser.add_argument("--preset", default="preview")
    parser.add_argument("--head", default="builtin", help="head that conditions")
    parser.add_argument("--size", type=int, default=256, help="side of the frames that are compared, pixels")
    parser.add_argument("--metrics", help="comma-separated names (docs/metrics.md)")
    parser.add_argument("--weights", type=Path, help="folder of the networks that some metrics need")
    parser.add_argument("--seed", type=int, default=0, help="of the generator's noise")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--sheet", type=Path, help="PNG with portrait, photograph, proposal and result")
    parser.add_argument("--json", type=Path, help="all figures")
    return parser.parse_args(arguments)


def method_of(args: argparse.Namespace) -> Method:
    if args.generator == "proposal":
        return Proposal(args.size)
    config = load_config(GenerateConfig, "generate", args.preset, [*args.overrides, f"networks={args.generator}"])
    device = resolve_device(args.device)
    precision = PRECISIONS[config.resolved_precision(device)]
    networks = load_networks(config.networks)
    return NetworkMethod(
        networks, args.generator, config.sampling, config.finish, args.seed, device, precision
    )  # fmt: skip


def table(scores: list[Score], name: str) -> str:
    """Means of the result and of the proposal, over all photographs and by view angle, as Markdown."""
    result = chosen(scores, method="result")
    lines, absent = [], []
    for label, part in groups(result).items():
        numbers = {score.shot for score in part}
        beside = [score for score in chosen(scores, method="proposal") if score.shot in numbers]
        own, filled = means(part), means(beside)
        title = "All photographs" if label == "all" else f"{label} degrees"
        lines += [
            "",
            f"{title} ({len(part)})",
            "",
            f"| | better | {name} | proposal | measured |",
            "|---|---|---|---|---|",
        ]
        for key, mean in own.items():
            figure = FIGURES[key]
            heading = f"{figure.heading} ({figure.unit})" if figure.unit else figure.heading
            if mean.value is None:
                absent += [f"- {heading}: not measured: {mean.reason}"] if label == "all" else []
                continue
            other = filled.get(key)
            beside_it = "-" if other is None or other.value is None else number(other.value)
            lines.append(f"| {heading} | {ARROWS[figure.better]} | {number(mean.value)} | {beside_it} | {mean.count} |")
    return "\n".join([*lines[1:], *([""] if absent else []), *absent]) + "\n"


def record(
    args: argparse.Namespace, scores: list[Score], portrait: Photograph, others: list[Photograph], lost: list[str]
) -> dict[str, Any]:
    """For a JSON file: what was compared, means of result and proposal, and every photograph's figures."""
    summary = {
        method: {
            key: {"mean": mean.value, "count": mean.count} if mean.value is not None else {"not_measured": mean.reason}
            for key, mean in means(chosen(scores, method=method)).items()
        }
        for method in ("result", "proposal")
    }
    frames = [{"photograph": others[score.shot].name, **score.record()} for score in scores]
    return {
        "schema": SCHEMA, "date": date.today().isoformat(), "folder": args.folder.name, "portrait": portrait.name,
        "generator": args.generator, "seed": args.seed, "lost": lost, "summary": summary, "frames": frames,
    }  # fmt: skip


def sheet(shown: list[Compared], name: str, tile: int) -> Any:
    """(H, W, 3) uint8, a column a photograph."""
    rows = [
        ("portrait", [one.reference for one in shown]),
        ("photograph", [one.truth.image for one in shown]),
        ("proposal", [one.proposal.image for one in shown]),
        (name, [one.result.image for one in shown]),
    ]
    return contact_sheet(rows[:3] if name == "proposal" else rows, tile=tile)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    console = Console()
    try:
        metrics = frame_metrics(args.metrics.split(",") if args.metrics else METRICS)
        method, head = method_of(args), load_head(args.head)
        photographs, lost = read_photographs(args.folder, head, args.size)
        portrait = choose_portrait(photographs, args.reference)
        others = [one for one in photographs if one is not portrait]
        scores, shown = compare(portrait, others, head, method, metrics, Setup(weights=args.weights))
        if args.sheet:
            write_image(args.sheet, sheet(shown, method.name, args.size))
        if args.json:
            write_json(args.json, record(args, scores, portrait, others, lost))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    console.print(f"Portrait: {portrait.name}, {portrait.angle:.0f} degrees from the front")
    for text in lost:
        console.print(f"Left out: {text}")
    console.print(Markdown(table(scores, method.name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
