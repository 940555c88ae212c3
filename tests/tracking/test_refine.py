"""The second look at a face: applied, alike for mirrored faces, optional, and its absence told with a way out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from script_modules import load_script

from geodiff import assets
from geodiff.assets import find_weights
from geodiff.errors import AssetError
from geodiff.head.builtin import load_builtin
from geodiff.head.model import LandmarkEmbedding
from geodiff.synth.portraits import PortraitConfig, Sitter
from geodiff.tracking import movements as moving
from geodiff.tracking import refine
from geodiff.tracking.accuracy import PosedHead, TemplateOffset, measure
from geodiff.tracking.aligned import Aligned
from geodiff.tracking.calibration import load_calibration
from geodiff.tracking.face_model import FaceModel
from geodiff.tracking.fit import FitConfig, LandmarkFitter
from geodiff.tracking.footage import watch
from geodiff.tracking.landmarks import Face, detect_faces, measure_face
from geodiff.tracking.track import TrackConfig, track_image
from geodiff.tracking.video import fit_footage
from geodiff.tracking.witnesses import Moved, Turned, witnesses


@pytest.fixture(scope="module")
def photo(astronaut: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(astronaut[:320, 60:380])


@pytest.fixture(scope="module")
def face(photo: np.ndarray) -> Face:
    return detect_faces(photo)[0]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the bundled weights that may be damaged."""
    shutil.copytree(assets.weights_folder() / "refiner", tmp_path / "refiner")
    shutil.copy(assets.weights_folder() / assets.MANIFEST, tmp_path)
    monkeypatch.setattr(assets, "weights_folder", lambda: tmp_path)
    refine.load_refiner.cache_clear()
    yield tmp_path / "refiner" / refine.FILE
    refine.load_refiner.cache_clear()


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(0.2, 5), st.floats(-300, 300), st.integers(0, 5))
def test_the_frame_follows_the_face(angle: float, scale: float, shift: float, seed: int) -> None:
    calibration = load_calibration()
    assert calibration is not None
    points, z = 80 * calibration.mean[:, :2] + 200, 80 * calibration.mean[:, 2]
    points = points + np.random.default_rng(seed).normal(0, 3, points.shape)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    one = Aligned.of(points, z, calibration.mean)
    moved = scale * points @ turn.T + shift
    other = Aligned.of(moved, scale * z, calibration.mean)
    np.testing.assert_allclose(other.inside(moved), one.inside(points), atol=1e-6)
    np.testing.assert_allclose(one.outside(one.inside(points)), points, atol=1e-6)
    np.testing.assert_allclose(other.facing, one.facing, atol=1e-6)
    assert Rotation.from_matrix(one.facing).magnitude() < 0.2, "the mean face looks out of its frame"


@pytest.mark.parametrize("size", [0.02, 0.4])
def test_the_crop_shows_what_lies_in_the_frame(size: float) -> None:
    rows, columns = np.mgrid[:300, :300] + 0.5
    image = np.stack([columns, rows, 0 * rows], -1).astype(np.float32)
    turn = np.array([[0.96, -0.28], [0.28, 0.96]])
    frame = Aligned(turn, turn @ np.array([140.0, 155.0]), 100 * size)
    crop = frame.crop(image, 2.0, 32)
    places = (np.arange(32) + 0.5) / 8 - 2
    expected = frame.outside(np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)).reshape(32, 32, 2)
    np.testing.assert_allclose(crop[..., :2], expected, atol=0.15)


def test_landmarks_are_moved_a_little_and_mirrored_faces_alike(photo: np.ndarray, face: Face) -> None:
    refiner = refine.load_refiner()
    look = refiner(photo, face)
    once = look.points
    moved = np.linalg.norm(once - face.corrected, axis=1) / face.eye_distance
    assert once.shape == (478, 2) and 0.002 < moved.mean() < 0.06
    width = photo.shape[1]
    flipped = np.ascontiguousarray(photo[:, ::-1])
    mirrored = refiner(flipped, measure_face(flipped, refiner.mirror_image(face, width).region))
    back = refiner.mirror_points(mirrored.points, width)
    assert np.linalg.norm(back - once, axis=1).max() < 0.01 * face.eye_distance
    assert look.rotation is not None and mirrored.rotation is not None
    apart = look.rotation @ (refine.MIRROR @ mirrored.rotation @ refine.MIRROR).T
    assert np.degrees(Rotation.from_matrix(apart).magnitude()) < 0.5
    assert 0.005 < look.spread < 0.2
    assert look.movement is not None and mirrored.movement is not None
    turned = mirrored.movement @ refiner.movements.mirrored(refiner.calibration.mirror)
    assert np.linalg.norm(turned - look.movement) < 0.1 * np.linalg.norm(look.movement)
    assert 0.4 <= look.doubt < 3


@pytest.mark.parametrize("corner", [(0, 0), (260, 0), (130, 300)])
def test_what_is_told_of_a_face_is_the_same_in_a_wider_picture(
    photo: np.ndarray, face: Face, corner: tuple[int, int]
) -> None:
    """Along the ray through the face, that is: in the camera it is turned otherwise at the picture's border."""
    x, y = corner
    wide = np.full((photo.shape[0] + 300, photo.shape[1] + 260, 3), 128, np.uint8)
    wide[y : y + photo.shape[0], x : x + photo.shape[1]] = photo
    moved = Face(face.points + [x, y], face.z, face.box + [x, y, x, y], face.score)
    here, there = (refine.load_refiner()(image, one) for image, one in ((photo, face), (wide, moved)))
    assert here.rotation is not None and there.rotation is not None
    assert np.degrees(Rotation.from_matrix(here.rotation @ there.rotation.T).magnitude()) < 0.7


def test_images_and_videos_go_without_it_on_demand(
    photo: np.ndarray, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = load_builtin()
    used = track_image(photo, head, config=TrackConfig(fit_hair=False))
    seen = watch(iter([photo]), refine=True).points[0]
    assert np.linalg.norm(seen - face.corrected, axis=1).mean() > 0.002 * face.eye_distance

    def never() -> None:
        raise AssertionError("not wanted")

    monkeypatch.setattr(refine, "load_refiner", never)
    plain = track_image(photo, head, config=TrackConfig(fit_hair=False, refine=False))
    assert not np.allclose(plain.params.rotation.numpy(), used.params.rotation.numpy(), atol=1e-3)
    np.testing.assert_allclose(watch(iter([photo])).points[0], face.corrected, atol=0.2)


def test_landmarks_with_and_without_it_are_not_mixed_on_disk(photo: np.ndarray, tmp_path: Path) -> None:
    first = watch(iter([photo]), tmp_path, "film", refine=True).points
    plain = watch(iter([photo]), tmp_path, "film").points
    assert np.abs(first - plain).max() > 0.1


def test_what_is_told_of_a_film_is_kept_and_heeded(photo: np.ndarray, face: Face, tmp_path: Path) -> None:
    head, config = load_builtin(), TrackConfig(steadiness=0.0)
    whole = watch(iter([photo] * 3), tmp_path, "film", refine=True)
    again = watch(iter([photo] * 3), tmp_path, "film", refine=True)
    np.testing.assert_array_equal(again.told, whole.told)
    look, kept = refine.load_refiner()(photo, face), refine.Look.of(whole.points[0], whole.told[0])
    assert look.rotation is not None and kept.rotation is not None and look.movement is not None
    # The follower's box lies a little otherwise than the detector's.
    assert np.degrees(Rotation.from_matrix(look.rotation @ kept.rotation.T).magnitude()) < 2
    assert kept.movement is not None and np.linalg.norm(kept.movement - look.movement) < 0.03
    assert kept.doubt > 0.4 and 0.005 < kept.spread < 0.2
    assert watch(iter([photo])).told.shape == (1, 0)
    calm = whole.told.copy()
    calm[:, 6:-1] = 0.0
    smiling, still = (fit_footage(one, head, config, 25.0).params.expr for one in (whole, replace(whole, told=calm)))
    assert float(still.norm()) < 0.7 * float(smiling.norm())


@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_weights_that_are_not_there_are_told_with_a_way_out(bundle: Path, damage: str) -> None:
    if damage == "gone":
        bundle.unlink()
    else:
        bundle.write_bytes(bundle.read_bytes()[:1000] if damage == "cut" else b"x" * bundle.stat().st_size)
    with pytest.raises(AssetError, match=r"install geodiff again; or track without .*\(refine=false\)"):
        refine.load_refiner()


@pytest.mark.parametrize("content", [b"", b"no safetensors", None])
def test_files_that_hold_no_such_network_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "own.safetensors"
    if content is None:
        from safetensors.torch import save_file

        save_file({"centre": torch.zeros(3)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(AssetError, match=r"own.safetensors must hold the network"):
        refine.read_refiner(path)


def test_synthetic_people_are_tracked_better() -> None:
    """People of the bundled head, which the network never saw; scripts/tracking_accuracy.py measures many more."""
    head = load_builtin()
    offset = TemplateOffset.between(head, head)
    errors = []
    for seed, yaws in ((3, (0, -60)), (5, (40, 75)), (9, (-20, 60))):
        sitter = Sitter(head, seed, PortraitConfig(size=320, texture=256))
        for yaw in yaws:
            picture = sitter.photograph(yaw)
            true = PosedHead(head, picture.params, picture.camera)
            found = [track_image(picture.image, head, config=TrackConfig(fit_hair=False, refine=r)) for r in (0, 1)]
            errors.append([measure(true, PosedHead(head, f.params, f.camera), offset)["pose"] for f in found])
    before, after = np.mean(errors, 0)
    assert after < 0.95 * before, errors


def test_the_trained_network_is_the_one_that_is_stored() -> None:
    script = load_script("train_refiner")
    trainee = script.Trainee(5, 4)
    for parameter in trainee.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.2)
    crops, inputs = torch.randn(6, 1, refine.PIXELS, refine.PIXELS), torch.randn(6, 5)
    trainee(crops, inputs)  # running means
    net = refine.RefinerNet(5, 4)
    net.load_state_dict(trainee.eval().folded())
    for stored, trained in zip(net(crops, inputs), trainee(crops, inputs), strict=True):
        torch.testing.assert_close(stored, trained, rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6))
def test_the_trainer_sees_along_the_rays_that_the_fit_has(x: float, y: float) -> None:
    ray = load_script("refiner_lessons").ray_turn(np.array([x, y]))
    head = Rotation.from_rotvec([[0.2, -0.4, 0.1]]).as_matrix()
    middles = np.array([[x, y]]) * 500 + 250
    seen = Turned(refine.UPRIGHT @ (ray.T @ head[0])[None], middles, np.full(2, 250.0), np.ones(1))
    states = SimpleNamespace(rotation=refine.UPRIGHT @ head)
    apart, _ = seen.apart(SimpleNamespace(frames=states, log_focal=np.log(500.0)))  # type: ignore[arg-type]
    np.testing.assert_allclose(apart, 0, atol=1e-6)


def test_other_heads_are_turned_and_moved_from_their_own_rest() -> None:
    builtin = load_builtin()
    rest = Rotation.from_rotvec([0.3, 0.1, -0.2]).as_matrix()
    turn = torch.from_numpy(rest.T).float()
    tilted = replace(builtin, template=builtin.template @ turn, expr_basis=builtin.expr_basis @ turn)
    rotation = Rotation.from_rotvec([0.1, 0.5, 0.0]).as_matrix()
    seen = refine.load_refiner().movements
    look = refine.Look(np.zeros((478, 2)), rotation, np.zeros(2), 0.03, np.ones(len(seen.errors)), 1.5)
    found = [witnesses([look], head, LandmarkFitter(head, (8, 8), FitConfig())) for head in (builtin, tilted)]
    (own, moved), (other, moved_too) = found
    assert isinstance(own, Turned) and isinstance(other, Turned)
    assert isinstance(moved, Moved) and isinstance(moved_too, Moved)
    np.testing.assert_allclose(own.rotations[0], refine.UPRIGHT @ rotation, atol=1e-9)
    # A point of the tilted head goes where the same point of the builtin one goes.
    np.testing.assert_allclose(other.rotations[0] @ rest, own.rotations[0], atol=1e-4)
    # The jaw turns about the world's axes in both.
    expressions = [one.reading[:, :-1] for one in (moved, moved_too)]
    np.testing.assert_allclose(*expressions, atol=1e-3 * np.abs(expressions[0]).max())
    np.testing.assert_allclose(1 / moved.roots[0].diagonal(), FitConfig().moved * 1.5 * seen.errors)


def test_what_else_is_known_may_be_left_out() -> None:
    head = load_builtin()
    seen = refine.load_refiner().movements
    look = refine.Look(np.zeros((478, 2)), np.eye(3), np.zeros(2), 0.03, np.zeros(len(seen.errors)), 1.0)
    for config, kinds in (
        (FitConfig(), [Turned, Moved]),
        (FitConfig(turned=0), [Moved]),
        (FitConfig(moved=0), [Turned]),
        (FitConfig(turned=0, moved=0), []),
    ):
        assert [type(one) for one in witnesses([look], head, LandmarkFitter(head, (8, 8), config))] == kinds
    assert witnesses([refine.Look(look.points)], head, LandmarkFitter(head, (8, 8), FitConfig())) == []


def test_movements_are_read_from_any_expression_and_any_landmarks() -> None:
    head, movements = load_builtin(), refine.load_refiner().movements
    face, rng = FaceModel(head), np.random.default_rng(0)
    expression = rng.uniform(0, 1, face.num_expr) * (rng.random(face.num_expr) < 0.2)
    moved = np.zeros((moving.SKIN, 3))
    skin = face.indices < moving.SKIN
    moved[face.indices[skin]] = (face.expr @ expression)[skin]
    told = movements.reading(face, np.eye(3)) @ [*expression, 0.0]
    size = np.linalg.norm(movements.of(moved))
    assert np.linalg.norm(told - movements.of(moved)) < 0.05 * size
    # A head that has every second landmark only.
    assert head.landmarks is not None
    half = LandmarkEmbedding(*(values[::2] for values in vars(head.landmarks).values()))
    fewer = movements.reading(FaceModel(replace(head, landmarks=half)), np.eye(3)) @ [*expression, 0.0]
    assert np.linalg.norm(fewer - told) < 0.15 * size


def test_expressions_of_synthetic_people_are_tracked_better() -> None:
    """People of the bundled head, which the network never saw; scripts/tracking_accuracy.py measures many more."""
    head, errors = load_builtin(), []
    face = FaceModel(head)
    for seed, yaws in ((3, (0, -40)), (5, (20, 50)), (9, (-20, 60))):
        sitter = Sitter(head, seed, PortraitConfig(size=320, texture=256))
        for yaw in yaws:
            picture = sitter.photograph(yaw)
            configs = [TrackConfig(fit=FitConfig(moved=moved), fit_hair=False) for moved in (0.0, FitConfig().moved)]
            found = [track_image(picture.image, head, config=config).params.expr for config in configs]
            apart = [face.expr @ (expr - picture.params.expr)[0].double().numpy() for expr in found]
            errors.append([np.linalg.norm(one, axis=1).mean() for one in apart])
    before, after = np.mean(errors, 0)
    assert after < 0.95 * before, errors


def test_movements_are_learned_and_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Movements that follow from what is known; the stored network finds in it what the trained one found."""
    script, calibration = load_script("refiner_movements"), load_calibration()
    assert calibration is not None
    monkeypatch.setattr(script, "STEPS", 400)
    generator = torch.Generator().manual_seed(0)
    mirror = torch.from_numpy(calibration.mirror)
    causes, back = torch.randn(300, 3, generator=generator), torch.tensor([-1.0, 1.0, 1.0])
    shown = 0.01 * torch.randn(3, moving.SKIN, 3, generator=generator)
    shown = shown + (shown * back)[:, mirror[: moving.SKIN]]  # alike on both sides, so that mirror images tell the same
    goals = torch.einsum("ni,ilc->nlc", causes, shown)
    known = 5 + torch.cat([causes, torch.randn(300, 4, generator=generator)], 1)
    points = torch.randn(300, 478, 2, generator=generator)
    looks = script.Looks(known, known, points, points)
    tensors = script.train_movements(looks, goals, 250, mirror, torch.zeros(50))
    tables = {name: tensors.pop(name).double().numpy() for name in ("modes", "errors", "centre", "basis")}
    movements = moving.Movements(**tables)
    net = moving.MovementNet(7 + len(movements.basis), len(movements.modes))
    net.load_state_dict(tensors)
    places = torch.from_numpy(np.stack([movements.layout(one.double().numpy()) for one in points[250:]])).float()
    found = net.eval()(torch.cat([known[250:], places], 1))[0].detach().numpy()
    true = movements.of(goals[250:].double().numpy())
    assert np.linalg.norm(found - true) < 0.6 * np.linalg.norm(true - true.mean(0))


def test_rotations_alone_can_be_learned_anew() -> None:
    script, refiner = load_script("train_refiner"), refine.read_refiner(find_weights(refine.WEIGHTS) / refine.FILE)
    before = {name: value.clone() for name, value in refiner.net.state_dict().items()}
    net, tables = script.known_but_turns(refiner), script.Tables.stored(refiner)
    crops, inputs = torch.randn(2, 1, refine.PIXELS, refine.PIXELS), torch.randn(2, len(tables.basis) + 2)
    answers, turns, _ = net(crops, inputs)
    assert torch.count_nonzero(turns[:, :3]) == 0
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.1)
    (answers.sum() + turns.sum()).backward()
    optimizer.step()
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and {name.split(".")[0] for name in changed} == {"rotation"}
    assert changed == {name for name in before if name.startswith("rotation")}


@settings(deadline=None)
@given(st.tuples(*[st.floats(-1.4, 1.4)] * 3))
def test_the_trainer_turns_heads_as_the_tracker_does(vector: tuple[float, ...]) -> None:
    script = load_script("train_refiner")
    turn = script.rotations(torch.tensor([vector]))
    np.testing.assert_allclose(turn[0], Rotation.from_rotvec(vector).as_matrix(), atol=1e-5)
    angle = np.linalg.norm(vector)
    told = script.vectors(turn)[0].numpy()
    np.testing.assert_allclose(told * angle, np.array(vector) * 2 * np.sin(angle / 2), atol=2e-4)
