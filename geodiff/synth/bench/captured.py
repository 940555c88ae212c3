"""A person's clips as a capture: cameras are known, and the tracker sees the pictures of all of them.

This is how avatars are made of studios' recordings (NeRSemble with VHAP's parameters, as GaussianAvatars has it): the
expressions that are held out are tracked in all cameras as well, on the identity of the others.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from geodiff.errors import FaceError
from geodiff.head.model import HeadModel
from geodiff.synth.bench.observe import Understood, driving_crop
from geodiff.synth.bench.people import Person
from geodiff.tracking.capture import Cell, fit_capture, look_at, track_capture
from geodiff.tracking.matte import portrait_matte
from geodiff.tracking.offsets import fit_offsets
from geodiff.types import Camera, HeadParams, Motion


class CapturedClips:
    """T expressions `motion` before the cameras, with the portrait as one picture more.

    portrait: the photograph; its world is the capture's. params: T, with the portrait's static offsets. crops: (T, 64,
    64, 3) driving faces, of the camera that sees them best. Raises FaceError where the tracker finds no face.
    """

    def __init__(self, person: Person, motion: Motion, cameras: list[Camera], head: HeadModel) -> None:
        self.person, self.cameras, self.head = person, cameras, head
        photo, last = person.photo, motion.num_frames

        def pictures() -> Iterator[tuple[Cell, np.ndarray]]:
            yield from self._pictures(motion)
            yield (last, len(cameras)), photo.image

        if not photo.faces:
            raise FaceError("the tracker finds no face in the portrait")
        track = track_capture(pictures(), [*cameras, photo.camera], head)
        self._track = track
        camera = track.cameras[-1]
        matte = portrait_matte(photo.image, photo.faces[0])
        params = fit_offsets(matte, track.params.frame(last), camera, head, photo.image)
        scale = float(np.exp(-track.state.log_scale))
        self.portrait = Understood(params, camera, matte, (torch.eye(3), torch.zeros(3), scale))
        self.params = track.params.frames(slice(0, last)).replace(static_offset=params.static_offset)
        self.crops = self._crops(motion, self.params, track.cameras, track.angles)

    def further(self, motion: Motion) -> tuple[HeadParams, np.ndarray]:
        """Parameters of other expressions on this identity, and their driving crops."""
        sights = {cell: sight for cell, image in self._pictures(motion) if (sight := look_at(image)) is not None}
        track = fit_capture(sights, motion.num_frames, self.cameras, self.head, known=self._track)
        params = track.params.replace(static_offset=self.params.static_offset)
        return params, self._crops(motion, params, track.cameras, track.angles)

    def _pictures(self, motion: Motion) -> Iterator[tuple[Cell, np.ndarray]]:
        for t in range(motion.num_frames):
            for c, picture in enumerate(self.person.truth(motion.frame(t), self.cameras)):
                yield (t, c), picture.bytes

    def _crops(self, motion: Motion, params: HeadParams, cameras: list[Camera], angles: np.ndarray) -> np.ndarray:
        crops = []
        for t in range(motion.num_frames):
            best = int(np.argmin(np.nan_to_num(angles[t, : len(self.cameras)], nan=180.0)))
            picture = self.person.truth(motion.frame(t), [self.cameras[best]])[0]
            crops.append(driving_crop(picture.bytes, cameras[best], params.frame(t), self.head))
        return np.stack(crops)
