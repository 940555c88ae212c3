"""The generator on CUDA: the settings whose worth or correctness the CPU cannot show."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from model_helpers import random_condition, random_latents, scrambled, tiny
from random_portraits import conditions, reference, seeded

from geodiff.models.meter import MemoryMeter
from geodiff.models.networks import Networks
from geodiff.models.runtime import RuntimeConfig
from geodiff.models.sampling import SamplingConfig
from pipelines.portrait_normal import PortraitNormalPipeline

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

FRAMES = 6


def networks() -> Networks:
    made = scrambled(tiny(proposal=False, prediction="epsilon", motion=True))
    for module in made.unet.motion_modules():
        torch.nn.init.normal_(module.proj_out.weight, std=0.05)
    return made


def run(config: RuntimeConfig, device: str = "cuda", dtype: torch.dtype | None = None) -> np.ndarray:
    pipeline = PortraitNormalPipeline.from_networks(networks()).prepare(config, device, dtype)
    crops = torch.rand(FRAMES, 3, 64, 64, generator=seeded()) * 2 - 1
    sampling = SamplingConfig(steps=2, window=4, overlap=1)
    output = pipeline(reference(), conditions(FRAMES), crops, sampling=sampling, generator=seeded())
    return np.concatenate((output.images, output.normals), axis=-1)


@pytest.fixture(scope="module")
def on_the_cpu() -> np.ndarray:
    return run(RuntimeConfig(), "cpu")


@pytest.mark.parametrize(
    "config",
    [
        RuntimeConfig(),
        RuntimeConfig(memory="low"),
        RuntimeConfig(offload="layers"),
        RuntimeConfig(compile="blocks"),
        RuntimeConfig(compile="graphs"),
    ],
    ids=str,
)
def test_gives_the_cpu_s_result(config: RuntimeConfig, on_the_cpu: np.ndarray) -> None:
    np.testing.assert_allclose(run(config), on_the_cpu, atol=2e-2)
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_near(dtype: torch.dtype, on_the_cpu: np.ndarray) -> None:
    assert np.abs(run(RuntimeConfig(half_weights=True), dtype=dtype) - on_the_cpu).mean() < 0.03


@pytest.mark.skipif(importlib.util.find_spec("xformers") is None, reason="needs xformers: pip install geodiff[cuda]")
def test_xformers_is_near(on_the_cpu: np.ndarray) -> None:
    found = run(RuntimeConfig(attention="xformers", half_weights=True), dtype=torch.bfloat16)
    assert np.abs(found - on_the_cpu).mean() < 0.03


def test_offloaded_networks_leave_the_card() -> None:
    before = torch.cuda.memory_allocated()
    pipeline = PortraitNormalPipeline.from_networks(networks()).prepare(RuntimeConfig(offload="networks"), "cuda")
    identity = pipeline.encode_reference(reference())
    assert {p.device.type for p in pipeline.unet.parameters()} == {"cpu"}
    assert torch.cuda.memory_allocated() - before < 4e6, "features and latents alone stay"
    assert identity.latents.device.type == "cuda"


def test_the_meter_foretells_the_card_s_memory() -> None:
    made = networks()
    condition = random_condition(made, reference=False)
    made.to("cuda")
    sample = random_latents(made).cuda()
    moved = condition.__class__(condition.pose_map.cuda(), condition.expression.cuda())
    with torch.no_grad():
        made.unet(sample, torch.tensor([5], device="cuda"), moved)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with MemoryMeter() as meter:
            made.unet(sample, torch.tensor([5], device="cuda"), moved)
    real = torch.cuda.max_memory_allocated() - before
    assert meter.peak == pytest.approx(real, rel=0.5)
