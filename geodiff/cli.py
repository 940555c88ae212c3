"""The command line: parses, resolves the configuration, calls the rooms.

Exit codes: 0 done; 2 the input is wrong (one sentence, no traceback); 1 a fault of ours (the traceback is in a log file
that the message names); 130 interrupted. Heavy packages are imported by the commands that need them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from geodiff import __version__
from geodiff.config import DEFAULT_PRESET, choose, load_config, load_preset, to_yaml
from geodiff.console import DONE, INTERRUPTED, WRONG_INPUT, StageProgress, exit_code, say
from geodiff.errors import ConfigError, MissingDependencyError

app = typer.Typer(
    name="geodiff",
    help="One portrait photograph in, an animatable 4D head avatar of 3D Gaussians out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

#: What the parser raises for unknown options and missing arguments; newer typers carry a click of their own.
USAGE_ERRORS: tuple[type[Exception], ...] = tuple(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads the annotation
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings by name; --dry-run shows all. config=FILE reads a YAML."),
]
Preset = Annotated[str, typer.Option("--preset", help="test, preview or full.")]
Seed = Annotated[int, typer.Option("--seed", help="Decides every random choice.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")]
Head = Annotated[str, typer.Option("--head", help="Head model: builtin, flame:PATH or ict:PATH.")]
Face = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--face", help="Which face, where there are several: 0 is the largest."),
]
Out = Annotated[Optional[Path], typer.Option("--out", help="Where the result goes.")]  # noqa: UP045
Text = Optional[str]  # noqa: UP045
Number = Optional[int]  # noqa: UP045


@app.command()
def generate(
    ref: Annotated[Path, typer.Option("--ref", help="The portrait photograph.")],
    overrides: Overrides = None,
    drive: Annotated[Text, typer.Option(help="A video, a motion file or builtin:NAME.")] = None,
    head_pose: Annotated[Text, typer.Option(help="fixed, or drive to move the head as the driver does.")] = None,
    views: Annotated[Number, typer.Option(help="How many viewpoints, 1 to 12.")] = None,
    frames: Annotated[Number, typer.Option(help="Frames of each view.")] = None,
    out: Out = None,
    face: Face = None,
    head: Head = "builtin",
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Portrait -> clip set: the person from several sides, with expressions (default: out/NAME/clips)."""
    from geodiff import batch

    options = _options(preset, seed, device, head, face)
    named = {"drive": drive, "head_pose": head_pose, "views": views, "frames": frames}
    config = batch.generate_config(options, _with(overrides, named))
    if _dry(dry_run, config):
        return
    folder = batch.run_generate(ref, out or Path("out") / ref.stem / "clips", config, options, say)
    typer.echo(folder)


@app.command()
def reconstruct(
    clips: Annotated[Path, typer.Argument(help="A clip set: geodiff's, or a VHAP export.")],
    overrides: Overrides = None,
    method: Annotated[str, typer.Option(help="How the avatar is made.")] = "geodiff4d",
    out: Out = None,
    head: Annotated[Text, typer.Option(help="Head model; by default the one that the clips name.")] = None,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Clip set -> avatar (default: `avatar` beside the clip set)."""
    from geodiff import batch

    options = _options(preset, seed, device, head or "")
    config = batch.reconstruct_config(method, options, _with(overrides, {}))
    if _dry(dry_run, config):
        return
    typer.echo(batch.run_reconstruct(clips, out or _beside(clips, "avatar"), method, config, options, say))


@app.command()
def animate(
    avatar: Annotated[Path, typer.Argument(help="An avatar's folder.")],
    overrides: Overrides = None,
    drive: Annotated[str, typer.Option(help="A video, a motion file or builtin:NAME.")] = "builtin:talk",
    camera: Annotated[str, typer.Option(help="front, orbit, or an NPZ camera path.")] = "orbit",
    out: Annotated[Optional[Path], typer.Option("--out", help="The MP4.")] = None,  # noqa: UP045
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Avatar -> video (default: `MOTION.mp4` beside the avatar)."""
    from geodiff import batch
    from recon.animate import AnimateConfig

    config = load_config(AnimateConfig, "animate", preset, _with(overrides, {}))
    if _dry(dry_run, config):
        return
    options = _options(preset, seed, device)
    name = drive.removeprefix("builtin:") if drive.startswith("builtin:") else Path(drive).stem
    typer.echo(batch.run_animate(avatar, out or _beside(avatar, f"{name}.mp4"), drive, camera, config, options))


@app.command()
def track(
    source: Annotated[Path, typer.Argument(metavar="IMAGE_OR_VIDEO")],
    overrides: Overrides = None,
    out: Out = None,
    face: Face = None,
    head: Head = "builtin",
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Pixels -> head parameters and cameras in VHAP's layout (default: out/NAME/track)."""
    from geodiff.tracking.track import TrackConfig

    config = load_config(TrackConfig, "track", preset, _with(overrides, {}))
    if _dry(dry_run, config):
        return
    from geodiff.head import load_head
    from geodiff.media import require_file
    from geodiff.runs import RunRecord
    from geodiff.tracked import track_to_clips

    _options(preset, seed, device)
    require_file(source, "an image or a video")
    folder = out or Path("out") / source.stem / "track"
    inputs = {"source": source.resolve(), "head": head, "face": face}
    with RunRecord(folder, "track", config, preset=preset, inputs=inputs) as run, StageProgress(run.add_time) as report:
        figures = track_to_clips(
            source, folder, config, load_head(head), head_spec=head, face=face, preset=preset, report=report, note=say
        )
        run.result(**figures)
    error = 100 * figures["landmark_error"]
    say(f"{figures['frames']:.0f} frames, mean landmark error {error:.1f}% of the distance between the eyes' corners")
    typer.echo(folder)


@app.command()
def evaluate(
    subject: Annotated[Path, typer.Argument(metavar="AVATAR_OR_CLIPS")],
    against: Annotated[Path, typer.Option("--against", help="The clip set that holds the truth.")],
    out: Annotated[Optional[Path], typer.Option("--out", help="Default: metrics.json in the subject.")] = None,  # noqa: UP045
    head: Annotated[Text, typer.Option(help="Head model; by default the one that the clips name.")] = None,
    every_frame: Annotated[bool, typer.Option(help="All frames, not only those held out.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Measures an avatar or a clip set against another clip set: metrics.json and a table."""
    target = out or subject / "metrics.json"
    if _dry(dry_run, {"subject": subject, "against": against, "out": target, "every_frame": every_frame}):
        return
    from geodiff.head import load_head
    from recon.evaluate import evaluate as measure

    with StageProgress() as report:
        result = measure(subject, against, target, load_head(head) if head else None, every_frame, report)
    header, *rows = result.rows()
    _table(tuple(header), [tuple(row) for row in rows])
    typer.echo(target)


@app.command()
def export(
    avatar: Annotated[Path, typer.Argument(help="An avatar's folder.")],
    format: Annotated[
        str, typer.Option("--format", help="ply (bound to triangles), splats (any viewer) or npz.")
    ] = "splats",
    out: Out = None,
    dry_run: DryRun = False,
) -> None:
    """Avatar -> a file for other programs (default: beside the avatar)."""
    from recon.export import FORMATS
    from recon.export import export as write

    choose("--format", format, FORMATS)
    target = out or _beside(avatar, f"{avatar.resolve().name}_{format}{FORMATS[format][1]}")
    if _dry(dry_run, {"avatar": avatar, "format": format, "out": target}):
        return
    from recon.methods import load_avatar

    typer.echo(write(load_avatar(avatar), format, target))


@app.command()
def view(
    avatar: Annotated[Path, typer.Argument(help="An avatar's folder.")],
    drive: Annotated[str, typer.Option(help="A video, a motion file or builtin:NAME.")] = "builtin:talk",
    port: Annotated[int, typer.Option(help="Of the web page on this machine.")] = 8080,
) -> None:
    """Shows an avatar in the web browser."""
    from recon.methods import load_avatar
    from recon.viewer import view as show

    show(load_avatar(avatar), drive, port)


@app.command()
def batch(
    portraits: Annotated[
        Path, typer.Argument(help="A folder of photographs, or a .txt, .csv or .json that lists them.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Where the avatars go.")],
    overrides: Overrides = None,
    method: Annotated[str, typer.Option(help="How the avatars are made.")] = "geodiff4d",
    head: Head = "builtin",
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Many portraits -> an avatar each. Overrides begin with generate. or reconstruct.

    Exit code 0 when every portrait became an avatar, 2 when some could not be used, 1 when a fault stopped one.
    """
    from geodiff import batch as room

    options = _options(preset, seed, device, head)
    stages = room.stage_overrides(overrides or [])
    configs = {
        "generate": room.generate_config(options, stages["generate"]),
        "reconstruct": room.reconstruct_config(method, options, stages["reconstruct"]),
    }
    if _dry(dry_run, configs):
        return

    results = room.run_batch(portraits, out, method, configs, options, say)
    rows = [(name, r["status"], f"{r['seconds']:.0f} s", r["message"]) for name, r in results.items()]
    _table(("portrait", "result", "time", "why"), rows)
    raise typer.Exit(room.batch_exit_code(results))


@app.command()
def train(
    name: Annotated[str, typer.Argument(metavar="STAGE", help="images, or clips after it.")],
    data: Annotated[Path, typer.Option("--data", help="A training set, as `geodiff synth` writes it.")],
    out: Annotated[Path, typer.Option("--out", help="Checkpoints, log, sample sheets and weights.")],
    overrides: Overrides = None,
    frames: Annotated[Number, typer.Option(help="Frames of a sample: 1 for images, else all of a clip.")] = None,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Training set -> weights; run again, it goes on from the last checkpoint."""
    from geodiff.training.loop import TrainConfig

    config = load_config(TrainConfig, "train", preset, [f"stage={name}", f"seed={seed}", *(overrides or [])])
    if _dry(dry_run, config):
        return
    from geodiff.assets import weight_hashes
    from geodiff.models.networks import MODELS
    from geodiff.runs import RunRecord
    from geodiff.training.dataset import SynthShards, clip_length
    from geodiff.training.loop import train as run_training
    from geodiff.training.stages import STAGES, networks_for

    if _options(preset, seed, device).device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    choose("stage", config.stage, STAGES)
    networks = networks_for(config.stage, MODELS[choose("model", config.model, MODELS)], config.start)
    length, size = frames or (1 if config.stage == "images" else clip_length(data)), networks.config.image_size
    training, held_out = (SynthShards(data, frames=length, split=part, size=size) for part in ("train", "held_out"))
    inputs, weights = {"data": data.resolve()}, weight_hashes(config.start) if config.start else {}
    record = RunRecord(out, "train", config, seed=seed, preset=preset, weights=weights, inputs=inputs)
    with record as run, run.stage("train"):
        run_training(networks, training, config, out, held_out)
    typer.echo(out / "weights")


@app.command()
def synth(
    out: Annotated[Path, typer.Option("--out", help="The training set's folder.")],
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(help="Processes; 0 for one a core.")] = 0,
    preset: Preset = DEFAULT_PRESET,
    seed: Seed = 0,
    dry_run: DryRun = False,
) -> None:
    """Makes a training set of synthetic people with ground truth; run again, it makes what is missing."""
    from geodiff.synth.shards import SetConfig, build_set

    config = load_config(SetConfig, "synth", preset, [f"seed={seed}", *(overrides or [])])
    if _dry(dry_run, config):
        return
    from geodiff.runs import RunRecord

    with RunRecord(out, "synth", config, seed=seed, preset=preset) as run, StageProgress(run.add_time) as report:
        for done, total in build_set(out, config, workers or os.cpu_count() or 1):
            report("shards", done / total, f"{done} of {total}")
    typer.echo(out)


@app.command()
def doctor() -> None:
    """What works on this machine, what is missing, and how to get it."""
    from geodiff.doctor import examine, healthy

    findings = examine()
    _table(("what", "state", "found", "remedy"), [(f.name, f.state, f.found, f.remedy) for f in findings])
    if not healthy(findings):
        raise MissingDependencyError("geodiff needs everything above that is marked broken: follow its remedy")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"geodiff {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _options(preset: str, seed: int, device: str, head: str = "builtin", face: int | None = None) -> Any:
    """The checked common options; also seeds the random generators."""
    load_preset(preset)
    choose("device", device, ("auto", "cpu", "cuda"))
    if seed < 0:
        raise ConfigError(f"the seed must be 0 or more, not {seed}: choose another")
    from geodiff.batch import Options

    return Options(preset, seed, _device(device, seed), head, face)


def _device(name: str, seed: int) -> str:
    import torch

    torch.manual_seed(seed)
    if name == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        why = "this torch is a CPU build" if torch.version.cuda is None else "torch sees no GPU"
        raise MissingDependencyError(
            f"--device cuda needs a CUDA GPU, and {why}: use --device cpu, or see geodiff doctor"
        )
    return "cpu"


def _with(overrides: list[str] | None, named: dict[str, Any]) -> list[str]:
    """Overrides, and the options that were given by name after them."""
    return [*(overrides or []), *(f"{key}={value}" for key, value in named.items() if value is not None)]


def _dry(dry_run: bool, config: Any) -> bool:
    if dry_run:
        typer.echo(to_yaml(config), nl=False)
    return dry_run


def _beside(path: Path, name: str) -> Path:
    return path.resolve().parent / name


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.table import Table

    from geodiff.console import out

    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    out.print(table)


def run(arguments: list[str]) -> int:
    """Runs the program and returns its exit code; nothing but interpreter faults leaves it as an exception."""
    try:
        result = app(args=arguments, standalone_mode=False)
        code = result if isinstance(result, int) else DONE
        return exit_code(KeyboardInterrupt()) if code == INTERRUPTED else code
    except typer.Exit as error:
        return error.exit_code
    except USAGE_ERRORS as error:
        error.show()  # type: ignore[attr-defined]
        return WRONG_INPUT
    except typer.Abort:  # what older parsers make of Ctrl-C; newer ones give its code
        return exit_code(KeyboardInterrupt())
    except BrokenPipeError:
        # Whoever read our output has enough of it; keep the interpreter from complaining when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (Exception, KeyboardInterrupt) as error:
        return exit_code(error)


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
