"""The two stages of training (paper 4.1): images first, without temporal modules; then clips, with them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from geodiff.errors import ConfigError
from geodiff.models.networks import ModelConfig, Networks, build_networks


@dataclass(frozen=True)
class Stage:
    """motion: with temporal modules. frames: the fewest frames of a clip that make sense."""

    motion: bool
    frames: int


#: In `images` a clip's frames are independent views that share one run of the reference net.
STAGES = {"images": Stage(motion=False, frames=1), "clips": Stage(motion=True, frames=2)}


def networks_for(stage: str, model: ModelConfig, start: Path | str | None = None) -> Networks:
    """The networks a stage trains: fresh, or those of the folder `start`.

    A `clips` stage takes the weights of an `images` stage and begins as the same function; sizes come from `start`
    then.
    """
    if stage not in STAGES:
        raise ConfigError(f"The stage must be one of {', '.join(STAGES)}; found {stage!r}.")
    motion = STAGES[stage].motion
    if start is None:
        return build_networks(dataclasses.replace(model, motion=motion))
    loaded = Networks.load(start)
    if loaded.config.motion == motion:
        return loaded
    if loaded.config.motion:
        raise ConfigError(
            f"The stage {stage!r} cannot start from weights with temporal modules ({start}): use `clips`."
        )
    networks = build_networks(dataclasses.replace(loaded.config, motion=True))
    networks.unet.load_2d(loaded.unet.state_dict())
    return dataclasses.replace(
        networks, reference_net=loaded.reference_net, expression_encoder=loaded.expression_encoder
    )
