"""What `animate` shows: frames of any shape, backgrounds, transparency, cameras, several avatars, others' motions."""

from __future__ import annotations

import json
import subprocess
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from disguise import disguised
from sample_clips import write_clips

from geodiff import cli
from geodiff.clipset import ClipSet
from geodiff.clipset.layout import camera_to_json
from geodiff.encoding import ffmpeg_program, sound_codec
from geodiff.errors import ConfigError, HeadModelError, InputError
from geodiff.head import identity
from geodiff.head.model import HeadModel
from geodiff.media import read_image, read_video, write_image
from geodiff.tracking.track import VideoTrack
from geodiff.types import Drive, HeadParams
from recon.animate import AnimateConfig, animate, hold_head, rgba, show
from recon.avatar import Avatar, render
from recon.cameras import FrameSize, camera_path
from recon.drives import load_drive, load_performance
from recon.grid import columns_of
from recon.methods.geodiff4d import GeoDiff4DAvatar
from recon.resample import at_rate, cameras_at_rate


def first_frame(avatar: Avatar | dict[str, Avatar], camera: str = "front", **settings: object) -> np.ndarray:
    config = AnimateConfig(frames=1, **settings)  # type: ignore[arg-type]
    avatars = avatar if isinstance(avatar, dict) else {"a": avatar}
    performances = [load_performance(one, "neutral", 1) for one in avatars.values()]
    return next(show(avatars, performances, camera, config))


@pytest.mark.parametrize(("width", "height"), [(96, 48), (40, 72)])
def test_other_shapes_show_the_same_head(avatar: GeoDiff4DAvatar, width: int, height: int) -> None:
    side = min(width, height)
    square = first_frame(avatar, size=side)
    wide = first_frame(avatar, width=width, height=height)
    assert wide.shape == (height, width, 3)
    left, top = (width - side) // 2, (height - side) // 2
    inner = wide[top : top + side, left : left + side].astype(int)
    assert np.abs(inner - square).max() <= 1


def test_the_dolly_comes_nearer(avatar: GeoDiff4DAvatar) -> None:
    far, near = (first_frame_at(avatar, "dolly", t) for t in (0, 4))
    assert (near < 250).any(-1).sum() > 1.8 * (far < 250).any(-1).sum()


def first_frame_at(avatar: Avatar, camera: str, t: int, frames: int = 8) -> np.ndarray:
    seen = rgba(avatar, avatar.neutral(), camera_path(avatar, camera, frames, 48)[t])
    return ((seen[..., :3] + 1 - seen[..., 3:]) * 255).astype(int)


def test_fixed_cameras_read_numbers(avatar: GeoDiff4DAvatar) -> None:
    camera = camera_path(avatar, "fixed:90,0,2", 3, 32)[2]
    assert float(camera.center[0]) == pytest.approx(2.0, abs=0.01)
    torch.testing.assert_close(
        camera_path(avatar, "fixed", 1, 32)[0].viewmat, camera_path(avatar, "front", 1, 32)[0].viewmat
    )
    for spec in ("fixed:a", "fixed:1,2,3,4", "fixed:0,0,0", "fixed:nan"):
        with pytest.raises(ConfigError, match="a fixed camera"):
            camera_path(avatar, spec, 1, 32)


def test_backgrounds(tmp_path: Path, avatar: GeoDiff4DAvatar) -> None:
    picture = np.zeros((20, 80, 3), np.uint8)
    picture[:, 36:44] = (0, 250, 0)
    write_image(tmp_path / "p.png", picture)
    on_picture = first_frame(avatar, size=48, background=str(tmp_path / "p.png"))
    assert on_picture[1, 24, 1] > 240 and on_picture[1, 0, 1] < 10, "fills the frame, cut at the sides"
    assert first_frame(avatar, size=48, background="#336699")[0, 0].tolist() == [0x33, 0x66, 0x99]
    assert first_frame(avatar, size=48, background=[0.0, 1.0, 0.0])[0, 0].tolist() == [0, 255, 0]
    for wrong in ("greeen", [0.1], [2, 0, 0], 7):
        with pytest.raises(ConfigError, match="background must be"):
            AnimateConfig(background=wrong)
    with pytest.raises(InputError, match="does not exist"):
        first_frame(avatar, background=str(tmp_path / "none.png"))


@pytest.mark.parametrize("name", ["a.mov", "a.webm", "a"])
def test_transparent_videos_lie_over_anything(tmp_path: Path, avatar: GeoDiff4DAvatar, name: str) -> None:
    """Decoded by ffmpeg and laid over a colour, they are what is rendered over that colour."""
    out = tmp_path / name
    animate(avatar, out, "neutral", "front", AnimateConfig(size=64, frames=2, background="alpha"))
    decoder = ["-c:v", "libvpx-vp9"] if out.suffix == ".webm" else []
    source = str(out) if out.suffix else str(out / "%05d.png")
    command = [ffmpeg_program(), "-v", "error", *decoder, "-i", source, "-f", "rawvideo", "-pix_fmt", "rgba", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    frame = np.frombuffer(raw, np.uint8).reshape(2, 64, 64, 4)[0] / 255
    for colour in ("white", "#004000"):
        truth = first_frame(avatar, size=64, background=colour) / 255
        behind = truth[0, 0]
        off = np.abs(frame[..., :3] * frame[..., 3:] + (1 - frame[..., 3:]) * behind - truth)
        assert off.mean() < 0.008 and np.quantile(off, 0.999) < 0.09
        rim = (frame[..., 3] > 0.05) & (frame[..., 3] < 0.95)
        signed = frame[..., :3] * frame[..., 3:] + (1 - frame[..., 3:]) * behind - truth
        assert abs(signed[rim].mean()) < 0.012, "the rim is neither darker nor brighter"


def test_a_container_without_transparency_is_refused_before_any_work(tmp_path: Path, avatar: GeoDiff4DAvatar) -> None:
    with pytest.raises(ConfigError, match="with transparency must end in one of"):
        animate(avatar, tmp_path / "a.mp4", "no such drive", config=AnimateConfig(background="alpha"))
    assert not list(tmp_path.iterdir())


def test_a_grid_of_avatars_under_one_motion(tmp_path: Path, avatar: GeoDiff4DAvatar) -> None:
    config = AnimateConfig(width=40, height=32, frames=2, labels=True, background="black")
    names = {"Ada": avatar, "Grace": avatar, "a very long name that does not fit": avatar, "D": avatar, "E": avatar}
    animate(names, tmp_path / "g", "talk", "front", config)
    picture = read_image(tmp_path / "g" / "00001.png", min_side=1)
    assert picture.shape == (64, 120, 3)
    cells = [picture[:32, :40], picture[:32, 40:80]]
    assert np.abs(cells[0][:20].astype(int) - cells[1][:20]).max() == 0, "the same motion"
    assert np.abs(cells[0][24:].astype(int) - cells[1][24:]).max() > 50, "another name"
    assert not picture[32:, 80:].any(), "what is left over is background"
    narrow = replace(config, columns=1, labels=False)
    assert first_frame_of(names, narrow).shape == (160, 40, 3)


def first_frame_of(avatars: dict[str, Avatar], config: AnimateConfig) -> np.ndarray:
    performances = [load_performance(one, "neutral", 1) for one in avatars.values()]
    return next(show(avatars, performances, "front", config))


def test_blocks_are_as_wide_as_screens() -> None:
    assert [columns_of(n, None, 64, 64) for n in (1, 2, 3, 4, 6, 12)] == [1, 2, 3, 2, 3, 4]
    assert columns_of(4, 3, 64, 64) == 3 and columns_of(2, 5, 64, 64) == 2


def test_memory_does_not_grow_with_the_length(avatar: GeoDiff4DAvatar) -> None:
    def peak(frames: int) -> int:
        config = AnimateConfig(size=32, frames=frames, background="alpha")
        performance = load_performance(avatar, "talk", frames)
        made = show({"a": avatar}, [performance], "orbit", config)
        next(made)
        tracemalloc.start()
        for _ in made:
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(3)
    assert peak(60) < 1.5 * peak(6) + 50_000


def test_a_clip_set_drives_its_own_avatar_from_where_it_was_seen(avatar: GeoDiff4DAvatar, clips: Path) -> None:
    """Played through the camera that filmed it, a clip set looks as it did; so it does on a tour of its views."""
    source = ClipSet.open(clips, avatar.head)
    performance = load_performance(avatar, str(clips))
    assert performance.drive.fps == source.fps and performance.drive.num_frames == source.num_timesteps
    path = camera_path(avatar, "drive", 4, 48, performance)
    assert performance.filmed is not None
    for t in (0, 2):
        seen = render(avatar, performance.filmed.frame(t), path[t]).rgb.numpy()

        def off(picture: np.ndarray, t: int = t) -> float:
            return float(np.abs(picture - source.frame(t, 0).image / 255).mean())

        # How much is left is the short fit's business; where it lies is not: a pixel to any side is worse.
        assert off(seen) < 0.06
        assert off(seen) < 0.95 * min(off(np.roll(seen, step, axis)) for step in (-1, 1) for axis in (0, 1))
    with pytest.raises(InputError, match="needs a drive that was filmed"):
        camera_path(avatar, "drive", 4, 48, load_performance(avatar, "talk", 4))


def test_a_tour_of_a_clip_sets_views(
    avatar: GeoDiff4DAvatar, clips: Path, small_head: HeadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "load_head", lambda spec: small_head)
    source = ClipSet.open(clips, avatar.head)
    tour = camera_path(avatar, str(clips), 8, 48)
    for t, c in ((0, 0), (3, 1), (7, 3)):
        torch.testing.assert_close(tour[t].viewmat, source.camera(c).viewmat, atol=1e-5, rtol=0)
    stays = camera_path(avatar, f"{clips}#2", 8, FrameSize(64, 32))
    assert stays[7].width == 64
    torch.testing.assert_close(stays[7].viewmat, source.camera(2).viewmat, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="has the views 0 to 3"):
        camera_path(avatar, f"{clips}#9", 8, 48)


def test_json_files_of_cameras(tmp_path: Path, avatar: GeoDiff4DAvatar, clips: Path) -> None:
    cameras = list(camera_path(avatar, "swing", 3, 48))
    (tmp_path / "c.json").write_text(json.dumps([camera_to_json(camera) for camera in cameras]))
    read = camera_path(avatar, str(tmp_path / "c.json"), 5, 24)
    torch.testing.assert_close(read[4].viewmat, cameras[1].viewmat, atol=1e-5, rtol=0)
    assert read[0].width == 24
    assert len(camera_path(avatar, str(clips / "transforms.json"), 3, 48)) == 3
    for text, words in (("{}", "must list cameras"), ('[{"w": 3}]', "camera 0 of"), ("[]", "must list cameras")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=words):
            camera_path(avatar, str(tmp_path / "bad.json"), 3, 48)


def test_another_head_is_converted_or_refused(
    tmp_path: Path, avatar: GeoDiff4DAvatar, small_head: HeadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = disguised(small_head)
    clips = write_clips(tmp_path / "other", other, 32, 3, (0.0,), normals=False)
    with pytest.raises(HeadModelError, match="geodiff track"):
        load_performance(avatar, str(clips))
    monkeypatch.setattr(identity, "load_head", lambda spec: other)
    said: list[str] = []
    performance = load_performance(avatar, str(clips), head_spec="flame:somewhere", note=said.append)
    assert len(said) == 1 and "was converted" in said[0]
    assert performance.drive.params.expr.shape == (3, small_head.num_expr)
    torch.testing.assert_close(performance.drive.params.shape, avatar.params.shape)


def test_the_sound_of_a_driving_video_comes_along(
    tmp_path: Path, avatar: GeoDiff4DAvatar, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = tmp_path / "heard.mp4"
    command = [ffmpeg_program(), "-v", "error", "-f", "lavfi", "-i", "testsrc=s=64x64:r=10:d=1", "-f", "lavfi"]
    subprocess.run([*command, "-i", "sine=d=1", "-c:v", "libx264", "-c:a", "aac", str(video)], check=True)
    seen: list[int] = []

    def track(frames: object, head: HeadModel, fps: float) -> VideoTrack:
        count = len(list(frames))  # type: ignore[call-overload]
        seen.append(count)
        camera = camera_path(avatar, "front", 1, 48)[0]
        params = head.zeros(count)
        return VideoTrack(params, camera, np.zeros(count), np.ones(count, bool), np.zeros((count, 4)), fps)

    monkeypatch.setattr("geodiff.tracking.track.track_video", track)
    config = AnimateConfig(size=48, frames=5, fps=20.0)
    out = animate(avatar, tmp_path / "o.mp4", str(video), "drive", config)
    assert seen == [3], "only what is shown is tracked"
    assert sound_codec(out) == "aac" and read_video(out).count == 5 and read_video(out).fps == 20
    assert sound_codec(animate(avatar, tmp_path / "s.mp4", str(video), "front", replace(config, sound=False))) is None


def test_motions_at_another_rate() -> None:
    params = HeadParams.zeros(0, 1, 5)
    turn = torch.linspace(0, 2.4, 5)[:, None] * torch.tensor([0.0, 1.0, 0.0])
    drive = Drive(params.replace(expr=torch.arange(5.0)[:, None], rotation=turn), {"code": torch.arange(5.0)}, 10.0)
    fine = at_rate(drive, 20.0)
    assert fine.num_frames == 10 and fine.fps == 20
    torch.testing.assert_close(fine.params.expr[:9, 0], torch.arange(9) / 2)
    torch.testing.assert_close(fine.params.rotation[:9, 1], torch.linspace(0, 2.4, 9))
    torch.testing.assert_close(fine.codes["code"], fine.params.expr[:, 0])
    assert at_rate(drive, 10.0) is drive and at_rate(drive, 5.0).num_frames == 2
    assert at_rate(drive.frame(0), 60.0).num_frames == 6


def test_moving_cameras_at_another_rate(avatar: GeoDiff4DAvatar) -> None:
    cameras = list(camera_path(avatar, "swing", 40, 32))[:5]
    fine = cameras_at_rate(cameras, 5, 10.0, 20.0)
    torch.testing.assert_close(fine[4].viewmat, cameras[2].viewmat, atol=1e-5, rtol=0)
    assert float((fine[3].center - (cameras[1].center + cameras[2].center) / 2).norm()) < 1e-5
    assert cameras_at_rate(cameras[:1], 5, 10.0, 20.0) == cameras[:1]


def test_drives_keep_their_own_rate_unless_asked(tmp_path: Path, avatar: GeoDiff4DAvatar) -> None:
    np.savez(tmp_path / "p.npz", expr=np.zeros((10, 4), np.float32), fps=50.0)
    assert load_drive(avatar, str(tmp_path / "p.npz")).fps == 50
    assert load_drive(avatar, str(tmp_path / "p.npz"), fps=25.0).num_frames == 5
    assert load_drive(avatar, "talk", 7, 60.0).num_frames == 7


def test_a_held_head_keeps_its_place() -> None:
    params = HeadParams.zeros(0, 1, 2).replace(rotation=torch.tensor([[0.1, 0, 0], [0.5, 0, 0]]))
    assert not hold_head(Drive(params)).params.rotation.any()
    filmed = params.replace(translation=torch.tensor([[0.0, 0, -1], [0.1, 0, -1]]))
    held = hold_head(Drive(filmed)).params
    torch.testing.assert_close(held.rotation, filmed.rotation[:1].repeat(2, 1))
    torch.testing.assert_close(held.translation, filmed.translation[:1].repeat(2, 1))


def test_whatever_holds_tensors_moves_to_a_device(avatar: GeoDiff4DAvatar, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here; `meta` is a device that every tensor can go to."""
    # A head model works on its tensors when it is made, which those of `meta` do not allow.
    monkeypatch.setattr(HeadModel, "to", lambda self, device: self)
    assert avatar.to("cpu") is avatar
    subject = Held(avatar.head, avatar.params, avatar.info)
    subject.parts = {"splats": avatar.splats, "list": [torch.zeros(2), "name"], "layer": torch.nn.Linear(2, 2)}
    moved = subject.to("meta")
    found = [moved.params.expr, moved.parts["splats"].means, moved.parts["list"][0], moved.parts["layer"].weight]
    assert {tensor.device.type for tensor in found} == {"meta"} and moved.parts["list"][1] == "name"
    assert moved.device.type == "meta" and subject.device.type == "cpu"
    assert subject.parts["layer"].weight.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_on_a_gpu_it_looks_the_same(avatar: GeoDiff4DAvatar) -> None:
    camera = camera_path(avatar, "swing", 8, 64)[1]
    here, there = (rgba(one, avatar.neutral(), camera) for one in (avatar, avatar.to("cuda")))
    assert np.abs(here - there).max() < 2e-3


class Held(Avatar):
    method = "held"
    parts: dict

    pose = write = read = None  # type: ignore[assignment]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.run(["animate", "x", "--size", "64x48", "--fps", "30", "--background", "#336699", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "width: 64" in shown and "height: 48" in shown and "fps: 30" in shown and "background: '#336699'" in shown
    assert cli.run(["animate", "x", "--background", "[0, 0.5, 1]", "labels=true", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "- 0.5" in shown and "labels: true" in shown
    for arguments, words in (
        (["x", "--size", "wide"], "--size must read"),
        (["size=64"], "at least one avatar"),
        (["x", "--device", "cuda"], "needs a CUDA GPU"),
        (["nowhere"], "must hold avatar.json"),
    ):
        if "cuda" in arguments and torch.cuda.is_available():
            continue
        assert cli.run(["animate", *arguments, "--out", str(tmp_path / "a.mp4")]) == 2
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
        assert len(told) == 1 and words in told[0]
