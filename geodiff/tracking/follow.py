"""One person through a film, frame by frame: who it is, where it is lost and found again, where the film cuts.

Landmarks alone do not tell people apart, so the follower keeps a few small pictures of the face, brought to one place
and size, and compares: the same person's pictures correlate by 0.65 and more over turns and expressions, those of
others by less than 0.6 (measured on a talking head and three portraits).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import cv2
import numpy as np

from geodiff.tracking.landmarks import Face, LandmarkTracker, detect_faces
from geodiff.tracking.scenes import MEMORY, Signature, alike, change, is_cut, signature

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
#: A face jumps that moves by more than this many eye distances from one frame to the next, and by more than this many
#: times its usual way.
JUMP = 0.08
JUMP_FACTOR = 6.0
#: After a loss so many frames are searched one by one; then every third, and after a second every tenth: a search that
#: finds nothing takes as long as following the face through twenty frames.
EAGER = 6
PATIENCE = ((30, 10), (EAGER, 3))


class Event(IntEnum):
    """What happens just before a frame: nothing, a cut, or the picture's return to what it was before the last cut
    (which was a flash, a dropout or a short insert)."""

    NONE = 0
    CUT = 1
    RETURN = 2


@dataclass(frozen=True)
class Sighting:
    """What was found in a frame: the person's face or None, and what happened just before."""

    face: Face | None
    event: Event


@dataclass
class _Shot:
    """What is known of a shot when it is left: its last frame, small pictures of the person, the last face."""

    signature: Signature | None = None
    looks: np.ndarray = field(default_factory=lambda: np.zeros((0, LOOK_PIXELS**2), np.float32))
    last: Face | None = None


class Follower:
    """Follows the largest face of the first frame that shows one.

    After a cut the person is looked for again: the face that looks most like it, or the largest where none does; who it
    is in that shot is decided when the whole film is known. Within a shot a face that does not look like the person is
    nobody, however near it is.
    """

    def __init__(self) -> None:
        self.gallery = np.zeros((0, LOOK_PIXELS**2), np.float32)
        self._shot, self._left = _Shot(), _Shot()
        #: Frames since the face was seen, and since the last cut.
        self._lost, self._since_cut = 0, MEMORY + 1
        self._changes = np.zeros((0, 2))
        self._steps = np.zeros(0)
        #: The look of the face that was followed into this frame.
        self._picture: np.ndarray | None = None

    @property
    def looks(self) -> np.ndarray:
        """(K, 1024) small pictures of the person in this shot."""
        return self._shot.looks

    def __call__(self, frame: np.ndarray) -> Sighting:
        """frame: (H, W, 3) uint8 RGB."""
        now, before = signature(frame), self._shot.signature
        moved = np.zeros(2) if before is None else change(before, now)
        self._changes = np.concatenate([self._changes, moved[None]])[-MEMORY - 1 :]
        self._picture, face, jumps = None, None, False
        if not is_cut(self._changes, face_jumps=False):
            face, jumps = self._follow(frame)
        event = Event.NONE
        if is_cut(self._changes, jumps):
            face, event = None, self._cut(now)
        if face is None:
            self._picture, face = None, self._search(frame)
        self._remember(frame, face)
        self._shot.signature = now
        self._since_cut += 1
        return Sighting(face, event)

    def _cut(self, now: Signature) -> Event:
        self._changes, self._steps = self._changes[:0], self._steps[:0]
        left = self._left
        if self._since_cut <= MEMORY and left.signature is not None and alike(left.signature, now):
            self._shot, self._left, self._lost = left, _Shot(), self._since_cut
            return Event.RETURN
        self._shot, self._left, self._lost, self._since_cut = _Shot(), self._shot, 0, 0
        return Event.CUT

    def _follow(self, frame: np.ndarray) -> tuple[Face | None, bool]:
        """The face where it was in the frame before, and whether the person is suddenly elsewhere."""
        last = self._shot.last
        if last is None or self._lost:
            return None, False
        face = LandmarkTracker(last)(frame)
        if face is None:
            return None, False
        self._picture = look(frame, face.points)
        likeness = self._likeness(self._picture, self._shot.looks)
        if not _near(face, last):
            return None, likeness >= SAME
        if likeness <= DIFFERENT:
            return None, False
        step = np.linalg.norm(face.points - last.points, axis=1).mean() / max(last.eye_distance, 0.3 * last.size)
        usual = np.median(self._steps) if len(self._steps) else 0.0
        self._steps = np.append(self._steps, step)[-MEMORY:]
        return face, bool(step > JUMP and step > JUMP_FACTOR * usual)

    def _search(self, frame: np.ndarray) -> Face | None:
        """The person in the whole frame."""
        pause = next((pause for lost, pause in PATIENCE if self._lost > lost), 1)
        if self._lost % pause:
            return None
        faces = detect_faces(frame)
        if not faces:
            return None
        known = self._shot.looks if len(self._shot.looks) else self.gallery
        likeness = [self._likeness(look(frame, face.points), known) for face in faces]
        best = int(np.argmax(likeness))
        if likeness[best] >= SAME:
            return faces[best]
        if self._shot.last is not None:
            # Not where somebody else may have come in: in its place, and a little like it.
            here = _near(faces[best], self._shot.last) and self._lost < EAGER and likeness[best] > DIFFERENT
            return faces[best] if here else None
        return faces[0]  # a new shot, or the first: somebody has to be followed

    def _remember(self, frame: np.ndarray, face: Face | None) -> None:
        if face is None:
            self._lost += 1
            return
        self._shot.last, self._lost = face, 0
        picture = look(frame, face.points) if self._picture is None else self._picture
        if self._likeness(picture, self._shot.looks) < FAMILIAR:
            self._shot.looks = np.concatenate([self._shot.looks, picture[None]])[-GALLERY:]
        known = len(self.gallery) == 0 or self._likeness(picture, self.gallery) >= SAME
        if known and self._likeness(picture, self.gallery) < FAMILIAR:
            self.gallery = np.concatenate([self.gallery, picture[None]])[:GALLERY]

    @staticmethod
    def _likeness(picture: np.ndarray, gallery: np.ndarray) -> float:
        """Correlation with the most similar picture; -1 where there is none."""
        return float((gallery @ picture).max()) if len(gallery) else -1.0

    def state(self) -> dict[str, np.ndarray]:
        """All that the next frame depends on, as arrays."""
        counts = np.array([self._lost, self._since_cut])
        own = {"gallery": self.gallery, "counts": counts, "changes": self._changes, "steps": self._steps}
        return own | _packed("shot_", self._shot) | _packed("left_", self._left)

    @staticmethod
    def restored(state: dict[str, np.ndarray]) -> Follower:
        """The follower as it was."""
        follower = Follower()
        follower.gallery, follower._changes, follower._steps = state["gallery"], state["changes"], state["steps"]
        follower._lost, follower._since_cut = (int(count) for count in state["counts"])
        follower._shot, follower._left = _unpacked("shot_", state), _unpacked("left_", state)
        return follower


def _packed(prefix: str, shot: _Shot) -> dict[str, np.ndarray]:
    seen, last = shot.signature, shot.last
    return {
        f"{prefix}looks": shot.looks,
        f"{prefix}last": np.zeros((0, 2), np.float32) if last is None else last.points,
        f"{prefix}colors": np.zeros(0) if seen is None else seen.colors,
        f"{prefix}brightness": np.zeros(0) if seen is None else seen.brightness,
    }


def _unpacked(prefix: str, state: dict[str, np.ndarray]) -> _Shot:
    looks, points, colors, brightness = (state[prefix + name] for name in ("looks", "last", "colors", "brightness"))
    return _Shot(
        signature=Signature(colors, brightness) if len(colors) else None,
        looks=looks,
        last=Face(points, np.zeros(len(points), np.float32), box_of(points)) if len(points) else None,
    )


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
    # Only the part around the face is touched, and shrunk first, so that the picture does not alias.
    low = np.floor(np.clip(points.min(0) - 0.3 * np.ptp(points, 0), 0, None)).astype(int)
    high = np.ceil(points.max(0) + 0.3 * np.ptp(points, 0)).astype(int)
    part = frame[low[1] : high[1], low[0] : high[0]]
    if min(part.shape[:2]) < 2:
        return np.zeros(LOOK_PIXELS**2, np.float32)
    wanted = np.minimum(1.0, 1.5 * np.hypot(c, s) + np.zeros(2)) * part.shape[1::-1]
    small = cv2.resize(part, tuple(int(n) for n in np.ceil(wanted)), interpolation=cv2.INTER_AREA)
    scale = np.array(small.shape[1::-1]) / part.shape[1::-1]
    matrix = np.concatenate([turn / scale, (place - turn @ (middle - low))[:, None]], 1)
    picture = cv2.warpAffine(small, matrix, (LOOK_PIXELS, LOOK_PIXELS), borderMode=cv2.BORDER_REPLICATE)
    picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    picture = cv2.GaussianBlur(picture, (0, 0), 1.0)
    picture = picture - cv2.GaussianBlur(picture, (0, 0), 6.0)
    picture = np.sqrt(_WINDOW) * (picture - (picture * _WINDOW).sum() / _WINDOW.sum())
    return (picture / max(float(np.linalg.norm(picture)), 1e-9)).ravel().astype(np.float32)


def box_of(points: np.ndarray) -> np.ndarray:
    """(4,) x0, y0, x1, y1 of landmarks."""
    return np.concatenate([points.min(0), points.max(0)]).astype(np.float32)


def face_at(points: np.ndarray) -> Face:
    """The face with landmarks (478, 2) of which nothing else is kept."""
    return Face(points.astype(np.float32), np.zeros(len(points), np.float32), box_of(points))


def _near(face: Face, last: Face) -> bool:
    """Whether a face can be the one of the frame before by its place and size."""
    away = np.linalg.norm((face.box[:2] + face.box[2:] - last.box[:2] - last.box[2:]) / 2)
    return bool(away < 0.7 * last.size and 0.6 < face.size / last.size < 1.7)


def _window() -> np.ndarray:
    y, x = np.mgrid[:LOOK_PIXELS, :LOOK_PIXELS] / (LOOK_PIXELS - 1)
    return np.exp(-((((x - 0.5) / 0.35) ** 2 + ((y - 0.55) / 0.42) ** 2) ** 2)).astype(np.float32)


_WINDOW = _window()
