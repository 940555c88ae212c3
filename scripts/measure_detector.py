"""Measure the errors of the landmark detector on synthetic heads whose landmarks are known.

    python scripts/measure_detector.py ict:PATH/ict_facekit.npz [--people 160] [--out geodiff/data/detector.npz]

The people differ from those of scripts/tracking_accuracy.py (their seeds begin at 2000). A ridge regression for each
band of apparent yaw predicts the errors from the principal components of what the detector says; the regressions of
all bands are stored through their common principal directions.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from geodiff.files import write_npz
from geodiff.geometry import project
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.synth.portraits import PortraitConfig, Sitter
from geodiff.tracking.accuracy import PosedHead
from geodiff.tracking.calibration import ASSET, BAND_WIDTH, BANDS, SKIN, Calibration, Seen
from geodiff.tracking.landmarks import measure_face
from geodiff.tracking.perception import Region

COMPONENTS, RANK, RIDGE = 24, 48, 200.0
#: Faces that seem turned less than this are learned from in their mirror image as well.
FRONTAL = 25.0


@dataclass(frozen=True)
class Sample:
    """What the detector says (points (478, 2), z (478,), score) and where the landmarks are, (478, 2)."""

    points: np.ndarray
    z: np.ndarray
    score: float
    true: np.ndarray


def photograph(head: HeadModel, seed: int) -> list[Sample]:
    """One person at twelve random angles, more of them from the front."""
    rng = np.random.default_rng(seed)
    sitter = Sitter(head, seed, PortraitConfig(size=384, pitch=9, roll=9))
    samples = []
    for yaw in np.clip(np.concatenate([rng.uniform(-95, 95, 8), rng.uniform(-45, 45, 4)]), -92, 92):
        photo = sitter.photograph(float(yaw))
        posed = PosedHead(head, photo.params, photo.camera)
        pixels = project(torch.from_numpy(posed.landmarks()).float(), photo.camera)[0].double().numpy()
        up = posed.rotation @ np.array([0, 1.0, 0])
        side = 1.5 * float(np.ptp(pixels, axis=0).max())
        # A detector's box is never quite where it should be.
        region = Region(
            (pixels.min(0) + pixels.max(0)) / 2 + rng.normal(0, 0.05, 2) * side,
            side * float(np.exp(rng.normal(0, 0.1))),
            float(np.arctan2(up[0], -up[1]) + rng.normal(0, 0.15)),
        )
        face = measure_face(photo.image, region)
        samples.append(Sample(face.points, face.z, face.score, pixels))
    return samples


def mean_face(head: HeadModel) -> tuple[np.ndarray, np.ndarray]:
    """(478, 3) landmarks of the mean head, unit size, y down, nearer is smaller; and (478,) the mirrored numbers."""
    from scipy.optimize import linear_sum_assignment

    assert head.landmarks is not None
    points = np.zeros((478, 3))
    points[head.landmarks.indices.numpy()] = head.landmarks.points(head.template, head.faces).double().numpy()
    apart = np.linalg.norm((points * [-1, 1, 1])[:, None] - points[None], axis=2)
    mirror = linear_sum_assignment(apart)[1]
    points = (points - points[:SKIN].mean(0)) * [1, -1, -1]
    return points / np.sqrt((points[:SKIN] ** 2).sum(1).mean()), mirror


def calibrate(samples: list[Sample], head: HeadModel) -> Calibration:
    """The regressions. head: whose mean face tells apparent yaw."""
    mean, mirror = mean_face(head)
    nothing = np.zeros(0)
    blank = Calibration(mean, mirror, nothing, nothing, nothing, nothing)
    shapes, errors, yaws, sureness = [], [], [], []
    for sample in samples:
        seen = Seen.of(sample.points, sample.z, sample.score, blank)
        error = seen.in_frame(sample.true, mirror) - seen.shape[:, :2]
        for flip in (False, True) if seen.yaw < FRONTAL else (False,):
            shapes.append(((seen.shape * [-1, 1, 1])[mirror] if flip else seen.shape).ravel())
            errors.append(((error * [-1, 1])[mirror] if flip else error).ravel())
            yaws.append(-seen.yaw if flip else seen.yaw)
            sureness.append(seen.sureness)
    said, missed, yaw, sure = (np.array(values) for values in (shapes, errors, yaws, sureness))
    centre = said.mean(0)
    _, spread, directions = np.linalg.svd(said - centre, full_matrices=False)
    basis = directions[:COMPONENTS] / (spread[:COMPONENTS, None] / np.sqrt(len(said)))
    inputs = np.column_stack([np.ones(len(said)), sure, sure**2, (said - centre) @ basis.T])
    ridge = RIDGE * np.eye(inputs.shape[1])
    ridge[0, 0] = 1e-6
    maps = []
    for band in BANDS:
        weighted = inputs * np.exp(-0.5 * ((yaw - band) / BAND_WIDTH) ** 2)[:, None]
        maps.append(np.linalg.solve(weighted.T @ inputs + ridge, weighted.T @ missed))
    stacked = np.concatenate(maps)
    left, strength, modes = np.linalg.svd(stacked, full_matrices=False)
    combine = (left * strength)[:, :RANK].reshape(len(BANDS), -1, RANK)
    return Calibration(mean, mirror, centre, basis, combine, modes[:RANK])


def save(calibration: Calibration, path: Path) -> None:
    """Half precision: the corrections are then exact to a hundredth of a pixel."""
    arrays = {
        "mean": calibration.mean.astype(np.float32), "mirror": calibration.mirror.astype(np.int16),
        "centre": calibration.centre.astype(np.float32), "basis": calibration.basis.astype(np.float16),
        "combine": calibration.combine.astype(np.float32), "modes": calibration.modes.astype(np.float16),
    }  # fmt: skip
    write_npz(path, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", help="head model of the people: ict:PATH, builtin, flame:PATH")
    parser.add_argument("--people", type=int, default=160)
    parser.add_argument("--first", type=int, default=2000, help="seed of the first person")
    parser.add_argument("--out", type=Path, default=ASSET)
    options = parser.parse_args()
    torch.set_num_threads(1)
    head = load_head(options.truth)
    samples = []
    for seed in range(options.first, options.first + options.people):
        samples += photograph(head, seed)
        print(f"\r{seed - options.first + 1} of {options.people} people", end="", flush=True)
    save(calibrate(samples, head), options.out)
    print(f"\n{len(samples)} pictures, {options.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
