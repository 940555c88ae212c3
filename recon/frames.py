"""The frames of a clip set side by side in memory, as optimisation wants them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geodiff.types import Camera, Clip, HeadParams


@dataclass(frozen=True)
class FrameSet:
    """M frames of one person.

    images: (M, H, W, 3) uint8 on white. masks: (M, H, W) uint8. normals: (M, H, W, 3) uint8 as (n + 1) / 2, or None.
    cameras: M cameras. params: T time steps. steps: (M,) int64 time step of each frame. views: (M,) int64 cameras.
    train, held_out: numbers of the frames to fit and of those to measure on. has_masks: whether the masks are known;
    where they are not, they are 255 everywhere and say nothing. latents: (T, tokens, width) of the expression encoder,
    or None.
    """

    images: Tensor
    masks: Tensor
    normals: Tensor | None
    cameras: list[Camera]
    params: HeadParams
    steps: Tensor
    views: Tensor
    train: list[int]
    held_out: list[int]
    has_masks: bool = True
    latents: Tensor | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.images.shape[2], self.images.shape[1]

    @property
    def device(self) -> torch.device:
        return self.images.device

    def image(self, index: int) -> Tensor:
        """(H, W, 3) float32 in 0..1."""
        return self.images[index].float() / 255

    def mask(self, index: int) -> Tensor:
        """(H, W, 1) float32 in 0..1."""
        return self.masks[index, :, :, None].float() / 255

    def normal(self, index: int) -> Tensor | None:
        """(H, W, 3) float32 in -1..1, or None."""
        return None if self.normals is None else self.normals[index].float() / 127.5 - 1

    def to(self, device: torch.device | str) -> FrameSet:
        return FrameSet(
            self.images.to(device), self.masks.to(device), None if self.normals is None else self.normals.to(device),
            [c.to(device) for c in self.cameras], self.params.to(device), self.steps.to(device), self.views,
            self.train, self.held_out, self.has_masks, None if self.latents is None else self.latents.to(device),
        )  # fmt: skip


def collect(
    clips: list[Clip],
    held_out: list[tuple[int, int]] | None = None,
    has_masks: bool = True,
    latents: Tensor | None = None,
    monocular: bool = False,
) -> FrameSet:
    """Clips -> frames.

    Frames of several clips that share a time step number and their parameters share the time step, unless `monocular`
    gives every frame its own, as if one camera had seen them one after the other (GeoDiff4D, sections 3.3 and A.1).
    held_out: (timestep, camera) pairs that are measured on instead of fitted; by default every eighth frame.
    has_masks: whether the clips' masks are known. latents: one for each time step number.
    """
    steps: list[int] = []
    parts: list[HeadParams] = []
    numbers: list[int] = []
    entries: dict[tuple[int, int, bytes, bytes], int] = {}
    for order, clip in enumerate(clips):
        for position, number in enumerate(clip.timesteps):
            params = clip.params.frame(position)
            view = order if monocular else 0
            key = (int(number), view, params.expr.numpy().tobytes(), params.rotation.numpy().tobytes())
            if key not in entries:
                entries[key] = len(parts)
                parts.append(params)
                numbers.append(int(number))
            steps.append(entries[key])
    keys = [(int(number), clip.camera_index) for clip in clips for number in clip.timesteps]
    reserved = set(held_out) if held_out is not None else set(keys[3::8])
    test = [i for i, key in enumerate(keys) if key in reserved]
    train = [i for i, key in enumerate(keys) if key not in reserved]
    with_normals = all(clip.normals is not None for clip in clips)
    return FrameSet(
        images=torch.cat([torch.from_numpy(clip.images) for clip in clips]),
        masks=torch.cat([torch.from_numpy(clip.masks) for clip in clips]),
        normals=torch.cat([torch.from_numpy(clip.normals) for clip in clips]) if with_normals else None,
        cameras=[camera for clip in clips for camera in clip.frame_cameras()],
        params=HeadParams.concatenate(parts),
        steps=torch.tensor(steps),
        views=torch.tensor([camera for _, camera in keys]),
        train=train if train else test,
        held_out=test,
        has_masks=has_masks,
        latents=None if latents is None else latents[torch.tensor(numbers)],
    )
