"""Other models' weights into the networks of this program, with an account of every tensor.

Sources, later ones over earlier ones: a Stable-Diffusion-1.5 folder in diffusers' layout (`unet`, `vae`), X-NeMo's
released tensors (denoiser, temporal modules, reference net), AnimateDiff's motion modules in their original naming or
as diffusers' MotionAdapter. The paper (3.2) builds on X-NeMo, which builds on the other two.

What no source has starts so that the network begins as the same function as its source: pose channels of the first
convolution, the domain label and the values of the attention to expression tokens are zero, temporal modules silent.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geodiff import assets
from geodiff.errors import AssetError, ConfigError
from geodiff.files import read_json, write_json
from geodiff.models.networks import FULL, MODEL_FILE, ModelConfig, Networks, build_networks
from geodiff.models.weight_files import PICKLED, folder_file, read_foreign

REPORT_FILE = "conversion.json"
#: X-NeMo's files, whatever their suffix.
XNEMO_FILES = {
    "denoiser": "xnemo_denoising_unet", "temporal": "xnemo_temporal_module", "reference": "xnemo_reference_unet",
    "encoder": "xnemo_motion_encoder",
}  # fmt: skip
#: X-NeMo was trained with more noise at the end of the schedule than Stable Diffusion.
XNEMO_BETA_END = 0.02
PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
STAGES = ("images", "clips")

#: A tensor's name in a source -> its name in our network, or None where it has no counterpart.
Rename = Callable[[str], "str | None"]


@dataclass
class ConvertConfig:
    """What is converted.

    base: Stable Diffusion 1.5 or a model of its kind, a folder or hub id with `unet` and `vae`; or a folder of this
    program's own weights, whose temporal modules are to be set. motion: AnimateDiff's motion modules, a file, a folder
    or a hub id. xnemo: a folder of X-NeMo's files. vae: an autoencoder's folder, instead of the base's. stage: images
    leaves temporal modules out, as the first stage of training wants it. precision: of the written files.
    """

    base: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    motion: str = ""
    xnemo: str = ""
    vae: str = ""
    stage: str = "clips"
    precision: str = "fp16"

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ConfigError(f"`stage` must be one of {', '.join(STAGES)}; found {self.stage!r}.")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"`precision` must be one of {', '.join(PRECISIONS)}; found {self.precision!r}.")
        if self.stage == "images" and self.motion:
            raise ConfigError("Motion modules need `stage=clips`; found `stage=images`: leave one of them out.")


@dataclass
class SourceReport:
    """What became of one file. Names are the file's own.

    mapped: tensors that were copied. padded: among them, those with more input channels here, the new ones zero.
    mismatched: the counterpart has another shape (name, theirs, ours). unused: no counterpart. tables: fixed position
    tables, which are computed here; different ones are listed as mismatched.
    """

    source: str
    network: str
    mapped: int = 0
    padded: list[str] = field(default_factory=list)
    tables: int = 0
    mismatched: list[tuple[str, list[int], list[int]]] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


@dataclass
class Report:
    """The account of a conversion. missing: network -> {tensor: how it starts} of what no source had."""

    sources: list[SourceReport] = field(default_factory=list)
    missing: dict[str, dict[str, str]] = field(default_factory=dict)

    def rows(self) -> list[list[str]]:
        """A table, its header first."""
        rows = [["source", "network", "mapped", "of these padded", "other shape", "unused"]]
        for s in self.sources:
            counts = (s.mapped, len(s.padded), len(s.mismatched), len(s.unused))
            rows.append([s.source, s.network, *map(str, counts)])
        return rows


class Filler:
    """Puts sources into one network's tensors and remembers which have been set."""

    def __init__(self, name: str, module: nn.Module, report: Report) -> None:
        self.name, self.report = name, report
        self.state = module.state_dict()
        self.filled: set[str] = set()

    def take(self, source: str, tensors: Mapping[str, Tensor], rename: Rename) -> SourceReport:
        """Copy what fits."""
        told = SourceReport(source, self.name)
        self.report.sources.append(told)
        for name, value in tensors.items():
            target = rename(name)
            if target is None or target not in self.state:
                told.unused.append(name)
            elif target.endswith("pos_embed.pe"):
                told.tables += 1
                self._check_table(told, name, value, self.state[target])
                self.filled.add(target)
            elif (fitted := fit_shape(value, self.state[target])) is None:
                told.mismatched.append((name, list(value.shape), list(self.state[target].shape)))
            else:
                if fitted.numel() != value.numel():
                    told.padded.append(name)
                self.state[target].copy_(fitted)
                self.filled.add(target)
                told.mapped += 1
        return told

    @staticmethod
    def _check_table(told: SourceReport, name: str, value: Tensor, ours: Tensor) -> None:
        length = min(value.shape[1], ours.shape[1])
        if value.shape[2] != ours.shape[2] or not torch.allclose(
            value[:, :length].float(), ours[:, :length], atol=2e-3
        ):
            told.mismatched.append((name, list(value.shape), list(ours.shape)))

    def finish(self) -> None:
        """Set how the tensors start that no source had, so that the network begins as its sources' function."""
        missing = {}
        for name, value in self.state.items():
            if name in self.filled:
                continue
            if name.endswith(("attn2.to_v.weight", "time_embedding.cond_proj.weight")) and "motion_modules" not in name:
                value.zero_()
            missing[name] = "zero" if not value.any() else "fresh"
        self.report.missing[self.name] = missing


@torch.no_grad()
def fit_shape(value: Tensor, target: Tensor) -> Tensor | None:
    """`value` in the shape of `target`: equal, a 1x1 convolution for a linear layer or the other way round, or the
    first convolution with further input channels, which get zeros. None where none of it applies.
    """
    if value.shape == target.shape:
        return value
    if value.numel() == target.numel() and [n for n in value.shape if n > 1] == [n for n in target.shape if n > 1]:
        return value.reshape(target.shape)
    if value.ndim == target.ndim == 4 and value.shape[1] < target.shape[1]:
        extra = target.shape[1] - value.shape[1]
        if value.shape[::2] == target.shape[::2] and value.shape[3] == target.shape[3]:
            return torch.cat((value, value.new_zeros(value.shape[0], extra, *value.shape[2:])), dim=1)
    return None


def rename_unet(name: str) -> str | None:
    """A spatial tensor of a UNet of diffusers; what belongs to modules between the blocks has no counterpart."""
    return None if "motion_modules." in name or "temporal_modules." in name else f"unet.{name}"


_TEMPORAL = re.compile(
    r"(?P<block>.*)\.(?P<kind>motion|temporal)_modules\.(?P<index>\d+)\.(?:temporal_transformer\.)?(?P<rest>.*)"
)


def rename_motion(name: str, kind: str = "motion") -> str | None:
    """A temporal tensor: AnimateDiff's original naming, diffusers' MotionAdapter (kind motion), X-NeMo (kind temporal,
    because there motion_modules attend to the expression).
    """
    found = _TEMPORAL.fullmatch(name)
    if found is None or found["kind"] != kind:
        return None
    rest = re.sub(r"attention_blocks\.\d+\.pos_encoder\.pe", "pos_embed.pe", found["rest"])
    rest = re.sub(r"attention_blocks\.(\d+)\.", lambda m: f"attn{int(m[1]) + 1}.", rest)
    rest = re.sub(r"\bnorms\.(\d+)\.", lambda m: f"norm{int(m[1]) + 1}.", rest)
    return f"unet.{found['block']}.motion_modules.{found['index']}.{rest.replace('ff_norm.', 'norm3.')}"


_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def rename_vae(name: str) -> str | None:
    """A tensor of `AutoencoderKL`, with its attention in today's or in the older naming."""
    return "network." + re.sub(
        r"(attentions\.\d+\.)(query|key|value|proj_attn)\.", lambda m: f"{m[1]}{_VAE_ATTENTION[m[2]]}.", name
    )


def model_of(base: Path, config: ConvertConfig, vae: Path) -> ModelConfig:
    """The paper's configuration at the sizes of the base's UNet and autoencoder, which for SD 1.5 is FULL."""
    unet, latents = read_json(base / "unet" / "config.json"), read_json(vae / "config.json")
    channels = tuple(unet["block_out_channels"])
    heads = unet.get("num_attention_heads") or unet.get("attention_head_dim", 8)
    size = dataclasses.replace(
        FULL.unet,
        channels=channels,
        attention=tuple("CrossAttn" in kind for kind in unet["down_block_types"]),
        heads=heads if isinstance(heads, int) else tuple(heads),
        layers=unet.get("layers_per_block", 2),
        groups=unet.get("norm_num_groups", 32),
    )
    names = ("block_out_channels", "down_block_types", "up_block_types", "layers_per_block", "latent_channels",
             "norm_num_groups", "scaling_factor")  # fmt: skip
    settings = {name: latents[name] for name in names if name in latents}
    usual = {**FULL_AUTOENCODER, **{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}}
    schedule = dataclasses.replace(FULL.schedule, beta_end=XNEMO_BETA_END) if config.xnemo else FULL.schedule
    return dataclasses.replace(
        FULL,
        unet=size,
        schedule=schedule,
        motion=config.stage == "clips",
        autoencoder_args={} if usual == FULL_AUTOENCODER else {"settings": settings},
    )


#: What SD 1.5's autoencoder has, for telling whether another one differs from it.
FULL_AUTOENCODER: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}


@torch.no_grad()
def convert(config: ConvertConfig, out: Path | str) -> Report:
    """Write `out` in diffusers' layout, with `model.json` and `conversion.json`; returns the account.

    Raises AssetError where a source is missing or is not what it should be.
    """
    base = assets.find_weights(
        config.base, parts=("", "unet/", "vae/", "autoencoder/", "reference_net/", "expression_encoder/")
    )
    report = Report()
    networks = _own(base, config, report) if (base / MODEL_FILE).is_file() else _foreign(base, config, report)
    networks.save(out, PRECISIONS[config.precision], folders=True)
    write_json(Path(out) / REPORT_FILE, {"config": dataclasses.asdict(config), **dataclasses.asdict(report)})
    return report


def _foreign(base: Path, config: ConvertConfig, report: Report) -> Networks:
    if not (base / "unet" / "config.json").is_file():
        raise AssetError(
            f"the base {config.base!r} must hold `unet` and `vae` as diffusers lays them out, and it does not"
        )
    vae = assets.find_weights(config.vae) if config.vae else base / "vae"
    try:
        networks = build_networks(model_of(base, config, vae))
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise AssetError(
            f"`config.json` of the base's `unet` and `vae` must describe networks as diffusers does, and those of "
            f"{config.base} do not ({type(error).__name__}: {str(error)[:120]}): fetch them again"
        ) from error
    fillers = {name: Filler(name, module, report) for name, module in networks.modules()}
    unet, reference = fillers["unet"], fillers["reference_net"]
    tensors = read_foreign(folder_file(base / "unet", f"the UNet of {config.base}"))
    unet.take("base unet", tensors, rename_unet)
    reference.take("base unet", tensors, rename_unet)
    fillers["autoencoder"].take("vae", read_foreign(folder_file(vae, f"the autoencoder of {config.base}")), rename_vae)
    if config.xnemo:
        _take_xnemo(Path(config.xnemo).expanduser(), unet, reference, report)
    if config.motion:
        unet.take("motion modules", read_foreign(motion_file(config.motion)), rename_motion)
    for filler in fillers.values():
        filler.finish()
    if missing := [name for name in report.missing["autoencoder"]]:
        raise AssetError(
            f"the autoencoder {vae} lacks {missing[0]} and {len(missing) - 1} more: take the one of SD 1.5"
        )
    return networks


def _own(base: Path, config: ConvertConfig, report: Report) -> Networks:
    """Our own weights, of the first stage or the second, with other temporal modules."""
    networks = Networks.load(base)
    if not config.motion:
        raise ConfigError(
            f"{base} is converted already; set `motion` to give it temporal modules, or name another base."
        )
    if not networks.config.motion:
        model = dataclasses.replace(networks.config, motion=True)
        video = build_networks(model).unet
        video.load_2d(networks.unet.state_dict())
        networks = dataclasses.replace(networks, config=model, unet=video)
    filler = Filler("unet", networks.unet, report)
    filler.filled = {name for name in filler.state if "motion_modules" not in name}
    filler.take("motion modules", read_foreign(motion_file(config.motion)), rename_motion)
    filler.finish()
    return networks


def _take_xnemo(folder: Path, unet: Filler, reference: Filler, report: Report) -> None:
    files = {part: _xnemo_file(folder, stem) for part, stem in XNEMO_FILES.items()}
    for part in ("denoiser", "reference"):
        if files[part] is None:
            raise AssetError(
                f"X-NeMo's folder must hold {XNEMO_FILES[part]}.pth or .safetensors, and {folder} does not"
            )

    def denoiser(name: str) -> str | None:
        return rename_unet(name) or rename_motion(name, "temporal")

    for part, filler, rename in (
        ("denoiser", unet, denoiser),
        ("temporal", unet, denoiser),
        ("reference", reference, rename_unet),
    ):
        if (file := files[part]) is not None:
            filler.take(f"X-NeMo {part}", read_foreign(file), rename)
    if (file := files["encoder"]) is not None:
        # Another architecture: our encoder is trained end to end (paper 3.1).
        told = SourceReport("X-NeMo encoder", "expression_encoder", unused=sorted(read_foreign(file)))
        report.sources.append(told)


def _xnemo_file(folder: Path, stem: str) -> Path | None:
    return next((p for s in (".safetensors", *PICKLED) if (p := folder / f"{stem}{s}").is_file()), None)


def motion_file(spec: str) -> Path:
    """The file of motion modules that a path or a hub id names."""
    path = Path(spec).expanduser()
    return path if path.is_file() else folder_file(assets.find_weights(spec), f"the motion modules {spec}")
