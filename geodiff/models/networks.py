"""All networks of one model: their configuration, construction, and storage as a folder of safetensors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import DDIMScheduler
from torch import nn

from geodiff.errors import AssetError, ConfigError
from geodiff.files import make_folder, save_tensors, write_json
from geodiff.models.autoencoder import AUTOENCODERS, Autoencoder
from geodiff.models.expression_encoder import ExpressionEncoder
from geodiff.models.joint_unet import JointUNet, UNetConfig
from geodiff.models.reference_net import ReferenceNet
from geodiff.models.weight_files import DIFFUSERS_FILE, network_file, read_state

MODEL_FILE = "model.json"


@dataclass(frozen=True)
class EncoderConfig:
    """The expression encoder: arguments of `ExpressionEncoder`. The defaults are X-NeMo's token count and width."""

    tokens: int = 32
    width: int = 16
    channels: tuple[int, ...] = (64, 128, 256, 512)
    bottleneck: int = 512
    crop: int = 64
    null_kind: str = "learned"


@dataclass(frozen=True)
class ScheduleConfig:
    """The diffusion schedule: arguments of `DDIMScheduler`.

    Without zero terminal SNR: it erases the start from the reference, and together with epsilon prediction it
    divides by zero.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    timestep_spacing: str = "trailing"
    num_train_timesteps: int = 1000
    rescale_betas_zero_snr: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of all networks. The defaults are the paper's network at Stable Diffusion 1.5's size.

    image_size: pixels of a side the model is trained at. autoencoder: kind, and its arguments. prediction, proposal,
    motion, domain_attention: see `JointUNet`. reference_layers: residual blocks per level of the reference net (None:
    as the denoiser). reference_domains: 2 if the reference net also sees the reference's normal map.
    """

    image_size: int = 512
    autoencoder: str = "kl"
    autoencoder_args: dict[str, Any] = field(default_factory=dict)
    unet: UNetConfig = field(default_factory=UNetConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    prediction: str = "epsilon"
    proposal: bool = False
    motion: bool = True
    reference_layers: int | None = None
    reference_domains: int = 2
    domain_attention: bool = True

    def __post_init__(self) -> None:
        if self.autoencoder not in AUTOENCODERS:
            raise ConfigError(f"`autoencoder` must be one of {', '.join(AUTOENCODERS)}; found {self.autoencoder!r}.")
        if self.prediction == "epsilon" and self.schedule.rescale_betas_zero_snr:
            raise ConfigError(
                "Zero terminal SNR cannot be used with epsilon prediction; found both: choose v_prediction or sample."
            )

    @staticmethod
    def from_dict(values: dict[str, Any]) -> ModelConfig:
        """From JSON: lists become tuples, nested dictionaries their dataclasses."""
        return _from_dict(ModelConfig, values)


def _from_dict(schema: type, values: dict[str, Any]) -> Any:
    nested = {"unet": UNetConfig, "encoder": EncoderConfig, "schedule": ScheduleConfig}
    known = {f.name for f in dataclasses.fields(schema)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"A model has no setting {unknown[0]!r}; known are {', '.join(sorted(known))}.")
    converted = {}
    for name, value in values.items():
        if name in nested and isinstance(value, dict):
            value = _from_dict(nested[name], value)
        converted[name] = tuple(value) if isinstance(value, list) else value
    return schema(**converted)


#: The paper's network: 512 px, Stable Diffusion's latents, 7 input channels.
FULL = ModelConfig()

#: For CPUs: invertible wavelet latents at 32x32, no attention at full latent resolution, a proposal to correct.
PREVIEW = ModelConfig(
    image_size=256,
    autoencoder="wavelet",
    autoencoder_args={"factor": 8},
    unet=UNetConfig(
        channels=(64, 128, 192),
        attention=(False, True, True),
        heads=(2, 4, 6),
        layers=1,
        temporal_layers=(0, 1, 1),
    ),
    encoder=EncoderConfig(tokens=8, width=32, channels=(32, 64, 96, 128), bottleneck=128),
    # Noise enough that the first step sees nothing of the true broad colours, which training would teach it to trust.
    schedule=ScheduleConfig(beta_end=0.02),
    prediction="sample",
    proposal=True,
    reference_domains=1,
)

#: For tests: everything present, nothing large.
TEST = ModelConfig(
    image_size=64,
    autoencoder="wavelet",
    autoencoder_args={"factor": 8},
    unet=UNetConfig(
        channels=(32, 64), attention=(False, True), heads=(1, 2), layers=1, groups=8, temporal_layers=(0, 1)
    ),
    encoder=EncoderConfig(tokens=4, width=16, channels=(8, 16, 24, 32), bottleneck=16),
    prediction="sample",
    proposal=True,
)

MODELS = {"full": FULL, "preview": PREVIEW, "test": TEST}


@dataclass
class Networks:
    """The networks of one model and their configuration."""

    config: ModelConfig
    autoencoder: Autoencoder
    reference_net: ReferenceNet
    expression_encoder: ExpressionEncoder
    unet: JointUNet

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        for name in ("autoencoder", "reference_net", "expression_encoder", "unet"):
            yield name, getattr(self, name)

    def trained(self) -> dict[str, nn.Module]:
        """What training changes: all but the autoencoder."""
        return {name: module for name, module in self.modules() if name != "autoencoder"}

    def to(self, device: torch.device | str) -> Networks:
        for _, module in self.modules():
            module.to(device)
        return self

    def eval(self) -> Networks:
        for _, module in self.modules():
            module.eval()
        return self

    def save(self, folder: Path | str, dtype: torch.dtype = torch.float32, folders: bool = False) -> None:
        """Write `model.json` and one safetensors file per network; each file appears at once or not at all.

        folders: diffusers' layout, a folder per network; `load` reads both.
        """
        folder = make_folder(folder)
        for name, module in self.modules():
            state = {key: value.to(dtype) for key, value in module.state_dict().items()}
            save_tensors(folder / name / DIFFUSERS_FILE if folders else folder / f"{name}.safetensors", state)
        write_json(folder / MODEL_FILE, asdict(self.config))

    @staticmethod
    def load(folder: Path | str, dtype: torch.dtype = torch.float32) -> Networks:
        """Read what `save` wrote, of any precision. Raises AssetError if a file is missing or does not fit."""
        folder = Path(folder)
        try:
            config = ModelConfig.from_dict(json.loads((folder / MODEL_FILE).read_text()))
        except (OSError, ValueError) as error:
            raise AssetError(
                f"Weights need a readable {MODEL_FILE} in {folder}; found none ({error}): fetch them again."
            ) from error
        # No time or memory for random weights that the files replace.
        with init_empty_weights(include_buffers=False):
            networks = build_networks(config)
        for name, module in networks.modules():
            load_weights(module, network_file(folder, name), dtype)
        return networks.eval()


def channels_last(module: nn.Module) -> None:
    """Give convolutions the memory layout in which CPUs and GPUs are fastest, in place."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def load_weights(module: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Give a constructed module, also one on the meta device, the tensors of a safetensors file of any float precision
    as its own, in `dtype`; every tensor must be there and fit. Raises AssetError.
    """
    try:
        state = read_state(path)
        state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
        module.load_state_dict(state, strict=True, assign=True)
    except (AssetError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise AssetError(
            f"The weights {path} do not fit this program ({reason}): fetch them again or choose others."
        ) from error
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point() and buffer.dtype != dtype:
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, buffer.to(dtype))


def build_networks(config: ModelConfig) -> Networks:
    """Freshly initialised networks of the given sizes, float32 on the CPU (or the meta device inside
    `torch.device("meta")`).
    """
    autoencoder = AUTOENCODERS[config.autoencoder](**config.autoencoder_args)
    reference = config.unet
    if config.reference_layers is not None:
        reference = dataclasses.replace(config.unet, layers=config.reference_layers)
    channels, width = autoencoder.channels, config.encoder.width
    return Networks(
        config=config,
        autoencoder=autoencoder.requires_grad_(False).eval(),
        reference_net=ReferenceNet(channels, width, asdict(reference), config.reference_domains),
        expression_encoder=ExpressionEncoder(**asdict(config.encoder)),
        unet=JointUNet(
            channels,
            width,
            asdict(config.unet),
            config.prediction,
            config.proposal,
            config.motion,
            config.domain_attention,
        ),
    )


def build_scheduler(config: ModelConfig) -> DDIMScheduler:
    """The DDIM scheduler of a model; latents are never clipped, the last step ends at the clean latents."""
    return DDIMScheduler(
        **asdict(config.schedule), prediction_type=config.prediction, clip_sample=False, set_alpha_to_one=True
    )
