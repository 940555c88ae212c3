"""A picture of what was compared: one column a frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geodiff.metrics.picture import Picture
from geodiff.sheets import as_uint8, contact_sheet, fit_tile, normals_as_image
from geodiff.synth.bench.tasks import Compared

ROWS = (
    "reference", "driving", "truth", "proposal", "result", "true normals", "mesh normals", "normals of the result",
)  # fmt: skip
GAP = 4


def tiles(one: Compared, tile: int) -> np.ndarray:
    """The pictures of one frame, in the order of ROWS: (8, tile, tile, 3) uint8."""
    pictures = [one.reference, one.driving, one.truth.image, one.proposal.image, one.result.image]
    normals = [_normals(picture, tile) for picture in (one.truth, one.proposal, one.result)]
    return np.stack([fit_tile(as_uint8(picture), tile) for picture in (*pictures, *normals)])


def sheet(columns: Sequence[np.ndarray], name: str) -> np.ndarray:
    """Columns of `tiles` -> (H, W, 3) uint8. name: of the method."""
    titles = [row.replace("the result", name).replace("result", name) for row in ROWS]
    rows = [(title, [column[n] for column in columns]) for n, title in enumerate(titles)]
    return contact_sheet(rows, tile=columns[0].shape[1], gap=GAP)


def _normals(picture: Picture, tile: int) -> np.ndarray:
    if picture.normals is None:
        return np.full((tile, tile, 3), 255, np.uint8)
    return normals_as_image(picture.normals)
