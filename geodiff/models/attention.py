"""Attention processors of the joint network: Domain-Spatial attention with reference keys, and the reference writer.

Layout of hidden states inside the UNets: (b d t) (h w) c, where b is the batch, d the domain and t the frame.
Shapes in this file: L = h * w positions of a level, Dr = domains that the reference net saw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn


@dataclass
class ReferenceFeatures:
    """What the reference net hands to the denoiser: normed hidden states per attention layer, by module name.

    states: name -> (B, Dr * L, C), or B = 1 to serve any batch.
    projected: name -> keys and values of those states under the denoiser's own projections; filled once per clip by
    `JointUNet.project_reference`, empty in training.
    """

    states: dict[str, Tensor] = field(default_factory=dict)
    projected: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def select(self, index: slice) -> ReferenceFeatures:
        """The features of some rows of the batch; features that serve any batch stay as they are."""

        def pick(tensor: Tensor) -> Tensor:
            return tensor if tensor.shape[0] == 1 else tensor[index]

        return ReferenceFeatures(
            {name: pick(state) for name, state in self.states.items()},
            {name: (pick(key), pick(value)) for name, (key, value) in self.projected.items()},
        )

    def repeat(self, times: int) -> ReferenceFeatures:
        """The same features for a batch that consists of `times` copies."""

        def tile(tensor: Tensor) -> Tensor:
            return tensor if tensor.shape[0] == 1 else tensor.repeat(times, 1, 1)

        return ReferenceFeatures(
            {name: tile(state) for name, state in self.states.items()},
            {name: (tile(key), tile(value)) for name, (key, value) in self.projected.items()},
        )


def merge_domains(hidden: Tensor, num_domains: int, num_frames: int) -> Tensor:
    """(b d t) L c -> (b t) (d L) c: the domains side by side, as concatenation along the width (paper 3.2)."""
    length, channels = hidden.shape[1:]
    split = hidden.reshape(-1, num_domains, num_frames, length, channels)
    return split.transpose(1, 2).reshape(-1, num_domains * length, channels)


def split_domains(hidden: Tensor, num_domains: int, num_frames: int) -> Tensor:
    """(b t) (d L) c -> (b d t) L c: the inverse of `merge_domains`."""
    length, channels = hidden.shape[1] // num_domains, hidden.shape[2]
    split = hidden.reshape(-1, num_frames, num_domains, length, channels)
    return split.transpose(1, 2).reshape(-1, length, channels)


def sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention by torch's own fused kernels. All (N, length, heads, width)."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad:
        # The CPU's kernel is slower backward in bfloat16 than in float32: a tenth of a preview training step.
        with torch.autocast("cpu", enabled=False):
            attended = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
        return attended.to(query.dtype).transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def xformers(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention by the kernels of xformers. All (N, length, heads, width)."""
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention(query, key, value)


#: Kernels of scaled dot-product attention by name.
BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"sdpa": sdpa, "xformers": xformers}


def attend(attn: Attention, query: Tensor, key: Tensor, value: Tensor, backend: str = "sdpa") -> Tensor:
    """Scaled dot-product attention over the heads of `attn` and its output projection. All (N, length, channels)."""
    query, key, value = (tensor.unflatten(-1, (attn.heads, -1)) for tensor in (query, key, value))
    hidden = BACKENDS[backend](query, key, value).flatten(2)
    return attn.to_out[1](attn.to_out[0](hidden))


class DomainSpatialProcessor:
    """Replaces spatial self-attention: all positions of both domains of a frame attend to each other (paper 3.2).

    With `bank`, the reference's states of the layer of the same name are further keys and values, the same for all
    frames; with `write_to`, the layer's own states are stored there first (the reference net).
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.backend = "sdpa"

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        bank: ReferenceFeatures | None = None,
        write_to: ReferenceFeatures | None = None,
        num_domains: int = 1,
        num_frames: int = 1,
    ) -> Tensor:
        hidden = merge_domains(hidden_states, num_domains, num_frames)
        if write_to is not None:
            write_to.states[self.name] = hidden
        key, value = attn.to_k(hidden), attn.to_v(hidden)
        reference = project_layer(attn, self.name, bank)
        if reference is not None:
            key, value = (
                torch.cat((own, per_frame(extra, num_frames, len(own))), dim=1)
                for own, extra in zip((key, value), reference, strict=True)
            )
        attended = attend(attn, attn.to_q(hidden), key, value, self.backend)
        return split_domains(attended, num_domains, num_frames)


class ExpressionProcessor:
    """Cross-attention to the expression tokens of the frame; takes and ignores what the other processor needs."""

    def __init__(self) -> None:
        self.backend = "sdpa"

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        bank: ReferenceFeatures | None = None,
        write_to: ReferenceFeatures | None = None,
        num_domains: int = 1,
        num_frames: int = 1,
    ) -> Tensor:
        key, value = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        return attend(attn, attn.to_q(hidden_states), key, value, self.backend)


def project_layer(attn: Attention, name: str, bank: ReferenceFeatures | None) -> tuple[Tensor, Tensor] | None:
    """Keys and values of the reference for one layer: the cached ones, or projected now; None where it has none."""
    if bank is None or name not in bank.states:
        return None
    return bank.projected.get(name) or (attn.to_k(bank.states[name]), attn.to_v(bank.states[name]))


def per_frame(reference: Tensor, num_frames: int, rows: int) -> Tensor:
    """(B or 1, R, C) -> (B * T, R, C), frames of one clip next to each other, without a copy before concatenation."""
    if reference.shape[0] == 1:
        return reference.expand(rows, -1, -1)
    return reference.repeat_interleave(num_frames, dim=0)


def spatial_attentions(unet: nn.Module) -> dict[str, Attention]:
    """Name -> self-attention of the spatial transformers, not those of the motion modules."""
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, Attention) and name.endswith("attn1") and "motion_modules" not in name
    }


def install_processors(unet: nn.Module) -> None:
    """Put the processors into a UNet of diffusers. The one place where it is done; constructors call it, so loading
    does too.
    """
    for name, module in spatial_attentions(unet).items():
        module.set_processor(DomainSpatialProcessor(name))
        cross = unet.get_submodule(name.removesuffix("attn1") + "attn2")
        assert isinstance(cross, Attention)
        cross.set_processor(ExpressionProcessor())


def set_attention(unet: nn.Module, backend: str) -> None:
    """Choose the kernel of all our processors. Temporal attention over a few frames stays with torch's."""
    for module in unet.modules():
        if isinstance(module, Attention) and isinstance(
            module.processor, (DomainSpatialProcessor, ExpressionProcessor)
        ):
            module.processor.backend = backend


class KeepsProcessors:
    """For networks with our processors: diffusers' switch for xformers would replace them, this one sets their kernel.

    Stands before ModelMixin among the bases.
    """

    def set_use_memory_efficient_attention_xformers(self, valid: bool, attention_op: Any = None) -> None:
        """What diffusers' own switches call; the children are not asked."""
        assert isinstance(self, nn.Module)
        set_attention(self, "xformers" if valid else "sdpa")
