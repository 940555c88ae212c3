"""Sampling: DDIM with guidance on both domains at once, a chosen start, and windows over long clips.

Used by the pipeline and by training's sample sheets. The denoiser is anything with the call signature of `JointUNet`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from geodiff.errors import ConfigError
from geodiff.models.joint_unet import NUM_DOMAINS, Condition

Denoiser = Callable[[Tensor, Tensor, Condition], Tensor]
Progress = Callable[[int, int], None]
INITS = ("reference", "proposal", "noise")


@dataclass(frozen=True)
class SamplingConfig:
    """How clips are sampled (paper A.1; defaults are the paper's).

    steps: DDIM steps. guidance_scale: 1 turns guidance off. init: what is noised to start from. strength: 1 starts
    at the schedule's noisiest step, less starts later and keeps more of `init`. window, overlap: frames denoised
    together and shared by neighbours. views_at_once: clips denoised in one batch. branches_together: both guidance
    branches in one batch. share_frame_noise: the same noise for all frames of a clip, steadier where no temporal
    modules hold the frames together. temperature: scale of the noise that sampling starts from; below 1 the result
    moves from a draw towards the most likely frame, and 0 makes it deterministic.
    """

    steps: int = 25
    guidance_scale: float = 2.5
    init: str = "reference"
    strength: float = 1.0
    window: int = 16
    overlap: int = 4
    views_at_once: int = 1
    branches_together: bool = True
    share_frame_noise: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.init not in INITS:
            raise ConfigError(f"`init` must be one of {', '.join(INITS)}; found {self.init!r}.")
        if not 0 < self.strength <= 1:
            raise ConfigError(f"`strength` must lie above 0 and at most at 1; found {self.strength}.")
        if not 0 <= self.temperature <= 1:
            raise ConfigError(f"`temperature` must lie between 0 and 1; found {self.temperature}.")
        if not 0 <= self.overlap < self.window:
            raise ConfigError(f"`overlap` must be smaller than `window`; found {self.overlap} and {self.window}.")
        if self.steps < 1 or self.views_at_once < 1:
            raise ConfigError(
                f"`steps` and `views_at_once` must be at least 1; found {self.steps} and {self.views_at_once}."
            )


def windows(length: int, window: int, overlap: int) -> list[slice]:
    """Slices of at most `window` frames that cover `length` frames; neighbours share at least `overlap` frames.

    All have the same size; the last one ends at the last frame, whatever the length, and may overlap more than the
    others.
    """
    if length <= window:
        return [slice(0, length)]
    starts = list(range(0, length - window, window - overlap)) + [length - window]
    return [slice(start, start + window) for start in starts]


def guide(without: Tensor, given: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: without + scale * (given - without)."""
    return without + scale * (given - without)


def predict(
    denoiser: Denoiser,
    sample: Tensor,
    timestep: Tensor,
    condition: Condition,
    null_tokens: Tensor,
    config: SamplingConfig,
) -> Tensor:
    """The guided prediction for a batch of clips, both domains together; only the expression is dropped.

    sample: (B, D, C, T, h, w); timestep: scalar; null_tokens: (tokens, width). With several windows, the mean where
    they overlap.
    """
    total = torch.zeros_like(sample)
    count = sample.new_zeros(sample.shape[3])
    for frames in windows(sample.shape[3], config.window, config.overlap):
        total[:, :, :, frames] += _predict_window(
            denoiser, sample[:, :, :, frames], timestep, condition.frames(frames), null_tokens, config
        )
        count[frames] += 1
    return total / count[:, None, None]


def _predict_window(
    denoiser: Denoiser,
    sample: Tensor,
    timestep: Tensor,
    condition: Condition,
    null_tokens: Tensor,
    config: SamplingConfig,
) -> Tensor:
    timesteps = timestep.expand(len(sample))

    def run(latents: Tensor, times: Tensor, given: Condition) -> Tensor:
        """Under autocast the prediction may come in half precision; steps are taken in the latents' own."""
        return denoiser(latents, times, given).to(sample.dtype)

    if config.guidance_scale == 1:
        return run(sample, timesteps, condition)
    dropped = condition.with_expression(null_tokens)
    if config.branches_together:
        both = run(torch.cat((sample, sample)), timesteps.repeat(2), condition.stacked_on(dropped))
        without, given = both.chunk(2)
    else:
        without, given = run(sample, timesteps, dropped), run(sample, timesteps, condition)
    return guide(without, given, config.guidance_scale)


def draw_noise(shape: tuple[int, ...], generator: torch.Generator | None, share_frames: bool = False) -> Tensor:
    """Noise (B, D, C, T, h, w), identical across the domains (paper 3.2), drawn on the generator's device."""
    batch, domains, channels, frames, height, width = shape
    device = generator.device if generator is not None else torch.device("cpu")
    drawn = 1 if share_frames else frames
    noise = torch.randn(batch, 1, channels, drawn, height, width, generator=generator, device=device)
    return noise.expand(batch, domains, channels, frames, height, width)


def start_latents(
    condition: Condition, reference: Tensor | None, shape: tuple[int, ...], config: SamplingConfig
) -> Tensor | None:
    """(B, D, C, T, h, w) clean latents that sampling starts from, or None for pure noise.

    reference: (B or 1, D, C, h, w) latents of the portrait and its normal map (paper A.1).
    """
    if config.init == "noise":
        return None
    if config.init == "proposal":
        if condition.proposal is None:
            raise ConfigError("`init: proposal` needs a proposal and this model takes none: use `init: reference`.")
        return condition.proposal
    if reference is None:
        raise ValueError("init: reference needs reference latents")
    return reference[:, :, :, None].expand(shape)


def timesteps_for(scheduler: DDIMScheduler, config: SamplingConfig) -> Tensor:
    """The timesteps to visit, noisiest first; `strength` leaves out the first ones."""
    scheduler.set_timesteps(config.steps)
    kept = max(1, round(config.steps * config.strength))
    return scheduler.timesteps[-kept:]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    scheduler: DDIMScheduler,
    condition: Condition,
    null_tokens: Tensor,
    latent_shape: tuple[int, int, int],
    *,
    config: SamplingConfig,
    reference: Tensor | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Denoise B clips of T frames: (B, D, C, T, h, w) clean latents.

    latent_shape: (C, h, w). Clips are taken `views_at_once` at a time; noise is drawn clip by clip, so the grouping
    does not change the result. progress(done, total) is called after every step.
    """
    batch, frames = condition.size
    channels, height, width = latent_shape
    shape = (1, NUM_DOMAINS, channels, frames, height, width)
    noise = torch.cat([draw_noise(shape, generator, config.share_frame_noise) for _ in range(batch)])
    timesteps = timesteps_for(scheduler, config)
    groups = [slice(i, min(i + config.views_at_once, batch)) for i in range(0, batch, config.views_at_once)]
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(groups) * len(timesteps))

    results = []
    for group in groups:
        chosen = reference if reference is None or len(reference) == 1 else reference[group]
        latents = config.temperature * noise[group].to(condition.pose_map)
        start = start_latents(condition.clips(group), chosen, tuple(latents.shape), config)
        if start is not None:
            latents = scheduler.add_noise(start.contiguous(), latents.contiguous(), timesteps[:1])
        for step in _denoise(denoiser, scheduler, latents, timesteps, condition.clips(group), null_tokens, config):
            latents = step
            advance()
        results.append(latents)
    return torch.cat(results)


def _denoise(
    denoiser: Denoiser,
    scheduler: DDIMScheduler,
    latents: Tensor,
    timesteps: Tensor,
    condition: Condition,
    null_tokens: Tensor,
    config: SamplingConfig,
) -> Iterator[Tensor]:
    """DDIM with eta = 0 from `latents` at `timesteps[0]`: yields the latents after each step."""
    for timestep in timesteps:
        prediction = predict(denoiser, latents, timestep.to(latents.device), condition, null_tokens, config)
        latents = scheduler.step(prediction, timestep, latents, eta=0.0).prev_sample
        yield latents
