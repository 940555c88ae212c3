"""How fast, how exact and how steady a video is tracked: `python scripts/measure_video.py VIDEO [--head SPEC]`.

Or how right films of synthetic people are, whose truth is known: `--truth ict:ict_facekit.npz` instead of VIDEO.
`--no-refine`: without the second look.

Jitter is the root mean square of second differences over time; that of the landmarks includes the person's own motion,
so compare the columns with one another. Times are wall clock and processor time, imports and compilation excluded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy.spatial.transform import Rotation

from geodiff.geometry import project
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.media import read_video
from geodiff.synth.bench.definition import BenchConfig
from geodiff.synth.bench.people import Person
from geodiff.synth.motion import random_sequence
from geodiff.tracking.accuracy import PosedHead, TemplateOffset
from geodiff.tracking.footage import Footage, watch
from geodiff.tracking.settings import TrackConfig
from geodiff.tracking.video import VideoTrack, fit_footage, track_video

#: Films of synthetic people, and frames of each.
FILMS, FRAMES = 5, 36


def timed(name: str, frames: int, work: Callable[[], Any]) -> Any:
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(
        f"{name:<22} {wall:6.2f} s, {frames / wall:6.1f} frames/s; processor {1e3 * processor / frames:5.1f} ms a frame"
    )
    return result


def jitter(values: np.ndarray) -> float:
    return float(np.sqrt((np.diff(values, n=2, axis=0) ** 2).mean()))


def steadiness(name: str, track: VideoTrack, footage: Footage, head: HeadModel) -> None:
    """Prints a row: errors and jitter of the tracked parameters."""
    assert head.landmarks is not None
    found, rows = track.found, head.landmarks.indices.numpy()
    seen = footage.points[found]
    eyes = np.linalg.norm(seen[:, 33] - seen[:, 263], axis=1).mean()
    pixels = project(head.landmark_points(track.params), track.camera)[0].numpy()[found]
    turns, places, weights = (getattr(track.params, n).numpy()[found] for n in ("rotation", "translation", "expr"))
    print(
        f"{name:<22} error {100 * np.nanmean(track.errors):.2f}% (worst {100 * np.nanmax(track.errors):.2f}%), jitter: "
        f"landmarks {100 * jitter(pixels) / eyes:.3f}% (raw {100 * jitter(seen[:, rows]) / eyes:.3f}%), rotation "
        f"{np.degrees(jitter(turns)):.3f} degrees, translation {1e3 * jitter(places):.3f} mm, weights "
        f"{jitter(weights):.4f}"
    )


def measure_film(video: Path, model: HeadModel, refine: bool) -> None:
    """Speed and steadiness on a video file."""
    opened = read_video(video)
    first = watch(iter(opened.read(12)), refine=refine)
    fit_footage(first, model, TrackConfig(refine_videos=refine), opened.fps)
    frames = sum(1 for _ in opened)
    timed("decoding", frames, lambda: sum(1 for _ in opened))
    footage = timed("decoding + landmarks", frames, lambda: watch(opened, refine=refine))
    track = timed("fit", frames, lambda: fit_footage(footage, model, TrackConfig(refine_videos=refine), opened.fps))
    print(f"{frames} frames, {int((~track.found).sum())} lost, {int(track.shot[-1]) + 1} shots")
    alone = TrackConfig(steadiness=0.0, refine_videos=refine)
    steadiness("frames on their own", fit_footage(footage, model, alone, opened.fps), footage, model)
    steadiness("smoothed", track, footage, model)


def filmed(truth: HeadModel, identity: int) -> tuple[list[np.ndarray], list[PosedHead]]:
    """A film (H, W, 3) uint8 of a person of SynthBench who moves, seen by a camera that moves, and its truth."""
    person = Person(truth, identity, BenchConfig())
    motion = random_sequence(np.random.default_rng(100 + identity), FRAMES)
    frames, heads = [], []
    for t in range(FRAMES):
        turn = 2 * np.pi * t / FRAMES
        photo = person.filmed_from(motion.frame(t), 28 * np.sin(turn + identity), 5 * np.sin(2 * turn), 77)
        grain = np.random.default_rng(t).normal(0, 3, photo.image.shape)
        frames.append(np.clip(photo.image + grain, 0, 255).astype(np.uint8))
        heads.append(PosedHead(truth, photo.params, photo.camera))
    return frames, heads


def accuracy(found: list[PosedHead], true: list[PosedHead], offset: TemplateOffset) -> list[float]:
    """Of the landmarks' movements by expressions: mean mm off, mean mm in truth, and how much the error shakes (mean mm
    of second differences); degrees by which the pose is off, and by which that error shakes."""
    moved = np.stack([one.movement() @ offset.rotation.T for one in found])
    goal = np.stack([one.movement() for one in true])
    both = np.isfinite(moved).all((0, 2)) & np.isfinite(goal).all((0, 2))
    apart, goal = 1e3 * (moved - goal)[:, both], 1e3 * goal[:, both]
    turns = [a.rotation @ offset.rotation.T @ b.rotation.T for a, b in zip(found, true, strict=True)]
    vectors = np.degrees(Rotation.from_matrix(np.stack(turns)).as_rotvec())
    steps = [np.linalg.norm(np.diff(values, 2, axis=0), axis=-1).mean() for values in (apart, vectors)]
    lengths = [np.linalg.norm(values, axis=-1).mean() for values in (apart, goal, vectors)]
    return [float(v) for v in (lengths[0], lengths[1], steps[0], lengths[2], steps[1])]


def measure_truth(truth: HeadModel, model: HeadModel, refine: bool) -> None:
    """Errors on films of people whose expressions and poses are known."""
    offset, rows = TemplateOffset.between(model, truth), []
    for identity in range(FILMS):
        frames, true = filmed(truth, identity)
        track = track_video(iter(frames), model, TrackConfig(refine_videos=refine))
        found = [PosedHead(model, track.params.frame(t), track.camera) for t in range(len(frames))]
        rows.append(accuracy(found, true, offset))
    print(
        "movements off by {:.2f} of {:.2f} mm, shaking by {:.3f}; pose off by {:.2f} degrees, shaking by {:.3f}".format(
            *np.mean(rows, 0)
        )
    )


def main(
    video: Annotated[Path | None, typer.Argument()] = None,
    head: Annotated[str, typer.Option()] = "builtin",
    truth: Annotated[str, typer.Option(help="head of synthetic people to film instead")] = "",
    refine: Annotated[bool, typer.Option()] = True,
) -> None:
    if (video is None) == (not truth):
        raise typer.BadParameter("name a video, or with --truth the head of people to film, and not both")
    if video is not None:
        measure_film(video, load_head(head), refine)
    else:
        measure_truth(load_head(truth), load_head(head), refine)


if __name__ == "__main__":
    typer.run(main)
