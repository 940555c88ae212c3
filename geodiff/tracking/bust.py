"""Neck, shoulders and chest that meet the matte: static offsets below the head.

The outline of the fitted mesh is compared with the matte along its own normals. One small least-squares problem in the
bust's smoothest modes then asks for a field of offsets: the outline shall meet the matte, the field shall be smooth and
about the same on the left and on the right, and what a picture does not show, the front and the back of the neck,
shall be as much thicker as the sides are. A body that is shifted or turned under its head is a smooth field as well.
Hair that hangs over neck and shoulders is hair's (`geodiff.tracking.hair`): what it carries along stays where it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from geodiff.head.model import HeadModel
from geodiff.tracking.bust_outline import SPACING, BustView, Gaps
from geodiff.tracking.bust_surface import Bust, bust_of
from geodiff.types import Camera, HeadParams

#: Offsets (metres) from which hair begins to own a vertex of the neck, and does.
OWNED = (0.003, 0.006)


@dataclass(frozen=True)
class BustConfig:
    """How the bust is fitted; lengths in metres.

    limit: largest offset. rest, symmetry, thickness: lengths that weigh, weaker where they are longer, the offsets
    themselves, the difference between left and right, and the guess for front and back of the neck. hold: the same for
    what hair carries. share: of the sides' offset that front and back get. believed, collar: distances from the matte
    at which a point of the shoulders' outline, after the first round, and of the neck's counts a quarter. rounds:
    repetitions of measuring and solving, because the outline moves to other vertices. pixels: chin to crown in the
    working image.
    """

    limit: float = 0.09
    rest: float = 10.0
    symmetry: float = 2.0
    thickness: float = 1.0
    hold: float = 0.01
    share: float = 0.7
    believed: float = 0.06
    collar: float = 0.03
    rounds: int = 4
    pixels: int = 160


def fit_bust(
    matte: np.ndarray,
    params: HeadParams,
    camera: Camera,
    head: HeadModel,
    config: BustConfig | None = None,
    image: np.ndarray | None = None,
) -> torch.Tensor:
    """The static offsets (V, 3) of `params` (T = 1), zero where it has none, with those of the bust added; metres.

    matte: (H, W) 0..1. image: (H, W, 3) uint8 RGB of the same picture; its colours tell hair from clothes.
    """
    config = config or BustConfig()
    base = params.static_offset if params.static_offset is not None else torch.zeros_like(head.template)
    bust = bust_of(head)
    if bust is None:
        return base
    view = BustView.around(head, params, camera, matte, image, bust, config.pixels)
    if view is None:
        return base
    owned = np.clip((base.norm(dim=1).double().numpy() - OWNED[0]) / (OWNED[1] - OWNED[0]), 0, 1)
    start, reach = head.vertices(params)[0].double().numpy(), _reach(head, params, bust)
    problem = _Problem(bust, owned[bust.index], config)
    offset = np.zeros((len(bust.index), 3))
    for number in range(config.rounds):
        moved = start.copy()
        moved[bust.index] += np.einsum("fij,fj->fi", reach, offset)
        gaps = view.gaps(moved, bust, owned)
        if gaps is None:
            break
        offset = problem.solve(gaps, reach, offset, robust=number > 0)
    length = np.linalg.norm(offset, axis=1, keepdims=True)
    offset *= np.minimum(1.0, config.limit / np.maximum(length, 1e-9))
    total = base.clone()
    # Matrix products add up in an order that depends on where arrays lie; runs are to be alike.
    total[torch.from_numpy(bust.index)] += torch.as_tensor(offset.round(6), dtype=torch.float32)
    return total


def _reach(head: HeadModel, params: HeadParams, bust: Bust) -> np.ndarray:
    """(F, 3, 3) how an offset at rest moves each free vertex in the world."""
    turns = head.joint_transforms(params)[0, :, :3, :3].double().numpy()
    return np.einsum("fj,jab->fab", head.skinning[torch.from_numpy(bust.index)].double().numpy(), turns)


class _Problem:
    """The part of the least-squares problem that does not change between rounds, in 3 M unknowns: modes by axes."""

    def __init__(self, bust: Bust, owned: np.ndarray, config: BustConfig) -> None:
        self.bust, self.config = bust, config
        modes, count = bust.modes[:-1], bust.modes.shape[1]
        held = modes.T @ ((bust.area * owned / config.hold)[:, None] * modes)
        self.unseen = bust.area * bust.narrow * (1 - bust.sideways) ** 2 * (1 - owned) / config.thickness
        guessed = modes.T @ (self.unseen[:, None] * modes)
        alone = np.diag(bust.energy + 1.0 / config.rest) + held
        self.matrix = np.zeros((3, count, 3, count))
        for axis in range(3):
            form = bust.odd if axis == 0 else bust.even
            guess = guessed if axis != 1 else 0.0
            self.matrix[axis, :, axis] = alone + guess + form / config.symmetry
        self.narrow = np.append(bust.narrow, 0.0)

    def solve(self, gaps: Gaps, reach: np.ndarray, offset: np.ndarray, robust: bool) -> np.ndarray:
        """Offsets (F, 3) that close the gaps of a mesh with offsets (F, 3)."""
        bust, config = self.bust, self.config
        slots = bust.slot[gaps.corners]
        turned = np.concatenate([reach, np.zeros((1, 3, 3))])[slots]
        across = np.einsum("na,nkab,nk->nkb", gaps.across, turned, gaps.weights)
        rows = np.einsum("nkb,nkm->nbm", across, bust.modes[slots]).reshape(len(slots), -1)
        now = (across * np.concatenate([offset, np.zeros((1, 3))])[slots]).sum((1, 2))
        weight = gaps.weight * SPACING
        # A wide gap beside the neck is no collar; shoulders may have to go far, but not for single points.
        doubt = np.maximum((gaps.weights * self.narrow[slots]).sum(1) / config.collar, float(robust) / config.believed)
        weight = weight / (1 + (doubt * gaps.gap) ** 2) ** 2
        size = rows.shape[1]
        matrix = self.matrix.reshape(size, size) + rows.T @ (weight[:, None] * rows)
        right = rows.T @ (weight * (now + gaps.gap))
        guess = (self.unseen * config.share * self._level(offset))[:, None] * bust.radial
        right = right + (bust.modes[:-1].T @ guess).T.ravel()
        found = np.linalg.solve(matrix, right).reshape(3, -1)
        return bust.modes[:-1] @ found.T

    def _level(self, offset: np.ndarray) -> np.ndarray:
        """(F,) metres: by how much the sides stand out at each vertex's height."""
        bust = self.bust
        beside = bust.sideways > 0.85
        out = (offset * bust.radial).sum(1)[beside]
        height = bust.height[beside]
        levels = np.linspace(bust.height.min(), bust.height.max(), 30)
        near = np.exp(-0.5 * ((levels[:, None] - height) / 0.01) ** 2) * bust.area[beside]
        profile = (near * out).sum(1) / np.maximum(near.sum(1), 1e-12)
        return np.interp(bust.height, levels, profile)
