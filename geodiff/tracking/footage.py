"""A film's landmarks, found frame by frame while it is decoded, and kept on disk so that a killed run goes on.

No picture is held: what stays of a frame are its landmarks. Every few frames a chunk with the follower's whole state is
written; a later run reads the chunks, skips their frames and follows on exactly as if it had not been interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from geodiff.errors import InputError
from geodiff.files import read_npz, write_npz
from geodiff.tracking.follow import Event, Follower
from geodiff.tracking.landmarks import NUM_LANDMARKS, Face
from geodiff.tracking.refine import Look, most_likely

#: Frames in a chunk on disk.
CHUNK = 64
#: Raised whenever landmarks come out differently, so that older chunks are not continued.
SCHEMA = 5


@dataclass(frozen=True)
class Footage:
    """What a film shows.

    points: (T, 478, 2) float32 landmarks of the person followed, nan where it was lost. shot: (T,) int64 number of the
    shot, counted from 0. size: (width, height) in pixels. looks: small pictures of the person in each shot, (K, 1024)
    each, see `follow.look`. told: (T, N) float32 what a second look tells beside the landmarks (`refine.Look.told`),
    nan where the person was lost; N = 0 where it was not taken.
    """

    points: np.ndarray
    shot: np.ndarray
    size: tuple[int, int]
    looks: list[np.ndarray]
    told: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def found(self) -> np.ndarray:
        """(T,) bool."""
        return np.isfinite(self.points[:, 0, 0])


def watch(
    frames: Iterable[np.ndarray],
    cache: Path | None = None,
    key: str = "",
    report: Callable[[int], None] = lambda frame: None,
    refine: bool = False,
) -> Footage:
    """Follows a person through frames (H, W, 3) uint8 RGB of one size. The frames are iterated over once.

    cache: a folder for the landmarks, continued where a run with the same `key` left it. report: called with the number
    of frames that are done. refine: see `TrackConfig.refine_videos`.

    Raises:
        InputError: a frame has another size than the first.
        StorageError: the cache cannot be written.
    """
    log = _Log(cache, hashlib.sha256(f"{SCHEMA} {refine} {key}".encode()).hexdigest()[:16])
    follower = log.follower()
    for number, frame in enumerate(frames):
        log.check_size(frame)
        if number >= len(log):
            sighting = follower(frame)
            log.append(_look(frame, sighting.face, refine), sighting.event, follower)
        report(number + 1)
    log.flush(follower)
    return log.footage()


def _look(frame: np.ndarray, face: Face | None, refine: bool) -> Look | None:
    """The face without the detector's known errors."""
    return None if face is None else most_likely(frame, face, refine)


class _Log:
    """The landmarks so far, in memory and on disk."""

    def __init__(self, folder: Path | None, key: str) -> None:
        self.folder, self.key = folder, key
        self.points: list[np.ndarray] = []
        self.told: list[np.ndarray] = []
        self.events: list[int] = []
        self.looks: list[np.ndarray] = []
        self.size: tuple[int, int] | None = None
        self._state: dict[str, np.ndarray] | None = None
        self._kept = 0
        while folder is not None and self._read(folder / f"{self._kept:06d}.npz"):
            pass

    def __len__(self) -> int:
        return len(self.points)

    def _read(self, path: Path) -> bool:
        """Takes over a chunk; False where there is none of this film that can be continued."""
        try:
            arrays = read_npz(path) if path.exists() else {}
            if str(arrays.get("key", "")) != self.key or int(arrays["first"]) != self._kept:
                return False
            size = (int(arrays["size"][0]), int(arrays["size"][1]))
            looks = np.split(arrays["looks"], np.cumsum(arrays["look_counts"])[:-1])
            prefix = "state_"
            state = {name[len(prefix) :]: value for name, value in arrays.items() if name.startswith(prefix)}
            Follower.restored(state)
            points, events, first_look = arrays["points"], arrays["events"], int(arrays["look_first"])
            told = arrays["told"]
        except (InputError, KeyError, IndexError, ValueError):  # damaged, or not ours: measured again
            return False
        if points.shape != (len(events), NUM_LANDMARKS, 2) or not len(events) or len(told) != len(events):
            return False
        self.points.extend(points)
        self.told.extend(told)
        self.events.extend(events.tolist())
        # The first of the chunk's shots may go on from the chunk before.
        self.looks[first_look:] = looks
        self.size, self._state, self._kept = size, state, len(self.points)
        return True

    def follower(self) -> Follower:
        return Follower() if self._state is None else Follower.restored(self._state)

    def check_size(self, frame: np.ndarray) -> None:
        size = (frame.shape[1], frame.shape[0])
        self.size = self.size or size
        if size != self.size:
            raise InputError(
                f"the frames of a video must have one size, and frames of {self.size} and of {size} pixels were found; "
                "scale or cut them alike"
            )

    def append(self, look: Look | None, event: Event, follower: Follower) -> None:
        if event == Event.RETURN:
            self.looks.pop()
        if event == Event.CUT or not self.points:
            self.looks.append(follower.looks)
        self.looks[-1] = follower.looks
        lost = np.full((NUM_LANDMARKS, 2), np.nan, np.float32)
        self.points.append(lost if look is None else look.points.astype(np.float32))
        self.told.append(np.zeros(0, np.float32) if look is None else look.told)
        self.events.append(int(event))
        if len(self.points) - self._kept >= CHUNK:
            self.flush(follower)

    def flush(self, follower: Follower) -> None:
        """Writes what is not yet on disk as the next chunk."""
        if self.folder is None or len(self.points) == self._kept or self.size is None:
            return
        # The picture may have returned to the shot before the one that the last chunk ended in.
        first = max(int(shots(self.events[: self._kept + 1])[-1]) - 1, 0)
        fresh = self.looks[first:]
        write_npz(
            self.folder / f"{self._kept:06d}.npz",
            key=np.array(self.key),
            first=np.array(self._kept),
            size=np.array(self.size),
            points=np.stack(self.points[self._kept :]),
            told=_rows(self.told[self._kept :]),
            events=np.array(self.events[self._kept :], np.int64),
            look_first=np.array(first),
            looks=np.concatenate(fresh),
            look_counts=np.array([len(look) for look in fresh]),
            **{f"state_{name}": value for name, value in follower.state().items()},
        )
        self._kept = len(self.points)

    def footage(self) -> Footage:
        points = np.stack(self.points) if self.points else np.zeros((0, NUM_LANDMARKS, 2), np.float32)
        points[interludes(self.events)] = np.nan
        return Footage(points, shots(self.events), self.size or (1, 1), self.looks, _rows(self.told))


def _rows(told: Sequence[np.ndarray]) -> np.ndarray:
    """(T, N) of T rows, of which some may be empty: they become nan."""
    width = max((len(row) for row in told), default=0)
    rows = np.full((len(told), width), np.nan, np.float32)
    for row, values in zip(rows, told, strict=True):
        row[: len(values)] = values
    return rows


def shots(events: Sequence[int]) -> np.ndarray:
    """(T,) number of each frame's shot, from 0; what lies between a cut and a return belongs to the shot around it."""
    numbers = np.zeros(len(events), np.int64)
    for t, event in enumerate(events):
        numbers[t] = (numbers[t - 1] if t else 0) + (event == Event.CUT) - (event == Event.RETURN)
    numbers[interludes(events)] -= 1
    return numbers


def interludes(events: Sequence[int]) -> np.ndarray:
    """(T,) bool: frames between a cut and the picture's return."""
    inside, cut = np.zeros(len(events), bool), 0
    for t, event in enumerate(events):
        if event == Event.CUT:
            cut = t
        elif event == Event.RETURN:
            inside[cut:t] = True
    return inside
