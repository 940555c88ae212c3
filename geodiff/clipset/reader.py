"""Reading and validating clip sets, ours and other people's VHAP exports."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from geodiff.clipset.layout import (
    EXPRESSION,
    META,
    SCHEMA_VERSION,
    SPLITS,
    TRANSFORMS,
    Index,
    camera_from_json,
    inside,
    read_params,
)
from geodiff.errors import ClipSetError, HeadModelError, InputError
from geodiff.files import read_json
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.media import read_gray, read_image
from geodiff.types import Camera, Clip, HeadParams


@dataclass(frozen=True)
class ClipFrame:
    """One frame: image (H, W, 3) uint8 on white, mask (H, W) uint8, normal (H, W, 3) uint8 as (n + 1) / 2 or None.

    Where a clip set has no masks, the mask is 255 everywhere.
    """

    t: int
    c: int
    image: np.ndarray
    mask: np.ndarray
    normal: np.ndarray | None
    camera: Camera


@dataclass(frozen=True)
class ReferenceFiles:
    """The portrait's crop: image (S, S, 3) and normals (S, S, 3) uint8, mask (S, S) uint8, parameters, camera."""

    image: np.ndarray
    mask: np.ndarray
    normals: np.ndarray
    params: HeadParams
    camera: Camera


@dataclass(frozen=True)
class _Entry:
    """Where a frame's files are."""

    image: Path
    mask: Path | None
    normals: Path | None
    params: Path
    camera: Camera


class ClipSet:
    """A valid clip set on disk.

    Timesteps t and cameras c count from 0 without gaps, in the order of the numbers on disk. notes: sentences about
    what is absent and therefore off. meta: what clipset.json says, or an empty dictionary for other tools' exports.
    """

    def __init__(
        self, folder: Path, entries: dict[Index, _Entry], splits: dict[str, list[Index]], meta: dict[str, Any]
    ) -> None:
        self.folder = folder
        self.meta = meta
        self.splits = splits
        self._entries = entries
        self.num_timesteps = 1 + max(t for t, _ in entries)
        self.num_cameras = 1 + max(c for _, c in entries)
        self.fps = float(meta.get("fps", 25.0))
        self.indexing = str(meta.get("indexing", "multiview"))
        self.notes: list[str] = self._notes()

    @staticmethod
    def open(path: Path | str, head: HeadModel | None = None) -> ClipSet:
        """Opens a clip set and checks that it is whole: every file that it names is there.

        head: the head model of its parameters; by default the recorded one is loaded when it is asked for.
        Raises ClipSetError, one sentence, when it is missing, half-written or inconsistent.
        """
        folder = Path(path)
        meta = _open_meta(folder)
        entries, splits = _open_transforms(folder)
        clips = ClipSet(folder, entries, splits, meta)
        widths = {(p.shape.shape[0], p.expr.shape[1]) for p in clips._all_params}
        if len(widths) > 1:
            raise ClipSetError(f"a clip set needs one head, and the files in {folder / 'flame_param'} differ in width")
        if head is not None:
            clips.check_head(head)
            clips.head = head
        return clips

    @property
    def frames(self) -> list[Index]:
        """(t, c) of every frame that is there."""
        return sorted(self._entries)

    @property
    def has_normals(self) -> bool:
        return all(entry.normals is not None for entry in self._entries.values())

    @property
    def has_masks(self) -> bool:
        """Whether every frame has a foreground mask; without them nothing can be told about the silhouette."""
        return all(entry.mask is not None for entry in self._entries.values())

    @property
    def head_name(self) -> str:
        """The head model whose parameters these are; other tools' exports are FLAME's."""
        return str(self.meta.get("head", {}).get("name", "flame"))

    @property
    def head_spec(self) -> str:
        """What `geodiff.head.load_head` takes to load the recorded head; "flame" where only its family is known."""
        return str(self.meta.get("head_spec", "flame"))

    @cached_property
    def head(self) -> HeadModel:
        """The head model of the parameters. Raises HeadModelError when it cannot be found or is another one."""
        if ":" not in self.head_spec and self.head_spec != "builtin":
            raise HeadModelError(
                f"{self.folder} holds parameters of the FLAME head, which must be named: give it as --head flame:PATH"
            )
        head = load_head(self.head_spec)
        self.check_head(head)
        return head

    @property
    def expression_encoder(self) -> str | None:
        """Hash of the encoder that made the latents, or None."""
        return self.meta.get("expression_encoder") or None

    @cached_property
    def params(self) -> HeadParams:
        """Head parameters of all timesteps."""
        return HeadParams.concatenate(self._all_params)

    @cached_property
    def expression(self) -> torch.Tensor | None:
        """Expression latents (T, tokens, width), or None. Raises ClipSetError when they do not fit the frames."""
        path = self.folder / EXPRESSION
        if not path.exists():
            return None
        try:
            with safe_open(str(path), "pt") as file:
                latents = file.get_tensor("expression")
        except (SafetensorError, OSError) as error:
            raise ClipSetError(f"{path} must hold expression latents, and it is damaged: remove it") from error
        if latents.shape[0] != self.num_timesteps or latents.ndim != 3:
            raise ClipSetError(
                f"{path} must hold one latent for each of {self.num_timesteps} timesteps, not {tuple(latents.shape)}"
            )
        return latents.float()

    def has(self, t: int, c: int) -> bool:
        return (t, c) in self._entries

    def image_file(self, t: int, c: int) -> Path:
        """The file of a frame's image."""
        return self._entries[t, c].image

    def mask_file(self, t: int, c: int) -> Path | None:
        """The file of a frame's foreground mask, where it has one."""
        return self._entries[t, c].mask

    def camera(self, c: int, t: int | None = None) -> Camera:
        """The camera of view c at timestep t (without t: at the view's first frame)."""
        if t is None:
            t = min(time for time, camera in self._entries if camera == c)
        return self._entries[t, c].camera

    def frame(self, t: int, c: int) -> ClipFrame:
        """Reads one frame. Raises ClipSetError when a file cannot be decoded or has another size than its camera."""
        entry = self._entries[t, c]
        size = (entry.camera.height, entry.camera.width)
        try:
            image = read_image(entry.image, min_side=1)
            mask = np.full(size, 255, np.uint8) if entry.mask is None else read_gray(entry.mask)
            normal = None if entry.normals is None else read_image(entry.normals, min_side=1)
        except InputError as error:
            raise ClipSetError(f"the clip set {self.folder} is damaged: {error}") from error
        for name, array in (("image", image), ("mask", mask), ("normal map", normal)):
            if array is not None and array.shape[:2] != size:
                raise ClipSetError(
                    f"the {name} of timestep {t}, camera {c} in {self.folder} must be {size[1]}x{size[0]} pixels as "
                    f"its camera says, not {array.shape[1]}x{array.shape[0]}: generate it again"
                )
        if not self.meta:
            image = _over_white(image, mask)
        return ClipFrame(t, c, image, mask, normal, entry.camera)

    def clip(self, c: int) -> Clip:
        """All frames of one view. Raises ClipSetError, also where the view's frames differ in size."""
        times = [t for t, camera in self.frames if camera == c]
        cameras = [self.camera(c, t) for t in times]
        self._check_sizes(cameras)
        frames = [self.frame(t, c) for t in times]
        first = cameras[0]
        moves = any(not (torch.equal(k.viewmat, first.viewmat) and torch.equal(k.K, first.K)) for k in cameras)
        normals = [f.normal for f in frames if f.normal is not None]
        return Clip(
            images=np.stack([f.image for f in frames]),
            masks=np.stack([f.mask for f in frames]),
            normals=np.stack(normals) if len(normals) == len(frames) else None,
            camera=first,
            params=self.params.frames(torch.tensor(times)),
            camera_index=c,
            timesteps=np.array(times),
            cameras=cameras if moves else None,
        )

    def clips(self) -> list[Clip]:
        """All views, one after the other. Raises ClipSetError, also where frames differ in size."""
        self._check_sizes([entry.camera for entry in self._entries.values()])
        return [self.clip(c) for c in range(self.num_cameras)]

    def _check_sizes(self, cameras: list[Camera]) -> None:
        sizes = sorted({(camera.width, camera.height) for camera in cameras})
        if len(sizes) > 1:
            found = " and ".join(f"{width}x{height}" for width, height in sizes[:2])
            raise ClipSetError(f"frames of {self.folder} must have one size, and it has {found}: export it again")

    def held_out(self) -> list[Index]:
        """(t, c) of the frames that are kept for validation and test."""
        return sorted({*self.splits["val"], *self.splits["test"]})

    def reference(self) -> ReferenceFiles | None:
        """The portrait's crop, where the clip set was made from a portrait."""
        folder = self.folder / "reference"
        if not (folder / "camera.json").exists():
            return None
        try:
            return ReferenceFiles(
                image=read_image(folder / "image.png", min_side=1),
                mask=read_gray(folder / "mask.png"),
                normals=read_image(folder / "normals.png", min_side=1),
                params=read_params(folder / "params.npz"),
                camera=camera_from_json(read_json(folder / "camera.json"), str(folder / "camera.json")),
            )
        except InputError as error:
            raise ClipSetError(f"the reference of the clip set {self.folder} is damaged: {error}") from error

    def check_head(self, head: HeadModel) -> None:
        """Raises HeadModelError unless `head` is the one whose parameters the clip set holds."""
        recorded = self.meta.get("head", {}).get("hash")
        if recorded is not None and recorded != head.hash:
            raise HeadModelError(
                f"{self.folder} was made with the head model {self.head_name!r} ({recorded}), and {head.name!r} "
                f"({head.hash}) was given: use the recorded one or generate the clips again"
            )
        offset = self.params.static_offset
        if offset is not None and len(offset) != head.num_vertices:
            raise HeadModelError(
                f"{self.folder} holds offsets of {len(offset)} vertices, and the head model {head.name!r} has "
                f"{head.num_vertices}: name the right one with --head"
            )
        found = (self.params.shape.shape[0], self.params.expr.shape[1])
        if found != (head.num_shape, head.num_expr):
            raise HeadModelError(
                f"{self.folder} holds {found[0]} shape and {found[1]} expression parameters, and the head model "
                f"{head.name!r} has {head.num_shape} and {head.num_expr}: name the right one with --head"
            )

    @cached_property
    def _all_params(self) -> list[HeadParams]:
        files: dict[int, Path] = {}
        for (t, _), entry in sorted(self._entries.items()):
            files.setdefault(t, entry.params)
        try:
            return [read_params(files[t]).frame(0) for t in range(self.num_timesteps)]
        except InputError as error:
            raise ClipSetError(f"the clip set {self.folder} is damaged: {error}") from error

    def _notes(self) -> list[str]:
        notes = []
        if not self.meta:
            notes.append(f"{self.folder.name} was exported by another tool; its parameters are taken as FLAME's")
        if not self.has_masks:
            notes.append(
                "no foreground masks: the background is learned with the head, hair is not estimated from silhouettes, "
                "and losses that need masks are off"
            )
        if not self.has_normals:
            notes.append("no normal maps: losses that need them are off")
        if not (self.folder / EXPRESSION).exists():
            notes.append("no expression latents: methods that are driven by them cannot use this set")
        return notes


def _over_white(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    alpha = mask[..., None].astype(np.float32) / 255.0
    return (image * alpha + 255.0 * (1.0 - alpha) + 0.5).astype(np.uint8)


def _open_meta(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ClipSetError(f"a clip set is a folder, and {folder} {what}: check the path, or run `geodiff generate`")
    if not (folder / META).exists():
        if not (folder / TRANSFORMS).exists():
            raise ClipSetError(
                f"a clip set holds {TRANSFORMS}, and {folder} does not: "
                "name a folder that `geodiff generate` or VHAP wrote"
            )
        return {}
    try:
        meta = read_json(folder / META)
    except InputError as error:
        raise ClipSetError(f"the clip set {folder} is damaged: {error}") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("schema"), int):
        raise ClipSetError(f"{folder / META} must name its schema version, and it does not: generate the clips again")
    if meta["schema"] > SCHEMA_VERSION:
        raise ClipSetError(
            f"clip sets up to schema {SCHEMA_VERSION} can be read, and {folder} has schema {meta['schema']}: "
            "update geodiff"
        )
    if not meta.get("complete"):
        done, of = len(meta.get("views", {})), meta.get("num_cameras", "?")
        raise ClipSetError(
            f"a clip set must be finished, and {folder} holds {done} of {of} views: run its `geodiff generate` again, "
            "it goes on where it was"
        )
    return meta


def _open_transforms(folder: Path) -> tuple[dict[Index, _Entry], dict[str, list[Index]]]:
    content = _read_transforms(folder / TRANSFORMS)
    numbered: dict[Index, _Entry] = {}
    for i, values in enumerate(content["frames"]):
        where = f"frame {i} of {folder / TRANSFORMS}"
        index = _index(values, where)
        if index in numbered:
            raise ClipSetError(f"{where} must be the only one of its timestep and camera, and it is not: remove one")
        numbered[index] = _entry(folder, {**content, **values}, where)
    times = {t: i for i, t in enumerate(sorted({t for t, _ in numbered}))}
    cameras = {c: i for i, c in enumerate(sorted({c for _, c in numbered}))}
    entries = {(times[t], cameras[c]): entry for (t, c), entry in numbered.items()}
    splits: dict[str, list[Index]] = {name: [] for name in SPLITS}
    for name in SPLITS:
        path = folder / f"transforms_{name}.json"
        if path.exists():
            listed = [_index(values, f"a frame of {path}") for values in _read_transforms(path, empty=True)["frames"]]
            if unknown := [index for index in listed if index not in numbered]:
                raise ClipSetError(f"{path} may only list frames of {TRANSFORMS}, and {unknown[0]} is not there")
            splits[name] = [(times[t], cameras[c]) for t, c in listed]
    if not splits["train"]:
        held = {*splits["val"], *splits["test"]}
        splits["train"] = [index for index in sorted(entries) if index not in held] or sorted(entries)
    return entries, splits


def _read_transforms(path: Path, empty: bool = False) -> dict[str, Any]:
    try:
        content = read_json(path)
    except InputError as error:
        raise ClipSetError(f"the clip set is missing or damaged: {error}") from error
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not (frames or empty) or not all(isinstance(f, dict) for f in frames):
        raise ClipSetError(f"{path} must list at least one frame, and it does not: generate or export it again")
    return content


def _index(values: dict[str, Any], where: str) -> Index:
    try:
        return int(values["timestep_index"]), int(values["camera_index"])
    except (KeyError, TypeError, ValueError) as error:
        raise ClipSetError(f"{where} must give timestep_index and camera_index, and it does not") from error


def _entry(folder: Path, values: dict[str, Any], where: str) -> _Entry:
    def file(key: str, required: bool) -> Path | None:
        if not required and not values.get(key):
            return None
        path = inside(folder, values.get(key), f"{key} in {where}")
        if not path.is_file() or path.stat().st_size == 0:
            state = "is empty" if path.is_file() else "is missing"
            raise ClipSetError(f"a clip set must be whole, and {path} {state}: run its generation or export again")
        return path

    image, params = file("file_path", True), file("flame_param_path", True)
    assert image is not None and params is not None
    return _Entry(
        image, file("fg_mask_path", False), file("normal_path", False), params, camera_from_json(values, where)
    )
