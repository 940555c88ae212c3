"""How much of a person is lost when parameters go from one head model to another, and back.

    python scripts/conversion_accuracy.py FIRST SECOND [--identities 10]

FIRST and SECOND are heads as --head takes them, for instance builtin and ict:PATH. Random identities (one standard
deviation a mode) with random expressions and poses are converted from the one to the other. Prints distances in
millimetres from the source's surface to the target's, mean / 95th percentile by area, and how far the points of the
surface are from where they were after the way back.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.tracking.convert import Conversion, convert
from geodiff.tracking.correspond import region_weights
from geodiff.tracking.transfer import is_arkit
from geodiff.types import HeadParams


def random_person(head: HeadModel, frames: int, generator: torch.Generator) -> HeadParams:
    """One identity in several expressions: about every seventh ARKit weight in 0..1, or modes of half a deviation."""
    shape = torch.randn(head.num_shape, generator=generator).clamp(-2.5, 2.5)
    weights = torch.rand(frames, head.num_expr, generator=generator)
    weights *= torch.rand(frames, head.num_expr, generator=generator) < 0.15
    modes = 0.5 * torch.randn(frames, head.num_expr, generator=generator)
    named = torch.tensor([is_arkit(name) for name in head.expression_names])
    return head.zeros(frames).replace(
        shape=shape,
        expr=torch.where(named, weights, modes),
        rotation=0.3 * torch.randn(frames, 3, generator=generator),
        neck_pose=0.1 * torch.randn(frames, 3, generator=generator),
        translation=torch.randn(frames, 3, generator=generator),
    )


def way_back(params: HeadParams, there: Conversion, first: HeadModel, second: HeadModel) -> np.ndarray:
    """(T, N) millimetres from the surface's points, the neck's left out, to where they are after the way back."""
    back = convert(there.params, second, first).params
    regions = {"face": 1.0, "lips": 1.0, "eyes": 1.0, "ears": 1.0, "scalp": 1.0}
    outer = torch.from_numpy(region_weights(first, regions) > 0)
    return 1e3 * (first.vertices(back) - first.vertices(params)).norm(dim=-1)[:, outer].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--identities", type=int, default=10)
    parser.add_argument("--frames", type=int, default=6)
    options = parser.parse_args()
    heads = [load_head(options.first), load_head(options.second)]
    generator = torch.Generator().manual_seed(0)
    for first, second in (heads, heads[::-1]):
        rows: dict[str, list[tuple[float, float]]] = {}
        returned, seconds = [], 0.0
        for _ in range(options.identities):
            person = random_person(first, options.frames, generator)
            start = time.perf_counter()
            done = convert(person, first, second)
            seconds += time.perf_counter() - start
            for part, distances in (("neutral", done.residuals.neutral), ("posed", done.residuals.frames)):
                for region, pair in distances.by_region.items():
                    rows.setdefault(f"{part} {region}", []).append(pair)
            returned.append(way_back(person, done, first, second))
        print(f"{first.name} -> {second.name}: {options.identities} identities, {options.frames} expressions each")
        for name, pairs in rows.items():
            mean, high = np.mean(pairs, axis=0)
            print(f"  {name}: {mean:.2f} / {high:.2f} mm")
        away = np.concatenate(returned)
        print(f"  and back, point by point: {away.mean():.2f} / {np.percentile(away, 95):.2f} mm")
        print(f"  {seconds / options.identities:.1f} s for {options.frames} frames")


if __name__ == "__main__":
    main()
