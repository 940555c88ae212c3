"""Reading and validating clip sets, ours and other people's VHAP exports."""

from __future__ import annotations

from collections.abc import Callable
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
    TRANSFORMS,
    Index,
    camera_from_json,
    read_params,
)
from geodiff.clipset.repair import usable
from geodiff.clipset.transforms import SPLIT_FILES, Listed, open_transforms
from geodiff.errors import ClipSetError, HeadModelError, InputError
from geodiff.files import frame_rate, read_json, read_npz
from geodiff.head.identity import HeadRecord, hash_of
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


class ClipSet:
    """A valid clip set on disk.

    Timesteps t and cameras c count from 0 without gaps, in the order of the numbers on disk. notes: sentences about
    what is absent and therefore off. meta: what clipset.json says, or an empty dictionary for other tools' exports.
    foreign: whether another tool made it, so that its images may have a background and its lists gaps. tell: told what
    is found while frames are read.
    """

    def __init__(self, folder: Path, listed: Listed, meta: dict[str, Any]) -> None:
        self.folder = folder
        self.meta = meta
        self.foreign = is_foreign(meta)
        self._head_spec: str | None = None
        self.splits = listed.splits
        self._entries = entries = listed.entries
        #: Their numbers and names on disk: (num_timesteps,) and (num_cameras,).
        self.timestep_numbers, self.camera_ids = listed.timesteps, listed.cameras
        self.num_timesteps = 1 + max(t for t, _ in entries)
        self.num_cameras = 1 + max(c for _, c in entries)
        self.fps = frame_rate(meta.get("fps", 25.0), folder / META)
        self.indexing = str(meta.get("indexing", "multiview"))
        self.notes: list[str] = self._notes()
        self.tell: Callable[[str], None] = lambda sentence: None

    @staticmethod
    def open(path: Path | str, head: HeadModel | None = None, head_spec: str | None = None) -> ClipSet:
        """Opens a clip set and checks that it is whole: every file that it names is there.

        head: the head model of its parameters, and where it is from; by default the recorded one is loaded when it is
        asked for.
        Raises ClipSetError, one sentence, when it is missing, half-written or inconsistent.
        """
        folder = Path(path)
        meta = _open_meta(folder)
        clips = ClipSet(folder, open_transforms(folder, foreign=is_foreign(meta)), meta)
        widths = {(p.shape.shape[0], p.expr.shape[1]) for p in clips._all_params}
        if len(widths) > 1:
            raise ClipSetError(f"a clip set needs one head, and the files in {folder / 'flame_param'} differ in width")
        if head is not None:
            clips.check_head(head)
            clips.head, clips._head_spec = head, head_spec
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
        return self.head_record.name or "flame"

    @property
    def head_spec(self) -> str:
        """What `geodiff.head.load_head` takes to load the recorded head; "flame" where only its family is known."""
        return self._head_spec or str(self.meta.get("head_spec", "flame"))

    @cached_property
    def head_record(self) -> HeadRecord:
        """What the clip set says about its head: in clipset.json, or in its parameter files."""
        recorded = self.meta.get("head")
        recorded = recorded if isinstance(recorded, dict) else {}
        digest = recorded.get("hash") or hash_of(read_npz(self.params_file(0)))
        name = str(recorded.get("name", "" if digest else "flame"))
        return HeadRecord(name, digest, self.meta.get("head_spec"))

    @cached_property
    def head(self) -> HeadModel:
        """The head model of the parameters. Raises HeadModelError when it cannot be found or is another one."""
        head, self._head_spec = self.head_record.find(self.folder)
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

    def normal_file(self, t: int, c: int) -> Path | None:
        """The file of a frame's normal map, where it has one."""
        return self._entries[t, c].normals

    def params_file(self, t: int) -> Path:
        """The file of a timestep's head parameters."""
        return next(entry.params for (time, _), entry in sorted(self._entries.items()) if time == t)

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
        if self.foreign:
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
        """All views, one after the other; frames with an empty mask are left out, and normal maps repaired where few of
        their pixels hold no normals, of which `tell` is told.

        Raises ClipSetError, also where frames differ in size.
        """
        self._check_sizes([entry.camera for entry in self._entries.values()])
        clips, notes = usable([self.clip(c) for c in range(self.num_cameras)], self.has_masks, str(self.folder))
        for sentence in notes:
            self.tell(sentence)
        return clips

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
        self.head_record.check(head, self.folder)
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
        if self.foreign:
            own = f"are those of {self.head_name!r}" if self.meta else "are taken as FLAME's"
            notes.append(f"{self.folder.name} was exported by another tool; its parameters {own}")
        if not self.has_masks:
            bare = sum(entry.mask is None for entry in self._entries.values())
            some = "no foreground masks" if bare == len(self._entries) else f"{bare} frames have no foreground mask"
            notes.append(
                f"{some}: the background is learned with the head, hair is not estimated from silhouettes, "
                "and losses that need masks are off"
            )
        if not self.has_normals:
            notes.append("no normal maps: losses that need them are off")
        if not (self.folder / EXPRESSION).exists():
            notes.append("no expression latents: methods that are driven by them cannot use this set")
        return notes


def is_foreign(meta: dict[str, Any]) -> bool:
    """Whether another tool made the images and lists of a clip set; its clipset.json, if any, tells the head alone."""
    return not meta or bool(meta.get("imported"))


def _over_white(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    alpha = mask[..., None].astype(np.float32) / 255.0
    return (image * alpha + 255.0 * (1.0 - alpha) + 0.5).astype(np.uint8)


def _open_meta(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ClipSetError(f"a clip set is a folder, and {folder} {what}: check the path, or run `geodiff generate`")
    if not (folder / META).exists():
        if not any((folder / name).exists() for name in (TRANSFORMS, *SPLIT_FILES.values())):
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
