"""Many portraits, one after the other: each becomes a clip set and an avatar.

    DIR/results.json, results.csv        what became of each portrait, also of earlier runs' portraits
    DIR/run.json                         with which settings
    DIR/NAME/clips, DIR/NAME/avatar

A portrait that cannot be used does not stop the rest, and a run that was stopped goes on where it was. The stages'
runners here are what the command line calls, too: this module and `geodiff.cli` put the program together.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from geodiff.assets import find_weights, weight_hashes
from geodiff.config import load_config, to_container
from geodiff.console import StageProgress, one_sentence, write_log
from geodiff.errors import ConfigError, InputError, StorageError, UserError
from geodiff.files import make_folder, read_json, write_json, write_text
from geodiff.media import IMAGE_SUFFIXES
from geodiff.runs import RunRecord

RESULTS = "results.json"
DONE, REFUSED, FAULT = "done", "refused", "fault"

Note = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What all stages share. head: as `geodiff.head.load_head` takes it, empty for the one that is recorded. device:
    "cpu" or "cuda". devices: those that share the views of a generation, none for `device` alone."""

    preset: str
    seed: int = 0
    device: str = "cpu"
    head: str = "builtin"
    face: int | None = None
    devices: tuple[str, ...] = ()


def generate_config(options: Options, overrides: list[str], fast: bool = False) -> Any:
    """The resolved configuration of a generation. fast: with the preset's quicker settings."""
    from pipelines.generate import GenerateConfig

    also = ("generate_fast",) if fast else ()
    return load_config(GenerateConfig, "generate", options.preset, overrides, also)


def run_generate(ref: Path, out: Path, config: Any, options: Options, note: Note) -> Path:
    """Portrait -> clip set, with its run.json and progress."""
    from geodiff.head import load_head
    from geodiff.media import require_file
    from pipelines.generate import generate

    require_file(ref, "a portrait")
    weights = {} if config.networks.startswith("random:") else weight_hashes(find_weights(config.networks))
    inputs = {"ref": ref.resolve(), **asdict(options)}
    record = RunRecord(
        out, "generate", config, seed=options.seed, preset=options.preset, device=options.device, weights=weights,
        inputs=inputs,
    )  # fmt: skip
    with record as run, StageProgress(run.add_time) as progress:

        def tell(sentence: str) -> None:
            run.note(sentence)
            note(sentence)

        return generate(
            ref,
            out,
            config,
            head=load_head(options.head),
            head_spec=options.head,
            face=options.face,
            seed=options.seed,
            device=options.device,
            devices=options.devices,
            preset=options.preset,
            progress=progress,
            notice=tell,
        )


def reconstruct_config(method: str, options: Options, overrides: list[str]) -> Any:
    """The resolved configuration of a method; --seed is its seed unless an override says otherwise."""
    from recon.methods import find_method
    from recon.reconstruct import method_config

    own = any(field.name == "seed" for field in fields(find_method(method).config))
    return method_config(method, options.preset, ([f"seed={options.seed}"] if own else []) + overrides)


def run_reconstruct(clips: Path, out: Path, method: str, config: Any, options: Options, note: Note) -> Path:
    """Clip set -> avatar, with progress; the room writes its own run.json."""
    from geodiff.head import load_head
    from recon.reconstruct import Job, reconstruct

    job = Job(device=options.device, preset=options.preset)
    head = load_head(options.head) if options.head else None
    spec = options.head or None
    with StageProgress() as progress:
        reconstruct(clips, method, out, config, progress, job=job, head=head, head_spec=spec, say=note)
    return out


def run_animate(
    avatars: list[Path],
    out: Path,
    drive: str,
    camera: str,
    config: Any,
    options: Options,
    note: Note,
    drive_head: str | None = None,
) -> Path:
    """Avatars -> video, with the record of its run beside it."""
    from recon.animate import animate
    from recon.methods import load_avatar

    subjects = {
        name: load_avatar(folder, head_spec=options.head or None).to(options.device)
        for name, folder in zip(avatar_names(avatars), avatars, strict=True)
    }
    inputs = {"avatars": [folder.resolve() for folder in avatars], "drive": drive, "camera": camera}
    record = RunRecord(
        out.parent, "animate", config, preset=options.preset, device=options.device, inputs=inputs,
        name=f"{out.stem}.run.json",
    )  # fmt: skip
    with record as run, StageProgress(run.add_time) as progress:

        def tell(sentence: str) -> None:
            run.note(sentence)
            note(sentence)

        return animate(subjects, out, drive, camera, config, progress, tell, drive_head)


def avatar_names(folders: list[Path]) -> list[str]:
    """What tells avatars apart: the folder's name, its parent's where that is `avatar`; numbered where they agree."""
    paths = [folder.resolve() for folder in folders]
    return job_names([path.parent if path.name == "avatar" and path.parent.name else path for path in paths])


def run_batch(
    source: Path, out: Path, method: str, configs: dict[str, Any], options: Options, note: Note
) -> dict[str, dict[str, Any]]:
    """Portraits -> an avatar each, with the run.json of the whole; returns the results of `source` by folder name.

    configs: of the stages, "generate" and "reconstruct". Raises ConfigError where the folder was made otherwise.
    """

    def work(portrait: Path, folder: Path) -> dict[str, Any]:
        clips = run_generate(portrait, folder / "clips", configs["generate"], options, note)
        run_reconstruct(clips, folder / "avatar", method, configs["reconstruct"], options, note)
        return avatar_figures(folder / "avatar")

    portraits = read_portraits(source)
    names = {"method": method, "preset": options.preset, "seed": options.seed, "head": _head_name(options.head)}
    portraits_batch = Batch(out, {**names, **configs}, work, note)
    inputs = {"portraits": source.resolve(), "method": method, "head": options.head}
    with RunRecord(
        out, "batch", configs, seed=options.seed, preset=options.preset, device=options.device, inputs=inputs
    ) as run:
        results = portraits_batch.run(portraits)
        states = [result["status"] for result in results.values()]
        run.result(**{state: states.count(state) for state in (DONE, REFUSED, FAULT)})
    return results


def _head_name(spec: str) -> str:
    """What tells one head model from another in a batch's settings, wherever its file lies."""
    from geodiff.head import load_head

    return spec if spec == "builtin" else load_head(spec).hash


def avatar_figures(avatar: Path) -> dict[str, Any]:
    """The figures on held-out frames that an avatar records."""
    return dict(read_json(avatar / "avatar.json").get("metrics", {}))


def read_portraits(source: Path) -> list[Path]:
    """The portraits that a folder holds or a manifest lists.

    A manifest is .txt (a path a line, # for comments), .csv (column `path`, or the first) or .json (a list of paths or
    of objects with `path`); paths are relative to it. Raises InputError.
    """
    if source.is_dir():
        found = sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
        if not found:
            raise InputError(
                f"a folder of portraits must hold images ({', '.join(IMAGE_SUFFIXES)}), and {source} holds none"
            )
        return found
    if not source.exists():
        raise InputError(f"portraits are named by a folder or a manifest, and {source} does not exist: check the path")
    readers: dict[str, Callable[[Path], list[str]]] = {".txt": _from_text, ".csv": _from_csv, ".json": _from_json}
    reader = readers.get(source.suffix.lower())
    if reader is None:
        raise InputError(
            f"a manifest must be a .txt, .csv or .json file, and {source.name} is none: rename or convert it"
        )
    try:
        names = [name for name in reader(source) if name]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the manifest {source} must be readable text, and it is not: save it as UTF-8") from error
    if not names:
        raise InputError(f"a manifest must list at least one portrait, and {source} lists none")
    return [source.parent / name for name in names]


def _from_text(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _from_csv(path: Path) -> list[str]:
    rows = [row for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))) if row]
    if rows and "path" in rows[0]:
        column = rows[0].index("path")
        return [row[column].strip() for row in rows[1:] if len(row) > column]
    return [row[0].strip() for row in rows]


def _from_json(path: Path) -> list[str]:
    content = read_json(path)
    items = content if isinstance(content, list) else []
    given = [item.get("path") if isinstance(item, dict) else item for item in items]
    names = [name for name in given if isinstance(name, str)]
    if not names or len(names) != len(given):
        raise InputError(f"{path} must be a JSON list of paths or of objects with a `path`, and it is not: correct it")
    return names


def job_names(portraits: list[Path]) -> list[str]:
    """A folder name for each portrait: its file's stem, numbered where several share it."""
    taken: dict[str, int] = {}
    names = []
    for portrait in portraits:
        stem = portrait.stem or "portrait"
        taken[stem] = taken.get(stem, 0) + 1
        names.append(stem if taken[stem] == 1 else f"{stem}-{taken[stem]}")
    if len(set(names)) != len(names):
        raise InputError("portraits must have names that differ, and these do not after numbering: rename one of them")
    return names


class Batch:
    """Runs `work` on every portrait.

    work: (portrait, its folder) -> figures for the table. settings: what all avatars of the folder are made with;
    the portrait's content alone decides whether an earlier result still stands. tell: takes a sentence for the user.
    Raises ConfigError where the folder holds results of other settings, before anything in it is touched.
    """

    def __init__(self, out: Path, settings: Any, work: Callable[[Path, Path], dict[str, Any]], tell: Note) -> None:
        self.out = make_folder(out)
        self._work = work
        self._tell = tell
        self._settings = hashlib.sha256(json.dumps(to_container(settings), sort_keys=True).encode()).hexdigest()[:16]
        self.results: dict[str, dict[str, Any]] = self._earlier()
        if any(result.get("settings", self._settings) != self._settings for result in self.results.values()):
            raise ConfigError(
                f"a batch goes on with the settings it was begun with, and {self.out} holds avatars of other settings: "
                "choose another --out, or give the same settings again"
            )

    def run(self, portraits: list[Path]) -> dict[str, dict[str, Any]]:
        """Returns these portraits' results by folder name; those of others are kept in the files.

        A full disk or an interruption ends the batch; other failures do not.
        """
        named = list(zip(job_names(portraits), portraits, strict=True))
        for number, (name, portrait) in enumerate(named, 1):
            digest = self._digest(portrait)
            if self._stands(name, digest):
                self._tell(f"[{number}/{len(named)}] {name}: finished before")
                continue
            self._tell(f"[{number}/{len(named)}] {name}")
            about = {"portrait": str(portrait), "digest": digest, "settings": self._settings}
            self.results[name] = self._one(name, portrait) | about
            self._save()
        self._save()
        return {name: self.results[name] for name, _ in named}

    def _one(self, name: str, portrait: Path) -> dict[str, Any]:
        start = time.monotonic()
        try:
            figures = self._work(portrait, self.out / name)
            status, message = DONE, ""
        except StorageError:
            raise
        except UserError as error:
            figures, status, message = {}, REFUSED, one_sentence(error)
        except Exception as error:
            figures, status = {}, FAULT
            log = write_log(error)
            message = f"{type(error).__name__}: {one_sentence(error)}" + (f" (details in {log})" if log else "")
        if message:
            self._tell(f"{name}: {message}")
        seconds = round(time.monotonic() - start, 1)
        return {"status": status, "message": message, "seconds": seconds, "figures": to_container(figures)}

    def _stands(self, name: str, digest: str) -> bool:
        earlier = self.results.get(name, {})
        avatar = self.out / name / "avatar" / "avatar.json"
        return earlier.get("status") == DONE and earlier.get("digest") == digest and avatar.exists()

    def _digest(self, portrait: Path) -> str:
        content = portrait.read_bytes() if portrait.is_file() else b""
        return hashlib.sha256(content).hexdigest()[:16]

    def _earlier(self) -> dict[str, dict[str, Any]]:
        try:
            earlier = read_json(self.out / RESULTS)
        except InputError:
            return {}
        if not isinstance(earlier, dict):
            return {}
        return {name: result for name, result in earlier.items() if isinstance(result, dict)}

    def _save(self) -> None:
        write_json(self.out / RESULTS, self.results)
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["name", "status", "seconds", "portrait", "message"])
        for name, result in self.results.items():
            table.writerow([name, result["status"], result["seconds"], result["portrait"], result["message"]])
        write_text(self.out / "results.csv", text.getvalue())


def batch_exit_code(results: dict[str, dict[str, Any]]) -> int:
    """0 when every portrait became an avatar, 1 when a fault of ours stopped one, otherwise 2."""
    states = {result["status"] for result in results.values()}
    return 1 if FAULT in states else 2 if REFUSED in states else 0


def stage_overrides(overrides: list[str]) -> dict[str, list[str]]:
    """ "generate.views=3" -> {"generate": ["views=3"], "reconstruct": []}. Raises ConfigError."""
    stages: dict[str, list[str]] = {"generate": [], "reconstruct": []}
    for item in overrides:
        stage, _, rest = item.partition(".")
        if stage not in stages or not rest:
            raise ConfigError(
                f"overrides of a batch must begin with the stage they are for, generate. or reconstruct., and {item!r} "
                "does not: write, for instance, generate.views=6"
            )
        stages[stage].append(rest)
    return stages
