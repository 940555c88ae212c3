"""Commands that make clip sets, avatars and what is made of avatars."""

from __future__ import annotations

import json
from dataclasses import replace
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
from geodiff.errors import ConfigError


def generate(
    ref: Annotated[Path, typer.Option("--ref", help="The portrait photograph.")],
    overrides: Overrides = None,
    drive: Annotated[Text, typer.Option(help="A video, a motion file or builtin:NAME.")] = None,
    head_pose: Annotated[Text, typer.Option(help="fixed, or drive to move the head as the driver does.")] = None,
    views: Annotated[Number, typer.Option(help="How many viewpoints, 1 to 12.")] = None,
    frames: Annotated[Number, typer.Option(help="Frames of each view.")] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Fewer denoising steps; docs/benchmarks.md: what is lost.")
    ] = False,
    out: Out = None,
    face: Face = None,
    head: Head = BUILTIN,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    devices: Annotated[
        Text,
        typer.Option(help="Share the views: a number of GPUs, or names: cuda:0,cuda:2. One device by default."),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Portrait -> clip set: the person from several sides, with expressions (default: out/NAME/clips)."""
    from geodiff import batch

    options = resolve(preset, seed, device, head, face)
    named = {"drive": drive, "head_pose": head_pose, "views": views, "frames": frames}
    config = batch.generate_config(options, with_named(overrides, named), fast)
    if dry(dry_run, config):
        return
    if devices is not None:
        from pipelines.views import chosen_devices

        options = replace(options, devices=chosen_devices(devices, options.device))
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
    avatars: Annotated[
        list[str],
        typer.Argument(
            metavar="AVATAR... [KEY=VALUE]...", help="Avatars' folders, side by side; then settings by name."
        ),
    ],
    drive: Annotated[
        str,
        typer.Option(
            "--drive",
            "--motion",
            help="A video, a motion or parameter file, a clip set, a tracking result or builtin:NAME.",
        ),
    ] = "builtin:talk",
    camera: Annotated[
        str,
        typer.Option(
            help="front, orbit, swing, turntable, dolly, fixed:YAW,ELEVATION, drive (the camera that filmed it), a "
            "clip set, or a JSON or NPZ file of cameras."
        ),
    ] = "orbit",
    size: Annotated[Text, typer.Option(help="Pixels: 512, or 1280x720.")] = None,
    fps: Annotated[Optional[float], typer.Option(help="Frames a second; else the drive's own.")] = None,  # noqa: UP045
    background: Annotated[Text, typer.Option(help="A colour, an image file, or alpha.")] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Write the avatars' names under them.")] = False,
    drive_head: Annotated[Text, typer.Option(help="Head model of the drive, where its file has moved.")] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="A .mp4, .mov or .webm, or a folder for PNGs."),
    ] = None,
    head: RecordedHead = None,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Avatars -> video (default: `MOTION.mp4` beside the avatar, `MOTION.webm` with alpha)."""
    from geodiff import batch
    from recon.animate import AnimateConfig
    from recon.backgrounds import is_transparent

    folders = [Path(item) for item in avatars if "=" not in item or Path(item).is_dir()]
    overrides = [item for item in avatars if "=" in item and not Path(item).is_dir()]
    # In quotes, or YAML would take "#336699" for a comment; lists of numbers stay lists.
    colour = background if background is None or background.startswith("[") else json.dumps(background)
    named = {**frame_size(size), "fps": fps, "background": colour, "labels": labels or None}
    config = load_config(AnimateConfig, "animate", preset, with_named(overrides, named))
    if not folders:
        raise ConfigError("geodiff animate needs the folder of at least one avatar, and none was given: name one")
    if dry(dry_run, config):
        return
    options = resolve(preset, seed, device, head or "")
    name = drive.removeprefix("builtin:") if drive.startswith("builtin:") else Path(drive).stem
    target = out or beside(folders[0], f"{name}.webm" if is_transparent(config.background) else f"{name}.mp4")
    typer.echo(batch.run_animate(folders, target, drive, camera, config, options, say, drive_head))


def frame_size(text: str | None) -> dict[str, int]:
    """ "512" -> size, "1280x720" -> width and height. Raises ConfigError."""
    if text is None:
        return {}
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() for part in parts):
        raise ConfigError(f"--size must read 512 or 1280x720, and {text!r} does not: correct it")
    return {"size": int(parts[0])} if len(parts) == 1 else {"width": int(parts[0]), "height": int(parts[1])}


def export(
    avatar: AvatarFolder,
    format: Annotated[
        str, typer.Option("--format", help="ply (bound to triangles), splats (any viewer) or npz.")
    ] = "splats",
    out: Out = None,
    level: Annotated[
        int | None,
        typer.Option("--level", "--gaussians", min=1, help="At most so many: the least important are merged."),
    ] = None,
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
    if dry(dry_run, {"avatar": avatar, "format": format, "out": target, "level": level, "head": head}):
        return
    options = resolve(preset, seed, device, head or "")
    from recon.methods import load_avatar

    typer.echo(write(load_avatar(avatar, head_spec=options.head or None), format, target, level))


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
