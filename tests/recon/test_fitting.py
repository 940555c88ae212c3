"""Fitting an avatar: it comes close, goes on after a kill, and refines head parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from breaking import Breaking

from geodiff.errors import ConfigError
from geodiff.head.model import HeadModel
from geodiff.metrics.image import psnr
from geodiff.types import Drive
from recon.avatar import render
from recon.frames import FrameSet
from recon.layers.fitting import FitConfig, LearningRates, RiggedProblem
from recon.layers.refinement import HeadResidual, RefinementConfig
from recon.methods.base import FitContext
from recon.methods.geodiff4d import (
    GeoDiff4DAvatar,
    GeoDiff4DConfig,
    fit_frames,
    held_out_metrics,
    initial_gaussians,
)
from recon.optimise import Schedule, optimise


def test_frames_without_masks_do_not_fill_the_picture(
    small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig
) -> None:
    """Unknown masks are 255 everywhere: taken at their word, the scalp would grow to its limit and alpha to 1."""
    bare = replace(frames, masks=torch.full_like(frames.masks, 255), has_masks=False)
    made = fit_frames(small_head, bare, replace(quick, iterations=12), FitContext(encoder="e1"))
    assert made.params.static_offset is None and made.info.encoder == "e1"
    index = frames.train[0]
    view = render(made, Drive(made.params.frame(int(frames.steps[index]))), frames.cameras[index])
    outside = cv2.erode(255 - frames.masks[index].numpy(), np.ones((5, 5))) > 200
    assert float(view.alpha[..., 0].numpy()[outside].mean()) < 0.1


def test_held_out_views_come_close(avatar: GeoDiff4DAvatar, frames: FrameSet) -> None:
    index = frames.held_out[0]
    drive = Drive(frames.params.frame(int(frames.steps[index])))
    view = render(avatar, drive, frames.cameras[index], normals=True)
    # The outline is a large part of so small a picture, so colours are compared inside it.
    inside = cv2.erode(frames.mask(index)[..., 0].numpy(), np.ones((5, 5))) > 0.9
    assert psnr(view.rgb.numpy(), frames.image(index).numpy(), inside) > 22
    assert view.normals is not None
    normal, truth = view.normals[inside], frames.normal(index)[inside]
    assert float(torch.nn.functional.cosine_similarity(normal, truth, dim=-1).mean()) > 0.95


def test_fitting_improves_on_the_start(
    avatar: GeoDiff4DAvatar, small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig
) -> None:
    start = fit_frames(small_head, frames, replace(quick, iterations=1))
    before, after = held_out_metrics(start, frames), held_out_metrics(avatar, frames)
    assert after["psnr"] > before["psnr"] + 0.15 and after["ssim"] > before["ssim"] + 0.03


def test_a_killed_run_ends_where_an_unbroken_one_does(
    tmp_path: Path, small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig
) -> None:
    config = replace(quick, iterations=20, checkpoint_seconds=0.0)
    file = tmp_path / "checkpoint.safetensors"
    problem = _problem(small_head, frames, config)
    with pytest.raises(KeyboardInterrupt):
        optimise(Breaking(problem, 11), Schedule(20, checkpoint_seconds=0.0), file, "a")
    again = _problem(small_head, frames, config)
    assert optimise(again, Schedule(20, checkpoint_seconds=0.0), file, "a") == 11
    whole = _problem(small_head, frames, config)
    optimise(whole, Schedule(20))
    torch.testing.assert_close(again.fields["means"], whole.fields["means"])
    assert len(again.binding) > 2100


def test_a_foreign_or_broken_checkpoint_is_not_taken(
    tmp_path: Path, small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig
) -> None:
    file = tmp_path / "checkpoint.safetensors"
    problem = _problem(small_head, frames, quick)
    optimise(problem, Schedule(2), file, "a")
    assert optimise(_problem(small_head, frames, quick), Schedule(2), file, "a") == 2
    assert optimise(_problem(small_head, frames, quick), Schedule(2), file, "b") == 0
    file.write_bytes(file.read_bytes()[:50])
    assert optimise(_problem(small_head, frames, quick), Schedule(2), file, "b") == 0


def test_refinement_finds_a_shifted_head(small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig) -> None:
    """Right Gaussians on a head that was tracked 12 mm aside: the residuals bring it back."""
    shift = torch.tensor([0.012, 0.0, 0.0])
    wrong = replace(frames, params=frames.params.replace(translation=frames.params.translation + shift))
    rates = LearningRates(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    refinement = RefinementConfig(True, scaled=False, pose_rate=5e-3, expression_rate=0.0, warmup=0.1)
    config = FitConfig(40, rates=rates, refinement=refinement)
    problem = RiggedProblem(small_head, wrong, initial_gaussians(small_head, frames, quick), config)
    optimise(problem, Schedule(40))
    left = (problem.params.translation - frames.params.translation)[:, 0]
    assert float(left.mean()) < 0.008


def test_refinement_schedule_has_three_phases(frames: FrameSet) -> None:
    residual = HeadResidual(frames.params, RefinementConfig(True))
    rates = [residual.rate(1e-4, share) for share in (0.0, 0.1, 0.2, 0.8, 0.9, 1.0)]
    assert rates == pytest.approx([1e-10, 5e-5, 1e-4, 1e-4, 1e-5, 1e-6], rel=1e-3)


def test_short_runs_refine_as_far_as_long_ones(frames: FrameSet) -> None:
    """The paper's rates are for 100,000 steps: the way that a parameter can go stays the same."""
    config = RefinementConfig(True)
    ways = []
    for iterations in (2500, 10_000, 100_000):
        residual = HeadResidual(frames.params, config, iterations)
        ways.append(iterations * residual._peaks["rotation"])
    assert ways == pytest.approx([1.0] * 3)
    assert config.factor(10) == 100 and config.factor(10**6) == 1


def test_a_step_moves_the_residuals_of_its_own_time_step_alone(frames: FrameSet) -> None:
    """Momentum would carry those of the others on, at full rate and by noise."""
    moving = torch.arange(frames.params.num_frames)[:, None] * torch.tensor([[0.01, 0.0, 0.0]])
    params = frames.params.replace(rotation=moving, translation=torch.zeros_like(moving) + 0.5)
    residual = HeadResidual(params, RefinementConfig(True, scaled=False, pose_rate=1e-3, expression_rate=1e-2))
    for step in (0, 2):
        residual.zero_grad()
        refined = residual.frame(params, step)
        (refined.expr.sum() + refined.rotation.sum() + refined.translation.sum()).backward()
        before = {name: value.detach().clone() for name, value in residual.values.items()}
        residual.step(0.5)
        changed = {name: (value - before[name]).abs().sum(-1) > 0 for name, value in residual.values.items()}
        assert changed["expr"].nonzero().tolist() == [[step]] == changed["rotation"].nonzero().tolist()
    # A head that stands still keeps standing still: one residual for all times.
    assert residual.values["translation"].shape == (1, 3)
    applied = residual.apply(params).translation.detach()
    assert applied.shape == moving.shape and float(applied[0, 0]) == pytest.approx(0.5 - 2e-4, abs=1e-5)


def test_a_refinement_goes_on_where_it_stopped(frames: FrameSet) -> None:
    def run(residual: HeadResidual, count: int) -> None:
        for _ in range(count):
            residual.zero_grad()
            residual.frame(frames.params, 1).expr.square().sum().backward()
            residual.step(0.5)

    whole, first, second = (HeadResidual(frames.params, RefinementConfig(True)) for _ in range(3))
    run(whole, 4)
    run(first, 2)
    second.restore({name: value.detach().clone() for name, value in first.state().items()})
    run(second, 2)
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name])


def test_without_normals_the_normal_loss_is_off(
    small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig
) -> None:
    problem = RiggedProblem(
        small_head, replace(frames, normals=None), initial_gaussians(small_head, frames, quick), FitConfig(10)
    )
    assert problem.step(frames.train[0], 0)["loss"] > 0


def test_unseen_gaussians_stay(small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig) -> None:
    placement = initial_gaussians(small_head, frames, quick)
    problem = RiggedProblem(small_head, frames, placement, FitConfig(10))
    assert 0 < int((~problem.seen).sum()) < len(problem.seen) // 2
    for iteration in range(5):
        problem.step(frames.train[iteration], iteration)
    hidden = ~problem.seen
    torch.testing.assert_close(problem.fields["means"][hidden], placement.fields["means"][hidden])
    assert not torch.equal(problem.fields["means"], placement.fields["means"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sh_degree": 4}, "sh_degree must be 0 to 3"),
        ({"iterations": 0}, "at least 1"),
        ({"color_views": 0}, "color_views must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GeoDiff4DConfig(**change)


def test_harmonics_are_learnt(small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig) -> None:
    avatar = fit_frames(small_head, frames, replace(quick, iterations=8, sh_degree=1), FitContext())
    assert avatar.splats.sh.shape[1] == 4 and avatar.splats.sh[:, 1:].abs().sum() > 0
    front = avatar.pose(avatar.neutral(), frames.cameras[0]).colors
    side = avatar.pose(avatar.neutral(), frames.cameras[-4]).colors
    assert not torch.allclose(front, side)


def _problem(head: HeadModel, frames: FrameSet, config: GeoDiff4DConfig) -> RiggedProblem:
    fit = FitConfig(config.iterations, density=config.density)
    return RiggedProblem(head, frames, initial_gaussians(head, frames, config), fit)


def test_fitted_hair_is_not_grown_again(small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig) -> None:
    """Where no view looks along the surface nothing carves the hull: it would swell a head that was fitted."""
    offset = 0.001 * torch.ones_like(small_head.template)
    fitted = replace(frames, params=frames.params.replace(static_offset=offset))
    config = replace(quick, iterations=1, hull=replace(quick.hull, carve=0.0))
    kept = fit_frames(small_head, fitted, config).params.static_offset
    assert kept is not None and torch.equal(kept, offset)
    grown = fit_frames(small_head, frames, replace(quick, iterations=1)).params.static_offset
    assert grown is not None


def test_rates_rest_at_the_end(small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig) -> None:
    """Full rates up to `hold`, a share `final` of them at the end, so that the last frames seen do not rule."""
    rates = LearningRates(hold=0.5, final=0.1)
    problem = RiggedProblem(small_head, frames, initial_gaussians(small_head, frames, quick), FitConfig(9, rates=rates))
    found = {}
    for iteration in (0, 4, 8):
        problem._set_rates(iteration)
        found[iteration] = {group["name"]: group["lr"] for group in problem._optimiser.param_groups}
    assert found[0]["sh_dc"] == found[4]["sh_dc"] == rates.sh_dc
    assert found[8]["sh_dc"] == pytest.approx(0.1 * rates.sh_dc)
    assert found[8]["means"] == pytest.approx(rates.means * rates.means_final)
