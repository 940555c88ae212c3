import dataclasses

import pytest
import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from model_helpers import random_condition, random_latents, scrambled, tiny

from geodiff.errors import ConfigError
from geodiff.models.joint_unet import JointUNet, to_latent_size
from geodiff.models.networks import FULL, PREVIEW, build_networks

MILLION = 1e6


def count(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / MILLION


@pytest.mark.parametrize(("motion", "expected"), [(False, 840.8), (True, 1294.0)])
def test_full_size_has_the_published_parameter_count(motion: bool, expected: float) -> None:
    with torch.device("meta"):
        networks = build_networks(dataclasses.replace(FULL, motion=motion))
    assert networks.unet.unet.conv_in.in_channels == 7
    assert count(networks.unet) == pytest.approx(expected, abs=0.1)


def test_preview_fits_the_bundle() -> None:
    with torch.device("meta"):
        networks = build_networks(PREVIEW)
    assert sum(count(module) for module in networks.trained().values()) * 2 < 60, "at most 60 MB in half precision"


def test_domain_label_matters() -> None:
    networks = scrambled(tiny())
    condition = random_condition(networks)
    sample = random_latents(networks)
    same = sample[:, :1].expand_as(sample)
    condition = dataclasses.replace(condition, proposal=condition.proposal[:, :1].expand_as(condition.proposal))
    with torch.no_grad():
        output = networks.unet(same, torch.tensor([500]), condition)
    assert (output[:, 0] - output[:, 1]).abs().max() > 1e-3


def test_domains_and_conditions_reach_the_output() -> None:
    networks = scrambled(tiny())
    condition = random_condition(networks)
    sample, time = random_latents(networks), torch.tensor([500])
    with torch.no_grad():
        base = networks.unet(sample, time, condition)
        other = sample.clone()
        other[:, 1] += 1
        assert (networks.unet(other, time, condition) - base)[:, 0].abs().max() > 1e-4, "domains must see each other"
        for name in ("pose_map", "expression", "visibility"):
            changed = dataclasses.replace(condition, **{name: getattr(condition, name) + 1})
            assert (networks.unet(sample, time, changed) - base).abs().max() > 1e-4, name


def test_untrained_sample_prediction_is_the_proposal() -> None:
    torch.manual_seed(0)
    networks = build_networks(tiny())
    condition = random_condition(networks)
    with torch.no_grad():
        output = networks.unet(random_latents(networks), torch.tensor([500]), condition)
    torch.testing.assert_close(output, condition.proposal, atol=0, rtol=0)


def test_paper_form_takes_no_proposal() -> None:
    networks = scrambled(tiny(proposal=False, prediction="epsilon"))
    channels = networks.autoencoder.channels
    assert networks.unet.unet.conv_in.in_channels == channels + 3
    with torch.no_grad():
        output = networks.unet(random_latents(networks), torch.tensor([10]), random_condition(networks))
    assert output.shape == random_latents(networks).shape


def test_video_network_starts_equal_to_the_2d_network() -> None:
    flat = scrambled(tiny())
    video = build_networks(tiny(motion=True)).unet.eval()
    video.load_2d(flat.unet.state_dict())
    condition = random_condition(flat, batch=2, frames=4)
    sample, time = random_latents(flat, batch=2, frames=4), torch.tensor([900, 3])
    with torch.no_grad():
        torch.testing.assert_close(
            video(sample, time, condition), flat.unet(sample, time, condition), atol=1e-5, rtol=0
        )
    with pytest.raises(ValueError, match="not the 2D form"):
        video.load_2d({})


def test_temporal_modules_join_frames_up_to_32() -> None:
    networks = scrambled(tiny(motion=True))
    for module in networks.unet.motion_modules():
        torch.nn.init.normal_(module.proj_out.weight, std=0.1)
    condition = random_condition(networks, frames=32)
    sample, time = random_latents(networks, frames=32), torch.tensor([500])
    changed = sample.clone()
    changed[:, :, :, 31] += 1
    with torch.no_grad():
        difference = networks.unet(changed, time, condition) - networks.unet(sample, time, condition)
    assert difference[:, :, :, 0].abs().max() > 1e-5


def test_gradient_checkpointing_changes_no_gradient() -> None:
    networks = scrambled(tiny(motion=True))
    for module in networks.unet.motion_modules():
        torch.nn.init.normal_(module.proj_out.weight, std=0.1)
    condition, sample = random_condition(networks), random_latents(networks)

    def gradients() -> list[torch.Tensor]:
        networks.unet.zero_grad()
        networks.unet.train()(sample, torch.tensor([500]), condition).square().mean().backward()
        return [parameter.grad.clone() for parameter in networks.unet.parameters()]

    plain = gradients()
    networks.unet.checkpoint_gradients()
    for expected, found in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_gradient_checkpointing_keeps_less_and_covers_temporal_modules() -> None:
    """Bytes that the backward pass keeps, of the modules of each kind; diffusers' own switch leaves some out."""
    networks = scrambled(tiny(motion=True))
    condition, sample = random_condition(networks, frames=8), random_latents(networks, frames=8)

    def kept(*inside: type) -> int:
        total, depth = 0, 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel() if depth or not inside else 0
            return tensor

        def step(by: int) -> None:
            nonlocal depth
            depth += by

        handles = []
        for module in networks.unet.modules():
            if isinstance(module, inside):
                handles.append(module.register_forward_pre_hook(lambda *_: step(1)))
                handles.append(module.register_forward_hook(lambda *_: step(-1)))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            networks.unet.train()(sample, torch.tensor([500]), condition).sum()
        for handle in handles:
            handle.remove()
        return total

    kinds = ((), (AnimateDiffTransformer3D,), (Transformer2DModel,))
    plain = [kept(*kind) for kind in kinds]
    networks.unet.checkpoint_gradients()
    for before, after in zip(plain, [kept(*kind) for kind in kinds], strict=True):
        assert after < 0.5 * before


def test_gradient_checkpointing_of_the_reference_net_changes_no_gradient() -> None:
    networks = scrambled(tiny())
    channels = networks.autoencoder.channels
    given = torch.randn(2, 2, channels, 8, 8), torch.randn(2, 3, 8, 8)
    condition, sample = random_condition(networks, batch=2, reference=False), random_latents(networks, batch=2)

    def gradients() -> dict[str, torch.Tensor]:
        networks.reference_net.zero_grad()
        features = networks.reference_net.train()(*given)
        joined = dataclasses.replace(condition, reference=features)
        networks.unet(sample, torch.tensor([500, 3]), joined).square().mean().backward()
        named = networks.reference_net.named_parameters()
        return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}

    plain = gradients()
    networks.reference_net.checkpoint_gradients()
    found = gradients()
    assert plain.keys() == found.keys()
    for name, expected in plain.items():
        torch.testing.assert_close(found[name], expected, atol=1e-6, rtol=1e-4)


def test_every_trainable_parameter_gets_a_gradient() -> None:
    networks = scrambled(tiny(motion=True))
    channels = networks.autoencoder.channels
    features = networks.reference_net(torch.randn(1, 2, channels, 8, 8), torch.randn(1, 3, 8, 8))
    condition = dataclasses.replace(random_condition(networks, reference=False), reference=features)
    networks.unet(random_latents(networks), torch.tensor([500]), condition).square().mean().backward()
    for module in (networks.unet, networks.reference_net):
        missing = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing


def test_pose_map_is_averaged_to_latent_size() -> None:
    maps = torch.arange(16.0).reshape(1, 1, 1, 4, 4).expand(1, 3, 2, 4, 4)
    small = to_latent_size(maps, (2, 2))
    assert small.shape == (1, 3, 2, 2, 2)
    assert small[0, 0, 0, 0, 0] == pytest.approx((0 + 1 + 4 + 5) / 4)


def test_unknown_prediction_is_refused() -> None:
    with pytest.raises(ConfigError, match="prediction"):
        JointUNet(4, 16, prediction="score")


@pytest.mark.parametrize("motion", [False, True])
def test_without_domain_attention_domains_know_nothing_of_each_other(motion: bool) -> None:
    for attention in (True, False):
        networks = scrambled(tiny(domain_attention=attention, motion=motion))
        condition, latents = random_condition(networks, batch=2), random_latents(networks, batch=2)
        other = latents.clone()
        other[:, 1] += 1.0
        with torch.no_grad():
            first, second = (networks.unet(x, torch.tensor(500), condition)[:, 0] for x in (latents, other))
        assert torch.equal(first, second) != attention
