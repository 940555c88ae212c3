"""The avatar task: clips of a true person with the parameters that a tracker finds, and the frames held out of them.

A method gets a clip set on disk, as it gets it from a generator, a capture or a dataset, and nothing else; then it is
asked for views and expressions that the clip set does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geodiff.clipset import ClipSetSpec, ClipSetWriter
from geodiff.errors import FaceError
from geodiff.metrics.picture import Picture
from geodiff.metrics.registry import Metric, Setup
from geodiff.synth.bench.captured import CapturedClips
from geodiff.synth.bench.definition import VERSION, avatar_motions, avatar_views, view_angle
from geodiff.synth.bench.observe import AvatarKind, Kind, Observer, understand
from geodiff.synth.bench.people import Person
from geodiff.synth.bench.scores import Score, measure, sized
from geodiff.synth.bench.tasks import Bench, Compared, proposed
from geodiff.types import Camera, Clip, HeadParams, Motion

_FILMS = 3000


@dataclass(frozen=True)
class HeldOut:
    """A frame that an avatar is asked for.

    params: T = 1 of the clips' identity. camera: of their world. true_camera: the same in the truth's. motion: T = 1,
    true. part: "views" or "expressions", whichever is new. crop: (64, 64, 3) the driving face.
    """

    params: HeadParams
    camera: Camera
    true_camera: Camera
    motion: Motion
    part: str
    extreme: bool
    crop: np.ndarray

    @property
    def angle(self) -> float:
        """Degrees between the camera's direction and the face's."""
        x, y, z = (float(v) for v in self.true_camera.viewmat[2, :3])
        return view_angle(float(np.degrees(np.arctan2(-x, -z))), float(np.degrees(np.arcsin(-y))))


#: What makes pictures of an avatar: held-out frame -> picture in its camera.
Renderer = Callable[[HeldOut], Picture]


class AvatarClips:
    """The clips of one person and the frames held out of them. Raises FaceError where the tracker finds no face."""

    def __init__(self, bench: Bench, identity: int, kind: AvatarKind) -> None:
        config = bench.config
        self.bench, self.kind = bench, kind
        self.person: Person = bench.person(identity)
        self.seen, self.new = avatar_motions(identity, config.steps, config.held_steps)
        self.cameras = self.person.clip_cameras(config.views)
        self._capture: CapturedClips | None = None
        if kind == "captured":
            self._capture = CapturedClips(self.person, self.seen, self.cameras, bench.head)
            self.observer = Observer(self.person, bench.head, self._capture.portrait, config.size)
            self.params, self.crops = self._capture.params, self._capture.crops
        else:
            self.observer = bench.observer(identity, kind, config.size)
            self.params, self.crops = self._driven(self.seen, kind, _FILMS)

    def write(self, folder: Path) -> Path:
        """The training clips as a finished clip set, all of whose frames are for training."""
        head, steps = self.bench.head, self.seen.num_frames
        spec = ClipSetSpec(
            num_cameras=len(self.cameras), num_frames=steps, preset="synthbench",
            head_spec=self.bench.head_spec,
            fingerprint=f"synthbench {VERSION} {self.bench.truth.hash} {self.person.identity} {self.kind}",
        )  # fmt: skip
        writer = ClipSetWriter(folder, spec, head)
        writer.write_reference(self.observer.reference)
        if missing := writer.missing_views():
            chosen = [self.cameras[c] for c in missing]
            frames = [self.person.truth(self.seen.frame(t), chosen) for t in range(steps)]
            for place, c in enumerate(missing):
                writer.write_view(self._clip(c, [row[place] for row in frames]))
        every = [(t, c) for c in range(len(self.cameras)) for t in range(steps)]
        return writer.finish({"train": every})

    def held_out(self) -> Iterator[HeldOut]:
        """New views of expressions that were seen, then new expressions in views that were seen."""
        config, identity = self.bench.config, self.person.identity
        times = np.linspace(0, self.seen.num_frames - 1, config.held_steps).round().astype(int)
        views = [self.person.camera(*view) for view in avatar_views(identity, config.held_views)]
        for camera in views:
            for t in times:
                yield self._asked(
                    self.params.frame(int(t)), camera, "views", self.seen.frame(int(t)), False, self.crops[t]
                )
        params, crops = self._new()
        for camera in self.cameras[: config.held_views]:
            for t in range(config.held_steps):
                yield self._asked(params.frame(t), camera, "expressions", self.new.frame(t), t % 2 == 1, crops[t])

    def _asked(
        self, params: HeadParams, camera: Camera, part: str, motion: Motion, extreme: bool, crop: np.ndarray
    ) -> HeldOut:
        return HeldOut(params, self.observer.camera(camera), camera, motion, part, extreme, crop)

    def _new(self) -> tuple[HeadParams, np.ndarray]:
        """Parameters and driving crops of the new expressions."""
        if self._capture is not None:
            return self._capture.further(self.new)
        assert self.kind != "captured"
        return self._driven(self.new, self.kind, _FILMS + 500)

    def _driven(self, motion: Motion, kind: Kind, first: int) -> tuple[HeadParams, np.ndarray]:
        """Parameters on the portrait's identity, T frames, and driving crops."""
        films = [self.person.film(motion.frame(t), first + t) for t in range(motion.num_frames)]
        found = [understand(self.person, film, self.bench.head, kind) for film in films]
        params = HeadParams.concatenate([self.observer.carried(one) for one in found])
        return params, np.stack([one.crop for one in found])

    def _clip(self, c: int, frames: list[Picture]) -> Clip:
        masks, normals = [f.alpha for f in frames], [f.normals for f in frames]
        return Clip(
            images=np.stack([frame.bytes for frame in frames]),
            normals=np.stack([_bytes(n * 0.5 + 0.5) for n in normals if n is not None]),
            masks=np.stack([_bytes(mask) for mask in masks if mask is not None]),
            camera=self.observer.camera(self.cameras[c]),
            params=self.params,
            camera_index=c,
            timesteps=np.arange(len(frames)),
        )


def score_avatar(
    clips: AvatarClips,
    render: Renderer,
    metrics: Sequence[Metric],
    setup: Setup | None = None,
    step: Callable[[], None] = lambda: None,
) -> tuple[list[Score], list[Compared]]:
    """An avatar's pictures of the held-out frames beside the true ones and the proposal's."""
    size, setup = clips.bench.config.size, setup or Setup()
    scores: list[Score] = []
    shown: list[Compared] = []
    for number, asked in enumerate(clips.held_out()):
        truth = clips.person.truth(asked.motion, [asked.true_camera])[0]
        condition = clips.observer.condition(asked.params, asked.camera)
        baseline, result = proposed(condition), sized(render(asked), size)
        expression = "extreme" if asked.extreme else "ordinary"
        for name, picture in (("result", result), ("proposal", baseline)):
            figures, missing = measure(picture, truth, condition.visibility, metrics, setup)
            place = ("avatar", clips.person.identity, number, round(asked.angle, 2), expression, clips.kind, name)
            scores.append(Score(*place, figures, missing, part=asked.part))
        crop = (asked.crop * 255 + 0.5).astype(np.uint8)
        shown.append(Compared(clips.observer.reference.image, crop, truth, baseline, result))
        step()
    return scores, shown


def try_clips(bench: Bench, identity: int, kind: AvatarKind) -> tuple[AvatarClips | None, str]:
    """The clips, or why the tracker cannot give them."""
    try:
        return AvatarClips(bench, identity, kind), ""
    except FaceError:
        return None, f"avatar {identity}, {kind}: the tracker finds no face in the portrait or a driving frame"


def _bytes(array: np.ndarray) -> np.ndarray:
    return (np.clip(array, 0, 1) * 255 + 0.5).astype(np.uint8)
