"""Avatars, a drive and a camera path -> a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geodiff.encoding import Sound, codec_for, straight, to_uint8, write_sequence, write_video
from geodiff.errors import ConfigError
from geodiff.types import Camera, Drive
from recon.avatar import Avatar, render
from recon.backgrounds import background, check_background, is_transparent
from recon.cameras import DRIVING, FrameSize, camera_path
from recon.drives import Note, Performance, load_performance
from recon.grid import columns_of, is_light, label, over, tile

#: Called with (stage, part done 0..1, words).
StageProgress = Callable[..., None]


@dataclass(frozen=True)
class AnimateConfig:
    """How a video looks.

    size: pixels of a square frame. width, height: of a frame of another shape; one alone makes a square. Of several
    avatars, each has a frame of this size. frames: number of frames; None takes the drive's own length. fps:
    frames a second; None takes the drive's own, 25 where it has none. background: a colour's name, "#rrggbb" or RGB
    in 0..1, a picture's file, or "alpha" for none. still_head: keeps the head's own turns out, so that only the face
    moves. sound: keep the driving video's. labels: the avatars' names under them. columns: of several avatars in a row.
    """

    size: int = 512
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    background: Any = "white"
    still_head: bool = False
    sound: bool = True
    labels: bool = False
    columns: int | None = None

    def __post_init__(self) -> None:
        for name in ("size", "width", "height"):
            pixels = getattr(self, name)
            if pixels is not None and not 16 <= pixels <= 4096:
                raise ConfigError(f"{name} must be 16 to 4096 pixels, got {pixels}")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ConfigError(f"fps must be above 0, at most 1000, got {self.fps}: 25 is usual")
        if self.frames is not None and self.frames < 1:
            raise ConfigError(f"frames must be at least 1, got {self.frames}: leave it out for the drive's own length")
        if self.columns is not None and self.columns < 1:
            raise ConfigError(f"columns must be at least 1, got {self.columns}: leave it out for a block")
        check_background(self.background)

    @property
    def frame_size(self) -> FrameSize:
        """Of one avatar's frame."""
        if self.width is None and self.height is None:
            return FrameSize.square(self.size)
        return FrameSize(self.width or self.height or 0, self.height or self.width or 0)


def animate(
    avatar: Avatar | Mapping[str, Avatar],
    out: Path,
    drive: str = "builtin:talk",
    camera: str = "orbit",
    config: AnimateConfig | None = None,
    progress: StageProgress | None = None,
    note: Note = lambda sentence: None,
    drive_head: str | None = None,
) -> Path:
    """Renders a video and returns its path.

    avatar: one, or several by name, side by side under one motion. out: a file (.mp4, .mov, .webm, .mkv), or a name
    without a suffix for a folder of PNGs. drive: see `load_performance`, which takes drive_head and note; camera:
    see `camera_path`. Frames are made and written one after the other.
    """
    config = config or AnimateConfig()
    avatars = dict(avatar) if isinstance(avatar, Mapping) else {"": avatar}
    if Path(out).suffix:
        codec_for(out, is_transparent(config.background))
    performances = _performances(avatars, drive, config, drive_head, note)
    frames = show(avatars, performances, camera, config, progress)
    first = performances[0]
    if not Path(out).suffix:
        return write_sequence(out, frames)
    fps = first.drive.fps
    heard = first.sound if config.sound else None
    sound = None if heard is None else Sound(heard, first.drive.num_frames / fps)
    return write_video(out, frames, fps, sound=sound)


def _performances(
    avatars: dict[str, Avatar], drive: str, config: AnimateConfig, drive_head: str | None, note: Note
) -> list[Performance]:
    """The performance on each avatar; found once for avatars that take the same parameters and codes."""
    found: dict[tuple[str, ...], Performance] = {}
    chosen = []
    for avatar in avatars.values():
        key = (avatar.head.hash, avatar.info.encoder or "", *avatar.codes)
        if key not in found:
            found[key] = load_performance(avatar, drive, config.frames, config.fps, drive_head, note)
        chosen.append(found[key])
    return chosen


def show(
    avatars: Mapping[str, Avatar],
    performances: Sequence[Performance],
    camera: str,
    config: AnimateConfig,
    progress: StageProgress | None = None,
) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8, or (H, W, 4) with straight colours where the background is transparent; made as they are
    asked for."""
    performed = [p.filmed if camera == DRIVING and p.filmed is not None else p.drive for p in performances]
    drives = [hold_head(drive) if config.still_head else drive for drive in performed]
    count = drives[0].num_frames
    paths = [
        camera_path(avatar, camera, count, config.frame_size, performance)
        for avatar, performance in zip(avatars.values(), performances, strict=True)
    ]
    width, height = paths[0][0].width, paths[0][0].height
    behind = background(config.background, width, height)
    columns = columns_of(len(avatars), config.columns, width, height)
    light = is_light(behind)
    labels = [label(name, width, height, light) for name in avatars] if config.labels else []
    empty = np.zeros((height, width, 4), np.float32) if behind is None else behind
    for t in range(count):
        cells = []
        for n, avatar in enumerate(avatars.values()):
            cell = rgba(avatar, drives[n].frame(t), paths[n][t])
            cell = over(labels[n], cell) if labels else cell
            cells.append(straight(cell) if behind is None else over(cell, behind))
        yield to_uint8(tile(cells, columns, empty))
        if progress is not None:
            progress("animate", (t + 1) / count)


def rgba(avatar: Avatar, drive: Drive, camera: Camera) -> np.ndarray:
    """One picture (H, W, 4) float32 0..1, colours premultiplied. drive: one frame."""
    with torch.no_grad():
        view = render(avatar, drive, camera, (0.0, 0.0, 0.0))
    return torch.cat([view.rgb, view.alpha], -1).cpu().numpy()


def hold_head(drive: Drive) -> Drive:
    """The drive without the turns of head and neck: upright in place, or as the first frame where it was filmed."""
    params = drive.params
    filmed = bool(params.translation.any())
    rotation = params.rotation[:1].expand_as(params.rotation) if filmed else torch.zeros_like(params.rotation)
    still = params.replace(
        rotation=rotation,
        neck_pose=torch.zeros_like(params.neck_pose),
        translation=params.translation[:1].expand_as(params.translation),
    )
    return Drive(still, drive.codes, drive.fps)
