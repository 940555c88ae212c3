"""Agreement in time: flicker along the truth's motion, and the visible difference of videos in JOD."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from geodiff.metrics.checks import NotMeasured, check_pair

#: Package, class and display model of the two metrics that predict JOD.
_PREDICTORS = {"fvvdp": ("pyfvvdp", "fvvdp"), "cvvdp": ("pycvvdp", "cvvdp")}
_DISPLAY = "standard_4k"
#: Slower videos are steps from picture to picture, which the filters of a quarter of a second cannot tell from flicker.
MIN_FPS = 10.0


@dataclass(frozen=True)
class Motion2D:
    """Where pixels of one frame go in the next.

    target: (H, W, 2) float32 x and y in the next frame, pixel centres at whole numbers. visible: (H, W) bool, not
    occluded and not out of the picture.
    """

    target: np.ndarray
    visible: np.ndarray


def flicker(first: np.ndarray, second: np.ndarray, motion: Motion2D, mask: np.ndarray | None = None) -> float:
    """Change between two consecutive frames that the truth's motion does not explain, 0 for a still video.

    The warping error by which Lai et al. 2018 ("Learning blind video temporal consistency") measure stability: the
    second frame is carried back along the optical flow, and the squared difference from the first is averaged over
    pixels that are not occluded. Given as its root in levels of 8 bits. The flow is the truth's, so that a blurred
    result cannot gain by a vague flow of its own.

    first, second: (H, W, 3) in 0..1. motion: `estimate_motion` of the true frames. mask: (H, W) bool, or all pixels.
    Raises ValueError for other shapes, values that are not finite and an empty mask; NotMeasured when nothing is left.
    """
    check_pair(second, first, mask)
    seen = motion.visible if mask is None else motion.visible & mask
    if not seen.any():
        raise NotMeasured("everything is occluded from one frame to the next")
    carried = sample(second, motion.target)
    squared = np.square(first.astype(np.float64) - carried).mean(-1)
    return float(255 * np.sqrt(squared[seen].mean()))


def sample(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Bilinear values of an image (h, w, C) at places (H, W, 2), x and y with pixel centres at whole numbers ->
    (H, W, C) float32. Beyond its border the image goes on as it ends."""
    x, y = (np.ascontiguousarray(places[..., i], dtype=np.float32) for i in (0, 1))
    source = np.ascontiguousarray(image, dtype=np.float32)
    return np.asarray(cv2.remap(source, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def estimate_motion(first: np.ndarray, second: np.ndarray) -> Motion2D:
    """Optical flow (dense inverse search, Kroeger et al. 2016) from the first frame to the second and back.

    A pixel is visible where flow there and back agree (Sundaram et al. 2010). first, second: (H, W, 3)
    uint8.
    """
    check_pair(second, first)
    grey, next_grey = (np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)) for frame in (first, second))
    height, width = grey.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    grid = np.stack([x, y], -1)
    if min(height, width) < 16 or np.array_equal(grey, next_grey):
        # The search needs patches of eight pixels at two scales; equal frames have no motion.
        return Motion2D(grid, np.ones((height, width), bool))
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    empty = np.zeros((height, width, 2), np.float32)
    forward = np.asarray(search.calc(grey, next_grey, empty.copy()))
    backward = np.asarray(search.calc(next_grey, grey, empty))
    target = grid + forward
    back = sample(backward, target)
    mismatch = np.square(forward + back).sum(-1)
    agree = mismatch < 0.01 * (np.square(forward).sum(-1) + np.square(back).sum(-1)) + 0.5
    inside = (target >= 0).all(-1) & (target[..., 0] <= width - 1) & (target[..., 1] <= height - 1)
    return Motion2D(target.astype(np.float32), agree & inside)


def jod(frames: np.ndarray, truth: np.ndarray, fps: float, predictor: str) -> float:
    """Quality of a video in just-objectionable differences: 10 is no visible difference, 1 less is what three of four
    viewers notice.

    predictor: "fvvdp" is FovVideoVDP (Mantiuk et al. 2021), which GeoDiff4D reports (section 5.1), not foveated;
    "cvvdp" is ColorVideoVDP (Mantiuk et al. 2024), its successor with colour. Both as on a 4K monitor of 30 inches seen
    from 0.75 m, which is each package's `standard_4k`.

    frames, truth: (T, H, W, 3) uint8. Raises ValueError for other shapes; NotMeasured below ten frames a second and
    where the package is absent or fails.
    """
    if frames.shape != truth.shape or frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"videos must be uint8 of one shape (T, H, W, 3), found {frames.shape} and {truth.shape}")
    if not fps > 0:
        raise ValueError(f"the frame rate must be above 0, found {fps}")
    if fps < MIN_FPS:
        raise NotMeasured(f"JOD needs at least {MIN_FPS:.0f} frames a second, these have {fps:g}")
    metric = _load(predictor)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            score, _ = metric.predict(frames, truth, dim_order="FHWC", frames_per_second=fps)
    except Exception as error:  # a fault of another project must not cost the other figures
        raise NotMeasured(f"{_PREDICTORS[predictor][0]} failed ({error})") from error
    return float(score)


def why_no_jod(predictor: str) -> str | None:
    """Why JOD cannot be measured on this machine, or None where it can."""
    try:
        _load(predictor)
    except NotMeasured as error:
        return str(error)
    return None


@lru_cache(maxsize=2)
def _load(predictor: str) -> Any:
    package, name = _PREDICTORS[predictor]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = _import_apart(package)
            return getattr(module, name)(display_name=_DISPLAY, heatmap=None, quiet=True, device=torch.device("cpu"))
    except ModuleNotFoundError as error:
        if error.name != package:
            raise NotMeasured(f"{package} needs {error.name}, which is not installed") from error
        licence = " (for non-commercial use)" if predictor == "fvvdp" else ""
        install = "pip install pyfvvdp" if predictor == "fvvdp" else "pip install 'geodiff[jod]'"
        raise NotMeasured(f"{package} is not installed: {install}{licence}") from error
    except Exception as error:  # whatever stops another project's import must not stop the other metrics
        reason = str(error).strip().splitlines()
        raise NotMeasured(f"{package} does not load here ({reason[0] if reason else type(error).__name__})") from error


def _import_apart(package: str) -> Any:
    """Imports a package that puts its own folder on the path and imports modules of common names from it.

    Both predictors do so, under the same names (`interp`, `third_party`): they are taken out again afterwards.
    """
    path, before = list(sys.path), set(sys.modules)
    try:
        module = importlib.import_module(package)
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if name.partition(".")[0] != package and file and package in Path(file).parts:
                del sys.modules[name]
    return module
