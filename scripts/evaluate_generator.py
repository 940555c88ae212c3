"""Measure a generator on people it never saw, beside the filled proposal that it has to beat.

    python scripts/evaluate_generator.py DATA --networks bundled:preview --count 64 --sheet sheet.png --json f.json

DATA is a set of shards as `scripts/make_training_set.py` writes it: held-out identities are taken, and only samples
whose proposal shows the tracked expression, the condition of use. PSNR inside the true matte dilated by 2% of the side.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import default_collate

from geodiff.config import load_config
from geodiff.files import write_json
from geodiff.training.dataset import SynthShards
from geodiff.training.sheet import figures, sample_batch, write_sheet
from pipelines.generate import GenerateConfig, load_networks

#: Samples that go through the networks at once.
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of shards")
    parser.add_argument("overrides", nargs="*", help="key=value of the generation, for instance sampling.steps=4")
    parser.add_argument("--networks", default=None, help="weights to measure; the preset's by default")
    parser.add_argument("--preset", default="preview")
    parser.add_argument("--count", type=int, default=64, help="how many held-out frames")
    parser.add_argument("--sheet", type=Path, help="PNG of the first frames")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()

    overrides = options.overrides + ([f"networks={options.networks}"] if options.networks else [])
    config = load_config(GenerateConfig, "generate", options.preset, overrides)
    networks = load_networks(config.networks)
    held_out = SynthShards(
        options.data, frames=1, split="held_out", proposals=("tracked",), size=networks.config.image_size
    )
    count = min(options.count, len(held_out))
    chosen = [held_out[i * len(held_out) // count] for i in range(count)]
    batches = [default_collate(chosen[i : i + BATCH]) for i in range(0, count, BATCH)]
    started = time.monotonic()
    generated = [sample_batch(networks, batch, config.sampling, seed) for seed, batch in enumerate(batches)]
    seconds = (time.monotonic() - started) / count
    everything = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    result = torch.cat(generated)
    kept = config.keep_visible * everything["visibility"]
    result[:, 0] += kept * (everything["proposals"] - result[:, 0])
    measured = figures(result, everything) | {"frames": count, "seconds_per_frame": round(seconds, 3)}
    if options.sheet:
        write_sheet(options.sheet, result[:BATCH], batches[0])
    if options.json:
        write_json(options.json, measured)
    table = Table("figure", "value", title=f"{config.networks}, {count} held-out frames")
    for name, value in measured.items():
        table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
