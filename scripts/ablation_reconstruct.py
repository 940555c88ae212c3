"""What each part of GeoDiff4D's reconstruction is worth, on SynthBench's avatar task (the paper's Table 2).

    python scripts/ablation_reconstruct.py --out DIR [--people 1] [--views 6] [--steps 8] [iterations=600 ...]

Clips of true people with the parameters that the tracker finds, or true ones (--kind true); the held-out frames are new
views of expressions that were seen, and new expressions. Arguments with "=" change all variants. A run that was stopped
goes on.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geodiff.files import read_json, write_json, write_text
from geodiff.head import load_head
from geodiff.metrics.geometry import normal_angular_error
from geodiff.metrics.image import evaluation_mask, psnr, ssim
from geodiff.metrics.picture import Picture
from geodiff.synth.bench.clips import AvatarClips, HeldOut
from geodiff.synth.bench.definition import BenchConfig
from geodiff.synth.bench.observe import AVATAR_KINDS
from geodiff.synth.bench.tasks import Bench
from geodiff.types import Drive
from recon.avatar import Avatar, render
from recon.reconstruct import Job, method_config, reconstruct

PARTS = ("refinement", "deform", "attributes", "response")
#: Name -> parts that are on: none, all, and all without one part.
VARIANTS: dict[str, tuple[str, ...]] = {
    "GaussianAvatars + normal loss": (),
    "all": PARTS,
    "without residuals of head parameters": ("deform", "attributes", "response"),
    "without the normal loss": (*PARTS, "no normals"),
    "without deformations (U-Net)": ("refinement", "attributes", "response"),
    "without residuals of Gaussians (MLP)": ("refinement", "deform", "response"),
    "without the response": ("refinement", "deform", "attributes"),
    "residuals of head parameters and response": ("refinement", "response"),
}
COLUMNS = ("psnr", "ssim", "normals")


@dataclass(frozen=True)
class Row:
    """Means over one person's held-out frames. seconds: processor time of the fit."""

    variant: str
    part: str
    psnr: float
    ssim: float
    normals: float
    seconds: float


def scores(avatar: Avatar, held: list[tuple[HeldOut, Picture]]) -> list[tuple[str, list[float]]]:
    """(part, figures) of every held-out frame, inside the dilated true matte."""
    found = []
    for asked, truth in held:
        with torch.no_grad():
            view = render(avatar, Drive(avatar.own(asked.params)), asked.camera, normals=True)
        assert truth.alpha is not None and truth.normals is not None and view.normals is not None
        region, image = evaluation_mask(truth.alpha), view.rgb.numpy()
        both = (truth.alpha > 0.5) & (view.alpha[..., 0].numpy() > 0.5)
        degrees = normal_angular_error(view.normals.numpy(), truth.normals, both)
        found.append((asked.part, [psnr(image, truth.image, region), ssim(image, truth.image, region), degrees]))
    return found


def ablate(clips: AvatarClips, variants: list[str], overrides: list[str], preset: str, out: Path) -> list[Row]:
    """All variants on one person; finished ones are read again."""
    folder = clips.write(out / "clips")
    held: list[tuple[HeldOut, Picture]] = []
    rows: list[Row] = []
    for variant in variants:
        on = VARIANTS[variant]
        switches = [f"{part}.enabled={str(part in on).lower()}" for part in PARTS]
        switches += ["losses.normal=0"] if "no normals" in on else []
        config = method_config("geodiff4d", preset, [*switches, *overrides])
        path = out / f"{list(VARIANTS).index(variant)}.json"
        known: dict[str, Any] = read_json(path) if path.is_file() else {}
        if known.get("config") != str(config):
            held = held or [(a, clips.person.truth(a.motion, [a.true_camera])[0]) for a in clips.held_out()]
            began = time.process_time()
            made = out / "avatars" / str(list(VARIANTS).index(variant))
            avatar = reconstruct(
                folder, "geodiff4d", made, config, job=Job(preview_frames=0), head=clips.bench.head,
                head_spec=clips.bench.head_spec,
            )  # fmt: skip
            seconds, found = time.process_time() - began, scores(avatar, held)
            parts = {part for part, _ in found}
            means = {part: np.mean([f for p, f in found if p == part], 0).tolist() for part in sorted(parts)}
            done = [Row(variant, part, m[0], m[1], m[2], seconds) for part, m in means.items()]
            known = {"config": str(config), "rows": [asdict(row) for row in done]}
            write_json(path, known)
        rows += [Row(**row) for row in known["rows"]]
        print(*rows[-len(known["rows"]) :], sep="\n", flush=True)
    return rows


def table(rows: list[Row]) -> str:
    """Markdown: a line a variant; PSNR, SSIM and normal error of new views, then of new expressions."""
    parts = sorted({row.part for row in rows}, reverse=True)
    heads = [f"{part}: {name}" for part in parts for name in ("PSNR, dB", "SSIM", "normals, degrees")]
    lines = ["| " + " | ".join(["variant", *heads, "processor seconds"]) + " |", "|---" * (len(heads) + 2) + "|"]
    for variant in dict.fromkeys(row.variant for row in rows):
        own = [row for row in rows if row.variant == variant]
        cells = [variant]
        for part in parts:
            figures = [[getattr(row, name) for name in COLUMNS] for row in own if row.part == part]
            cells += [f"{value:.{digits}f}" for value, digits in zip(np.mean(figures, 0), (2, 3, 1), strict=True)]
        lines.append("| " + " | ".join([*cells, f"{np.mean([row.seconds for row in own]):.0f}"]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=1)
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--kind", choices=AVATAR_KINDS, default=AVATAR_KINDS[0],
                        help="parameters as tracked in films, the true ones, or tracked in all cameras")  # fmt: skip
    parser.add_argument("--truth", default="builtin", help="head model of the true people")
    parser.add_argument("--preset", default="preview")
    parser.add_argument("--variants", help="numbers of the variants, comma-separated; all by default")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    names = list(VARIANTS)
    chosen = [names[int(number)] for number in args.variants.split(",")] if args.variants else names
    config = BenchConfig(views=args.views, steps=args.steps, held_views=3, held_steps=4, size=args.size)
    bench = Bench(load_head(args.truth), load_head("builtin"), config, "builtin")
    rows: list[Row] = []
    for identity in range(args.people):
        folder = args.out / f"person-{identity:02d}"
        rows += ablate(AvatarClips(bench, identity, args.kind), chosen, args.overrides, args.preset, folder)
    text = table(rows)
    write_json(args.out / "ablation.json", [asdict(row) for row in rows])
    write_text(args.out / "ablation.md", text)
    print(text)


if __name__ == "__main__":
    main()
