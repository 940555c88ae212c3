"""How exact and how steady heads before known cameras are tracked, on people of SynthBench whose truth is known.

    python scripts/measure_capture.py --truth ict:ict_facekit.npz --person 1 [capture.dense.skull=0 ...]

Twelve cameras, so many expressions (--steps), and four more that are tracked afterwards on the shape of the others.
Heads stand still, which the tracker does not know. Prints how far landmarks are off, mean mm; how much of that changes
from time to time; and by how much the pose does, degrees and mm.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from geodiff.config import load_config
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.synth.bench.definition import BenchConfig, avatar_motions
from geodiff.synth.bench.people import Person
from geodiff.tracking.capture import CaptureTrack, Cell, Sight, fit_capture, look_at
from geodiff.tracking.settings import TrackConfig
from geodiff.types import Camera, Motion

CAMERAS, NEW = 12, 4


def seen(person: Person, motion: Motion, cameras: list[Camera], config: TrackConfig) -> dict[Cell, Sight]:
    """What the tracker sees in the true pictures of a motion."""
    found = {}
    for t in range(motion.num_frames):
        for c, picture in enumerate(person.truth(motion.frame(t), cameras)):
            sight = look_at(picture.bytes, config)
            if sight is not None:
                found[t, c] = sight
    return found


def tell(name: str, person: Person, head: HeadModel, motion: Motion, track: CaptureTrack, scale: float) -> None:
    """Prints a row. scale: of the tracked world over the true one."""
    truth = person.head
    assert truth.landmarks is not None and head.landmarks is not None
    _, rows, columns = np.intersect1d(truth.landmarks.indices, head.landmarks.indices, return_indices=True)
    goal = truth.landmark_points(person.params(motion)).numpy()[:, rows]
    own = head.landmark_points(track.params).numpy()[:, columns]
    apart = 1e3 * (own / scale - goal)
    turns = Rotation.from_rotvec(track.params.rotation.numpy())
    places = 1e3 * track.params.translation.numpy() / scale
    mean = np.linalg.norm(apart, axis=2).mean()
    changing = np.linalg.norm(apart - apart.mean(0), axis=2).mean()
    shake = np.degrees((turns * turns.mean().inv()).magnitude()).mean()
    moved = np.linalg.norm(places - places.mean(0), axis=1).mean()
    print(f"{name:<16} off by {mean:.2f} mm, changing by {changing:.2f}; pose by {shake:.2f} degrees, {moved:.2f} mm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="key=value of the tracking")
    parser.add_argument("--truth", default="builtin", help="head model of the true people")
    parser.add_argument("--head", default="builtin", help="head model that is tracked")
    parser.add_argument("--person", type=int, default=0)
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(TrackConfig, "track", "preview", args.overrides)
    head, person = load_head(args.head), Person(load_head(args.truth), args.person, BenchConfig())
    first, new = avatar_motions(args.person, args.steps, NEW)
    cameras = person.clip_cameras(CAMERAS)
    sights = [seen(person, motion, cameras, config) for motion in (first, new)]
    began = time.process_time()
    track = fit_capture(sights[0], first.num_frames, cameras, head, config)
    took, scale = time.process_time() - began, float(np.exp(track.state.log_scale))
    tell("expressions", person, head, first, track, scale)
    later = fit_capture(sights[1], NEW, cameras, head, config, known=track)
    tell("new expressions", person, head, new, later, scale)
    print(f"{took:.0f} s of processor time for {len(sights[0])} pictures")


if __name__ == "__main__":
    main()
