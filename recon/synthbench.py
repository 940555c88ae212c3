"""An avatar method in SynthBench's avatar task (`geodiff.synth.bench.clips`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from geodiff.errors import ConfigError
from geodiff.metrics.picture import Picture
from geodiff.synth.bench.clips import AvatarClips, HeldOut, Renderer
from geodiff.types import Drive
from recon.avatar import render
from recon.reconstruct import Job, reconstruct


def make_avatar(
    clips: AvatarClips, method: str, out: Path, config: Any, device: str = "cpu",
    progress: Callable[..., None] | None = None,
) -> Renderer:  # fmt: skip
    """Makes the avatar of a person's clips in the folder `out`; what it returns renders held-out frames.

    Raises ConfigError for methods that are driven by more than head parameters, which the task's clips do not hold.
    """
    folder = clips.write(out / "clips")
    job = Job(device=device, preview_frames=0)
    bench = clips.bench
    avatar = reconstruct(
        folder, method, out / "avatar", config, progress, job=job, head=bench.head, head_spec=bench.head_spec
    )
    if avatar.codes:
        raise ConfigError(
            f"the avatar task drives avatars by head parameters, and {method} also takes {', '.join(avatar.codes)}: "
            "choose another --avatar-method"
        )

    @torch.no_grad()
    def shown(asked: HeldOut) -> Picture:
        view = render(avatar, Drive(avatar.own(asked.params)), asked.camera, normals=True)
        assert view.normals is not None
        return Picture(view.rgb.numpy(), view.alpha[..., 0].numpy(), view.normals.numpy())

    return shown
