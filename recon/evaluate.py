"""How close an avatar, or a clip set, comes to the true frames of a clip set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geodiff.clipset import ClipFrame, ClipSet
from geodiff.errors import ClipSetError
from geodiff.files import write_json
from geodiff.head.model import HeadModel
from geodiff.metrics.geometry import mask_iou, normal_angular_error
from geodiff.metrics.image import evaluation_mask, psnr, ssim
from geodiff.types import Drive
from recon.avatar import MANIFEST, check_encoder, render
from recon.methods import load_avatar

#: What is measured: key -> (heading, unit). `_full` is the whole frame, the others the true matte dilated by 2%.
COLUMNS = {
    "psnr": ("PSNR", "dB"), "ssim": ("SSIM", ""), "psnr_full": ("PSNR, frame", "dB"), "ssim_full": ("SSIM, frame", ""),
    "normal_degrees": ("normals", "degrees"), "mask_iou": ("mask IoU", ""),
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """What is measured in one frame: rgb (H, W, 3) 0..1, alpha (H, W) 0..1, normals (H, W, 3) -1..1 or None."""

    rgb: np.ndarray
    alpha: np.ndarray
    normals: np.ndarray | None


@dataclass(frozen=True)
class Evaluation:
    """mean: key -> figure over all frames. views: camera number -> the same over its frames. frames: how many."""

    mean: dict[str, float]
    views: dict[int, dict[str, float]]
    frames: int

    def rows(self) -> list[list[str]]:
        """A table with a heading, one row a view and the mean at the end."""
        keys = [key for key in COLUMNS if key in self.mean]
        titles = [f"{COLUMNS[k][0]} ({COLUMNS[k][1]})" if COLUMNS[k][1] else COLUMNS[k][0] for k in keys]
        rows = [["view", *titles]]
        for name, values in [*((str(c), v) for c, v in sorted(self.views.items())), ("mean", self.mean)]:
            rows.append([name, *(f"{values[k]:.3f}" if k in values else "" for k in keys)])
        return rows


def evaluate(
    target: Path,
    against: Path,
    out: Path | None = None,
    head: HeadModel | None = None,
    every_frame: bool = False,
    progress: Callable[..., None] | None = None,
) -> Evaluation:
    """Measures an avatar or a clip set against the true frames of another clip set.

    target: an avatar folder or a clip set. The held-out frames of `against` are used, all of them where it has none or
    where `every_frame` is set. out: file that the figures are written to.
    """
    truth = ClipSet.open(against, head)
    candidate = _avatar_source(target, truth) if (Path(target) / MANIFEST).exists() else _clip_source(target, truth)
    chosen = truth.frames if every_frame or not truth.held_out() else truth.held_out()
    figures: dict[int, list[dict[str, float]]] = defaultdict(list)
    for number, (t, c) in enumerate(chosen, start=1):
        found = candidate(t, c)
        if found is not None:
            figures[c].append(measure(found, truth.frame(t, c), truth.has_masks))
        if progress is not None:
            progress("evaluate", number / len(chosen))
    if not figures:
        raise ClipSetError(f"{target} must share frames with {against}, and it has none of them: choose another")
    views = {c: _mean(values) for c, values in figures.items()}
    everything = [value for values in figures.values() for value in values]
    result = Evaluation(_mean(everything), views, len(everything))
    if out is not None:
        write_json(out, to_record(result, target, against))
    return result


def to_record(result: Evaluation, target: Path, against: Path) -> dict[str, Any]:
    """The contents of metrics.json."""
    views = {str(c): values for c, values in result.views.items()}
    return {
        "target": str(target), "against": str(against), "frames": result.frames, "mean": result.mean, "views": views,
    }  # fmt: skip


def measure(candidate: Candidate, truth: ClipFrame, has_mask: bool = True) -> dict[str, float]:
    """All figures of one frame; has_mask: whether the truth's matte is known, without it only the frame is measured."""
    image, matte = truth.image.astype(np.float32) / 255, truth.mask.astype(np.float32) / 255
    region = evaluation_mask(matte)
    values = {"psnr_full": psnr(candidate.rgb, image), "ssim_full": ssim(candidate.rgb, image)}
    if not has_mask:
        return values
    if region.any():
        values["psnr"] = psnr(candidate.rgb, image, region)
        values["ssim"] = ssim(candidate.rgb, image, region)
    values["mask_iou"] = mask_iou(candidate.alpha, matte)
    if candidate.normals is not None and truth.normal is not None:
        normals = truth.normal.astype(np.float32) / 127.5 - 1
        angle = normal_angular_error(candidate.normals, normals, matte > 0.5)
        if np.isfinite(angle):
            values["normal_degrees"] = angle
    return values


def _avatar_source(folder: Path, truth: ClipSet) -> Callable[[int, int], Candidate | None]:
    avatar = load_avatar(folder, truth.__dict__.get("head"))
    truth.check_head(avatar.head)
    latents = truth.expression if "expression_latent" in avatar.codes else None
    if latents is not None:
        check_encoder(avatar, truth.expression_encoder, truth.folder)

    def candidate(t: int, c: int) -> Candidate:
        codes = {} if latents is None else {"expression_latent": latents[t : t + 1]}
        drive = Drive(avatar.own(truth.params.frame(t)), codes, truth.fps)
        with torch.no_grad():
            view = render(avatar, drive, truth.camera(c, t), normals=True)
        assert view.normals is not None
        return Candidate(view.rgb.numpy(), view.alpha[..., 0].numpy(), view.normals.numpy())

    return candidate


def _clip_source(folder: Path, truth: ClipSet) -> Callable[[int, int], Candidate | None]:
    clips = ClipSet.open(folder)

    def candidate(t: int, c: int) -> Candidate | None:
        if not clips.has(t, c):
            return None
        frame = clips.frame(t, c)
        if frame.image.shape != (truth.camera(c, t).height, truth.camera(c, t).width, 3):
            raise ClipSetError(
                f"clip sets to be compared must have frames of one size, and {folder} has another: resize"
            )
        normals = None if frame.normal is None else frame.normal.astype(np.float32) / 127.5 - 1
        return Candidate(frame.image.astype(np.float32) / 255, frame.mask.astype(np.float32) / 255, normals)

    return candidate


def _mean(values: list[dict[str, float]]) -> dict[str, float]:
    keys = {key for value in values for key in value}
    return {key: float(np.mean([v[key] for v in values if key in v])) for key in COLUMNS if key in keys}
