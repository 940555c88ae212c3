"""What every metric says of known faults: scikit-image's photograph, spoiled in one way at a time, beside itself.

    python scripts/metric_faults.py [--size 256] [--weights DIR]

Prints a Markdown table, a row a metric and a column a fault. Metrics that cannot be given are named below it, with the
reason.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import skimage.data

from geodiff.metrics.measurement import Measurement
from geodiff.metrics.picture import Pair, Picture
from geodiff.metrics.registry import Setup
from geodiff.metrics.table import Table, number, title
from geodiff.tracking.matte import portrait_matte

#: Frames a column: enough for JOD; the noise differs in each, everything else stands still.
FRAMES = 6


def _shift(image: np.ndarray, pixels: float) -> np.ndarray:
    matrix = np.array([[1, 0, pixels], [0, 1, 0]], np.float64)
    return cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def _noise(image: np.ndarray, t: int) -> np.ndarray:
    return np.clip(image + np.random.default_rng(t).normal(0, 0.04, image.shape), 0, 1).astype(np.float32)


#: Name -> (image, frame number) -> spoiled image. Lengths are in pixels of 256 and scaled with the size.
FAULTS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "none": lambda image, t: image,
    "blur, sigma 1": lambda image, t: cv2.GaussianBlur(image, (0, 0), len(image) / 256),
    "blur, sigma 2": lambda image, t: cv2.GaussianBlur(image, (0, 0), 2 * len(image) / 256),
    "noise 4%": _noise,
    "2 px to the right": lambda image, t: _shift(image, 2 * len(image) / 256),
    "10% darker": lambda image, t: 0.9 * image,
}


def measure(image: np.ndarray, matte: np.ndarray, fault: str, weights: Path | None) -> Table:
    measurement = Measurement(None, Setup(weights=weights, source=Picture(image), fps=25.0))
    for t in range(FRAMES):
        spoiled = np.ascontiguousarray(FAULTS[fault](image, t), dtype=np.float32)
        measurement.add(Pair(Picture(spoiled), Picture(image, matte), t))
    return measurement.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the picture in pixels")
    parser.add_argument("--weights", type=Path, help="folder of the networks that some metrics need")
    args = parser.parse_args()
    # Head and shoulders, the face as large as in generated frames.
    crop = skimage.data.astronaut()[:300, 70:370]
    pixels = cv2.resize(crop, (args.size, args.size), interpolation=cv2.INTER_AREA)
    matte = portrait_matte(pixels, None)
    image = np.where(matte[..., None] > 0.5, pixels, 255).astype(np.float32) / 255
    tables = {fault: measure(image, matte, fault, args.weights) for fault in FAULTS}
    entries = tables["none"].entries
    print(f"| metric | better | {' | '.join(tables)} |\n|{' --- |' * (len(tables) + 2)}")
    for name, entry in entries.items():
        cells = [table.mean.get(name) for table in tables.values()]
        if any(value is not None for value in cells):
            shown = " | ".join("" if value is None else number(value) for value in cells)
            print(f"| {title(entry.metric)} | {entry.metric.better} | {shown} |")
    print()
    for name, reason in tables["none"].not_measured.items():
        print(f"- `{name}` not measured: {reason}")


if __name__ == "__main__":
    main()
