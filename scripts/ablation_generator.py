"""Ablations of the generator, as in the paper's Tables 2 and 4: variants trained alike, and the sampler's settings.

    python scripts/ablation_generator.py WORK --set SET [--plain-set SET] [--test-set SET] --steps 500
    python scripts/ablation_generator.py WORK --set SET [--test-set SET] --sampling WORK/full/weights

Both go on where they were. Variants are trained for the same steps on the same samples in the same order; the sampler's
settings are tried on given weights. Figures are those of people that nothing was trained on, those of --test-set or the
held-out ones of --set: PSNR inside the dilated mask, the mean of frames, and the normals' error. Frames whose proposal
shows the tracked expression, as in use, and frames whose proposal shows another one stand apart: in these the
expression has to come from the latent. Behind differences is their standard error over people. WORK/ablation.json
holds all that is known, WORK/ablation.md the tables.

--model small (default) is a network of two million parameters on 64 pixels, for a core and minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from geodiff.config import choose
from geodiff.files import make_folder, read_json, write_json, write_text
from geodiff.models.networks import MODELS, TEST, ModelConfig, Networks, build_networks
from geodiff.models.sampling import INITS, SamplingConfig
from geodiff.training.batches import Samples
from geodiff.training.config import TrainConfig
from geodiff.training.dataset import SynthShards, draw_odds
from geodiff.training.loop import train
from geodiff.training.objective import Batch, LossConfig
from geodiff.training.run import stage_config
from geodiff.training.sheet import figures, sample_batch

#: Attention on both levels: Domain-Spatial attention is one of the things that are left out.
SMALL = dataclasses.replace(TEST, unet=dataclasses.replace(TEST.unet, attention=(True, True)), reference_domains=1)
#: Name -> changes to the model and to the loss. Without joint representation the image is denoised by itself: nothing
#: of the normals is learned, and nothing of them reaches it. The second one with everything differs by its seed alone.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": ({}, {}),
    "without joint representation": ({"domain_attention": False}, {"normal": 0.0}),
    "without Domain-Spatial attention": ({"domain_attention": False}, {}),
    "without cross-view pairing": ({}, {}),
    "without the proposal": ({"proposal": False}, {}),
    "without wild textures": ({}, {}),
    "full with another seed": ({}, {}),
}
#: What the paper finds without each (Table 2, PSNR; 21.59 with all).
PAPER = {
    "without joint representation": -0.78,
    "without Domain-Spatial attention": -0.60,
    "without cross-view pairing": -1.69,
}
SCALES, STEPS = (1.0, 2.5, 4.0), (5, 10, 25, 50)
#: Part of the test -> the kinds of proposal in it.
PARTS: dict[str, tuple[str, ...]] = {"tracked": ("tracked",), "other": ("reference", "neutral")}


class Kept(Dataset[dict[str, Tensor]]):
    """A set's samples, decoded once. same_view: with driving crops from the target frame itself, the middle of its
    picture, where the crop rule puts the face."""

    def __init__(self, source: SynthShards, same_view: bool = False) -> None:
        self.source = source
        whole = (source[index] for index in range(len(source)))
        self.samples = [_from_own_view(sample) if same_view else sample for sample in whole]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.samples[index]

    def rarity(self) -> np.ndarray:
        """As the source's own."""
        return draw_odds(self.source)


def _from_own_view(sample: dict[str, Tensor]) -> dict[str, Tensor]:
    side, crop = sample["images"].shape[-1], sample["driving"].shape[-1]
    cut = slice(side // 4, side - side // 4)
    return sample | {"driving": F.interpolate(sample["images"][..., cut, cut], size=(crop, crop), mode="area")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--set", type=Path, required=True, help="a set of `geodiff synth`")
    parser.add_argument("--plain-set", type=Path, help="one of as many people without wild textures")
    parser.add_argument("--test-set", type=Path, help="one of other people; by default those held out of --set")
    parser.add_argument("--sampling", type=Path, help="try the sampler's settings on these weights instead")
    parser.add_argument("--variants", help=f"names with commas between; all by default: {', '.join(VARIANTS)}")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=96, help="frames of each part of the test, at most")
    parser.add_argument("--size", type=int, default=64, help="of images in training, pixels")
    parser.add_argument("--model", default="small", help=f"small, {', '.join(MODELS)}")
    parser.add_argument("--preset", default="preview", help="whose training and sampling settings are taken")
    parser.add_argument("overrides", nargs="*", help="key=value of TrainConfig")
    options = parser.parse_intermixed_args(arguments)

    path = make_folder(options.work) / "ablation.json"
    known: dict[str, Any] = read_json(path) if path.is_file() else {"variants": {}, "sampling": {}}
    test = Test(options.test_set or options.set, options)

    def keep(part: str, name: str, measured: dict[str, Any]) -> None:
        known[part][name] = measured
        write_json(path, known)
        write_text(path.with_suffix(".md"), tables(known))
        print(name, {key: value for key, value in measured.items() if not isinstance(value, dict)}, flush=True)

    if options.sampling is not None:
        try_sampling(options, test, known["sampling"], lambda name, told: keep("sampling", name, told))
        return
    config = stage_config("images", options.preset, options.overrides)
    config = dataclasses.replace(config, steps=options.steps, sheet_every=0, tensorboard=False)
    names = list(VARIANTS) if options.variants is None else options.variants.split(",")
    for name in (choose("variant", name, VARIANTS) for name in names):
        if known["variants"].get(name, {}).get("steps") == options.steps:
            continue
        if name == "without wild textures" and options.plain_set is None:
            continue
        keep("variants", name, {"steps": options.steps, **trained(name, options, config, test)})


class Test:
    """Frames of people that nothing was trained on."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        split = "all" if options.test_set else "held_out"
        self.samples: dict[str, list[dict[str, Tensor]]] = {}
        self.people: dict[str, list[int]] = {}
        for part, kinds in PARTS.items():
            found = SynthShards(folder, split=split, proposals=kinds, size=options.size)  # type: ignore[arg-type]
            chosen = np.unique(np.linspace(0, len(found) - 1, min(options.samples, len(found))).astype(int))
            self.samples[part] = [found[int(i)] for i in chosen]
            self.people[part] = [found.about(int(i))["identity"] for i in chosen]

    def measured(self, networks: Networks, sampling: SamplingConfig) -> dict[str, Any]:
        """Means over frames by part of the test; under "frames" what every frame has, and whose it is."""
        told: dict[str, Any] = {}
        frames: dict[str, Any] = {}
        for part, samples in self.samples.items():
            rows = []
            for first in range(0, len(samples), 8):
                batch = default_collate(samples[first : first + 8])
                rows += frame_figures(sample_batch(networks, batch, sampling), batch)
            for name in rows[0]:
                values = [row[name] for row in rows if np.isfinite(row[name])]
                told[f"{name}, {part}"] = round(float(np.mean(values)), 4) if values else None
            frames[part] = {"psnr": [round(row["psnr"], 4) for row in rows], "people": self.people[part]}
        return {**told, "frames": frames}


def frame_figures(generated: Tensor, batch: Batch) -> list[dict[str, float]]:
    """`figures` of every sample by itself."""
    return [
        figures(generated[i : i + 1], {key: value[i : i + 1] for key, value in batch.items()})
        for i in range(len(generated))
    ]


def trained(name: str, options: argparse.Namespace, config: TrainConfig, test: Test) -> dict[str, Any]:
    """Train a variant, or go on with it, and measure it."""
    model, loss = VARIANTS[name]
    base: ModelConfig = {"small": SMALL, **MODELS}[options.model]
    changed = dataclasses.replace(base, image_size=options.size, motion=False, **model)
    weights: LossConfig = dataclasses.replace(config.loss, **loss)
    config = dataclasses.replace(config, loss=weights, seed=config.seed + (name == "full with another seed"))
    torch.manual_seed(config.seed)
    networks = build_networks(changed)
    folder = options.plain_set if name == "without wild textures" else options.set
    dataset: Samples = Kept(SynthShards(folder, size=options.size), same_view=name == "without cross-view pairing")
    networks = train(networks, dataset, config, options.work / name.replace(" ", "-"))
    sampling = config.sampling if changed.proposal else dataclasses.replace(config.sampling, init="reference")
    return test.measured(networks, sampling)


def try_sampling(
    options: argparse.Namespace, test: Test, known: dict[str, Any], keep: Callable[[str, dict[str, Any]], None]
) -> None:
    """Starts, guidance and steps, one thing changed at a time from the preset's own setting of it."""
    networks = Networks.load(options.sampling)
    plain: SamplingConfig = stage_config("images", options.preset, options.overrides).sampling
    inits = [name for name in INITS if name != "proposal" or networks.config.proposal]
    tried = itertools.chain(
        [plain],
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
            keep(name, test.measured(networks, sampling))


def difference(row: dict[str, Any], base: dict[str, Any], part: str) -> tuple[float, float]:
    """Mean of the frames' PSNR less another's on the same frames, and its standard error over people, dB."""
    own, other = row["frames"][part], base["frames"][part]
    gaps = np.subtract(own["psnr"], other["psnr"])
    people = np.array(own["people"])
    means = [gaps[people == person].mean() for person in np.unique(people)]
    error = np.std(means, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan
    return float(gaps.mean()), float(error)


def tables(known: dict[str, Any]) -> str:
    """Everything known, as Markdown; differences are those to the variant with everything, and to the first setting of
    the sampler."""
    lines = [
        "| variant | PSNR, dB | difference | the paper's | PSNR, the proposal shows another expression | difference "
        "| normals, degrees |",
        "|---|---|---|---|---|---|---|",
    ]
    whole = known["variants"].get("full")
    for name, row in known["variants"].items():
        gaps = {part: _gap(row, whole, part) for part in PARTS}
        paper = f"{PAPER[name]:+.2f}" if name in PAPER else ""
        degrees = "not learned" if "joint" in name else _number(row["normal_degrees, tracked"])
        lines.append(
            f"| {name} | {row['psnr, tracked']:.2f} | {gaps['tracked']} | {paper} | {row['psnr, other']:.2f} | "
            f"{gaps['other']} | {degrees} |"
        )
    if known["variants"]:
        row = next(iter(known["variants"].values()))
        lines.append(
            f"| the proposal itself | {row['psnr_proposal, tracked']:.2f} | | | {row['psnr_proposal, other']:.2f} | | "
            f"{_number(row['normal_degrees_proposal, tracked'])} |"
        )
    lines += ["", "| sampling | PSNR, dB | difference | normals, degrees |", "|---|---|---|---|"]
    first = next(iter(known["sampling"].values()), None)
    for name, row in known["sampling"].items():
        gap, degrees = _gap(row, first, "tracked"), _number(row["normal_degrees, tracked"])
        lines.append(f"| {name} | {row['psnr, tracked']:.2f} | {gap} | {degrees} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    """Absent where no true frame has normals."""
    return "-" if value is None else f"{value:.2f}"


def _gap(row: dict[str, Any], base: dict[str, Any] | None, part: str) -> str:
    if base is None or row is base:
        return ""
    mean, error = difference(row, base, part)
    return f"{mean:+.2f} ± {error:.2f}"


if __name__ == "__main__":
    main()
