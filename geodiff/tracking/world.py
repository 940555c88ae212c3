"""Heads in a world of known cameras, and what each camera's own fit says of them.

The landmark fit knows a head by how one camera sees it: turned about the camera's axes, its origin at a pixel, so many
pixels a metre. A head in the world is seen by several cameras; each one's view of it, with derivatives, carries what
that camera saw back to the head's place in the world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from geodiff.tracking.face_model import FLIP, FrameStates, PerFrame, translation
from geodiff.tracking.systems import Normals
from geodiff.types import Camera


@dataclass(frozen=True)
class WorldStates(PerFrame):
    """The unknowns of heads at T times. rotation: (T, 3, 3). origin: (T, 3) metres, where the model's origin lies.
    expr: (T, E), gaze: (T, 4), jaw: (T,) as in `FrameStates`."""

    rotation: np.ndarray
    origin: np.ndarray
    expr: np.ndarray
    gaze: np.ndarray
    jaw: np.ndarray

    @property
    def vector(self) -> np.ndarray:
        """(T, 6 + E + 5), in the order of `FrameStates.vector`: the rotation is moved by the first three entries, and
        the origin is the next three."""
        columns = (np.zeros((len(self), 3)), self.origin, self.expr, self.gaze, self.jaw[:, None])
        return np.concatenate(columns, 1)

    def moved(self, vector: np.ndarray) -> WorldStates:
        """The states with these values; the first three entries turn the rotation (axis-angle, from the left)."""
        return WorldStates(
            rotation=Rotation.from_rotvec(vector[:, :3]).as_matrix() @ self.rotation,
            origin=vector[:, 3:6].copy(),
            expr=vector[:, 6:-5].copy(),
            gaze=vector[:, -5:-1].copy(),
            jaw=vector[:, -1].copy(),
        )


@dataclass(frozen=True)
class Station:
    """A camera of the world: turn (3, 3) and shift (3,) take the world's points, whose unit is `scale` metres, to axes
    x right, y up, z towards the viewer; focal length and principal point (2,) in pixels; stretch: by which rows were
    multiplied so that pixels are square."""

    turn: np.ndarray
    shift: np.ndarray
    focal: float
    middle: np.ndarray
    stretch: float

    @staticmethod
    def of(camera: Camera) -> Station:
        viewmat, K = camera.viewmat.double().numpy(), camera.K.double().numpy()
        stretch = float(K[0, 0] / K[1, 1])
        middle = np.array([K[0, 2], K[1, 2] * stretch])
        return Station(FLIP[:, None] * viewmat[:3, :3], FLIP * viewmat[:3, 3], float(K[0, 0]), middle, stretch)

    @property
    def log_focal(self) -> float:
        return float(np.log(self.focal))

    @property
    def center(self) -> np.ndarray:
        """(3,) where it stands, in the world's unit."""
        return -self.turn.T @ self.shift

    def squared(self, points: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) of the picture as if they were square."""
        return points * [1.0, self.stretch]

    def seen(self, states: WorldStates, log_scale: float) -> FrameStates:
        """How the camera sees heads; scale: metres in the world's unit."""
        place = states.origin @ self.turn.T + np.exp(log_scale) * self.shift
        # Heads behind the camera are seen nowhere: who fits refuses steps that lead there.
        depth = np.maximum(-place[:, 2], 1e-3)
        across = self.focal / depth
        return FrameStates(
            rotation=self.turn @ states.rotation,
            centre=self.middle + across[:, None] * place[:, :2] * [1.0, -1.0],
            log_scale=np.log(across),
            expr=states.expr,
            gaze=states.gaze,
            jaw=states.jaw,
        )

    def placed(self, states: FrameStates) -> tuple[np.ndarray, np.ndarray]:
        """Rotations (T, 3, 3) of heads in the world, and (T, 3) metres from the camera to their origins, along the
        world's axes."""
        return self.turn.T @ states.rotation, translation(self.log_focal, states, self.middle) @ self.turn

    def slopes(self, states: WorldStates, log_scale: float) -> np.ndarray:
        """(T, 6, 7) derivatives of the seen pose (turn, centre, log scale) by the one in the world (turn, origin) and
        by log_scale."""
        shift = np.exp(log_scale) * self.shift
        place = states.origin @ self.turn.T + shift
        depth = np.maximum(-place[:, 2], 1e-3)
        lens = np.zeros((len(states), 3, 3))
        lens[:, 0, 0], lens[:, 1, 1] = self.focal / depth, -self.focal / depth
        lens[:, :2, 2] = (self.focal / depth**2)[:, None] * place[:, :2] * [1.0, -1.0]
        lens[:, 2, 2] = 1 / depth
        slopes = np.zeros((len(states), 6, 7))
        slopes[:, :3, :3] = self.turn
        slopes[:, 3:, 3:6] = lens @ self.turn
        slopes[:, 3:, 6] = lens @ shift
        return slopes


def add_seen(world: Normals, rows: np.ndarray, seen: Normals, slopes: np.ndarray) -> None:
    """Adds what one camera saw at the times `rows` (N,) to the world's normals.

    seen: by the camera's own unknowns, the focal length first among the common ones, which is known and left out.
    slopes: (N, 6, 7). world: its first common unknown is the logarithm of the scale.
    """
    pose, scale = slopes[:, :, :6], slopes[:, :, 6:]
    back = pose.transpose(0, 2, 1)
    frames, cross, gradient = seen.frames.copy(), seen.cross.copy(), seen.gradient.frames.copy()
    frames[:, :6] = back @ frames[:, :6]
    frames[:, :, :6] = frames[:, :, :6] @ pose
    cross[:, :6] = back @ cross[:, :6]
    by_scale = seen.frames[:, :, :6] @ scale
    cross[:, :, :1] = by_scale
    cross[:, :6, :1] = back @ by_scale[:, :6]
    gradient[:, :6] = (back @ gradient[:, :6, None])[..., 0]
    world.frames[rows] += frames
    world.cross[rows] += cross
    world.gradient.frames[rows] += gradient
    world.shared[1:, 1:] += seen.shared[1:, 1:]
    along = scale[:, :, 0]
    world.shared[0, 0] += (along * by_scale[:, :6, 0]).sum()
    mixed = np.einsum("td,tds->s", along, seen.cross[:, :6, 1:])
    world.shared[0, 1:] += mixed
    world.shared[1:, 0] += mixed
    world.gradient.shared[0] += (along * seen.gradient.frames[:, :6]).sum()
    world.gradient.shared[1:] += seen.gradient.shared[1:]


def first_places(
    stations: Sequence[Station],
    views: Sequence[tuple[np.ndarray, FrameStates]],
    times: int,
    scale: float | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Where heads are, by what each camera makes of them alone: rotations (T, 3, 3), origins (T, 3) in metres, and
    metres in the world's unit, where `scale` does not tell them; 1 where no time is seen from two places.

    views: of each camera, the times (N,) that it saw and the heads as it saw them. A camera before which the head
    stands sideways counts little.
    """
    turns: list[list[np.ndarray]] = [[] for _ in range(times)]
    rays: list[list[np.ndarray]] = [[] for _ in range(times)]
    stands: list[list[np.ndarray]] = [[] for _ in range(times)]
    trust: list[list[float]] = [[] for _ in range(times)]
    for station, (rows, states) in zip(stations, views, strict=True):
        rotations, away = station.placed(states)
        for n, t in enumerate(rows):
            turns[t].append(rotations[n])
            rays[t].append(away[n])
            stands[t].append(station.center)
            trust[t].append(max(float(states.rotation[n, 2, 2]), 0.05) ** 2)
    seen = [t for t in range(times) if turns[t]]
    # Of one time, each camera says: the origin is where I stand, times the scale, plus the ray.
    above = below = 0.0
    middles = np.zeros((2, times, 3))
    for t in seen:
        weights = np.array(trust[t])[:, None] / np.sum(trust[t])
        ray, stand = np.stack(rays[t]), np.stack(stands[t])
        middles[:, t] = (weights * ray).sum(0), (weights * stand).sum(0)
        ray, stand = ray - middles[0, t], stand - middles[1, t]
        above, below = above - float((weights * ray * stand).sum()), below + float((weights * stand**2).sum())
    if scale is None:
        scale = above / below if below > 0 and above > 0 else 1.0
    rotation = np.tile(np.eye(3), (times, 1, 1))
    for t in seen:
        rotation[t] = Rotation.from_matrix(np.stack(turns[t])).mean(np.array(trust[t])).as_matrix()
    return rotation, middles[0] + scale * middles[1], scale
