"""The one interface of all avatars: head parameters (and codes) in, Gaussians out, a picture after shading.

Rendering, export, viewing and evaluation see only `Avatar`. A method whose Gaussians need the camera (normals in UV
space) gets it in `pose`; one that splats features (32 channels) turns them into colours in `shade`; one that is made
from one to four portraits differs only in its `fit`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from geodiff.errors import HeadModelError, InputError
from geodiff.files import make_folder, read_json, read_npz, write_json, write_npz
from geodiff.head.identity import HASH_KEY, HeadRecord, absolute_spec, check_arrays, hash_array
from geodiff.head.model import HeadModel
from geodiff.raster.gaussians import rasterize
from geodiff.types import POSE_WIDTHS, Camera, Drive, Gaussians, HeadParams
from recon.layers.normals import camera_normals

#: Version of the folder layout.
SCHEMA = 1
#: The file that makes a folder an avatar; written last, so that a half-written folder is none.
MANIFEST = "avatar.json"


@dataclass(frozen=True)
class AvatarInfo:
    """What `avatar.json` records beside method and head.

    config: the method's resolved configuration. head_spec: where the head came from ("builtin", "ict:PATH",
    "flame:PATH"). background: RGB in 0..1 that the avatar was fitted on. encoder: hash of the expression encoder whose
    latents its clip set held, or None. metrics: figures on the held-out frames.
    """

    config: dict[str, Any] = field(default_factory=dict)
    head_spec: str = "builtin"
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    encoder: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class Avatar(ABC):
    """A head that can be posed and rendered.

    head: its head model. params: the subject's own parameters; shape and static offsets are the identity, the frames
    are those that it was fitted to (frame 0 is shown where nothing drives it). codes: names of the codes of a `Drive`
    that the method takes.
    """

    method: ClassVar[str]
    codes: tuple[str, ...] = ()

    def __init__(self, head: HeadModel, params: HeadParams, info: AvatarInfo) -> None:
        self.head = head
        self.params = params
        self.info = info

    @abstractmethod
    def pose(self, drive: Drive, camera: Camera | None = None) -> Gaussians:
        """World Gaussians of a drive of one frame (T = 1). colors: (N, K) colours or features, seen from `camera`.

        Without a camera, what depends on the view takes its mean. The shape and the static offsets are the avatar's
        own, whatever the drive holds.
        """

    def shade(self, features: Tensor, alpha: Tensor, camera: Camera) -> Tensor:
        """Splatted features (H, W, K) over black and alpha (H, W, 1) -> colours over black (H, W, 3).

        Methods that splat colours keep this identity; others run their network here.
        """
        return features

    @abstractmethod
    def write(self, folder: Path) -> dict[str, Any]:
        """Writes the method's own files; what is returned is merged into avatar.json."""

    @classmethod
    @abstractmethod
    def read(cls, folder: Path, head: HeadModel, params: HeadParams, info: AvatarInfo) -> Avatar:
        """Reads what `write` wrote."""

    def own(self, params: HeadParams) -> HeadParams:
        """Somebody's motion on this identity."""
        return params.replace(shape=self.params.shape, static_offset=self.params.static_offset)

    def neutral(self) -> Drive:
        """The avatar at rest: no expression, head upright."""
        return Drive(self.own(self.head.zeros(1)))

    @property
    def device(self) -> torch.device:
        """Where its tensors are, and so where it is posed and rendered."""
        return self.params.expr.device

    def to(self, device: torch.device | str) -> Avatar:
        """The same avatar with all its tensors, and whatever holds tensors, on a device."""
        if torch.device(device) == self.device:
            return self
        twin = copy.copy(self)
        twin.__dict__.update({name: _moved(value, device) for name, value in vars(self).items()})
        return twin

    def save(self, folder: Path | str) -> Path:
        """Writes the avatar; avatar.json comes last."""
        target = make_folder(folder)
        own = self.write(target)
        write_npz(target / "flame_param.npz", **params_to_arrays(self.params, self.head))
        record = {
            "schema": SCHEMA,
            "method": self.method,
            "head": {"name": self.head.name, "hash": self.head.hash, "spec": absolute_spec(self.info.head_spec)},
            "config": self.info.config,
            "background": list(self.info.background),
            "encoder": self.info.encoder,
            "metrics": self.info.metrics,
            **own,
        }
        write_json(target / MANIFEST, record)
        return target


@dataclass(frozen=True)
class View:
    """One rendered picture: rgb (H, W, 3) 0..1, alpha (H, W, 1), depth (H, W, 1) metres, normals (H, W, 3) or None.

    Normals are in the axes of normal maps, weighted by alpha, zero in the background.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    normals: Tensor | None = None


def render(
    avatar: Avatar,
    drive: Drive,
    camera: Camera,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    normals: bool = False,
    backend: str = "auto",
) -> View:
    """One picture of an avatar, made where the avatar's tensors are. drive: one frame. background: RGB in 0..1."""
    drive, camera = _moved(drive, avatar.device), camera.to(avatar.device)
    gaussians = avatar.pose(drive, camera)
    channels = gaussians.colors.shape[1]
    if normals:
        unit = torch.nn.functional.normalize(gaussians.quats, dim=-1)
        extra = camera_normals(gaussians.means, unit, gaussians.scales, camera)
        gaussians = replace(gaussians, colors=torch.cat([gaussians.colors, extra], 1))
    seen = rasterize(gaussians, camera.viewmat[None], camera.K[None], camera.width, camera.height, backend=backend)
    features, alpha = seen.colors[0], seen.alphas[0]
    rgb = avatar.shade(features[..., :channels], alpha, camera)
    backdrop = torch.tensor(background, dtype=rgb.dtype, device=rgb.device)
    rgb = (rgb + (1 - alpha) * backdrop).clamp(0, 1)
    return View(rgb, alpha, seen.depths[0], features[..., channels:] if normals else None)


def _moved(value: Any, device: torch.device | str) -> Any:
    """A value with the tensors in it on a device; everything else as it is."""
    if isinstance(value, torch.nn.Module):
        return copy.deepcopy(value).to(device)
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _moved(item, device) for name, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_moved(item, device) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        parts: dict[str, Any] = {f.name: _moved(getattr(value, f.name), device) for f in fields(value) if f.init}
        return replace(value, **parts)
    return value


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """The contents of avatar.json; an InputError where the folder is no avatar or a half-written one."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        found = "it is not there" if Path(folder).exists() else "the folder does not exist"
        raise InputError(
            f"an avatar folder must hold {MANIFEST}, and for {folder} {found}: "
            "give the folder that `geodiff reconstruct` wrote, or run it again to finish it"
        )
    record = read_json(path)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        schema = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise InputError(f"{path} must have schema {SCHEMA}, found {schema}: reconstruct the avatar with this version")
    missing = sorted({"method", "head"} - record.keys())
    if missing:
        raise InputError(f"{path} must have the keys method and head, missing {missing}: reconstruct the avatar again")
    return record


def info_of(record: dict[str, Any]) -> AvatarInfo:
    """The part of avatar.json that travels with the avatar."""
    return AvatarInfo(
        config=record.get("config", {}),
        head_spec=str(record["head"].get("spec") or "builtin") if isinstance(record["head"], dict) else "builtin",
        background=tuple(record.get("background", (1.0, 1.0, 1.0))),
        encoder=record.get("encoder"),
        metrics=record.get("metrics", {}),
    )


def head_record(record: dict[str, Any], folder: Path | str) -> HeadRecord:
    """What avatar.json says about the head model. Raises InputError where it says nothing."""
    head = record["head"]
    if not isinstance(head, dict) or not {"name", "hash"} <= head.keys():
        raise InputError(
            f"{Path(folder) / MANIFEST} must name its head model and its hash, and it does not: make it again"
        )
    return HeadRecord(str(head["name"]), str(head["hash"]), head.get("spec"))


def check_params(arrays: dict[str, np.ndarray], params: HeadParams, head: HeadModel, origin: Path | str) -> None:
    """Refuses parameters of another head model: by the hash that our files carry, else by their width."""
    check_arrays(arrays, head, origin)
    found = params.expr.shape[-1]
    if found != head.num_expr:
        raise HeadModelError(
            f"parameters for the head model {head.name} must have {head.num_expr} expression coefficients, {origin} "
            f"has {found}: give parameters tracked with this head model, or convert theirs with geodiff track --convert"
        )


def check_encoder(avatar: Avatar, encoder: str | None, origin: Path | str) -> None:
    """Refuses expression latents of another encoder than the avatar's, where its method takes latents at all."""
    if "expression_latent" in avatar.codes and encoder != avatar.info.encoder:
        raise InputError(
            f"an avatar takes latents of the expression encoder it was made with ({avatar.info.encoder}), and those of "
            f"{origin} are of another ({encoder}): use clips of the same generator"
        )


def params_to_arrays(params: HeadParams, head: HeadModel) -> dict[str, np.ndarray]:
    """Head parameters as GaussianAvatars stores them beside its PLY: float32, offsets with a leading axis of 1; and the
    head's hash."""
    arrays = {name: getattr(params, name).detach().cpu().float().numpy() for name in ("shape", "expr", *POSE_WIDTHS)}
    if params.static_offset is not None:
        offset = params.static_offset.detach().cpu().float().numpy()[None]
        arrays["static_offset"] = offset
        # Its local viewer wants the key; a static avatar has nothing to say there.
        arrays["dynamic_offset"] = np.zeros_like(offset)
    return arrays | {HASH_KEY: hash_array(head)}


def params_from_arrays(arrays: dict[str, np.ndarray], origin: Path | str) -> HeadParams:
    """The inverse of `params_to_arrays`; missing poses are zero.

    Raises InputError where the expression is missing or an array is not finite numbers of the right widths.
    """
    if "expr" not in arrays:
        raise InputError(f"{origin} must hold head parameters with `expr`, found {sorted(arrays)}: track a video first")
    known = ("shape", "expr", "static_offset", *POSE_WIDTHS)
    tensors = {name: _numbers(arrays[name], name, origin) for name in known if name in arrays}
    expr = _rows(tensors["expr"], max(1, tensors["expr"].shape[-1] if tensors["expr"].ndim else 1), "expr", origin)
    frames = expr.shape[0]
    if not frames:
        raise InputError(f"{origin} must hold at least one frame of `expr`, and it holds none: track a video first")
    poses = {}
    for name, width in POSE_WIDTHS.items():
        value = _rows(tensors.get(name, torch.zeros(frames, width)), width, name, origin)
        if value.shape[0] not in (1, frames):
            raise InputError(f"{origin}: {name} must have {frames} frames like expr, found {value.shape[0]}")
        poses[name] = value.expand(frames, width).clone()
    offset = tensors.get("static_offset")
    return HeadParams(
        shape=tensors.get("shape", torch.zeros(0)).reshape(-1),
        expr=expr,
        static_offset=None if offset is None else _rows(offset, 3, "static_offset", origin),
        **poses,
    )


def _numbers(array: np.ndarray, name: str, origin: Path | str) -> Tensor:
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise InputError(f"{origin} must hold {name} as finite numbers, and some are not: track the video again")
    return torch.from_numpy(np.asarray(array, np.float32))


def _rows(values: Tensor, width: int, name: str, origin: Path | str) -> Tensor:
    """Any shape whose last numbers belong together -> (rows, width)."""
    if values.numel() % width:
        raise InputError(f"{origin} must hold {name} in rows of {width}, not {tuple(values.shape)}: track it again")
    return values.reshape(-1, width)


def read_params(path: Path | str) -> HeadParams:
    """Head parameters from an npz file in FLAME's names."""
    return params_from_arrays(read_npz(path), path)
