"""Options and small helpers that the commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from geodiff.config import choose, load_preset, to_yaml
from geodiff.errors import ConfigError, MissingDependencyError

#: Heads as `geodiff.head.load_head` takes them.
BUILTIN = "builtin"

Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads the annotation
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings by name; --dry-run shows all. config=FILE reads a YAML."),
]
Preset = Annotated[str, typer.Option("--preset", help="test, preview or full.")]
Seed = Annotated[int, typer.Option("--seed", help="Decides every random choice.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")]
Head = Annotated[str, typer.Option("--head", help="Head model: builtin, flame:PATH or ict:PATH.")]
RecordedHead = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--head", help="The recorded head model, where its file has moved: flame:PATH or ict:PATH."),
]
Face = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--face", help="Which face, where there are several: 0 is the largest."),
]
Out = Annotated[Optional[Path], typer.Option("--out", help="Where the result goes.")]  # noqa: UP045
AvatarFolder = Annotated[Path, typer.Argument(help="An avatar's folder.")]
Text = Optional[str]  # noqa: UP045
Number = Optional[int]  # noqa: UP045


def resolve(preset: str, seed: int, device: str, head: str = BUILTIN, face: int | None = None) -> Any:
    """The checked common options (`geodiff.batch.Options`); also seeds the random generators."""
    load_preset(preset)
    choose("device", device, ("auto", "cpu", "cuda"))
    if seed < 0:
        raise ConfigError(f"the seed must be 0 or more, not {seed}: choose another")
    from geodiff.batch import Options
    from geodiff.head.identity import absolute_spec

    return Options(preset, seed, _device(device, seed), absolute_spec(head), face)


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


def with_named(overrides: list[str] | None, named: dict[str, Any]) -> list[str]:
    """Overrides, and the options that were given by name after them."""
    return [*(overrides or []), *(f"{key}={value}" for key, value in named.items() if value is not None)]


def dry(dry_run: bool, config: Any) -> bool:
    """Prints the configuration where --dry-run was given; returns whether it was."""
    if dry_run:
        typer.echo(to_yaml(config), nl=False)
    return dry_run


def beside(path: Path, name: str) -> Path:
    """A file or folder of this name in the folder that holds `path`."""
    return path.resolve().parent / name


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table on standard output."""
    from rich.table import Table

    from geodiff.console import out

    shown = Table(*header, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*(cell.replace("[", r"\[") for cell in row))
    out.print(shown)
