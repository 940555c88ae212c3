"""Draw the bundled head, lit and as normal maps: identities in different expressions, and each expression by itself.

    python scripts/head_sheet.py [--output docs/head_sheet.png] [--side 150]

The upper part shows people (rows, the first is the mean head) in several expressions and views, shaded above the same
views' normals; the lower part all of the expressions at full strength on the mean head.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import cv2
import numpy as np
import torch

from geodiff.geometry import normals_to_map_axes, orbit_camera, vertex_normals
from geodiff.head.builtin import load_builtin
from geodiff.head.model import HeadModel
from geodiff.raster.mesh import interpolate, rasterize
from geodiff.types import Camera, HeadParams

#: Columns: ARKit weights (names without a side mean both) and the yaw of the camera in degrees.
COLUMNS: tuple[tuple[dict[str, float], float], ...] = (
    ({}, 0),
    ({}, 40),
    ({}, 90),
    ({}, 150),
    ({"jawOpen": 0.8}, 15),
    ({"mouthSmile": 1, "cheekSquint": 0.6, "jawOpen": 0.25, "mouthUpperUp": 0.3}, 0),
    ({"eyeBlink": 1, "mouthPucker": 0.8}, 0),
    ({"browInnerUp": 1, "browOuterUp": 0.8, "eyeWide": 1, "mouthFunnel": 0.7, "jawOpen": 0.3}, 0),
    ({"browDown": 1, "noseSneer": 0.8, "mouthFrown": 0.8}, -20),
)
SKIN = np.array([0.80, 0.60, 0.50])
COLOURS = {"lips": (0.72, 0.40, 0.36), "mouth_interior": (0.50, 0.18, 0.17), "teeth": (0.90, 0.88, 0.83),
           "eyeballs": (0.90, 0.90, 0.88)}  # fmt: skip
#: Radii in metres around the gaze axis.
IRIS, PUPIL = 0.0060, 0.0024
#: Samples a side of each pixel.
SUPERSAMPLE = 3


def expression_of(head: HeadModel, weights: dict[str, float]) -> torch.Tensor:
    """(1, E) coefficients; a name without a side stands for both sides."""
    expression = torch.zeros(1, head.num_expr)
    for name, weight in weights.items():
        sides = [name] if name in head.expression_names else [f"{name}Left", f"{name}Right"]
        for side in sides:
            expression[0, head.expression_names.index(side)] = weight
    return expression


def paint_of(head: HeadModel) -> np.ndarray:
    """(V, 7) what pixels are coloured by: albedo, position at rest, whether it is an eyeball."""
    albedo = np.tile(SKIN, (head.num_vertices, 1))
    for region, colour in COLOURS.items():
        albedo[head.regions[region].numpy()] = colour
    return np.concatenate([albedo, head.template.numpy(), head.regions["eyeballs"].numpy()[:, None]], 1)


def draw(head: HeadModel, params: HeadParams, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """The head under a lamp and its normal map, each (H, W, 3) uint8."""
    vertices = head.vertices(params)[0]
    fine = camera.resized(camera.width * SUPERSAMPLE, camera.height * SUPERSAMPLE)
    seen = rasterize(vertices, head.faces, fine)
    normals = interpolate(seen, head.faces, normals_to_map_axes(vertex_normals(vertices, head.faces), fine))
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    paint = interpolate(seen, head.faces, paint_of(head))
    albedo, rest, ball = paint[..., :3], paint[..., 3:6], paint[..., 6:]
    joints = (head.joint_regressor @ head.template)[3:].numpy()
    centre = np.where(rest[..., :1] > 0, joints[0], joints[1])
    radius = np.linalg.norm((rest - centre)[..., :2], axis=-1, keepdims=True)
    eye = np.where(radius < PUPIL, 0.04, np.array([0.30, 0.24, 0.16]))
    albedo = np.where((ball > 0.5) & (radius < IRIS), eye, albedo)
    key = np.clip(normals @ np.array([0.31, 0.47, 0.83]), 0, 1)[..., None]
    lit = albedo * (0.26 + 0.12 * normals[..., 1:2] + 0.68 * key)
    covered = seen.mask[..., None]
    shaded = np.clip(np.where(covered, lit, 0.62), 0, 1) ** (1 / 1.6)
    size = (camera.width, camera.height)
    pictures = (shaded, np.where(covered, 0.5 * (normals + 1), 0.5))
    small = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures]
    return tuple((255 * picture).round().astype(np.uint8) for picture in small)  # type: ignore[return-value]


def people(head: HeadModel, identities: int, side: int, seed: int) -> np.ndarray:
    """Rows of people: the mean head, then random ones of one standard deviation in every mode."""
    random = torch.Generator().manual_seed(seed)
    rows = []
    for row in range(identities):
        shape = torch.randn(head.num_shape, generator=random) * (0.0 if row == 0 else 1.0)
        tiles = []
        for weights, yaw in COLUMNS:
            camera = orbit_camera(math.radians(yaw), 0.0, 1.3, torch.tensor([0.0, -0.03, 0.0]), 3.6 * side, side, side)
            tiles.append(draw(head, head.zeros().replace(shape=shape, expr=expression_of(head, weights)), camera))
        rows += [np.concatenate(pictures, 1) for pictures in zip(*tiles, strict=True)]
    return np.concatenate(rows, 0)


def expressions(head: HeadModel, width: int, columns: int = 11) -> np.ndarray:
    """Every expression at full strength, close up on the face, with its name; both sides of a pair at once."""
    names = sorted({name.removesuffix("Left").removesuffix("Right") for name in head.expression_names})
    side = width // columns
    tiles = []
    for name in [*names, *[""] * (-len(names) % columns)]:
        weights = {name: 1.0} if name else {}
        if name == "mouthClose":
            weights["jawOpen"] = 1.0
        elif name in ("mouth", "jaw"):
            weights = {f"{name}Left": 1.0}
        elif name == "tongueOut":
            weights["jawOpen"] = 0.4
        camera = orbit_camera(0.0, 0.0, 1.3, torch.tensor([0.0, -0.01, 0.0]), 5.6 * side, side, side)
        picture = draw(head, head.zeros().replace(expr=expression_of(head, weights)), camera)[0]
        label = {"mouth": "mouthLeft", "jaw": "jawLeft"}.get(name, name or "neutral")
        cv2.putText(picture, label, (3, side - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.33, (20, 20, 20), 1, cv2.LINE_AA)
        tiles.append(picture)
    return np.concatenate([np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)], 0)


def sheet(head: HeadModel, identities: int, side: int, seed: int) -> np.ndarray:
    above = people(head, identities, side, seed)
    below = expressions(head, above.shape[1])
    below = cv2.copyMakeBorder(below, 0, 0, 0, above.shape[1] - below.shape[1], cv2.BORDER_REPLICATE)
    return np.concatenate([above, below], 0)


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
