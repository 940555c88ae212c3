"""Clip set -> avatar folder: what `geodiff reconstruct` runs.

A killed run goes on from its checkpoint. The finished files move into place at the end, avatar.json last, so a folder
with avatar.json is a whole avatar; an avatar that was there before stays until then.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from geodiff.clipset import ClipSet
from geodiff.config import load_config, to_container
from geodiff.errors import ConfigError, InputError
from geodiff.files import make_folder, read_json, storage_errors, write_json
from geodiff.head.model import HeadModel
from geodiff.runs import RunRecord
from recon.animate import AnimateConfig, animate
from recon.avatar import MANIFEST, Avatar
from recon.methods import find_method, load_avatar
from recon.methods.base import FitContext
from recon.watch import BOARD, CSV

#: Folder inside the output that holds unfinished work.
WORK = ".work"


@dataclass(frozen=True)
class Job:
    """How a reconstruction runs beside the method's own configuration.

    device: auto, cpu or cuda. preset: recorded only. preview_frames, preview_size: of preview.mp4; 0 frames make none.
    """

    device: str = "auto"
    preset: str | None = None
    preview_frames: int = 75
    preview_size: int = 256


def method_config(method: str, preset: str, overrides: list[str] | None = None) -> Any:
    """A method's configuration: section `reconstruct` of the preset; `reconstruct_METHOD` for other methods."""
    section = "reconstruct" if method == "geodiff4d" else f"reconstruct_{method}"
    return load_config(find_method(method).config, section, preset, overrides)


def reconstruct(
    clips: Path,
    method: str,
    out: Path,
    config: Any = None,
    progress: Callable[..., None] | None = None,
    *,
    job: Job | None = None,
    head: HeadModel | None = None,
    head_spec: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Avatar:
    """Makes the avatar of a clip set in the folder `out` and returns it.

    config: the method's configuration dataclass, by default its own defaults. progress: called with (stage, part done,
    words). head: the head model of the clip set, by default the recorded one; head_spec:
    where it is from, for the record. say: takes sentences for the user.
    Raises ClipSetError, HeadModelError or ConfigError when the input cannot be used.
    """
    job, report = job or Job(), progress or (lambda *_: None)
    chosen = find_method(method)
    config = chosen.config() if config is None else config
    source = ClipSet.open(Path(clips), head, head_spec)
    device = resolve_device(job.device)
    identity = fingerprint(source, method, config)
    with RunRecord(
        out, "reconstruct", config, seed=getattr(config, "seed", None), preset=job.preset, device=device,
        inputs={"clips": clips, "method": method},
    ) as run:  # fmt: skip

        def tell(sentence: str) -> None:
            run.note(sentence)
            if say is not None:
                say(sentence)

        source.tell = tell
        for sentence in source.notes:
            tell(sentence)
        if _one_view(source):
            tell("one view only: what it does not show is guessed from what it does")
        finished = _finished(out, identity, source.head)
        if finished is not None:
            report("fit", 1.0, "already done")
            return finished
        work = make_folder(Path(out) / WORK)
        context = FitContext(
            head_spec=source.head_spec, encoder=source.expression_encoder, device=device,
            checkpoint=work / "checkpoint.safetensors", fingerprint=identity,
            progress=lambda done, total, figures: report("fit", done / total, _words(figures)), folder=work,
        )  # fmt: skip
        with run.stage("fit"):
            avatar = chosen.fit(source, config, context)
        with run.stage("preview"):
            staged = avatar.save(work / "avatar")
            record = read_json(staged / MANIFEST)
            write_json(staged / MANIFEST, {**record, "fingerprint": identity, "clips": str(clips)})
            _preview(avatar, staged, job, report)
        _publish(work, Path(out))
        run.result(**avatar.info.metrics)
    return avatar


def _preview(avatar: Avatar, folder: Path, job: Job, report: Callable[..., None]) -> None:
    if job.preview_frames:
        settings = AnimateConfig(size=job.preview_size, frames=job.preview_frames)
        animate(avatar, folder / "preview.mp4", "builtin:talk", "orbit", settings, _renamed(report, "preview"))


def _publish(work: Path, out: Path) -> None:
    """The finished avatar, with the logs of its fit, takes its place; the work is done with."""
    staged = work / "avatar"
    for name in (CSV, BOARD):
        if (work / name).exists():
            (work / name).replace(staged / name)
    move_into_place(staged, out)
    shutil.rmtree(work, ignore_errors=True)


def resolve_device(name: str) -> str:
    """auto -> cuda where there is one, else cpu. Raises ConfigError for a device that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"--device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device cuda needs a CUDA GPU that PyTorch can use, and there is none here: use --device cpu"
        )
    return name


def fingerprint(source: ClipSet, method: str, config: Any) -> str:
    """Names a clip set's contents (by names and sizes of its files), a method and its configuration."""
    digest = hashlib.sha256()
    settings = {k: v for k, v in to_container(config).items() if k not in ("checkpoint_seconds", "log")}
    named = [method, settings, source.head.hash, source.meta.get("fingerprint")]
    digest.update(json.dumps(named, sort_keys=True).encode())
    for name in ("transforms.json", "transforms_train.json"):
        path = source.folder / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    for folder in ("images", "fg_masks", "normals", "flame_param"):
        for path in sorted((source.folder / folder).glob("*")):
            digest.update(f"{path.name}:{path.stat().st_size};".encode())
    return digest.hexdigest()[:16]


def move_into_place(staged: Path, out: Path) -> None:
    """Moves a staged avatar's files to `out`; while that lasts, there is no avatar.json and so no avatar."""
    with storage_errors(out):
        (out / MANIFEST).unlink(missing_ok=True)
        for path in sorted(staged.iterdir(), key=lambda p: p.name == MANIFEST):
            if path.is_dir():
                shutil.rmtree(out / path.name, ignore_errors=True)
            path.replace(out / path.name)


def _one_view(source: ClipSet) -> bool:
    """Whether all frames were seen by one camera that stands still."""
    first = source.camera(0).viewmat
    return source.num_cameras == 1 and all(torch.equal(source.camera(0, t).viewmat, first) for t, _ in source.frames)


def _finished(out: Path, identity: str, head: HeadModel) -> Avatar | None:
    """The avatar of an earlier, finished run of the same job."""
    try:
        if read_json(Path(out) / MANIFEST).get("fingerprint") != identity:
            return None
        return load_avatar(out, head)
    except InputError:
        return None


def _words(figures: dict[str, float]) -> str:
    return f"loss {figures['loss']:.4f}, {figures['gaussians']:,.0f} Gaussians" if "gaussians" in figures else ""


def _renamed(report: Callable[..., None], stage: str) -> Callable[..., None]:
    return lambda _, done, words="": report(stage, done, words)
