"""Writing a clip set, view by view.

Every file appears whole or not at all, and a view counts as finished only when all of its files are there, so a run
that is killed at any moment goes on with the first unfinished view.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from geodiff import __version__
from geodiff.clipset.layout import (
    CANONICAL,
    EXPRESSION,
    INDEXINGS,
    META,
    SCHEMA_VERSION,
    SPLITS,
    TRANSFORMS,
    Index,
    camera_to_json,
    default_splits,
    frame_name,
    write_canonical,
    write_params,
)
from geodiff.errors import ClipSetError, HeadModelError, InputError
from geodiff.files import make_folder, read_json, save_tensors, write_json
from geodiff.head.identity import absolute_spec
from geodiff.head.model import HeadModel
from geodiff.media import read_image, write_image, write_video
from geodiff.types import Camera, Clip, HeadParams


@dataclass(frozen=True)
class ClipSetSpec:
    """What a clip set is going to hold.

    num_cameras views of num_frames frames each. fingerprint: any text that decides what the frames look like (a digest
    of portrait, configuration and seed): a folder is only continued by a run with the same one. domains: "image", and
    "normal" where there are normal maps. head_spec: what `load_head` takes to load the head model.
    """

    num_cameras: int
    num_frames: int
    fingerprint: str
    preset: str
    indexing: str = "multiview"
    fps: float = 25.0
    domains: tuple[str, ...] = ("image", "normal")
    expression_encoder: str | None = None
    head_spec: str = "builtin"

    @property
    def num_timesteps(self) -> int:
        return self.num_frames * (self.num_cameras if self.indexing == "monocular" else 1)

    def timesteps(self, camera: int) -> np.ndarray:
        """(num_frames,) timestep numbers of one view's frames."""
        first = camera * self.num_frames if self.indexing == "monocular" else 0
        return np.arange(first, first + self.num_frames)


class ReferenceLike(Protocol):
    """What is kept of the portrait: see `geodiff.conditioning.Reference`."""

    @property
    def image(self) -> np.ndarray: ...
    @property
    def mask(self) -> np.ndarray: ...
    @property
    def normals(self) -> np.ndarray: ...
    @property
    def camera(self) -> Camera: ...
    @property
    def params(self) -> HeadParams: ...


class ClipSetWriter:
    """Writes one clip set; makes a new one or goes on with an unfinished one.

    Raises ClipSetError when the folder holds a clip set made otherwise, StorageError when it cannot be written.
    """

    def __init__(self, folder: Path | str, spec: ClipSetSpec, head: HeadModel) -> None:
        if spec.indexing not in INDEXINGS:
            raise ValueError(f"indexing must be one of {INDEXINGS}, not {spec.indexing!r}")
        self.folder = Path(folder)
        self.spec = spec
        self.head = head
        self._meta = self._start()

    @property
    def finished_views(self) -> list[int]:
        """Views whose files are all there."""
        return sorted(int(c) for c in self._meta["views"])

    @property
    def complete(self) -> bool:
        return bool(self._meta["complete"])

    def missing_views(self) -> list[int]:
        """Views that remain to be written."""
        return [c for c in range(self.spec.num_cameras) if c not in self.finished_views]

    def write_view(self, clip: Clip) -> None:
        """Writes one view: its frames, masks, normals, head parameters and video."""
        self._check(clip)
        c = clip.camera_index
        for i, t in enumerate(self.spec.timesteps(c)):
            normals = None if clip.normals is None else clip.normals[i]
            self.write_frame(int(t), c, clip.images[i], clip.masks[i], clip.params.frame(i), normals)
        self.finish_view(c, clip.camera, clip.params, clip.images)

    def has_frame(self, t: int, c: int) -> bool:
        """Whether all files of a frame are there; files appear whole or not at all."""
        return all(path.is_file() and path.stat().st_size for path in self._frame_files(t, c))

    def write_frame(
        self, t: int, c: int, image: np.ndarray, mask: np.ndarray, params: HeadParams, normals: np.ndarray | None = None
    ) -> None:
        """Writes one frame of a view that is too long to be held whole; `finish_view` ends the view.

        image: (H, W, 3) uint8. mask: (H, W) uint8. params: T = 1, kept as they are where the timestep has some already.
        """
        name = frame_name(t, c)
        write_image(self.folder / "images" / name, image)
        write_image(self.folder / "fg_masks" / name, mask)
        if normals is not None:
            write_image(self.folder / "normals" / name, normals)
        path = self.folder / "flame_param" / f"{t:05d}.npz"
        if not path.exists():
            write_params(path, params, self.head.num_vertices, self.head)

    def finish_view(
        self, c: int, camera: Camera, params: HeadParams, images: Iterable[np.ndarray] | None = None
    ) -> None:
        """Marks a view whose frames are all written as finished, and makes its video.

        images: its frames, for those who still have them; otherwise they are read again one by one. Raises
        ClipSetError if a frame is missing.
        """
        for t in self.spec.timesteps(c):
            if not self.has_frame(int(t), c):
                raise ClipSetError(
                    f"a view needs all of its frames, and frame {t} of view {c} of {self.folder} is missing"
                )
        names = (self.folder / "images" / frame_name(int(t), c) for t in self.spec.timesteps(c))
        frames = (read_image(name, min_side=1) for name in names) if images is None else images
        if not (self.folder / CANONICAL).exists():
            write_canonical(self.folder / CANONICAL, params, self.head.num_vertices, self.head)
        write_video(self.folder / "videos" / f"view_{c:02d}.mp4", frames, self.spec.fps)
        self._meta["views"][str(c)] = camera_to_json(camera)
        self._save()

    def write_reference(self, reference: ReferenceLike) -> None:
        """The portrait's crop with what was fitted to it; images float 0..1, normals -1..1."""
        folder = self.folder / "reference"
        write_image(folder / "image.png", np.asarray(reference.image))
        write_image(folder / "mask.png", np.asarray(reference.mask))
        write_image(folder / "normals.png", (np.asarray(reference.normals) + 1.0) / 2.0)
        write_params(folder / "params.npz", reference.params, self.head.num_vertices, self.head)
        write_json(folder / "camera.json", camera_to_json(reference.camera))

    def write_expression(self, latents: torch.Tensor) -> None:
        """Latents (timesteps, tokens, width) of the expression encoder named in the spec."""
        if latents.shape[0] != self.spec.num_timesteps:
            raise ValueError(f"{self.spec.num_timesteps} timesteps need as many latents, not {latents.shape[0]}")
        metadata = {"encoder": self.spec.expression_encoder or ""}
        save_tensors(self.folder / EXPRESSION, {"expression": latents.float()}, metadata)

    def finish(self, splits: dict[str, list[Index]] | None = None) -> Path:
        """Writes the transforms of all views and marks the set complete. Raises ClipSetError if a view is missing."""
        if missing := self.missing_views():
            raise ClipSetError(f"a clip set needs all of its views, and view {missing[0]} of {self.folder} is missing")
        frames = [(int(t), c) for c in range(self.spec.num_cameras) for t in self.spec.timesteps(c)]
        chosen = splits or default_splits(frames)
        for name in SPLITS:
            write_json(self.folder / f"transforms_{name}.json", self._transforms(chosen.get(name, [])))
        write_json(self.folder / TRANSFORMS, self._transforms(frames))
        self._meta["complete"] = True
        self._save()
        return self.folder

    def _transforms(self, frames: Iterable[Index]) -> dict[str, Any]:
        entries = [self._entry(t, c) for t, c in frames]
        top = {k: v for k, v in self._meta["views"]["0"].items() if k != "transform_matrix"}
        return {
            "frames": entries,
            **top,
            "timestep_indices": sorted({entry["timestep_index"] for entry in entries}),
            "camera_indices": sorted({entry["camera_index"] for entry in entries}),
        }

    def _entry(self, t: int, c: int) -> dict[str, Any]:
        name = frame_name(t, c)
        entry = {
            "timestep_index": t,
            "timestep_index_original": t,
            "timestep_id": f"{t:05d}",
            "camera_index": c,
            "camera_id": f"{c:02d}",
            **self._meta["views"][str(c)],
            "file_path": f"images/{name}",
            "fg_mask_path": f"fg_masks/{name}",
            "flame_param_path": f"flame_param/{t:05d}.npz",
        }
        if "normal" in self.spec.domains:
            entry["normal_path"] = f"normals/{name}"
        return entry

    def _check(self, clip: Clip) -> None:
        frames = self.spec.num_frames
        shape = (frames, clip.camera.height, clip.camera.width)
        if not 0 <= clip.camera_index < self.spec.num_cameras:
            raise ValueError(f"view {clip.camera_index} is outside the {self.spec.num_cameras} views of this clip set")
        if clip.images.shape != (*shape, 3) or clip.masks.shape != shape or clip.params.num_frames != frames:
            raise ValueError(f"a clip must hold {frames} frames of its camera's size, not {clip.images.shape}")
        if (clip.normals is not None) != ("normal" in self.spec.domains):
            raise ValueError("a clip must have normals exactly when the clip set's domains name them")
        if not np.array_equal(clip.timesteps, self.spec.timesteps(clip.camera_index)):
            raise ValueError(f"the timesteps of view {clip.camera_index} do not fit indexing {self.spec.indexing!r}")

    def _start(self) -> dict[str, Any]:
        make_folder(self.folder)
        fresh = {
            "schema": SCHEMA_VERSION,
            "generator": f"geodiff {__version__}",
            "complete": False,
            "head": {
                "name": self.head.name,
                "hash": self.head.hash,
                "num_shape": self.head.num_shape,
                "num_expr": self.head.num_expr,
                "num_vertices": self.head.num_vertices,
            },
            **dataclasses.asdict(self.spec),
            "head_spec": absolute_spec(self.spec.head_spec),
            "domains": list(self.spec.domains),
            "num_timesteps": self.spec.num_timesteps,
            "views": {},
        }
        found = self._found()
        if found is None:
            if (self.folder / TRANSFORMS).exists():
                raise ClipSetError(
                    f"the output folder must be new, and {self.folder} holds another clip set: choose another"
                )
            write_json(self.folder / META, fresh)
            return fresh
        recorded = found.get("head")
        if isinstance(recorded, dict) and recorded.get("hash") not in (None, self.head.hash):
            raise HeadModelError(
                f"the output folder must be new or hold a run with the same head model, and {self.folder} holds a clip "
                f"set made with {recorded.get('name')!r} ({recorded['hash']}), not {self.head.name!r} "
                f"({self.head.hash}): choose another --out, or give the head model that it was made with"
            )
        told = (
            "schema",
            "head",
            "fingerprint",
            "num_cameras",
            "num_frames",
            "indexing",
            "domains",
            "expression_encoder",
        )
        if any(found.get(key) != fresh[key] for key in told):
            raise ClipSetError(
                f"the output folder must be new or hold a run of the same command, and {self.folder} holds a clip set "
                "made from another portrait or other settings: choose another --out or remove it"
            )
        found["views"] = {c: v for c, v in found.get("views", {}).items() if self._has_files(int(c))}
        found["complete"] = bool(found.get("complete")) and len(found["views"]) == self.spec.num_cameras
        for leftover in self.folder.glob("*/.[0-9v]*-*"):
            leftover.unlink(missing_ok=True)
        return found

    def _found(self) -> dict[str, Any] | None:
        if not (self.folder / META).exists():
            return None
        try:
            found = read_json(self.folder / META)
        except InputError as error:
            raise ClipSetError(f"{self.folder / META} is damaged: choose another --out or remove the folder") from error
        return found if isinstance(found, dict) else {}

    def _has_files(self, c: int) -> bool:
        return all(self.has_frame(int(t), c) for t in self.spec.timesteps(c))

    def _frame_files(self, t: int, c: int) -> list[Path]:
        folders = ["images", "fg_masks"] + (["normals"] if "normal" in self.spec.domains else [])
        files = [self.folder / folder / frame_name(t, c) for folder in folders]
        return [*files, self.folder / "flame_param" / f"{t:05d}.npz"]

    def _save(self) -> None:
        write_json(self.folder / META, self._meta)
