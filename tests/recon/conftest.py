"""A small head, its frames, and an avatar fitted to them, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from heads import ellipsoid_head
from sample_clips import sample_clips, write_clips

from geodiff.head.model import HeadModel
from recon.frames import FrameSet, collect
from recon.layers.density import DensityConfig
from recon.methods.geodiff4d import GeoDiff4DAvatar, GeoDiff4DConfig, fit_frames


@pytest.fixture(scope="session")
def small_head() -> HeadModel:
    return ellipsoid_head(18, 24)


@pytest.fixture(scope="session")
def frames(small_head: HeadModel) -> FrameSet:
    return collect(sample_clips(small_head, 48, 4))


@pytest.fixture(scope="session")
def quick() -> GeoDiff4DConfig:
    density = DensityConfig(max_gaussians=2600, every=8, start=0.2, stop=0.8)
    return GeoDiff4DConfig(gaussians=1800, iterations=60, density=density)


@pytest.fixture(scope="session")
def avatar(small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig) -> GeoDiff4DAvatar:
    return fit_frames(small_head, frames, quick)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory, small_head: HeadModel) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "set", small_head)
