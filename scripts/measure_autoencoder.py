"""How much an autoencoder loses: held-out synthetic people and photographs, frames and normal maps, time.

    python scripts/measure_autoencoder.py --set SET --photos FOLDER                 # the preview model's own
    python scripts/measure_autoencoder.py --set SET --autoencoder RUN/weights       # one that was trained

PSNR over the whole frame, values 0..1; normal error in degrees where the truth has a normal; milliseconds of processor
time for encoding and decoding one image of 256 pixels.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from geodiff.files import write_json
from geodiff.media import IMAGE_SUFFIXES, read_image
from geodiff.models.autoencoder import AUTOENCODERS, Autoencoder
from geodiff.models.networks import MODELS, load_weights
from geodiff.training.dataset import SynthShards
from geodiff.training.tasks import autoencoder_of

SIZE = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, help="a set of `geodiff synth`; its held-out people are taken")
    parser.add_argument("--photos", type=Path, help="a folder of photographs")
    parser.add_argument("--model", default="preview", help="whose autoencoder, where none is named")
    parser.add_argument("--autoencoder", type=Path, help="folder of a trained one, or of a generator's weights")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    autoencoder = load(options.model, options.autoencoder)
    told: dict[str, float | int | str] = {
        "kind": type(autoencoder).__name__, "factor": autoencoder.factor, "channels": autoencoder.channels,
        "weights_M": sum(p.numel() for p in autoencoder.parameters()) / 1e6,
    }  # fmt: skip
    if options.set is not None:
        dataset = SynthShards(options.set, split="held_out", size=SIZE)
        chosen = np.linspace(0, len(dataset) - 1, min(options.frames, len(dataset))).astype(int)
        samples = [dataset[int(i)] for i in chosen]
        told |= measured(autoencoder, [s["images"] for s in samples], "synthetic")
        told["normals, degrees"] = normal_error(autoencoder, [s["normals"] for s in samples])
    if options.photos is not None:
        told |= measured(autoencoder, photographs(options.photos), "photographs")
    told |= times(autoencoder)
    print(json.dumps(told, indent=2))
    if options.json is not None:
        write_json(options.json, told)


def load(model: str, folder: Path | None) -> Autoencoder:
    if folder is None:
        config = MODELS[model]
        return AUTOENCODERS[config.autoencoder](**config.autoencoder_args).eval()
    kind, arguments = autoencoder_of(folder)
    autoencoder = AUTOENCODERS[kind](**arguments)
    load_weights(autoencoder, folder / "autoencoder.safetensors")
    return autoencoder.eval()


def photographs(folder: Path) -> list[Tensor]:
    """(1, 3, SIZE, SIZE) in -1..1: the largest square about the middle of each, averaged down."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES):
        image = read_image(path)
        side = min(image.shape[:2])
        if side < SIZE:
            continue
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        square = cv2.resize(image[top : top + side, left : left + side], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        found.append(torch.from_numpy(square).permute(2, 0, 1).float()[None] / 127.5 - 1)
    return found


@torch.no_grad()
def measured(autoencoder: Autoencoder, pictures: list[Tensor], name: str) -> dict[str, float | int]:
    """Mean and least PSNR of pictures (1, 3, S, S)."""
    values = []
    for picture in pictures:
        decoded = autoencoder.decode(autoencoder.encode(picture)).clamp(-1, 1)
        # As written: in steps of 1 / 255.
        error = (((decoded + 1) * 127.5).round() - ((picture + 1) * 127.5).round()) / 255
        values.append(-10 * np.log10(max(float(error.square().mean()), 1e-10)))
    return {f"{name}, pictures": len(values), f"{name}, PSNR": float(np.mean(values)), f"{name}, least": min(values)}


@torch.no_grad()
def normal_error(autoencoder: Autoencoder, maps: list[Tensor]) -> float:
    errors = []
    for truth in maps:
        decoded = autoencoder.decode(autoencoder.encode(truth))
        inside = truth.norm(dim=1) > 0.5
        cosine = F.cosine_similarity(decoded, truth, dim=1)[inside].clamp(-1, 1)
        errors.append(float(torch.rad2deg(cosine.acos()).mean()))
    return float(np.mean(errors))


@torch.no_grad()
def times(autoencoder: Autoencoder, repeats: int = 7) -> dict[str, float | int]:
    """Least processor time and wall-clock time of encoding and decoding, one image and eight at once."""
    told: dict[str, float | int] = {"threads": torch.get_num_threads()}
    for count in (1, 8):
        picture = torch.rand(count, 3, SIZE, SIZE) * 2 - 1
        spans = []
        for _ in range(repeats):
            began, processor = time.perf_counter(), time.process_time()
            autoencoder.decode(autoencoder.encode(picture))
            spans.append((time.process_time() - processor, time.perf_counter() - began))
        told[f"processor ms an image, {count} at once"] = min(span[0] for span in spans) * 1e3 / count
        told[f"wall ms an image, {count} at once"] = min(span[1] for span in spans) * 1e3 / count
    return told


if __name__ == "__main__":
    main()
