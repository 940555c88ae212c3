"""How the networks run: attention kernels, precision of weights, compilation, and what lies on the device when.

Nothing here changes a result but by rounding, `vae_tile` excepted, which also blends the tiles' seams.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import cpu_offload
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from geodiff.errors import ConfigError, MissingDependencyError
from geodiff.models.attention import BACKENDS, set_attention
from geodiff.models.networks import Networks
from geodiff.models.sampling import SamplingConfig

OFFLOADS = ("none", "networks", "layers")
COMPILES = ("none", "blocks", "graphs")
MEMORIES = ("normal", "low")


@dataclass(frozen=True)
class RuntimeConfig:
    """How the networks run.

    memory: low stands for half_weights, offload networks, vae_batch 1, guidance branches one after the other and one
    view at a time; the full preset then runs on a 16 GB card. attention: sdpa, or xformers where it is installed.
    half_weights: where a half precision is asked for, weights are held in it, instead of cast in every step; halves
    their memory. compile: blocks compiles the repeated parts that fuse well, graphs also records them as CUDA graphs,
    which pays where kernels are small. offload: networks keeps on the device only the network at work, layers only
    the layer at work, at the price of carrying all weights in every step. vae_batch: images that the autoencoder
    takes at once, 0 for 32. vae_tile: pixels of its tiles' sides, for images larger than the card can decode; 0 is off.
    """

    memory: str = "normal"
    attention: str = "sdpa"
    half_weights: bool = False
    compile: str = "none"
    offload: str = "none"
    vae_batch: int = 0
    vae_tile: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("memory", MEMORIES),
            ("attention", tuple(BACKENDS)),
            ("compile", COMPILES),
            ("offload", OFFLOADS),
        ):
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(f"`{name}` must be one of {', '.join(allowed)}; found {value!r}.")
        if self.compile != "none" and self.offload == "layers":
            raise ConfigError(
                "Compiled blocks need their weights at hand and `offload: layers` takes them away; found both: "
                "choose `offload: networks`."
            )
        if self.vae_batch < 0 or self.vae_tile < 0:
            raise ConfigError(
                f"`vae_batch` and `vae_tile` must be 0 or more; found {self.vae_batch} and {self.vae_tile}."
            )

    def resolved(self) -> RuntimeConfig:
        """With what `memory: low` stands for spelled out."""
        if self.memory == "normal":
            return dataclasses.replace(self, vae_batch=self.vae_batch or 32)
        return dataclasses.replace(
            self,
            half_weights=True,
            offload="networks" if self.offload == "none" else self.offload,
            vae_batch=1,
        )

    def sampling(self, config: SamplingConfig) -> SamplingConfig:
        """What a sampling configuration becomes: in low memory branches and views come one after the other."""
        if self.memory == "normal":
            return config
        return dataclasses.replace(config, branches_together=False, views_at_once=1)


class Residency:
    """Where networks lie between and during their work, for one `offload`.

    `using(name)` is entered around every use of a network; `device` is where tensors belong.
    """

    def __init__(self, networks: Networks, device: torch.device | str, offload: str = "none") -> None:
        self.device, self.offload = torch.device(device), offload
        self._modules = dict(networks.modules())
        if offload == "none":
            networks.to(self.device)
        elif offload == "layers":
            for name in ("unet", "reference_net"):
                cpu_offload(self._modules[name], execution_device=self.device)
            for name in ("autoencoder", "expression_encoder"):
                self._modules[name].to(self.device)

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """The network `name` is on the device inside; with offload `networks` no other one is."""
        if self.offload != "networks":
            yield
            return
        module = self._modules[name]
        nn.Module.to(module, self.device)
        try:
            yield
        finally:
            nn.Module.to(module, "cpu")


def prepare(
    networks: Networks, config: RuntimeConfig, device: torch.device | str, dtype: torch.dtype | None
) -> Residency:
    """Set networks up as configured, in place. dtype: the precision of the denoiser, None for that of the weights.

    Raises MissingDependencyError where xformers is asked for and absent.
    """
    config = config.resolved()
    if config.attention == "xformers" and importlib.util.find_spec("xformers") is None:
        raise MissingDependencyError(
            "`attention: xformers` needs the package xformers, and it is not installed: pip install geodiff[cuda], or "
            "leave the setting at sdpa, which is as fast on today's cards"
        )
    for network in (networks.unet, networks.reference_net):
        set_attention(network, config.attention)
        if config.half_weights and dtype is not None:
            nn.Module.to(network, dtype)
    networks.autoencoder.set_tiles(config.vae_tile)
    residency = Residency(networks, device, config.offload)
    if config.compile != "none":
        compile_blocks(networks.unet, graphs=config.compile == "graphs")
    return residency


def compile_blocks(network: nn.Module, graphs: bool = False, backend: str = "inductor") -> int:
    """Compile the repeated parts without state of ours in place: residual blocks, feed-forward layers, temporal blocks.

    Attention to the reference stays as it is: its kernels are fused already, and its names would compile every layer
    anew. Returns how many modules were compiled.
    """
    raise_recompile_limit()
    options = {"mode": "reduce-overhead"} if graphs else {}
    count = 0
    for name, module in network.named_modules():
        temporal = isinstance(module, BasicTransformerBlock) and "motion_modules" in name
        spatial = isinstance(module, (ResnetBlock2D, FeedForward)) and "motion_modules" not in name
        if temporal or spatial:
            module.compile(backend=backend, dynamic=False, **options)
            count += 1
    return count


def raise_recompile_limit(limit: int = 64) -> None:
    """Blocks of one kind have a dozen sizes, each compiled once; torch gives up after 8 by default."""
    import torch._dynamo

    settings = torch._dynamo.config
    name = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"
    setattr(settings, name, max(limit, getattr(settings, name)))
