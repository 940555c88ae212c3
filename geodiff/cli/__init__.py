"""The command line: parses, resolves the configuration, calls the rooms.

Exit codes: 0 done; 2 the input is wrong (one sentence, no traceback); 1 a fault of ours (the traceback is in a log file
that the message names); 130 interrupted. Heavy packages are imported by the commands that need them.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from geodiff import __version__
from geodiff.cli import making, measuring, tracking, training
from geodiff.console import DONE, INTERRUPTED, WRONG_INPUT, exit_code

app = typer.Typer(
    name="geodiff",
    help="One portrait photograph in, an animatable 4D head avatar of 3D Gaussians out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

#: In the order in which the help lists them.
COMMANDS = (
    making.generate, making.reconstruct, making.animate, tracking.track, measuring.evaluate, making.export, making.view,
    making.batch, training.train, training.synth, training.convert_weights, measuring.doctor,
)  # fmt: skip
for _command in COMMANDS:
    app.command()(_command)

#: What the parser raises for unknown options and missing arguments; newer typers carry a click of their own.
USAGE_ERRORS: tuple[type[Exception], ...] = tuple(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


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
