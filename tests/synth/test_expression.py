"""The measurement of the expression latent tells a live one from a dead one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from script_modules import load_script

from geodiff.conditioning import Reference, framed_camera, head_frame
from geodiff.errors import FaceError
from geodiff.files import read_json
from geodiff.geometry import project
from geodiff.head.builtin import load_builtin
from geodiff.metrics.picture import Picture
from geodiff.synth.bench import expression
from geodiff.synth.bench.definition import IDENTITIES, BenchConfig, at_rest
from geodiff.synth.bench.expression import Ask, Measured, expression_of, goals, measure_expression, read_expression
from geodiff.synth.bench.tasks import Bench, proposed
from pipelines.foreground import Finish

SMALL = BenchConfig.quick(identities=1, size=64, photo=256, supersample=1, texture=128)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(load_builtin(), load_builtin(), SMALL)


class Alive:
    """Shows the driver's expression where it is given a crop, a face at rest where it is not; finishes in two ways."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.size = bench, bench.config.size

    def __call__(self, reference: Reference, asks: Sequence[Ask], seed: int) -> dict[str, list[Picture]]:
        person, motion = self.bench.person(seed // 1000), expression_of(seed // 1000, seed % 1000)[0]
        shown = [motion if ask.crop is not None else at_rest() for ask in asks]
        pictures = [person.truth(one, [person.camera(0, 0)])[0] for one in shown]
        return {"live": pictures, "dead": [proposed(ask.condition) for ask in asks]}


@pytest.fixture(scope="module")
def measured(bench: Bench) -> Measured:
    return measure_expression(bench, Alive(bench), 1, 1)


def test_a_live_latent_and_a_dead_one_are_told_apart(measured: Measured) -> None:
    assert not measured.lost and {row.way for row in measured.rows} == {"", "live", "dead"}
    live, dead = goals(measured.rows, "live"), goals(measured.rows, "dead")
    alone, null, view, _, other = live
    assert live[alone] < 0.5 and live[null] > 1.5
    assert live[view] == live[other] == 0
    assert dead[alone] > 0.7 and dead[null] == 1


def test_the_table_names_every_case_and_what_is_missing(measured: Measured) -> None:
    text = expression.table(Measured(measured.rows, ["0.1: no face"]))
    assert text.count("\n| ") == len(expression.CASES) + 6
    assert "| 1 trials |" in text and "| 100.00 |" in text and "- 0.1: no face" in text
    blind = [expression.Row(0, 0, False, "live", "latent", 20.0, None)]
    assert "No trial" in expression.table(Measured(blind, []))


def test_expressions_are_read_beside_the_resting_face() -> None:
    head = load_builtin()
    rng = np.random.default_rng(0)
    base = head.zeros().replace(shape=torch.as_tensor(rng.normal(0, 0.8, head.num_shape)).float())
    expr = base.expr.clone()
    expr[0, head.expression_names.index("jawOpen")] = 0.7
    camera = framed_camera(head_frame(head, base), math.radians(5), 0.0, 1.0, 256)
    points = []
    for params in (base, base.replace(expr=expr)):
        marks = np.zeros((478, 2))
        assert head.landmarks is not None
        marks[head.landmarks.indices.numpy()] = project(head.landmark_points(params)[0], camera)[0].numpy()
        points.append(marks)
    found = read_expression(points[1], points[0], 256, head)
    assert found[head.expression_names.index("jawOpen")] == pytest.approx(0.7, abs=0.15)
    at_ease = read_expression(points[0], points[0], 256, head)
    assert at_ease[head.expression_names.index("jawOpen")] < 0.1 and np.abs(at_ease).mean() < 0.02


def test_trials_are_strong_and_half_of_them_extreme() -> None:
    drawn = [expression_of(identity, number) for identity in range(IDENTITIES) for number in (0, 1)]
    assert sum(extreme for _, extreme in drawn) == IDENTITIES
    assert min(sum(abs(float(v[0])) for v in motion.weights.values()) for motion, _ in drawn) > 0.8
    again = expression_of(3, 1)[0]
    assert {k: v.tolist() for k, v in again.weights.items()} == {
        k: v.tolist() for k, v in expression_of(3, 1)[0].weights.items()
    }


def test_a_driving_frame_without_a_face_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(*_: object) -> None:
        raise FaceError("none")

    monkeypatch.setattr(expression, "understand", blind)
    measured = measure_expression(bench, Alive(bench), 1, 1)
    assert measured.rows == []
    assert measured.lost == ["0.0: the tracker finds no face in the driving frame from 0 degrees"]


def test_the_script_writes_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("benchmark_expression")
    monkeypatch.setattr(script, "measure_expression", lambda *_, **__: measured)
    arguments = ["--generator", "random:test", "--preset", "test", "--people", "1", "--shots", "1"]
    assert script.main([*arguments, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "expression.md").read_text() == expression.table(measured)
    assert len(read_json(tmp_path / "expression.json")["rows"]) == len(measured.rows)
    ways = script.maker_of(script.parse([*arguments, "keep_visible=0.5", "--out", str(tmp_path)])).ways
    assert list(ways.values()) == [Finish(0.5), Finish()]
    assert script.main(["--people", "0", "--out", str(tmp_path)]) == 2
    assert "--people must be 1 to 16" in capsys.readouterr().err
