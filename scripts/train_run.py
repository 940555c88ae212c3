"""A whole training run on a bare machine, in pieces that may be cut off at any time: data, images, clips, weights out.

    python scripts/train_run.py WORK OUT --truth ict:PATH/ict_facekit.npz --minutes 9
    python scripts/train_run.py WORK OUT --minutes 9                      # goes on where it was
    python scripts/train_run.py WORK OUT --minutes 9 --start EARLIER_OUT  # on another machine, from the weights alone
    python scripts/train_run.py WORK OUT --minutes 9 --start bundled:preview

WORK holds the training set and the checkpoints and stays on the machine. OUT gets what should travel: the averaged
weights in half precision cut into parts of at most 15 MB, the log, the newest sample sheet and the figures on held-out
people. The set is made by a process of its own that outlives this one; training takes what there is when it begins.
`cat OUT/weights.tar.part-* | tar x` joins the parts. Needs the packages of requirements.lock, of which mediapipe and
the rest of tracking are not imported; nothing is fetched. On a GPU the set is kept there decoded, and networks are
compiled with compile=whole.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

import torch

from geodiff.assets import find_weights
from geodiff.errors import InputError
from geodiff.files import atomic_write, make_folder, read_json, write_json
from geodiff.training.checkpoint import averaged_networks, checkpoints
from geodiff.training.run import DataConfig, run_stage, stage_config

#: Largest file that travels, bytes.
PART = 15_000_000
STAGES = ("images", "clips")
#: Tells, in OUT, which stage it holds and how far that is.
STATE = "state.json"


@dataclass(frozen=True)
class Position:
    """Where a run stands: the stage, its folder of weights to begin with, and the number of its first step here."""

    stage: str
    start: Path | None = None
    first_step: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--truth", default="builtin", help="head that people are drawn from: builtin or ict:PATH")
    parser.add_argument("--people", type=int, default=2400)
    parser.add_argument("--first-people", type=int, default=400, help="training waits until so many are there")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call, the set's making included")
    parser.add_argument("--steps", type=int, nargs=2, default=(12_000, 3_000), help="of images, of clips")
    parser.add_argument("--batch", type=int, nargs=2, default=(48, 6), help="images, clips a step")
    parser.add_argument("--start", help="OUT of an earlier machine, or weights to begin anew with")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the training set")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that make the set")
    parser.add_argument("--preset", default="preview")
    parser.add_argument("overrides", nargs="*", help="key=value of TrainConfig")
    options = parser.parse_intermixed_args()

    deadline = time.monotonic() + 60 * options.minutes
    make_people(options)
    for index, stage in enumerate(STAGES):
        left = (deadline - time.monotonic()) / 60
        if left <= 0.5:
            break
        position = position_of(stage, options.work, options.start)
        if position is None:
            continue
        fixed = [
            f"stage={stage}", f"steps={options.steps[index]}", f"batch={options.batch[index]}",
            f"max_minutes={left:.2f}", f"first_step={position.first_step}",
        ]  # fmt: skip
        if torch.cuda.is_available():
            fixed.append("keep_in=device")
        if position.first_step:
            fixed.append("moment_warmup=100")
        train_stage(options.work, position, options.preset, [*fixed, *options.overrides])
        pack(options.work / stage, options.out, stage)
        if not finished(options.work / stage):
            break


def make_people(options: argparse.Namespace) -> None:
    """Start the set's process where none runs and wait for the first people."""
    folder = make_folder(options.work)
    record, command = folder / "making.pid", [
        sys.executable, "-m", "geodiff", "synth", "--out", str(folder / "set"), "--workers", str(options.workers),
        f"truth={options.truth}", f"people={options.people}", *options.set,
    ]  # fmt: skip
    if not (record.is_file() and running(int(record.read_text()))) and count_people(folder / "set") < options.people:
        with (folder / "making.log").open("ab") as log:
            # With less right to the cores than training has.
            process = subprocess.Popen(
                ["nice", "-n", "5", *command], stdout=log, stderr=log, start_new_session=True, env=environment()
            )
        record.write_text(str(process.pid))
    wanted = min(options.first_people, options.people)
    while count_people(folder / "set") < wanted:
        if not running(int(record.read_text())):
            raise InputError(f"the training set needs people, and its process ended: see {folder / 'making.log'}")
        time.sleep(2)
    print(f"{count_people(folder / 'set')} people", flush=True)


def environment() -> dict[str, str]:
    """This process's own, with the packages of this repository, whatever folder it was started in."""
    root = str(Path(__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def running(pid: int) -> bool:
    """Whether a process is there; one that has ended is taken from the table first."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    except ChildProcessError:
        pass
    return Path(f"/proc/{pid}").exists()


def count_people(folder: Path) -> int:
    return sum(len(read_json(path)["people"]) for path in folder.glob("shard-*.json"))


def position_of(stage: str, work: Path, earlier: str | None) -> Position | None:
    """Where to go on with a stage; None where it is done (here, or on the earlier machine)."""
    if finished(work / stage):
        return None
    start, first_step = None, 0
    if earlier is not None and (Path(earlier) / STATE).is_file():
        told = read_json(Path(earlier) / STATE)
        if STAGES.index(told["stage"]) > STAGES.index(stage) or (told["stage"] == stage and told["done"]):
            return None
        start = unpack(Path(earlier), work / "start")
        first_step = told["step"] if told["stage"] == stage else 0
    elif earlier is not None:
        start = find_weights(earlier)
    if stage == "clips" and finished(work / "images"):
        start, first_step = work / "images" / "weights", 0
    return Position(stage, start, first_step)


def finished(run: Path) -> bool:
    told = run / "done.json"
    return told.is_file() and bool(read_json(told)["done"])


def train_stage(work: Path, position: Position, preset: str, overrides: list[str]) -> None:
    if position.start is not None:
        overrides = [*overrides, f"start={position.start}"]
    config = stage_config(position.stage, preset, overrides)
    run = work / position.stage

    def told(done: float, words: str) -> None:
        print(f"{position.stage} {100 * done:.1f}%: {words}", flush=True)

    began = time.monotonic()
    run_stage(config, DataConfig([work / "set"]), run, told, print)
    step = read_json(checkpoints(run)[-1] / "state.json")["step"]
    write_json(run / "done.json", {"step": step, "done": step >= config.steps})
    print(f"{position.stage}: step {step} of {config.steps} after {time.monotonic() - began:.0f} s here", flush=True)


def pack(run: Path, out: Path, stage: str) -> None:
    """Averaged weights as parts of a tar file, the log, the newest sheet and where the run stands."""
    make_folder(out)
    averaged_networks(checkpoints(run)[-1]).save(run / "half", torch.float16)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        archive.add(run / "half", "weights")
    data = whole.getvalue()
    for old in out.glob("weights.tar.part-*"):
        old.unlink()
    for number, first in enumerate(range(0, len(data), PART)):
        piece = data[first : first + PART]
        atomic_write(out / f"weights.tar.part-{number:02d}", lambda path, piece=piece: path.write_bytes(piece))
    for name in ("log.csv", "validation.csv"):
        if (run / name).is_file():
            copyfile(run / name, out / name)
    if sheets := sorted((run / "sheets").glob("*.png")):
        copyfile(sheets[-1], out / "sheet.png")
    write_json(out / STATE, {"stage": stage, **read_json(run / "done.json")})


def unpack(packed: Path, target: Path) -> Path:
    """Join the parts that `pack` wrote; the folder of weights."""
    parts = sorted(packed.glob("weights.tar.part-*"))
    if not parts:
        raise InputError(f"an earlier run's folder holds weights.tar.part-*, and {packed} holds none: name another")
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
        archive.extractall(make_folder(target), filter="data")
    return target / "weights"


if __name__ == "__main__":
    main()
