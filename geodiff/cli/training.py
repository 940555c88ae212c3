"""Commands that make networks and what they learn from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from geodiff.cli.options import Device, DryRun, Number, Overrides, Preset, Seed, Text, dry, resolve, table, with_named
from geodiff.config import DEFAULT_PRESET, choose, load_config
from geodiff.console import StageProgress, say


def train(
    name: Annotated[str, typer.Argument(metavar="STAGE", help="images, or clips after it.")],
    data: Annotated[
        list[Path],
        typer.Option("--data", help="A set of `geodiff synth`, or clip sets or VHAP exports; may be given repeatedly."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Checkpoints, log, sample sheets and weights.")],
    overrides: Overrides = None,
    share: Annotated[
        Optional[list[float]],  # noqa: UP045 - typer reads the annotation
        typer.Option("--share", help="How much is drawn from each --data, in their order; all alike by default."),
    ] = None,
    frames: Annotated[Number, typer.Option(help="Frames of a sample: 1 for images, else all of a clip.")] = None,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Training set -> weights; run again, it goes on from the last checkpoint."""
    from geodiff.training.config import TrainConfig

    config = load_config(TrainConfig, "train", preset, [f"stage={name}", f"seed={seed}", *(overrides or [])])
    if dry(dry_run, config):
        return
    from geodiff.assets import weight_hashes
    from geodiff.models.networks import MODELS
    from geodiff.runs import RunRecord
    from geodiff.training.loop import train as run_training
    from geodiff.training.sources import CACHE, open_sources, window_length
    from geodiff.training.stages import STAGES, networks_for

    if resolve(preset, seed, device).device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    choose("stage", config.stage, STAGES)
    networks = networks_for(config.stage, MODELS[choose("model", config.model, MODELS)], config.start)
    length, size = frames or (1 if config.stage == "images" else window_length(data)), networks.config.image_size
    training, held_out = (
        open_sources(data, share or (), frames=length, split=part, size=size, cache=out / CACHE)
        for part in ("train", "held_out")
    )
    inputs: dict[str, Any] = {"data": [folder.resolve() for folder in data], "share": share}
    weights = weight_hashes(config.start) if config.start else {}
    record = RunRecord(out, "train", config, seed=seed, preset=preset, weights=weights, inputs=inputs)
    with record as run, run.stage("train"):
        run_training(networks, training, config, out, held_out)
    typer.echo(out / "weights")


def synth(
    out: Annotated[Path, typer.Option("--out", help="The training set's folder.")],
    overrides: Overrides = None,
    head: Annotated[
        Text, typer.Option("--head", help="Head model that conditions: builtin, flame:PATH or ict:PATH; see truth=.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0 for one a core.")] = 0,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Makes a training set of synthetic people with ground truth; run again, it makes what is missing.

    People are drawn from the head model truth=SPEC. All of it is made on the CPU, whatever --device says.
    """
    from geodiff.synth.shards import SetConfig, build_set

    config = load_config(SetConfig, "synth", preset, with_named([f"seed={seed}", *(overrides or [])], {"head": head}))
    if dry(dry_run, config):
        return
    from geodiff.head import load_head
    from geodiff.runs import RunRecord

    resolve(preset, seed, device)
    for spec in {config.head, config.truth}:
        load_head(spec)
    with RunRecord(out, "synth", config, seed=seed, preset=preset) as run, StageProgress(run.add_time) as report:
        for done, total in build_set(out, config, workers or os.cpu_count() or 1):
            report("shards", done / total, f"{done} of {total}")
    typer.echo(out)


def convert_weights(
    out: Annotated[Path, typer.Option("--out", help="The folder of weights to write.")],
    overrides: Overrides = None,
    base: Annotated[
        Text, typer.Option("--base", help="SD 1.5 (a folder or hub id with unet and vae), or own weights to extend.")
    ] = None,
    motion: Annotated[
        Text, typer.Option("--motion", help="AnimateDiff's motion modules: a file, a folder or a hub id.")
    ] = None,
    xnemo: Annotated[Text, typer.Option("--xnemo", help="A folder of X-NeMo's released files.")] = None,
    stage: Annotated[Text, typer.Option("--stage", help="images leaves temporal modules out.")] = None,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Other models' weights -> a folder for `generate networks=` and `train start=`, with a report of every tensor.

    --seed decides how layers start that no source has; it is done on the CPU, whatever --device says.
    """
    from geodiff.models.convert import REPORT_FILE, ConvertConfig, convert

    named = {"base": base, "motion": motion, "xnemo": xnemo, "stage": stage}
    config = load_config(ConvertConfig, "convert_weights", preset, with_named(overrides, named))
    if dry(dry_run, config):
        return
    resolve(preset, seed, device)
    report = convert(config, out)
    header, *rows = report.rows()
    table(header, rows)
    for network, missing in report.missing.items():
        if missing:
            zero = sum(start == "zero" for start in missing.values())
            say(f"{network}: {len(missing)} tensors are in no source, {zero} of them start at zero")
    say(f"every name is in {out / REPORT_FILE}")
    typer.echo(out)
