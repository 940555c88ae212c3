"""`geodiff track`: pixels, and other trackers' results, become head parameters and cameras in VHAP's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from geodiff.cli.options import (
    BUILTIN,
    Device,
    DryRun,
    Face,
    Out,
    Overrides,
    Preset,
    Seed,
    Text,
    dry,
    resolve,
    table,
    with_named,
)
from geodiff.config import DEFAULT_PRESET, load_config
from geodiff.console import StageProgress, say
from geodiff.errors import InputError


def track(
    source: Annotated[Path, typer.Argument(metavar="SOURCE")],
    overrides: Overrides = None,
    out: Out = None,
    face: Face = None,
    head: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--head",
            help="Head model to track with: builtin (default), flame:PATH or ict:PATH. Of a tracking result: the one "
            "that it was tracked with, where it does not say.",
        ),
    ] = None,
    convert: Annotated[
        Text, typer.Option("--convert", help="Head model that a tracking result is to be converted to.")
    ] = None,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Pixels, or another tracker's result -> head parameters and cameras in VHAP's layout (default: out/NAME/track).

    A capture is a folder of pictures by calibrated cameras, listed in a transforms.json without head parameters; all
    of its cameras are tracked together.
    A result is a clip set of geodiff, a VHAP export, a Pixel3DMM folder or CAP4D's fit.npz. With --convert its
    parameters are fitted to another head model, and the distances that remain are told.
    """
    from geodiff.captures import is_capture
    from geodiff.imported import is_tracking

    if convert is None and is_capture(source):
        if face is not None:
            raise InputError(f"--face chooses among the faces of an image, and {source} is a capture: leave it out")
        _track_pixels(source, overrides, out, None, head or BUILTIN, preset, seed, device, dry_run)
        return
    known = source.is_dir() or (source.exists() and (source.suffix == ".npz" or is_tracking(source)))
    result = convert is not None or known
    if not result:
        _track_pixels(source, overrides, out, face, head or BUILTIN, preset, seed, device, dry_run)
        return
    if face is not None:
        raise InputError(f"--face chooses among the faces of an image, and {source} is a tracking result: leave it out")
    from geodiff.tracking.convert import ConvertConfig

    config = load_config(ConvertConfig, "convert", preset, with_named(overrides, {}))
    if dry(dry_run, config):
        return
    name = source.resolve().name if source.is_dir() else source.stem
    folder = out or Path("out") / name / (f"track-{convert.partition(':')[0]}" if convert else "track")
    _bring(source, folder, config, resolve(preset, seed, device, head or ""), convert)


def _track_pixels(
    source: Path,
    overrides: list[str] | None,
    out: Path | None,
    face: int | None,
    head: str,
    preset: str,
    seed: int,
    device: str,
    dry_run: bool,
) -> None:
    from geodiff.tracking.track import TrackConfig

    config = load_config(TrackConfig, "track", preset, with_named(overrides, {}))
    if dry(dry_run, config):
        return
    from geodiff.captures import capture_to_clips, read_capture
    from geodiff.head import load_head
    from geodiff.media import require_file
    from geodiff.runs import RunRecord
    from geodiff.tracked import track_to_clips

    spec = resolve(preset, seed, device, head).head
    several = source.is_dir()
    # Nothing is written before the source is known to be usable.
    if several:
        read_capture(source)
    else:
        require_file(source, "an image or a video")
    folder = out or Path("out") / (source.resolve().name if several else source.stem) / "track"
    inputs = {"source": source.resolve(), "head": spec, "face": face}
    told: dict[str, Any] = {"head_spec": spec, "preset": preset, "note": say}
    with RunRecord(folder, "track", config, preset=preset, inputs=inputs) as run, StageProgress(run.add_time) as report:
        if several:
            figures = capture_to_clips(source, folder, config, load_head(spec), report=report, **told)
        else:
            figures = track_to_clips(source, folder, config, load_head(spec), face=face, report=report, **told)
        run.result(**figures)
    error = 100 * figures["landmark_error"]
    say(f"{figures['frames']:.0f} frames, mean landmark error {error:.1f}% of the distance between the eyes' corners")
    typer.echo(folder)


def _bring(source: Path, folder: Path, config: Any, options: Any, convert: str | None) -> None:
    """Imports or converts a tracking result, and tells what remains between the two heads."""
    from geodiff.converted import bring
    from geodiff.head import load_head
    from geodiff.head.identity import absolute_spec
    from geodiff.imported import is_tracking
    from geodiff.runs import RunRecord

    if convert is not None and source.is_file() and source.suffix != ".npz" and not is_tracking(source):
        raise InputError(
            f"--convert takes a tracking result, and {source} is none: track pixels with --head {convert} instead"
        )
    target = None if convert is None else (load_head(convert), absolute_spec(convert))
    given = options.head or None
    inputs = {"source": source.resolve(), "head": given, "convert": target and target[1]}
    # Nothing is written before the source is known to be usable.
    record = RunRecord(folder, "track", config, preset=options.preset, inputs=inputs)
    from geodiff.imported import read_tracking

    read_tracking(source)
    with record as run, StageProgress(run.add_time) as report:

        def tell(sentence: str) -> None:
            run.note(sentence)
            say(sentence)

        done = bring(
            source, folder, head=given, to=target, config=config, preset=options.preset, report=report, note=tell
        )
        run.result(**done.figures())
    if done.residuals is not None:
        header, *rows = done.residuals.rows()
        table(header, rows)
        say(
            f"{done.frames} frames of {done.source} are on the head model {done.head!r} now; its canonical frame is "
            f"turned by {done.residuals.turn:.1f} degrees and moved by {done.residuals.shift:.0f} mm"
        )
    else:
        say(f"{done.frames} frames of {done.source}" + (", finished before" if done.finished_before else ""))
    typer.echo(folder)
