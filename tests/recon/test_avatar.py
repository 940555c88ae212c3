"""The avatar's interface and its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from heads import ellipsoid_head

from geodiff.errors import ConfigError, HeadModelError, InputError
from geodiff.files import read_npz
from geodiff.geometry import orbit_camera
from geodiff.head.model import HeadModel
from geodiff.types import Camera, Drive, Gaussians, HeadParams
from recon.avatar import Avatar, AvatarInfo, check_encoder, params_from_arrays, read_params, render
from recon.frames import FrameSet
from recon.methods import find_method, load_avatar
from recon.methods.geodiff4d import GeoDiff4DAvatar
from recon.ply import read_ply


def test_saved_and_loaded_avatars_render_alike(tmp_path: Path, avatar: GeoDiff4DAvatar, frames: FrameSet) -> None:
    loaded = load_avatar(avatar.save(tmp_path / "a"), avatar.head)
    drive = Drive(frames.params.frame(1))
    torch.testing.assert_close(
        render(loaded, drive, frames.cameras[0]).rgb, render(avatar, drive, frames.cameras[0]).rgb, atol=1e-3, rtol=0
    )
    assert loaded.info.metrics == pytest.approx(avatar.info.metrics)
    record = json.loads((tmp_path / "a" / "avatar.json").read_text())
    assert record["method"] == "geodiff4d" and record["head"]["hash"] == avatar.head.hash
    assert record["gaussians"] == len(avatar.splats)


def test_folder_follows_gaussian_avatars(tmp_path: Path, avatar: GeoDiff4DAvatar) -> None:
    folder = avatar.save(tmp_path)
    arrays = read_npz(folder / "flame_param.npz")
    frames, head = avatar.params.num_frames, avatar.head
    assert {k: v.shape for k, v in arrays.items()} == {
        "shape": (head.num_shape,), "expr": (frames, head.num_expr), "rotation": (frames, 3), "neck_pose": (frames, 3),
        "jaw_pose": (frames, 3), "eyes_pose": (frames, 6), "translation": (frames, 3),
        "static_offset": (1, head.num_vertices, 3), "dynamic_offset": (1, head.num_vertices, 3), "head_hash": (8,),
    }  # fmt: skip
    assert all(v.dtype == np.float32 for v in arrays.values())
    bound, world = read_ply(folder / "point_cloud.ply"), read_ply(folder / "splats.ply")
    assert bound.binding is not None and int(bound.binding.max()) < len(head.faces)
    assert world.binding is None
    low, high = head.template.min(0).values - 0.02, head.template.max(0).values + 0.02
    inside = ((world.means > low) & (world.means < high)).all(-1)
    assert float(inside.float().mean()) > 0.98


def test_expression_moves_the_gaussians(avatar: GeoDiff4DAvatar) -> None:
    rest = avatar.neutral()
    expr = rest.params.expr.clone()
    expr[0, 0] = 1.0
    moved = avatar.pose(Drive(rest.params.replace(expr=expr))).means - avatar.pose(rest).means
    assert float(moved.norm(dim=-1).max()) > 0.01
    stranger = rest.params.replace(shape=torch.ones_like(rest.params.shape), static_offset=None)
    torch.testing.assert_close(avatar.pose(Drive(stranger)).means, avatar.pose(rest).means)


def test_background_shows_where_the_avatar_is_not(avatar: GeoDiff4DAvatar, frames: FrameSet) -> None:
    view = render(avatar, avatar.neutral(), frames.cameras[0], background=(0.0, 1.0, 0.0))
    torch.testing.assert_close(view.rgb[0, 0], torch.tensor([0.0, 1.0, 0.0]))


def test_another_head_is_refused(tmp_path: Path, avatar: GeoDiff4DAvatar) -> None:
    with pytest.raises(HeadModelError, match="give the one that it was made with"):
        load_avatar(avatar.save(tmp_path), ellipsoid_head(10, 12))


def test_half_written_folders_are_refused(tmp_path: Path, avatar: GeoDiff4DAvatar) -> None:
    with pytest.raises(InputError, match="the folder does not exist"):
        load_avatar(tmp_path / "none")
    folder = avatar.save(tmp_path / "a")
    (folder / "point_cloud.ply").unlink()
    with pytest.raises(InputError, match="point_cloud.ply must exist"):
        load_avatar(folder, avatar.head)
    (folder / "avatar.json").unlink()
    with pytest.raises(InputError, match="run it again to finish it"):
        load_avatar(folder, avatar.head)
    (folder / "avatar.json").write_text('{"schema": 99}')
    with pytest.raises(InputError, match="must have schema 1, found 99"):
        load_avatar(folder, avatar.head)


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(ConfigError, match="geodiff4d"):
        find_method("geodif4d")


def test_parameters_need_an_expression(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", shape=np.zeros(3))
    with pytest.raises(InputError, match="must hold head parameters"):
        read_params(tmp_path / "p.npz")


class FeatureAvatar(Avatar):
    """A method of another kind: 32 features that depend on the camera and on a code, shaded by a network."""

    method = "features"

    def __init__(self, head: HeadModel, params: HeadParams, info: AvatarInfo) -> None:
        super().__init__(head, params, info)
        self.network = torch.nn.Linear(32, 3)
        torch.nn.init.constant_(self.network.weight, 1 / 32)

    def pose(self, drive: Drive, camera: Camera | None = None) -> Gaussians:
        points = self.head.vertices(self.own(drive.params))[0]
        n = len(points)
        toward = camera.center if camera is not None else torch.zeros(3)
        features = (points @ toward).abs()[:, None].expand(n, 31)
        features = torch.cat([features, drive.codes["expression_latent"].mean().expand(n, 1)], 1)
        unit = torch.tensor([1.0, 0, 0, 0]).repeat(n, 1)
        return Gaussians(points, unit, torch.full((n, 3), 0.004), torch.full((n,), 0.9), features)

    def shade(self, features: torch.Tensor, alpha: torch.Tensor, camera: Camera) -> torch.Tensor:
        return self.network(features).sigmoid() * alpha

    def write(self, folder: Path) -> dict[str, Any]:
        return {}

    @classmethod
    def read(cls, folder: Path, head: HeadModel, params: HeadParams, info: AvatarInfo) -> FeatureAvatar:
        return cls(head, params, info)


def test_methods_that_shade_features_need_no_special_case(small_head: HeadModel) -> None:
    """What the other published methods need: camera-dependent features, codes, a shading network."""
    avatar = FeatureAvatar(small_head, small_head.zeros(), AvatarInfo())
    drive = Drive(small_head.zeros(), {"expression_latent": torch.ones(1, 4, 8)})
    camera = orbit_camera(0.3, 0.0, 1.0, torch.zeros(3), 100.0, 32, 32)
    with torch.no_grad():
        view = render(avatar, drive, camera, background=(1.0, 0.0, 0.0), normals=True)
    assert view.rgb.shape == (32, 32, 3) and view.normals is not None and view.normals.shape == (32, 32, 3)
    torch.testing.assert_close(view.rgb[0, 0], torch.tensor([1.0, 0.0, 0.0]))
    assert float(view.alpha[16, 16]) > 0.8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expr": np.array([["a"]])}, "expr as finite numbers"),
        ({"expr": np.array([[np.nan, 0.0]])}, "expr as finite numbers"),
        ({"expr": np.zeros((0, 4))}, "at least one frame"),
        ({"jaw_pose": np.array(0.5)}, "jaw_pose in rows of 3"),
        ({"static_offset": np.zeros(4)}, "static_offset in rows of 3"),
        ({"rotation": np.zeros((3, 3))}, "must have 2 frames"),
    ],
)
def test_odd_parameters_are_told(changes: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(InputError, match=words):
        params_from_arrays({"expr": np.zeros((2, 4)), **changes}, "p.npz")


def test_a_single_number_is_one_frame_of_one_expression() -> None:
    assert params_from_arrays({"expr": np.array(0.5), "name": np.array("Ada")}, "p.npz").expr.shape == (1, 1)


def test_latents_of_another_encoder_are_refused_where_they_are_used(avatar: GeoDiff4DAvatar) -> None:
    class Coded(GeoDiff4DAvatar):
        codes = ("expression_latent",)

    coded = Coded(avatar.head, avatar.params, replace(avatar.info, encoder="e1"), avatar.splats)
    check_encoder(coded, "e1", "clips")
    with pytest.raises(InputError, match="are of another"):
        check_encoder(coded, "e2", "clips")
    check_encoder(avatar, "e2", "clips")
