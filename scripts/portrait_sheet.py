"""What many photographs become before any network: their proposals from all sides, for the eye.

    python scripts/portrait_sheet.py PORTRAITS --sheet sheet.png [--head builtin] [--size 256]

PORTRAITS is a folder of photographs or a list of them, as of `geodiff batch`. A row each: the crop, the proposal from
ten sides, the mouth close up in the photograph's expression and in a laugh. Some five seconds a photograph.

Exit code 2 where some could not be used.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from geodiff.batch import read_portraits
from geodiff.conditioning import Conditioner, crop_reference, framed_camera, head_frame
from geodiff.errors import UserError
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.media import read_image, write_image
from geodiff.sheets import contact_sheet
from geodiff.tracking.track import track_image
from geodiff.types import Camera, HeadParams, Motion

#: Yaw and elevation of the views, degrees.
VIEWS = ((-90, 0), (-60, 0), (-30, 0), (0, 0), (0, 25), (0, -20), (45, 10), (90, 0), (135, 0), (180, 0))
#: Weights of the laugh by ARKit's names.
LAUGH = {
    "jawOpen": 0.3,
    "mouthSmileLeft": 0.8,
    "mouthSmileRight": 0.8,
    "mouthUpperUpLeft": 0.3,
    "mouthUpperUpRight": 0.3,
}
#: How much a mouth is magnified.
CLOSE = 4.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portraits", type=Path)
    parser.add_argument("--sheet", type=Path, required=True, help="PNG")
    parser.add_argument("--head", default="builtin", help="builtin, flame:PATH or ict:PATH")
    parser.add_argument("--size", type=int, default=256, help="side of a picture in pixels")
    options = parser.parse_args(arguments)
    try:
        head = load_head(options.head)
        rows, failed = [], 0
        for path in read_portraits(options.portraits):
            try:
                rows.append((path.stem, portrait_row(path, head, options.size)))
            except UserError as error:
                failed += 1
                print(f"{path}: {error}", file=sys.stderr)
        if rows:
            write_image(options.sheet, contact_sheet(rows, tile=options.size))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 2 if failed else 0


def portrait_row(path: Path, head: HeadModel, size: int) -> list[np.ndarray]:
    """Pictures (size, size, 3) of one photograph. Raises the errors of `geodiff.errors` for one that cannot be used."""
    image = read_image(path)
    track = track_image(image, head)
    reference = crop_reference(image, track.matte, track.params, track.camera, head, size)
    conditioner = Conditioner(head, reference)
    frame = head_frame(head, reference.params)
    distance = frame.distance(reference.camera)

    def seen(params: HeadParams, yaw: float, elevation: float) -> np.ndarray:
        camera = framed_camera(frame, math.radians(yaw), math.radians(elevation), distance, size)
        return conditioner.render(params, camera).proposal

    motion = Motion({name: np.array([weight], np.float32) for name, weight in LAUGH.items()},
                    np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32))  # fmt: skip
    laugh = head.motion_params(motion, reference.params)
    front = framed_camera(frame, 0.0, 0.0, distance, size)
    mouths = [
        conditioner.render(params, close_up(head, params, front)).proposal for params in (reference.params, laugh)
    ]
    return [reference.image, *(seen(reference.params, yaw, elevation) for yaw, elevation in VIEWS), *mouths]


def close_up(head: HeadModel, params: HeadParams, camera: Camera) -> Camera:
    """A camera that is magnified around the lips."""
    lips = head.vertices(params)[0][head.regions["lips"]].mean(0)
    local = camera.viewmat[:3, :3] @ lips + camera.viewmat[:3, 3]
    x, y = ((camera.K @ local)[:2] / local[2]).tolist()
    half = camera.width / 2
    zoom = torch.tensor([[CLOSE, 0.0, half - CLOSE * x], [0.0, CLOSE, half - CLOSE * y], [0.0, 0.0, 1.0]])
    return Camera(camera.viewmat, zoom @ camera.K, camera.width, camera.height)


if __name__ == "__main__":
    sys.exit(main())
