"""A hat's bands go on around the head, where the portrait does not show them; hair without bands gets none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from geodiff.conditioning import Conditioner, crop_reference, framed_camera, head_frame
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.types import Camera

SIZE = 128
CLOTH, BAND, SKIN = (0.15, 0.7, 0.2), (0.05, 0.05, 0.1), (0.85, 0.68, 0.58)


def behind(head: HeadModel, colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The back of the proposal of a head with vertex colours (V, 3) that is photographed from the front: colours
    (S, S, 3), and height (S, S) of what is seen there, NaN where nothing of the scalp is."""
    camera = Camera(
        torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])),
        torch.tensor([[760.0, 0, 180], [0, 760.0, 180], [0, 0, 1]]),
        360,
        360,
    )
    params = head.zeros().replace(translation=torch.tensor([[0.0, 0.0, -0.8]]))
    seen = mesh.rasterize(head.vertices(params)[0], head.faces, camera)
    picture = mesh.interpolate(seen, head.faces, colors.astype(np.float32))
    image = (np.clip(np.where(seen.mask[..., None], picture, 1.0), 0, 1) * 255).astype(np.uint8)
    reference = crop_reference(image, seen.mask.astype(np.float32), params, camera, head, SIZE)
    view = framed_camera(head_frame(head, reference.params), math.pi, 0.0, 0.8, SIZE)
    shown = mesh.rasterize(head.vertices(reference.params)[0], head.faces, view)
    height = mesh.interpolate(shown, head.faces, head.template.numpy())[..., 1]
    scalp = head.regions["scalp"].numpy()[head.faces.numpy()[np.maximum(shown.face, 0)]].all(-1) & shown.mask
    proposal = Conditioner(head, reference).render(reference.params, view).proposal
    return proposal, np.where(scalp, height, np.nan)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("builtin")


def hat(head: HeadModel, band: tuple[float, float]) -> np.ndarray:
    """(V, 3) colours: a green hat over the scalp with a dark band between two heights in metres."""
    height, scalp = head.template[:, 1].numpy(), head.regions["scalp"].numpy()
    colors = np.tile(np.array([SKIN]), (head.num_vertices, 1))
    colors[scalp] = CLOTH
    colors[scalp & (height > band[0]) & (height < band[1])] = BAND
    return colors


def test_a_hats_bands_go_on_behind(head: HeadModel) -> None:
    """A dark crown over green cloth: from in front only its border above the forehead is seen."""
    proposal, height = behind(head, hat(head, (0.098, 0.2)))
    green = proposal[..., 1]
    assert np.median(green[height > 0.113]) < 0.3
    cloth = green[(height > 0.03) & (height < 0.07)]
    assert np.median(cloth) > 0.5
    # No streaks of one in the other.
    assert cloth.std() < 0.12


def test_hair_of_one_colour_gets_no_bands(head: HeadModel) -> None:
    proposal, height = behind(head, hat(head, (0.0, 0.0)))
    assert proposal[height > 0][..., 1].std() < 0.05
