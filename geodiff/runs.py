"""run.json: what made an output folder, so that it can be made again.

    with RunRecord(out, "generate", config, seed=0, preset="preview") as run:
        with run.stage("track"):
            ...

The record is written at the start, after every stage and at the end, also when the run fails or is interrupted.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from geodiff import __version__
from geodiff.config import to_container
from geodiff.errors import InputError
from geodiff.files import make_folder, read_json, write_json

RUN = "run.json"

#: Packages whose versions decide results.
PACKAGES = ("torch", "diffusers", "numpy", "numba", "mediapipe", "opencv-contrib-python-headless", "gsplat")


class RunRecord:
    """Writes `folder/run.json`, or the file `name` in it where the output is one file among others.

    command: the name of the command. config: the resolved configuration (dataclass or mapping). weights: name -> sha256
    of every file of weights that was loaded; more can be added while running. Where a run.json of an earlier,
    interrupted run of the same command stands, its stage timings are kept and added to; a record of
    a finished run, or of another one, is only replaced when this run succeeds.
    """

    def __init__(
        self,
        folder: Path | str,
        command: str,
        config: Any,
        *,
        seed: int | None = None,
        preset: str | None = None,
        device: str | None = None,
        weights: dict[str, str] | None = None,
        inputs: dict[str, Any] | None = None,
        name: str = RUN,
    ) -> None:
        self.folder = Path(folder)
        self._path = self.folder / name
        self._start = time.monotonic()
        self._protect = False
        self._values: dict[str, Any] = {
            "command": command,
            "arguments": sys.argv[1:],
            "inputs": to_container(inputs or {}),
            "preset": preset,
            "seed": seed,
            "device": device,
            "config": to_container(config),
            "weights": dict(weights or {}),
            "versions": versions(),
            "machine": {"system": platform.platform(), "processor": platform.machine()},
            "started": _now(),
            "status": "running",
            "stages": {},
            "notes": [],
        }

    def __enter__(self) -> RunRecord:
        make_folder(self.folder)
        earlier = self._earlier()
        same = all(earlier.get(key) == self._values[key] for key in ("command", "inputs", "config", "seed"))
        if same and isinstance(earlier.get("stages"), dict):
            self._values["stages"] = dict(earlier["stages"])
        self._protect = bool(earlier) and (not same or earlier.get("status") == "done")
        self._save()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._values["status"] = "done"
            self._protect = False
        elif isinstance(error, KeyboardInterrupt):
            self._values["status"] = "interrupted"
        else:
            self._values["status"] = "failed"
            self._values["error"] = str(error) or type(error).__name__
        self._values["finished"] = _now()
        try:
            self._save()
        except Exception:
            if error is None:
                raise

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a part of the run; the same name again adds up."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.add_time(name, time.monotonic() - start)

    def add_time(self, name: str, seconds: float) -> None:
        """Adds to a stage that was timed elsewhere."""
        stages = self._values["stages"]
        stages[name] = round(stages.get(name, 0.0) + seconds, 3)
        self._save()

    def note(self, sentence: str) -> None:
        """A sentence that a reader of the results should know, such as what was switched off."""
        if sentence not in self._values["notes"]:
            self._values["notes"].append(sentence)

    def result(self, **values: Any) -> None:
        """Numbers worth keeping beside the run, such as a final loss."""
        self._values.setdefault("results", {}).update(to_container(values))

    def _earlier(self) -> dict[str, Any]:
        try:
            earlier = read_json(self._path)
        except InputError:
            return {}
        return earlier if isinstance(earlier, dict) else {}

    def _save(self) -> None:
        if self._protect:
            return
        self._values["seconds"] = round(time.monotonic() - self._start, 3)
        self._values["peak_memory_mb"] = peak_memory()
        write_json(self._path, self._values)


def versions() -> dict[str, str]:
    """Versions of geodiff, Python and the packages that decide results."""
    found = {"geodiff": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory() -> dict[str, float]:
    """Highest memory use so far, in MB (10^6 bytes): of this process, and of the GPU where it was used."""
    peak = {}
    try:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peak["process"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
    except ImportError:  # Windows has no resource module
        import psutil

        peak["process"] = round(psutil.Process().memory_info().peak_wset / 1e6, 1)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak["cuda"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return peak


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
