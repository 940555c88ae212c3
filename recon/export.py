"""An avatar as files that other programs read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from geodiff.config import choose
from geodiff.errors import ConfigError
from geodiff.files import write_npz
from geodiff.types import Drive
from recon.avatar import Avatar, params_to_arrays
from recon.methods.geodiff4d import GeoDiff4DAvatar
from recon.ply import world_splats, write_ply


def export_splats(avatar: Avatar, out: Path, drive: Drive | None = None) -> Path:
    """One posed frame as a plain splat PLY in world coordinates, metres: opens in any splat viewer."""
    posed = avatar.pose(drive or avatar.neutral())
    if posed.colors.shape[1] != 3:
        raise ConfigError(
            f"a splat file needs Gaussians with colours, and avatars of {avatar.method} hold {posed.colors.shape[1]} "
            "features that a network shades: animate it to a video instead"
        )
    return write_ply(out, world_splats(posed.means, posed.quats, posed.scales, posed.opacities, posed.colors))


def export_rigged(avatar: Avatar, out: Path) -> Path:
    """GaussianAvatars' layout: triangle-local values with `binding_0`, and flame_param.npz beside the file.

    What networks add with the expression (U-Net, MLP) has no place in that format and is left out.
    """
    if not isinstance(avatar, GeoDiff4DAvatar):
        raise ConfigError(f"--format ply needs Gaussians bound to triangles, and {avatar.method} has none: use splats")
    write_npz(out.parent / "flame_param.npz", **params_to_arrays(avatar.params, avatar.head))
    return write_ply(out, avatar.splats)


def export_arrays(avatar: Avatar, out: Path, drive: Drive | None = None) -> Path:
    """One posed frame as arrays in this program's names: means, quats (wxyz), scales, opacities, colors."""
    posed = avatar.pose(drive or avatar.neutral())
    fields = {name: getattr(posed, name).numpy() for name in ("means", "quats", "scales", "opacities", "colors")}
    return write_npz(out, **fields)


#: Format -> (what it is, suffix, function).
FORMATS: dict[str, tuple[str, str, Callable[[Avatar, Path], Path]]] = {
    "ply": ("Gaussians bound to triangles, as GaussianAvatars writes them", ".ply", export_rigged),
    "splats": ("the head at rest for any splat viewer", ".ply", export_splats),
    "npz": ("the head at rest as plain arrays", ".npz", export_arrays),
}


def export(avatar: Avatar, name: str, out: Path, level: int | None = None) -> Path:
    """Writes the avatar in a format of FORMATS.

    level: at most so many Gaussians, the least important merged into the others; None for all. Raises ConfigError for
    an unknown format, and for a level of an avatar whose method has none.
    """
    _, suffix, write = FORMATS[choose("export format", name, FORMATS)]
    if level is not None:
        if not isinstance(avatar, GeoDiff4DAvatar):
            raise ConfigError(f"--level needs Gaussians bound to triangles, and {avatar.method} has none: leave it out")
        avatar = avatar.level(level)
    return write(avatar, out if out.suffix == suffix else out.with_name(out.name + suffix))
