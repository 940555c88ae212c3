"""Build the bundled head from the measured landmarks.

python scripts/build_head.py [--landmarks geodiff/data/landmarks.npz] [--output geodiff/data/builtin_head.npz]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from geodiff.head.authoring.assemble import build_head
from geodiff.head.authoring.landmarks import read_landmarks
from geodiff.head.builtin import ASSET, LANDMARKS, head_from_arrays, pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--landmarks", type=Path, default=LANDMARKS)
    parser.add_argument("--output", type=Path, default=ASSET)
    options = parser.parse_args()
    arrays = build_head(read_landmarks(options.landmarks))
    partial = options.output.with_suffix(".partial.npz")
    np.savez_compressed(partial, **pack(arrays))
    os.replace(partial, options.output)
    head = head_from_arrays(arrays)
    print(
        f"{head.num_vertices} vertices, {len(head.faces)} triangles, {head.num_shape} shape modes, "
        f"{head.num_expr} expressions, {options.output.stat().st_size / 1e6:.2f} MB, hash {head.hash}"
    )


if __name__ == "__main__":
    main()
