"""What other programs get: files read by other people's readers, an avatar rebuilt without our code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from geodiff.files import read_npz
from geodiff.head.model import HeadModel
from geodiff.raster.gaussians import rasterize
from geodiff.types import Gaussians, HeadParams
from recon.animate import AnimateConfig, show
from recon.cameras import camera_path
from recon.drives import Performance, load_drive
from recon.export import export
from recon.methods.geodiff4d import GeoDiff4DAvatar

#: GaussianAvatars' attributes, in their order.
ATTRIBUTES = (
    ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(45)), "opacity"]
    + [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)] + ["binding_0"]
)  # fmt: skip


@pytest.fixture(scope="module")
def written(avatar: GeoDiff4DAvatar, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(avatar, "ply", tmp_path_factory.mktemp("export") / "point_cloud")


def test_attributes_are_those_of_gaussian_avatars(written: Path, avatar: GeoDiff4DAvatar) -> None:
    data = PlyData.read(str(written))
    assert [element.name for element in data.elements] == ["vertex"] and not data.text and data.byte_order == "<"
    properties = data["vertex"].properties
    assert [p.name for p in properties] == ATTRIBUTES
    assert {p.val_dtype for p in properties} == {"f4"} and not any(hasattr(p, "len_dtype") for p in properties)
    binding = np.asarray(data["vertex"]["binding_0"])
    assert (binding == binding.round()).all() and binding.min() >= 0 and binding.max() < len(avatar.head.faces)
    beside = read_npz(written.parent / "flame_param.npz")
    assert {"shape", "expr", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "translation"} <= beside.keys()
    assert {"static_offset", "dynamic_offset"} <= beside.keys() or avatar.params.static_offset is None
    assert all(array.dtype == np.float32 for array in beside.values())


def rebuilt(
    ply: Path, head: HeadModel, expr: torch.Tensor, pose: dict[str, torch.Tensor], eye: torch.Tensor
) -> Gaussians:
    """The avatar in the world, seen from `eye`, from its files by the formulas of GaussianAvatars alone."""
    v, npz = PlyData.read(str(ply))["vertex"].data, np.load(ply.parent / "flame_param.npz")
    offset = torch.from_numpy(npz["static_offset"][0]) if "static_offset" in npz else None
    params = HeadParams(torch.from_numpy(npz["shape"]), expr[None], static_offset=offset, **pose)
    face = head.faces[v["binding_0"].astype(int)]
    a, b, c = head.vertices(params)[0][face].double().unbind(1)
    unit = lambda x: x / x.norm(dim=1, keepdim=True)  # noqa: E731
    a0 = unit(b - a)
    a1 = unit(torch.linalg.cross(a0, c - a))
    a2 = -unit(torch.linalg.cross(a1, a0))
    turn = torch.stack([a0, a1, a2], 2)
    size = ((b - a).norm(dim=1) + ((c - a) * a2).sum(1).abs()) / 2
    column = lambda *names: torch.from_numpy(np.stack([v[n] for n in names], 1).astype(np.float64))  # noqa: E731
    w, x, y, z = unit(column("rot_0", "rot_1", "rot_2", "rot_3")).T
    own = torch.stack([
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), 2 * (x * y + w * z), 1 - 2 * (x * x + z * z),
        2 * (y * z - w * x), 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ], 1).reshape(-1, 3, 3)  # fmt: skip
    from scipy.spatial.transform import Rotation

    quats = Rotation.from_matrix((turn @ own).numpy()).as_quat()[:, [3, 0, 1, 2]]
    means = (turn @ column("x", "y", "z")[..., None])[..., 0] * size[:, None] + (a + b + c) / 3
    scales = column("scale_0", "scale_1", "scale_2").exp() * size[:, None]
    # Harmonics of the first degree; the avatar has no higher ones. f_rest goes channel by channel, 15 each.
    assert not any(v[f"f_rest_{i}"].any() for i in range(45) if i % 15 >= 3)
    x, y, z = unit(means - eye.double()).T[..., None]
    first = [column(*(f"f_rest_{15 * channel + i}" for channel in range(3))) for i in range(3)]
    colours = 0.28209479177387814 * column("f_dc_0", "f_dc_1", "f_dc_2")
    colours = (colours + 0.4886025119029199 * (z * first[1] - y * first[0] - x * first[2]) + 0.5).clamp_min(0)
    opacity = torch.from_numpy(1 / (1 + np.exp(-v["opacity"].astype(np.float64))))
    return Gaussians(*(t.float() for t in (means, torch.from_numpy(quats), scales, opacity, colours)))


@pytest.mark.parametrize(("path", "t"), [("front", 1), ("swing", 2)])
def test_rebuilt_from_its_files_it_is_what_animate_shows(
    written: Path, avatar: GeoDiff4DAvatar, path: str, t: int
) -> None:
    drive = load_drive(avatar, "range_of_motion", 6)
    moved = drive.params.replace(rotation=torch.tensor([[0.1, 0.3, -0.05]]).repeat(6, 1))
    performance = Performance(type(drive)(moved, drive.codes, drive.fps))
    frames = list(show({"": avatar}, [performance], path, AnimateConfig(size=64, frames=6)))
    frame = moved.frame(t)
    pose = {n: getattr(frame, n) for n in ("rotation", "translation", "neck_pose", "jaw_pose", "eyes_pose")}
    camera = camera_path(avatar, path, 6, 64)[t]
    eye = -camera.viewmat[:3, :3].T @ camera.viewmat[:3, 3]
    gaussians = rebuilt(written, avatar.head, frame.expr[0], pose, eye)
    seen = rasterize(gaussians, camera.viewmat[None], camera.K[None], 64, 64, backgrounds=torch.ones(1, 3))
    off = (seen.colors[0].clamp(0, 1).numpy() - frames[t] / 255).__abs__()
    # The video's bytes alone are half a 255th off.
    assert off.max() < 0.5 / 255 + 1e-3
    assert (frames[t] < 200).any(), "something is there"
