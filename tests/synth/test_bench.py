"""SynthBench shows the same people everywhere, gives a perfect generator perfect figures, and tells when it changed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geodiff.errors import ConfigError, FaceError
from geodiff.head.builtin import load_builtin
from geodiff.metrics.picture import Picture
from geodiff.synth.bench import definition, record, tasks
from geodiff.synth.bench.clips import AvatarClips, HeldOut, score_avatar
from geodiff.synth.bench.definition import FIRST_SEED, IDENTITIES, BenchConfig, angle_bin, shot
from geodiff.synth.bench.report import Run, markdown
from geodiff.synth.bench.report import record as as_record
from geodiff.synth.bench.scores import Score, chosen, frame_metrics, groups, means, sized
from geodiff.synth.bench.tasks import Bench, Proposal, Request
from geodiff.synth.subject import Subject

SMALL = BenchConfig.quick(identities=2, size=64, photo=256, supersample=1, texture=128, views=2, steps=2, held_views=1)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(load_builtin(), load_builtin(), SMALL)


class Oracle:
    """Knows the truth."""

    name = "oracle"

    def __init__(self, bench: Bench) -> None:
        self.bench, self.size = bench, bench.config.size

    def __call__(self, request: Request) -> list[Picture]:
        truths = [self.bench.person(one.identity).shown(one) for one in request.shots]
        return [Picture(truth.image.copy(), truth.alpha, truth.normals) for truth in truths]


def all_shots() -> list[definition.Shot]:
    return [shot(task, i, n) for task in definition.TASKS for i in range(IDENTITIES) for n in range(16)]


def test_no_training_set_draws_these_people() -> None:
    largest = (2**64 - 1) * 10_000_019 + 10**9
    assert largest < FIRST_SEED
    assert len({definition.identity_seed(i) for i in range(IDENTITIES)}) == IDENTITIES


def test_shots_cover_every_view_and_strong_expressions() -> None:
    shots = all_shots()
    assert max(one.angle for one in shots) > 85
    ranges = Counter(angle_bin(one.angle) for one in shots)
    assert set(ranges) == {0, 1, 2} and max(ranges.values()) - min(ranges.values()) <= 2
    assert 0.25 < np.mean([one.extreme for one in shots]) < 0.4
    assert all((one.driver == one.identity) == (one.task == "self") for one in shots)
    first = [one for one in shots if one.number == 0]
    assert len(first) == 32 and {angle_bin(one.angle) for one in first} == {0, 1, 2}
    assert any(one.extreme for one in first)


def test_the_same_shot_is_drawn_again() -> None:
    one, again = shot("cross", 3, 2), shot("cross", 3, 2)
    assert (one.yaw, one.elevation, one.driver) == (again.yaw, again.elevation, again.driver)
    assert one.motion.weights.keys() == again.motion.weights.keys()
    assert np.array_equal(one.motion.gaze, again.motion.gaze)
    assert shot("cross", 4, 2).yaw != one.yaw


def test_digest_names_what_is_drawn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    before = definition.digest(SMALL, bench.truth)
    assert before == definition.digest(replace(SMALL, self_shots=7), bench.truth), "how much is shown is no matter"
    assert before != definition.digest(replace(SMALL, size=128), bench.truth)
    monkeypatch.setattr(definition, "EXTREMES", definition.EXTREMES[::-1])
    assert before != definition.digest(SMALL, bench.truth)


def test_bundled_record_fits_what_is_drawn() -> None:
    """Whoever changes what is drawn raises VERSION and records the sets anew (scripts/benchmark.py --record)."""
    head = load_builtin()
    name = record.set_name(Bench(head, head, BenchConfig()))
    known = json.loads(record.PATH.read_text())
    assert known["version"] == definition.VERSION
    assert name in known["sets"], "the builtin head has changed: record its set anew"
    assert known["sets"][name]["digest"] == definition.digest(BenchConfig(), head)


def test_another_set_is_told(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    portraits = record.thumbnails(bench)
    assert record.check(bench, portraits, path).same is None
    record.record(bench, path)
    assert record.check(bench, portraits, path).same is True
    known = json.loads(path.read_text())
    entry = known["sets"][record.set_name(bench)]
    pixels = bytearray.fromhex(entry["portraits"]["1"])
    for change, same in ((3, True), (40, False)):
        other = bytes(min(255, value + change) for value in pixels)
        entry["portraits"]["1"] = other.hex()
        path.write_text(json.dumps(known))
        found = record.check(bench, portraits, path)
        assert found.same is same
    assert "look different" in found.text and "people 1" in found.text and "do not compare" in found.text
    entry["digest"] = "0" * 16
    path.write_text(json.dumps(known))
    assert "is not the recorded one" in record.check(bench, portraits, path).text


def test_people_come_from_their_seeds_alone(bench: Bench) -> None:
    again = Bench(load_builtin(), load_builtin(), SMALL)
    assert np.array_equal(again.person(0).photo.image, bench.person(0).photo.image)
    assert not np.array_equal(bench.person(0).photo.image, bench.person(1).photo.image)
    low = Subject(bench.truth, 0, texture_size=64, natural=True)
    assert not torch.equal(low.params.shape, bench.person(0).subject.params.shape), "the whole seed counts"


def test_driving_frames_are_looked_at_once(bench: Bench) -> None:
    """Tracked and true parameters are of the same photograph; its number decides the grain, not what is shown."""
    person, one = bench.person(0), shot("self", 0, 1)
    film = person.film(one.motion, 7)
    assert person.film(one.motion, 7) is film
    other = person.film(shot("self", 0, 2).motion, 7)
    assert not np.array_equal(other.image, film.image)
    assert np.array_equal(person.film(one.motion, 7).image, film.image)


def test_a_perfect_generator_has_perfect_figures(bench: Bench) -> None:
    outcome = bench.run("self", 0, Oracle(bench), frame_metrics())
    assert not outcome.lost
    for kind in ("tracked", "true"):
        found = means(chosen(outcome.scores, kind=kind, method="result"))
        assert found["psnr"].value == found["psnr_hidden"].value == 100
        assert found["ssim"].value == pytest.approx(1)
        assert found["normal_degrees"].value == pytest.approx(0, abs=1e-3)
        assert found["mask_iou"].value == 1
        assert found["high_frequency"].value == pytest.approx(1, abs=1e-6)
        if found["akd"].value is not None:
            assert found["akd"].value == 0
        worse = means(chosen(outcome.scores, kind=kind, method="proposal"))
        assert worse["psnr"].value < 40 and worse["normal_degrees"].value > 1


def test_the_proposal_is_its_own_baseline(bench: Bench) -> None:
    outcome = bench.run("cross", 1, Proposal(SMALL.size), frame_metrics(["psnr", "normal_degrees"]))
    own = [score.figures for score in chosen(outcome.scores, method="result")]
    assert own and own == [score.figures for score in chosen(outcome.scores, method="proposal")]


def test_truth_is_known_exactly_on_the_same_head(bench: Bench) -> None:
    person, seer = bench.person(0), bench.observer(0, "true", 64)
    camera = person.camera(40.0, 10.0)
    moved = seer.camera(camera)
    assert torch.allclose(moved.viewmat, camera.viewmat, atol=1e-3) and torch.allclose(moved.K, camera.K)
    assert torch.equal(seer.reference.params.shape, person.subject.params.shape)


def test_tracked_conditions_lie_where_the_truth_is(bench: Bench) -> None:
    outcome = bench.run("self", 1, Proposal(SMALL.size), frame_metrics(["mask_iou"]), kinds=("tracked",))
    assert outcome.scores[0].figures["mask_iou"] > 0.75


def test_frames_that_the_tracker_cannot_read_are_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(*_: object) -> None:
        raise FaceError("no face")

    monkeypatch.setattr(tasks, "understand", blind)
    outcome = bench.run("self", 0, Proposal(SMALL.size), frame_metrics(["psnr"]), kinds=("tracked",))
    assert outcome.scores == []
    assert outcome.lost == ["self 0.0, tracked: the tracker finds no face in the driving frame"]


def test_avatars_are_asked_for_what_their_clips_lack(bench: Bench, tmp_path: Path) -> None:
    clips = AvatarClips(bench, 0, "true")
    folder = clips.write(tmp_path / "clips")
    assert len(list((folder / "images").glob("*.png"))) == SMALL.views * SMALL.steps
    assert json.loads((folder / "transforms_test.json").read_text())["frames"] == []

    def perfect(asked: HeldOut) -> Picture:
        return clips.person.truth(asked.motion, [asked.true_camera])[0]

    scores, shown = score_avatar(clips, perfect, frame_metrics(["psnr", "mask_iou"]))
    assert len(shown) == 2 * SMALL.held_views * SMALL.held_steps
    assert {score.part for score in scores} == {"views", "expressions"}
    assert means(chosen(scores, method="result"))["psnr"].value == 100
    frontal = [score.angle for score in chosen(scores, part="expressions")]
    assert max(frontal) < 1, "the first training camera stands in front"


def scored(**changes: object) -> Score:
    values = {"task": "self", "identity": 0, "shot": 0, "angle": 10.0, "expression": "ordinary", "kind": "tracked"}
    figures = {"psnr": 20.0, "normal_degrees": 5.0}
    return Score(**{**values, "method": "result", "figures": figures, "missing": {"lpips": "no weights"}, **changes})


def test_groups_split_frames_by_angle_and_expression() -> None:
    scores = [scored(), scored(angle=45.0, expression="extreme"), scored(angle=90.0)]
    found = groups(scores)
    assert [len(found[name]) for name in ("all", "0-30", "30-60", "60-90", "extreme")] == [3, 1, 1, 1, 1]
    assert "views" not in found
    assert "30-60" not in groups(scores[1:2]), "a group of everything says nothing new"


def test_tables_name_what_was_not_measured() -> None:
    scores = [scored(), scored(angle=45.0), scored(method="proposal", figures={"psnr": 10.0})]
    run = Run(scores, {"self": "mine"}, ("self", "normals"), {"date": "today"}, ["self 3.0: no face"])
    text = markdown(run)
    assert "| PSNR (dB) | higher | 20.000 | 10.000 | 2 |" in text
    assert "LPIPS (AlexNet): not measured: no weights" in text
    assert "self 3.0: no face" in text and "0-30 degrees (1)" in text and "mine, tracked" in text
    summary = as_record(run)["summary"]
    assert summary["self"]["tracked"]["result"]["all"]["psnr"] == {"mean": 20.0, "count": 2}
    assert summary["self"]["tracked"]["result"]["all"]["lpips"]["not_measured"] == "no weights"
    assert "psnr" not in summary["normals"]["tracked"]["result"]["all"]


def test_pictures_of_other_sizes_are_brought_to_the_bench() -> None:
    picture = Picture(np.full((128, 128, 3), 0.5, np.float32), np.ones((128, 128), np.float32))
    small = sized(picture, 64)
    assert small.size == (64, 64) and small.alpha is not None and small.alpha.shape == (64, 64)
    assert small.normals is None and sized(small, 64) is small


def test_unknown_metrics_are_refused() -> None:
    with pytest.raises(ConfigError, match="psnr"):
        frame_metrics(["psnrr"])
