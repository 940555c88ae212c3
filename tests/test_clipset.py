from __future__ import annotations

import errno
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodiff import clipset, media
from geodiff.clipset import ClipSet, ClipSetSpec, ClipSetWriter
from geodiff.clipset.layout import camera_from_json, camera_to_json, read_params, write_params
from geodiff.errors import ClipSetError, HeadModelError, StorageError
from geodiff.geometry import orbit_camera, project
from geodiff.types import Camera, Clip, HeadParams

SIZE, FRAMES, VIEWS = 16, 3, 2


def make_camera(c: int) -> Camera:
    return orbit_camera(0.4 * c, 0.1 * c, 1.0, torch.tensor([0.0, 0.02, 0.01]), 40.0 + c, SIZE, SIZE)


def make_params(head, frames: int = FRAMES) -> HeadParams:
    generator = torch.Generator().manual_seed(1)
    zero = HeadParams.zeros(head.num_shape, head.num_expr, frames)
    values = {
        n: torch.randn(getattr(zero, n).shape, generator=generator) for n in ("shape", "expr", "jaw_pose", "eyes_pose")
    }
    return zero.replace(**values, static_offset=torch.randn(head.num_vertices, 3, generator=generator) * 1e-3)


def make_clip(head, c: int, spec: ClipSetSpec) -> Clip:
    rng = np.random.default_rng(c)
    return Clip(
        images=rng.integers(0, 255, (FRAMES, SIZE, SIZE, 3), np.uint8),
        masks=rng.integers(0, 255, (FRAMES, SIZE, SIZE), np.uint8),
        normals=rng.integers(0, 255, (FRAMES, SIZE, SIZE, 3), np.uint8) if "normal" in spec.domains else None,
        camera=make_camera(c),
        params=make_params(head),
        camera_index=c,
        timesteps=spec.timesteps(c),
    )


def make_spec(**changes) -> ClipSetSpec:
    return replace(ClipSetSpec(VIEWS, FRAMES, "abc", "test", expression_encoder="e1"), **changes)


def write(folder: Path, head, **changes) -> ClipSetSpec:
    spec = make_spec(**changes)
    writer = ClipSetWriter(folder, spec, head)
    for c in writer.missing_views():
        writer.write_view(make_clip(head, c, spec))
    writer.write_expression(torch.randn(spec.num_timesteps, 4, 8))
    writer.finish()
    return spec


@pytest.fixture
def written(tmp_path: Path, tiny_head) -> Path:
    write(tmp_path / "clips", tiny_head)
    return tmp_path / "clips"


@pytest.mark.parametrize("indexing", ["multiview", "monocular"])
def test_round_trip(tmp_path: Path, tiny_head, indexing: str) -> None:
    spec = write(tmp_path, tiny_head, indexing=indexing)
    clips = ClipSet.open(tmp_path)
    assert (clips.num_cameras, clips.num_timesteps, clips.indexing) == (VIEWS, spec.num_timesteps, indexing)
    assert clips.has_normals and clips.expression_encoder == "e1" and clips.notes == []
    assert clips.expression is not None and clips.expression.shape == (spec.num_timesteps, 4, 8)
    for c in range(VIEWS):
        given_clip, read = make_clip(tiny_head, c, spec), clips.clip(c)
        for name in ("images", "masks", "normals", "timesteps"):
            assert np.array_equal(getattr(read, name), getattr(given_clip, name)), name
        for name in ("shape", "expr", "rotation", "translation", "jaw_pose", "eyes_pose", "neck_pose", "static_offset"):
            assert torch.equal(getattr(read.params, name), getattr(given_clip.params, name)), name
        assert torch.allclose(read.camera.viewmat, given_clip.camera.viewmat, atol=1e-6)
        assert torch.equal(read.camera.K, given_clip.camera.K)
    clips.check_head(tiny_head)
    listed = [index for name in ("train", "val", "test") for index in clips.splits[name]]
    assert sorted(listed) == clips.frames


def test_files_are_where_vhap_puts_them(written: Path, tiny_head) -> None:
    names = {str(p.relative_to(written)) for p in written.rglob("*") if p.is_file()}
    assert {
        "transforms.json", "transforms_train.json", "transforms_val.json", "transforms_test.json", "clipset.json",
        "canonical_flame_param.npz", "images/00000_00.png", "images/00002_01.png", "fg_masks/00000_00.png",
        "normals/00000_00.png", "flame_param/00000.npz", "videos/view_00.mp4", "expression.safetensors",
    } <= names  # fmt: skip
    content = json.loads((written / "transforms.json").read_text())
    top = "frames cx cy fl_x fl_y h w camera_angle_x camera_angle_y timestep_indices camera_indices"
    assert set(content) == set(top.split())
    frame = "timestep_index timestep_index_original timestep_id camera_index camera_id transform_matrix file_path"
    assert {*frame.split(), "fg_mask_path", "flame_param_path", "cx", "fl_x", "w"} <= set(content["frames"][0])
    with np.load(written / "flame_param" / "00001.npz") as arrays:
        shapes = {name: arrays[name].shape for name in arrays.files}
        assert all(arrays[name].dtype == np.float32 for name in arrays.files)
    assert shapes == {
        "shape": (4,), "expr": (1, 3), "rotation": (1, 3), "translation": (1, 3), "neck_pose": (1, 3),
        "jaw_pose": (1, 3), "eyes_pose": (1, 6), "static_offset": (1, tiny_head.num_vertices, 3), "head_hash": (8,),
    }  # fmt: skip
    with np.load(written / "canonical_flame_param.npz") as arrays:
        assert np.allclose(arrays["jaw_pose"], [[0.3, 0, 0]]) and not arrays["expr"].any() and arrays["shape"].any()


@settings(max_examples=30, deadline=None)
@given(
    yaw=st.floats(-3, 3), elevation=st.floats(-1.2, 1.2), distance=st.floats(0.3, 3), focal=st.floats(50, 2000),
    shift=st.floats(-20, 20), x=st.floats(-0.1, 0.1), y=st.floats(-0.1, 0.1), z=st.floats(-0.1, 0.1),
)  # fmt: skip
def test_stored_matrix_projects_as_the_camera(yaw, elevation, distance, focal, shift, x, y, z) -> None:
    camera = orbit_camera(yaw, elevation, distance, torch.zeros(3), focal, 64, 48)
    K = camera.K.clone()
    K[0, 2] += shift
    camera = replace(camera, K=K)
    stored = camera_to_json(camera)
    # OpenGL by hand: x right, y up, looking along -z, pixel rows downwards.
    local = np.linalg.inv(np.array(stored["transform_matrix"])) @ np.array([x, y, z, 1.0])
    u = stored["cx"] + stored["fl_x"] * local[0] / -local[2]
    v = stored["cy"] - stored["fl_y"] * local[1] / -local[2]
    point = torch.tensor([x, y, z])
    expected, depth = project(point, camera)
    assert -local[2] == pytest.approx(float(depth), abs=1e-4)
    assert np.allclose([u, v], expected.numpy(), atol=1e-2 * max(1.0, focal / 200))
    back, _ = project(point, camera_from_json(stored, "here"))
    assert torch.allclose(back, expected, atol=1e-2 * max(1.0, focal / 200))
    assert math.tan(stored["camera_angle_x"] / 2) * 2 * stored["fl_x"] == pytest.approx(64)


def test_a_killed_run_goes_on(tmp_path: Path, tiny_head, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(num_cameras=3)
    writer = ClipSetWriter(tmp_path, spec, tiny_head)
    writer.write_view(make_clip(tiny_head, 0, spec))
    writer.write_view(make_clip(tiny_head, 2, spec))

    def killed(*_args, **_kwargs) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("geodiff.clipset.writer.write_video", killed)
    with pytest.raises(KeyboardInterrupt):
        writer.write_view(make_clip(tiny_head, 1, spec))
    monkeypatch.undo()
    with pytest.raises(ClipSetError, match="holds 2 of 3 views: run its `geodiff generate` again"):
        ClipSet.open(tmp_path)
    (tmp_path / "images" / "00001_02.png").unlink()
    before = (tmp_path / "images" / "00000_00.png").stat().st_mtime_ns
    again = ClipSetWriter(tmp_path, spec, tiny_head)
    assert again.missing_views() == [1, 2], "view 2 lost a file and is made again"
    with pytest.raises(ClipSetError, match="view 1 of"):
        again.finish()
    for c in again.missing_views():
        again.write_view(make_clip(tiny_head, c, spec))
    again.finish()
    assert (tmp_path / "images" / "00000_00.png").stat().st_mtime_ns == before
    assert ClipSet.open(tmp_path).num_cameras == 3
    assert ClipSetWriter(tmp_path, spec, tiny_head).complete


def test_a_folder_of_another_run_is_left_alone(written: Path, tiny_head) -> None:
    before = {p: p.read_bytes() for p in written.rglob("*") if p.is_file()}
    with pytest.raises(ClipSetError, match="another portrait or other settings: choose another --out"):
        ClipSetWriter(written, make_spec(fingerprint="other"), tiny_head)
    (written / "clipset.json").rename(written / "hidden.json")
    with pytest.raises(ClipSetError, match="holds another clip set"):
        ClipSetWriter(written, make_spec(), tiny_head)
    (written / "hidden.json").rename(written / "clipset.json")
    assert before == {p: p.read_bytes() for p in written.rglob("*") if p.is_file()}


def test_a_full_disk_loses_nothing_finished(tmp_path: Path, tiny_head, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec()
    writer = ClipSetWriter(tmp_path, spec, tiny_head)
    writer.write_view(make_clip(tiny_head, 0, spec))

    def full(*_args, **_kwargs) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    with pytest.raises(StorageError, match="the disk is full"):
        writer.write_view(make_clip(tiny_head, 1, spec))
    monkeypatch.undo()
    assert ClipSetWriter(tmp_path, spec, tiny_head).finished_views == [0]


def strip_to_vhap(folder: Path) -> None:
    """What VHAP itself would have written."""
    for name in ("clipset.json", "expression.safetensors"):
        (folder / name).unlink()
    shutil.rmtree(folder / "normals")
    for path in folder.glob("transforms*.json"):
        content = json.loads(path.read_text())
        for frame in content["frames"]:
            del frame["normal_path"]
        path.write_text(json.dumps(content))
    for path in folder.rglob("*.npz"):
        with np.load(path) as arrays:
            kept = {name: arrays[name] for name in arrays.files if name != "head_hash"}
        np.savez(path, **kept)


def test_a_vhap_export_is_accepted_with_notes(written: Path) -> None:
    strip_to_vhap(written)
    clips = ClipSet.open(written)
    assert clips.head_name == "flame" and not clips.has_normals and clips.expression is None
    text = " ".join(clips.notes)
    for words in ("exported by another tool", "no normal maps: losses that need them are off", "no expression latents"):
        assert words in text
    frame = clips.frame(1, 1)
    assert frame.normal is None
    assert (frame.image[frame.mask == 0] == 255).all(), "other tools' backgrounds become white"
    assert clips.clip(0).normals is None
    assert clips.has_masks and clips.clip(0).cameras is None


def change_frames(folder: Path, change) -> None:
    """Applies `change` to every frame's entry of a clip set."""
    for path in folder.glob("transforms*.json"):
        content = json.loads(path.read_text())
        for frame in content["frames"]:
            change(frame)
        path.write_text(json.dumps(content))


def test_missing_masks_are_said(written: Path) -> None:
    strip_to_vhap(written)
    change_frames(written, lambda frame: frame.pop("fg_mask_path"))
    clips = ClipSet.open(written)
    assert not clips.has_masks and any("losses that need masks are off" in note for note in clips.notes)
    assert (clips.frame(0, 0).mask == 255).all()


def test_a_view_whose_camera_moves_keeps_all_of_them(written: Path) -> None:
    strip_to_vhap(written)

    def move(frame: dict) -> None:
        if frame["camera_index"] == 1:
            frame["transform_matrix"][0][3] += 0.1 * frame["timestep_index"]

    change_frames(written, move)
    still, moving = ClipSet.open(written).clips()
    assert still.cameras is None and still.frame_cameras() == [still.camera] * FRAMES
    assert moving.cameras is not None and len(moving.cameras) == FRAMES
    shift = [float(camera.center[0] - moving.camera.center[0]) for camera in moving.frame_cameras()]
    assert shift == pytest.approx([0.0, 0.1, 0.2], abs=1e-5)


def test_frames_of_several_sizes_are_told(written: Path) -> None:
    change_frames(written, lambda frame: frame.update(w=SIZE * (1 + frame["camera_index"])))
    with pytest.raises(ClipSetError, match="must have one size, and it has 16x16 and 32x16"):
        ClipSet.open(written).clips()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("expr", np.array([["a", "b"]]), "must hold expr as numbers"),
        ("expr", np.zeros((1, 0), np.float32), "must hold expr as numbers"),
        ("jaw_pose", np.array([[0.0, np.nan, 0.0]]), "jaw_pose is not"),
        ("static_offset", np.ones((1, 4), np.float32), "three values a vertex"),
        ("static_offset", np.full((1, 12, 3), np.inf), "static_offset is not"),
    ],
)
def test_odd_parameters_are_told(written: Path, name: str, value: np.ndarray, words: str) -> None:
    path = written / "flame_param" / "00000.npz"
    with np.load(path) as arrays:
        changed = {**arrays, name: value}
    np.savez(path, **changed)
    with pytest.raises(ClipSetError, match=words):
        ClipSet.open(written)


def test_offsets_of_another_mesh_are_refused(written: Path, tiny_head) -> None:
    clips = ClipSet.open(written)
    clips.params = clips.params.replace(static_offset=torch.ones(7, 3))
    with pytest.raises(HeadModelError, match="offsets of 7 vertices"):
        clips.check_head(tiny_head)


def test_a_vhap_export_with_gaps_and_without_masks(written: Path) -> None:
    strip_to_vhap(written)
    for path in written.glob("transforms_*.json"):
        path.unlink()
    content = json.loads((written / "transforms.json").read_text())
    content["frames"] = [f for f in content["frames"] if f["timestep_index"] != 1]
    for frame in content["frames"]:
        frame["camera_index"] += 7
        del frame["fg_mask_path"], frame["w"], frame["h"]
    (written / "transforms.json").write_text(json.dumps(content))
    clips = ClipSet.open(written)
    assert clips.frames == [(0, 0), (0, 1), (1, 0), (1, 1)] == clips.splits["train"]
    assert (clips.frame(1, 1).mask == 255).all()
    assert clips.params.num_frames == 2


def edit(folder: Path, **changes) -> None:
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"][1].update(changes)
    (folder / "transforms.json").write_text(json.dumps(content))


DAMAGE = {
    "no folder": (lambda f: shutil.rmtree(f), "does not exist"),
    "empty folder": (lambda f: [shutil.rmtree(f), f.mkdir()], "holds transforms.json, and"),
    "no transforms": (lambda f: (f / "transforms.json").unlink(), "missing or damaged"),
    "half a file": (lambda f: (f / "transforms.json").write_text('{"frames": ['), "missing or damaged"),
    "no frames": (lambda f: (f / "transforms.json").write_text('{"frames": []}'), "at least one frame"),
    "no image": (lambda f: (f / "images" / "00001_01.png").unlink(), "00001_01.png is missing"),
    "empty mask": (lambda f: (f / "fg_masks" / "00001_01.png").write_bytes(b""), "00001_01.png is empty"),
    "no parameters": (lambda f: (f / "flame_param" / "00002.npz").unlink(), "00002.npz is missing"),
    "broken parameters": (lambda f: (f / "flame_param" / "00002.npz").write_bytes(b"PK"), "is damaged"),
    "other widths": (
        lambda f: write_params(f / "flame_param" / "00002.npz", HeadParams.zeros(9, 3), 2),
        "differ in width",
    ),
    "escape": (lambda f: edit(f, file_path="../secret.png"), "leads out of it"),
    "absolute": (lambda f: edit(f, file_path="/etc/passwd"), "leads out of it"),
    "no path": (lambda f: edit(f, file_path=None), "must name a file"),
    "no matrix": (lambda f: edit(f, transform_matrix=[[1]]), "finite 4x4"),
    "skewed": (lambda f: edit(f, transform_matrix=(np.eye(4) * 2).tolist()), "rigid camera"),
    "twice": (lambda f: edit(f, timestep_index=0), "only one of its timestep and camera"),
    "no index": (lambda f: edit(f, camera_index="x"), "timestep_index and camera_index"),
    "future": (lambda f: (f / "clipset.json").write_text('{"schema": 99}'), "update geodiff"),
    "no schema": (lambda f: (f / "clipset.json").write_text("[]"), "schema version"),
    "unfinished": (lambda f: (f / "clipset.json").write_text('{"schema": 1, "num_cameras": 2}'), "0 of 2 views"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told_in_one_sentence(written: Path, name: str) -> None:
    damage, words = DAMAGE[name]
    damage(written)
    with pytest.raises(ClipSetError, match=words) as caught:
        ClipSet.open(written)
    assert "\n" not in str(caught.value)


def test_damaged_pixels_are_told_when_read(written: Path) -> None:
    path = written / "images" / "00001_01.png"
    path.write_bytes(path.read_bytes()[:60])
    media.write_image(written / "fg_masks" / "00000_00.png", np.zeros((3, 4), np.uint8))
    (written / "expression.safetensors").write_bytes(b"123")
    clips = ClipSet.open(written)
    for read, words in (
        (lambda: clips.frame(1, 1), "is damaged"),
        (lambda: clips.frame(0, 0), "must be 16x16 pixels as its camera says, not 4x3"),
        (lambda: clips.expression, "is damaged"),
    ):
        with pytest.raises(ClipSetError, match=words):
            read()


def test_another_head_is_refused(written: Path, tiny_head) -> None:
    clips = ClipSet.open(written)
    with pytest.raises(HeadModelError, match="give the one that it was made with"):
        clips.check_head(replace(tiny_head, template=tiny_head.template + 1))
    strip_to_vhap(written)
    with pytest.raises(HeadModelError, match="name the right one with --head"):
        ClipSet.open(written).check_head(replace(tiny_head, shape_basis=tiny_head.shape_basis[:2]))


def test_reference_round_trip(written: Path, tiny_head) -> None:
    rng = np.random.default_rng(0)
    reference = SimpleNamespace(
        image=rng.random((SIZE, SIZE, 3)),
        mask=rng.random((SIZE, SIZE)),
        normals=rng.random((SIZE, SIZE, 3)) * 2 - 1,
        camera=make_camera(1),
        params=make_params(tiny_head, 1),
    )
    ClipSetWriter(written, make_spec(), tiny_head).write_reference(reference)
    read = ClipSet.open(written).reference()
    assert read is not None
    assert np.abs(read.image / 255 - reference.image).max() < 0.003
    assert np.abs(read.normals / 127.5 - 1 - reference.normals).max() < 0.006
    assert torch.equal(read.params.expr, reference.params.expr)
    assert torch.allclose(read.camera.viewmat, reference.camera.viewmat, atol=1e-6)


def test_clips_that_do_not_fit_are_a_fault(tmp_path: Path, tiny_head) -> None:
    spec = make_spec()
    writer = ClipSetWriter(tmp_path, spec, tiny_head)
    clip = make_clip(tiny_head, 0, spec)
    for wrong in (
        replace(clip, camera_index=5),
        replace(clip, images=clip.images[:2]),
        replace(clip, normals=None),
        replace(clip, timesteps=clip.timesteps + 1),
    ):
        with pytest.raises(ValueError):
            writer.write_view(wrong)


@settings(max_examples=25, deadline=None)
@given(times=st.integers(1, 96), cameras=st.integers(1, 12))
def test_splits_share_out_every_frame_once(times: int, cameras: int) -> None:
    frames = [(t, c) for t in range(times) for c in range(cameras)]
    splits = clipset.default_splits(frames)
    assert sorted(splits["train"] + splits["val"] + splits["test"]) == frames
    assert len(splits["train"]) >= 0.8 * len(frames)
    if times >= 4:
        assert {c for _, c in splits["train"]} == set(range(cameras))


def test_zero_offsets_read_as_none(tmp_path: Path) -> None:
    write_params(tmp_path / "a.npz", HeadParams.zeros(3, 2), 5)
    assert read_params(tmp_path / "a.npz").static_offset is None
