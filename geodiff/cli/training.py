"""Commands that make networks and what they learn from."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from geodiff.cli.options import Device, DryRun, Number, Overrides, Preset, Seed, Text, dry, resolve, table, with_named
from geodiff.config import DEFAULT_PRESET, choose, load_config
from geodiff.console import StageProgress, say


def train(
    name: Annotated[
        str,
        typer.Argument(
            metavar="STAGE",
            help="images, or clips after it; generator for both; autoencoder or expression before them.",
        ),
    ],
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
    """Training set -> weights; run again, it goes on from the last checkpoint.

    On several GPUs or machines: accelerate launch [OPTIONS] -m geodiff train ..., see docs/training.md.
    """
    from geodiff.training.run import GENERATOR, NAMES, DataConfig, generator_configs, run_generator, run_stage
    from geodiff.training.run import stage_config as load_stage

    given = [f"seed={seed}", *(overrides or [])]
    config: Any
    if choose("stage", name, NAMES) == GENERATOR:
        config = generator_configs(preset, given)
    else:
        config = load_stage(name, preset, given)
    if dry(dry_run, config):
        return
    from accelerate import PartialState

    from geodiff.assets import weight_hashes
    from geodiff.runs import RunRecord

    if resolve(preset, seed, device).device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    source = DataConfig(data, share or (), frames)
    inputs: dict[str, Any] = {"data": [folder.resolve() for folder in data], "share": share}
    start = config["images"].start if name == GENERATOR else config.start
    weights = weight_hashes(start) if start else {}
    main = PartialState().is_main_process
    record = RunRecord(out, "train", config, seed=seed, preset=preset, weights=weights, inputs=inputs)
    with ExitStack() as stack:
        run = stack.enter_context(record) if main else None
        report = stack.enter_context(StageProgress(run.add_time)) if run else None

        def told(done: float, words: str) -> None:
            if report is not None:
                report(name, done, words)

        if name == GENERATOR:
            found = run_generator(config, source, out, report, say if main else None)
        else:
            found = run_stage(config, source, out, told, say if main else None)
    if main:
        typer.echo(found)


def synth(
    out: Annotated[Path, typer.Option("--out", help="The training set's folder.")],
    overrides: Overrides = None,
    head: Annotated[
        Text, typer.Option("--head", help="Head model that conditions: builtin, flame:PATH or ict:PATH; see truth=.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 for one a core.")] = 0,
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
    from geodiff.runs import RunRecord

    resolve(preset, seed, device)
    with RunRecord(out, "convert-weights", config, seed=seed, preset=preset) as run:
        report = convert(config, out)
        run.result(tensors_copied=sum(source.mapped for source in report.sources))
    header, *rows = report.rows()
    table(header, rows)
    for network, missing in report.missing.items():
        if missing:
            zero = sum(start == "zero" for start in missing.values())
            say(f"{network}: {len(missing)} tensors are in no source, {zero} of them start at zero")
    say(f"every name is in {out / REPORT_FILE}")
    typer.echo(out)
