"""Track synthetic photographs of known heads and report how far the results are from the truth, by head angle.

    python scripts/tracking_accuracy.py --truth ict:PATH/ict_facekit.npz [--heads 100] [--json out.json]

The people are random (identity, expression, light, hair, distance, lens); each is photographed with the head turned by
every angle and tracked from the pixels alone with `--head`. Without `--truth` the people are of the builtin head,
which flatters the tracker: it then knows the very shapes that it looks for.

`--smiling`: all of them smile and show their shut teeth. `--without-teeth`: what is seen of teeth does not count.
With `--json` each person's results are kept as they come, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch

from geodiff.errors import FaceError
from geodiff.files import read_json, write_json, write_text
from geodiff.head import load_head
from geodiff.synth.portraits import PortraitConfig, Sitter
from geodiff.tracking.accuracy import PosedHead, TemplateOffset, measure
from geodiff.tracking.fit import FitConfig
from geodiff.tracking.track import TrackConfig, track_image

ANGLES = (0, 20, 40, 60, 80)
COLUMNS = {
    "pose": "pose, degrees", "direction": "direction, degrees", "position": "position, mm", "distance": "distance, %",
    "focal": "focal length, %", "landmarks": "landmarks, %", "mesh": "mesh, mm", "expression": "expression, mm",
    "lids": "lid gap, mm",
    "lips": "lip gap, mm", "gaze": "gaze, degrees",
}  # fmt: skip


def follow(
    seed: int, truth: str, head: str, refine: bool = True, smiling: bool = False, teeth: bool = True
) -> list[dict[str, float]]:
    """One person at every angle."""
    torch.set_num_threads(1)
    true_head, own = load_head(truth), load_head(head)
    offset = TemplateOffset.between(own, true_head)
    sitter = Sitter(true_head, seed, PortraitConfig(smiles=float(smiling)))
    fit = FitConfig() if teeth else FitConfig(bitten=0.0)
    rows = []
    for number, angle in enumerate(ANGLES):
        photo = sitter.photograph(angle if (seed + number) % 2 else -angle)
        row: dict[str, float] = {"seed": seed, "angle": angle, "found": 0.0}
        began = time.process_time()
        try:
            track = track_image(photo.image, own, config=TrackConfig(fit=fit, fit_hair=False, refine=refine))
        except FaceError:
            rows.append(row)
            continue
        row.update(found=1.0, seconds=time.process_time() - began, fit=100 * track.error)
        truth_posed = PosedHead(true_head, photo.params, photo.camera)
        row.update(measure(truth_posed, PosedHead(own, track.params, track.camera), offset))
        rows.append(row)
    return rows


def table(rows: list[dict[str, float]]) -> str:
    """Markdown: means by head angle; in brackets the 90th percentile of the pose."""
    lines = ["| head angle | found | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for angle in ANGLES:
        here = [row for row in rows if row["angle"] == angle]
        found = [row for row in here if row["found"]]
        cells = [f"{angle}", f"{100 * len(found) / max(len(here), 1):.0f}%"]
        for key in COLUMNS:
            values = [row[key] for row in found]
            text = f"{np.mean(values):.1f}" if values else "-"
            if key == "pose" and values:
                text += f" ({np.percentile(values, 90):.1f})"
            cells.append(text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def settings(options: argparse.Namespace) -> dict[str, str | bool]:
    """What results of different runs must have in common."""
    own = {"smiling": True} if options.smiling else {}
    own |= {"teeth": False} if options.without_teeth else {}
    return {"truth": options.truth, "head": options.head, "refine": not options.plain, **own}


def finished(options: argparse.Namespace) -> list[dict[str, float]]:
    """Rows of an earlier run of the same heads."""
    if options.json is None or not options.json.is_file():
        return []
    earlier = read_json(options.json)
    same = all(earlier.get(name) == value for name, value in settings(options).items())
    return list(earlier["rows"]) if same else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", default="builtin", help="head model of the people: builtin, ict:PATH, flame:PATH")
    parser.add_argument("--head", default="builtin", help="head model that tracks")
    parser.add_argument("--heads", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first person")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="without the network's second look at the face")
    parser.add_argument("--smiling", action="store_true", help="with the teeth shut")
    parser.add_argument("--without-teeth", action="store_true", help="what is seen of teeth does not count")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    began = time.time()
    rows = finished(options)
    done = {int(row["seed"]) for row in rows}
    seeds = [seed for seed in range(options.first, options.first + options.heads) if seed not in done]
    work = partial(follow, **settings(options))
    with ExitStack() as stack:
        people = (
            stack.enter_context(Pool(options.jobs)).imap_unordered(work, seeds)
            if options.jobs > 1
            else map(work, seeds)
        )
        for person in people:
            rows += person
            if options.json:
                write_json(options.json, {**settings(options), "rows": rows})
    text = table(rows)
    print(text)
    print(f"{len(rows)} pictures, {time.time() - began:.0f} s")
    if options.markdown:
        write_text(options.markdown, text + "\n")


if __name__ == "__main__":
    main()
