"""Make a set of synthetic training samples. Run it again to continue after an interruption, or with more people.

python scripts/make_training_set.py OUT --truth ict:PATH/ict_facekit.npz --people 400 --size 256 --workers 2
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from geodiff.errors import UserError
from geodiff.synth.samples import SampleConfig
from geodiff.synth.shards import SetConfig, build_set


def parse() -> argparse.Namespace:
    samples, defaults = SampleConfig(), SetConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the set")
    parser.add_argument("--truth", default=defaults.truth, help="head that people are drawn from: builtin or ict:PATH")
    parser.add_argument("--head", default=defaults.head, help="head that conditions: builtin, ict:PATH or flame:PATH")
    parser.add_argument("--people", type=int, default=defaults.people)
    parser.add_argument("--size", type=int, default=samples.size, help="side of the images in pixels")
    parser.add_argument("--timesteps", type=int, default=samples.timesteps, help="expressions a person")
    parser.add_argument("--views", type=int, default=samples.views, help="views an expression")
    parser.add_argument("--clips", type=int, default=samples.clips, help="smooth sequences a person")
    parser.add_argument("--clip-frames", type=int, default=samples.clip_frames)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def main() -> int:
    args = parse()
    samples = SampleConfig(
        size=args.size, timesteps=args.timesteps, views=args.views, clips=args.clips, clip_frames=args.clip_frames
    )
    config = SetConfig(truth=args.truth, head=args.head, people=args.people, seed=args.seed, samples=samples)
    columns = (TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns) as progress:
            task = progress.add_task("shards", total=None)
            for done, total in build_set(args.out, config, args.workers):
                progress.update(task, completed=done, total=total)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
