"""How close an avatar, or a clip set, comes to the true frames of a clip set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from geodiff.clipset import ClipFrame, ClipSet
from geodiff.errors import ClipSetError, UserError
from geodiff.files import write_json, write_text
from geodiff.head.model import HeadModel
from geodiff.metrics.measurement import Measurement
from geodiff.metrics.picture import Pair, Picture
from geodiff.metrics.registry import Setup
from geodiff.metrics.table import Table
from geodiff.raster.mesh import Array
from geodiff.types import Drive
from recon.avatar import MANIFEST, check_encoder, render
from recon.methods import load_avatar


def evaluate(
    target: Path,
    against: Path,
    out: Path | None = None,
    head: HeadModel | None = None,
    every_frame: bool = False,
    progress: Callable[..., None] | None = None,
    metrics: Iterable[str] | None = None,
    weights: Path | None = None,
) -> Table:
    """Measures an avatar or a clip set against the true frames of another clip set.

    target: an avatar folder or a clip set. The held-out frames of `against` are used, all of them where it has none or
    where `every_frame` is set. out: file that the figures are written to (docs/metrics.md), the same tables as Markdown
    beside it. metrics: names of `geodiff.metrics.registry.METRICS`, all of them by default. weights: folder of the
    networks that some metrics need. Raises ClipSetError, HeadModelError, ConfigError.
    """
    truth = ClipSet.open(against, head)
    is_avatar = (Path(target) / MANIFEST).exists()
    candidate = _avatar_source(target, truth) if is_avatar else _clip_source(target, truth)
    measurement = Measurement(metrics, _setup(truth, None if is_avatar else target, weights))
    chosen = sorted(truth.frames if every_frame or not truth.held_out() else truth.held_out())
    measured = 0
    for number, (t, c) in enumerate(chosen, start=1):
        found = candidate(t, c)
        if found is not None:
            measurement.add(_pair(found, truth.frame(t, c), truth))
            measured += 1
        if progress is not None:
            progress("evaluate", number / len(chosen))
    if not measured:
        raise ClipSetError(f"{target} must share frames with {against}, and it has none of them: choose another")
    result = measurement.finish()
    if out is not None:
        write_json(out, {"target": str(target), "against": str(against), **result.record()})
        write_text(out.with_suffix(".md"), result.markdown())
    return result


def _setup(truth: ClipSet, target: Path | None, weights: Path | None) -> Setup:
    """What metrics have besides the frames: the true head's mesh, and the portrait, where they are known."""
    mesh, why = None, ""
    try:
        head = truth.head
    except UserError as error:
        why = f"the head of the true frames cannot be posed ({error})"
    else:
        params = truth.params

        def mesh_of(t: int) -> tuple[Array, Array]:
            return head.vertices(params.frame(t))[0], head.faces

        mesh = mesh_of
    reference = (None if target is None else ClipSet.open(target).reference()) or truth.reference()
    source = None if reference is None else Picture(reference.image.astype(np.float32) / 255)
    return Setup(Path(weights) if weights else None, None, mesh, why, source, truth.fps)


def _pair(result: Picture, frame: ClipFrame, truth: ClipSet) -> Pair:
    """A picture beside the true frame."""
    normals = None if frame.normal is None else frame.normal.astype(np.float32) / 127.5 - 1
    alpha = frame.mask.astype(np.float32) / 255 if truth.has_masks else None
    true = Picture(frame.image.astype(np.float32) / 255, alpha, normals)
    return Pair(result, true, frame.t, frame.c, frame.camera)


def _avatar_source(folder: Path, truth: ClipSet) -> Callable[[int, int], Picture | None]:
    avatar = load_avatar(folder, truth.__dict__.get("head"))
    truth.check_head(avatar.head)
    truth.head = avatar.head
    latents = truth.expression if "expression_latent" in avatar.codes else None
    if latents is not None:
        check_encoder(avatar, truth.expression_encoder, truth.folder)

    def candidate(t: int, c: int) -> Picture:
        codes = {} if latents is None else {"expression_latent": latents[t : t + 1]}
        drive = Drive(avatar.own(truth.params.frame(t)), codes, truth.fps)
        with torch.no_grad():
            view = render(avatar, drive, truth.camera(c, t), normals=True)
        assert view.normals is not None
        return Picture(view.rgb.numpy(), view.alpha[..., 0].numpy(), view.normals.numpy())

    return candidate


def _clip_source(folder: Path, truth: ClipSet) -> Callable[[int, int], Picture | None]:
    clips = ClipSet.open(folder)

    def candidate(t: int, c: int) -> Picture | None:
        if not clips.has(t, c):
            return None
        frame = clips.frame(t, c)
        if frame.image.shape != (truth.camera(c, t).height, truth.camera(c, t).width, 3):
            raise ClipSetError(
                f"clip sets to be compared must have frames of one size, and {folder} has another: resize"
            )
        normals = None if frame.normal is None else frame.normal.astype(np.float32) / 127.5 - 1
        alpha = frame.mask.astype(np.float32) / 255 if clips.has_masks else None
        return Picture(frame.image.astype(np.float32) / 255, alpha, normals)

    return candidate
