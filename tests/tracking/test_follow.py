"""One person is followed: others do not take the place, cuts and flashes are told, who comes back is known again."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tracking.staged import Actor, Stage

from geodiff.media import read_image, read_video
from geodiff.tracking import follow
from geodiff.tracking.follow import SAME, Event, Follower, look
from geodiff.tracking.landmarks import Face, detect_faces


def run(stage: Stage) -> tuple[list[float | None], list[Event]]:
    """Where the followed face is in each frame, and the events."""
    follower = Follower()
    sightings = [follower(frame) for frame in stage.frames()]
    places = [None if s.face is None else float((s.face.box[0] + s.face.box[2]) / 2) for s in sightings]
    return places, [s.event for s in sightings]


def test_the_largest_face_is_followed_and_searched_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    actors = [[Actor(0, 40 + t, size=50), Actor(1, 120 - t, size=40)] for t in range(10)]
    stage = Stage(monkeypatch, actors, [0] * 10)
    places, events = run(stage)
    assert places == pytest.approx([40 + t for t in range(10)], abs=0.1)
    assert set(events) == {Event.NONE} and stage.searches == 1


def test_somebody_who_steps_in_front_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other's face comes to lie where the person's was, larger, and the person is hidden for four frames."""
    actors = [[Actor(0, 60)] for _ in range(5)] + [[Actor(1, 62, size=50)] for _ in range(4)]
    actors += [[Actor(0, 66), Actor(1, 90, size=50)] for _ in range(4)]
    places, events = run(Stage(monkeypatch, actors, [0] * 13))
    assert places[:5] == pytest.approx([60] * 5, abs=0.1)
    assert places[5:9] == [None] * 4
    assert places[9:] == pytest.approx([66] * 4, abs=0.1)
    assert set(events) == {Event.NONE}


def test_the_person_is_known_again_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    actors = [[Actor(0, 40)] for _ in range(3)] + [[Actor(1, 100)]] * 3 + [[Actor(1, 44), Actor(0, 120, size=35)]] * 3
    places, _ = run(Stage(monkeypatch, actors, [0] * 9))
    assert places[3:6] == [None] * 3 and places[6:] == pytest.approx([120] * 3, abs=0.1)


def test_long_losses_are_searched_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    actors: list[list[Actor]] = [[Actor(0, 40)]] * 2 + [[]] * 93 + [[Actor(0, 40)]] * 12
    stage = Stage(monkeypatch, actors, [0] * len(actors))
    places, _ = run(stage)
    assert stage.searches < 25
    assert places[95 + 9 :] == pytest.approx([40] * 3, abs=0.1), "found again within ten frames"


def test_a_cut_starts_anew_with_the_person_or_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    actors = [[Actor(0, 40)]] * 20 + [[Actor(1, 40, size=60), Actor(0, 120)]] * 20 + [[Actor(2, 90)]] * 20
    places, events = run(Stage(monkeypatch, actors, [0] * 20 + [1] * 20 + [2] * 20))
    assert np.flatnonzero(np.array(events) == Event.CUT).tolist() == [20, 40]
    assert places[25] == pytest.approx(120, abs=0.1), "the person, though another face is larger"
    assert places[45] == pytest.approx(90, abs=0.1), "nobody else is there"


def test_a_jump_cut_within_one_scene_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The background hardly changes; the face is suddenly larger and elsewhere."""
    actors = [[Actor(0, 60 + 0.2 * t)] for t in range(12)] + [[Actor(0, 70, size=48)]] * 8
    stage = Stage(monkeypatch, actors, [0] * 20)
    plain = stage.frame
    monkeypatch.setattr(stage, "frame", lambda t: plain(t) if t < 12 else _lighter(plain(t)))
    places, events = run(stage)
    assert np.flatnonzero(np.array(events) == Event.CUT).tolist() == [12]
    assert places[12:] == pytest.approx([70] * 8, abs=0.1)


def _lighter(frame: np.ndarray) -> np.ndarray:
    light = np.clip(frame.astype(int) + 12, 0, 255).astype(np.uint8)
    light[0, 0] = frame[0, 0]
    return light


def test_a_flash_is_no_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    actors = [[Actor(0, 40)]] * 10 + [[]] * 2 + [[Actor(0, 42)]] * 10
    places, events = run(Stage(monkeypatch, actors, [0] * 10 + [1] * 2 + [0] * 10))
    assert [events[10], events[12]] == [Event.CUT, Event.RETURN] and places[10:12] == [None, None]
    assert places[12:] == pytest.approx([42] * 10, abs=0.1)


def test_the_state_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    actors = [[Actor(0, 40 + t), Actor(1, 120)] for t in range(12)]
    stage = Stage(monkeypatch, actors, [0] * 5 + [1] * 2 + [0] * 5)
    one = Follower()
    other = Follower()
    for frame in stage.frames():
        other = Follower.restored({name: value.copy() for name, value in other.state().items()})
        a, b = one(frame), other(frame)
        assert a.event == b.event
        assert (a.face is None) == (b.face is None)
        if a.face is not None and b.face is not None:
            np.testing.assert_array_equal(a.face.points, b.face.points)


def test_pictures_tell_people_apart(shared_data: Path, astronaut: np.ndarray) -> None:
    pictures = [astronaut, *(read_image(shared_data / "portraits" / f"{name}.png") for name in ("lincoln", "tesla"))]
    looks = [look(image, detect_faces(image)[0].points) for image in pictures]
    film = read_video(shared_data / "driving" / "talking.mp4").read(90)[::30]
    own = [look(frame, detect_faces(frame)[0].points) for frame in film]
    assert min(float(a @ b) for a in own for b in own) > SAME
    others = looks + own[:1]
    assert max(float(a @ b) for i, a in enumerate(others) for b in others[:i]) < SAME


def test_a_look_does_not_depend_on_place_size_and_turn(astronaut: np.ndarray) -> None:
    face = detect_faces(astronaut)[0]
    straight = look(astronaut, face.points)
    assert np.linalg.norm(straight) == pytest.approx(1.0, abs=1e-5)
    matrix = cv2.getRotationMatrix2D((250.0, 150.0), 15.0, 0.8)
    turned = cv2.warpAffine(astronaut, matrix, (512, 512))
    points = (face.points - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
    assert float(look(turned, points.astype(np.float32)) @ straight) > 0.95
    outside = face.points + 5000
    assert not look(astronaut, outside).any()


def test_an_intruder_in_real_pictures(shared_data: Path, astronaut: np.ndarray) -> None:
    tesla = read_image(shared_data / "portraits" / "tesla.png")
    tesla = cv2.resize(tesla, (400, 400), interpolation=cv2.INTER_AREA)
    follower, places = Follower(), []
    for t in range(8):
        frame = np.full((420, 900, 3), 128, np.uint8)
        frame[:400, :400] = astronaut[:400, 40:440]
        left = max(480, 860 - 90 * t)
        frame[:400, left : left + 400] = tesla[:, : 900 - left]
        if t in (5, 6):
            cv2.rectangle(frame, (60, 0), (340, 300), (120, 110, 100), -1)
        places.append(follower(frame).face)
    assert [face is not None for face in places] == [True] * 5 + [False] * 2 + [True]
    assert all(face is None or face.box[2] < 420 for face in places)


def test_faces_far_off_or_of_another_size_are_not_near() -> None:
    points = np.random.default_rng(0).uniform(0, 100, (478, 2)).astype(np.float32)

    def face(shift: float = 0.0, scale: float = 1.0) -> Face:
        moved = (points - 50) * scale + 50 + shift
        return Face(moved, np.zeros(478, np.float32), follow.box_of(moved))

    assert follow._near(face(10), face()) and not follow._near(face(80), face())
    assert not follow._near(face(scale=2.0), face()) and follow._near(face(scale=1.2), face())
