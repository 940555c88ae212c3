"""Figures of every frame, and their means over groups of frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np

from geodiff.metrics.checks import NotMeasured
from geodiff.metrics.image import psnr
from geodiff.metrics.picture import Pair, Picture
from geodiff.metrics.registry import METRICS, Metric, Setup, choose_metrics
from geodiff.synth.bench.definition import ANGLES, angle_bin

#: What is measured unless other names are given: every metric of single frames that needs no portrait.
DEFAULT_METRICS = (
    "psnr", "ssim", "ms_ssim", "lpips", "high_frequency", "psnr_full", "normal_degrees", "mask_iou", "faces_found",
    "akd", "mlmd", "aed", "apd", "csim_truth",
)  # fmt: skip
#: The metrics of the normals task, taken on the frames of self-reenactment.
NORMAL_METRICS = ("normal_degrees", "mask_iou")
#: The portrait sees a pixel where its visibility exceeds this.
SEEN = 0.5


@dataclass(frozen=True)
class Figure:
    """How a figure is called. better: as in `geodiff.metrics.registry.Metric`."""

    name: str
    heading: str
    unit: str
    better: str


#: Figures of the bench's own: PSNR where the portrait sees what the frame shows, and where it does not.
EXTRA = (
    Figure("psnr_seen", "PSNR, what the portrait shows", "dB", "higher"),
    Figure("psnr_hidden", "PSNR, what it does not show", "dB", "higher"),
)
FIGURES: dict[str, Figure] = {
    **{m.name: Figure(m.name, m.heading, m.unit, m.better) for m in METRICS.values() if m.scope == "frame"},
    **{figure.name: figure for figure in EXTRA},
}


@dataclass(frozen=True)
class Score:
    """One frame measured.

    task, identity, shot: which frame; angle: degrees from the face's front; expression: "ordinary" or "extreme"; part:
    of the avatar task, "views" or "expressions", else empty. kind: of the parameters, "tracked" or "true". method:
    "result" or "proposal". figures: name -> value. missing: name -> why there is none.
    """

    task: str
    identity: int
    shot: int
    angle: float
    expression: str
    kind: str
    method: str
    figures: dict[str, float]
    missing: dict[str, str] = field(default_factory=dict)
    part: str = ""

    def record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Mean:
    """value: None where nothing was measured, for `reason`. count: of frames."""

    value: float | None
    count: int
    reason: str = ""


def measure(
    result: Picture, truth: Picture, visibility: np.ndarray, metrics: Sequence[Metric], setup: Setup
) -> tuple[dict[str, float], dict[str, str]]:
    """Figures of one frame, and why others are missing. visibility: (H, W) 0..1 of the proposal, for EXTRA."""
    pair = Pair(result, truth)
    figures: dict[str, float] = {}
    missing: dict[str, str] = {}
    for metric in metrics:
        try:
            metric.available(setup)
            figures[metric.name] = float(metric.measure([pair], setup))
        except NotMeasured as reason:
            missing[metric.name] = str(reason)
    seen = pair.region & (visibility > SEEN)
    for name, mask in (("psnr_seen", seen), ("psnr_hidden", pair.region & ~seen)):
        if mask.any():
            figures[name] = psnr(result.image, truth.image, mask)
        else:
            missing[name] = "the frame shows nothing of the kind"
    return figures, missing


def frame_metrics(names: Iterable[str] | None = None) -> list[Metric]:
    """Metrics of these names, `DEFAULT_METRICS` for None. Raises ConfigError for names that are unknown."""
    return [metric for metric in choose_metrics(DEFAULT_METRICS if names is None else names) if metric.scope == "frame"]


def sized(picture: Picture, side: int) -> Picture:
    """A picture at the bench's size; the same object where it has it."""
    if picture.size == (side, side):
        return picture
    mode = cv2.INTER_AREA if picture.size[0] > side else cv2.INTER_LINEAR

    def resize(array: np.ndarray | None) -> np.ndarray | None:
        if array is None:
            return None
        return cv2.resize(np.ascontiguousarray(array, np.float32), (side, side), interpolation=mode)

    image = resize(picture.image)
    assert image is not None
    return Picture(image, resize(picture.alpha), resize(picture.normals))


def groups(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """Scores by what they are shown at: "all", ranges of the view angle ("0-30"), expressions, parts of the task.

    Groups that are empty or hold everything are left out, "all" apart.
    """
    found: dict[str, list[Score]] = {"all": list(scores)}
    for number, (low, high) in enumerate(zip(ANGLES[:-1], ANGLES[1:], strict=True)):
        found[f"{low:g}-{high:g}"] = [score for score in scores if angle_bin(score.angle) == number]
    for name in ("ordinary", "extreme"):
        found[name] = [score for score in scores if score.expression == name]
    for name in ("views", "expressions"):
        found[name] = [score for score in scores if score.part == name]
    return {k: part for k, part in found.items() if k == "all" or 0 < len(part) < len(scores)}


def means(scores: Sequence[Score]) -> dict[str, Mean]:
    """Figure name -> mean over frames, in the order of tables."""
    named = {name for score in scores for name in (*score.figures, *score.missing)}
    found = {}
    for name in (n for n in FIGURES if n in named):
        values = [score.figures[name] for score in scores if name in score.figures]
        reasons = Counter(score.missing[name] for score in scores if name in score.missing)
        reason = reasons.most_common(1)[0][0] if reasons and not values else ""
        found[name] = Mean(float(np.mean(values)) if values else None, len(values), reason)
    return found


def chosen(scores: Iterable[Score], **wanted: str) -> list[Score]:
    """The scores whose fields have these values."""
    return [score for score in scores if all(getattr(score, name) == value for name, value in wanted.items())]
