"""Ablations of the generator, as in the paper's Tables 2 and 4: variants trained alike, and the sampler's settings.

    python scripts/ablation_generator.py WORK --set SET [--plain-set SET] --steps 2000
    python scripts/ablation_generator.py WORK --set SET --sampling WEIGHTS

Both go on where they were. Variants are trained for the same steps on the same samples in the same order; the sampler's
settings are tried on given weights. Figures are those of held-out people: PSNR inside the dilated mask and the normals'
error, beside the proposal's. WORK/ablation.json holds all that is known, WORK/ablation.md the tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Sized
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from geodiff.files import make_folder, read_json, write_json, write_text
from geodiff.models.networks import MODELS, ModelConfig, Networks, build_networks
from geodiff.models.sampling import INITS, SamplingConfig
from geodiff.training.batches import Samples, first_samples
from geodiff.training.config import TrainConfig
from geodiff.training.dataset import SynthShards, draw_odds
from geodiff.training.loop import train
from geodiff.training.objective import LossConfig
from geodiff.training.run import stage_config
from geodiff.training.sheet import figures, sample_batch

#: Name -> changes to the model and to the loss. Without joint representation the image is denoised by itself: nothing
#: of the normals is learned, and nothing of them reaches it.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": ({}, {}),
    "without joint representation": ({"domain_attention": False}, {"normal": 0.0}),
    "without Domain-Spatial attention": ({"domain_attention": False}, {}),
    "without cross-view pairing": ({}, {}),
    "without the proposal": ({"proposal": False}, {}),
    "without wild textures": ({}, {}),
}
#: What the paper finds without each (Table 2, PSNR; 21.59 with all).
PAPER = {
    "without joint representation": -0.78,
    "without Domain-Spatial attention": -0.60,
    "without cross-view pairing": -1.69,
}
SCALES, STEPS = (1.0, 2.5, 4.0), (5, 10, 25, 50)


class SameView(Dataset[dict[str, Tensor]]):
    """The samples with driving crops from the target frame itself: the middle of its picture, where the crop rule puts
    the face."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        assert isinstance(self.samples, Sized)
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample = self.samples[index]
        side, crop = sample["images"].shape[-1], sample["driving"].shape[-1]
        cut = slice(side // 4, side - side // 4)
        face = sample["images"][..., cut, cut]
        return sample | {"driving": F.interpolate(face, size=(crop, crop), mode="area")}

    def rarity(self) -> Any:
        """As the samples' own."""
        return draw_odds(self.samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--set", type=Path, required=True, help="a set of `geodiff synth`")
    parser.add_argument("--plain-set", type=Path, help="one of as many people without wild textures")
    parser.add_argument("--sampling", type=Path, help="try the sampler's settings on these weights instead")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=48, help="held-out frames that are measured")
    parser.add_argument("--size", type=int, default=128, help="of images in training, pixels")
    parser.add_argument("--preset", default="preview")
    parser.add_argument("overrides", nargs="*", help="key=value of TrainConfig")
    options = parser.parse_intermixed_args()

    path = make_folder(options.work) / "ablation.json"
    known: dict[str, Any] = read_json(path) if path.is_file() else {"variants": {}, "sampling": {}}

    def keep(part: str, name: str, measured: dict[str, Any]) -> None:
        known[part][name] = measured
        write_json(path, known)
        write_text(path.with_suffix(".md"), tables(known))
        print(name, measured, flush=True)

    if options.sampling is not None:
        try_sampling(options, known["sampling"], lambda name, told: keep("sampling", name, told))
        return
    config = stage_config("images", options.preset, options.overrides)
    config = dataclasses.replace(config, steps=options.steps, sheet_every=0, tensorboard=False)
    for name in VARIANTS:
        if known["variants"].get(name, {}).get("steps") == options.steps:
            continue
        if name == "without wild textures" and options.plain_set is None:
            continue
        keep("variants", name, {"steps": options.steps, **trained(name, options, config)})


def trained(name: str, options: argparse.Namespace, config: TrainConfig) -> dict[str, float]:
    """Train a variant, or go on with it, and measure it."""
    model, loss = VARIANTS[name]
    changed: ModelConfig = dataclasses.replace(MODELS[config.model], image_size=options.size, motion=False, **model)
    torch.manual_seed(config.seed)
    networks = build_networks(changed)
    folder = options.plain_set if name == "without wild textures" else options.set
    dataset: Samples = SynthShards(folder, size=options.size)
    if name == "without cross-view pairing":
        dataset = SameView(dataset)
    weights: LossConfig = dataclasses.replace(config.loss, **loss)
    networks = train(
        networks, dataset, dataclasses.replace(config, loss=weights), options.work / name.replace(" ", "-")
    )
    sampling = config.sampling if changed.proposal else dataclasses.replace(config.sampling, init="reference")
    return measured(networks, options, sampling)


def measured(networks: Networks, options: argparse.Namespace, sampling: SamplingConfig) -> dict[str, float]:
    """Figures of held-out people, pooled over batches of four."""
    held_out = SynthShards(options.set, split="held_out", proposals=("tracked",), size=networks.config.image_size)
    whole = first_samples(held_out, options.samples)
    parts = []
    for first in range(0, len(whole["images"]), 4):
        batch = {key: value[first : first + 4] for key, value in whole.items()}
        parts.append(sample_batch(networks, batch, sampling))
    return {name: round(value, 3) for name, value in figures(torch.cat(parts), whole).items()}


def try_sampling(options: argparse.Namespace, known: dict[str, Any], keep: Any) -> None:
    """Starts, guidance and steps, one thing changed at a time from the preset's own setting of it."""
    networks = Networks.load(options.sampling)
    plain: SamplingConfig = stage_config("images", options.preset, options.overrides).sampling
    inits = [name for name in INITS if name != "proposal" or networks.config.proposal]
    tried = itertools.chain(
        (dataclasses.replace(plain, init=name, temperature=1.0) for name in inits),
        (dataclasses.replace(plain, guidance_scale=scale) for scale in SCALES),
        (dataclasses.replace(plain, steps=steps) for steps in STEPS),
    )
    for sampling in tried:
        name = (
            f"start {sampling.init}, guidance {sampling.guidance_scale:g}, {sampling.steps} steps, "
            f"temperature {sampling.temperature:g}"
        )
        if name not in known:
            keep(name, measured(networks, options, sampling))


def tables(known: dict[str, Any]) -> str:
    """Everything known, as Markdown; differences are those to the variant with everything."""
    lines = ["| variant | PSNR | difference | the paper's | normals, degrees |", "|---|---|---|---|---|"]
    whole = known["variants"].get("full", {}).get("psnr")
    for name, row in known["variants"].items():
        gap = "" if whole is None or name == "full" else f"{row['psnr'] - whole:+.2f}"
        paper = f"{PAPER[name]:+.2f}" if name in PAPER else ""
        lines.append(f"| {name} | {row['psnr']:.2f} | {gap} | {paper} | {row['normal_degrees']:.2f} |")
    if known["variants"]:
        row = next(iter(known["variants"].values()))
        lines.append(f"| the proposal itself | {row['psnr_proposal']:.2f} | | | {row['normal_degrees_proposal']:.2f} |")
    lines += ["", "| sampling | PSNR | normals, degrees |", "|---|---|---|"]
    lines += [f"| {name} | {r['psnr']:.2f} | {r['normal_degrees']:.2f} |" for name, r in known["sampling"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
