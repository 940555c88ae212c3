"""Every metric by its name: what it is called, what it needs, which way is better, and how it is taken."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from geodiff.errors import ConfigError
from geodiff.head.model import HeadModel
from geodiff.metrics import geometry, identity, image, motion, perceptual, video, views
from geodiff.metrics.checks import NotMeasured
from geodiff.metrics.picture import Pair, Picture
from geodiff.raster.mesh import Array

Better = Literal["higher", "lower", "one", "reference"]
Scope = Literal["frame", "step", "clip", "moment"]
#: Consecutive frames that a video needs for a figure of its motion.
MIN_CLIP = 4


@dataclass
class Setup:
    """What a measurement has besides the frames.

    weights: folder of networks that the user names. head: fitted to faces for expression and pose; by default the
    bundled one, so that figures of different clip sets compare. mesh: timestep -> true vertices (V, 3) in the world and
    faces (F, 3), or None; why_no_mesh: then the reason. source: the portrait that the result was made from, or None.
    fps: frames a second.
    """

    weights: Path | None = None
    head: HeadModel | None = None
    mesh: Callable[[int], tuple[Array, Array]] | None = None
    why_no_mesh: str = "no head mesh of the true frames is known"
    source: Picture | None = None
    fps: float = 25.0

    @cached_property
    def face_head(self) -> HeadModel:
        if self.head is not None:
            return self.head
        from geodiff.head import load_head

        return load_head("builtin")

    @cached_property
    def identity_of_source(self) -> np.ndarray:
        if self.source is None:
            raise NotMeasured("neither clip set holds the portrait that the result was made from")
        return _identity(self.source, "the source portrait", self)


@dataclass(frozen=True)
class Metric:
    """One metric.

    name: key in tables and files. heading: what people read. unit: of the figure, or "". better: which way; "one" means
    nearest to 1, "reference" marks the truth's own figure. scope: what `measure` is given: one pair ("frame"), two
    consecutive pairs of a view ("step"), the longest run of them ("clip"), all views of a timestep ("moment").
    measure: (frames, Setup) -> figure; raises NotMeasured. available: Setup -> nothing; raises NotMeasured where the
    machine or the clip set cannot give the metric at all.
    """

    name: str
    heading: str
    unit: str
    better: Better
    scope: Scope
    measure: Callable[[Sequence[Pair], Setup], float]
    available: Callable[[Setup], object] = field(default=lambda setup: None)


def _identity(picture: Picture, name: str, setup: Setup) -> np.ndarray:
    return identity.load_arcface(setup.weights).embed(picture.bytes, picture.face(name))


def _images(function: Callable[..., float], where: str = "region") -> Callable[[Sequence[Pair], Setup], float]:
    """Measures two images. where: name of the mask of a pair, "" for the whole frame."""

    def measure(pairs: Sequence[Pair], setup: Setup) -> float:
        (pair,) = pairs
        return function(pair.result.image, pair.truth.image, getattr(pair, where) if where else None)

    return measure


def _lpips(net: str, where: str = "region") -> Callable[[Sequence[Pair], Setup], float]:
    def measure(pairs: Sequence[Pair], setup: Setup) -> float:
        network = perceptual.load_lpips(net, setup.weights)
        return _images(lambda *arguments: perceptual.lpips(network, *arguments), where)(pairs, setup)

    return measure


def _normals(pairs: Sequence[Pair], setup: Setup) -> float:
    (pair,) = pairs
    if pair.result.normals is None or pair.truth.normals is None:
        raise NotMeasured(f"the {'truth' if pair.truth.normals is None else 'result'} has no normal maps")
    angle = geometry.normal_angular_error(pair.result.normals, pair.truth.normals, pair.matte > 0.5)
    if not np.isfinite(angle):
        raise NotMeasured("the true normal map is empty")
    return angle


def _iou(pairs: Sequence[Pair], setup: Setup) -> float:
    (pair,) = pairs
    if pair.result.alpha is None:
        raise NotMeasured("the result has no foreground masks")
    if pair.truth.alpha is None:
        raise NotMeasured("the truth has no foreground masks")
    return geometry.mask_iou(pair.result.alpha, pair.truth.alpha)


def _faces_found(pairs: Sequence[Pair], setup: Setup) -> float:
    """Of the true frames that show a face, the share whose results show one: what the metrics of faces leave out."""
    (pair,) = pairs
    pair.truth.face("the true frame")
    return float(pair.result.landmarks is not None)


def _landmarks(function: Callable[..., float]) -> Callable[[Sequence[Pair], Setup], float]:
    def measure(pairs: Sequence[Pair], setup: Setup) -> float:
        (pair,) = pairs
        truth, side = pair.truth.face("the true frame"), max(pair.truth.size)
        return function(pair.result.face("the result"), truth, side)

    return measure


def _poses(function: Callable[..., float]) -> Callable[[Sequence[Pair], Setup], float]:
    def measure(pairs: Sequence[Pair], setup: Setup) -> float:
        (pair,) = pairs
        pair.truth.face("the true frame")  # before a head is loaded for nothing
        truth = pair.truth.pose(setup.face_head, "the true frame")
        return function(pair.result.pose(setup.face_head, "the result"), truth)

    return measure


def _csim(pairs: Sequence[Pair], setup: Setup) -> float:
    return identity.csim(_identity(pairs[0].result, "the result", setup), setup.identity_of_source)


def _csim_truth(pairs: Sequence[Pair], setup: Setup) -> float:
    truth = _identity(pairs[0].truth, "the true frame", setup)
    return identity.csim(_identity(pairs[0].result, "the result", setup), truth)


def _flicker(of: str) -> Callable[[Sequence[Pair], Setup], float]:
    def measure(pairs: Sequence[Pair], setup: Setup) -> float:
        first, second = pairs
        region = first.region if first.truth.alpha is not None else None
        moved = video.estimate_motion(first.truth.bytes, second.truth.bytes)
        return video.flicker(getattr(first, of).image, getattr(second, of).image, moved, region)

    return measure


def _jod(predictor: str) -> Callable[[Sequence[Pair], Setup], float]:
    def measure(pairs: Sequence[Pair], setup: Setup) -> float:
        if len(pairs) < MIN_CLIP:
            raise NotMeasured(f"no {MIN_CLIP} consecutive frames of a view are among those measured (--every-frame)")
        result, truth = (np.stack([getattr(p, of).bytes for p in pairs]) for of in ("result", "truth"))
        return video.jod(result, truth, setup.fps, predictor)

    return measure


def _has_jod(predictor: str) -> Callable[[Setup], object]:
    def available(setup: Setup) -> None:
        if reason := video.why_no_jod(predictor):
            raise NotMeasured(reason)

    return available


def _cross_view(of: str) -> Callable[[Sequence[Pair], Setup], float]:
    def measure(pairs: Sequence[Pair], setup: Setup) -> float:
        cameras = [pair.camera for pair in pairs if pair.camera is not None]
        if setup.mesh is None or len(cameras) < len(pairs):
            raise NotMeasured(setup.why_no_mesh)
        vertices, faces = setup.mesh(pairs[0].t)
        masks = [pair.matte > 0.5 for pair in pairs] if all(p.truth.alpha is not None for p in pairs) else None
        return views.cross_view_error([getattr(p, of).image for p in pairs], cameras, vertices, faces, masks)

    return measure


def _has_mesh(setup: Setup) -> None:
    if setup.mesh is None:
        raise NotMeasured(setup.why_no_mesh)


def _has_lpips(net: str) -> Callable[[Setup], object]:
    return lambda setup: perceptual.load_lpips(net, setup.weights)


def _has_arcface(setup: Setup) -> object:
    return identity.load_arcface(setup.weights)


def _has_source(setup: Setup) -> object:
    _has_arcface(setup)
    return setup.identity_of_source


#: In the order of tables. `_full` is the whole frame; without it, the true matte dilated by 2% of the side.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR", "dB", "higher", "frame", _images(image.psnr)),
        Metric("ssim", "SSIM", "", "higher", "frame", _images(image.ssim)),
        Metric("ms_ssim", "MS-SSIM", "", "higher", "frame", _images(image.ms_ssim)),
        Metric("lpips", "LPIPS (AlexNet)", "", "lower", "frame", _lpips("alex"), _has_lpips("alex")),
        Metric("lpips_vgg", "LPIPS (VGG)", "", "lower", "frame", _lpips("vgg"), _has_lpips("vgg")),
        # Inside the matte: the silhouette's edge would outweigh the detail of the head.
        Metric("high_frequency", "fine detail / truth", "", "one", "frame",
               _images(image.high_frequency_ratio, "interior")),
        Metric("psnr_full", "PSNR, frame", "dB", "higher", "frame", _images(image.psnr, "")),
        Metric("ssim_full", "SSIM, frame", "", "higher", "frame", _images(image.ssim, "")),
        Metric("ms_ssim_full", "MS-SSIM, frame", "", "higher", "frame", _images(image.ms_ssim, "")),
        Metric("lpips_full", "LPIPS (AlexNet), frame", "", "lower", "frame", _lpips("alex", ""), _has_lpips("alex")),
        Metric("lpips_vgg_full", "LPIPS (VGG), frame", "", "lower", "frame", _lpips("vgg", ""), _has_lpips("vgg")),
        Metric("high_frequency_full", "fine detail / truth, frame", "", "one", "frame",
               _images(image.high_frequency_ratio, "")),
        Metric("normal_degrees", "normals", "degrees", "lower", "frame", _normals),
        Metric("mask_iou", "mask IoU", "", "higher", "frame", _iou),
        Metric("faces_found", "faces found", "", "higher", "frame", _faces_found),
        Metric("akd", "AKD", "px at 512", "lower", "frame", _landmarks(motion.akd)),
        Metric("flmd", "FLMD", "px at 512", "lower", "frame", _landmarks(motion.flmd)),
        Metric("mlmd", "MLMD", "px at 512", "lower", "frame", _landmarks(motion.mlmd)),
        Metric("aed", "AED", "", "lower", "frame", _poses(motion.aed)),
        Metric("apd", "APD", "rad", "lower", "frame", _poses(motion.apd)),
        Metric("aec", "AEC", "", "higher", "frame", _poses(motion.aec)),
        Metric("apc", "APC", "", "higher", "frame", _poses(motion.apc)),
        Metric("csim", "CSIM, source", "", "higher", "frame", _csim, _has_source),
        Metric("csim_truth", "CSIM, true frame", "", "higher", "frame", _csim_truth, _has_arcface),
        Metric("jod", "JOD (FovVideoVDP)", "", "higher", "clip", _jod("fvvdp"), _has_jod("fvvdp")),
        Metric("jod_color", "JOD (ColorVideoVDP)", "", "higher", "clip", _jod("cvvdp"), _has_jod("cvvdp")),
        Metric("flicker", "flicker", "levels", "lower", "step", _flicker("result")),
        Metric("flicker_truth", "flicker of the truth", "levels", "reference", "step", _flicker("truth")),
        Metric("cross_view", "cross-view error", "levels", "lower", "moment", _cross_view("result"), _has_mesh),
        Metric("cross_view_truth", "cross-view error of the truth", "levels", "reference", "moment",
               _cross_view("truth"), _has_mesh),
    )
}  # fmt: skip


def choose_metrics(names: Iterable[str] | None) -> list[Metric]:
    """The metrics of these names in the order of tables, all of them for None. Raises ConfigError for another name."""
    if names is None:
        return list(METRICS.values())
    wanted = list(names)
    for name in wanted:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(METRICS)}"
            raise ConfigError(f"metrics must be known by name, and {name!r} is not: {hint}")
    if not wanted:
        raise ConfigError(f"at least one metric must be named, none was: choose from {', '.join(METRICS)}")
    return [metric for metric in METRICS.values() if metric.name in wanted]
