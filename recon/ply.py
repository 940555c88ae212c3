"""Gaussians as PLY files: the layout of 3D Gaussian splatting, with GaussianAvatars' parent triangles.

One element `vertex`, all float32: x y z nx ny nz f_dc_0..2 f_rest_0..44 opacity scale_0..2 rot_0..3 [binding_0]. Scales
are logarithms, opacities logits, rotations wxyz, f_rest channel-major. With `binding_0` the values are local to the
triangle of that number; without it they stand in the world and any splat viewer shows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement, PlyParseError
from torch import Tensor

from geodiff.errors import InputError
from geodiff.files import atomic_write
from recon.layers.harmonics import SH_C0

#: Number of the higher harmonics of degree 3, three channels each.
_REST = 45


@dataclass(frozen=True)
class Splats:
    """Gaussians as they are stored.

    means: (N, 3). quats: (N, 4) wxyz. log_scales: (N, 3). opacity_logits: (N,). sh: (N, K, 3) harmonics' coefficients.
    binding: (N,) int64 parent triangles, or None where the values stand in the world.
    """

    means: Tensor
    quats: Tensor
    log_scales: Tensor
    opacity_logits: Tensor
    sh: Tensor
    binding: Tensor | None = None

    def __len__(self) -> int:
        return self.means.shape[0]


def write_ply(path: Path | str, splats: Splats) -> Path:
    """Writes the file atomically. Harmonics above the splats' degree are written as zeros, as every viewer expects."""
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{i}" for i in range(_REST)]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    count = len(splats)
    higher = splats.sh[:, 1:].detach().cpu().numpy()
    rest = np.zeros((count, 3, _REST // 3), np.float32)
    rest[:, :, : higher.shape[1]] = higher.transpose(0, 2, 1)
    columns = [
        splats.means.detach().cpu().numpy(),
        np.zeros((count, 3), np.float32),
        splats.sh[:, 0].detach().cpu().numpy(),
        rest.reshape(count, _REST),
        splats.opacity_logits.detach().cpu().numpy()[:, None],
        splats.log_scales.detach().cpu().numpy(),
        torch.nn.functional.normalize(splats.quats.detach(), dim=-1).cpu().numpy(),
    ]
    if splats.binding is not None:
        names.append("binding_0")
        columns.append(splats.binding.cpu().numpy()[:, None])
    table = np.concatenate(columns, 1).astype(np.float32)
    vertices = np.ascontiguousarray(table).view([(name, "<f4") for name in names])[:, 0]
    data = PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<")
    return atomic_write(path, lambda temporary: data.write(str(temporary)))


def read_ply(path: Path | str, degree: int | None = None) -> Splats:
    """Reads a file written by `write_ply`, by GaussianAvatars or by 3D Gaussian splatting.

    degree: harmonics to keep, 0 to 3; by default as many as are not all zero. Raises InputError for anything else.
    """
    try:
        vertices = PlyData.read(str(path))["vertex"].data
        columns = {name: np.asarray(vertices[name], np.float32) for name in vertices.dtype.names}
        means, dc, scales = (
            _stack(columns, p) for p in (["x", "y", "z"], _numbered("f_dc_", 3), _numbered("scale_", 3))
        )
        quats, opacity = _stack(columns, _numbered("rot_", 4)), torch.from_numpy(columns["opacity"].copy())
    except FileNotFoundError as error:
        raise InputError(f"{path} must exist, and it does not: check the path") from error
    except (PlyParseError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path} must be a PLY file of Gaussian splats, and it is not ({error})") from error
    rest_names = sorted((n for n in columns if n.startswith("f_rest_")), key=lambda n: int(n.rsplit("_", 1)[1]))
    sh = dc[:, None]
    if rest_names:
        higher = _stack(columns, rest_names).reshape(len(dc), 3, -1).transpose(1, 2)
        sh = torch.cat([sh, higher], 1)
    kept = _used_degree(sh) if degree is None else degree
    if sh.shape[1] < (kept + 1) ** 2:
        sh = torch.nn.functional.pad(sh, (0, 0, 0, (kept + 1) ** 2 - sh.shape[1]))
    binding = torch.from_numpy(columns["binding_0"].astype(np.int64)) if "binding_0" in columns else None
    return Splats(means, quats, scales, opacity, sh[:, : (kept + 1) ** 2].contiguous(), binding)


def world_splats(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor) -> Splats:
    """Posed Gaussians with plain colours (N, 3) in 0..1 as splats of degree 0 for a viewer."""
    logits = torch.logit(opacities.clamp(1e-6, 1 - 1e-6))
    return Splats(means, quats, scales.clamp_min(1e-9).log(), logits, ((colors - 0.5) / SH_C0)[:, None])


def _numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]


def _stack(columns: dict[str, np.ndarray], names: list[str]) -> Tensor:
    return torch.from_numpy(np.stack([columns[name] for name in names], 1))


def _used_degree(sh: Tensor) -> int:
    used = [d for d in (1, 2, 3) if sh.shape[1] >= (d + 1) ** 2 and bool(sh[:, d * d : (d + 1) ** 2].any())]
    return max(used, default=0)
