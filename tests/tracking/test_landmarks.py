"""Faces are found where they are: large, small, several, at the frame's edge; and nowhere else."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest

from geodiff.tracking.groups import BROWS, EYES, INNER_FACE, INNER_LIPS, IRISES, NOSE, OUTER_LIPS, OVAL
from geodiff.tracking.landmarks import NUM_LANDMARKS, LandmarkTracker, detect_faces


@pytest.fixture(scope="module")
def found(astronaut_image):
    return detect_faces(astronaut_image)


@pytest.fixture(scope="module")
def astronaut_image():
    from skimage import data

    return data.astronaut()


def test_one_face_with_eyes_above_the_mouth(found) -> None:
    assert len(found) == 1
    face = found[0]
    assert face.points.shape == (NUM_LANDMARKS, 2) and face.points.dtype == np.float32
    assert face.z.shape == (NUM_LANDMARKS,)
    x0, y0, x1, y1 = face.box
    assert 150 < x0 < 200 and 250 < x1 < 300 and 50 < y0 < 90 and 160 < y1 < 200
    eyes, lips = face.points[list(EYES)].mean(0), face.points[list(OUTER_LIPS)].mean(0)
    assert eyes[1] < lips[1] - 30
    # The person's right eye is on the image's left; the irises lie between the corners of their eyes.
    assert face.points[33, 0] < face.points[468, 0] < face.points[133, 0] < face.points[473, 0] < face.points[263, 0]
    assert 50 < face.eye_distance < 70


def test_the_same_landmarks_at_another_size(astronaut_image, found) -> None:
    large = cv2.resize(astronaut_image, None, fx=2.5, fy=2.5, interpolation=cv2.INTER_CUBIC)
    again = detect_faces(large)[0].points / 2.5
    assert np.linalg.norm(again - found[0].points, axis=1)[list(INNER_FACE)].mean() < 0.03 * found[0].eye_distance


def test_a_face_that_fills_the_frame(astronaut_image, found) -> None:
    x0, y0 = 175, 66
    tight = detect_faces(np.ascontiguousarray(astronaut_image[y0:186, x0:278]))
    assert len(tight) == 1
    away = np.linalg.norm(tight[0].points + [x0, y0] - found[0].points, axis=1)
    assert away[list(INNER_FACE)].mean() < 0.05 * found[0].eye_distance


def test_several_faces_largest_first(astronaut_image) -> None:
    half = cv2.resize(astronaut_image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    canvas = np.full((512, 512 + half.shape[1], 3), 128, np.uint8)
    canvas[: half.shape[0], : half.shape[1]] = half
    canvas[:, half.shape[1] :] = astronaut_image
    faces = detect_faces(canvas)
    assert len(faces) == 2
    assert faces[0].size > 1.4 * faces[1].size
    assert faces[0].box[0] > half.shape[1] > faces[1].box[2]


def test_a_small_face_in_a_large_picture(astronaut_image) -> None:
    canvas = np.full((1500, 2400, 3), 90, np.uint8)
    canvas[900 : 900 + 512, 1700 : 1700 + 512] = astronaut_image
    faces = detect_faces(canvas)
    assert len(faces) == 1
    assert 1870 < faces[0].box[0] < 1890


@pytest.mark.parametrize("degrees", [90, 150, 180, 225, 270, 335])
def test_pictures_that_lie_on_their_side_or_stand_on_their_head(astronaut_image, found, degrees: int) -> None:
    height, width = astronaut_image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    turned = cv2.warpAffine(astronaut_image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    faces = detect_faces(turned)
    assert len(faces) == 1
    expected = (found[0].points - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
    away = np.linalg.norm(faces[0].points - expected, axis=1)
    assert away[list(INNER_FACE)].mean() < 0.05 * found[0].eye_distance


def test_a_mirrored_picture_has_mirrored_landmarks(astronaut_image, found) -> None:
    face = detect_faces(np.ascontiguousarray(astronaut_image[:, ::-1]))[0]
    # Outer corner of the right eye for that of the left, tip of the nose.
    for mark, twin in ((33, 263), (263, 33), (1, 1), (61, 291)):
        expected = [astronaut_image.shape[1] - found[0].points[twin, 0], found[0].points[twin, 1]]
        assert np.linalg.norm(face.points[mark] - expected) < 0.05 * face.eye_distance


def test_profiles_are_found() -> None:
    from geodiff.head.builtin import load_builtin
    from geodiff.synth.portraits import PortraitConfig, Sitter

    sitter = Sitter(load_builtin(), 5, PortraitConfig(size=320))
    for yaw in (-75, 60, 80):
        photo = sitter.photograph(yaw)
        faces = detect_faces(photo.image)
        assert len(faces) == 1
        rows, columns = np.nonzero(photo.mask > 0.5)
        x, y = faces[0].points[1]  # the nose, on the side that the head is turned to
        assert rows.min() < y < rows.max()
        assert (x - columns.mean()) * -np.sign(yaw) > 0


@pytest.mark.parametrize("shape", [(1, 1, 3), (40, 40, 3), (300, 400, 3)])
def test_no_face(shape: tuple[int, int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    assert detect_faces(noise) == []
    assert detect_faces(np.full(shape, 255, np.uint8)) == []


def test_the_tracker_follows_one_person_and_finds_it_again(astronaut_image, found) -> None:
    tracker = LandmarkTracker()
    frames = [np.roll(astronaut_image, shift, axis=1) for shift in (0, 4, 8, 12)]
    for shift, frame in zip((0, 4, 8, 12), frames, strict=True):
        face = tracker(frame)
        assert face is not None
        away = np.linalg.norm(face.points - [shift, 0] - found[0].points, axis=1)
        assert away[list(INNER_FACE)].mean() < 0.03 * found[0].eye_distance
    assert tracker(np.zeros_like(astronaut_image)) is None
    assert tracker(frames[0]) is not None


def test_groups_do_not_overlap() -> None:
    groups = [EYES, BROWS, NOSE, OUTER_LIPS, INNER_LIPS, OVAL, IRISES]
    joined = [mark for group in groups for mark in group]
    assert len(joined) == len(set(joined)) and max(joined) == NUM_LANDMARKS - 1


def test_importing_the_tracker_does_not_import_mediapipe_and_nothing_is_printed() -> None:
    code = (
        "import sys, numpy as np\n"
        "from geodiff.tracking import track\n"
        "assert 'mediapipe' not in sys.modules\n"
        "from skimage import data\n"
        "from geodiff.tracking.landmarks import detect_faces, person_mask\n"
        "image = data.astronaut()\n"
        "assert len(detect_faces(image)) == 1 and person_mask(image).shape == (512, 512)\n"
        "assert 'jax' not in sys.modules and 'sounddevice' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr == ""


def test_corrections_leave_front_views_and_are_the_same_for_mirrored_faces(found) -> None:
    from geodiff.tracking.calibration import load_calibration

    calibration = load_calibration()
    assert calibration is not None
    face = found[0]
    assert np.linalg.norm(face.corrected - face.points, axis=1).max() < 0.06 * face.eye_distance
    # A face turned by half a right angle, and its mirror image.
    turn = np.radians(45)
    mean = calibration.mean
    turned = np.stack([mean[:, 0] * np.cos(turn) + mean[:, 2] * np.sin(turn), mean[:, 1]], 1)
    z = -mean[:, 0] * np.sin(turn) + mean[:, 2] * np.cos(turn)
    one = calibration(100 * turned, 100 * z, 1.0)
    mirrored = calibration((100 * turned * [-1, 1])[calibration.mirror], (100 * z)[calibration.mirror], 1.0)
    np.testing.assert_allclose((mirrored * [-1, 1])[calibration.mirror], one, atol=0.5)
    assert np.linalg.norm(one - 100 * turned, axis=1).max() > 0.5
