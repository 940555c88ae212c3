"""Estimate normal maps for a clip set or VHAP export that has none, as pseudo ground truth for training (paper 3.2).

    python scripts/estimate_normals.py CLIPS NETWORK.onnx [--head SPEC] [--axes-from N]

Writes `normals/` beside the images and names them in the transforms files; frames that have one are left alone, so a
run that was stopped goes on. The network's axes are measured once, against the head mesh in N frames that show the
face from many sides. Runs on the GPU where onnxruntime has one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from geodiff.clipset import ClipSet
from geodiff.clipset.layout import TRANSFORMS
from geodiff.clipset.transforms import SPLIT_FILES
from geodiff.errors import InputError
from geodiff.files import read_json, write_json
from geodiff.head import load_head
from geodiff.media import write_image
from geodiff.normals import Axes, NormalEstimator, find_axes
from geodiff.raster import mesh
from geodiff.sheets import normals_as_image

FOLDER = "normals"


def measure_axes(clips: ClipSet, estimator: NormalEstimator, count: int) -> Axes:
    """The network's axes, from the head mesh in `count` frames spread over the set."""
    frames = clips.frames
    estimated, known = [], []
    for index in sorted({i * len(frames) // count for i in range(min(count, len(frames)))}):
        t, c = frames[index]
        frame = clips.frame(t, c)
        vertices = clips.head.vertices(clips.params.frame(t))[0]
        estimated.append(estimator(frame.image.astype(np.float32) / 255).reshape(-1, 3))
        visible = frame.mask[..., None] > 127
        known.append((mesh.render_normals(vertices, clips.head.faces, frame.camera) * visible).reshape(-1, 3))
    return find_axes(np.concatenate(estimated), np.concatenate(known))


def name_of(image: Path) -> str:
    return f"{FOLDER}/{image.stem}.png"


def estimate(clips: ClipSet, estimator: NormalEstimator, axes: Axes) -> int:
    """Write the missing normal maps; returns how many."""
    written = 0
    for t, c in clips.frames:
        target = clips.folder / name_of(clips.image_file(t, c))
        if clips.normal_file(t, c) is not None or target.is_file():
            continue
        frame = clips.frame(t, c)
        normals = estimator(frame.image.astype(np.float32) / 255) @ axes.matrix.T
        inside = normals * (frame.mask[..., None].astype(np.float32) / 255)
        write_image(target, np.rint(normals_as_image(inside) * 255).astype(np.uint8))
        written += 1
    return written


def register(folder: Path) -> None:
    """Name the normal maps in all transforms files of a set."""
    for file in (TRANSFORMS, *SPLIT_FILES.values()):
        path = folder / file
        if not path.is_file():
            continue
        content = read_json(path)
        for frame in content["frames"]:
            name = name_of(Path(frame["file_path"]))
            if not frame.get("normal_path") and (folder / name).is_file():
                frame["normal_path"] = name
        write_json(path, content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("network", type=Path)
    parser.add_argument("--head", help="head model of the parameters, for instance flame:PATH; else the recorded one")
    parser.add_argument("--axes-from", type=int, default=8)
    options = parser.parse_args()

    head = None if options.head is None else load_head(options.head)
    clips = ClipSet.open(options.clips, head, options.head)
    if clips.has_normals:
        raise InputError(f"{options.clips} has normal maps already: nothing is to be done")
    estimator = NormalEstimator.open(options.network)
    axes = measure_axes(clips, estimator, options.axes_from)
    print(f"axes {axes}, agreement with the head mesh {axes.agreement:.2f} of 1")
    print(f"{estimate(clips, estimator, axes)} normal maps written")
    register(clips.folder)


if __name__ == "__main__":
    main()
