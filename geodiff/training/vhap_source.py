"""Training samples from clip sets and VHAP exports (NeRSemble and the like): filmed people, tracked, several cameras.

Every frame is brought under the one crop rule; the reference is another view of the same person at another timestep,
the driving crop is the same timestep from another camera (section 3.1 of the paper). Samples have the names and ranges
of `SynthShards`, so that both mix.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from geodiff.clipset import ClipSet
from geodiff.clipset.layout import TRANSFORMS
from geodiff.clipset.transforms import SPLIT_FILES
from geodiff.conditioning import Conditioner, Reference, crop_reference, face_camera, head_frame
from geodiff.conditioning.frame import posed_center, resample
from geodiff.conditioning.pixels import scaled_normals
from geodiff.errors import InputError
from geodiff.files import read_npz, write_npz
from geodiff.geometry import CV_GL
from geodiff.head.model import HeadModel
from geodiff.synth.samples import PROPOSALS, Arrays, as_bytes, as_signed_bytes
from geodiff.synth.shards import FRAME_KEYS, REFERENCE_KEYS, decode, encode
from geodiff.training.dataset import HELD_OUT_EVERY, Split, expression_odds, stacked, windows
from geodiff.types import Camera, HeadParams

#: Folders below the root that are searched for clip sets.
DEPTH = 3
#: Conditioners kept in memory: each holds a completed texture.
KEPT_CONDITIONERS = 8


@dataclass(frozen=True)
class FilmConfig:
    """size, crop: sides of images and driving crops, pixels. references: portraits taken of each clip set.
    reference_yaw, driving_yaw: degrees that a portrait's and a driving crop's camera may stand aside from the face;
    where no camera stands nearer, the nearest one is taken. seed: of all choices."""

    size: int = 256
    crop: int = 64
    references: int = 2
    reference_yaw: float = 40.0
    driving_yaw: float = 50.0
    seed: int = 0


@dataclass(frozen=True)
class _Entry:
    film: int
    camera: int
    times: tuple[int, ...]


class FilmedClips(Dataset[dict[str, Tensor]]):
    """Samples of T frames of clip sets below a folder, under the names of `SynthShards`.

    root: a clip set or VHAP export, or a folder of identities, each a clip set or a folder of several. frames: 1, or
    the window T; shorter clips are padded with their last frame and masked. split: by identity, every twentieth (and of
    two or more at least the last) is held out. head: the head model of the parameters; by default the one that the sets
    name. cache: folder to keep finished samples in, None for none: they are costly and the same every time.

    Raises InputError where there are no clip sets, no masks, or no samples for the split; ClipSetError and
    HeadModelError for sets that are damaged or of different heads.
    """

    def __init__(
        self,
        root: Path | str,
        frames: int = 1,
        split: Split = "train",
        head: HeadModel | None = None,
        config: FilmConfig | None = None,
        cache: Path | str | None = None,
    ) -> None:
        self.root, self.frames, self.config = Path(root), frames, config or FilmConfig()
        self.films: list[Film] = []
        self.entries: list[_Entry] = []
        people = find_clip_sets(self.root)
        for identity in _chosen(sorted(people), split):
            for folder in people[identity]:
                film = Film(folder, identity, head, self.config)
                head = film.head
                self.entries += film.windows(len(self.films), frames)
                self.films.append(film)
        if not self.entries:
            raise InputError(
                f"{self.root} must hold clips of {frames} frame(s) for the split {split!r}, and there are none among "
                f"its {len(people)} people: add people or choose another split"
            )
        self._conditioners: OrderedDict[tuple[int, int], Conditioner] = OrderedDict()
        self._cache = None if cache is None else Path(cache) / self._digest()

    def __len__(self) -> int:
        return len(self.entries)

    def about(self, index: int) -> dict[str, Any]:
        """identity, camera and timesteps of a sample, and how it was put together: reference and driving (timestep,
        camera), proposal."""
        entry = self.entries[index]
        film, choice = self.films[entry.film], self._choice(index)
        return {"identity": film.identity, "camera": entry.camera, "timesteps": entry.times} | {
            "reference": film.references[choice.reference],
            "driving": [(t, film.driving_camera(t, entry.camera)) for t in entry.times],
            "proposal": choice.proposal,
        }

    def rarity(self) -> np.ndarray:
        """(N,) how often to draw each sample, mean 1; see `expression_odds`."""
        rows = [self.films[entry.film].expressions[list(entry.times)].mean(0) for entry in self.entries]
        vectors = np.stack(rows)
        return expression_odds(vectors / max(float(np.quantile(np.abs(vectors).max(1), 0.95)), 1e-6))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        reference, steps = self._kept(index)
        return stacked(reference, steps, self.frames)

    def _choice(self, index: int) -> _Choice:
        entry, rng = self.entries[index], np.random.default_rng([self.config.seed, 3, index])
        references = self.films[entry.film].references
        # From another timestep where there is one, else at least from another view.
        strange = [n for n, (t, _) in enumerate(references) if t not in entry.times]
        other = [n for n, (_, c) in enumerate(references) if c != entry.camera]
        number = int(rng.choice(strange or other or range(len(references))))
        return _Choice(number, str(rng.choice(list(PROPOSALS), p=list(PROPOSALS.values()))))

    def _kept(self, index: int) -> tuple[Arrays, list[Arrays]]:
        """The arrays of a sample, from the cache where they are there."""
        if self._cache is None:
            return self._made(index)
        path = self._cache / f"{index:07d}.npz"
        if not path.exists():
            reference, steps = self._made(index)
            blobs = {f"r.{key}": encode(value) for key, value in reference.items()}
            blobs |= {f"{t}.{key}": encode(value) for t, step in enumerate(steps) for key, value in step.items()}
            packed = {name: np.frombuffer(blob, np.uint8) for name, blob in blobs.items()}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_npz(path, **packed)
        found = read_npz(path)
        count = len(self.entries[index].times)
        steps = [{key: decode(found[f"{t}.{key}"].tobytes()) for key in FRAME_KEYS} for t in range(count)]
        return {key: decode(found[f"r.{key}"].tobytes()) for key in REFERENCE_KEYS}, steps

    def _made(self, index: int) -> tuple[Arrays, list[Arrays]]:
        entry, choice = self.entries[index], self._choice(index)
        film, conditioner = self.films[entry.film], self._conditioner(entry.film, choice.reference)
        steps = [film.frame_arrays(t, entry.camera, conditioner, choice.proposal) for t in entry.times]
        reference = conditioner.reference
        return {
            "reference_image": as_bytes(reference.image),
            "reference_normals": as_signed_bytes(reference.normals),
            "reference_pose_map": as_signed_bytes(reference.pose_map),
        }, steps

    def _conditioner(self, film: int, number: int) -> Conditioner:
        key = (film, number)
        if key not in self._conditioners:
            reference = self.films[film].cropped(*self.films[film].references[number])
            self._conditioners[key] = Conditioner(self.films[film].head, reference)
        self._conditioners.move_to_end(key)
        while len(self._conditioners) > KEPT_CONDITIONERS:
            self._conditioners.popitem(last=False)
        return self._conditioners[key]

    def _digest(self) -> str:
        """Another folder for other samples."""
        films = [[str(film.clips.folder.resolve()), film.stamp] for film in self.films]
        told = json.dumps([asdict(self.config), self.frames, films, [asdict(entry) for entry in self.entries]])
        return hashlib.sha256(told.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Choice:
    reference: int
    proposal: str


class Film:
    """One clip set of one person. references: (timestep, camera) of the portraits. expressions: (T, E) float64."""

    def __init__(self, folder: Path, identity: str, head: HeadModel | None, config: FilmConfig) -> None:
        self.clips, self.identity, self.config = ClipSet.open(folder, head), identity, config
        if not self.clips.has_masks:
            raise InputError(
                f"clips to learn from need a foreground mask for every frame, and {folder} lacks some: export it with "
                "masks"
            )
        self.head = self.clips.head
        self.frame = head_frame(self.head, self.clips.params.frame(0))
        self._there = set(self.clips.frames)
        params = self.clips.params
        self.expressions = torch.cat([params.expr, params.jaw_pose], 1).double().numpy()
        self._yaws = {(t, c): self.yaw(t, c) for t, c in self.clips.frames}
        self.references = self._portraits()
        self.stamp = max((folder / name).stat().st_mtime for name in _LISTS if (folder / name).exists())

    def windows(self, number: int, frames: int) -> list[_Entry]:
        """All samples of this film, which is the dataset's `number`th."""
        entries = []
        for c in range(self.clips.num_cameras):
            times = [t for t, camera in self.clips.frames if camera == c]
            cuts = [(i, i + 1) for i in range(len(times))] if frames == 1 else windows(len(times), frames)
            entries += [_Entry(number, c, tuple(times[start:end])) for start, end in cuts]
        return entries

    def canonical(self, t: int, c: int) -> tuple[HeadParams, Camera]:
        """Parameters (T = 1) and camera of a frame with the head at rest."""
        return self.head.canonicalise(self.clips.params.frame(t), self.clips.camera(c, t))

    def yaw(self, t: int, c: int) -> float:
        """Degrees by which a camera stands aside from the face, positive on the person's left."""
        params, camera = self.canonical(t, c)
        center, _ = posed_center(self.head, params, self.frame)
        ahead = self.head.joint_transforms(params)[0, 1][:3, :3].T @ (camera.center - center)
        return math.degrees(math.atan2(float(ahead[0]), float(ahead[2])))

    def _portraits(self) -> list[tuple[int, int]]:
        """Frames seen about from the front, of different timesteps as far as there are some."""
        rng = np.random.default_rng([self.config.seed, 5, *self.identity.encode(), *self.clips.folder.name.encode()])
        frontal = [key for key, yaw in self._yaws.items() if abs(yaw) <= self.config.reference_yaw]
        frontal = frontal or [min(self._yaws, key=lambda key: abs(self._yaws[key]))]
        order = [frontal[i] for i in rng.permutation(len(frontal))]
        fresh = list({t: (t, c) for t, c in reversed(order)}.values())
        return (fresh + [key for key in order if key not in fresh])[: self.config.references]

    def driving_camera(self, t: int, c: int) -> int:
        """Another camera that sees the face at timestep t; c itself where there is no other."""
        others = [d for d in range(self.clips.num_cameras) if d != c and (t, d) in self._there]
        facing = [d for d in others if abs(self._yaws[t, d]) <= self.config.driving_yaw]
        if facing:
            # The same one throughout a clip where it can be: chosen by the target's camera alone.
            return facing[np.random.default_rng([self.config.seed, 7, c]).integers(len(facing))]
        return min(others, key=lambda d: abs(self._yaws[t, d])) if others else c

    def cropped(self, t: int, c: int) -> Reference:
        """A frame under the crop rule, with the fitted mesh's normals."""
        frame = self.clips.frame(t, c)
        matte = frame.mask.astype(np.float32) / 255
        return crop_reference(frame.image, matte, self.clips.params.frame(t), frame.camera, self.head, self.config.size)

    def frame_arrays(self, t: int, c: int, conditioner: Conditioner, kind: str) -> Arrays:
        """A frame with all its conditions under `FRAME_KEYS`, uint8. kind: of PROPOSALS."""
        seen = self.cropped(t, c)
        params = seen.params
        expression = {
            "tracked": params,
            "reference": conditioner.reference.params,
            "neutral": params.replace(
                expr=params.expr * 0, jaw_pose=params.jaw_pose * 0, eyes_pose=params.eyes_pose * 0
            ),
        }[kind]
        shown = params.replace(expr=expression.expr, jaw_pose=expression.jaw_pose, eyes_pose=expression.eyes_pose)
        condition = conditioner.render(shown, seen.camera)
        return {
            "images": as_bytes(seen.image),
            "normals": as_signed_bytes(self._normals(t, c, seen)),
            "masks": as_bytes(seen.mask),
            "pose_maps": as_signed_bytes(seen.pose_map),
            "proposals": as_bytes(condition.proposal),
            "proposal_normals": as_signed_bytes(condition.normals),
            "visibility": as_bytes(condition.visibility),
            "driving": as_bytes(self._driving(t, self.driving_camera(t, c))),
        }

    def _normals(self, t: int, c: int, seen: Reference) -> np.ndarray:
        """(S, S, 3) the clip set's own normals where it has some, else the fitted mesh's, inside the mask."""
        frame = self.clips.frame(t, c)
        if frame.normal is None:
            return seen.normals
        _, camera = self.canonical(t, c)
        vectors = frame.normal.astype(np.float32) / 127.5 - 1
        vectors[np.linalg.norm(vectors, axis=-1) < 0.5] = 0
        vectors = resample(vectors, camera, seen.camera)
        axes = CV_GL @ seen.camera.viewmat[:3, :3] @ camera.viewmat[:3, :3].T @ CV_GL
        return scaled_normals(vectors @ axes.numpy().T, np.where(np.linalg.norm(vectors, axis=-1) > 0.1, seen.mask, 0))

    def _driving(self, t: int, c: int) -> np.ndarray:
        """(crop, crop, 3) the face at a timestep in a camera, on white."""
        frame = self.clips.frame(t, c)
        params, camera = self.canonical(t, c)
        target = face_camera(self.head, params, camera, self.config.crop)
        alpha = frame.mask[..., None].astype(np.float32) / 255
        image = frame.image.astype(np.float32) / 255 * alpha + (1 - alpha)
        return resample(image, camera, target, border=1.0)


_LISTS = (TRANSFORMS, *SPLIT_FILES.values())


def has_clip_sets(root: Path) -> bool:
    """Whether `find_clip_sets` finds some."""
    try:
        return bool(find_clip_sets(root))
    except InputError:
        return False


def find_clip_sets(root: Path) -> dict[str, list[Path]]:
    """Clip sets at or below a folder, by identity: the name of the first folder below the root, or the root's own.

    Raises InputError where there are none.
    """

    def is_set(folder: Path) -> bool:
        return any((folder / name).is_file() for name in _LISTS)

    if root.is_dir() and is_set(root):
        return {root.resolve().name: [root]}
    people: dict[str, list[Path]] = {}
    level = [path for path in sorted(root.iterdir()) if path.is_dir()] if root.is_dir() else []
    for _ in range(DEPTH):
        for folder in filter(is_set, level):
            people.setdefault(folder.relative_to(root).parts[0], []).append(folder)
        level = [path for folder in level if not is_set(folder) for path in sorted(folder.iterdir()) if path.is_dir()]
    if not people:
        raise InputError(
            f"{root} must be a clip set or hold clip sets, one folder a person, and no {TRANSFORMS} was found in it: "
            "name the folder that VHAP exported to"
        )
    return people


def _chosen(identities: list[str], split: Split) -> list[str]:
    held_out = set(identities[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY] or identities[1:][-1:])
    return [name for name in identities if split == "all" or (name in held_out) == (split == "held_out")]
