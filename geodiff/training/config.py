"""What a training run is told, and its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from geodiff.errors import ConfigError
from geodiff.models.sampling import SamplingConfig
from geodiff.training.objective import LossConfig
from geodiff.training.reading import ReadingConfig
from geodiff.training.reconstruction import ReconstructionConfig

PRECISIONS = ("no", "bf16", "fp16")
KEPT_IN = ("disk", "memory", "device")
COMPILED = ("none", "blocks", "whole")


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    stage: see `stages.STAGES`. model: a name in `networks.MODELS`. start: weights to begin with, named as
    `assets.find_weights` takes them: this program's, or Stable Diffusion 1.5's in diffusers' layout. motion:
    AnimateDiff's motion modules to begin clips with. xnemo: folder of X-NeMo's tensors to begin with. autoencoder:
    folder of one trained before, for networks that begin fresh. encoder: folder of an expression encoder that was
    trained by itself, put over that of the networks where a run begins. encoder_fixed: whether the encoder stays as
    it is: in short runs end-to-end gradients silence it before the networks listen. steps: in all, also after a
    resume. first_step: number of the step that a run without a checkpoint begins with: where an earlier run ended
    whose weights alone, `start`, could travel. moment_warmup: steps from there on that only gather the optimizer's
    moments, so that the loss does not jump.

    batch: samples a step, all processes together. microbatch: how many of them a process takes through the networks at
    once, 0 for its whole share; fewer need less memory and give the same step. precision: no | bf16 | fp16.
    channels_last: memory layout of convolutions. compile: none | blocks | whole: what torch.compile fuses, networks'
    repeated blocks or each network as one graph (minutes at the start, faster for small ones). balance: draw rare
    expressions more often. keep_in: disk | memory | device: where samples of synthetic sets wait; in memory and on the
    device they wait decoded. workers: processes that decode what waits on disk.

    checkpoint_minutes: between two checkpoints. max_minutes: stop with a checkpoint after that long, 0 for never.
    log_every, sheet_every: steps between two lines of the log and between two sheets of `sheet_clips` held-out samples,
    0 for no sheets. tensorboard: log for it as well, where it is installed.
    """

    stage: str = "images"
    model: str = "preview"
    start: str | None = None
    motion: str = ""
    xnemo: str = ""
    autoencoder: str | None = None
    encoder: str | None = None
    encoder_fixed: bool = False
    steps: int = 80_000
    first_step: int = 0
    batch: int = 8
    microbatch: int = 0
    lr: float = 1e-5
    warmup: int = 500
    final_lr: float = 0.05
    moment_warmup: int = 0
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    precision: str = "no"
    channels_last: bool = True
    gradient_checkpointing: bool = False
    compile: str = "none"
    balance: bool = True
    keep_in: str = "disk"
    workers: int = 0
    seed: int = 0
    checkpoint_minutes: float = 10.0
    max_minutes: float = 0.0
    log_every: int = 20
    tensorboard: bool = True
    sheet_every: int = 1000
    sheet_clips: int = 4
    loss: LossConfig = field(default_factory=LossConfig)
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(steps=8, guidance_scale=1.0, init="reference", share_frame_noise=True)
    )

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.microbatch < 0:
            raise ConfigError(
                f"`steps` and `batch` must be at least 1 and `microbatch` 0 or more; found {self.steps}, {self.batch} "
                f"and {self.microbatch}."
            )
        if self.encoder_fixed and not (self.encoder or self.start):
            raise ConfigError(
                "`encoder_fixed` keeps an expression encoder that was trained before, and neither `encoder` nor "
                "`start` names one: set encoder=FOLDER, or leave encoder_fixed out."
            )
        for name, known in (("precision", PRECISIONS), ("keep_in", KEPT_IN), ("compile", COMPILED)):
            if getattr(self, name) not in known:
                raise ConfigError(f"`{name}` must be one of {', '.join(known)}; found {getattr(self, name)!r}.")

    def share(self, processes: int) -> tuple[int, int]:
        """Samples a step of a process, and how many it takes at once. Raises ConfigError where these do not fit."""
        own, rest = divmod(self.batch, processes)
        at_once = min(self.microbatch or own, own)
        if rest or own % at_once:
            raise ConfigError(
                f"`batch` is shared evenly by all processes and `microbatch` divides a share; found {self.batch} for "
                f"{processes} processes and {self.microbatch}: choose multiples."
            )
        return own, at_once


def learning_rate(config: TrainConfig, step: int) -> float:
    """Zero while moments are gathered; linear warm-up, then half a cosine down to `final_lr` times the peak."""
    if 0 <= step - config.first_step < config.moment_warmup:
        return 0.0
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * (config.final_lr + (1 - config.final_lr) * cosine)
