"""Common movements of faces: what expressions do to landmarks, whosever face it is, and a network that reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from geodiff.tracking.face_model import FaceModel, FrameStates
from geodiff.tracking.groups import EYES

#: Landmarks that move with expressions: the skin's. The irises' are moved by the gaze.
SKIN = 468
#: How much landmarks of the eyes count in what is common: a shut lid moves by a few millimetres only.
LIDS, LIDS_COUNT = [number for number in EYES if number < SKIN], 3.0
#: Width of the network's layers, and the share of their values that is left out in training.
WIDTH, DROP = 512, 0.2
#: Radians of the jaw by which its landmarks' movement is found.
JAW = 0.1


def counts() -> np.ndarray:
    """(468, 1) how much landmarks count in what is common."""
    count = np.ones((SKIN, 1))
    count[LIDS] = LIDS_COUNT
    return count


class MovementNet(nn.Module):
    """Inputs (B, N) -> coefficients (B, K) of `Movements` in metres, and the logarithm (B,) of how far off they usually
    are for a face like this, as a multiple of `Movements.errors`."""

    def __init__(self, inputs: int, movements: int, drop: float = 0.0) -> None:
        super().__init__()
        self.concluded = nn.Sequential(
            nn.Dropout(drop / 2),
            *(nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Dropout(drop)),
            *(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(drop)),
        )
        self.coefficients, self.direct = nn.Linear(WIDTH, movements), nn.Linear(inputs, movements)
        self.spread = nn.Linear(WIDTH, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.concluded(x)
        return self.coefficients(hidden) + self.direct(x), self.spread(hidden)[:, 0]


@dataclass(frozen=True)
class Movements:
    """Common movements of landmarks.

    modes: (K, 468, 3) by which a movement (metres, axes of the builtin head, zero at landmarks that the people's head
    does not have) is multiplied and summed to find its K coefficients: orthonormal directions times `counts`. errors:
    (K,) standard deviations of what the network tells of them.
    centre (936,), basis (P, 936): whitened principal components of landmarks in their face's frame, its inputs.
    """

    modes: np.ndarray
    errors: np.ndarray
    centre: np.ndarray
    basis: np.ndarray

    def of(self, movement: np.ndarray) -> np.ndarray:
        """(..., K) of movements (..., 468, 3) in metres."""
        return np.einsum("klc,...lc->...k", self.modes, movement)

    def layout(self, framed: np.ndarray) -> np.ndarray:
        """(P,) of landmarks (478, 2) in the face's frame."""
        return self.basis @ (framed[:SKIN].ravel() - self.centre)

    def mirrored(self, mirror: np.ndarray) -> np.ndarray:
        """(K, K) by which a movement's coefficients are multiplied, (..., K) from the left, to those of its mirror
        image. mirror: (478,) landmark numbers."""
        return self.of((self._moves() * [-1, 1, 1])[:, mirror[:SKIN]])

    def reading(self, face: FaceModel, rest: np.ndarray) -> np.ndarray:
        """(K, E + 1) coefficients of what a head's expression and its jaw's angle do. rest: (3, 3) the rotation from
        the builtin head's rest pose to the head's."""
        known = np.flatnonzero(face.indices < SKIN)
        numbers = face.indices[known]
        moved = np.concatenate([face.expr.transpose(2, 0, 1), jaw_movement(face)])[:, known] @ rest
        # Of landmarks that the head does not have, the others tell by how they usually move together.
        count = counts()[numbers]
        usual, weighed = ((values * count).reshape(len(values), -1) for values in (self._moves()[:, numbers], moved))
        return np.linalg.lstsq(usual.T, weighed.T, rcond=1e-4)[0]

    def _moves(self) -> np.ndarray:
        """(K, 468, 3) the movements of which one coefficient is 1 and the others 0, metres."""
        return self.modes / counts() ** 2


def jaw_movement(face: FaceModel) -> np.ndarray:
    """(1, L, 3) metres that a radian of the jaw moves the landmarks at rest."""
    none = np.zeros((2, 1))
    states = FrameStates(
        rotation=np.tile(np.eye(3), (2, 1, 1)),
        centre=np.zeros((2, 2)),
        log_scale=none[:, 0],
        expr=np.zeros((2, face.num_expr)),
        gaze=np.zeros((2, 4)),
        jaw=np.array([0.0, JAW]),
    )
    points = face.local(np.zeros(face.num_shape), states)[0]
    return np.diff(points, axis=0) / JAW
