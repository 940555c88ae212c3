"""scripts/benchmark_real.py: photographs of one person from several sides."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from script_modules import load_script

from geodiff.conditioning import crop_reference, framed_camera, head_frame
from geodiff.errors import FaceError, InputError
from geodiff.head import load_head
from geodiff.media import write_image
from geodiff.metrics.picture import Picture
from geodiff.synth.bench import photographs
from geodiff.synth.bench.photographs import (
    Photograph,
    choose_portrait,
    compare,
    expression_of,
    reached,
    read_photographs,
    request,
)
from geodiff.synth.bench.scores import chosen, frame_metrics
from geodiff.synth.bench.tasks import Proposal
from geodiff.synth.portraits import PortraitConfig, Sitter
from geodiff.synth.subject import Subject
from geodiff.tracking.landmarks import Face
from geodiff.tracking.track import Track, TrackConfig, track_image

SIZE = 64
METRICS = "psnr,mask_iou,normal_degrees"


@pytest.fixture(scope="module")
def seen() -> list[Photograph]:
    """One person from three sides, tracked without error."""
    head = load_head("builtin")
    subject = Subject(head, 3, texture_size=128, natural=True)
    frame, found = head_frame(head, subject.params), []
    for yaw in (50, 5, -30):
        camera = framed_camera(frame, math.radians(yaw), 0.05, 1.0, 160)
        shot = subject.render(subject.pose(subject.params), camera)
        image = (shot.image * 255 + 0.5).astype(np.uint8)
        face = Face(np.zeros((478, 2), np.float32), np.zeros(478, np.float32), np.zeros(4, np.float32))
        track = Track(subject.params, camera, face, shot.mask, 0.0, 1)
        cropped = crop_reference(image, shot.mask, subject.params, camera, head, SIZE)
        found.append(Photograph(f"side{yaw}.png", image, track, cropped))
    return found


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expressions as they are, of people who show no face to the detector."""
    monkeypatch.setattr(photographs, "expression_of", lambda one, *_: one.cropped.params)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmark_real")


def test_the_portrait_is_the_most_frontal_or_the_one_named(seen: list[Photograph]) -> None:
    assert [round(one.yaw) for one in seen] == [50, 5, -30]
    assert choose_portrait(seen).name == "side5.png"
    assert choose_portrait(seen, "side-30").name == "side-30.png"
    with pytest.raises(InputError, match=r"must be one of the photographs .*side50\.png.*got 'x'"):
        choose_portrait(seen, "x")


@pytest.mark.usefixtures("told")
def test_others_are_asked_for_at_their_own_cameras(seen: list[Photograph]) -> None:
    head, portrait = load_head("builtin"), choose_portrait(seen)
    others = [one for one in seen if one is not portrait]
    asked = request(portrait, others, head, 32)
    for one, camera in zip(others, asked.cameras, strict=True):
        np.testing.assert_allclose(camera.viewmat, one.cropped.camera.viewmat, atol=1e-4)
        assert camera.width == 32
    scores, shown = compare(portrait, others, head, Proposal(SIZE), frame_metrics(METRICS.split(",")))
    result = chosen(scores, method="result")
    assert [round(score.angle) for score in result] == [50, 30]
    assert all(score.figures["mask_iou"] > 0.6 and score.figures["psnr"] > 9 for score in result)
    assert "no normal maps" in result[0].missing["normal_degrees"]
    assert isinstance(shown[0].truth, Picture)


@pytest.mark.usefixtures("told")
def test_what_a_photograph_does_not_reach_is_not_compared(seen: list[Photograph]) -> None:
    head, portrait = load_head("builtin"), choose_portrait(seen)
    whole = next(one for one in seen if one is not portrait)
    low = dataclasses.replace(whole.track.camera, height=100)
    track = dataclasses.replace(whole.track, camera=low, matte=whole.track.matte[:100])
    cropped = crop_reference(whole.image[:100], track.matte, track.params, low, head, SIZE)
    cut = Photograph("cut.png", whole.image[:100], track, cropped)
    assert reached(whole, head).min() > 0.9 and 0.3 < reached(cut, head).mean() < 0.9
    overlaps = [
        compare(portrait, [one], head, Proposal(SIZE), frame_metrics(METRICS.split(",")))[0][0].figures["mask_iou"]
        for one in (whole, cut)
    ]
    assert overlaps[1] > overlaps[0] - 0.05


def test_folders_that_cannot_be_used_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = load_head("builtin")
    with pytest.raises(InputError, match="read from a folder"):
        read_photographs(tmp_path / "none", head, SIZE)
    write_image(tmp_path / "wall.png", np.full((160, 160, 3), 90, np.uint8))

    def nobody(*_: object) -> Track:
        raise FaceError("a portrait must show a face")

    monkeypatch.setattr(photographs, "track_image", nobody)
    with pytest.raises(InputError, match=r"at least two that show a face, and .* holds 0"):
        read_photographs(tmp_path, head, SIZE)


@pytest.mark.usefixtures("told")
def test_a_folder_ends_in_a_sheet_and_figures(
    script: ModuleType, seen: list[Photograph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(script, "read_photographs", lambda *_: (seen, ["back.png: the tracker finds no face"]))
    sheet, figures = tmp_path / "sheet.png", tmp_path / "figures.json"
    arguments = [str(tmp_path), "--generator", "random:test", "--preset", "test", "--size", str(SIZE)]
    assert script.main([*arguments, "--metrics", METRICS, "--sheet", str(sheet), "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert found["portrait"] == "side5.png" and found["lost"] == ["back.png: the tracker finds no face"]
    assert {frame["photograph"] for frame in found["frames"]} == {"side50.png", "side-30.png"}
    assert found["summary"]["proposal"]["psnr"]["count"] == 2
    assert "no normal maps" in found["summary"]["result"]["normal_degrees"]["not_measured"]
    assert sheet.stat().st_size > 1000
    assert "Left out: back.png" in capsys.readouterr().out
    assert script.main([*arguments, "--reference", "nobody"]) == 2
    assert "the portrait must be one of" in capsys.readouterr().err


def test_expressions_are_read_on_the_portraits_identity() -> None:
    """On its own identity a photograph shows what it shows; on another, what fits its landmarks there."""
    head = load_head("builtin")
    photo = Sitter(head, 3, PortraitConfig(size=256, texture=256)).photograph(10.0)
    track = track_image(photo.image, head, config=TrackConfig(fit_hair=False))
    cropped = crop_reference(photo.image, track.matte, track.params, track.camera, head, SIZE)
    one = Photograph("photo.png", photo.image, track, cropped)
    own = expression_of(one, track.params, head)
    np.testing.assert_allclose(own.expr, track.params.expr, atol=0.03)
    other = track.params.replace(shape=track.params.shape + 1.5 * torch.tanh(torch.arange(head.num_shape) - 3.0))
    read = expression_of(one, other, head)
    np.testing.assert_allclose(read.shape, other.shape, atol=1e-6)
    assert float((read.expr - own.expr).abs().max()) > 0.03
