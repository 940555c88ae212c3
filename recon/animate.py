"""Avatar, drive and camera path -> a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from geodiff.errors import ConfigError
from geodiff.media import to_uint8, write_video
from geodiff.types import Camera, Drive
from recon.avatar import Avatar, render
from recon.cameras import camera_path
from recon.drives import load_drive

#: Called with (stage, part done 0..1, words).
StageProgress = Callable[..., None]


@dataclass(frozen=True)
class AnimateConfig:
    """size: pixels of a square frame. frames: number of frames; None takes the drive's own length. fps: frames a second
    of drives that do not bring their own. background: RGB in 0..1. still_head: keeps the head's own turns out, so that
    only the face moves.
    """

    size: int = 512
    frames: int | None = None
    fps: float = 25.0
    background: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])
    still_head: bool = False

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 4096:
            raise ConfigError(f"size must be 16 to 4096 pixels, got {self.size}")
        if not self.fps > 0:
            raise ConfigError(f"fps must be above 0, got {self.fps}: 25 is usual")
        if self.frames is not None and self.frames < 1:
            raise ConfigError(f"frames must be at least 1, got {self.frames}: leave it out for the drive's own length")
        if len(self.background) != 3 or not all(0 <= c <= 1 for c in self.background):
            raise ConfigError(f"background must be three numbers from 0 to 1, got {self.background}")


def animate(
    avatar: Avatar,
    out: Path,
    drive: str = "builtin:talk",
    camera: str = "orbit",
    config: AnimateConfig | None = None,
    progress: StageProgress | None = None,
) -> Path:
    """Renders a video. drive: see `load_drive`; camera: see `camera_path`. Returns the file's path."""
    config = config or AnimateConfig()
    motion = load_drive(avatar, drive, config.frames, config.fps)
    if config.still_head:
        motion = hold_head(motion)
    cameras = camera_path(avatar, camera, motion.num_frames, config.size)
    frames = render_frames(avatar, motion, cameras, tuple(config.background), progress)
    return write_video(out, frames, motion.fps)


def render_frames(
    avatar: Avatar,
    drive: Drive,
    cameras: list[Camera],
    background: tuple[float, ...] = (1.0, 1.0, 1.0),
    progress: StageProgress | None = None,
) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8, one for each frame of the drive, made as they are asked for."""
    red, green, blue = background
    for t in range(drive.num_frames):
        with torch.no_grad():
            view = render(avatar, drive.frame(t), cameras[t], (red, green, blue))
        yield to_uint8(view.rgb.cpu().numpy())
        if progress is not None:
            progress("animate", (t + 1) / drive.num_frames)


def hold_head(drive: Drive) -> Drive:
    """The drive without the head's own pose."""
    params = drive.params
    still = params.replace(rotation=torch.zeros_like(params.rotation), neck_pose=torch.zeros_like(params.neck_pose))
    return Drive(still, drive.codes, drive.fps)
