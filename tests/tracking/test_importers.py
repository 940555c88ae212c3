"""Other trackers' results: axes are proved by rendering, and round trips are exact."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from other_trackers import (
    FLIP,
    POSES,
    cap4d_fit,
    cap4d_vertices,
    flame_like,
    picture,
    pixel3dmm_frame,
    rotation,
    some_cameras,
    some_params,
    write_lists,
    write_pixel3dmm,
    write_vhap_export,
)
from PIL import Image

from geodiff.clipset import ClipSet
from geodiff.errors import ClipSetError, HeadModelError, InputError
from geodiff.geometry import project
from geodiff.head.model import HeadModel
from geodiff.imported import read_tracking, write_vhap
from geodiff.tracking.importers import Tracking, read_cap4d, read_orbit, write_cap4d, write_orbit
from geodiff.types import Camera, HeadParams

FIELDS = ("shape", *POSES)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return flame_like()


def assert_same_picture(tracking: Tracking, head: HeadModel, t: int, c: int, truth: np.ndarray) -> None:
    seen = picture(head.vertices(tracking.params.frame(t))[0], head, tracking.camera(t, c))
    assert truth.any() and not np.allclose(truth, truth[:, ::-1], atol=0.05), "the picture must tell left from right"
    off = np.abs(seen - truth).max(-1)
    # A pixel centre on an outline may fall to the other side by the last bit.
    assert (off > 2e-3).sum() <= 2, f"{(off > 2e-3).sum()} pixels differ, by up to {off.max():.3f}"


def same(a: HeadParams, b: HeadParams) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


# --- axes, proved by rendering


def test_vhap_is_seen_as_it_was_written(tmp_path: Path, head: HeadModel) -> None:
    params, cameras = some_params(head), some_cameras(3)
    write_vhap_export(tmp_path / "export", params, cameras)
    tracking = read_tracking(tmp_path / "export", head)
    assert tracking.source == "VHAP" and (tracking.num_frames, tracking.num_cameras) == (3, 3)
    for t in range(3):
        for c, camera in enumerate(cameras):
            assert_same_picture(tracking, head, t, c, picture(head.vertices(params.frame(t))[0], head, camera))


def test_cap4d_is_seen_as_it_skins_and_projects(tmp_path: Path, head: HeadModel) -> None:
    fit = cap4d_fit()
    np.savez(tmp_path / "fit.npz", **fit)
    tracking = read_tracking(tmp_path / "fit.npz", head)
    assert tracking.camera_ids == ["cam0", "cam1"] and tracking.fps == 30
    for t in range(3):
        flipped = torch.from_numpy((cap4d_vertices(head, fit, t) @ FLIP[:3, :3]).astype(np.float32))
        for c in range(2):
            K = torch.tensor([[fit["fx"][c, 0], 0, fit["cx"][c, 0]], [0, fit["fy"][c, 0], fit["cy"][c, 0]], [0, 0, 1]])
            height, width = fit["resolutions"][c]
            camera = Camera(torch.from_numpy(fit["extr"][c]), K, int(width), int(height))
            assert_same_picture(tracking, head, t, c, picture(flipped, head, camera))


def test_cap4d_turns_heads_about_the_origin(tmp_path: Path, head: HeadModel) -> None:
    fit = cap4d_fit()
    np.savez(tmp_path / "fit.npz", **fit)
    tracking = read_tracking(tmp_path / "fit.npz", head)
    for t in range(3):
        off = head.vertices(tracking.params.frame(t))[0] - torch.from_numpy(cap4d_vertices(head, fit, t))
        assert float(off.abs().max()) < 2e-6, "metres"
    # About the root joint instead, the head would stand centimetres away.
    raw = read_tracking(tmp_path / "fit.npz")
    assert raw.convention == "cap4d" and float((raw.params.translation - tracking.params.translation).norm()) > 0.02


def test_cap4d_neck_leaves_the_head_in_place(tmp_path: Path, head: HeadModel) -> None:
    fit = {**cap4d_fit(), "neck_rot": np.array([[0.2, 0.1, -0.1]] * 3, np.float32)}
    plain = replace(head, pose_basis=None)
    fixed = replace(head, pose_basis=torch.zeros(36, head.num_vertices, 3))
    np.savez(tmp_path / "fit.npz", **fit)
    params = read_tracking(tmp_path / "fit.npz", plain).params
    off = plain.vertices(params.frame(1))[0] - torch.from_numpy(cap4d_vertices(fixed, fit, 1))
    above = head.skinning[:, 1:].sum(1) > 0.999
    assert float(off[above].abs().max()) < 5e-6
    torch.testing.assert_close(params.neck_pose, torch.tensor([[-0.2, -0.1, 0.1]] * 3))


@pytest.mark.parametrize("by_rows", [True, False])
def test_pixel3dmm_is_seen_as_it_projects(tmp_path: Path, head: HeadModel, by_rows: bool) -> None:
    still = some_params(head).replace(rotation=torch.zeros(3, 3), translation=torch.zeros(3, 3))
    turns = [rotation(np.array([0.2, -0.3 + 0.3 * t, 0.1])) for t in range(3)]
    shifts = [np.array([0.01, 0.02, 0.03 * t]) for t in range(3)]
    frames = [pixel3dmm_frame(still, t, turns[t], shifts[t], by_rows) for t in range(3)]
    folder = write_pixel3dmm(tmp_path / "man_nV1_noPho_uv2000.0_n1000.0", frames)
    tracking = read_tracking(folder, head)
    assert tracking.source == "Pixel3DMM" and len(tracking.cameras) == 1 and list(tracking.timesteps) == [0, 1, 2]
    for t in range(3):
        v = head.vertices(still.frame(t))[0].double().numpy() @ turns[t].T + shifts[t]
        # By hand: OpenGL's camera looks along -z, pixel rows run downwards.
        local = v @ frames[t]["camera"]["R_base_0"][0].T.astype(float) + frames[t]["camera"]["t_base_0"][0]
        focal, (px, py) = 3.0 * 256, (1 + frames[t]["camera"]["pp"][0]) * 128.5
        pixels = np.stack([px - focal * local[:, 0] / local[:, 2], py + focal * local[:, 1] / local[:, 2]], 1)
        found, depth = project(head.vertices(tracking.params.frame(t))[0], tracking.camera(t))
        assert np.abs(found.numpy() - pixels).max() < 2e-3 and np.abs(depth.numpy() + local[:, 2]).max() < 1e-5
        camera = tracking.camera(t)
        truth = picture(torch.from_numpy((local * [1, -1, -1]).astype(np.float32)), head,
                        replace(camera, viewmat=torch.eye(4)))  # fmt: skip
        assert_same_picture(tracking, head, t, 0, truth)


def test_pixel3dmm_scales_its_camera_to_the_picture(tmp_path: Path, head: HeadModel) -> None:
    frame = pixel3dmm_frame(some_params(head), 0, np.eye(3), np.zeros(3))
    frame["img_size"] = np.array([512, 512])
    camera = read_tracking(write_pixel3dmm(tmp_path / "large", [frame])).camera(0)
    assert (camera.width, camera.height) == (512, 512)
    torch.testing.assert_close(camera.K[[0, 0, 1], [0, 2, 2]], torch.tensor([1536.0, 262.14, 249.29]))


# --- round trips


@pytest.mark.parametrize("first", [0, 7])
def test_vhap_round_trip_is_exact(tmp_path: Path, head: HeadModel, first: int) -> None:
    offset = np.random.default_rng(3).normal(0, 1e-3, (head.num_vertices, 3)).astype(np.float32)
    params, cameras = some_params(head), some_cameras(16)
    write_vhap_export(tmp_path / "a", params, cameras, first, offset)
    once = read_tracking(tmp_path / "a")
    assert same(once.params, params) and np.array_equal(once.params.static_offset.numpy(), offset)
    assert list(once.timesteps) == [first, first + 1, first + 2] and once.camera_ids[3] == "22200003"
    write_vhap(tmp_path / "b", once)
    twice = read_tracking(tmp_path / "b")
    assert same(twice.params, params) and np.array_equal(twice.params.static_offset.numpy(), offset)
    assert list(twice.timesteps) == list(once.timesteps) and twice.camera_ids == once.camera_ids
    for t in range(3):
        for c, camera in enumerate(cameras):
            for tracking in (once, twice):
                torch.testing.assert_close(tracking.camera(t, c).viewmat, camera.viewmat, atol=1e-6, rtol=0)
                assert torch.equal(tracking.camera(t, c).K, camera.K)
            assert once.image(t, c).read_bytes() == twice.image(t, c).read_bytes()
            assert once.mask(t, c).read_bytes() == twice.mask(t, c).read_bytes()
    with pytest.raises(ClipSetError, match="must be new or empty"):
        write_vhap(tmp_path / "b", once)


def test_cap4d_round_trip_is_exact(tmp_path: Path) -> None:
    fit = {**cap4d_fit(), "neck_rot": np.full((3, 3), 0.1, np.float32), "valid_mask": np.array([[1, 1, 0]] * 2, bool)}
    np.savez(tmp_path / "fit.npz", **fit)
    once = read_cap4d(tmp_path / "fit.npz")
    assert once.valid is not None and once.valid.shape == (3, 2) and not once.valid[2].any()
    assert write_cap4d(tmp_path / "again.npz", once) == ()
    with np.load(tmp_path / "again.npz", allow_pickle=False) as again:
        assert set(again.files) == set(fit)
        for name, value in fit.items():
            assert np.array_equal(again[name], value), name


def test_flame_parameters_as_cap4d_and_back(tmp_path: Path, head: HeadModel) -> None:
    plain = replace(head, pose_basis=None)
    params = some_params(plain)
    params = params.replace(eyes_pose=params.eyes_pose[:, :3].repeat(1, 2))
    told = Tracking(params, some_cameras(2), "VHAP", ["a", "b"], np.arange(3))
    lost = write_cap4d(tmp_path / "fit.npz", told, plain)
    assert len(lost) == 1 and "jaw's rotation" in lost[0]
    back = read_tracking(tmp_path / "fit.npz", plain)
    for name in FIELDS:
        torch.testing.assert_close(getattr(back.params, name), getattr(params, name), atol=2e-6, rtol=0)
    odd = replace(told, params=params.replace(shape=torch.ones(300), eyes_pose=torch.rand(3, 6)))
    lost = " ".join(write_cap4d(tmp_path / "odd.npz", odd, plain))
    assert "shape coefficients beyond 150" in lost and "difference between the eyes" in lost
    with pytest.raises(InputError, match="name the FLAME model as --head"):
        write_cap4d(tmp_path / "none.npz", told)


def test_cap4d_through_flame_and_back(tmp_path: Path, head: HeadModel) -> None:
    fit = {**cap4d_fit(), "neck_rot": np.full((3, 3), 0.1, np.float32)}
    np.savez(tmp_path / "fit.npz", **fit)
    assert write_cap4d(tmp_path / "again.npz", read_tracking(tmp_path / "fit.npz", head), head) == ()
    with np.load(tmp_path / "again.npz", allow_pickle=False) as again:
        assert set(again.files) == set(fit)
        for name, value in fit.items():
            if value.dtype.kind == "f":
                np.testing.assert_allclose(again[name], value, atol=5e-7, err_msg=name)


def test_vhap_as_cap4d(tmp_path: Path, head: HeadModel) -> None:
    """Rendered: an export's picture is the one that CAP4D would draw of the file written from it."""
    plain = replace(head, pose_basis=torch.zeros(36, head.num_vertices, 3))
    params = some_params(plain).replace(jaw_pose=torch.zeros(3, 3), neck_pose=torch.zeros(3, 3))
    params = params.replace(eyes_pose=params.eyes_pose[:, :3].repeat(1, 2))
    write_vhap_export(tmp_path / "export", params, some_cameras(2))
    tracking = read_tracking(tmp_path / "export", plain)
    assert len(tracking.cameras) == 2 and write_cap4d(tmp_path / "fit.npz", tracking, plain) == ()
    with np.load(tmp_path / "fit.npz", allow_pickle=False) as arrays:
        fit = dict(arrays)
    flipped = torch.from_numpy((cap4d_vertices(plain, fit, 2) @ FLIP[:3, :3]).astype(np.float32))
    camera = replace(tracking.camera(2, 1), viewmat=torch.from_numpy(fit["extr"][1]))
    assert_same_picture(tracking, plain, 2, 1, picture(flipped, plain, camera))


def test_orbit_round_trip_is_exact(tmp_path: Path) -> None:
    cameras = some_cameras(4)
    write_orbit(tmp_path / "orbit.npz", cameras, 24.0)
    for read, camera in zip(read_orbit(tmp_path / "orbit.npz"), cameras, strict=True):
        assert torch.equal(read.viewmat, camera.viewmat) and torch.equal(read.K, camera.K)
        assert (read.width, read.height) == (camera.width, camera.height)


# --- VHAP's variants


def vhap_frames(folder: Path) -> list[dict]:
    return json.loads((folder / "transforms.json").read_text())["frames"]


def test_gaussian_avatars_files_with_a_field_of_view_alone(tmp_path: Path, head: HeadModel) -> None:
    camera = replace(some_cameras(1)[0], K=torch.tensor([[210.0, 0, 48], [0, 210.0, 40], [0, 0, 1]]))
    write_vhap_export(tmp_path, some_params(head), [camera])
    frames = [
        {k: v for k, v in f.items() if k not in ("cx", "cy", "fl_x", "fl_y", "w", "h")} for f in vhap_frames(tmp_path)
    ]
    write_lists(tmp_path, [{**f, "file_path": "./" + f["file_path"]} for f in frames])
    tracking = read_tracking(tmp_path)
    torch.testing.assert_close(tracking.camera(1).K, camera.K)
    assert (tracking.camera(1).width, tracking.camera(1).height) == (camera.width, camera.height)


def test_combined_datasets_point_beside_themselves(tmp_path: Path, head: HeadModel) -> None:
    """VHAP's combined datasets hold the splits alone, and their files lie in the exports beside them."""
    params, cameras = some_params(head), some_cameras(2)
    write_vhap_export(tmp_path / "074_EMO-1", params, cameras)
    frames = vhap_frames(tmp_path / "074_EMO-1")
    for frame in frames:
        del frame["timestep_index_original"], frame["timestep_id"]
        for key in ("file_path", "fg_mask_path", "flame_param_path"):
            frame[key] = "../074_EMO-1/" + frame[key]
    union = tmp_path / "UNION"
    union.mkdir()
    shutil.copy(tmp_path / "074_EMO-1/canonical_flame_param.npz", union)
    write_lists(union, frames, ("_train", "_val", "_test"))
    tracking = read_tracking(union)
    assert same(tracking.params, params) and tracking.image(2, 1).is_file()
    clips = ClipSet.open(union)
    assert clips.splits["test"] == [(2, 0), (2, 1)] and clips.splits["val"] == [(0, 1), (1, 1)]
    assert clips.splits["train"] == [(0, 0), (1, 0)]
    (tmp_path / "secret").mkdir()
    shutil.copy(tmp_path / "074_EMO-1/images/00000_00.png", tmp_path / "secret")
    for way in ("../secret/00000_00.png", "../074_EMO-1/../secret/00000_00.png", "../../x.png", "../secret.png"):
        write_lists(union, [{**frames[-1], "file_path": way}], ("_test",))
        with pytest.raises(ClipSetError, match="leads out of it"):
            read_tracking(union)


def test_vhap_frames_may_lack_masks_and_views(tmp_path: Path, head: HeadModel) -> None:
    write_vhap_export(tmp_path, some_params(head), some_cameras(2), first=5)
    frames = vhap_frames(tmp_path)
    del frames[0]["fg_mask_path"]
    write_lists(tmp_path, [f for i, f in enumerate(frames) if i != 3], ("",))
    for name in ("train", "val", "test"):
        (tmp_path / f"transforms_{name}.json").unlink()
    tracking = read_tracking(tmp_path)
    assert tracking.mask(0, 0) is None and tracking.mask(0, 1) is not None
    assert tracking.image(1, 1) is None and tracking.valid.tolist() == [[True, True], [True, False], [True, True]]
    assert any("1 frames have no foreground mask" in note for note in tracking.notes)
    write_vhap(tmp_path / "again", tracking)
    assert read_tracking(tmp_path / "again").valid.tolist() == tracking.valid.tolist()


# --- heads


def test_widths_are_completed_for_a_larger_flame(tmp_path: Path, head: HeadModel) -> None:
    np.savez(tmp_path / "fit.npz", **cap4d_fit())
    tracking = read_tracking(tmp_path / "fit.npz", head)
    assert tracking.params.shape.shape == (300,) and tracking.params.expr.shape == (3, 100)
    assert not tracking.params.shape[150:].any() and not tracking.params.expr[:, 64:].any()
    assert any("also fitted blink, which FLAME has no shape for" in note for note in tracking.notes)


def test_lids_go_to_heads_that_have_them(tmp_path: Path, head: HeadModel) -> None:
    lids = torch.zeros(2, head.num_vertices, 3)
    names = (*head.expression_names, "eyeBlinkLeft", "eyeBlinkRight")
    larger = replace(head, expr_basis=torch.cat([head.expr_basis, lids]), expression_names=names)
    frame = pixel3dmm_frame(some_params(head), 0, np.eye(3), np.zeros(3))
    folder = write_pixel3dmm(tmp_path / "run", [frame])
    tracking = read_tracking(folder, larger)
    torch.testing.assert_close(tracking.params.expr[:, 100:], torch.tensor([[0.1, 0.2]]))
    assert not tracking.notes and "l_eyelid.npy" in read_tracking(folder, head).notes[0]


def test_other_heads_are_told_to_convert(tmp_path: Path, head: HeadModel) -> None:
    np.savez(tmp_path / "fit.npz", **cap4d_fit())
    with pytest.raises(HeadModelError, match="--head flame:PATH --convert builtin"):
        read_tracking(tmp_path / "fit.npz", replace(head, name="builtin"))
    with pytest.raises(HeadModelError, match="as many shape coefficients as CAP4D fitted, 150, and 'flame' has 2"):
        read_tracking(tmp_path / "fit.npz", replace(head, shape_basis=head.shape_basis[:2]))
    write_vhap_export(tmp_path / "export", some_params(head), some_cameras(1))
    ours = replace(read_tracking(tmp_path / "export"), head_hash="another")
    with pytest.raises(HeadModelError, match="was made with the head model"):
        ours.on(head)


def test_offsets_with_and_without_teeth(tmp_path: Path) -> None:
    big = flame_like(4, 4)
    for kept, given in ((5023, 5143), (5143, 5023), (5023, 5023)):
        sized = replace(big, template=torch.zeros(kept, 3))
        params = HeadParams.zeros(4, 4).replace(static_offset=torch.ones(given, 3))
        found = Tracking(params, some_cameras(1), "VHAP", ["0"], np.arange(1)).on(sized).params.static_offset
        assert found.shape == (kept, 3) and float(found.sum()) == 3 * 5023
    with pytest.raises(HeadModelError, match="offsets must be of the head's 5023 vertices, and VHAP's are of 7"):
        odd = HeadParams.zeros(4, 4).replace(static_offset=torch.ones(7, 3))
        Tracking(odd, some_cameras(1), "VHAP", ["0"], np.arange(1)).on(replace(big, template=torch.zeros(5023, 3)))


# --- pictures


def test_vhap_layout_needs_pictures_and_flame_rotations(tmp_path: Path, head: HeadModel) -> None:
    np.savez(tmp_path / "fit.npz", **cap4d_fit())
    with pytest.raises(InputError, match="turns heads about another point"):
        write_vhap(tmp_path / "out", read_tracking(tmp_path / "fit.npz"))
    with pytest.raises(InputError, match="needs pictures, and CAP4D's result names none"):
        write_vhap(tmp_path / "out", read_tracking(tmp_path / "fit.npz", head))


def test_moving_cameras_and_other_picture_formats_in_vhap_layout(tmp_path: Path, head: HeadModel) -> None:
    """Every frame keeps its own camera; JPEG becomes PNG, since GaussianAvatars reads no other name."""
    cameras, params = some_cameras(3), some_params(head)
    rng, files = np.random.default_rng(0), [tmp_path / f"{t}.jpg" for t in range(3)]
    for file, camera in zip(files, cameras, strict=True):
        Image.fromarray(rng.integers(0, 255, (camera.height, camera.width, 3), np.uint8)).save(file)
    write_vhap(tmp_path / "out", Tracking(params, cameras, "elsewhere", ["0"], np.array([4, 9, 11]), images=files))
    again = read_tracking(tmp_path / "out")
    assert same(again.params, params) and list(again.timesteps) == [4, 9, 11] and len(again.cameras) == 3
    for t, camera in enumerate(cameras):
        torch.testing.assert_close(again.camera(t).viewmat, camera.viewmat, atol=1e-6, rtol=0)
        with Image.open(files[t]) as given, Image.open(again.image(t)) as kept:
            assert kept.format == "PNG" and np.array_equal(np.asarray(given), np.asarray(kept))


def test_cap4d_folders_bring_their_pictures(tmp_path: Path, head: HeadModel) -> None:
    np.savez(tmp_path / "fit.npz", **cap4d_fit())
    for camera in ("cam0", "cam1"):
        (tmp_path / "images" / camera).mkdir(parents=True)
        for t in range(3):
            (tmp_path / "images" / camera / f"{t:04d}.png").write_bytes(f"{camera} {t}".encode())
    tracking = read_tracking(tmp_path, head)
    assert tracking.image(2, 1).read_text() == "cam1 2" and tracking.masks is None
    write_vhap(tmp_path / "out", tracking, head.num_vertices)
    again = read_tracking(tmp_path / "out")
    assert again.image(2, 1).read_text() == "cam1 2" and torch.equal(again.params.expr, tracking.params.expr)


def write_crops(folder: Path, head: HeadModel, **changes: object) -> tuple[dict, Camera]:
    """What CAP4D's avatar fitter reads: pictures cut to a box and scaled, with the fit of the whole picture."""
    fit = cap4d_fit(1, some_cameras(1))
    for name in ("images", "flame"):
        (folder / name).mkdir(parents=True)
    for t in range(2):
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "images" / f"{t:05d}.png")
        values = {**fit, "crop_box": np.array([10, 5, 74 + t, 69 + t]), **changes}
        np.savez(folder / "flame" / f"{t:05d}.npz", **{k: v for k, v in values.items() if v is not None})
    return fit, some_cameras(1)[0]


def test_cap4d_crops_have_their_own_cameras(tmp_path: Path, head: HeadModel) -> None:
    _, whole = write_crops(tmp_path, head)
    tracking = read_tracking(tmp_path, head)
    assert tracking.num_frames == 2 and tracking.num_cameras == 1 and tracking.image(1).name == "00001.png"
    vertices = head.vertices(tracking.params.frame(1))[0]
    expected = (project(vertices, whole)[0] - torch.tensor([10.0, 5.0])) * (64 / 65)
    torch.testing.assert_close(project(vertices, tracking.camera(1))[0], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop_box": None}, "must hold crop_box"),
        ({"crop_box": np.array([5, 5, 5, 9])}, "x0, y0, x1, y1 with an area"),
        (
            {"rot": np.zeros((2, 3)), "expr": np.zeros((2, 65)), "tra": np.zeros((2, 3)), "eye_rot": None},
            "one frame of",
        ),
    ],
)
def test_bad_crops_of_cap4d(tmp_path: Path, head: HeadModel, changes: dict, words: str) -> None:
    write_crops(tmp_path, head, **changes)
    with pytest.raises(InputError, match=words):
        read_tracking(tmp_path)
    (tmp_path / "images" / "00001.png").unlink()
    with pytest.raises(InputError, match="one picture for each of 2 fits, not 1"):
        read_tracking(tmp_path)


def test_frames_saved_under_the_other_numpy(tmp_path: Path, head: HeadModel) -> None:
    frame = pixel3dmm_frame(some_params(head), 0, rotation(np.array([0.1, 0.2, 0.3])), np.zeros(3))
    folder = write_pixel3dmm(tmp_path / "run", [frame])
    file = folder / "checkpoint" / "00000.frame"
    truth, parts = read_tracking(folder), {}
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for old, new in ((b"numpy.core.", b"numpy._core."), (b"numpy._core.", b"numpy.core.")):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, content in parts.items():
                archive.writestr(name, content.replace(old, new))
        assert same(read_tracking(folder).params, truth.params)
