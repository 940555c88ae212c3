"""The generator as SynthBench asks it: null latents, ways of finishing, noise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from model_helpers import scrambled, tiny
from random_portraits import SIDE, conditions, reference

from geodiff.models.sampling import SamplingConfig
from geodiff.synth.bench.expression import Ask
from pipelines.foreground import Finish
from pipelines.synthbench import ExpressionMaker, NetworkMethod

SAMPLING = SamplingConfig(steps=1, guidance_scale=1.0, init="proposal")


@pytest.fixture(scope="module")
def method() -> NetworkMethod:
    return NetworkMethod(scrambled(tiny()), "test", SAMPLING)


def asks() -> list[Ask]:
    rng = np.random.default_rng(0)
    (condition,) = conditions(1)
    silhouette = np.pad(np.ones((SIDE - 8, SIDE - 8), np.float32), 4)
    condition = dataclasses.replace(condition, silhouette=silhouette)
    crops = rng.uniform(0, 1, (2, 64, 64, 3)).astype(np.float32)
    return [
        Ask("in use", condition, crops[0]),
        Ask("another person", condition, crops[1]),
        Ask("null", condition, None),
    ]


def test_each_ask_gets_its_own_latent(method: NetworkMethod) -> None:
    made = ExpressionMaker(method, {"alone": Finish()})(reference(), asks(), 5)["alone"]
    again = ExpressionMaker(method, {"alone": Finish()})(reference(), asks()[::-1], 5)["alone"]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(made[first].image - made[second].image).max() > 1e-3
    np.testing.assert_allclose(again[2].image, made[0].image, atol=1e-5)
    with torch.no_grad():
        method.pipeline.expression_encoder.null += 1
    changed = ExpressionMaker(method, {"alone": Finish()})(reference(), asks(), 5)["alone"]
    np.testing.assert_allclose(changed[0].image, made[0].image, atol=1e-6)
    assert np.abs(changed[2].image - made[2].image).max() > 1e-3, "only the null latent has changed"


def test_ways_differ_by_the_portraits_own_pixels(method: NetworkMethod) -> None:
    (ask, *_) = asks()
    seen = np.ones_like(ask.condition.visibility)
    ask = dataclasses.replace(ask, condition=dataclasses.replace(ask.condition, visibility=seen))
    made = ExpressionMaker(method, {"preset": Finish(0.5), "alone": Finish()})(reference(), [ask], 5)
    assert list(made) == ["preset", "alone"]
    mask = made["alone"][0].alpha
    assert mask is not None
    inside = mask > 0.999
    gap = [np.abs(one[0].image - ask.condition.proposal)[inside].mean() for one in made.values()]
    assert inside.any() and 0 < gap[0] < 0.75 * gap[1]
