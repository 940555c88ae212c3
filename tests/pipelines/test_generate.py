"""What lies between a portrait and a clip set: viewpoints, the drive, the driver head, the foreground."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodiff.conditioning import Condition
from geodiff.driver import Driver
from geodiff.errors import ConfigError, InputError
from geodiff.head import load_head
from geodiff.head.model import HeadModel
from geodiff.media import write_video
from geodiff.models.runtime import RuntimeConfig
from geodiff.motion import builtin_motion
from geodiff.tracking.landmarks import Face
from geodiff.tracking.track import Track, VideoTrack
from geodiff.types import Camera
from pipelines import generate as generating
from pipelines import motion as drives
from pipelines.foreground import Finish, composite, foreground_mask, smooth_outline
from pipelines.generate import GenerateConfig, _fingerprint
from pipelines.motion import resolve_drive
from pipelines.viewpoints import VIEWPOINTS, select_viewpoints
from pipelines.views import load_networks


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("builtin")


def test_the_twelve_viewpoints_of_the_preset_table() -> None:
    found = {(round(np.degrees(v.yaw)), round(np.degrees(v.elevation))) for v in VIEWPOINTS}
    level = {(yaw, 0) for yaw in (0, 25, -25, 50, -50, 75, -75)}
    assert found == level | {(-35, 20), (0, 20), (35, 20), (-20, -15), (20, -15)}
    assert select_viewpoints(1)[0].yaw == 0


@pytest.mark.parametrize("count", [0, 13, -1])
def test_a_number_of_views_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"between 1 and 12; {count} was asked for"):
        select_viewpoints(count)


def disk(size: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (np.hypot(x, y) < radius * size).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(st.integers(32, 96), st.floats(0.15, 0.4))
def test_the_foreground_has_no_holes_and_no_islands(size: int, radius: float) -> None:
    silhouette = disk(size, radius)
    length = silhouette.copy()
    length[size // 2, size // 2] = 0.0
    length[1, 1] = 1.0
    mask = foreground_mask(length, silhouette)
    assert mask[size // 2, size // 2] > 0.99
    assert mask[1, 1] == 0.0
    assert abs(float(mask.sum()) - float(silhouette.sum())) < 0.1 * silhouette.sum() + 4


def test_generated_hair_may_leave_the_mesh_but_not_by_far() -> None:
    silhouette, everything = disk(128, 0.25), np.ones((128, 128), np.float32)
    mask = foreground_mask(everything, silhouette)
    assert silhouette.sum() < mask.sum() < disk(128, 0.285).sum()


def test_flecks_beside_the_mesh_are_left_out() -> None:
    silhouette, length = disk(256, 0.25), disk(256, 0.25)
    near = disk(256, 0.262) > 0
    rows, columns = np.mgrid[:256, :256] - 128
    fleck = near & (np.abs(columns) < 2) & (rows < 0)
    lock = near & (np.abs(rows) < 30) & (columns > 0)
    length[fleck | lock] = 1.0
    mask = foreground_mask(length, silhouette)
    beyond = silhouette == 0
    assert mask[fleck & beyond].mean() < 0.5 < mask[lock & beyond].mean()


def test_outside_the_mask_frames_are_white_and_normals_zero() -> None:
    silhouette = disk(64, 0.3)
    normals = np.zeros((64, 64, 3), np.float32)
    normals[..., 2] = 0.8 * silhouette
    image, unit, mask = composite(np.full((64, 64, 3), 0.2, np.float32), normals, silhouette)
    assert image[0, 0].tolist() == [1.0, 1.0, 1.0]
    assert np.abs(unit[mask == 0]).max() == 0
    np.testing.assert_allclose(unit[32, 32], [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(image[32, 32], 0.2, atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_a_face_that_fills_the_frame_keeps_its_colours() -> None:
    """Without an outside there is no rim, and nothing is white."""
    image = np.random.default_rng(0).uniform(0.1, 0.9, (64, 64, 3)).astype(np.float32)
    normals = np.zeros((64, 64, 3), np.float32)
    normals[..., 2] = 0.8
    found, unit, mask = composite(image, normals, np.ones((64, 64), np.float32))
    assert mask.min() == 1.0
    np.testing.assert_allclose(found, image, atol=1e-6)
    np.testing.assert_allclose(unit[..., 2], 1.0, atol=1e-6)


def test_what_the_portrait_shows_beside_the_mesh_is_foreground() -> None:
    """A curl that the networks do not believe in."""
    mesh, normals = disk(64, 0.25), np.zeros((64, 64, 3), np.float32)
    normals[..., 2] = mesh
    curl = np.zeros((64, 64), np.float32)
    curl[8:20, 30:34] = 1.0
    both = np.maximum(mesh, curl)
    image = 1.0 - (0.8 * mesh + 0.1 * curl)[..., None].repeat(3, 2).clip(0, 0.8)
    without, kept = (composite(image, normals, both, beside)[2] for beside in (None, curl * (mesh == 0)))
    place = (curl > 0) & (cv2.dilate(mesh, np.ones((5, 5))) == 0)
    assert kept[place].min() > 0.9 and without[place].mean() < 0.5


def test_an_outline_that_is_the_meshs_is_as_smooth() -> None:
    fine = disk(64 * 4, 0.3)
    silhouette = cv2.resize(fine, (64, 64), interpolation=cv2.INTER_AREA)
    cut = (silhouette > 0.5).astype(np.float32)
    np.testing.assert_allclose(smooth_outline(cut, silhouette), silhouette)
    # Where the networks end elsewhere, their own edge counts.
    own = cut.copy()
    own[:24] = 0
    mixed = smooth_outline(own, silhouette)
    np.testing.assert_array_equal(mixed[:22], 0)
    np.testing.assert_allclose(mixed[30:], silhouette[30:])


def test_the_portrait_stays_where_it_sees() -> None:
    nothing, proposal = np.zeros((3, 1, 3), np.float32), np.ones((3, 1, 3), np.float32)
    visibility, mouth = np.array([[1.0], [0.0], [0.2]], np.float32), np.array([[0.0], [0.0], [1.0]], np.float32)
    condition = Condition(nothing, proposal, nothing, visibility, np.ones((3, 1), np.float32), mouth, 0 * mouth)
    assert Finish(0.4)(nothing, condition)[:, 0, 0].tolist() == pytest.approx([0.4, 0.0, 0.52])
    assert Finish(0.9)(nothing, condition)[:, 0, 0].tolist() == pytest.approx([0.9, 0.0, 1.0])
    assert not Finish()(nothing, condition).any()


def test_frames_stay_near_the_proposal_inside_the_mesh_alone() -> None:
    rng, silhouette = np.random.default_rng(0), disk(64, 0.3)
    proposal, nothing = rng.random((64, 64, 3), np.float32), np.zeros((64, 64), np.float32)
    normals = np.zeros((64, 64, 3), np.float32)
    condition = Condition(normals, proposal, normals, nothing, silhouette, nothing, nothing)
    frame = rng.random((64, 64, 3), np.float32)
    near = Finish(deviation=0.1)(frame, condition)
    inside, outside = disk(64, 0.22) > 0.5, disk(64, 0.28) == 0
    assert np.abs(near - proposal)[inside].max() <= 0.1 + 1e-6
    np.testing.assert_allclose(near[outside], frame[outside], atol=1e-6)
    close = np.abs(frame - proposal) < 0.1
    np.testing.assert_allclose(near[close], frame[close], atol=1e-6)


def test_frames_of_a_grey_photograph_are_grey() -> None:
    rng, nothing = np.random.default_rng(0), np.zeros((16, 16), np.float32)
    frame, normals = rng.random((16, 16, 3), np.float32), np.zeros((16, 16, 3), np.float32)
    grey = np.repeat(rng.random((16, 16, 1), np.float32), 3, 2)
    tinted = grey * np.array([1.0, 0.9, 0.8], np.float32)
    for proposal, is_grey in ((grey, True), (tinted, False)):
        found = Finish()(frame, Condition(normals, proposal, normals, nothing, nothing, nothing, nothing))
        assert (np.ptp(found, axis=-1).max() < 1e-5) == is_grey
        np.testing.assert_allclose(found @ [0.299, 0.587, 0.114], frame @ [0.299, 0.587, 0.114], atol=1e-5)


def test_fine_detail_of_the_proposal_and_the_colours_of_the_networks() -> None:
    rng, nothing = np.random.default_rng(0), np.zeros((128, 128), np.float32)
    normals, whole = np.zeros((128, 128, 3), np.float32), np.ones((128, 128), np.float32)
    proposal = (0.3 + 0.1 * rng.standard_normal((128, 128, 1)) * np.ones(3)).astype(np.float32)
    frame = np.full((128, 128, 3), 0.6, np.float32)
    condition = Condition(normals, proposal, normals, nothing, whole, nothing, nothing)
    half, all_ = (Finish(detail=share)(frame, condition) for share in (0.5, 1.0))
    assert half.mean() == pytest.approx(0.6, abs=0.01) and all_.mean() == pytest.approx(0.6, abs=0.01)
    assert half.std() == pytest.approx(0.05, rel=0.15) and all_.std() == pytest.approx(0.1, rel=0.15)


def test_a_rim_that_is_partly_white_comes_closer_to_its_own_colour() -> None:
    silhouette = disk(256, 0.3)
    share = np.where(disk(256, 0.288) > 0, 1.0, 0.7).astype(np.float32) * silhouette
    normals = np.zeros((256, 256, 3), np.float32)
    normals[..., 2] = share
    image = np.repeat((0.2 * share + (1.0 - share))[..., None], 3, axis=2)
    found, _, mask = composite(image, normals, silhouette)
    rim = (mask > 0.95) & (share < 1.0)
    assert rim.sum() > 20
    assert found[rim].mean() < image[rim].mean() - 0.04
    assert found[rim].min() > 0.15


def test_hair_whose_normals_are_in_doubt_neither_darkens_nor_recedes() -> None:
    """Short normals alone are no sign of white: the colours are those of the inside up to the outline."""
    silhouette = disk(256, 0.3)
    normals = np.zeros((256, 256, 3), np.float32)
    normals[..., 2] = np.where(disk(256, 0.24) > 0, 0.95, 0.42) * silhouette
    hair = np.array([0.45, 0.35, 0.2], np.float32)
    image = 1.0 + (hair - 1.0) * silhouette[..., None]
    found, _, mask = composite(image, normals, silhouette)
    assert abs(mask.sum() / silhouette.sum() - 1.0) < 0.03
    np.testing.assert_allclose(found[mask > 0.99], np.broadcast_to(hair, found[mask > 0.99].shape), atol=0.02)


def test_white_hair_is_told_by_its_normals() -> None:
    silhouette = disk(128, 0.3)
    normals = np.zeros((128, 128, 3), np.float32)
    normals[..., 2] = silhouette
    _, _, mask = composite(np.full((128, 128, 3), 0.97, np.float32), normals, silhouette)
    assert abs(mask.sum() / silhouette.sum() - 1.0) < 0.03


def test_the_driver_shows_expressions_where_they_happen(head: HeadModel) -> None:
    names = list(head.expression_names)
    params = head.zeros(3)
    expr = params.expr.clone()
    expr[1, names.index("jawOpen")] = 1.0
    expr[2, [names.index("eyeBlinkLeft"), names.index("eyeBlinkRight")]] = 1.0
    neutral, open_mouth, blink = Driver(head).crops(params.replace(expr=expr))
    assert neutral.shape == (64, 64, 3)
    change = [np.abs(other - neutral).mean(-1) for other in (open_mouth, blink)]
    assert change[0][36:].mean() > 3 * change[0][:30].mean()
    assert change[1][:36].mean() > 3 * change[1][40:].mean()


def test_a_fixed_head_moves_only_its_face(head: HeadModel) -> None:
    base = head.zeros()
    drive = resolve_drive("builtin:talk", 12, head, base)
    assert drive.params.num_frames == 12 and drive.crops.shape == (12, 64, 64, 3)
    assert drive.params.rotation.abs().max() == 0
    assert drive.params.expr.abs().max() > 0.2
    moving = resolve_drive("builtin:talk", 12, head, base, head_pose="drive")
    assert moving.params.rotation.abs().max() > 0


def test_motion_files_drive_as_builtin_motions_do(head: HeadModel, tmp_path) -> None:  # noqa: ANN001
    from geodiff.motion import save_motion

    path = tmp_path / "motion.npz"
    save_motion(path, builtin_motion("range_of_motion", 8))
    from_file = resolve_drive(str(path), 8, head, head.zeros())
    from_name = resolve_drive("builtin:range_of_motion", 8, head, head.zeros())
    torch.testing.assert_close(from_file.params.expr, from_name.params.expr)


@pytest.mark.parametrize(
    ("spec", "head_pose", "error"),
    [
        ("nowhere.mp4", "fixed", InputError),
        ("builtin:dance", "fixed", ConfigError),
        ("builtin:talk", "up", ConfigError),
    ],
)
def test_drives_that_cannot_be_say_what_can(head: HeadModel, spec: str, head_pose: str, error: type) -> None:
    with pytest.raises(error, match="builtin:talk|talk|fixed"):
        resolve_drive(spec, 4, head, head.zeros(), head_pose)


def test_untrained_networks_are_the_same_every_time() -> None:
    first, second = load_networks("random:test"), load_networks("random:test")
    for (_, a), (_, b) in zip(first.modules(), second.modules(), strict=True):
        for name, tensor in a.state_dict().items():
            assert torch.equal(tensor, b.state_dict()[name])


def test_unknown_networks_are_named() -> None:
    with pytest.raises(ConfigError, match="random:NAME takes one of"):
        load_networks("random:nothing")


CAMERA = Camera(
    torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])), torch.tensor([[80.0, 0, 32], [0, 80.0, 32], [0, 0, 1]]), 64, 64
)


@pytest.mark.parametrize("person", [0.0, 1.0])
def test_filmed_crops_show_the_person_on_white(
    head: HeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, person: float
) -> None:
    """A dark video, and a head in its left upper corner that the frame cuts off."""
    write_video(tmp_path / "dark.mp4", np.full((3, 64, 64, 3), 20, np.uint8), 25.0)
    params = head.zeros(3).replace(translation=torch.tensor([[-0.2, 0.2, -0.6]]).expand(3, 3))
    track = VideoTrack(params, CAMERA, np.zeros(3), np.ones(3, bool), np.zeros((3, 4), np.float32), 25.0)
    monkeypatch.setattr(drives, "track_video", lambda path, head: track)
    monkeypatch.setattr(drives, "detect_faces", lambda image: [])
    monkeypatch.setattr(drives, "portrait_matte", lambda image, face: np.full(image.shape[:2], person, np.float32))
    crops = resolve_drive(str(tmp_path / "dark.mp4"), 2, head, head.zeros()).crops
    assert crops.shape == (2, 64, 64, 3)
    assert crops[:, 0, 0].min() > 0.98
    assert (crops.min() > 0.98) == (person == 0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"views": 13}, "between 1 and 12; 13 was asked for"),
        ({"image_size": -8}, "image_size must be 0 or more, got -8"),
        ({"indexing": "mono"}, "did you mean 'monocular'"),
        ({"head_pose": "fix"}, "did you mean 'fixed'"),
        ({"drive_crop": "photos"}, "did you mean 'photo'"),
        ({"precision": "bf61"}, "did you mean 'bf16'"),
    ],
)
def test_settings_that_cannot_be(wrong: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        GenerateConfig(**wrong)


def test_automatic_precision_follows_the_device() -> None:
    assert [GenerateConfig().resolved_precision(device) for device in ("cpu", "cuda", "cuda:1")] == [
        "fp32",
        "bf16",
        "bf16",
    ]
    assert GenerateConfig(precision="fp16").resolved_precision("cpu") == "fp16"


def test_the_fingerprint_tells_runs_apart(head: HeadModel) -> None:
    face = Face(np.zeros((478, 2), np.float32), np.zeros(478, np.float32), np.zeros(4, np.float32))
    track = Track(head.zeros(), CAMERA, face, np.ones((8, 8), np.float32), 0.0, 2)
    drive = resolve_drive("builtin:neutral", 1, head, head.zeros())
    networks = load_networks("random:test")

    def of(
        track: Track = track, drive: drives.DriveSequence = drive, precision: str = "fp32", **settings: object
    ) -> str:
        config = GenerateConfig(**settings)
        return _fingerprint(np.zeros((8, 8, 3), np.uint8), track, drive, config, 0, networks, precision)

    assert of() == of() == of(save_proposals=False) == of(runtime=RuntimeConfig(memory="low"))
    other_face = replace(track, params=head.zeros().replace(translation=torch.ones(1, 3)))
    other_film = replace(drive, params=drive.params.replace(jaw_pose=torch.ones(1, 3)))
    others = [
        of(other_face),
        of(drive=other_film),
        of(drive=replace(drive, crops=1 - drive.crops)),
        of(precision="bf16"),
        of(normals="normal-model.onnx"),
    ]
    assert len({of(), *others}) == 6


def tracked_square(head: HeadModel, up: float = 0.0) -> tuple[np.ndarray, Track]:
    """A grey picture of 96 pixels and a head in its middle, or `up` pixels above that."""
    face = Face(np.zeros((478, 2), np.float32), np.zeros(478, np.float32), np.zeros(4, np.float32))
    camera = Camera(
        torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])),
        torch.tensor([[200.0, 0, 48], [0, 200.0, 48 - up], [0, 0, 1]]),
        96,
        96,
    )
    params = head.zeros().replace(translation=torch.tensor([[0.0, 0.0, -0.8]]))
    track = Track(params, camera, face, np.ones((96, 96), np.float32), 0.0, 1)
    return np.full((96, 96, 3), 0.5, np.float32), track


def test_a_photograph_that_ends_below_the_crown_is_said_to(head: HeadModel) -> None:
    config = GenerateConfig(drive="builtin:neutral", frames=1, views=1)
    for up, said in ((0.0, False), (45.0, True)):
        told: list[str] = []
        generating._prepare(*tracked_square(head, up), head, 64, config, told.append)
        assert any("below the crown" in line for line in told) == said


def test_estimated_normals_take_the_place_of_the_mesh_s(head: HeadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    image, track = tracked_square(head)
    config = GenerateConfig(drive="builtin:neutral", frames=1, views=1)
    mesh = generating._prepare(image, track, head, 64, config, None).reference
    told: list[str] = []
    # Theirs: z away from the camera first, then y down, then x; and a bump that the mesh does not have.
    theirs = np.stack((-mesh.normals[..., 2], -mesh.normals[..., 1], mesh.normals[..., 0]), axis=-1)
    theirs[32, 32] = (0, 0, 1)
    monkeypatch.setattr(generating, "find_estimator", lambda setting: lambda picture: theirs)
    found = generating._prepare(image, track, head, 64, config, told.append).reference
    expected = mesh.normals.copy()
    expected[32, 32] = (1, 0, 0)
    np.testing.assert_allclose(found.normals, expected * found.mask[..., None], atol=1e-3)
    assert "estimated" in told[0]
