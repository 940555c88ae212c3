"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before numpy and torch start their pools: tests run on small machines, beside one another.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of test data that is not part of the repository; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data is absent")
    return folder


@pytest.fixture(scope="session")
def astronaut():
    """The photograph that comes with scikit-image: (512, 512, 3) uint8."""
    from skimage import data

    return data.astronaut()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import numpy as np
    import torch

    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def tiny_head():
    """A head model of a few random vertices, quick to write and to pose."""
    import torch

    from geodiff.head.model import REGIONS, HeadModel

    generator = torch.Generator().manual_seed(3)
    vertices, shapes, names = 12, 4, ("jawOpen", "eyeBlinkLeft", "mouthSmileLeft")

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    skinning = torch.softmax(random(vertices, 5), 1)
    faces = torch.tensor([[i, (i + 1) % vertices, (i + 5) % vertices] for i in range(vertices)])
    return HeadModel(
        name="tiny",
        template=0.1 * random(vertices, 3),
        faces=faces,
        shape_basis=0.005 * random(shapes, vertices, 3),
        expr_basis=0.01 * random(len(names), vertices, 3),
        joint_regressor=torch.softmax(random(5, vertices), 1),
        skinning=skinning,
        uvs=torch.rand(vertices, 2, generator=generator),
        faces_uv=faces,
        regions={name: torch.ones(vertices, dtype=torch.bool) for name in REGIONS},
        mirror=torch.arange(vertices),
        expression_names=names,
    )
