"""Whether the generator's expression latent is alive, on SynthBench's people (geodiff/synth/bench/expression.py).

    python scripts/benchmark_expression.py --truth ict:ict_facekit.npz --out DIR [--people 8] [--shots 2]

Frames are finished as the preset does it, with a share of the portrait's own pixels, and by the networks alone: where
the proposal rests, its pixels are at rest as well.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track

from geodiff.config import load_config
from geodiff.errors import ConfigError, UserError
from geodiff.files import make_folder, write_json, write_text
from geodiff.head import load_head
from geodiff.synth.bench.definition import IDENTITIES, BenchConfig
from geodiff.synth.bench.expression import measure_expression, table
from geodiff.synth.bench.tasks import Bench
from pipelines.foreground import Finish
from pipelines.generate import PRECISIONS, GenerateConfig, load_networks
from pipelines.synthbench import ExpressionMaker, NetworkMethod
from recon.reconstruct import resolve_device


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="key=value of the generation, for instance sampling.steps=4")
    parser.add_argument("--generator", default="bundled:preview", help="bundled:NAME, or a folder of weights")
    parser.add_argument("--truth", default="builtin", help="head that people are drawn from: builtin or ict:PATH")
    parser.add_argument("--head", default="builtin", help="head that conditions")
    parser.add_argument("--preset", default="preview")
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--shots", type=int, default=2, help="expressions of each")
    parser.add_argument("--size", type=int, default=BenchConfig.size, help="side of the frames in pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the generator's noise; people never change")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_intermixed_args(arguments)


def maker_of(args: argparse.Namespace) -> ExpressionMaker:
    """The generator, finished by the preset, and left alone."""
    config = load_config(GenerateConfig, "generate", args.preset, [*args.overrides, f"networks={args.generator}"])
    device = resolve_device(args.device)
    precision = PRECISIONS[config.resolved_precision(device)]
    method = NetworkMethod(
        load_networks(config.networks), args.generator, config.sampling, config.finish, args.seed, device,
        precision,
    )  # fmt: skip
    ways = {"as the preset has it": config.finish, "networks alone": Finish()}
    return ExpressionMaker(method, ways if config.finish != Finish() else {"networks alone": Finish()})


def main(arguments: Sequence[str] | None = None) -> int:
    args, console = parse(arguments), Console()
    started = time.process_time()
    try:
        if not 1 <= args.people <= IDENTITIES or args.shots < 1:
            raise ConfigError(
                f"--people must be 1 to {IDENTITIES} and --shots at least 1, got {args.people} and {args.shots}"
            )
        config = BenchConfig.quick(size=args.size, identities=args.people)
        bench = Bench(load_head(args.truth), load_head(args.head), config, args.head)
        maker = maker_of(args)
        steps = iter(track(range(args.people * args.shots), "trials", console=Console(stderr=True)))
        measured = measure_expression(bench, maker, args.people, args.shots, step=lambda: next(steps, None))
        text = table(measured)
        make_folder(args.out)
        write_json(args.out / "expression.json", measured.record())
        write_text(args.out / "expression.md", text)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    console.print(Markdown(text))
    console.print(f"{(time.process_time() - started) / 60:.1f} minutes of processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
