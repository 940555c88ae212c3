"""The Gaussian rasteriser in plain torch: slow, readable, differentiable by autograd, in any float type.

It is the twin against which the fast backends are tested; the formulas are stated in `geodiff.raster.gaussians`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geodiff.geometry import quat_to_matrix
from geodiff.raster.gaussians import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN, Rendered, View, expected_depth
from geodiff.types import Gaussians

#: Side of the square of pixels that is composited at once.
TILE = 16


@dataclass(frozen=True)
class Projected:
    """M splats that can be seen, nearest first.

    index: (M,) in the Gaussians. means: (M, 2) pixels. conics: (M, 3) upper triangle of the inverse covariance.
    depths: (M,) camera z. extents: (M, 2) half size in pixels of the box outside of which alpha is below 1/255.
    """

    index: Tensor
    means: Tensor
    conics: Tensor
    depths: Tensor
    extents: Tensor


def project(gaussians: Gaussians, viewmat: Tensor, intrinsics: Tensor, view: View) -> Projected:
    """EWA splatting (Zwicker et al. 2001) as in gsplat; splats that cannot be seen are dropped."""
    local = gaussians.means @ viewmat[:3, :3].T + viewmat[:3, 3]
    index = torch.nonzero((local[:, 2] > view.near) & (gaussians.opacities >= ALPHA_MIN)).squeeze(1)
    index = index[torch.sort(local[index, 2].detach(), stable=True).indices]
    x, y, z = local[index].unbind(-1)
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    means = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)

    tan_x = _clamp(x / z, -cx / fx, (view.width - cx) / fx, 0.15 * view.width / fx)
    tan_y = _clamp(y / z, -cy / fy, (view.height - cy) / fy, 0.15 * view.height / fy)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * tan_x / z, zero, fy / z, -fy * tan_y / z], -1).reshape(-1, 2, 3)
    axes = quat_to_matrix(gaussians.quats[index]) * gaussians.scales[index, None, :]
    axes = jacobian @ viewmat[:3, :3] @ axes
    covariance = axes @ axes.mT + view.eps2d * torch.eye(2, dtype=z.dtype, device=z.device)
    xx, xy, yy = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    determinant = xx * yy - xy * xy
    conics = torch.stack([yy, -xy, xx], -1) / determinant[:, None]
    with torch.no_grad():
        level = 2.0 * torch.log(gaussians.opacities[index] / ALPHA_MIN)
        extents = torch.sqrt(level[:, None] * torch.stack([xx, yy], -1))
    return Projected(index, means, conics, z, extents)


def _clamp(value: Tensor, low: Tensor, high: Tensor, margin: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(value, low - margin), high + margin)


def rasterize(gaussians: Gaussians, viewmats: Tensor, intrinsics: Tensor, backgrounds: Tensor, view: View) -> Rendered:
    """See `geodiff.raster.gaussians.rasterize`."""
    views = [_render(gaussians, *each, view) for each in zip(viewmats, intrinsics, backgrounds, strict=True)]
    colors, alphas, depths = (torch.stack(maps) for maps in zip(*views, strict=True))
    return Rendered(colors, alphas, depths)


def _render(gaussians: Gaussians, viewmat: Tensor, intrinsics: Tensor, background: Tensor, view: View) -> tuple:
    splats = project(gaussians, viewmat, intrinsics, view)
    low = (splats.means - splats.extents).detach()
    high = (splats.means + splats.extents).detach()
    opacities = gaussians.opacities[splats.index]
    features = torch.cat([gaussians.colors[splats.index], splats.depths[:, None]], -1)
    bands = []
    for top in range(0, view.height, TILE):
        tiles = []
        in_band = torch.nonzero((low[:, 1] < top + TILE) & (high[:, 1] > top)).squeeze(1)
        for left in range(0, view.width, TILE):
            rows = torch.arange(top, min(top + TILE, view.height))
            columns = torch.arange(left, min(left + TILE, view.width))
            pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).reshape(-1, 2).to(features) + 0.5
            near = in_band[(low[in_band, 0] < left + TILE) & (high[in_band, 0] > left)]
            composited = _composite(splats.means[near], splats.conics[near], opacities[near], features[near], pixels)
            tiles.append(composited.reshape(len(rows), len(columns), -1))
        bands.append(torch.cat(tiles, 1))
    image = torch.cat(bands, 0)
    colors, accumulated, alphas = image[..., :-2], image[..., -2:-1], image[..., -1:]
    return colors + (1.0 - alphas) * background, alphas, expected_depth(accumulated, alphas)


def _composite(means: Tensor, conics: Tensor, opacities: Tensor, features: Tensor, pixels: Tensor) -> Tensor:
    """Front-to-back blending (Kerbl et al. 2023, equation 3). M splats, P pixels -> (P, channels + 1), alpha last."""
    dx = pixels[:, 0] - means[:, :1]
    dy = pixels[:, 1] - means[:, 1:]
    a, b, c = (conics[:, i : i + 1] for i in range(3))
    power = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (opacities[:, None] * torch.exp(-power)).clamp_max(ALPHA_MAX)
    alpha = torch.where(alpha >= ALPHA_MIN, alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1.0 - alpha, 0)
    before = torch.cat([torch.ones_like(after[:1]), after[:-1]])
    weights = torch.where(after > TRANSMITTANCE_MIN, alpha * before, torch.zeros_like(alpha))
    return weights.T @ torch.cat([features, torch.ones_like(features[:, :1])], -1)
