"""Landmarks carried from one head to another mean the same points, so that tracked heads are not pitched."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from script_modules import load_script

from geodiff.conditioning import head_frame
from geodiff.geometry import orbit_camera, project
from geodiff.head import load_head
from geodiff.head.builtin import load_builtin
from geodiff.head.model import HeadModel, LandmarkEmbedding
from geodiff.tracking.accuracy import PosedHead, TemplateOffset, measure
from geodiff.tracking.fit import fit_landmarks


def points(head: HeadModel) -> np.ndarray:
    assert head.landmarks is not None
    return head.landmarks.points(head.template, head.faces).double().numpy()


def slipped(head: HeadModel) -> HeadModel:
    """The head with every landmark in a corner of its triangle."""
    own = head.landmarks
    assert own is not None
    corners = torch.eye(3)[torch.arange(len(own.faces)) % 3]
    return replace(head, landmarks=LandmarkEmbedding(own.indices, own.faces, corners))


def test_landmarks_return_to_where_the_other_head_has_them() -> None:
    head = load_builtin()
    turn = torch.from_numpy(Rotation.from_euler("xyz", [4, -3, 2], degrees=True).as_matrix()).float()
    source = replace(head, template=head.template @ turn.T + torch.tensor([0.01, 0.02, -0.03]))
    before = np.linalg.norm(points(slipped(head)) - points(head), axis=1)
    carried = load_script("carry_landmarks").carried(slipped(head), source)
    away = np.linalg.norm(points(replace(head, landmarks=carried)) - points(head), axis=1)
    assert before.mean() > 0.8e-3 and away.mean() < 0.05e-3 and np.quantile(away, 0.99) < 0.3e-3


def test_true_landmarks_do_not_pitch_the_tracked_head(shared_data: Path) -> None:
    own, truth = load_builtin(), load_head(f"ict:{shared_data / 'ict' / 'ict_facekit.npz'}")
    params = truth.zeros()
    camera = orbit_camera(0.0, 0.0, 1.1, head_frame(truth, params).center, 1200.0, 512, 512)
    posed = PosedHead(truth, params, camera)
    marks = project(torch.from_numpy(np.nan_to_num(posed.landmarks())).float(), camera)[0].numpy()
    fit = fit_landmarks(marks, (512, 512), own)
    errors = measure(posed, PosedHead(own, fit.params, fit.camera), TemplateOffset.between(own, truth))
    turned = [errors[name] for name in ("pitch", "yaw", "roll")]
    assert abs(math.hypot(*turned) - errors["pose"]) < 1e-3
    assert abs(errors["pitch"]) < 1.0  # 1.9 with landmarks that the detector put on either head
