"""Rasterising 3D Gaussians: one signature, three backends.

The image of N Gaussians is 3D Gaussian splatting (Kerbl et al. 2023, section 4 and 6) with gsplat's classic mode as the
yardstick:
- EWA projection: cov2d = J W cov W^T J^T + eps2d I, where J is the Jacobian of the projection at the mean, whose x / z
  and y / z are held within the image widened by 30% of half its size;
- alpha = min(0.999, opacity * exp(-0.5 d^T cov2d^-1 d)), d from the projected mean to the pixel's centre (at +0.5);
  below 1/255 it counts as zero;
- front to back by the depth of the means (equal depths: the lower index first); a pixel stops before the Gaussian that
  would bring its transmittance to 1e-4 or below.

gsplat from version 1.5 does the same; earlier ones cut Gaussians off at three standard deviations. (Kerbl et al. hold
alpha at 0.99.)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from geodiff.types import Gaussians

ALPHA_MAX = 0.999
ALPHA_MIN = 1.0 / 255.0
TRANSMITTANCE_MIN = 1e-4


@dataclass(frozen=True)
class Rendered:
    """C views of K channels.

    colors: (C, H, W, K), background included. alphas: (C, H, W, 1) in 0..1. depths: (C, H, W, 1) metres, the mean
    camera z of what is seen: accumulated with the same weights as the colours, divided by alpha; 0 where alpha is 0.
    """

    colors: Tensor
    alphas: Tensor
    depths: Tensor


@dataclass(frozen=True)
class View:
    """What a backend needs to know of the images: size in pixels, nearest depth in metres, dilation (px^2)."""

    width: int
    height: int
    near: float
    eps2d: float


#: gaussians, viewmats (C, 4, 4), Ks (C, 3, 3), backgrounds (C, K), view -> Rendered
Backend = Callable[[Gaussians, Tensor, Tensor, Tensor, View], Rendered]

#: Each names a module with a function `rasterize` of type `Backend`; imported when first used.
BACKENDS = {
    "cpu": "geodiff.raster.cpu",
    "cuda": "geodiff.raster.cuda",
    "reference": "geodiff.raster.reference",
}


def rasterize(
    gaussians: Gaussians,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    backgrounds: Tensor | None = None,
    backend: str = "auto",
    near: float = 0.01,
    eps2d: float = 0.3,
) -> Rendered:
    """Images of the Gaussians, differentiable in all their fields, in `viewmats` and in `backgrounds`.

    viewmats: (C, 4, 4) world-to-camera, OpenCV axes. Ks: (C, 3, 3) intrinsics in pixels, without skew. backgrounds:
    (C, K), black by default. backend: "cpu" (numba, float32), "cuda" (gsplat, needs the extra `cuda`), "reference"
    (plain torch, slow, any float type) or "auto": cuda for tensors that live there, else cpu. Gaussians closer than
    `near` metres are left out.

    Raises ValueError for shapes that do not match and for values that are not finite.
    """
    view = View(int(width), int(height), near, eps2d)
    if backgrounds is None:
        backgrounds = gaussians.colors.new_zeros(len(viewmats), gaussians.colors.shape[-1])
    _check(gaussians, viewmats, Ks, backgrounds, view)
    if backend == "auto":
        backend = "cuda" if gaussians.means.is_cuda else "cpu"
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of auto, {', '.join(BACKENDS)}, found {backend!r}; choose one of them.")
    if backend != "cpu":  # whose kernels look while they read
        refuse_not_finite(**{f.name: getattr(gaussians, f.name) for f in fields(gaussians)})
    render: Backend = importlib.import_module(BACKENDS[backend]).rasterize
    return render(gaussians, viewmats, Ks, backgrounds, view)


def expected_depth(accumulated: Tensor, alphas: Tensor) -> Tensor:
    """Accumulated depth / alpha, 0 where alpha is 0; gradients stay finite."""
    return accumulated / alphas.clamp_min(0.5 * ALPHA_MIN)


def refuse_not_finite(**arrays: Tensor | np.ndarray) -> None:
    """Raises ValueError that names the first array with a value that is not finite."""
    for name, array in arrays.items():
        if not _is_finite(torch.as_tensor(array)):
            raise ValueError(
                f"{name} must be finite, found NaN or infinity; lower the learning rate or check the input."
            )


def _check(gaussians: Gaussians, viewmats: Tensor, intrinsics: Tensor, backgrounds: Tensor, view: View) -> None:
    n, views, channels = len(gaussians), len(viewmats), gaussians.colors.shape[-1]
    expected = {
        "means": (gaussians.means, (n, 3)),
        "quats": (gaussians.quats, (n, 4)),
        "scales": (gaussians.scales, (n, 3)),
        "opacities": (gaussians.opacities, (n,)),
        "colors": (gaussians.colors, (n, channels)),
        "viewmats": (viewmats, (views, 4, 4)),
        "Ks": (intrinsics, (views, 3, 3)),
        "backgrounds": (backgrounds, (views, channels)),
    }
    assert {f.name for f in fields(gaussians)} <= expected.keys()
    if view.width < 1 or view.height < 1:
        raise ValueError(
            f"the image must have at least one pixel, found {view.width}x{view.height}; give a larger size."
        )
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, found {tuple(tensor.shape)}; reshape it.")
    refuse_not_finite(viewmats=viewmats, Ks=intrinsics, backgrounds=backgrounds)


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all() if tensor.is_cuda else np.isfinite(tensor.detach().numpy()).all())
