"""What a clip set must bring for some settings, and what is said where it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sample_clips import sample_clips, write_clips

import geodiff.tracking.track as tracking
from geodiff.clipset import ClipSet
from geodiff.errors import ClipSetError, ConfigError, FaceError
from geodiff.head.model import HeadModel
from geodiff.metrics.perceptual import BACKBONES, Lpips, load_lpips
from geodiff.tracking.video import VideoTrack
from recon.frames import FrameSet
from recon.layers.fitting import FitConfig, LossWeights, RiggedProblem
from recon.layers.perceptual import PerceptualConfig, PerceptualLoss
from recon.layers.retrack import front_view, retracked
from recon.methods.geodiff4d import GeoDiff4DConfig, fit, initial_gaussians


def _lpips_weights(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(1)
    features = {
        name: torch.randn(value.shape, generator=generator) * 0.05
        for name, value in Lpips("alex").state_dict().items()
        if name.startswith("features.")
    }
    heads = {f"lin{i}.model.1.weight": torch.rand(1, len(h), 1, 1) for i, h in enumerate(Lpips("alex").heads)}
    folder.mkdir(parents=True)
    save_file(features, folder / BACKBONES["alex"].files[0].replace("*", "-1"))
    save_file(heads, folder / "lpips_alex.safetensors")
    return folder


def test_the_perceptual_loss_needs_weights_and_then_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig
) -> None:
    monkeypatch.setenv("GEODIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    load_lpips.cache_clear()
    assert PerceptualLoss.of(PerceptualConfig(), torch.device("cpu")) is None
    with pytest.raises(ConfigError, match=r"losses.perceptual.weight=0.1 needs the weights of LPIPS"):
        PerceptualLoss.of(PerceptualConfig(0.1), torch.device("cpu"))
    folder = _lpips_weights(tmp_path / "weights")
    config = LossWeights(perceptual=PerceptualConfig(0.1, str(folder)))
    problem = RiggedProblem(
        small_head, frames, initial_gaussians(small_head, frames, quick), FitConfig(10, losses=config)
    )
    loss = problem._perceptual
    assert loss is not None
    truth = frames.image(0)
    image = (truth + 0.1).clamp(0, 1).requires_grad_()
    value = loss(image, truth)
    (gradient,) = torch.autograd.grad(value, image)
    assert float(value.detach()) > 0 and bool(gradient.any()) and float(loss(truth, truth)) == 0
    assert problem.step(frames.train[0], 0)["loss"] > 0


def test_the_front_view_is_tracked_for_all(monkeypatch: pytest.MonkeyPatch, small_head: HeadModel) -> None:
    clips = sample_clips(small_head, 32, 3)
    assert front_view(clips, small_head).camera_index == 0
    seen: list[int] = []

    def track(images: object, head: HeadModel) -> VideoTrack:
        seen.append(len(list(images)))  # type: ignore[call-overload]
        params = head.zeros(3).replace(
            expr=torch.full((3, head.num_expr), 0.3) * torch.arange(3)[:, None], translation=torch.ones(3, 3)
        )
        return VideoTrack(params, clips[0].camera, np.zeros(3), np.ones(3, bool), np.zeros((3, 4)), 25.0)

    monkeypatch.setattr(tracking, "track_video", track)
    made = retracked(clips, small_head)
    assert seen == [3] and len(made) == len(clips)
    for clip, old in zip(made, clips, strict=True):
        torch.testing.assert_close(clip.params.expr[:, 0], torch.tensor([0.0, 0.3, 0.6]))
        torch.testing.assert_close(clip.params.translation, old.params.translation)
    with pytest.raises(ClipSetError, match="needs a view within 40 degrees of the front, and the nearest is 77"):
        retracked(clips[3:], small_head)
    with pytest.raises(ClipSetError, match="time 2 is only seen by another"):
        first = clips[0]
        short = replace(first, images=first.images[:2], params=first.params.frames(slice(0, 2)), timesteps=np.arange(2))
        retracked([short, *clips[1:]], small_head)


def test_a_front_view_without_a_face_is_told(monkeypatch: pytest.MonkeyPatch, small_head: HeadModel) -> None:
    def lost(images: object, head: HeadModel) -> VideoTrack:
        raise FaceError("no face")

    monkeypatch.setattr(tracking, "track_video", lost)
    with pytest.raises(ClipSetError, match=r"needs a face in the front view \(camera 0\), and none was found"):
        retracked(sample_clips(small_head, 32, 2), small_head)


def test_settings_that_the_clips_cannot_serve_are_refused(
    tmp_path: Path, small_head: HeadModel, quick: GeoDiff4DConfig
) -> None:
    source = ClipSet.open(write_clips(tmp_path / "clips", small_head), small_head)
    (source.folder / "expression.safetensors").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="code=latents needs the expression latents"):
        fit(source, replace(quick, code="latents"))
    source.indexing = "monocular"
    with pytest.raises(ConfigError, match="indexing=multiview needs views that share their times"):
        fit(source, replace(quick, indexing="multiview"))
