"""The Gaussian rasteriser on CUDA, by gsplat.

Its conventions are those of `geodiff.raster.gaussians`: quaternions (w, x, y, z), pixel centres at +0.5, alpha held at
0.999 and dropped below 1/255, pixels that stop at a transmittance of 1e-4, depth divided by alpha, backgrounds added to
the colours and not to the depth. Everything must live on one CUDA device, in float32.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from geodiff.errors import MissingDependencyError
from geodiff.raster.gaussians import Rendered, View
from geodiff.types import Gaussians


def _gsplat() -> ModuleType:
    try:
        import gsplat
    except ImportError as error:
        raise MissingDependencyError(
            "the cuda backend of the Gaussian rasteriser needs gsplat, which is not installed; "
            "install it with `pip install geodiff[cuda]`, or choose the backend cpu."
        ) from error
    return gsplat


def rasterize(gaussians: Gaussians, viewmats: Tensor, intrinsics: Tensor, backgrounds: Tensor, view: View) -> Rendered:
    """See `geodiff.raster.gaussians.rasterize`. Raises MissingDependencyError without gsplat or a CUDA device."""
    gsplat = _gsplat()
    if not torch.cuda.is_available():
        raise MissingDependencyError(
            "the cuda backend of the Gaussian rasteriser needs a CUDA device and torch built for it, and found none; "
            "choose the backend cpu."
        )
    colors, alphas, _ = gsplat.rasterization(
        means=gaussians.means,
        quats=gaussians.quats,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=gaussians.colors,
        viewmats=viewmats,
        Ks=intrinsics,
        width=view.width,
        height=view.height,
        near_plane=view.near,
        eps2d=view.eps2d,
        backgrounds=backgrounds,
        render_mode="RGB+ED",
        rasterize_mode="classic",
        packed=False,
    )
    return Rendered(colors[..., :-1], alphas, colors[..., -1:])
