import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_helpers import SIDE, random_condition, scrambled, tiny

from geodiff.errors import ConfigError
from geodiff.models.networks import build_scheduler
from geodiff.models.sampling import SamplingConfig, draw_noise, guide, predict, sample, timesteps_for, windows


@settings(deadline=None)
@given(length=st.integers(1, 200), window=st.integers(1, 32), overlap=st.integers(0, 31))
def test_windows_cover_every_frame_with_enough_overlap(length: int, window: int, overlap: int) -> None:
    overlap = min(overlap, window - 1)
    slices = windows(length, window, overlap)
    covered = {frame for s in slices for frame in range(s.start, s.stop)}
    assert covered == set(range(length))
    assert all(s.stop - s.start == min(window, length) for s in slices)
    assert slices[-1].stop == length
    for before, after in zip(slices, slices[1:], strict=False):
        assert before.start < after.start
        assert before.stop - after.start >= overlap


def test_noise_is_identical_across_domains_and_repeatable() -> None:
    noise = draw_noise((2, 2, 4, 3, 8, 8), torch.Generator().manual_seed(3))
    assert torch.equal(noise[:, 0], noise[:, 1])
    assert torch.equal(noise, draw_noise((2, 2, 4, 3, 8, 8), torch.Generator().manual_seed(3)))
    assert not torch.equal(noise[:, :, :, 0], noise[:, :, :, 1])
    shared = draw_noise((2, 2, 4, 3, 8, 8), None, share_frames=True)
    assert torch.equal(shared[:, :, :, 0], shared[:, :, :, 2])


def test_guidance_algebra() -> None:
    without, given_ = torch.tensor(1.0), torch.tensor(3.0)
    assert guide(without, given_, 0.0) == 1
    assert guide(without, given_, 1.0) == 3
    assert guide(without, given_, 2.5) == 6


def test_branches_together_and_one_after_the_other_agree() -> None:
    networks = scrambled(tiny())
    condition = random_condition(networks, batch=2, frames=3)
    null = networks.expression_encoder.null
    latents = torch.randn(2, 2, networks.autoencoder.channels, 3, SIDE, SIDE)
    together = SamplingConfig(window=3, overlap=1)
    time = torch.tensor(500)
    with torch.no_grad():
        both = predict(networks.unet, latents, time, condition, null, together)
        single = predict(
            networks.unet, latents, time, condition, null, dataclasses.replace(together, branches_together=False)
        )
        given_ = networks.unet(latents, time.expand(2), condition)
        without = networks.unet(latents, time.expand(2), condition.with_expression(null))
    torch.testing.assert_close(both, single, atol=1e-5, rtol=0)
    torch.testing.assert_close(both, without + 2.5 * (given_ - without), atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [1, 4, 5, 7, 11])
def test_windows_average_to_the_framewise_result(frames: int) -> None:
    """A denoiser that looks at single frames must not notice the windows, whatever the length."""
    networks = scrambled(tiny())
    condition = random_condition(networks, frames=frames)
    latents = torch.randn(1, 2, networks.autoencoder.channels, frames, SIDE, SIDE)
    config = SamplingConfig(window=4, overlap=2)
    with torch.no_grad():
        found = predict(networks.unet, latents, torch.tensor(100), condition, networks.expression_encoder.null, config)
        whole = dataclasses.replace(config, window=32)
        expected = predict(
            networks.unet, latents, torch.tensor(100), condition, networks.expression_encoder.null, whole
        )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def _perfect(target: torch.Tensor):
    return lambda noisy, timestep, condition: target[: len(noisy), :, :, : noisy.shape[3]]


@pytest.mark.parametrize("init", ["reference", "proposal", "noise"])
def test_sampling_ends_at_the_predicted_latents(init: str) -> None:
    networks = scrambled(tiny())
    condition = random_condition(networks, batch=2, frames=3)
    shape = (networks.autoencoder.channels, SIDE, SIDE)
    target = torch.randn(2, 2, shape[0], 3, SIDE, SIDE)[:1].repeat(2, 1, 1, 1, 1, 1)
    calls: list[tuple[int, int]] = []
    result = sample(
        _perfect(target),
        build_scheduler(networks.config),
        condition,
        networks.expression_encoder.null,
        shape,
        config=SamplingConfig(steps=5, init=init, guidance_scale=1.0),
        reference=torch.randn(1, 2, *shape),
        progress=lambda done, total: calls.append((done, total)),
    )
    torch.testing.assert_close(result, target, atol=1e-5, rtol=0)
    assert calls == [(i, 10) for i in range(1, 11)]


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
def test_sampling_is_deterministic_and_independent_of_the_grouping(prediction: str) -> None:
    networks = scrambled(tiny(prediction=prediction, proposal=prediction == "sample"))
    condition = random_condition(networks, batch=3, frames=2)
    shape = (networks.autoencoder.channels, SIDE, SIDE)

    def run(views: int) -> torch.Tensor:
        return sample(
            networks.unet,
            build_scheduler(networks.config),
            condition,
            networks.expression_encoder.null,
            shape,
            config=SamplingConfig(steps=2, views_at_once=views),
            reference=torch.ones(1, 2, *shape),
            generator=torch.Generator().manual_seed(5),
        )

    first = run(1)
    assert torch.isfinite(first).all()
    torch.testing.assert_close(first, run(1), atol=0, rtol=0)
    torch.testing.assert_close(first, run(2), atol=1e-3, rtol=1e-3)


def test_strength_leaves_out_the_noisiest_steps() -> None:
    scheduler = build_scheduler(tiny())
    whole = timesteps_for(scheduler, SamplingConfig(steps=10))
    half = timesteps_for(scheduler, SamplingConfig(steps=10, strength=0.5))
    assert whole[0] == 999
    assert len(half) == 5
    assert torch.equal(whole[-5:], half)


def test_temperature_zero_leaves_nothing_to_chance() -> None:
    networks = scrambled(tiny())
    condition = random_condition(networks, batch=1, frames=2)
    shape = (networks.autoencoder.channels, SIDE, SIDE)

    def run(seed: int, temperature: float) -> torch.Tensor:
        return sample(
            networks.unet,
            build_scheduler(networks.config),
            condition,
            networks.expression_encoder.null,
            shape,
            config=SamplingConfig(steps=2, init="proposal", temperature=temperature),
            generator=torch.Generator().manual_seed(seed),
        )

    assert torch.equal(run(1, 0.0), run(2, 0.0))
    assert not torch.equal(run(1, 1.0), run(2, 1.0))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="`init` must be one of reference, proposal, noise"):
        SamplingConfig(init="zeros")
    with pytest.raises(ConfigError, match="`temperature` must lie between 0 and 1; found 2"):
        SamplingConfig(temperature=2)
    with pytest.raises(ConfigError, match="strength"):
        SamplingConfig(strength=0)
    with pytest.raises(ConfigError, match="overlap"):
        SamplingConfig(window=4, overlap=4)
