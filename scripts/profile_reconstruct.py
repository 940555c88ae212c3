"""Where the time of a reconstruction goes, by processor time, as a Markdown table.

    python scripts/profile_reconstruct.py CLIPS [--iterations N] [KEY=VALUE]...

Every function's own time counts for its part of the program; a library's for the part that called it. The first few
iterations are run before, so that compiling is not counted.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib
import pstats
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from numba.core.dispatcher import Dispatcher

from recon.reconstruct import Job, method_config, reconstruct

ROOT = Path(__file__).resolve().parents[1]
#: Part -> beginnings of paths in this repository; the first that fits counts.
PARTS = {
    "rasteriser": ("geodiff/raster/mesh", "geodiff/raster/"),
    "losses": (
        "recon/losses", "recon/ssim_kernel", "geodiff/metrics", "recon/layers/perceptual", "recon/layers/normals",
    ),
    "posing": (
        "recon/layers/pos", "recon/layers/rig", "recon/layers/harmonics", "recon/layers/deform",
        "recon/layers/dynamics", "recon/layers/attributes", "recon/layers/refinement", "geodiff/head",
        "geodiff/geometry", "geodiff/types",
    ),
    "optimiser, density": ("recon/layers/fitting", "recon/layers/density"),
    "loading": ("geodiff/clipset", "geodiff/media", "recon/frames", "geodiff/files"),
    "first Gaussians": ("recon/layers/", "geodiff/conditioning"),
    "preview, saving": (
        "recon/animate", "recon/cameras", "recon/grid", "recon/drives", "recon/ply", "recon/avatar", "geodiff/encoding",
        "geodiff/motion", "recon/backgrounds",
    ),
    "logging, checkpoints": (
        "recon/watch", "recon/optimise", "geodiff/training/log", "geodiff/console", "geodiff/runs",
    ),
}  # fmt: skip
#: What the engine of torch does itself: gradients of its own operations.
ENGINE = "gradients in torch"

Function = tuple[str, int, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(given.clips, Path(folder) / "warm", [*given.overrides, "iterations=3"])
        profile = cProfile.Profile(time.process_time)
        profile.runcall(run, given.clips, Path(folder) / "a", [*given.overrides, f"iterations={given.iterations}"])
    stats: Any = pstats.Stats(profile)
    report(stats.stats, given.iterations)


def run(clips: Path, out: Path, overrides: list[str]) -> None:
    reconstruct(clips, "geodiff4d", out, method_config("geodiff4d", "preview", overrides), job=Job("cpu"))


def report(stats: dict[Function, tuple], iterations: int) -> None:
    """Prints the tables. stats: as of pstats: function -> (calls, calls, own time, whole time, callers)."""
    found = Parts(stats)
    times: dict[str, float] = defaultdict(float)
    python = 0.0
    for function, (_, _, own, _, _) in stats.items():
        for part, share in found.of(function).items():
            times[part] += own * share
        if function[0] != "~" and not compiled(function):
            python += own
    whole = sum(times.values())
    print(f"{iterations} iterations: {whole:.1f} s of processor time\n")
    print("| part | seconds | share |\n|---|---|---|")
    for part, seconds in sorted(times.items(), key=lambda item: -item[1]):
        print(f"| {part} | {seconds:.2f} | {100 * seconds / whole:.0f}% |")
    print(
        f"\nof it the interpreter itself (what the profiler adds included): {python:.2f} s, {100 * python / whole:.0f}%"
    )


class Parts:
    """Which part of the program a function's time counts for."""

    def __init__(self, stats: dict[Function, tuple]) -> None:
        self._stats = stats
        self._known: dict[Function, dict[str, float]] = {}

    def of(self, function: Function) -> dict[str, float]:
        """Part -> share, of sum 1."""
        if function in self._known:
            return self._known[function]
        self._known[function] = {"other": 1.0}  # ends cycles
        if "run_backward" in function[2]:
            shares = {ENGINE: 1.0}
        else:
            part = part_of(function[0])
            shares = {part: 1.0} if part else self._of_callers(function)
        self._known[function] = shares
        return shares

    def _of_callers(self, function: Function) -> dict[str, float]:
        callers = {caller: entry[2] + 1e-9 for caller, entry in self._stats[function][4].items()}
        whole = sum(callers.values())
        shares: dict[str, float] = defaultdict(float)
        for caller, own in callers.items():
            for part, share in self.of(caller).items():
                shares[part] += share * own / whole
        return dict(shares) or {"other": 1.0}


def part_of(path: str) -> str | None:
    """The part that a file of this repository belongs to; None for libraries."""
    if not path.startswith(str(ROOT)) or "site-packages" in path:
        return None
    relative = str(Path(path).relative_to(ROOT))
    return next((part for part, heads in PARTS.items() if relative.startswith(heads)), "other")


def compiled(function: Function) -> bool:
    """Whether numba compiled it."""
    path, _, name = function
    if part_of(path) is None:
        return False
    module = ".".join(Path(path).relative_to(ROOT).with_suffix("").parts)
    if module not in sys.modules and not module.startswith(("geodiff", "recon")):
        return False
    return isinstance(getattr(importlib.import_module(module), name, None), Dispatcher)


if __name__ == "__main__":
    main()
