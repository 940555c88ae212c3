"""The Gaussian rasteriser on a CPU: numba kernels behind a `torch.autograd.Function`.

Everything is float32 (scalars of a splat float64 inside the kernels) and bitwise the same from run to run, whatever the
number of threads: every (tile, splat) pair has a gradient slot of its own, and slots are added in a fixed order.

Threads are Python's own, sleeping when idle: kernels release the GIL. There are as many as torch uses. Nothing as long
as the Gaussians or the image is left to torch, whose threads spin, which costs tens of milliseconds on a busy machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geodiff.raster import cpu_compositing, cpu_projection
from geodiff.raster.cpu_projection import CAMERA_WIDTH, CHUNK, MOMENTS, SHAPE_WIDTH, TILE
from geodiff.raster.gaussians import Rendered, View
from geodiff.raster.simd import LANES
from geodiff.types import Gaussians

#: Below this many splats (or pairs of tile and splat) waking a second thread costs more than it saves.
_WORTH_THREADS = 512
_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)


def _share(kernel: Callable[..., None], work: int, *arguments: object, after: tuple = ()) -> None:
    """Run the kernel on several threads; `counter`, from which they draw their work, goes between the arguments."""
    counter = np.zeros(1, np.int64)
    helpers = torch.get_num_threads() - 1 if work > _WORTH_THREADS else 0
    if helpers > 0 and helpers not in _pools:
        _pools[helpers] = ThreadPoolExecutor(helpers, thread_name_prefix="geodiff-raster")
    waiting = [_pools[helpers].submit(kernel, *arguments, counter, *after) for _ in range(helpers)]
    kernel(*arguments, counter, *after)
    for future in waiting:
        future.result()


@dataclass(frozen=True)
class _Splats:
    """The Gaussians as a camera sees them; arrays as the kernels describe them."""

    camera: np.ndarray
    shapes: np.ndarray
    features: np.ndarray
    order: np.ndarray
    first_slot: np.ndarray
    tile_starts: np.ndarray
    entries: np.ndarray
    tile_order: np.ndarray

    def compositing(self) -> tuple[np.ndarray, ...]:
        """The arguments that both compositing kernels take first."""
        return self.shapes, self.features, self.tile_starts, self.entries, self.tile_order


def _camera_row(viewmat: np.ndarray, intrinsics: np.ndarray, view: View) -> np.ndarray:
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    margin_x, margin_y = 0.15 * view.width / fx, 0.15 * view.height / fy
    limits = [-cx / fx - margin_x, (view.width - cx) / fx + margin_x]
    limits += [-cy / fy - margin_y, (view.height - cy) / fy + margin_y]
    row = np.concatenate([viewmat[:3, :3].reshape(9), viewmat[:3, 3], [fx, fy, cx, cy, *limits, view.near, view.eps2d]])
    assert len(row) == CAMERA_WIDTH
    return row


def _aligned(rows: int, columns: int) -> np.ndarray:
    """(rows, columns) float32, not initialised, that starts on a cache line."""
    room = np.empty(rows * columns + LANES, np.float32)
    skip = -room.ctypes.data % 64 // 4
    return room[skip : skip + rows * columns].reshape(rows, columns)


def _project(arrays: tuple[np.ndarray, ...], colors: np.ndarray, camera: np.ndarray, view: View) -> _Splats:
    n = len(colors)
    shapes = _aligned(n, SHAPE_WIDTH)
    depths, boxes = np.empty(n, np.float32), np.empty((n, 4), np.int32)
    size = (float(view.width), float(view.height))
    _share(cpu_projection.project, n, *arrays, camera, size, after=(shapes, depths, boxes))
    features = np.concatenate([depths[:, None], colors], 1)
    num_columns, num_rows = -(-view.width // TILE), -(-view.height // TILE)
    order, first_slot, tile_starts, entries = cpu_projection.bin_into_tiles(
        depths.view(np.uint32), boxes, num_columns, num_rows
    )
    tile_order = np.argsort(-np.diff(tile_starts), kind="stable")  # the fullest first, so that threads end together
    return _Splats(camera, shapes, features, order, first_slot, tile_starts, entries, tile_order)


class _Rasterize(torch.autograd.Function):
    """One view. Inputs: the five fields, viewmat (4, 4), K (3, 3), background (K,), view; outputs: colors (H, W, K),
    alphas (H, W) and depths (H, W)."""

    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colors, viewmat, intrinsics, background, view):
        tensors = [t.detach().contiguous() for t in (means, quats, scales, opacities, colors, background)]
        *arrays, color_array, background_array = (t.numpy() for t in tensors)
        camera = _camera_row(viewmat.double().numpy(), intrinsics.double().numpy(), view)
        splats = _project(tuple(arrays), color_array, camera, view)
        images = (
            torch.empty(view.height, view.width, colors.shape[1]),
            torch.empty(view.height, view.width),
            torch.empty(view.height, view.width),
        )
        outputs = tuple(image.numpy() for image in images)
        _share(cpu_compositing.composite, len(splats.entries), *splats.compositing(), background_array, after=outputs)
        ctx.splats = splats
        ctx.save_for_backward(*tensors, *images)
        return images

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        splats: _Splats = ctx.splats
        saved = ctx.saved_tensors
        *arrays, colors, background = (t.numpy() for t in saved[:6])
        images = tuple(t.numpy() for t in saved[6:])
        gradients = tuple(g.contiguous().numpy() for g in grads)
        slots = _aligned(len(splats.entries), -(-(MOMENTS + splats.features.shape[1]) // LANES) * LANES)
        _share(
            cpu_compositing.composite_backward, len(slots), *splats.compositing(), background,
            after=(images, gradients, slots),
        )  # fmt: skip
        field_grads = [np.zeros(t.shape, np.float32) for t in saved[:5]]
        camera_grads = np.zeros((-(-len(splats.order) // CHUNK), 12))
        _share(
            cpu_projection.project_backward, len(splats.order), *arrays, splats.camera, splats.order, splats.first_slot,
            slots, after=(*field_grads, camera_grads),
        )  # fmt: skip
        camera_grad = torch.from_numpy(camera_grads.sum(0)).float()
        viewmat_grad = torch.zeros(4, 4)
        viewmat_grad[:3] = torch.cat([camera_grad[:9].reshape(3, 3), camera_grad[9:, None]], 1)
        background_grad = None
        if ctx.needs_input_grad[7]:
            background_grad = ((1.0 - saved[7])[..., None] * grads[0]).sum((0, 1))
        return *(torch.from_numpy(g) for g in field_grads), viewmat_grad, None, background_grad, None


def rasterize(gaussians: Gaussians, viewmats: Tensor, intrinsics: Tensor, backgrounds: Tensor, view: View) -> Rendered:
    """See `geodiff.raster.gaussians.rasterize`. Inputs of another float type are converted, outputs are float32."""
    fields = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.colors)
    if any(t.is_cuda for t in fields):
        raise ValueError("the cpu backend needs tensors on the CPU, found CUDA tensors; move them or choose cuda.")
    inputs = [t.float() for t in fields]
    views = zip(viewmats.float(), intrinsics, backgrounds.float(), strict=True)
    rendered = [_Rasterize.apply(*inputs, viewmat, k, background, view) for viewmat, k, background in views]
    if len(rendered) == 1:
        colors, alphas, depths = (image[None] for image in rendered[0])  # torch.stack would copy
    else:
        colors, alphas, depths = (torch.stack(images) for images in zip(*rendered, strict=True))
    return Rendered(colors, alphas[..., None], depths[..., None])
