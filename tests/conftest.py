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
