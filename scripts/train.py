"""Train the joint image-normal network on shards of synthetic people.

    python scripts/train.py DATA OUT stage=images model=preview steps=4000 lr=3e-4 precision=bf16
    python scripts/train.py DATA OUT2 stage=clips start=OUT/weights steps=1000

Run again, it goes on from the last checkpoint. `--bundle` writes the averaged weights in half precision into the
package.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from geodiff import assets
from geodiff.config import choose, load_config
from geodiff.models.networks import MODELS
from geodiff.training.dataset import SynthShards, clip_length
from geodiff.training.loop import TrainConfig, train
from geodiff.training.stages import networks_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of shards, as `geodiff synth` writes them")
    parser.add_argument("out", type=Path, help="folder of checkpoints, log, sheets and weights")
    parser.add_argument("overrides", nargs="*", help="key=value of TrainConfig")
    parser.add_argument("--preset", default="preview")
    parser.add_argument("--frames", type=int, default=None, help="frames a sample; 1 for images, else the set's")
    parser.add_argument("--bundle", metavar="NAME", help="also write the weights as bundled:NAME, in half precision")
    arguments = parser.parse_args()

    config = load_config(TrainConfig, "train", arguments.preset, arguments.overrides)
    choose("model", config.model, MODELS)
    torch.manual_seed(config.seed)
    networks = networks_for(config.stage, MODELS[config.model], config.start)
    frames = arguments.frames or (1 if config.stage == "images" else clip_length(arguments.data))
    size = networks.config.image_size
    training, held_out = (
        SynthShards(arguments.data, frames=frames, split=split, size=size) for split in ("train", "held_out")
    )
    networks = train(networks, training, config, arguments.out, held_out)
    if arguments.bundle:
        networks.save(assets.weights_folder() / arguments.bundle, torch.float16)
        assets.write_manifest()


if __name__ == "__main__":
    main()
