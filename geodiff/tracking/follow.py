"""One person through a film, frame by frame: who it is, where it is lost and found again, where the film cuts.

Landmarks alone do not tell people apart, so the follower keeps a few small pictures of the face, brought to one place
and size, and compares: the same person's pictures correlate by 0.65 and more over turns and expressions, those of
others by less than 0.6 (measured on a talking head and three portraits).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from geodiff.tracking.landmarks import Face, LandmarkTracker, detect_faces
from geodiff.tracking.scenes import MEMORY, Signature, change, is_cut, signature

#: Side of the pictures that are compared, and where eyes, nose and corners of the mouth lie in them.
LOOK_PIXELS = 32
_MARKS = ((33, 133), (362, 263), (4, 4), (61, 61), (291, 291))
_PLACES = LOOK_PIXELS * np.array([[0.32, 0.38], [0.68, 0.38], [0.5, 0.6], [0.36, 0.78], [0.64, 0.78]])
#: Correlation from which two pictures show the same person; below DIFFERENT the next frame shows somebody else.
SAME = 0.6
DIFFERENT = 0.4
#: A new picture is kept where no kept one is as similar as this; so many are kept.
FAMILIAR = 0.85
GALLERY = 12
#: A face that moves by more than this many eye distances from one frame to the next jumps.
JUMP = 0.6
#: Frames after a loss in which every frame is searched; then every third, because a search is slow.
EAGER = 6


@dataclass(frozen=True)
class Sighting:
    """What was found in a frame: the person's face or None, whether the film cut just before, and the picture's change
    (2,), see `scenes.change`."""

    face: Face | None
    cut: bool
    change: np.ndarray


class Follower:
    """Follows the largest face of the first frame that shows one.

    After a cut the person is looked for again: the face that looks most like it, or the largest where none does; who it
    is in that shot is decided when the whole film is known. Within a shot a face that does not look like the person is
    nobody, however near it is.
    """

    def __init__(self) -> None:
        self.gallery = np.zeros((0, LOOK_PIXELS**2), np.float32)
        self.shot = np.zeros((0, LOOK_PIXELS**2), np.float32)
        self._last: Face | None = None
        self._lost = 0
        self._signature: Signature | None = None
        self._changes = np.zeros((0, 2))

    def __call__(self, frame: np.ndarray) -> Sighting:
        """frame: (H, W, 3) uint8 RGB."""
        now = signature(frame)
        moved = np.zeros(2) if self._signature is None else change(self._signature, now)
        self._signature = now
        self._changes = np.concatenate([self._changes, moved[None]])[-MEMORY - 1 :]
        face = None if is_cut(self._changes, face_jumps=False) else self._follow(frame)
        cut = is_cut(self._changes, face_jumps=face is None or self._jumps(face))
        if cut:
            self._last, self._lost, self.shot = None, 0, self.shot[:0]
            self._changes = self._changes[:0]
            face = None
        if face is None:
            face = self._search(frame)
        self._remember(frame, face)
        return Sighting(face, cut, moved)

    def _follow(self, frame: np.ndarray) -> Face | None:
        """The face where it was in the frame before."""
        if self._last is None or self._lost:
            return None
        face = LandmarkTracker(self._last)(frame)
        if face is None or not _near(face, self._last):
            return None
        return face if self._likeness(look(frame, face.points), self.shot) > DIFFERENT else None

    def _search(self, frame: np.ndarray) -> Face | None:
        """The person in the whole frame."""
        if self._lost > EAGER and self._lost % 3:
            return None
        faces = detect_faces(frame)
        if not faces:
            return None
        known = self.shot if len(self.shot) else self.gallery
        likeness = [self._likeness(look(frame, face.points), known) for face in faces]
        best = int(np.argmax(likeness))
        if likeness[best] >= SAME:
            return faces[best]
        if self._last is not None:
            # Not where somebody else may have come in: in its place, and a little like it.
            here = _near(faces[best], self._last) and self._lost < EAGER and likeness[best] > DIFFERENT
            return faces[best] if here else None
        return faces[0]  # a new shot, or the first: somebody has to be followed

    def _remember(self, frame: np.ndarray, face: Face | None) -> None:
        if face is None:
            self._lost += 1
            return
        self._last, self._lost = face, 0
        picture = look(frame, face.points)
        if self._likeness(picture, self.shot) < FAMILIAR:
            self.shot = np.concatenate([self.shot, picture[None]])[-GALLERY:]
        known = len(self.gallery) == 0 or self._likeness(picture, self.gallery) >= SAME
        if known and self._likeness(picture, self.gallery) < FAMILIAR:
            self.gallery = np.concatenate([self.gallery, picture[None]])[:GALLERY]

    def _jumps(self, face: Face) -> bool:
        assert self._last is not None
        step = np.linalg.norm(face.points - self._last.points, axis=1).mean()
        return bool(step > JUMP * max(self._last.eye_distance, 0.3 * self._last.size))

    @staticmethod
    def _likeness(picture: np.ndarray, gallery: np.ndarray) -> float:
        """Correlation with the most similar picture; -1 where there is none."""
        return float((gallery @ picture).max()) if len(gallery) else -1.0

    def state(self) -> dict[str, np.ndarray]:
        """All that the next frame depends on, as arrays."""
        last = np.full((478, 2), np.nan, np.float32) if self._last is None else self._last.points
        seen = self._signature
        return {
            "gallery": self.gallery,
            "shot_gallery": self.shot,
            "last": last,
            "lost": np.array(self._lost),
            "changes": self._changes,
            "colors": np.zeros(0) if seen is None else seen.colors,
            "brightness": np.zeros(0) if seen is None else seen.brightness,
        }

    @staticmethod
    def restored(state: dict[str, np.ndarray]) -> Follower:
        """The follower as it was."""
        follower = Follower()
        follower.gallery, follower.shot, follower._changes = state["gallery"], state["shot_gallery"], state["changes"]
        follower._lost = int(state["lost"])
        points = state["last"]
        if np.isfinite(points).all():
            follower._last = Face(points, np.zeros(len(points), np.float32), box_of(points))
        if len(state["colors"]):
            follower._signature = Signature(state["colors"], state["brightness"])
        return follower


def look(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(1024,) float32 small picture of a face, upright, without light and shade, of length 1.

    frame: (H, W, 3) uint8. points: (478, 2) landmarks.
    """
    marks = np.array([points[list(pair)].mean(0) for pair in _MARKS], np.float64)
    middle, place = marks.mean(0), _PLACES.mean(0)
    a, b = marks - middle, _PLACES - place
    size = max(float((a * a).sum()), 1e-9)
    c, s = (a * b).sum() / size, (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / size
    turn = np.array([[c, -s], [s, c]])
    # Shrunk by whole steps first, so that the picture does not alias; only the part around the face is touched.
    low = np.floor(np.clip(points.min(0) - 0.3 * np.ptp(points, 0), 0, None)).astype(int)
    high = np.ceil(points.max(0) + 0.3 * np.ptp(points, 0)).astype(int)
    part = frame[low[1] : high[1], low[0] : high[0]]
    if min(part.shape[:2]) < 2:
        return np.zeros(LOOK_PIXELS**2, np.float32)
    gray = part.mean(2).astype(np.float32)
    gray = cv2.GaussianBlur(gray, (0, 0), 0.5 / np.hypot(c, s)) if np.hypot(c, s) < 0.7 else gray
    shift = place - turn @ (middle - low)
    picture = cv2.warpAffine(
        gray, np.concatenate([turn, shift[:, None]], 1), (LOOK_PIXELS,) * 2, borderMode=cv2.BORDER_REPLICATE
    )
    picture = cv2.GaussianBlur(picture, (0, 0), 1.0)
    picture = picture - cv2.GaussianBlur(picture, (0, 0), 6.0)
    picture = np.sqrt(_WINDOW) * (picture - (picture * _WINDOW).sum() / _WINDOW.sum())
    return (picture / max(float(np.linalg.norm(picture)), 1e-9)).ravel().astype(np.float32)


def box_of(points: np.ndarray) -> np.ndarray:
    """(4,) x0, y0, x1, y1 of landmarks."""
    return np.concatenate([points.min(0), points.max(0)]).astype(np.float32)


def _near(face: Face, last: Face) -> bool:
    """Whether a face can be the one of the frame before by its place and size."""
    away = np.linalg.norm((face.box[:2] + face.box[2:] - last.box[:2] - last.box[2:]) / 2)
    return bool(away < 0.7 * last.size and 0.6 < face.size / last.size < 1.7)


def _window() -> np.ndarray:
    y, x = np.mgrid[:LOOK_PIXELS, :LOOK_PIXELS] / (LOOK_PIXELS - 1)
    return np.exp(-((((x - 0.5) / 0.35) ** 2 + ((y - 0.55) / 0.42) ** 2) ** 2)).astype(np.float32)


_WINDOW = _window()
