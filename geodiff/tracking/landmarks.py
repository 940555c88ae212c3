"""Faces in pictures: MediaPipe's 478 landmarks of each.

Faces are looked for in the whole picture, then in padded, tiled and turned copies of it and with less confidence where
that fails: faces that fill the frame, small ones, profiles, pictures that lie on their side or stand on their head.
Every face is then measured on its own square crop, upright, several times with slightly different crops, because the
network's answer depends on the crop; the mesh network's own opinion decides whether it is a face.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from geodiff.tracking.calibration import load_calibration
from geodiff.tracking.perception import NUM_LANDMARKS, Region, face_mesh, find_faces, person_mask

__all__ = [
    "NUM_LANDMARKS",
    "OUTER_EYE_CORNERS",
    "Face",
    "LandmarkTracker",
    "closest_look",
    "detect_faces",
    "measure_face",
    "person_mask",
]

#: Outer corners of the right and the left eye; their distance is the unit of tracking errors.
OUTER_EYE_CORNERS = (33, 263)

#: Side of the square crop on which a face is measured, as a multiple of the extent of its landmarks.
CROP_EXTENT = 1.5
CROP_PIXELS = 384
#: Side of the crop on which the detector is asked again.
CONFIRM_PIXELS = 256
#: Longest side of the copy on which faces are looked for.
DETECTION_PIXELS = 1024
#: Detections of at least this confidence are worth a look in the first place.
SURE = 0.5
#: A face is accepted for its detector's confidence on the upright crop and its mesh network's, which is unsure of
#: profiles: their weighted sum must reach ACCEPTED, and neither may be next to nothing.
MESH_WEIGHT, ACCEPTED, LEAST_SURE, MESH_LEAST = 0.3, 0.8, 0.68, 0.02
#: Below this confidence on its upright crop a face may be standing on its head or lying on its side.
UPRIGHT = 0.85
#: What it must be after a quarter turn: profiles look like faces to the detector from any side.
TURNED = 0.82
#: Most photographs are upright: by how much surer of a turned face both networks must be where the face at hand stands
#: within UPRIGHT_ROLL radians of upright, and where it does not; and how sure the detector must be of an upright face
#: of which the mesh network is certain.
UPRIGHT_ROLL, UPRIGHT_MARGINS, OTHER_MARGINS, UPRIGHT_SURE = 0.7, (0.15, 0.9), (0.05, 0.5), 0.5
#: Below this the mesh network is unsure of a face; how far, in sizes of a face, a head reaches around its own.
UNSURE, HEAD_REACH = 0.6, 0.9
#: An ear taken for a face: its size and its distance, in sizes of the head's own face, are at most these.
EAR_SIZE, EAR_REACH = 0.45, 0.8
#: What it must say of a face that is followed through a video.
FOLLOWED = 0.3


@dataclass(frozen=True)
class Face:
    """One face.

    points: (478, 2) float32 pixels of the input image, pixel centres at +0.5. z: (478,) relative depth in pixels,
    smaller is nearer. box: (4,) x0, y0, x1, y1 of the landmarks. score: how sure the mesh network is, 0..1; low for
    profiles.
    """

    points: np.ndarray
    z: np.ndarray
    box: np.ndarray
    score: float = 1.0

    @property
    def size(self) -> float:
        """Longer side of the box, pixels."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @property
    def eye_distance(self) -> float:
        """Distance of the outer eye corners, pixels."""
        a, b = (self.points[i] for i in OUTER_EYE_CORNERS)
        return float(np.linalg.norm(a - b))

    @property
    def corrected(self) -> np.ndarray:
        """(478, 2) float64 the points without the detector's known errors (`geodiff.tracking.calibration`)."""
        calibration = load_calibration()
        points = self.points.astype(np.float64)
        return points if calibration is None else calibration(points, self.z, self.score)

    @property
    def region(self) -> Region:
        """The upright square on which the face is to be measured."""
        right, left = self.points[list(OUTER_EYE_CORNERS)].astype(np.float64)
        angle = float(np.arctan2(*(left - right)[::-1]))
        turn = _turn(angle)
        along = self.points @ turn
        low, high = along.min(0), along.max(0)
        return Region(turn @ ((low + high) / 2), CROP_EXTENT * float((high - low).max()), angle, self.score)


def detect_faces(image: np.ndarray, limit: int = 8) -> list[Face]:
    """All faces of an image (H, W, 3) uint8 RGB, largest first. An empty list where there is none."""
    if min(image.shape[:2]) < 16:
        return []
    faces: list[Face] = []
    for search in (_plain_search, _tiled_search, _patient_search):
        if len(faces) and search is _patient_search:
            break
        for region in search(image, bool(faces)):
            if any(_inside(region.centre, face.box) and region.side < 4 * face.size for face in faces):
                continue
            face = _verified(image, region)
            if face is not None and not any(_overlap(face.box, other.box) > 0.4 for other in faces):
                faces.append(face)
            if len(faces) == limit:
                break
    return sorted(_one_a_head(faces), key=lambda face: -face.size)


def _one_a_head(faces: list[Face]) -> list[Face]:
    """Without the faces of which the mesh network is unsure and that lie within a head's reach of a surer one, and
    without those that are as small as a surer one's ear and as near to it.

    In profiles, hair and ear can look to the detector like a second, turned face.
    """

    def shadowed(face: Face, other: Face) -> bool:
        away = np.linalg.norm(face.region.centre - other.region.centre) / other.size
        unsure = away < HEAD_REACH and face.score < UNSURE < other.score
        return bool(unsure or (away < EAR_REACH and face.size < EAR_SIZE * other.size and other.score > UNSURE))

    return [face for face in faces if not any(shadowed(face, other) for other in faces if other is not face)]


class LandmarkTracker:
    """Landmarks of one person through a video: each frame is measured where the face was in the frame before.

    A lost face is looked for in the whole frame again; of several, the one nearest to where it was last seen is taken.
    """

    def __init__(self, face: Face | None = None) -> None:
        self.last = face

    def __call__(self, frame: np.ndarray) -> Face | None:
        """frame: (H, W, 3) uint8 RGB -> the person's face, or None where it is not seen."""
        last = self.last
        if last is not None:
            face = measure_face(frame, last.region, passes=1, crops=2)
            if face.score > FOLLOWED and _overlap(face.box, last.box) > 0.2:
                self.last = face
                return face
        faces = detect_faces(frame)
        if not faces:
            return None
        if last is not None:
            centre = (last.box[:2] + last.box[2:]) / 2
            faces.sort(key=lambda face: float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - centre)))
        self.last = faces[0]
        return faces[0]


def _plain_search(image: np.ndarray, found: bool) -> Iterator[Region]:
    """Sure detections in the picture; with a margin if it has none, for faces that fill the frame."""
    small, scale = _reduced(image)
    for pad in (0.0, 0.6):
        for model in (1, 0):
            for region in find_faces(_padded(small, pad), model):
                if region.score >= SURE:
                    found = True
                    yield _mapped(region, 1 / scale, -pad * np.array(small.shape[1::-1], np.float64) / scale)
        if found:
            return


def _tiled_search(image: np.ndarray, found: bool) -> Iterator[Region]:
    """Faces that are small in the picture: overlapping tiles of it; finer ones only where nothing was found so far."""
    height, width = image.shape[:2]
    for count in (2, 4):
        tile = max(height, width) / count * 1.3
        if (found and count == 4) or tile < 96:
            return
        for top in np.arange(0, max(height - tile / 2, 1), tile / 1.5):
            for left in np.arange(0, max(width - tile / 2, 1), tile / 1.5):
                part = image[int(top) : int(top + tile), int(left) : int(left + tile)]
                if min(part.shape[:2]) < 48:
                    continue
                small, ratio = _reduced(part, 512)
                for region in find_faces(small, 1):
                    if region.score >= SURE:
                        found = True
                        yield _mapped(region, 1 / ratio, np.array([int(left), int(top)], np.float64))


def _patient_search(image: np.ndarray, found: bool) -> Iterator[Region]:
    """Where nothing was found: pictures turned by quarters, detections that are not sure, the head of a person's mask,
    the whole picture. Most promising first; the mesh network has to confirm them."""
    small, scale = _reduced(image)
    guesses = []
    for quarter in range(4):
        turned = np.ascontiguousarray(np.rot90(small, quarter))
        for pad in (0.0, 0.6):
            for model in (1, 0):
                for region in find_faces(_padded(turned, pad), model):
                    offset = -pad * np.array(turned.shape[1::-1], np.float64)
                    upright = _unturned(_mapped(region, 1.0, offset), quarter, (turned.shape[1], turned.shape[0]))
                    guesses.append(_mapped(upright, 1 / scale, np.zeros(2)))
    yield from sorted(guesses, key=lambda region: -region.score)[:8]
    middle = np.array(image.shape[1::-1], np.float64) / 2
    for quarter in (0, 1, 3, 2):
        for region in (*_mask_guesses(small), Region(middle * scale, float(max(small.shape)), 0.0, 0.0)):
            guess = _mapped(region, 1 / scale, np.zeros(2))
            yield replace(guess, angle=quarter * np.pi / 2, score=0.0)


def _mask_guesses(image: np.ndarray) -> list[Region]:
    """Where a head may be in the mask of a person: the largest disc in its upper part, at two sizes."""
    mask = (person_mask(image) > 0.5).astype(np.uint8)
    rows = np.flatnonzero(mask.any(1))
    if mask.mean() < 0.01 or len(rows) < 16:
        return []
    inside = cv2.distanceTransform(cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 5)[
        1:-1, 1:-1
    ]
    # The head is the disc that reaches highest.
    reach = np.where(inside > 0.3 * inside.max(), np.arange(mask.shape[0])[:, None] - inside, np.inf)
    y, x = np.unravel_index(int(np.argmin(reach)), reach.shape)
    column = inside[y : y + max(int(inside[y, x]), 1) * 2, x]
    radius = float(column.max())
    centre = np.array([x, y + int(column.argmax())], np.float64)
    return [Region(centre, factor * radius, 0.0, 0.0) for factor in (2.0, 3.0)]


def _reduced(image: np.ndarray, longest: int = DETECTION_PIXELS) -> tuple[np.ndarray, float]:
    """A copy whose longer side is at most so many pixels, and its scale."""
    scale = min(1.0, longest / max(image.shape[:2]))
    return (cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image), scale


def _padded(image: np.ndarray, pad: float) -> np.ndarray:
    if pad == 0:
        return image
    rows, columns = int(pad * image.shape[0]), int(pad * image.shape[1])
    return cv2.copyMakeBorder(image, rows, rows, columns, columns, cv2.BORDER_REPLICATE)


def _mapped(region: Region, scale: float, offset: np.ndarray) -> Region:
    return replace(region, centre=region.centre * scale + offset, side=region.side * scale)


def _unturned(region: Region, quarter: int, size: tuple[int, int]) -> Region:
    """A region of an image that `np.rot90(image, quarter)` made, of `size` (width, height), in the original."""
    x, y = region.centre
    width, height = size
    centre = ((x, y), (height - y, x), (width - x, height - y), (y, width - x))[quarter]
    return replace(region, centre=np.array(centre, np.float64), angle=region.angle + quarter * np.pi / 2)


def _verified(image: np.ndarray, region: Region) -> Face | None:
    """The face in a region, or None where the networks do not bear out that there is one."""
    face = closest_look(image, region) if region.score > 0 else measure_face(image, region)
    sure = _confidence(image, face.region)
    stands = abs((face.region.angle + np.pi) % (2 * np.pi) - np.pi) < UPRIGHT_ROLL
    margin, share = UPRIGHT_MARGINS if stands else OTHER_MARGINS
    if sure < UPRIGHT:
        for quarter in (1, 2, 3):
            turned = replace(region, angle=region.angle + quarter * np.pi / 2)
            if _confidence(image, turned) < SURE:
                continue
            other = measure_face(image, turned, passes=4)
            again = _confidence(image, other.region)
            if again > max(sure + margin, TURNED) and other.score > max(0.5, share * face.score):
                face, sure, stands = other, again, False
    if stands and face.score > 0.95 and sure > UPRIGHT_SURE:
        return face
    accepted = sure >= LEAST_SURE and face.score >= MESH_LEAST and sure + MESH_WEIGHT * face.score >= ACCEPTED
    return face if accepted else None


def closest_look(image: np.ndarray, region: Region) -> Face:
    """The face in a region; of one of which the mesh network is unsure, the surest of several crops' near it."""
    face = measure_face(image, region)
    return face if face.score >= UNSURE else max([face, *_shifted(image, region)], key=lambda one: one.score)


def _shifted(image: np.ndarray, region: Region) -> list[Face]:
    """What the mesh network sees near a region: detectors box profiles loosely and guess their roll."""
    turn, step = _turn(region.angle), 0.12 * region.side
    shifts = ((1.3, 0, 0, 0), (0.8, 0, 0, 0), (1.0, step, 0, 0), (1.0, -step, 0, 0), (1.0, 0, step, 0),
              (0.8, 0, 0, -0.35), (0.8, 0, 0, 0.35), (1.0, 0, 0, -0.35), (1.0, 0, 0, 0.35))  # fmt: skip
    moved = [
        replace(region, centre=region.centre + turn @ [x, y], side=factor * region.side, angle=region.angle + angle)
        for factor, x, y, angle in shifts
    ]
    return [measure_face(image, one, crops=1) for one in moved]


def _confidence(image: np.ndarray, region: Region) -> float:
    """How sure the detector is of a face in the middle of a region, 0..1."""
    crop = _cropped(image, replace(region, side=1.4 * region.side), CONFIRM_PIXELS)[0]
    middle = CONFIRM_PIXELS / 2
    scores = [r.score for r in find_faces(crop, 0) if np.linalg.norm(r.centre - middle) < 0.5 * middle]
    return max(scores, default=0.0)


def measure_face(image: np.ndarray, region: Region, passes: int = 2, crops: int = 3) -> Face:
    """The face in a region, measured on crops that follow it; the surest is the middle of the last ones, whose mean is
    taken."""
    face = _measure(image, region)
    for _ in range(passes - 1):
        again = _measure(image, face.region)
        if again.score >= 0.5 * face.score:
            face = again
    base = face.region
    shift = 0.02 * base.side / CROP_EXTENT
    others = [
        _measure(image, replace(base, centre=base.centre + shift * sign, side=base.side * factor))
        for sign, factor in ((-1, 0.93), (1, 1.1))[: crops - 1]
    ]
    return _mean([face, *(other for other in others if other.score >= 0.8 * face.score)])


def _turn(angle: float) -> np.ndarray:
    """(2, 2) whose columns are the directions of a crop's axes in the image."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def _measure(image: np.ndarray, region: Region) -> Face:
    """Run the face mesh on a region."""
    crop, axes, origin = _cropped(image, region, CROP_PIXELS)
    raw, score = face_mesh(crop)
    step = float(np.linalg.norm(axes[:, 0]))
    return _face(raw[:, :2] @ axes.T + origin, raw[:, 2] * step, score)


def _cropped(image: np.ndarray, region: Region, pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The upright crop of a region, and the axes (2, 2) and origin (2,) with point = axes @ crop point + origin."""
    step = max(region.side, 8.0) / pixels
    axes = step * _turn(region.angle)
    origin = region.centre - axes @ np.full(2, pixels / 2)
    source, matrix = image, np.concatenate([axes, origin[:, None]], 1)
    if step > 2:  # Keep the picture from aliasing: shrink by whole factors first.
        factor = int(step)
        source = cv2.resize(image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        matrix = matrix * (np.array(source.shape[1::-1]) / np.array(image.shape[1::-1]))[:, None]
    # From pixel centres at +0.5 to OpenCV's at integers, on both sides.
    matrix[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(source, matrix, (pixels, pixels), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return crop, axes, origin


def _face(points: np.ndarray, z: np.ndarray, score: float) -> Face:
    box = np.concatenate([points.min(0), points.max(0)])
    return Face(points.astype(np.float32), z.astype(np.float32), box.astype(np.float32), score)


def _mean(faces: list[Face]) -> Face:
    score = float(np.mean([f.score for f in faces]))
    return _face(np.mean([f.points for f in faces], 0), np.mean([f.z for f in faces], 0), score)


def _inside(point: np.ndarray, box: np.ndarray) -> bool:
    return bool((point > box[:2]).all() and (point < box[2:]).all())


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    size = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    intersection = float(size.prod())
    union = float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - intersection
    return intersection / max(union, 1e-9)
