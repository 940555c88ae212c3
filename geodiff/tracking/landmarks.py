"""MediaPipe's face mesh: 478 landmarks of every face in a picture. The only module that touches MediaPipe.

MediaPipe is imported on first use. Its models are part of its wheel. Faces are found on the whole picture (and on
padded or tiled copies of it where that fails: faces that fill the frame, faces that are small in it), then every face
is measured on its own square crop, several times with slightly different crops, because the network's answer depends
on the crop.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from geodiff.errors import MissingDependencyError

#: Landmarks of the face mesh with irises.
NUM_LANDMARKS = 478
#: Outer corners of the right and the left eye; their distance is the unit of tracking errors.
OUTER_EYE_CORNERS = (33, 263)

#: Side of the square crop on which a face is measured, as a multiple of the extent of its landmarks.
CROP_EXTENT = 1.6
CROP_PIXELS = 384
#: Longest side of the copy on which faces are looked for.
DETECTION_PIXELS = 1024


@dataclass(frozen=True)
class Face:
    """One face.

    points: (478, 2) float32 pixels of the input image, pixel centres at +0.5. z: (478,) relative depth in pixels,
    smaller is nearer. box: (4,) x0, y0, x1, y1 of the landmarks.
    """

    points: np.ndarray
    z: np.ndarray
    box: np.ndarray

    @property
    def size(self) -> float:
        """Longer side of the box, pixels."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @property
    def eye_distance(self) -> float:
        """Distance of the outer eye corners, pixels."""
        a, b = (self.points[i] for i in OUTER_EYE_CORNERS)
        return float(np.linalg.norm(a - b))


def detect_faces(image: np.ndarray, limit: int = 8) -> list[Face]:
    """All faces of an image (H, W, 3) uint8 RGB, largest first. An empty list where there is none."""
    if min(image.shape[:2]) < 16:
        return []
    faces: list[Face] = []
    for centre, side in _candidates(image):
        if any(_inside(centre, face.box) and side < 4 * face.size for face in faces):
            continue
        face = _refine(image, centre, side)
        if face is not None and not any(_overlap(face.box, other.box) > 0.4 for other in faces):
            faces.append(face)
        if len(faces) == limit:
            break
    return sorted(faces, key=lambda face: -face.size)


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
            face = _refine(frame, (last.box[:2] + last.box[2:]) / 2, CROP_EXTENT * last.size, passes=1, crops=2)
            if face is not None and _overlap(face.box, last.box) > 0.2:
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


def person_mask(image: np.ndarray) -> np.ndarray:
    """MediaPipe's selfie segmentation: (H, W, 3) uint8 RGB -> (H, W) float32 0..1, coarse (its grid is 256x256)."""
    mask = _segmenter().process(np.ascontiguousarray(image)).segmentation_mask
    return np.clip(np.asarray(mask, np.float32), 0.0, 1.0)


def _candidates(image: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    """Where faces may be: centres (2,) in pixels and crop sides, most reliable first; later stages only if needed."""
    height, width = image.shape[:2]
    longest = max(height, width)
    scale = min(1.0, DETECTION_PIXELS / longest)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    found = False
    for pad in (0.0, 0.6):  # A face that fills the frame is found once it has a margin.
        for model in (1, 0):
            for box in _detections(_padded(small, pad), model):
                found = True
                offset = pad * np.array([small.shape[1], small.shape[0]], np.float64)
                yield (box[:2] - offset) / scale, 2.0 * box[2] / scale
        if found:
            break
    # Faces that are small in the picture: overlapping tiles of it; finer ones only where nothing was found so far.
    for count in (2, 4):
        if found and count == 4:
            return
        tile = longest / count * 1.3
        if tile < 96:
            return
        for top in np.arange(0, max(height - tile / 2, 1), tile / 1.5):
            for left in np.arange(0, max(width - tile / 2, 1), tile / 1.5):
                region = image[int(top) : int(top + tile), int(left) : int(left + tile)]
                if min(region.shape[:2]) < 48:
                    continue
                ratio = min(1.0, 512 / max(region.shape[:2]))
                for box in _detections(cv2.resize(region, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA), 1):
                    found = True
                    yield box[:2] / ratio + np.array([int(left), int(top)]), 2.0 * box[2] / ratio
    if found:
        return
    # Last resort: the mesh network's own detector on the whole picture.
    yield np.array([width / 2, height / 2]), float(longest)
    yield np.array([width / 2, height / 2]), 1.6 * longest


def _padded(image: np.ndarray, pad: float) -> np.ndarray:
    if pad == 0:
        return image
    rows, columns = int(pad * image.shape[0]), int(pad * image.shape[1])
    return cv2.copyMakeBorder(image, rows, rows, columns, columns, cv2.BORDER_REPLICATE)


def _detections(image: np.ndarray, model: int) -> list[np.ndarray]:
    """Face detections as (centre x, centre y, side) in pixels of the given image, most confident first."""
    results = _detector(model).process(np.ascontiguousarray(image)).detections or []
    results = sorted(results, key=lambda detection: -detection.score[0])
    height, width = image.shape[:2]
    boxes = []
    for detection in results:
        box = detection.location_data.relative_bounding_box
        x, y = (box.xmin + box.width / 2) * width, (box.ymin + box.height / 2) * height
        boxes.append(np.array([x, y, max(box.width * width, box.height * height)]))
    return boxes


def _refine(image: np.ndarray, centre: np.ndarray, side: float, passes: int = 2, crops: int = 3) -> Face | None:
    """The face near `centre` (2,), measured on crops that follow it; the last pass averages several crops."""
    face = _measure(image, centre, side)
    if face is None:
        face = _measure(image, centre, 1.5 * side)
    for _ in range(passes - 1):
        if face is None:
            return None
        face = _measure(image, (face.box[:2] + face.box[2:]) / 2, CROP_EXTENT * face.size) or face
    if face is None:
        return None
    middle = (face.box[:2] + face.box[2:]) / 2
    again = [_measure(image, middle + 0.02 * face.size * sign, factor * face.size)
             for sign, factor in ((-1, 1.45), (1, 1.75))[: crops - 1]]  # fmt: skip
    return _mean([face, *(other for other in again if other is not None and _overlap(other.box, face.box) > 0.5)])


def _measure(image: np.ndarray, centre: np.ndarray, side: float) -> Face | None:
    """Run the face mesh on the square crop around `centre` of width `side` pixels."""
    if side < 8:
        return None
    ratio = CROP_PIXELS / side
    # Maps input pixels (centres at +0.5) to crop pixels, in OpenCV's convention (centres at integers).
    shift = CROP_PIXELS / 2 - ratio * np.asarray(centre, np.float64)
    matrix = np.array([[ratio, 0, ratio * 0.5 + shift[0] - 0.5], [0, ratio, ratio * 0.5 + shift[1] - 0.5]])
    source = image
    if ratio < 0.5:  # Keep the picture from aliasing: shrink by whole factors first.
        factor = int(1 / ratio)
        source = cv2.resize(image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        scale_x, scale_y = image.shape[1] / source.shape[1], image.shape[0] / source.shape[0]
        matrix = np.array([
            [ratio * scale_x, 0, ratio * 0.5 * scale_x + shift[0] - 0.5],
            [0, ratio * scale_y, ratio * 0.5 * scale_y + shift[1] - 0.5],
        ])  # fmt: skip
    crop = cv2.warpAffine(source, matrix, (CROP_PIXELS, CROP_PIXELS), flags=cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
    results = _mesher().process(crop).multi_face_landmarks
    if not results:
        return None
    raw = np.array([(mark.x, mark.y, mark.z) for mark in results[0].landmark], np.float64) * CROP_PIXELS
    points = (raw[:, :2] - shift) / ratio
    return _face(points, raw[:, 2] / ratio)


def _face(points: np.ndarray, z: np.ndarray) -> Face:
    box = np.concatenate([points.min(0), points.max(0)])
    return Face(points.astype(np.float32), z.astype(np.float32), box.astype(np.float32))


def _mean(faces: list[Face]) -> Face:
    return _face(np.mean([f.points for f in faces], 0), np.mean([f.z for f in faces], 0))


def _inside(point: np.ndarray, box: np.ndarray) -> bool:
    return bool((point > box[:2]).all() and (point < box[2:]).all())


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    size = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    intersection = float(size.prod())
    union = float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - intersection
    return intersection / max(union, 1e-9)


def _solutions() -> Any:
    try:
        with _quiet():
            import mediapipe  # noqa: PLC0415 - heavy, and its native parts print on import
    except ImportError as error:
        raise MissingDependencyError(
            f"tracking a face needs mediapipe 0.10.14 to 0.10.21, which cannot be imported here ({error}); install it "
            "with `pip install mediapipe==0.10.21`."
        ) from error
    return mediapipe.solutions


@lru_cache(maxsize=1)
def _mesher() -> Any:
    return _Silent(lambda: _solutions().face_mesh.FaceMesh(
        static_image_mode=True, max_num_faces=1, refine_landmarks=True, min_detection_confidence=0.4
    ))  # fmt: skip


@lru_cache(maxsize=2)
def _detector(model: int) -> Any:
    return _Silent(lambda: _solutions().face_detection.FaceDetection(
        model_selection=model, min_detection_confidence=0.5
    ))  # fmt: skip


@lru_cache(maxsize=1)
def _segmenter() -> Any:
    return _Silent(lambda: _solutions().selfie_segmentation.SelfieSegmentation(model_selection=0))


class _Silent:
    """A MediaPipe solution without its native log lines, which it prints when a part of its graph first runs."""

    def __init__(self, make: Any) -> None:
        with _quiet():
            self.solution = make()
            # The graph opens on its own threads: the first answer says that they are done.
            self.solution.process(np.zeros((64, 64, 3), np.uint8))
        self.has_found = False

    def process(self, image: np.ndarray) -> Any:
        with warnings.catch_warnings():  # protobuf's deprecation notices, on every call
            warnings.simplefilter("ignore")
            if self.has_found:
                return self.solution.process(image)
            with _quiet():
                results = self.solution.process(image)
        # The landmark part of a graph runs only once a face is found, and prints then.
        self.has_found = any(getattr(results, name, None) is not None for name in results._fields)
        return results


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send the process's native standard error to nowhere; MediaPipe has no switch for its start-up lines."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
