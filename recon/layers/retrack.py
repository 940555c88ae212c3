"""`track: generated`: expressions measured on the frames themselves instead of those that drove them (section 3.3).

The paper tracks the generated video anew and takes all parameters from there. Here the front view is tracked, and
expression, jaw and eyes of its frames replace the driving ones. The head's pose, its shape and the cameras stay those
of the clip set, which were given to the generator and are exact, where a tracker would have to guess depth and focal
length.
"""

from __future__ import annotations

import numpy as np
import torch

from geodiff.errors import ClipSetError, FaceError
from geodiff.head.model import HeadModel
from geodiff.types import Camera, Clip, HeadParams

#: Cosine between the face's direction and a view's below which no view counts as the front: 40 degrees.
_FRONTAL = 0.766


def retracked(clips: list[Clip], head: HeadModel) -> list[Clip]:
    """The clips with expressions tracked in their front view.

    Raises ClipSetError where no view shows the face from the front, where the front view shows no face, or where other
    views have times that the front view lacks.
    """
    from geodiff.tracking.track import track_video

    front = front_view(clips, head)
    try:
        found = track_video(iter(front.images), head).params
    except FaceError as error:
        raise ClipSetError(
            f"track=generated needs a face in the front view (camera {front.camera_index}), and none was found there: "
            "use track=clips"
        ) from error
    place = {int(t): i for i, t in enumerate(front.timesteps)}
    missing = sorted({int(t) for clip in clips for t in clip.timesteps} - place.keys())
    if missing:
        raise ClipSetError(
            f"track=generated needs every time in the front view (camera {front.camera_index}), and time {missing[0]} "
            "is only seen by another: use track=clips"
        )
    return [_with(clip, found, [place[int(t)] for t in clip.timesteps]) for clip in clips]


def front_view(clips: list[Clip], head: HeadModel) -> Clip:
    """The view that looks at the face most directly. Raises ClipSetError where none is within 40 degrees."""
    cosines = [_cosine(clip.params.frame(0), clip.camera, head) for clip in clips]
    best = int(np.argmax(cosines))
    if cosines[best] < _FRONTAL:
        angle = float(np.degrees(np.arccos(np.clip(cosines[best], -1, 1))))
        raise ClipSetError(
            f"track=generated needs a view within 40 degrees of the front, and the nearest is {angle:.0f} degrees off: "
            "use track=clips"
        )
    return clips[best]


def _cosine(params: HeadParams, camera: Camera, head: HeadModel) -> float:
    root = head.joint_transforms(params)[0, 1]
    middle = head.vertices(params)[0].mean(0)
    return float(torch.nn.functional.cosine_similarity(root[:3, 2], camera.center - middle, dim=0))


def _with(clip: Clip, found: HeadParams, rows: list[int]) -> Clip:
    picked = torch.tensor(rows)
    names = ("expr", "jaw_pose", "eyes_pose")
    params = clip.params.replace(**{name: getattr(found, name)[picked] for name in names})
    return Clip(
        clip.images, clip.masks, clip.camera, params, clip.camera_index, clip.timesteps, clip.normals, clip.cameras
    )
