import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from model_helpers import random_condition, random_latents, scrambled, tiny

from geodiff.models.attention import (
    DomainSpatialProcessor,
    ExpressionProcessor,
    ReferenceFeatures,
    merge_domains,
    split_domains,
)


def test_domain_spatial_attention_is_concatenation_along_the_width() -> None:
    torch.manual_seed(0)
    batch, domains, frames, height, width, channels = 2, 2, 3, 4, 5, 64
    attention = Attention(channels, heads=2, dim_head=32).eval()
    hidden = torch.randn(batch * domains * frames, height * width, channels)

    maps = hidden.reshape(batch, domains, frames, height, width, channels)
    wide = torch.cat((maps[:, 0], maps[:, 1]), dim=3).reshape(batch * frames, height * 2 * width, channels)
    attention.set_processor(AttnProcessor2_0())
    expected = attention(wide).reshape(batch, frames, height, 2, width, channels)

    attention.set_processor(DomainSpatialProcessor("layer"))
    result = attention(hidden, num_domains=domains, num_frames=frames)
    result = result.reshape(batch, domains, frames, height, width, channels)
    torch.testing.assert_close(result.permute(0, 2, 3, 1, 4, 5), expected, atol=2e-7, rtol=0)


def test_merge_and_split_are_inverse() -> None:
    hidden = torch.randn(12, 5, 4)
    torch.testing.assert_close(split_domains(merge_domains(hidden, 2, 3), 2, 3), hidden, atol=0, rtol=0)


def test_reference_states_act_as_further_keys() -> None:
    torch.manual_seed(0)
    attention = Attention(64, heads=2, dim_head=32).eval()
    attention.set_processor(DomainSpatialProcessor("layer"))
    hidden, reference = torch.randn(2, 6, 64), torch.randn(1, 7, 64)
    bank = ReferenceFeatures({"layer": reference})
    result = attention(hidden, bank=bank, num_frames=2)
    attention.set_processor(AttnProcessor2_0())
    expected = attention(hidden, torch.cat((hidden, reference.expand(2, -1, -1)), dim=1))
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


def test_cached_reference_equals_uncached_and_matters() -> None:
    networks = scrambled(tiny())
    condition = random_condition(networks, batch=2)
    sample, time = random_latents(networks, batch=2), torch.tensor([500, 20])
    with torch.no_grad():
        plain = networks.unet(sample, time, condition)
        projected = networks.unet.project_reference(condition.reference)
        cached = networks.unet(sample, time, _with_reference(condition, projected))
        without = networks.unet(sample, time, _with_reference(condition, None))
        one = networks.unet.project_reference(condition.reference.select(slice(0, 1)))
        shared = networks.unet(sample[:1], time[:1], _with_reference(condition.clips(slice(0, 1)), one))
    assert projected.projected
    torch.testing.assert_close(cached, plain, atol=1e-6, rtol=0)
    torch.testing.assert_close(shared, plain[:1], atol=1e-5, rtol=0)
    assert (without - plain).abs().max() > 1e-3


def _with_reference(condition, reference):
    import dataclasses

    return dataclasses.replace(condition, reference=reference)


def test_motion_modules_keep_their_processors() -> None:
    unet = scrambled(tiny(motion=True)).unet.unet
    kinds = {name: type(module.processor) for name, module in unet.named_modules() if isinstance(module, Attention)}
    assert any("motion_modules" in name for name in kinds)
    for name, kind in kinds.items():
        if "motion_modules" in name:
            assert kind is AttnProcessor2_0
        else:
            assert kind is (DomainSpatialProcessor if name.endswith("attn1") else ExpressionProcessor)
