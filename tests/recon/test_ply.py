"""Splat files: layout, round trip, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from geodiff.errors import InputError
from recon.ply import Splats, read_ply, world_splats, write_ply


def _splats(degree: int = 1, bound: bool = True) -> Splats:
    g = torch.Generator().manual_seed(1)
    n = 7
    binding = torch.arange(n) * 1000 if bound else None
    quats = torch.nn.functional.normalize(torch.randn(n, 4, generator=g), dim=-1)
    means, scales = torch.randn(n, 3, generator=g), torch.randn(n, 3, generator=g)
    sh = torch.randn(n, (degree + 1) ** 2, 3, generator=g)
    return Splats(means, quats, scales, torch.randn(n, generator=g), sh, binding)


def test_layout_is_that_of_gaussian_avatars(tmp_path: Path) -> None:
    splats = _splats(1)
    data = PlyData.read(str(write_ply(tmp_path / "a.ply", splats)))
    assert [e.name for e in data.elements] == ["vertex"]
    names = [p.name for p in data["vertex"].properties]
    expected = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(45))]
    expected += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4)), "binding_0"]
    assert names == expected
    assert all(p.val_dtype == "f4" for p in data["vertex"].properties)
    # f_rest is channel-major: the first 15 belong to red.
    np.testing.assert_allclose(data["vertex"]["f_rest_0"], splats.sh[:, 1, 0])
    np.testing.assert_allclose(data["vertex"]["f_rest_15"], splats.sh[:, 1, 1])
    np.testing.assert_allclose(data["vertex"]["rot_0"], splats.quats[:, 0], rtol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_round_trip(tmp_path: Path, degree: int) -> None:
    splats = _splats(degree)
    read = read_ply(write_ply(tmp_path / "a.ply", splats))
    for name in ("means", "quats", "log_scales", "opacity_logits", "sh", "binding"):
        torch.testing.assert_close(getattr(read, name), getattr(splats, name))


def test_world_splats_have_no_binding_and_keep_their_colour(tmp_path: Path) -> None:
    splats = _splats(0)
    colors = torch.rand(7, 3)
    world = world_splats(splats.means, splats.quats, torch.rand(7, 3) + 0.1, torch.rand(7), colors)
    read = read_ply(write_ply(tmp_path / "w.ply", world))
    assert read.binding is None
    torch.testing.assert_close(read.sh[:, 0] * 0.28209479177387814 + 0.5, colors)


@pytest.mark.parametrize(
    "content", [b"", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n"]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(InputError, match="must be a PLY file of Gaussian splats"):
        read_ply(path)
    with pytest.raises(InputError, match="must exist"):
        read_ply(tmp_path / "none.ply")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write_ply(tmp_path / "a.ply", _splats(0))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="must be a PLY file"):
        read_ply(path)
