"""The networks beside the head: they start as the identity, learn, and travel with the avatar."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from breaking import Breaking

from geodiff.errors import ConfigError, InputError
from geodiff.head.model import HeadModel
from geodiff.metrics.image import psnr
from geodiff.types import Drive, HeadParams
from recon.avatar import render
from recon.frames import FrameSet, collect
from recon.layers.attributes import AttributeConfig
from recon.layers.codes import LATENT, REACH, fit_codes
from recon.layers.corrections import Corrections
from recon.layers.deform import DeformConfig
from recon.layers.dynamics import Dynamics
from recon.layers.fitting import FitConfig, LearningRates, RiggedProblem
from recon.layers.refinement import RefinementConfig
from recon.methods import load_avatar
from recon.methods.geodiff4d import GeoDiff4DAvatar, GeoDiff4DConfig, fit_frames, held_out_metrics, initial_gaussians
from recon.optimise import Schedule, optimise

DEFORM = DeformConfig(True, grid=32, patch=2, channels=[8, 16], start=0.0)
ATTRIBUTES = AttributeConfig(True, latent=4, hidden=16, start=0.0)
STILL = LearningRates(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def _problem(head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig, **parts: object) -> RiggedProblem:
    config = FitConfig(**{"iterations": 40, "rates": STILL, **parts})
    return RiggedProblem(head, frames, initial_gaussians(head, frames, quick), config)


def _movement(problem: RiggedProblem, step: int) -> torch.Tensor:
    bent = problem.rig.pose(step, problem.fields, problem.seen).vertices
    return (bent - problem.head.vertices(problem.frames.params.frame(step))[0]).detach()


def test_networks_start_as_the_identity(small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig) -> None:
    plain = _problem(small_head, frames, quick)
    full = _problem(small_head, frames, quick, deform=DEFORM, attributes=ATTRIBUTES)
    camera = frames.cameras[0]
    for name in ("means", "quats", "scales", "opacities", "colors"):
        one, other = getattr(plain.posed(1, camera)[0], name), getattr(full.posed(1, camera)[0], name)
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_every_network_parameter_learns(small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig) -> None:
    problem = _problem(small_head, frames, quick, deform=DEFORM, attributes=ATTRIBUTES)
    dynamics = problem.rig.dynamics
    assert dynamics is not None
    before = {name: value.detach().clone() for name, value in dynamics.named_parameters()}
    for iteration in range(6):
        problem.step(frames.train[iteration], iteration)
    still = [name for name, value in dynamics.named_parameters() if torch.equal(value, before[name])]
    # A bias of a key moves all of its scores alike, so there is none.
    assert not still


def test_the_surface_learns_an_expression_that_the_head_lacks(
    small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig
) -> None:
    """Frames whose mouth opens half as far as their parameters say: the network bends the head back."""
    wrong = frames.params.replace(expr=frames.params.expr * 2.0)
    free = replace(DEFORM, rate=3e-3, smooth=0.001, small=0.0)
    problem = _problem(small_head, replace(frames, params=wrong), quick, deform=free, iterations=80)
    errors = []
    for part in range(2):
        wanted = small_head.vertices(frames.params.frame(2))[0] - small_head.vertices(wrong.frame(2))[0]
        moving = wanted.norm(dim=1) > 0.002
        errors.append(float((_movement(problem, 2) - wanted)[moving].norm(dim=1).mean()))
        if part == 0:
            optimise(problem, Schedule(80))
    assert errors[1] < 0.8 * errors[0]
    assert float(_movement(problem, 2).norm(dim=1).max()) < 0.03


def test_position_maps_show_the_expression_alone(small_head: HeadModel, frames: FrameSet) -> None:
    codes = fit_codes(frames.params, None)
    dynamics = Dynamics(small_head, frames.params, codes, DEFORM, AttributeConfig())
    still = dynamics.position_map(frames.params.frame(0))
    elsewhere = frames.params.frame(0).replace(
        rotation=torch.ones(1, 3), translation=torch.ones(1, 3), neck_pose=torch.ones(1, 3)
    )
    other_shape = elsewhere.replace(shape=elsewhere.shape + 1)
    assert torch.equal(dynamics.position_map(other_shape), still)
    assert not torch.equal(dynamics.position_map(frames.params.frame(2)), still)
    assert float(still[:3].abs().max()) <= 1.0 and set(still[3].unique().tolist()) == {0.0, 1.0}


def test_gaussians_that_no_frame_shows_never_change(
    small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig
) -> None:
    problem = _problem(small_head, frames, quick, attributes=ATTRIBUTES)
    for iteration in range(8):
        problem.step(frames.train[iteration], iteration)
    changed = problem.rig.pose(2, problem.fields, problem.seen).fields
    hidden = ~problem.seen
    assert hidden.any() and torch.equal(changed["means"][hidden], problem.fields["means"][hidden])
    assert not torch.equal(changed["means"][~hidden], problem.fields["means"][~hidden])


def test_codes_are_standardised_and_stay_within_reach(frames: FrameSet) -> None:
    codes = fit_codes(frames.params, None)
    made = torch.stack([codes.code(frames.params.frame(t)) for t in range(frames.params.num_frames)])
    assert float(made.mean(0).abs().max()) < 1e-5 and made.shape[1:] == (1, frames.params.expr.shape[1] + 9)
    far = frames.params.frame(0).replace(expr=torch.full_like(frames.params.frame(0).expr, 50.0))
    assert float(codes.code(far).abs().max()) <= REACH


def test_latents_are_estimated_where_a_drive_has_none() -> None:
    generator = torch.Generator().manual_seed(0)
    params = HeadParams.zeros(2, 5, 60).replace(expr=torch.rand(60, 5, generator=generator))
    latents = (params.expr @ torch.randn(5, 12, generator=generator)).view(60, 3, 4) + 1
    codes = fit_codes(params, latents)
    assert codes.takes_latents and (codes.tokens, codes.width) == (3, 4)
    true = torch.stack([codes.code(params.frame(t), latents[t]) for t in range(60)])
    guess = torch.stack([codes.code(params.frame(t)) for t in range(60)])
    assert float((guess - true).square().mean()) < 0.15 * float(true.square().mean())


def test_an_avatar_with_networks_is_saved_and_read(
    tmp_path: Path, small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig
) -> None:
    latents = torch.randn(frames.params.num_frames, 2, 3, generator=torch.Generator().manual_seed(1))
    config = replace(
        quick, iterations=10, deform=DEFORM, attributes=ATTRIBUTES,
        refinement=RefinementConfig(True, scaled=False, pose_rate=1e-3, expression_rate=1e-2, warmup=0.0),
    )  # fmt: skip
    made = fit_frames(small_head, replace(frames, latents=latents), config)
    again = load_avatar(made.save(tmp_path / "a"), small_head)
    assert isinstance(again, GeoDiff4DAvatar) and again.codes == (LATENT,) == made.codes
    for drive in (Drive(frames.params.frame(2), {LATENT: latents[2:3]}), Drive(frames.params.frame(1)), made.neutral()):
        one, other = made.pose(drive), again.pose(drive)
        torch.testing.assert_close(one.means, other.means, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(one.colors, other.colors, atol=1e-5, rtol=1e-4)
    bare = GeoDiff4DAvatar(made.head, made.params, made.info, made.splats)
    assert not torch.allclose(bare.pose(made.neutral()).means, made.pose(made.neutral()).means, atol=1e-6)
    (tmp_path / "a" / "networks.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="must hold the avatar's networks"):
        load_avatar(tmp_path / "a", small_head)


def test_a_killed_run_with_networks_goes_on(
    tmp_path: Path, small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig
) -> None:
    parts = {"deform": DEFORM, "attributes": ATTRIBUTES, "refinement": RefinementConfig(True), "rates": LearningRates()}
    file = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        optimise(Breaking(_problem(small_head, frames, quick, **parts), 4), Schedule(8, 0, 0.0), file, "a")
    again, whole = (_problem(small_head, frames, quick, **parts) for _ in range(2))
    assert optimise(again, Schedule(8), file, "a") == 4
    optimise(whole, Schedule(8))
    for name, value in whole.state().items():
        torch.testing.assert_close(again.state()[name], value, atol=1e-5, rtol=1e-3)


def test_corrections_follow_the_frame_and_its_mean() -> None:
    tracked = HeadParams.zeros(2, 3, 3).replace(expr=torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]))
    refined = tracked.replace(
        expr=tracked.expr + torch.tensor([[0.1], [0.2], [0.6]]), translation=torch.tensor([[0.0, 0, 0.03]] * 3)
    )
    corrections = Corrections.of(Corrections.between(tracked, refined).tensors())
    torch.testing.assert_close(corrections.apply(tracked).expr, refined.expr)
    torch.testing.assert_close(corrections.apply(refined).expr, refined.expr)
    new = corrections.apply(tracked.frame(0).replace(expr=torch.tensor([[0.0, 0, 1]])))
    torch.testing.assert_close(new.expr, torch.tensor([[0.3, 0.3, 1.3]]))
    torch.testing.assert_close(new.translation, torch.tensor([[0.0, 0.0, 0.03]]))
    moved = corrections.apply(tracked.frame(1).replace(translation=torch.ones(1, 3)))
    torch.testing.assert_close(moved.translation, torch.tensor([[1.0, 1.0, 1.03]]))


def test_refined_frames_fit_better_and_are_the_avatars_own_motion(
    small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig
) -> None:
    """Frames tracked with errors from one to the next: refinement wins on held-out views of the same times."""
    noise = 0.006 * torch.randn(frames.params.num_frames, 3, generator=torch.Generator().manual_seed(3))
    wrong = replace(frames, params=frames.params.replace(translation=frames.params.translation + noise))
    refinement = RefinementConfig(True, scaled=False, pose_rate=5e-3, expression_rate=1e-3)
    plain = fit_frames(small_head, wrong, replace(quick, iterations=120))
    refined = fit_frames(small_head, wrong, replace(quick, iterations=120, refinement=refinement))
    before, after = held_out_metrics(plain, wrong)["psnr"], held_out_metrics(refined, wrong)["psnr"]
    assert after > before + 0.3
    spread = (refined.params.translation - frames.params.translation).std(0).norm()
    assert float(spread) < 0.7 * float(noise.std(0).norm())
    own, tracked = (refined.pose(Drive(params.frame(1))) for params in (refined.params, wrong.params))
    torch.testing.assert_close(own.means, tracked.means, atol=1e-6, rtol=1e-5)


def test_a_posed_avatar_is_what_was_fitted(small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig) -> None:
    """With everything on: networks see tracked parameters in fitting, so they must when the avatar is posed."""
    config = replace(
        quick, iterations=12, deform=DEFORM, attributes=ATTRIBUTES, hull=replace(quick.hull, enabled=False),
        behind=replace(quick.behind, enabled=False),
        refinement=RefinementConfig(True, scaled=False, pose_rate=3e-3, expression_rate=3e-2, warmup=0.0),
    )  # fmt: skip
    parts = {name: getattr(config, name) for name in ("iterations", "deform", "attributes", "refinement", "density")}
    problem = _problem(small_head, frames, config, **parts, rates=LearningRates())
    optimise(problem, Schedule(12))
    made = fit_frames(small_head, frames, config)
    for params in (frames.params, made.params):
        posed = made.pose(Drive(params.frame(3)), frames.cameras[0])
        with torch.no_grad():
            fitted, _ = problem.posed(3, frames.cameras[0])
        torch.testing.assert_close(posed.means, fitted.means, atol=2e-4, rtol=1e-3)


def test_monocular_frames_have_their_own_times(small_head: HeadModel, frames: FrameSet) -> None:
    from sample_clips import sample_clips

    clips = sample_clips(small_head, 32, 3)
    shared, single = collect(clips), collect(clips, monocular=True)
    assert shared.params.num_frames == 3 and single.params.num_frames == len(single) == 3 * len(clips)
    latents = torch.arange(3.0)[:, None, None]
    assert collect(clips, latents=latents, monocular=True).latents.flatten().tolist() == [0, 1, 2] * len(clips)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeoDiff4DConfig(indexing="mono"), "indexing must be one of"),
        (lambda: GeoDiff4DConfig(track="anew"), "track must be one of"),
        (lambda: DeformConfig(grid=100), "deform.grid must be a multiple of"),
        (lambda: DeformConfig(channels=[5, 10]), "deform.channels must be multiples"),
    ],
)
def test_settings_out_of_range_are_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_levels_keep_the_picture(avatar: GeoDiff4DAvatar, frames: FrameSet) -> None:
    half = avatar.level(len(avatar.splats) // 5)
    assert len(half.splats) == len(avatar.splats) // 5
    random = torch.randperm(len(avatar.splats), generator=torch.Generator().manual_seed(0))[: len(half.splats)]
    parts = {name: value[random] for name, value in vars(avatar.splats).items()}
    poor = GeoDiff4DAvatar(avatar.head, avatar.params, avatar.info, replace(avatar.splats, **parts))
    pictures = [
        render(one, Drive(avatar.params.frame(1)), frames.cameras[0]).rgb.numpy() for one in (avatar, half, poor)
    ]
    everywhere = np.ones(pictures[0].shape[:2], bool)
    assert psnr(pictures[1], pictures[0], everywhere) > max(21.0, 1.5 + psnr(pictures[2], pictures[0], everywhere))
    assert avatar.level(10**6) is avatar
    with pytest.raises(ConfigError, match="at least 1 Gaussian"):
        avatar.level(0)
