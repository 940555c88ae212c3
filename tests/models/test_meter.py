import torch
from model_helpers import random_condition, random_latents, scrambled, tiny

from geodiff.models.attention import BACKENDS
from geodiff.models.meter import MemoryMeter, cost, fused_attention, weight_bytes


def test_live_and_peak_bytes() -> None:
    with MemoryMeter() as meter:
        first = torch.ones(256)  # 1 KiB
        second = first * 2
        assert meter.live == 2048
        view = second.view(16, 16)
        view.add_(1)
        assert meter.live == 2048, "views and operations in place make nothing"
        del second
        assert meter.live == 2048, "a view keeps its storage"
        del view
        assert meter.live == 1024
    assert meter.peak == 2048


def test_meta_counts_what_the_cpu_would_take() -> None:
    networks = scrambled(tiny(motion=True))
    condition, sample, time = random_condition(networks), random_latents(networks), torch.tensor([5])

    def run() -> None:
        networks.unet(sample, time, condition)

    real = cost(run, networks.unet)
    meta = torch.device("meta")
    networks.unet.to(meta)
    sample, time = sample.to(meta), time.to(meta)
    features = condition.reference
    features.states = {name: state.to(meta) for name, state in features.states.items()}
    condition = condition.__class__(
        condition.pose_map.to(meta), condition.expression.to(meta), features,
        condition.proposal.to(meta), condition.visibility.to(meta),
    )  # fmt: skip
    counted = cost(run, networks.unet)
    assert counted.flops == real.flops
    assert abs(counted.peak / real.peak - 1) < 0.1


def test_fused_attention_hides_its_operations_and_is_put_back() -> None:
    networks = scrambled(tiny())
    before = dict(BACKENDS)
    with fused_attention(networks.unet):
        assert len(BACKENDS) == len(before) + 1
    assert before == BACKENDS
    assert weight_bytes(torch.nn.Linear(3, 4)) == (12 + 4) * 4
