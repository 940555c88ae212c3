from pathlib import Path

import numpy as np
import pytest
import torch
from model_helpers import scrambled, tiny
from random_portraits import SIDE, conditions, reference, seeded

from geodiff.errors import InputError
from geodiff.models.networks import build_networks
from geodiff.models.sampling import SamplingConfig
from pipelines.portrait_normal import PortraitNormalPipeline


def quick(**changes: object) -> SamplingConfig:
    return SamplingConfig(**({"steps": 2, "window": 4, "overlap": 1} | changes))


def test_untrained_pipeline_returns_the_proposal() -> None:
    torch.manual_seed(0)
    pipeline = PortraitNormalPipeline.from_networks(build_networks(tiny()))
    frames = conditions(3)
    calls: list[tuple[int, int]] = []
    output = pipeline(
        reference(), frames, torch.zeros(3, 3, 64, 64), sampling=quick(), progress=lambda *done: calls.append(done)
    )
    assert output.images.shape == output.normals.shape == (3, SIDE, SIDE, 3)
    for frame, image, normals in zip(frames, output.images, output.normals, strict=True):
        np.testing.assert_allclose(image, frame.proposal, atol=1e-4)
        np.testing.assert_allclose(normals, frame.normals, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(output.unit_normals, axis=-1), 1, atol=1e-4)
    assert output.confidence.shape == (3, SIDE, SIDE)
    assert calls == [(1, 2), (2, 2)]


@pytest.mark.parametrize("motion", [False, True])
def test_views_together_equal_views_alone_and_identity_is_reused(motion: bool) -> None:
    pipeline = PortraitNormalPipeline.from_networks(scrambled(tiny(motion=motion)))
    identity = pipeline.encode_reference(reference())
    latents = pipeline.encode_expression(torch.rand(5, 3, 64, 64) * 2 - 1)
    assert latents.shape == (5, 4, 16)
    views = [conditions(5, seed) for seed in (1, 2)]
    together = pipeline(identity, views, latents, sampling=quick(views_at_once=2), generator=seeded())
    alone = pipeline(reference(), views[0], latents, sampling=quick(), generator=seeded())
    assert together.images.shape == (2, 5, SIDE, SIDE, 3)
    np.testing.assert_allclose(together.images[0], alone.images, atol=1e-3)
    assert np.abs(together.images[0] - together.images[1]).max() > 1e-2


def test_expression_and_guidance_change_the_result() -> None:
    pipeline = PortraitNormalPipeline.from_networks(scrambled(tiny()))
    identity, frames = pipeline.encode_reference(reference()), conditions(2)
    tokens = torch.randn(2, 4, 16, generator=seeded())

    def run(latents: torch.Tensor, **changes: object) -> np.ndarray:
        return pipeline(identity, frames, latents, sampling=quick(**changes), generator=seeded()).images

    base = run(tokens)
    assert np.abs(base - run(-tokens)).max() > 1e-3
    assert np.abs(base - run(tokens, guidance_scale=1.0)).max() > 1e-3
    np.testing.assert_allclose(base, run(tokens), atol=0)


def test_round_trip_in_half_precision(tmp_path: Path) -> None:
    pipeline = PortraitNormalPipeline.from_networks(scrambled(tiny(motion=True)))
    pipeline.save_pretrained(tmp_path, torch.float16)
    loaded = PortraitNormalPipeline.from_pretrained(tmp_path)
    assert loaded.expression_hash == pipeline.expression_hash
    assert loaded.unet.dtype == torch.float32
    arguments = (reference(), conditions(2), torch.ones(2, 4, 16))
    expected = pipeline(*arguments, sampling=quick(), generator=seeded())
    found = loaded(*arguments, sampling=quick(), generator=seeded())
    np.testing.assert_allclose(found.images, expected.images, atol=0.05)
    assert not list(tmp_path.glob("*.bin"))


def test_paper_form_runs_without_proposals() -> None:
    pipeline = PortraitNormalPipeline.from_networks(scrambled(tiny(proposal=False, prediction="epsilon")))
    output = pipeline(reference(), conditions(2), torch.zeros(2, 4, 16), sampling=quick(), compute_dtype=torch.bfloat16)
    assert np.isfinite(output.images).all()


def test_disagreeing_inputs_are_refused() -> None:
    pipeline = PortraitNormalPipeline.from_networks(build_networks(tiny()))
    with pytest.raises(InputError, match=r"one condition per expression; found lengths \[2, 3\]"):
        pipeline(reference(), conditions(2), torch.zeros(3, 4, 16))
