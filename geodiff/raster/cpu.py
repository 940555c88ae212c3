"""The Gaussian rasteriser on a CPU: numba kernels behind a `torch.autograd.Function`.

Everything is float32 (the projection float64 inside its kernels) and bitwise the same from run to run, whatever the
number of threads: every (tile, splat) pair has a gradient slot of its own, and slots are added in a fixed order.

Kernels share their work among `threads`. Nothing as long as the Gaussians or the image is left to torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geodiff.raster import cpu_binning, cpu_compositing, cpu_projection, cpu_projection_backward, threads
from geodiff.raster.buffers import take
from geodiff.raster.cpu_projection import CAMERA_WIDTH, CHUNK, FEATURES, MOMENTS, TILE
from geodiff.raster.gaussians import Rendered, View, refuse_not_finite
from geodiff.raster.simd import LANES
from geodiff.types import Gaussians

#: Below this many splats (or pairs of tile and splat) waking a second thread costs more than it saves.
_WORTH_THREADS = 512


def _share(kernel: Callable[..., None], work: int, *arguments: object, after: tuple = ()) -> None:
    """Run the kernel on several threads; `counter`, from which they draw their work, goes between the arguments."""
    counter = np.zeros(1, np.int64)
    helpers = threads.count() - 1 if work > _WORTH_THREADS else 0
    threads.together(lambda: kernel(*arguments, counter, *after), helpers)


@dataclass(frozen=True)
class _Splats:
    """The Gaussians as C cameras see them; arrays as the kernels describe them."""

    cameras: np.ndarray
    rows: np.ndarray
    first_slot: np.ndarray
    tile_starts: np.ndarray
    entries: np.ndarray
    tile_order: np.ndarray

    def compositing(self) -> tuple[np.ndarray, ...]:
        """The arguments that both compositing kernels take first."""
        return self.rows, self.tile_starts, self.entries, self.tile_order


def _camera_row(viewmat: np.ndarray, intrinsics: np.ndarray, view: View) -> np.ndarray:
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    margin_x, margin_y = 0.15 * view.width / fx, 0.15 * view.height / fy
    limits = [-cx / fx - margin_x, (view.width - cx) / fx + margin_x]
    limits += [-cy / fy - margin_y, (view.height - cy) / fy + margin_y]
    row = np.concatenate([viewmat[:3, :3].reshape(9), viewmat[:3, 3], [fx, fy, cx, cy, *limits, view.near, view.eps2d]])
    assert len(row) == CAMERA_WIDTH
    return row


def _feature_count(channels: int) -> int:
    """Depth, colours and padding: kernels are compiled for few counts, those of common uses without padding (colours;
    colours and normals; eight channels)."""
    features = 1 + channels
    return next((count for count in (4, 7, 9) if count >= features), -(-(features - 1) // 8) * 8 + 1)


def _room(columns: int) -> int:
    """The columns up to a multiple of a cache line."""
    return -(-columns // LANES) * LANES


def _project(arrays: tuple[np.ndarray, ...], cameras: np.ndarray, view: View) -> _Splats:
    """arrays: means, quats, scales, opacities, colours."""
    n, num_views = len(arrays[0]), len(cameras)
    features = _feature_count(arrays[4].shape[1])
    rows = take((num_views * n, _room(FEATURES + features)), np.float32)
    keys, boxes = take((num_views * n,), np.uint32), take((num_views * n,), np.int64)
    finite = np.ones(-(-n // CHUNK), np.bool_)
    inputs = (*arrays, cameras, (view.width, view.height), features)
    _share(cpu_projection.project, num_views * n, *inputs, after=(rows, keys, boxes, finite))
    if not finite.all():
        refuse_not_finite(**dict(zip(("means", "quats", "scales", "opacities", "colors"), arrays, strict=True)))
    num_columns, num_rows = -(-view.width // TILE), -(-view.height // TILE)
    first_slot, tile_starts = cpu_binning.count_tiles(boxes, num_views, num_columns, num_rows)
    entries = take((int(tile_starts[-1]), 2), np.int32)
    work = 0 if num_views == 1 else num_views * n
    _share(cpu_binning.fill_tiles, work, keys, boxes, first_slot, tile_starts, num_views, num_columns, after=(entries,))
    tile_order = np.argsort(-np.diff(tile_starts), kind="stable")  # the fullest first, so that threads end together
    return _Splats(cameras, rows, first_slot, tile_starts, entries, tile_order)


def _composite(splats: _Splats, backgrounds: np.ndarray, view: View) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Images (colours, alphas, depths), and the blocks that each entry reaches."""
    shape = (len(backgrounds), view.height, view.width)
    images = (take((*shape, backgrounds.shape[1]), np.float32), take(shape, np.float32), take(shape, np.float32))
    reached = take((len(splats.entries),), np.int64)
    counted = (0,) * _feature_count(backgrounds.shape[1])
    _share(
        cpu_compositing.composite, len(splats.entries), *splats.compositing(), backgrounds, counted,
        after=(*images, reached),
    )  # fmt: skip
    return images, reached


class _Rasterize(torch.autograd.Function):
    """Inputs: the five fields, viewmats (C, 4, 4), Ks (C, 3, 3), backgrounds (C, K), view; outputs: colors
    (C, H, W, K), alphas (C, H, W) and depths (C, H, W)."""

    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colors, viewmats, intrinsics, backgrounds, view):
        tensors = [t.detach().contiguous() for t in (means, quats, scales, opacities, colors)]
        arrays = tuple(t.numpy() for t in tensors)
        pairs = zip(viewmats.double().numpy(), intrinsics.double().numpy(), strict=True)
        cameras = np.array([_camera_row(*pair, view) for pair in pairs]).reshape(-1, CAMERA_WIDTH)
        splats = _project(arrays, cameras, view)
        images, reached = _composite(splats, backgrounds.detach().contiguous().numpy(), view)
        outputs = tuple(torch.from_numpy(image) for image in images)
        if any(ctx.needs_input_grad):
            ctx.splats, ctx.reached = splats, reached
            ctx.save_for_backward(*tensors, *outputs)
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        splats: _Splats = ctx.splats
        saved = ctx.saved_tensors
        *fields, colors = (t.numpy() for t in saved[:5])
        images = tuple(t.numpy() for t in saved[5:])
        gradients = tuple(g.contiguous().numpy() for g in grads)
        features, needed = _feature_count(colors.shape[1]), ctx.needs_input_grad
        slots = take((len(splats.entries), _room(MOMENTS + features)), np.float32)
        _share(
            cpu_compositing.composite_backward, len(slots), *splats.compositing(), (0,) * features,
            after=(ctx.reached, images, gradients, slots),
        )  # fmt: skip
        field_grads = tuple(take(t.shape, np.float32) for t in saved[:5])
        camera_grads = np.empty((len(splats.cameras), -(-len(colors) // CHUNK), 12))
        _share(
            cpu_projection_backward.project_backward, len(colors), *fields, splats.cameras, splats.first_slot, slots,
            any(needed[:4]) or needed[5], after=(field_grads[:4], field_grads[4], camera_grads),
        )  # fmt: skip
        viewmat_grads = background_grads = None
        if needed[5]:
            sums = torch.from_numpy(camera_grads.sum(1)).float()
            viewmat_grads = torch.zeros(len(sums), 4, 4)
            viewmat_grads[:, :3, :3], viewmat_grads[:, :3, 3] = sums[:, :9].reshape(-1, 3, 3), sums[:, 9:]
        if needed[7]:
            background_grads = torch.einsum("chw,chwk->ck", 1.0 - saved[6], grads[0])
        wanted = (torch.from_numpy(g) if need else None for g, need in zip(field_grads, needed[:5], strict=True))
        return *wanted, viewmat_grads, None, background_grads, None


def rasterize(gaussians: Gaussians, viewmats: Tensor, intrinsics: Tensor, backgrounds: Tensor, view: View) -> Rendered:
    """See `geodiff.raster.gaussians.rasterize`. Inputs of another float type are converted, outputs are float32."""
    fields = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.colors)
    if any(t.is_cuda for t in fields):
        raise ValueError("the cpu backend needs tensors on the CPU, found CUDA tensors; move them or choose cuda.")
    inputs = [t.float() for t in fields]
    colors, alphas, depths = _Rasterize.apply(*inputs, viewmats.float(), intrinsics, backgrounds.float(), view)
    return Rendered(colors, alphas[..., None], depths[..., None])
