"""Draw the bundled head as normal maps: identities down, expressions across.

    python scripts/head_sheet.py [--output docs/head_sheet.png] [--side 180]
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import cv2
import numpy as np
import torch

from geodiff.geometry import orbit_camera
from geodiff.head.builtin import load_builtin
from geodiff.head.model import HeadModel
from geodiff.raster.mesh import render_normals
from geodiff.types import HeadParams

#: Columns: ARKit weights and the yaw of the camera in degrees.
COLUMNS: tuple[tuple[dict[str, float], float], ...] = (
    ({}, 0),
    ({}, 40),
    ({}, 90),
    ({}, 150),
    ({"jawOpen": 0.9}, 15),
    ({"mouthSmileLeft": 1, "mouthSmileRight": 1, "cheekSquintLeft": 0.6, "cheekSquintRight": 0.6, "jawOpen": 0.15}, 0),
    ({"eyeBlinkLeft": 1, "eyeBlinkRight": 1, "mouthPucker": 0.8}, 0),
    ({"browInnerUp": 1, "browOuterUpLeft": 0.8, "browOuterUpRight": 0.8, "eyeWideLeft": 1, "eyeWideRight": 1,
      "mouthFunnel": 0.7, "jawOpen": 0.3}, 0),
    ({"browDownLeft": 1, "browDownRight": 1, "noseSneerLeft": 0.8, "noseSneerRight": 0.8, "mouthFrownLeft": 0.8,
      "mouthFrownRight": 0.8}, -20),
)  # fmt: skip


def draw(head: HeadModel, params: HeadParams, yaw: float, side: int) -> np.ndarray:
    """(side, side, 3) uint8 normal map of the head from one direction."""
    camera = orbit_camera(math.radians(yaw), 0.0, 1.3, torch.tensor([0.0, -0.005, 0.0]), 4.0 * side, side, side)
    normals = render_normals(head.vertices(params)[0], head.faces, camera, supersample=2)
    return np.clip((normals + 1) * 127.5, 0, 255).astype(np.uint8)


def sheet(head: HeadModel, identities: int, side: int, seed: int) -> np.ndarray:
    """The first row is the mean head, the others random identities of one standard deviation in every mode."""
    random = torch.Generator().manual_seed(seed)
    rows = []
    for row in range(identities):
        shape = torch.randn(head.num_shape, generator=random) * (0.0 if row == 0 else 1.0)
        tiles = []
        for weights, yaw in COLUMNS:
            expression = torch.zeros(1, head.num_expr)
            for name, weight in weights.items():
                expression[0, head.expression_names.index(name)] = weight
            tiles.append(draw(head, head.zeros().replace(shape=shape, expr=expression), yaw, side))
        rows.append(np.concatenate(tiles, 1))
    return np.concatenate(rows, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/head_sheet.png"))
    parser.add_argument("--identities", type=int, default=5)
    parser.add_argument("--side", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    picture = sheet(load_builtin(), options.identities, options.side, options.seed)
    partial = options.output.with_suffix(".partial.png")
    cv2.imwrite(str(partial), picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    os.replace(partial, options.output)
    print(f"{options.output}: {options.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
