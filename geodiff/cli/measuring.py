"""Commands that look at results and at the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from geodiff.cli.options import Device, DryRun, Preset, RecordedHead, Seed, Text, dry, resolve, table
from geodiff.config import DEFAULT_PRESET
from geodiff.console import StageProgress
from geodiff.errors import MissingDependencyError


def evaluate(
    subject: Annotated[Path, typer.Argument(metavar="AVATAR_OR_CLIPS")],
    against: Annotated[Path, typer.Option("--against", help="The clip set that holds the truth.")],
    out: Annotated[Optional[Path], typer.Option("--out", help="Default: metrics.json in the subject.")] = None,  # noqa: UP045
    head: RecordedHead = None,
    every_frame: Annotated[bool, typer.Option(help="All frames, not only those held out.")] = False,
    metric: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--metric", help="One of the metrics of docs/metrics.md; give it again for more. Default: all."),
    ] = None,
    weights: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--weights", help="Folder of the networks that some metrics need."),
    ] = None,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Measures an avatar or a clip set against another clip set: metrics.json and a table.

    Avatars are drawn at the size of the true frames and on the CPU, whatever --preset and --device say; nothing in it
    is random.
    """
    target = out or subject / "metrics.json"
    described = {
        "subject": subject, "against": against, "out": target, "every_frame": every_frame, "head": head,
        "metrics": metric, "weights": weights,
    }  # fmt: skip
    if dry(dry_run, described):
        return
    spec = resolve(preset, seed, device, head or "").head
    from geodiff.head import load_head
    from recon.evaluate import evaluate as measure

    with StageProgress() as report:
        known = load_head(spec) if spec else None
        result = measure(subject, against, target, known, every_frame, report, metric, weights)
    header, *rows = result.rows()
    table(header, rows)
    typer.echo(target)


def doctor(
    head: Annotated[
        Text, typer.Option("--head", help="A head model to look at closely: builtin, flame:PATH or ict:PATH.")
    ] = None,
) -> None:
    """What works on this machine, what is missing, and how to get it."""
    from geodiff.doctor import examine, healthy

    findings = examine(head=head)
    table(("what", "state", "found", "remedy"), [(f.name, f.state, f.found, f.remedy) for f in findings])
    if not healthy(findings):
        raise MissingDependencyError("geodiff needs everything above that is marked broken: follow its remedy")
