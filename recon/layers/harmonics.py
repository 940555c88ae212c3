"""Real spherical harmonics up to degree 3, with 3D Gaussian splatting's signs and order."""

from __future__ import annotations

import torch
from torch import Tensor

#: Value of the constant harmonic.
SH_C0 = 0.28209479177387814
_C1 = 0.4886025119029199
_C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396)
_C3 = (
    -0.5900435899266435, 2.890611442640554, -0.4570457994644658, 0.3731763325901154, -0.4570457994644658,
    1.445305721320277, -0.5900435899266435,
)  # fmt: skip


def harmonics_count(degree: int) -> int:
    """Number of harmonics up to a degree."""
    return (degree + 1) ** 2


def harmonics_degree(count: int) -> int:
    """Degree of a full set of `count` harmonics (1, 4, 9 or 16)."""
    degree = round(count**0.5) - 1
    if harmonics_count(degree) != count or degree > 3:
        raise ValueError(f"spherical harmonics come in sets of 1, 4, 9 or 16, got {count}")
    return degree


def harmonics_basis(directions: Tensor, degree: int) -> Tensor:
    """directions (N, 3) unit vectors -> (N, (degree + 1)^2)."""
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, SH_C0)]
    if degree >= 1:
        basis += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        basis += [
            _C2[0] * x * y, _C2[1] * y * z, _C2[2] * (2 * zz - xx - yy), _C2[3] * x * z, _C2[4] * (xx - yy),
        ]  # fmt: skip
    if degree >= 3:
        basis += [
            _C3[0] * y * (3 * xx - yy), _C3[1] * x * y * z, _C3[2] * y * (4 * zz - xx - yy),
            _C3[3] * z * (2 * zz - 3 * xx - 3 * yy), _C3[4] * x * (4 * zz - xx - yy), _C3[5] * z * (xx - yy),
            _C3[6] * x * (xx - 3 * yy),
        ]  # fmt: skip
    return torch.stack(basis, -1)


def evaluate_harmonics(coefficients: Tensor, directions: Tensor | None) -> Tensor:
    """Colours of Gaussians seen along directions.

    coefficients: (N, K, 3), K = 1, 4, 9 or 16. directions: (N, 3) unit vectors from the camera to the Gaussians in the
    world; None looks at the constant part only. Returns (N, 3), not below 0.
    """
    degree = harmonics_degree(coefficients.shape[1])
    if degree == 0 or directions is None:
        colors = SH_C0 * coefficients[:, 0]
    else:
        colors = (harmonics_basis(directions, degree)[:, :, None] * coefficients).sum(1)
    return (colors + 0.5).clamp_min(0.0)
