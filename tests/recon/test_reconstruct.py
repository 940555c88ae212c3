"""From a clip set on disk to an avatar folder and on to videos, files and figures."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sample_clips import write_clips

from geodiff.errors import ClipSetError, ConfigError, HeadModelError, InputError, MissingDependencyError
from geodiff.geometry import project
from geodiff.head.model import HeadModel
from geodiff.media import read_video
from recon.animate import AnimateConfig, animate
from recon.avatar import Avatar
from recon.cameras import PATHS, camera_path
from recon.drives import load_drive
from recon.evaluate import evaluate
from recon.export import export
from recon.methods import load_avatar
from recon.methods.geodiff4d import GeoDiff4DAvatar, GeoDiff4DConfig
from recon.ply import read_ply
from recon.reconstruct import Job, method_config, reconstruct, resolve_device
from recon.viewer import UNIT, covariances, view

JOB = Job(device="cpu", preview_frames=2, preview_size=32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, clips: Path, small_head: HeadModel, quick: GeoDiff4DConfig) -> Path:
    out = tmp_path_factory.mktemp("avatar")
    reconstruct(clips, "geodiff4d", out, replace(quick, iterations=30), job=JOB, head=small_head)
    return out


def test_folder_is_whole(made: Path, small_head: HeadModel) -> None:
    names = {p.name for p in made.iterdir()}
    splats = {"point_cloud.ply", "splats.ply", "flame_param.npz"}
    assert names == {"avatar.json", "preview.mp4", "run.json", "log.csv", *splats}
    run = json.loads((made / "run.json").read_text())
    assert run["command"] == "reconstruct" and run["status"] == "done" and {"fit", "preview"} <= run["stages"].keys()
    assert read_video(made / "preview.mp4").size == (32, 32)
    assert load_avatar(made, small_head).info.metrics["psnr"] > 12


def test_a_finished_job_is_not_done_again(
    tmp_path: Path, made: Path, clips: Path, small_head: HeadModel, quick: GeoDiff4DConfig
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(made, out)
    seen: list[tuple] = []
    config = replace(quick, iterations=30)
    reconstruct(clips, "geodiff4d", out, config, lambda *a: seen.append(a), job=JOB, head=small_head)
    assert seen == [("fit", 1.0, "already done")]


def test_a_killed_job_keeps_the_old_avatar_and_goes_on(
    tmp_path: Path, made: Path, clips: Path, small_head: HeadModel, quick: GeoDiff4DConfig
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(made, out)
    config = replace(quick, iterations=12, checkpoint_seconds=0.0)
    parts: list[float] = []

    def kill(stage: str, part: float, words: str = "") -> None:
        parts.append(part)
        if len(parts) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct(clips, "geodiff4d", out, config, kill, job=JOB, head=small_head)
    assert load_avatar(out, small_head).info.config["iterations"] == 30
    assert (out / ".work" / "checkpoint.safetensors").exists()
    reconstruct(clips, "geodiff4d", out, config, job=JOB, head=small_head)
    assert load_avatar(out, small_head).info.config["iterations"] == 12 and not (out / ".work").exists()


def test_clip_sets_without_normals_are_taken_and_said_so(
    tmp_path: Path, small_head: HeadModel, quick: GeoDiff4DConfig
) -> None:
    clips = write_clips(tmp_path / "clips", small_head, normals=False)
    said: list[str] = []
    job = replace(JOB, preview_frames=0)
    config = replace(quick, iterations=2)
    reconstruct(clips, "geodiff4d", tmp_path / "a", config, job=job, head=small_head, say=said.append)
    assert any("no normal maps" in sentence for sentence in said)
    assert "preview.mp4" not in {p.name for p in (tmp_path / "a").iterdir()}


def test_wrong_input_is_told(tmp_path: Path, clips: Path, small_head: HeadModel) -> None:
    with pytest.raises(ClipSetError):
        reconstruct(tmp_path / "none", "geodiff4d", tmp_path / "out")
    with pytest.raises(ConfigError, match="geodiff4d"):
        reconstruct(clips, "nerf", tmp_path / "out", head=small_head)
    with pytest.raises(ConfigError, match="must be auto, cpu or cuda"):
        resolve_device("tpu")
    assert not (tmp_path / "out").exists()
    assert isinstance(method_config("geodiff4d", "preview", ["iterations=7"]), GeoDiff4DConfig)


def test_evaluation_of_an_avatar_and_of_clips(tmp_path: Path, made: Path, clips: Path, small_head: HeadModel) -> None:
    result = evaluate(made, clips, tmp_path / "metrics.json", small_head)
    assert result.mean["psnr"] > 12 and result.mean["mask_iou"] > 0.8 and result.mean["normal_degrees"] < 30
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["mean"] == pytest.approx(result.mean) and record["frames"] == result.frames
    rows = result.rows()
    assert rows[0][:3] == ["metric", "better", "mean"] and rows[1][0] == "PSNR (dB)"
    perfect = evaluate(clips, clips, head=small_head, every_frame=True, metrics=["psnr", "mask_iou"])
    assert perfect.mean["psnr"] == 100 and perfect.mean["mask_iou"] == 1 and perfect.frames == 16


@pytest.mark.parametrize("fps", [0.0, -25.0, float("nan")])
def test_a_video_needs_a_frame_rate(fps: float) -> None:
    with pytest.raises(ConfigError, match="fps must be above 0"):
        AnimateConfig(fps=fps)


def test_animation_moves_and_turns(tmp_path: Path, avatar: GeoDiff4DAvatar) -> None:
    config = AnimateConfig(size=48, frames=6, background=[0.0, 0.0, 1.0])
    out = animate(avatar, tmp_path / "a.mp4", "builtin:range_of_motion", "orbit", config)
    pixels = read_video(out).read()
    assert pixels.shape == (6, 48, 48, 3)
    assert np.abs(pixels[0].astype(int) - pixels[2]).mean() > 1
    assert pixels[0, 0, 0, 2] > 200 and pixels[0, 0, 0, 0] < 40


@pytest.mark.parametrize("name", sorted(PATHS))
def test_named_paths_look_at_the_head(avatar: GeoDiff4DAvatar, name: str) -> None:
    for camera in camera_path(avatar, name, 5, 64):
        local = camera.viewmat[:3, 3]
        assert 0.65 < float(local.norm()) < 1.5 and camera.width == 64


def test_camera_files(tmp_path: Path, avatar: GeoDiff4DAvatar) -> None:
    cameras = camera_path(avatar, "swing", 3, 64)
    ours = {"viewmats": torch.stack([c.viewmat for c in cameras]), "Ks": torch.stack([c.K for c in cameras])}
    np.savez(tmp_path / "ours.npz", size=np.array([64, 64]), **{k: v.numpy() for k, v in ours.items()})
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    np.savez(
        tmp_path / "cap4d.npz", extr=ours["viewmats"].numpy() @ flip, resolution=np.array([64, 64]),
        **{k: np.full((3, 1), float(cameras[0].K[i, j])) for k, i, j in
           (("fx", 0, 0), ("fy", 1, 1), ("cx", 0, 2), ("cy", 1, 2))},
    )  # fmt: skip
    for name in ("ours.npz", "cap4d.npz"):
        read = camera_path(avatar, str(tmp_path / name), 4, 32)
        assert len(read) == 4 and read[0].width == 32
        torch.testing.assert_close(read[1].viewmat, cameras[1].viewmat, atol=1e-4, rtol=0)
        torch.testing.assert_close(read[3].K[0, 0], cameras[0].K[0, 0] / 2)
    np.savez(tmp_path / "bad.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="a camera path must hold"):
        camera_path(avatar, str(tmp_path / "bad.npz"), 4, 32)
    with pytest.raises(ConfigError, match="camera path must be one of"):
        camera_path(avatar, "orbits", 4, 32)


def test_cap4d_sample_path(avatar: GeoDiff4DAvatar, shared_data: Path) -> None:
    cameras = camera_path(avatar, str(shared_data / "driving" / "cap4d_orbit.npz"), 10, 64)
    for camera in cameras:
        # The head is in the middle of the picture, in front of the camera, upright.
        pixel, depth = project(torch.zeros(3), camera)
        assert 1.2 < float(depth) < 1.7 and float(camera.viewmat[1, 1]) < -0.5
        assert float((pixel - 32).abs().max()) < 8


def test_parameter_files_drive(tmp_path: Path, avatar: GeoDiff4DAvatar) -> None:
    np.savez(tmp_path / "p.npz", expr=np.full((3, 4), 0.5, np.float32), jaw_pose=np.zeros((3, 3), np.float32))
    drive = load_drive(avatar, str(tmp_path / "p.npz"), 2)
    assert drive.num_frames == 2 and float(drive.params.expr[0, 0]) == 0.5
    torch.testing.assert_close(drive.params.shape, avatar.params.shape)
    np.savez(tmp_path / "q.npz", expr=np.zeros((3, 9), np.float32))
    with pytest.raises(HeadModelError, match="must have 4 expression coefficients"):
        load_drive(avatar, str(tmp_path / "q.npz"))
    with pytest.raises(InputError, match="is no file"):
        load_drive(avatar, str(tmp_path / "none.mp4"))


def test_talking_opens_the_mouth_and_shuts_the_eyes(avatar: GeoDiff4DAvatar) -> None:
    drive = load_drive(avatar, "builtin:talk")
    jaw, blink = drive.params.expr[:, 0], drive.params.expr[:, 2]
    assert float(jaw.max()) > 0.4 and float(jaw.min()) < 0.05 and float(blink.max()) > 0.95


def test_export(tmp_path: Path, avatar: GeoDiff4DAvatar) -> None:
    bound = read_ply(export(avatar, "ply", tmp_path / "bound"))
    assert bound.binding is not None and (tmp_path / "flame_param.npz").exists()
    few = read_ply(export(avatar, "ply", tmp_path / "few", 300))
    assert few.binding is not None and len(few) == 300
    world = read_ply(export(avatar, "splats", tmp_path / "world.ply"))
    assert world.binding is None
    with np.load(export(avatar, "npz", tmp_path / "arrays")) as arrays:
        np.testing.assert_allclose(arrays["means"], world.means, atol=1e-6)
    with pytest.raises(ConfigError, match="export format must be one of"):
        export(avatar, "gltf", tmp_path / "a")


def test_viewer_without_viser_says_how_to_get_it(avatar: Avatar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'geodiff\[view\]'"):
        view(avatar)


def test_the_page_shows_every_frame_to_whoever_looks(avatar: Avatar, monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        made: list[Server] = []

        def __init__(self, port: int) -> None:
            self.scene, self.clients, self.shown, self.stopped = self, {}, [], False
            self.made.append(self)

        def set_up_direction(self, up: str) -> None:
            assert up == "+y"

        def on_client_connect(self, greet: Callable) -> None:
            client = SimpleNamespace(camera=SimpleNamespace())
            greet(client)
            self.clients[0] = client

        def get_clients(self) -> dict:
            return self.clients

        def add_gaussian_splats(self, name: str, **arrays: np.ndarray) -> None:
            self.shown.append(arrays)

        def stop(self) -> None:
            self.stopped = True

    monkeypatch.setitem(sys.modules, "viser", SimpleNamespace(ViserServer=Server))
    view(avatar, "talk", 8080, seconds=0.3)
    server = Server.made[0]
    assert server.stopped and len(server.shown) >= 2
    first = server.shown[0]
    count = len(first["centers"])
    assert {k: v.shape for k, v in first.items()} == {
        "centers": (count, 3), "covariances": (count, 3, 3), "rgbs": (count, 3), "opacities": (count, 1)
    }  # fmt: skip
    # Half precision, which the page holds them in, must not lose the thickness of flat Gaussians.
    thin = np.linalg.eigvalsh(first["covariances"].astype(np.float64))[:, 0]
    assert np.quantile(thin, 0.05) > 6e-8
    camera = server.clients[0].camera
    assert np.linalg.norm(camera.position - camera.look_at) == pytest.approx(UNIT)
    server.made.clear()


def test_covariances_are_those_of_the_axes() -> None:
    half = 0.5**0.5
    turned = covariances(torch.tensor([[half, 0.0, 0.0, half]]), torch.tensor([[1.0, 2.0, 3.0]]))
    torch.testing.assert_close(turned[0], torch.diag(torch.tensor([4.0, 1.0, 9.0])))
