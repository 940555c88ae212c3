"""Errors against a known truth are zero where there are none, and what they were made to be otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from geodiff.head.builtin import load_builtin
from geodiff.tracking.accuracy import PosedHead, TemplateOffset, measure, nearest_on_mesh, similarity
from geodiff.types import Camera, HeadParams


def posed(**changes: torch.Tensor) -> PosedHead:
    head = load_builtin()
    K = torch.tensor([[900.0, 0, 256], [0, 900, 256], [0, 0, 1]])
    camera = Camera(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])), K, 512, 512)
    params: HeadParams = head.zeros().replace(
        rotation=torch.tensor([[0.1, 0.5, 0.0]]), translation=torch.tensor([[0.02, 0.01, -1.0]])
    )
    return PosedHead(head, params.replace(**changes), camera)


def test_the_truth_has_no_error() -> None:
    head = load_builtin()
    found = measure(posed(), posed(), TemplateOffset.between(head, head))
    assert max(abs(value) for value in found.values()) < 0.02


def test_errors_are_those_that_were_made() -> None:
    head = load_builtin()
    truth = posed()
    turned = Rotation.from_euler("y", 5, degrees=True) * Rotation.from_rotvec(truth.params.rotation[0].numpy())
    wrong = posed(
        rotation=torch.as_tensor(turned.as_rotvec(), dtype=torch.float32)[None],
        eyes_pose=torch.tensor([[0.0, 0.2, 0.0, 0.0, 0.2, 0.0]]),
    )
    found = measure(truth, wrong, TemplateOffset.between(head, head))
    assert found["pose"] == pytest.approx(5, abs=0.01)
    assert found["gaze"] == pytest.approx(np.degrees(0.2), abs=0.2)
    assert found["mesh"] < 0.1 and found["focal"] == 0.0


def test_lids_and_lips() -> None:
    head = load_builtin()
    expr = torch.zeros(1, head.num_expr)
    for name in ("eyeBlinkLeft", "eyeBlinkRight", "jawOpen"):
        expr[0, head.expression_names.index(name)] = 1.0
    found = measure(posed(), posed(expr=expr), TemplateOffset.between(head, head))
    assert found["lids_signed"] < -4 and found["lips_signed"] > 10
    assert found["expression"] > 2 and found["moved"] == 0
    half = measure(posed(expr=expr), posed(expr=expr / 2), TemplateOffset.between(head, head))
    assert half["expression"] == pytest.approx(half["moved"] / 2, rel=0.05)


def test_similarity_and_nearest_points() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 3))
    turn = Rotation.random(random_state=1).as_matrix()
    rotation, shift, scale = similarity(points, 1.7 * points @ turn.T + [1, 2, 3])
    np.testing.assert_allclose(rotation, turn, atol=1e-9)
    np.testing.assert_allclose(shift, [1, 2, 3], atol=1e-9)
    assert scale == pytest.approx(1.7)
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.0]])
    asked = np.array([[0.25, 0.5, 2], [-1, -1, 0], [2, 0.5, 0]])
    nearest = nearest_on_mesh(asked, square, np.array([[0, 1, 2], [0, 2, 3]]), candidates=2)
    np.testing.assert_allclose(nearest, [[0.25, 0.5, 0], [0, 0, 0], [1, 0.5, 0]], atol=1e-9)
