"""What the user sees while work goes on, and how faults are told.

On a terminal a bar for each stage; elsewhere (logs, continuous integration) a line now and then, so that progress is
visible there too.
"""

from __future__ import annotations

import errno
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from geodiff.assets import cache_folder
from geodiff.errors import UserError
from geodiff.files import storage_error

#: Exit codes of the program.
DONE, FAULT, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

#: Seconds between two lines of progress where there is no terminal.
QUIET_SECONDS = 10.0

out = Console()
err = Console(stderr=True, highlight=False)


def say(sentence: str) -> None:
    """One line for the user, beside the progress (standard error)."""
    err.print(sentence, markup=False, soft_wrap=True)


class StageProgress:
    """Shows stages as they advance: call it with (stage's name, part done 0..1, optional words).

    on_time: told (stage, seconds) whenever a stage's time is known, as `RunRecord.add_time` takes it.
    """

    def __init__(self, on_time: Callable[[str, float], None] | None = None) -> None:
        self._on_time = on_time
        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}"),
            console=err,
            disable=not err.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._stage: str | None = None
        self._since = time.monotonic()
        self._spoken = 0.0

    def __enter__(self) -> StageProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_stage()
        self._progress.stop()

    def __call__(self, stage: str, done: float, words: str = "") -> None:
        if stage != self._stage:
            self._close_stage()
            self._stage, self._since, self._spoken = stage, time.monotonic(), 0.0
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=1.0, words=words)
        self._progress.update(self._tasks[stage], completed=min(done, 1.0), words=words)
        if not err.is_terminal:
            self._line(stage, done, words)

    def _line(self, stage: str, done: float, words: str) -> None:
        now = time.monotonic()
        if done >= 1.0 or now - self._spoken >= QUIET_SECONDS:
            self._spoken = now if done < 1.0 else float("inf")
            say(f"{stage}: {100 * done:.0f}% after {now - self._since:.0f} s {words}".rstrip())

    def _close_stage(self) -> None:
        if self._stage is not None and self._on_time is not None:
            self._on_time(self._stage, time.monotonic() - self._since)
        self._stage = None


def exit_code(error: BaseException) -> int:
    """Tells the user about an error and returns the exit code that belongs to it."""
    if isinstance(error, KeyboardInterrupt):
        say("Interrupted. What was finished is kept: run the same command again to go on.")
        return INTERRUPTED
    if isinstance(error, UserError):
        say(f"Error: {one_sentence(error)}")
        return WRONG_INPUT
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        say(f"Error: {storage_error(error.filename or 'the output', error)}")
        return WRONG_INPUT
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        say("Error: the work needs more memory than there is: choose a smaller preset, fewer views or frames.")
        return WRONG_INPUT
    log = write_log(error)
    where = f"; the details are in {log}" if log else ""
    say(f"Fault in geodiff: {type(error).__name__}: {one_sentence(error)}{where}")
    return FAULT


def one_sentence(error: BaseException) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def write_log(error: BaseException) -> Path | None:
    """Writes the traceback to a file of its own; None where no place can be written."""
    text = "".join(traceback.format_exception(error))
    text = f"geodiff {' '.join(sys.argv[1:])}\n\n{text}"
    name = f"geodiff-{datetime.now():%Y%m%d-%H%M%S-%f}.log"
    for folder in (cache_folder() / "logs", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
            return folder / name
        except OSError:
            continue
    return None
