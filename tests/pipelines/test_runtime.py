"""Every way to run the networks gives the plain one's result; what lies on the device when; which kernel attends."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from model_helpers import random_condition, random_latents, scrambled, tiny
from random_portraits import SIDE, conditions, reference, seeded

from geodiff.errors import ConfigError, MissingDependencyError
from geodiff.models import attention, runtime
from geodiff.models.meter import MemoryMeter
from geodiff.models.networks import ModelConfig, Networks
from geodiff.models.runtime import Residency, RuntimeConfig, compile_blocks
from geodiff.models.sampling import SamplingConfig
from pipelines.portrait_normal import PortraitNormalPipeline

FRAMES = 6
KL = {
    "block_out_channels": (8, 8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
}


def paper_form(**changes: object) -> ModelConfig:
    """The full preset's structure: a KL autoencoder, no proposal, temporal modules, epsilon."""
    settings = {"autoencoder": "kl", "autoencoder_args": {"settings": KL}, "proposal": False, "motion": True}
    return tiny(**(settings | {"prediction": "epsilon"} | changes))


def networks_with_motion() -> Networks:
    networks = scrambled(paper_form())
    for module in networks.unet.motion_modules():
        torch.nn.init.normal_(module.proj_out.weight, std=0.05)
    return networks


def run(config: RuntimeConfig | None, dtype: torch.dtype | None = None, views: int = 2) -> np.ndarray:
    """(V, T, S, S, 6) images and normals of one small model."""
    pipeline = PortraitNormalPipeline.from_networks(networks_with_motion())
    if config is not None:
        pipeline.prepare(config, "cpu", dtype)
    crops = torch.rand(FRAMES, 3, 64, 64, generator=seeded()) * 2 - 1
    identity = pipeline.encode_reference(reference())
    sampling = SamplingConfig(steps=2, window=4, overlap=1, views_at_once=2)
    several = [conditions(FRAMES, seed) for seed in range(views)]
    output = pipeline(identity, several, pipeline.encode_expression(crops), sampling=sampling, generator=seeded())
    return np.concatenate((output.images, output.normals), axis=-1)


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    return run(None)


@pytest.fixture
def fake_xformers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """A module with xformers' one function, by its definition, that notes the shapes it was called with."""
    calls: list[tuple[int, ...]] = []

    def memory_efficient_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(query.shape))
        scores = torch.einsum("nqhc,nkhc->nhqk", query, key) / query.shape[-1] ** 0.5
        return torch.einsum("nhqk,nkhc->nqhc", scores.softmax(-1), value)

    ops = types.ModuleType("xformers.ops")
    ops.memory_efficient_attention = memory_efficient_attention  # type: ignore[attr-defined]
    package = types.ModuleType("xformers")
    package.ops = ops  # type: ignore[attr-defined]
    package.__spec__ = types.SimpleNamespace(name="xformers")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    yield calls


@pytest.mark.parametrize(
    "config",
    [
        RuntimeConfig(),
        RuntimeConfig(memory="low"),
        RuntimeConfig(offload="networks"),
        RuntimeConfig(offload="layers"),
        RuntimeConfig(vae_batch=1),
        RuntimeConfig(vae_batch=5),
        RuntimeConfig(vae_tile=SIDE),
        RuntimeConfig(memory="low", offload="layers"),
    ],
    ids=str,
)
def test_every_setting_gives_the_plain_result(config: RuntimeConfig, plain: np.ndarray) -> None:
    np.testing.assert_allclose(run(config), plain, atol=2e-4)


def test_half_weights_and_autocast_are_near_the_plain_result(plain: np.ndarray) -> None:
    for config in (RuntimeConfig(), RuntimeConfig(half_weights=True), RuntimeConfig(memory="low")):
        found = run(config, torch.bfloat16)
        error = np.abs(found - plain)
        assert error.max() > 0, "bf16 must have been used"
        assert error.mean() < 0.03, config


def test_half_weights_hold_the_denoiser_and_the_reference_net() -> None:
    pipeline = PortraitNormalPipeline.from_networks(scrambled(paper_form()))
    pipeline.prepare(RuntimeConfig(memory="low"), "cpu", torch.bfloat16)
    assert pipeline.unet.dtype == pipeline.reference_net.dtype == torch.bfloat16
    assert pipeline.autoencoder.dtype == pipeline.expression_encoder.dtype == torch.float32


def test_tiles_blend_to_about_the_same(plain: np.ndarray) -> None:
    error = np.abs(run(RuntimeConfig(vae_tile=SIDE // 2)) - plain)
    assert error.max() > 0
    assert error.mean() < 0.1


def test_xformers_attends_in_our_processors(fake_xformers: list, plain: np.ndarray) -> None:
    np.testing.assert_allclose(run(RuntimeConfig(attention="xformers")), plain, atol=2e-4)
    assert fake_xformers
    assert {len(shape) for shape in fake_xformers} == {4}


def test_diffusers_switch_keeps_our_processors(fake_xformers: list) -> None:
    pipeline = PortraitNormalPipeline.from_networks(scrambled(paper_form()))

    def kinds() -> list[tuple[type, str | None]]:
        found = [m.processor for m in pipeline.unet.modules() if isinstance(m, Attention)]
        return [(type(p), getattr(p, "backend", None)) for p in found]

    before = kinds()
    for switched in (pipeline, pipeline.unet):
        switched.enable_xformers_memory_efficient_attention()
        assert [kind for kind, _ in kinds()] == [kind for kind, _ in before]
        assert {backend for _, backend in kinds()} == {"xformers", None}
        switched.disable_xformers_memory_efficient_attention()
        assert kinds() == before


def test_missing_xformers_is_one_sentence() -> None:
    if runtime.importlib.util.find_spec("xformers") is not None:
        pytest.skip("xformers is installed here")
    pipeline = PortraitNormalPipeline.from_networks(scrambled(paper_form()))
    with pytest.raises(MissingDependencyError, match=r"it is not installed: pip install geodiff\[cuda\]"):
        pipeline.prepare(RuntimeConfig(attention="xformers"), "cpu")


def test_compiled_blocks_give_the_same_result() -> None:
    networks = networks_with_motion()
    condition, sample = random_condition(networks), random_latents(networks)
    with torch.no_grad():
        expected = networks.unet(sample, torch.tensor([300]), condition)
        assert compile_blocks(networks.unet, backend="eager") > 10
        found = networks.unet(sample, torch.tensor([300]), condition)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    names = [type(m).__name__ for m in networks.unet.modules() if m._compiled_call_impl is not None]
    assert set(names) == {"ResnetBlock2D", "FeedForward", "BasicTransformerBlock"}
    torch._dynamo.reset()


def test_networks_are_on_the_device_only_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = scrambled(paper_form())
    moves: list[tuple[str, str]] = []
    names = {id(module): name for name, module in networks.modules()}
    original = torch.nn.Module.to

    def to(module: torch.nn.Module, *args: object) -> torch.nn.Module:
        moves.append((names[id(module)], str(args[0])))
        return original(module, "cpu")

    monkeypatch.setattr(torch.nn.Module, "to", to)
    residency = Residency(networks, "cuda", "networks")
    assert moves == [], "nothing is moved before it is used"
    with residency.using("unet"):
        assert moves == [("unet", "cuda")]
    with pytest.raises(RuntimeError), residency.using("autoencoder"):
        raise RuntimeError
    assert moves == [("unet", "cuda"), ("unet", "cpu"), ("autoencoder", "cuda"), ("autoencoder", "cpu")]


def test_layers_offloaded_leave_no_weights_on_the_device() -> None:
    networks = scrambled(paper_form())
    Residency(networks, "cpu", "layers")
    assert all(parameter.is_meta for parameter in networks.unet.parameters())
    assert not any(parameter.is_meta for parameter in networks.autoencoder.parameters())


def peak(frames: int, config: RuntimeConfig, **sampling: object) -> int:
    """Peak bytes of tensors alive while denoising `frames` frames, latents and conditions among them."""
    networks = networks_with_motion()
    pipeline = PortraitNormalPipeline.from_networks(networks).prepare(config, "cpu")
    identity = pipeline.encode_reference(reference())
    tokens = torch.zeros(frames, 4, 16)
    settings = SamplingConfig(steps=1, window=4, overlap=0, **sampling)
    views = conditions(frames)
    with MemoryMeter() as meter:
        pipeline(identity, views, tokens, sampling=settings, generator=seeded())
    return meter.peak


def test_memory_is_constant_in_the_length_of_a_clip_but_for_the_frames_themselves() -> None:
    short, long = (peak(frames, RuntimeConfig(vae_batch=2)) for frames in (8, 24))
    pixels = 16 * 2 * 3 * SIDE * SIDE * 4  # What the 16 further frames take, images and normals, in float32.
    assert long - short < 4 * pixels
    assert long < 1.35 * short


def test_low_memory_needs_less() -> None:
    normal, low = peak(8, RuntimeConfig()), peak(8, RuntimeConfig(memory="low"))
    assert low < 0.65 * normal


def test_low_memory_spelled_out() -> None:
    low = RuntimeConfig(memory="low")
    assert low.resolved() == dataclasses.replace(low, half_weights=True, offload="networks", vae_batch=1)
    together = low.sampling(SamplingConfig(branches_together=True, views_at_once=4))
    assert (together.branches_together, together.views_at_once) == (False, 1)
    assert RuntimeConfig().sampling(together) is together
    assert set(attention.BACKENDS) == {"sdpa", "xformers"}


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="`memory` must be one of normal, low; found 'tiny'"):
        RuntimeConfig(memory="tiny")
    with pytest.raises(ConfigError, match="choose `offload: networks`"):
        RuntimeConfig(compile="blocks", offload="layers")
    with pytest.raises(ConfigError, match="0 or more"):
        RuntimeConfig(vae_batch=-1)
    with pytest.raises(ConfigError, match="multiples of 4 pixels"):
        scrambled(paper_form()).autoencoder.set_tiles(30)
