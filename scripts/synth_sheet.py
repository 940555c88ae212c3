"""A sheet of synthetic people to look at, and how fast they are made.

    python scripts/synth_sheet.py --truth ict:PATH/ict_facekit.npz --out docs/synth_sheet.jpg
    python scripts/synth_sheet.py --truth ict:PATH/ict_facekit.npz --speed 12

A row of the sheet is one person: the tracked portrait; the person in four views, each in another expression; the
normals of the first; the proposal and the true frame of a turned view; a driving crop. Speed is measured in processor
time, on one thread.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch

from geodiff.conditioning import framed_camera, head_frame
from geodiff.files import atomic_write
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.synth.motion import random_expressions
from geodiff.synth.samples import SampleConfig, Session, make_person
from geodiff.synth.shards import FRAME_KEYS, encode
from geodiff.synth.subject import Subject

VIEWS = (0, 35, -80, 150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", default="builtin", help="head that people are drawn from")
    parser.add_argument("--head", default="builtin", help="head that conditions")
    parser.add_argument("--out", type=Path, help="the sheet, a JPEG")
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--first", type=int, default=30, help="seed of the first person")
    parser.add_argument("--size", type=int, default=160, help="side of a picture")
    parser.add_argument("--speed", type=int, metavar="N", help="measure on N people")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    truth, head = load_head(options.truth), load_head(options.head)
    if options.out:
        rows = [row(truth, head, options.first + n, options.size) for n in range(options.people)]
        sheet = (np.concatenate(rows).clip(0, 1) * 255 + 0.5).astype(np.uint8)
        coded = cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
        atomic_write(options.out, lambda path: path.write_bytes(coded))
    if options.speed:
        for name, value in speed(truth, head, options.speed).items():
            print(f"{name:36s} {value:8.2f}")


def row(truth: HeadModel, head: HeadModel, seed: int, size: int) -> np.ndarray:
    """(size, 8 size + size / 2, 3) of one person."""
    session = Session(Subject(truth, seed, 4 * size), head, seed, SampleConfig(size=size))
    subject = session.subject
    frame = head_frame(truth, subject.params)
    motion = random_expressions(np.random.default_rng(seed), len(VIEWS))
    params = truth.motion_params(motion, subject.params)
    shots = []
    for t, yaw in enumerate(VIEWS):
        camera = framed_camera(frame, math.radians(yaw), 0.05, 1.0, size)
        shots.append(subject.render(subject.pose(params.frame(t)), camera, 3))
    target = session.target(random_expressions(session.rng, 1), "tracked", (-45.0, 0.0))
    shown = {key: target.frames[0][key].astype(np.float32) / 255 for key in ("images", "proposals", "driving")}
    driving = np.ones((size, size // 2, 3), np.float32)
    driving[: size // 2] = cv2.resize(shown["driving"], (size // 2, size // 2), interpolation=cv2.INTER_AREA)
    pictures = [session.reference.image, *(shot.image for shot in shots), shots[0].normals / 2 + 0.5]
    return np.concatenate([*pictures, shown["proposals"], shown["images"], driving], 1)


def speed(truth: HeadModel, head: HeadModel, people: int) -> dict[str, float]:
    """Milliseconds of each step and frames a second, at 256 x 256 with 3 x 3 samples a pixel."""
    make_person(truth, head, 0, SampleConfig(references=1, timesteps=1, views=1, clips=1, clip_frames=2))
    spent: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, began: float) -> None:
        spent[name].append(time.process_time() - began)

    frames = 0
    for seed in range(1, people + 1):
        began = time.process_time()
        subject = Subject(truth, seed, 768)
        timed("a person", began)
        motion = random_expressions(np.random.default_rng(seed), 2)
        params, frame = truth.motion_params(motion, subject.params), head_frame(truth, subject.params)
        for t in range(2):
            began = time.process_time()
            posed = subject.pose(params.frame(t))
            timed("an expression", began)
            camera = framed_camera(frame, 0.8 * (2 * t - 1), 0.0, 1.0, 256)
            began = time.process_time()
            subject.render(posed, camera, 3)
            timed("a frame", began)
        began = time.process_time()
        person = make_person(truth, head, seed, SampleConfig())
        for target in (*person.singles, *person.clips):
            for step in target.frames:
                frames += sum(len(encode(step[key])) > 0 for key in FRAME_KEYS[:1])
                [encode(step[key]) for key in FRAME_KEYS[1:]]
        timed("samples", began)
    mean = {name: 1e3 * float(np.mean(values)) for name, values in spent.items()}
    return {
        "a person, ms": mean["a person"],
        "an expression with its shadows, ms": mean["an expression"],
        "a frame, ms": mean["a frame"],
        "frames a second, each a new expression": 1e3 / (mean["an expression"] + mean["a frame"]),
        "whole samples a second, encoded": 1e3 * frames / len(spent["samples"]) / mean["samples"],
    }


if __name__ == "__main__":
    main()
