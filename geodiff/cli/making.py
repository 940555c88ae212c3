"""Commands that make clip sets, avatars and what is made of avatars."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from geodiff.cli.options import (
    BUILTIN,
    AvatarFolder,
    Device,
    DryRun,
    Face,
    Head,
    Number,
    Out,
    Overrides,
    Preset,
    RecordedHead,
    Seed,
    Text,
    beside,
    dry,
    resolve,
    table,
    with_named,
)
from geodiff.config import DEFAULT_PRESET, choose, load_config
from geodiff.console import say


def generate(
    ref: Annotated[Path, typer.Option("--ref", help="The portrait photograph.")],
    overrides: Overrides = None,
    drive: Annotated[Text, typer.Option(help="A video, a motion file or builtin:NAME.")] = None,
    head_pose: Annotated[Text, typer.Option(help="fixed, or drive to move the head as the driver does.")] = None,
    views: Annotated[Number, typer.Option(help="How many viewpoints, 1 to 12.")] = None,
    frames: Annotated[Number, typer.Option(help="Frames of each view.")] = None,
    out: Out = None,
    face: Face = None,
    head: Head = BUILTIN,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Portrait -> clip set: the person from several sides, with expressions (default: out/NAME/clips)."""
    from geodiff import batch

    options = resolve(preset, seed, device, head, face)
    named = {"drive": drive, "head_pose": head_pose, "views": views, "frames": frames}
    config = batch.generate_config(options, with_named(overrides, named))
    if dry(dry_run, config):
        return
    folder = batch.run_generate(ref, out or Path("out") / ref.stem / "clips", config, options, say)
    typer.echo(folder)


def reconstruct(
    clips: Annotated[Path, typer.Argument(help="A clip set: geodiff's, or a VHAP export.")],
    overrides: Overrides = None,
    method: Annotated[str, typer.Option(help="How the avatar is made.")] = "geodiff4d",
    out: Out = None,
    head: RecordedHead = None,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Clip set -> avatar (default: `avatar` beside the clip set)."""
    from geodiff import batch

    options = resolve(preset, seed, device, head or "")
    config = batch.reconstruct_config(method, options, with_named(overrides, {}))
    if dry(dry_run, config):
        return
    typer.echo(batch.run_reconstruct(clips, out or beside(clips, "avatar"), method, config, options, say))


def animate(
    avatar: AvatarFolder,
    overrides: Overrides = None,
    drive: Annotated[
        str, typer.Option(help="A video, a motion or parameter file, a tracking folder or builtin:NAME.")
    ] = "builtin:talk",
    camera: Annotated[str, typer.Option(help="front, orbit, or an NPZ camera path.")] = "orbit",
    out: Annotated[Optional[Path], typer.Option("--out", help="The MP4.")] = None,  # noqa: UP045
    head: RecordedHead = None,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Avatar -> video (default: `MOTION.mp4` beside the avatar)."""
    from geodiff import batch
    from recon.animate import AnimateConfig

    config = load_config(AnimateConfig, "animate", preset, with_named(overrides, {}))
    if dry(dry_run, config):
        return
    options = resolve(preset, seed, device, head or "")
    name = drive.removeprefix("builtin:") if drive.startswith("builtin:") else Path(drive).stem
    typer.echo(batch.run_animate(avatar, out or beside(avatar, f"{name}.mp4"), drive, camera, config, options))


def export(
    avatar: AvatarFolder,
    format: Annotated[
        str, typer.Option("--format", help="ply (bound to triangles), splats (any viewer) or npz.")
    ] = "splats",
    out: Out = None,
    head: RecordedHead = None,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Avatar -> a file for other programs (default: beside the avatar).

    The file is the same for every --preset, --seed and --device.
    """
    from recon.export import FORMATS
    from recon.export import export as write

    choose("--format", format, FORMATS)
    target = out or beside(avatar, f"{avatar.resolve().name}_{format}{FORMATS[format][1]}")
    if dry(dry_run, {"avatar": avatar, "format": format, "out": target, "head": head}):
        return
    options = resolve(preset, seed, device, head or "")
    from recon.methods import load_avatar

    typer.echo(write(load_avatar(avatar, head_spec=options.head or None), format, target))


def view(
    avatar: AvatarFolder,
    drive: Annotated[
        str, typer.Option(help="A video, a motion or parameter file, a tracking folder or builtin:NAME.")
    ] = "builtin:talk",
    port: Annotated[int, typer.Option(help="Of the web page on this machine.")] = 8080,
    head: RecordedHead = None,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Shows an avatar in the web browser.

    The browser draws it: --preset, --seed and --device change nothing in the picture.
    """
    if dry(dry_run, {"avatar": avatar, "drive": drive, "port": port, "head": head}):
        return
    options = resolve(preset, seed, device, head or "")
    from recon.methods import load_avatar
    from recon.viewer import view as show

    show(load_avatar(avatar, head_spec=options.head or None), drive, port)


def batch(
    portraits: Annotated[
        Path, typer.Argument(help="A folder of photographs, or a .txt, .csv or .json that lists them.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Where the avatars go.")],
    overrides: Overrides = None,
    method: Annotated[str, typer.Option(help="How the avatars are made.")] = "geodiff4d",
    head: Head = BUILTIN,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Many portraits -> an avatar each. Overrides begin with generate. or reconstruct.

    Exit code 0 when every portrait became an avatar, 2 when some could not be used, 1 when a fault stopped one.
    """
    from geodiff import batch as room

    options = resolve(preset, seed, device, head)
    stages = room.stage_overrides(overrides or [])
    configs = {
        "generate": room.generate_config(options, stages["generate"]),
        "reconstruct": room.reconstruct_config(method, options, stages["reconstruct"]),
    }
    if dry(dry_run, configs):
        return

    results = room.run_batch(portraits, out, method, configs, options, say)
    rows = [(name, r["status"], f"{r['seconds']:.0f} s", r["message"]) for name, r in results.items()]
    table(("portrait", "result", "time", "why"), rows)
    raise typer.Exit(room.batch_exit_code(results))
