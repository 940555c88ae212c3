"""What the second look at faces learns from: synthetic people, and what the landmark detector says of their pictures.

People's seeds begin at 2^96: above those of training sets, below those of SynthBench, far from those of
scripts/tracking_accuracy.py and scripts/measure_detector.py. Each person is kept as it comes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from geodiff.files import read_npz, write_npz
from geodiff.geometry import project
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.synth.light import random_lighting
from geodiff.synth.portraits import PortraitConfig, Sitter, SyntheticPortrait
from geodiff.tracking.accuracy import PosedHead
from geodiff.tracking.aligned import Aligned
from geodiff.tracking.calibration import SKIN, Calibration, load_calibration
from geodiff.tracking.groups import landmark_weights
from geodiff.tracking.landmarks import Face, closest_look
from geodiff.tracking.perception import Region
from geodiff.training.faces import KEPT_PIXELS, KEPT_REACH, face_file, write_shown

FIRST_SEED = 2**96
PORTRAITS = PortraitConfig(pitch=11, roll=9, texture=384, smiles=0.08)
#: Sides of the photographs in pixels, one by person.
SIZES = (256, 256, 256, 384)
#: Photographs of a person, each in its own expression and light.
PHOTOS = 5
#: Principal components of faces.
FACES = 20


def photograph_person(head: HeadModel, number: int, calibration: Calibration) -> dict[str, np.ndarray]:
    """One person at random angles: crops (N, 136, 136, 4) with the mask, what the detector says (points, z, score),
    where the landmarks are in the picture (true) and in the camera (places), the head's rotation, the focal length, the
    picture's side and the expression (N, E)."""
    rng = np.random.default_rng([FIRST_SEED + number, 13])
    size = int(rng.choice(SIZES))
    sitter = Sitter(head, FIRST_SEED + number, replace(PORTRAITS, size=size))
    rows = []
    for k in range(PHOTOS):
        if k:
            sitter.subject.light = random_lighting(rng)
            sitter.change_expression(rng)
        sitter.change_lens(rng)
        yaw = draw_yaw(rng)
        photo = sitter.photograph(yaw)
        true, places, rotation = truth(head, photo)
        face = found(photo.image, true, rotation, rng)
        mask = (255 * photo.mask + 0.5).astype(np.uint8)[..., None]
        frame = Aligned.of(face.points, face.z, calibration.mean)
        crop = frame.crop(np.concatenate([photo.image, mask], 2), KEPT_REACH, KEPT_PIXELS)
        rows.append({
            "crop": crop, "points": face.points, "z": face.z, "score": np.float32(face.score),
            "true": true.astype(np.float32), "places": places.astype(np.float32),
            "rotation": rotation.astype(np.float32), "focal": photo.camera.K[0, 0].numpy(), "yaw": np.float32(yaw),
            "person": np.int32(number), "size": np.int32(size), "expression": photo.params.expr[0].numpy(),
        })  # fmt: skip
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def draw_yaw(rng: np.random.Generator) -> float:
    """Degrees: any angle, more often those between half and full profiles, where detectors go wrong."""
    kind = rng.random()
    if kind < 0.4:
        return float(rng.choice([-1, 1]) * rng.uniform(30, 72))
    return float(rng.uniform(-92, 92) if kind < 0.75 else rng.uniform(-50, 50))


def truth(head: HeadModel, photo: SyntheticPortrait) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Landmarks (478, 2) in the picture and (478, 3) in the camera, nan where the head has none, and its rotation."""
    posed = PosedHead(head, photo.params, photo.camera)
    world = torch.from_numpy(posed.landmarks()).float()
    view = photo.camera.viewmat
    places = world @ view[:3, :3].T + view[:3, 3]
    return project(world, photo.camera)[0].double().numpy(), places.numpy(), posed.rotation


def found(image: np.ndarray, true: np.ndarray, rotation: np.ndarray, rng: np.random.Generator) -> Face:
    """What the detector says where its box is about as wrong as boxes are."""
    known = true[np.isfinite(true).all(1)]
    up, side = rotation @ np.array([0, 1.0, 0]), 1.5 * float(np.ptp(known, axis=0).max())
    region = Region(
        (known.min(0) + known.max(0)) / 2 + rng.normal(0, 0.05, 2) * side,
        side * float(np.exp(rng.normal(0, 0.1))),
        float(np.arctan2(up[0], -up[1]) + rng.normal(0, 0.15)),
    )
    return closest_look(image, region)


@dataclass(frozen=True)
class Lessons:
    """What is learned from, in the faces' own frames.

    crops: (N, 136, 136, 4) uint8, with the mask. base, true: (N, 478, 2) calibrated and true landmarks. said: (N, 478,
    3) the detector's. sureness: (N,). facing, pose: (N, 3, 3) by which the mean face is turned onto the latter, and the
    head in the builtin head's terms, seen along the ray through the face. turns: (N, 3, 956) by how much (radians about
    the camera's axes) errors of landmarks turn the fitted head. yaw, person: (N,). weights: (478,) of the landmarks, 0
    where the head has none; sum 1.
    """

    crops: torch.Tensor
    base: torch.Tensor
    true: torch.Tensor
    said: torch.Tensor
    sureness: torch.Tensor
    facing: torch.Tensor
    pose: torch.Tensor
    turns: torch.Tensor
    yaw: torch.Tensor
    person: torch.Tensor
    weights: torch.Tensor


def lessons(samples: dict[str, np.ndarray], calibration: Calibration, rest: np.ndarray) -> Lessons:
    """Samples in the faces' frames. rest: (3, 3) from the builtin head's rest pose to the people's."""
    known = np.isfinite(samples["true"][0]).all(1)
    weights = landmark_weights() * known
    weights /= weights.sum()
    faces = face_modes(samples, weights)
    told = ("points", "z", "score", "true", "places", "rotation", "focal", "size")
    columns: list[list[np.ndarray]] = [[] for _ in range(6)]
    for points, z, score, target, places, rotation, focal, size in zip(*(samples[n] for n in told), strict=True):
        frame = Aligned.of(points, z, calibration.mean)
        base = frame.inside(calibration(points, z, float(score)))
        true = np.where(known[:, None], frame.inside(np.nan_to_num(target)), base)
        said = np.column_stack([frame.inside(points.astype(np.float64)), (z - z[:SKIN].mean()) / frame.size])
        aside = (frame.outside(np.zeros((1, 2)))[0] - size / 2) / focal
        turn = np.eye(3)
        turn[:2, :2] = frame.turn
        pose = turn @ ray_turn(aside).T @ rotation @ rest
        turns = fitted_turns(np.nan_to_num(places), rotation, float(focal), frame, faces, weights)
        for column, value in zip(columns, (base, true, said, frame.facing, pose, turns), strict=True):
            column.append(value.astype(np.float32))
    base, true, said, facing, pose, turns = (torch.from_numpy(np.stack(column)) for column in columns)
    inside = np.clip(samples["score"], 1e-4, 1 - 1e-4)
    sureness = torch.from_numpy((np.log(inside / (1 - inside)) / 5).astype(np.float32))
    yaw, person = (torch.from_numpy(samples[name]) for name in ("yaw", "person"))
    crops = torch.from_numpy(samples["crop"])
    share = torch.from_numpy(weights.astype(np.float32))
    return Lessons(crops, base, true, said, sureness, facing, pose, turns, yaw.abs(), person, share)


def ray_turn(aside: np.ndarray) -> np.ndarray:
    """(3, 3) the smallest rotation that takes the optical axis to the ray through (x, y, 1); aside: (2,) x, y."""
    length = float(np.linalg.norm(aside))
    axis = np.array([-aside[1], aside[0], 0.0]) / max(length, 1e-12)
    return Rotation.from_rotvec(np.arctan(length) * axis).as_matrix()


def face_modes(samples: dict[str, np.ndarray], weights: np.ndarray) -> np.ndarray:
    """(FACES, 478, 3) one standard deviation each of how the true faces differ, metres, at rest."""
    places = np.nan_to_num(samples["places"][:2000])
    rest = np.einsum("nji,nlj->nli", samples["rotation"][:2000], places - (weights @ places)[:, None])
    root = np.sqrt(np.repeat(weights, 3)) + 1e-9
    _, spread, modes = np.linalg.svd((rest - rest.mean(0)).reshape(len(rest), -1) * root, full_matrices=False)
    scaled = modes[:FACES] * spread[:FACES, None] / np.sqrt(len(rest)) * (root > 1e-6) / root
    return scaled.reshape(-1, len(weights), 3)


def fitted_turns(
    places: np.ndarray, rotation: np.ndarray, focal: float, frame: Aligned, faces: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """(3, 956) the rotation that a least-squares fit of pose and identity makes of errors of the landmarks."""
    apart = places - weights @ places
    turned = np.cross(np.eye(3)[:, None], apart[None])
    moved = np.broadcast_to(0.05 * np.eye(3)[:, None], turned.shape)
    moves = np.concatenate([turned, moved, np.einsum("ij,mlj->mli", rotation, faces)])
    depth = np.where(places[:, 2:] == 0, 1.0, places[:, 2:])
    flow = focal / depth * (moves[..., :2] - places[:, :2] / depth * moves[..., 2:])
    rows = (flow @ frame.turn.T / frame.size).reshape(len(moves), -1)
    weighed = rows * np.repeat(weights, 2)
    prior = np.where(np.arange(len(moves)) < 6, 1e-9, 4e-6)
    return np.linalg.solve(weighed @ rows.T + np.diag(prior), weighed)[:3]


def collect(head: str, people: int, folder: Path, jobs: int) -> dict[str, np.ndarray]:
    """Samples of all people, of those that are missing made first, in `jobs` processes. head: as `load_head` takes
    it."""
    files = [face_file(folder, number) for number in range(people)]
    missing = [number for number in range(people) if not files[number].is_file()]
    with Pool(jobs, _one_thread) as pool:
        for done, _ in enumerate(pool.imap(partial(_keep, head, folder), missing), 1):
            print(f"\r{done} of {len(missing)} people", end="", flush=True)
    write_shown(folder, _head(head))
    parts = [read_npz(path) for path in files]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@lru_cache(maxsize=1)
def _head(spec: str) -> HeadModel:
    """One head a process: what is prepared for it once belongs to the object."""
    return load_head(spec)


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _keep(head: str, folder: Path, number: int) -> None:
    calibration = load_calibration()
    assert calibration is not None
    write_npz(face_file(folder, number), **photograph_person(_head(head), number, calibration))
