"""How near proposals are to the truth, seen from the sides and from behind, where SynthBench does not look.

    python scripts/measure_proposals.py [--people 32] [--truth ict:PATH] [--head builtin] [--sheet sheet.png]

Each of the synthetic people is photographed from the front and tracked as training samples are; the proposals of six
views, in the portrait's own expression and before any network, are held against true pictures. PSNR of whole frames by
view, and of what the portrait does not see by kind of surface; normals and overlap. Some three seconds a person.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from geodiff.conditioning import framed_camera
from geodiff.errors import UserError
from geodiff.head import load_head
from geodiff.media import write_image
from geodiff.metrics.geometry import mask_iou, normal_angular_error
from geodiff.metrics.image import psnr
from geodiff.raster import mesh
from geodiff.sheets import contact_sheet
from geodiff.synth.samples import SampleConfig, Session
from geodiff.synth.subject import Subject

#: Yaw and elevation of the views, degrees.
VIEWS = ((-85, 0), (-55, 0), (55, 0), (85, 5), (140, 5), (180, 5))
#: Kinds of surface by the fitted mesh; the face is what is none of the others.
KINDS = ("ears", "scalp", "neck", "face")
#: First seed of the people by default.
FIRST = 100
#: Visibility below which the portrait does not see a pixel, and matte from which a pixel is the person's.
UNSEEN, PERSON = 0.5, 0.98
#: People of the sheet.
SHOWN = 12


@dataclass(frozen=True)
class Measured:
    """One person. psnr: (V,) dB of whole frames. errors: (K, 2) of each of KINDS the sum of squared errors (mean over
    the channels) of what the portrait does not see, and its pixels. normals: degrees. overlap: 0..1. pictures: truth
    and proposal of each view."""

    psnr: np.ndarray
    errors: np.ndarray
    normals: float
    overlap: float
    pictures: list[np.ndarray]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=32)
    parser.add_argument("--first", type=int, default=FIRST, help="seed of the first of them")
    parser.add_argument("--truth", default="builtin", help="head that people are drawn from: builtin or ict:PATH")
    parser.add_argument("--head", default="builtin", help="head that conditions: builtin, flame:PATH or ict:PATH")
    parser.add_argument("--size", type=int, default=256, help="side of a frame in pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sheet", type=Path, help=f"PNG of the first {SHOWN} people, truth beside proposal")
    options = parser.parse_args(arguments)
    if min(options.people, options.size) < 1:
        parser.error(f"--people and --size must be at least 1, got {options.people} and {options.size}")
    try:
        load_head(options.truth), load_head(options.head)
        jobs = [(options.truth, options.head, options.first + n, options.size) for n in range(options.people)]
        if options.workers > 1:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(options.workers, context, _begin) as pool:
                found = list(pool.map(measured, *zip(*jobs, strict=True)))
        else:
            found = [measured(*job) for job in jobs]
        report(found, Console())
        if options.sheet is not None:
            write_image(options.sheet, contact_sheet([(str(options.first + n), person.pictures)
                        for n, person in enumerate(found[:SHOWN])], tile=options.size))  # fmt: skip
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _begin() -> None:
    torch.set_num_threads(1)


_head = lru_cache(maxsize=2)(load_head)


def measured(truth: str, spec: str, seed: int, size: int) -> Measured:
    """One person's proposals."""
    head, subject = _head(spec), Subject(_head(truth), seed, texture_size=3 * size, wild=0.0)
    session = Session(subject, head, seed, SampleConfig(size=size, wild=0.0))
    params, posed = session.reference.params, subject.pose(session.expression)
    vertices = head.vertices(params)[0]
    levels, errors, angles, overlaps, pictures = [], np.zeros((len(KINDS), 2)), [], [], []
    for yaw, elevation in VIEWS:
        camera = framed_camera(session.frame, math.radians(yaw), math.radians(elevation), session.distance, size)
        true = subject.render(posed, session.true_camera(camera), 3)
        condition = session.conditioner.render(params, camera)
        seen = mesh.rasterize(vertices, head.faces, camera)
        levels.append(psnr(condition.proposal, true.image))
        inside = (true.mask > PERSON) & seen.mask
        angles.append(normal_angular_error(condition.normals, true.normals, inside))
        overlaps.append(mask_iou(seen.mask.astype(np.float32), true.mask))
        squared = ((condition.proposal - true.image) ** 2).mean(-1)
        rest = inside & (condition.visibility < UNSEEN)
        for number, kind in enumerate(KINDS):
            region = seen.of(head.faces, head.regions[kind].numpy(), every=False) if kind != "face" else seen.mask
            where = rest & region
            errors[number] += squared[where].sum(), where.sum()
            rest = rest & ~region
        pictures += [true.image, condition.proposal]
    return Measured(np.array(levels), errors, float(np.mean(angles)), float(np.mean(overlaps)), pictures)


def report(found: list[Measured], console: Console) -> None:
    """Means over people; of kinds of surface over all of their pixels."""
    views = Table("PSNR, dB", *(f"{yaw}" for yaw, _ in VIEWS), "mean")
    levels = np.stack([person.psnr for person in found])
    views.add_row("by view, degrees", *(f"{level:.2f}" for level in levels.mean(0)), f"{levels.mean():.3f}")
    console.print(views)
    kinds = Table("not seen by the portrait", *KINDS)
    sums = np.sum([person.errors for person in found], 0)
    kinds.add_row("PSNR, dB", *(f"{-10 * math.log10(total / count):.2f}" if count else "-" for total, count in sums))
    console.print(kinds)
    angle, overlap = (float(np.mean([getattr(person, name) for person in found])) for name in ("normals", "overlap"))
    console.print(f"{len(found)} people: normals {angle:.2f} degrees, overlap {overlap:.4f}")


if __name__ == "__main__":
    sys.exit(main())
