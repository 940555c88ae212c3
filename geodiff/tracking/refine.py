"""A second look at a face: a small network of our own corrects the landmark detector's systematic errors.

The detector sees little of how far a face nods, and loses profiles. The network sees the face's crop in its own frame
(`Aligned`) and what the detector says, and answers with coefficients of the landmarks' most common errors that
`calibration` leaves, with how the head is turned, where it errs otherwise than the landmarks, and with how the
expression moves the face, which it tells from the identity by what faces usually do. It was trained on synthetic people
alone (`scripts/train_refiner.py`), as Wood et al. 2021 ("Fake it till you make it") do for whole
landmark networks. A face and its mirror image are corrected alike: detector and network look at both, and the mean of
their answers is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation
from torch import nn

from geodiff.assets import find_weights
from geodiff.errors import AssetError
from geodiff.media import LUMA
from geodiff.tracking.aligned import Aligned
from geodiff.tracking.calibration import SKIN, Calibration, load_calibration
from geodiff.tracking.landmarks import OUTER_EYE_CORNERS, Face, measure_face
from geodiff.tracking.movements import MovementNet, Movements
from geodiff.tracking.teeth import Bite, seen_bite

WEIGHTS, FILE = "bundled:refiner", "refiner.safetensors"
#: How names of tensors begin that tell of movements.
MOVEMENT = "movement."
#: The crop that the network sees: its side in pixels, and how far it reaches from the middle in units of the frame.
PIXELS, REACH = 96, 2.0
#: Channels and residual blocks after each halving of the crop, width of what is concluded from it, of the last layer.
CHANNELS, BLOCKS, SEEN, JOINED = (24, 64, 128, 192, 192), (0, 1, 2, 1, 0), 256, 256
#: Width of what is concluded about the head's rotation, and answers about it: radians by which the head is turned
#: further than `Aligned.facing` about the frame's axes, and the logarithms of their mean errors.
ROTATION_WIDTH, TURNS = 192, 6
#: Logarithms of the least and the largest error (half a degree, a radian) that the network may claim.
SPREAD = (math.log(math.radians(0.5)), 0.0)
#: From the axes of heads (y up, z forward) to those of pictures (y down, z away).
UPRIGHT = np.diag([1.0, -1.0, -1.0])
#: Logarithms of the least and the largest error of movements that the network may claim, as multiples of the usual.
MOVING_SPREAD = (math.log(0.4), math.log(5.0))
#: Pictures and their mirror images.
MIRROR = np.diag([-1.0, 1.0, 1.0])
#: How sure the detector must be of the face in the mirrored picture, as a share of how sure it is of the face.
ALIKE = 0.7


#: Makes a 3x3 convolution: inputs, outputs, stride.
Layer = Callable[[int, int, int], nn.Module]


def convolution(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, stride, 1)


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int, layer: Layer) -> None:
        super().__init__()
        self.first, self.second = layer(width, width, 1), layer(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class RefinerNet(nn.Module):
    """Crops (B, 1, 96, 96) of mean 0 and deviation 1 and inputs (B, K) -> (B, R) coefficients of the landmarks'
    errors in standard deviations, (B, TURNS) of the head's rotation, and what these are concluded from.

    layer: how its convolutions are made; drop: dropout in training (`scripts/train_refiner.py`).
    """

    def __init__(self, inputs: int, modes: int, layer: Layer = convolution, drop: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for width, blocks in zip(CHANNELS, BLOCKS, strict=True):
            layers += [layer(before, width, 2), nn.ReLU(), *(Residual(width, layer) for _ in range(blocks))]
            before = width
        self.trunk, self.drop = nn.Sequential(*layers), nn.Dropout(drop)
        side = PIXELS >> len(CHANNELS)
        self.seen = nn.Linear(before * side * side, SEEN)
        self.joined = nn.Linear(SEEN + inputs, JOINED)
        self.answer = nn.Linear(JOINED, modes)
        self.known = JOINED + SEEN + inputs
        self.rotation = nn.Sequential(
            nn.Linear(self.known, ROTATION_WIDTH), nn.ReLU(), nn.Linear(ROTATION_WIDTH, TURNS)
        )

    def forward(self, crops: torch.Tensor, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        both = torch.cat([torch.relu(self.seen(self.drop(self.trunk(crops).flatten(1)))), inputs], 1)
        joined = self.drop(torch.relu(self.joined(both)))
        known = torch.cat([joined, both], 1)
        return self.answer(joined), self.rotation(known), known


@dataclass(frozen=True)
class Look:
    """What is known of a face.

    points: (478, 2) float64 where its landmarks most likely are. rotation: (3, 3) from the builtin head's rest pose to
    x right, y down, z away, as seen along the ray through `middle` (2,), and spread: radians by which that usually errs
    for a face like this. movement: (K,) coefficients of `Movements`, and doubt: how far off these usually are, as a
    multiple of `Movements.errors`. bite: what is seen of the teeth. None where nothing but the landmarks tells.
    """

    points: np.ndarray
    rotation: np.ndarray | None = None
    middle: np.ndarray | None = None
    spread: float = float("inf")
    movement: np.ndarray | None = None
    doubt: float = float("inf")
    bite: Bite | None = None

    @property
    def told(self) -> np.ndarray:
        """(N,) float32 all that is known beside the landmarks, in a row; N = 0 where nothing is."""
        if self.rotation is None or self.middle is None or self.movement is None or self.bite is None:
            return np.zeros(0, np.float32)
        turn = Rotation.from_matrix(self.rotation).as_rotvec()
        bite = (self.bite.opening, self.bite.sure)
        return np.array([*turn, *self.middle, self.spread, *bite, *self.movement, self.doubt], np.float32)

    @staticmethod
    def of(points: np.ndarray, told: np.ndarray) -> Look:
        """A look from its landmarks and what `told` holds."""
        if not len(told):
            return Look(points)
        row = told.astype(np.float64)
        turn = Rotation.from_rotvec(row[:3]).as_matrix()
        bite = Bite(float(row[6]), float(row[7]))
        return Look(points, turn, row[3:5], float(row[5]), row[8:-1], float(row[-1]), bite)


@dataclass(frozen=True)
class Refiner:
    """The networks and what their inputs and answers mean.

    centre: (1434,) and basis (K, 1434): whitened principal components of what the detector says, in the face's frame.
    modes: (R, 956) one standard deviation of each common error of the calibrated landmarks, in the frame.
    """

    net: RefinerNet
    calibration: Calibration
    centre: np.ndarray
    basis: np.ndarray
    modes: np.ndarray
    movement_net: MovementNet
    movements: Movements

    def __call__(self, image: np.ndarray, face: Face) -> Look:
        """What the network makes of a face; image: (H, W, 3) uint8 RGB."""
        width, mirrored = image.shape[1], np.ascontiguousarray(image[:, ::-1])
        other = self.mirror_image(face, width)
        again = measure_face(mirrored, other.region)
        # Where the detector fails in the mirror, the network is told what it says of the picture.
        other = again if again.score > ALIKE * face.score else other
        views = ((image, face), (mirrored, other))
        frames = [Aligned.of(one.points, one.z, self.calibration.mean) for _, one in views]
        crops = [normalised(f.crop(seen, REACH, PIXELS)) for f, (seen, _) in zip(frames, views, strict=True)]
        inputs = [self.inputs(f, one) for f, (_, one) in zip(frames, views, strict=True)]
        with torch.inference_mode():
            told = torch.from_numpy(np.stack(crops)[:, None]), torch.from_numpy(np.stack(inputs)).float()
            *found, known = self.net(*told)
        answers, turns = (values.double().numpy() for values in found)
        moved = (answers @ self.modes).reshape(2, -1, 2)
        bases = [
            f.inside(self.calibration(one.points, one.z, one.score)) for f, (_, one) in zip(frames, views, strict=True)
        ]
        own, reflected = (f.outside(base + move) for f, base, move in zip(frames, bases, moved, strict=True))
        rotations = [turned_head(frame, turn[:3]) for frame, turn in zip(frames, turns, strict=True)]
        mean = Rotation.from_matrix(np.stack([rotations[0], MIRROR @ rotations[1] @ MIRROR])).mean().as_matrix()
        middle = frames[0].outside(np.zeros((1, 2)))[0]
        spread = float(np.exp(np.clip(turns[:, 3:], *SPREAD)).mean())
        points = (own + self.mirror_points(reflected, width)) / 2
        bite = seen_bite(image, face.points, float(np.linalg.norm(np.diff(face.points[[*OUTER_EYE_CORNERS]], axis=0))))
        return Look(points, mean, middle, spread, *self._movement(known, frames, points, width), bite)

    def _movement(
        self, known: torch.Tensor, frames: list[Aligned], points: np.ndarray, width: int
    ) -> tuple[np.ndarray, float]:
        """How the expression moves the face, (K,), and how far off that usually is. known: (2, N) of the picture and
        its mirror image, `frames` of both. points: (478, 2) in the picture."""
        views = (points, self.mirror_points(points, width))
        places = [self.movements.layout(frame.inside(view)) for frame, view in zip(frames, views, strict=True)]
        with torch.inference_mode():
            own, spread = self.movement_net(torch.cat([known, torch.from_numpy(np.stack(places)).float()], 1))
        told = own.double().numpy()
        mean = (told[0] + told[1] @ self._unmirrored) / 2
        return mean, float(spread.clamp(*MOVING_SPREAD).exp().mean())

    @cached_property
    def _unmirrored(self) -> np.ndarray:
        """(K, K) by which movements of the mirror image are multiplied; the same for all faces."""
        return self.movements.mirrored(self.calibration.mirror)

    def movement_tensors(self) -> dict[str, torch.Tensor]:
        """What tells of movements, as it is stored."""
        tables = {name: torch.from_numpy(value).float() for name, value in vars(self.movements).items()}
        return self.movement_net.state_dict() | tables

    def mirror_points(self, points: np.ndarray, width: int) -> np.ndarray:
        """(478, 2) landmarks of the mirrored picture, `width` pixels wide."""
        return (points * [-1, 1] + [width, 0])[self.calibration.mirror]

    def mirror_image(self, face: Face, width: int) -> Face:
        """The face in the mirrored picture, `width` pixels wide."""
        x0, y0, x1, y1 = face.box
        points = self.mirror_points(face.points, width).astype(np.float32)
        box = np.array([width - x1, y0, width - x0, y1], np.float32)
        return Face(points, face.z[self.calibration.mirror], box, face.score)

    def inputs(self, frame: Aligned, face: Face) -> np.ndarray:
        """(K + 2,) what the network is told of a face beside the crop."""
        depth = face.z[:, None] - face.z[:SKIN].mean()
        shape = np.column_stack([frame.inside(face.points.astype(np.float64)), depth / frame.size])
        inside = float(np.clip(face.score, 1e-4, 1 - 1e-4))
        sureness = np.log(inside / (1 - inside)) / 5
        return np.concatenate([self.basis @ (shape.ravel() - self.centre), [sureness, sureness**2]])


def turned_head(frame: Aligned, further: np.ndarray) -> np.ndarray:
    """(3, 3) from the head's rest pose to the picture's axes, of a head that is turned `further` (3,) in its frame."""
    upright = np.eye(3)
    upright[:2, :2] = frame.turn
    return upright.T @ Rotation.from_rotvec(further).as_matrix() @ frame.facing @ UPRIGHT


def normalised(crop: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) float32 grey of mean 0 and deviation about 1, as the network sees it."""
    grey = crop.astype(np.float32) @ LUMA / 255
    return (grey - grey.mean()) / (grey.std() + np.float32(0.02))


@lru_cache(maxsize=1)
def load_refiner() -> Refiner:
    """The bundled network.

    Raises AssetError where it is missing, damaged, or not what its record says.
    """
    try:
        path = find_weights(WEIGHTS) / FILE
        return read_refiner(path)
    except AssetError as error:
        raise AssetError(f"{error}; or track without the second look at the face (refine=false)") from error


def read_refiner(path: Path) -> Refiner:
    """The network in a safetensors file. Raises AssetError where it is not one."""
    calibration = load_calibration()
    if calibration is None:
        raise AssetError(
            "the second look at a face needs the detector's calibration, and it is missing: install geodiff again"
        )
    try:
        tensors = {name: value.float() for name, value in load_file(path).items()}
        arrays = {name: tensors.pop(name).double().numpy() for name in ("centre", "basis", "modes")}
        net = RefinerNet(len(arrays["basis"]) + 2, len(arrays["modes"]))
        part = {name: tensors.pop(name) for name in [*tensors] if name.startswith(MOVEMENT)}
        moving = {name.removeprefix(MOVEMENT): value for name, value in part.items()}
        tables = {name: moving.pop(name).double().numpy() for name in ("modes", "errors", "centre", "basis")}
        movement_net = MovementNet(net.known + len(tables["basis"]), len(tables["modes"]))
        net.load_state_dict(tensors)
        movement_net.load_state_dict(moving)
    except (KeyError, OSError, RuntimeError, SafetensorError) as error:
        raise AssetError(
            f"{path.name} must hold the network of the second look, and it does not: install geodiff again"
        ) from error
    return Refiner(net.eval(), calibration, **arrays, movement_net=movement_net.eval(), movements=Movements(**tables))


def most_likely(image: np.ndarray, face: Face, refine: bool = True) -> Look:
    """Where a face's landmarks most likely are, how the head is turned and how its expression moves it. image: (H, W,
    3) uint8 RGB. refine: with the second look; else the detector's calibration alone, which tells landmarks only."""
    return load_refiner()(image, face) if refine else Look(face.corrected)
