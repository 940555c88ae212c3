"""How fast, how exact and how steady a video is tracked: `python scripts/measure_video.py VIDEO [--head SPEC]`.

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

from geodiff.geometry import project
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.media import read_video
from geodiff.tracking.footage import Footage, watch
from geodiff.tracking.settings import TrackConfig
from geodiff.tracking.video import VideoTrack, fit_footage


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


def main(
    video: Path, head: Annotated[str, typer.Option()] = "builtin", refine: Annotated[bool, typer.Option()] = False
) -> None:
    model, opened = load_head(head), read_video(video)
    first = watch(iter(opened.read(12)), refine=refine)
    fit_footage(first, model, TrackConfig(refine_videos=refine), opened.fps)
    frames = sum(1 for _ in opened)
    timed("decoding", frames, lambda: sum(1 for _ in opened))
    footage = timed("decoding + landmarks", frames, lambda: watch(opened, refine=refine))
    track = timed("fit", frames, lambda: fit_footage(footage, model, TrackConfig(refine_videos=refine), opened.fps))
    print(f"{frames} frames, {int((~track.found).sum())} lost, {int(track.shot[-1]) + 1} shots")
    steadiness(
        "frames on their own",
        fit_footage(footage, model, TrackConfig(steadiness=0.0, refine_videos=refine), opened.fps),
        footage,
        model,
    )
    steadiness("smoothed", track, footage, model)


if __name__ == "__main__":
    typer.run(main)
