"""Put the averaged weights of a training run into the package, in half precision, with their hashes.

    python scripts/bundle_weights.py RUN NAME

RUN is the folder of a run (its last checkpoint is taken, finished or not). NAME: the weights become bundled:NAME.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from geodiff import assets
from geodiff.errors import InputError
from geodiff.files import read_json, write_json
from geodiff.training.checkpoint import averaged_networks, checkpoints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    options = parser.parse_args()

    found = checkpoints(options.run)
    if not found:
        raise InputError(f"a run must have a checkpoint, and {options.run} has none: let it train longer")
    folder = assets.weights_folder() / options.name
    averaged_networks(found[-1]).save(folder, torch.float16)
    write_json(folder / "training.json", {"step": read_json(found[-1] / "state.json")["step"]})
    assets.write_manifest()
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{folder}: {size:.1f} MB")


if __name__ == "__main__":
    main()
