"""What a run tells: a CSV, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from geodiff.files import write_text


class CsvLog:
    """A CSV that a resumed run goes on with: rows after the step it resumes from are dropped."""

    def __init__(self, path: Path, names: tuple[str, ...], step: int) -> None:
        self.path, self.names = path, names
        kept = []
        if path.is_file():
            with path.open(newline="") as file:
                # A killed run may leave half a row, or half a header.
                rows = [row for row in csv.DictReader(file) if None not in row.values()]
            kept = [row for row in rows if row.get("step", "").isdigit() and int(row["step"]) <= step]
        text = io.StringIO()
        writer = csv.DictWriter(text, names, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(kept)
        write_text(path, text.getvalue())

    def write(self, row: dict[str, Any]) -> None:
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.names, restval="").writerow(row)


class Board:
    """TensorBoard's log in `folder`; does nothing where the package is missing. step: the first one of this run."""

    def __init__(self, folder: Path, step: int) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder), purge_step=step)

    def numbers(self, values: dict[str, float], step: int) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """image: (H, W, 3) uint8."""
        if self._writer is not None:
            self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
