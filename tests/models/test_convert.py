"""Conversion of other models' weights: tiny files in the same layouts as the released ones."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from geodiff import cli
from geodiff.errors import AssetError, ConfigError
from geodiff.models.convert import (
    REPORT_FILE,
    ConvertConfig,
    convert,
    model_of,
    rename_motion,
    rename_unet,
)
from geodiff.models.joint_unet import Condition
from geodiff.models.networks import FULL, Networks, build_networks

TEXT = 24
SIDE = 8


def random_weights(module: torch.nn.Module, seed: int) -> None:
    """Zero-initialised layers get weights too, so that a tensor in the wrong place shows."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = parameter.data + 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Stable Diffusion's layout and kind, small."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=8,
        cross_attention_dim=TEXT,
    )
    random_weights(unet, 1)
    unet.save_pretrained(folder / "unet")
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        layers_per_block=1,
    )
    random_weights(vae, 2)
    vae.save_pretrained(folder / "vae")
    return folder


def adapter(seed: int = 3, length: int = 32) -> MotionAdapter:
    torch.manual_seed(seed)
    made = MotionAdapter(
        block_out_channels=(32, 64),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=8,
        motion_max_seq_length=length,
    )
    random_weights(made, seed)
    return made


def original_names(state: dict[str, Tensor], kind: str = "motion_modules") -> dict[str, Tensor]:
    """MotionAdapter's tensors in the naming of AnimateDiff's own files, or with another kind in X-NeMo's."""
    renamed = {}
    for name, value in state.items():
        new = re.sub(r"motion_modules\.(\d+)\.", rf"{kind}.\1.temporal_transformer.", name)
        new = re.sub(r"attn([12])\.", lambda m: f"attention_blocks.{int(m[1]) - 1}.", new)
        new = re.sub(r"norm([12])\.", lambda m: f"norms.{int(m[1]) - 1}.", new).replace("norm3.", "ff_norm.")
        if "pos_embed" in new:
            for block in (0, 1):
                renamed[new.replace("pos_embed", f"attention_blocks.{block}.pos_encoder")] = value.clone()
        else:
            renamed[new] = value
    return renamed


def plain_condition(networks: Networks, frames: int) -> Condition:
    encoder = networks.config.encoder
    return Condition(torch.zeros(1, 3, frames, SIDE, SIDE), torch.zeros(1, frames, encoder.tokens, encoder.width))


def same_in_both_domains(frames: int) -> tuple[Tensor, Tensor]:
    plain = torch.randn(1, 1, 4, frames, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
    return plain, plain.expand(-1, 2, -1, -1, -1, -1)


def test_base_becomes_the_same_function(base: Path, tmp_path: Path) -> None:
    report = convert(ConvertConfig(base=str(base), stage="images", precision="fp32"), tmp_path)
    networks = Networks.load(tmp_path)
    plain, both = same_in_both_domains(3)
    theirs = UNet2DConditionModel.from_pretrained(base / "unet").eval()
    with torch.no_grad():
        ours = networks.unet(both, torch.tensor([300]), plain_condition(networks, 3))
        frames = plain[0, 0].transpose(0, 1)
        expected = theirs(frames, 300, torch.zeros(3, 5, TEXT)).sample.transpose(0, 1)
        tokens = plain_condition(networks, 3)
        tokens = dataclasses.replace(tokens, expression=torch.randn_like(tokens.expression))
        with_tokens = networks.unet(both, torch.tensor([300]), tokens)
    for domain in (0, 1):
        torch.testing.assert_close(ours[0, domain], expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(with_tokens, ours, atol=1e-6, rtol=0, msg="untrained tokens must change nothing")
    unet = next(s for s in report.sources if s.network == "unet")
    assert unet.padded == ["conv_in.weight"]
    assert all(re.search(r"attn2\.to_[kv]\.weight", name) for name, _, _ in unet.mismatched)
    assert not unet.unused
    assert set(report.missing["unet"].values()) == {"zero", "fresh"}
    assert report.missing["unet"]["unet.time_embedding.cond_proj.weight"] == "zero"


def test_reference_net_is_the_base_too(base: Path, tmp_path: Path) -> None:
    convert(ConvertConfig(base=str(base), stage="images", precision="fp32"), tmp_path)
    found = Networks.load(tmp_path).reference_net.state_dict()
    theirs = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    for name in ("down_blocks.0.resnets.0.conv1.weight", "up_blocks.1.attentions.1.transformer_blocks.0.norm1.weight"):
        torch.testing.assert_close(found[f"unet.{name}"], theirs[name])


@pytest.mark.parametrize("naming", ["today", "older", "convolutions"])
def test_autoencoder_of_any_naming(base: Path, tmp_path: Path, naming: str) -> None:
    vae = tmp_path / "vae"
    model = AutoencoderKL.from_pretrained(base / "vae").eval()
    model.save_pretrained(vae)
    if naming != "today":
        file = vae / "diffusion_pytorch_model.safetensors"
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        state = {}
        for name, value in load_file(file).items():
            for new, was in old.items():
                name = name.replace(f".{new}.", f".{was}.")
            if naming == "convolutions" and ".query.weight" in name:
                value = value[..., None, None].contiguous()
            state[name] = value
        save_file(state, file)
    convert(
        ConvertConfig(base=str(base), vae=str(vae), stage="images", precision="fp32"),
        tmp_path / "out",
    )
    ours = Networks.load(tmp_path / "out").autoencoder
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        latents = model.encode(images).latent_dist.mode() * model.config.scaling_factor
        torch.testing.assert_close(ours.encode(images), latents, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.decode(latents), model.decode(latents / 0.18215).sample, atol=1e-4, rtol=0)
    assert (ours.channels, ours.factor) == (4, 2)


@pytest.mark.parametrize("layout", ["adapter", "original", "checkpoint"])
def test_motion_modules_of_any_layout_give_the_same_video_network(base: Path, tmp_path: Path, layout: str) -> None:
    made = adapter()
    if layout == "adapter":
        made.save_pretrained(tmp_path / "motion")
        spec = tmp_path / "motion"
    elif layout == "original":
        spec = tmp_path / "mm.safetensors"
        save_file(original_names(made.state_dict()), spec)
    else:
        spec = tmp_path / "mm.ckpt"
        renamed = {f"module.{name}": value for name, value in original_names(made.state_dict()).items()}
        torch.save({"global_step": 7, "state_dict": renamed}, spec)
    report = convert(ConvertConfig(base=str(base), motion=str(spec), precision="fp32"), tmp_path / "out")
    told = report.sources[-1]
    assert (told.unused, told.mismatched) == ([], [])
    assert told.mapped == sum("pos_embed" not in name for name in made.state_dict())
    assert not any("motion_modules" in name for name in report.missing["unet"])

    networks = Networks.load(tmp_path / "out")
    theirs = UNetMotionModel.from_unet2d(UNet2DConditionModel.from_pretrained(base / "unet"), made).eval()
    plain, both = same_in_both_domains(5)
    with torch.no_grad():
        ours = networks.unet(both, torch.tensor([40]), plain_condition(networks, 5))
        expected = theirs(plain[0], 40, torch.zeros(5, 3, TEXT)).sample
    for domain in (0, 1):
        torch.testing.assert_close(ours[:, domain], expected, atol=5e-5, rtol=1e-4)


def test_shorter_position_tables_are_no_fault_and_other_tables_are(base: Path, tmp_path: Path) -> None:
    short = adapter(length=24).state_dict()
    save_file(short, tmp_path / "short.safetensors")
    report = convert(ConvertConfig(base=str(base), motion=str(tmp_path / "short.safetensors")), tmp_path / "out")
    assert report.sources[-1].tables
    assert not report.sources[-1].mismatched
    other = {name: value + (1.0 if "pos_embed" in name else 0.0) for name, value in short.items()}
    save_file(other, tmp_path / "other.safetensors")
    report = convert(ConvertConfig(base=str(base), motion=str(tmp_path / "other.safetensors")), tmp_path / "out")
    assert all("pos_embed" in name for name, _, _ in report.sources[-1].mismatched)
    assert report.sources[-1].mismatched


def xnemo_folder(base: Path, folder: Path, suffix: str) -> tuple[Path, dict[str, Tensor], dict[str, Tensor]]:
    """X-NeMo's four files: base names, temporal_modules, and modules of its own that attend to the expression."""
    folder.mkdir()
    unet = {
        name: value + 0.01 for name, value in load_file(base / "unet" / "diffusion_pytorch_model.safetensors").items()
    }
    own = {"down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight": torch.zeros(32, 32)}
    temporal = original_names(adapter(5).state_dict(), "temporal_modules")
    files = {
        "xnemo_denoising_unet": unet | own,
        "xnemo_temporal_module": temporal,
        "xnemo_reference_unet": unet,
        "xnemo_motion_encoder": {"conv.weight": torch.zeros(3)},
    }
    for name, state in files.items():
        state = {key: value.clone() for key, value in state.items()}
        if suffix == "pth":
            torch.save(state, folder / f"{name}.pth")
        else:
            save_file(state, folder / f"{name}.safetensors")
    return folder, unet, temporal


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_xnemo_goes_over_the_base(base: Path, tmp_path: Path, suffix: str) -> None:
    folder, unet, _ = xnemo_folder(base, tmp_path / "xnemo", suffix)
    report = convert(ConvertConfig(base=str(base), xnemo=str(folder), precision="fp32"), tmp_path / "out")
    networks = Networks.load(tmp_path / "out")
    state = networks.unet.state_dict()
    name = "down_blocks.0.attentions.0.proj_in.weight"
    torch.testing.assert_close(state[f"unet.{name}"], unet[name])
    torch.testing.assert_close(networks.reference_net.state_dict()[f"unet.{name}"], unet[name])
    temporal = adapter(5).state_dict()
    for name in ("down_blocks.0.motion_modules.0.proj_in.weight", "mid_block.motion_modules.0.proj_out.bias"):
        torch.testing.assert_close(state[f"unet.{name}"], temporal[name])
    told = {source.source: source for source in report.sources}
    assert told["X-NeMo denoiser"].unused == ["down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight"]
    assert told["X-NeMo temporal"].mapped == sum("pos_embed" not in name for name in temporal)
    assert told["X-NeMo encoder"].unused == ["conv.weight"]
    assert networks.config.schedule.beta_end == 0.02


def test_1232_of_xnemos_names_map_at_full_size() -> None:
    """686 of SD 1.5's UNet and 546 temporal ones, by name; the attention to text and conv_in differ in shape."""
    with torch.device("meta"):
        ours = build_networks(FULL).unet.state_dict()
        theirs = UNet2DConditionModel(attention_head_dim=8, cross_attention_dim=768).state_dict()
        temporal = original_names(MotionAdapter(use_motion_mid_block=True).state_dict(), "temporal_modules")
    base = {name: value for name, value in theirs.items() if rename_unet(name) in ours}
    moved = {name: rename_motion(name, "temporal") for name in temporal if "pos_encoder" not in name}
    assert len(base) == 686
    assert sum(target in ours for target in moved.values()) == 546
    assert all(ours[target].shape == temporal[name].shape for name, target in moved.items())
    other = [name for name, value in base.items() if ours[f"unet.{name}"].shape != value.shape]
    assert len(other) == 33
    assert all("attn2" in name or name == "conv_in.weight" for name in other)


def test_motion_modules_for_weights_of_the_first_stage(base: Path, tmp_path: Path) -> None:
    convert(ConvertConfig(base=str(base), stage="images"), tmp_path / "first")
    adapter().save_pretrained(tmp_path / "motion")
    report = convert(
        ConvertConfig(base=str(tmp_path / "first"), motion=str(tmp_path / "motion"), precision="fp32"),
        tmp_path / "second",
    )
    first, second = Networks.load(tmp_path / "first"), Networks.load(tmp_path / "second")
    assert second.config.motion
    assert report.missing["unet"] == {}
    for name, value in first.unet.state_dict().items():
        torch.testing.assert_close(second.unet.state_dict()[name], value, atol=0, rtol=0)
    assert second.expression_encoder.weights_hash() == first.expression_encoder.weights_hash()
    with pytest.raises(ConfigError, match="converted already"):
        convert(ConvertConfig(base=str(tmp_path / "first")), tmp_path / "third")


def test_layout_report_and_sizes(base: Path, tmp_path: Path) -> None:
    convert(ConvertConfig(base=str(base)), tmp_path)
    assert (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    told = json.loads((tmp_path / REPORT_FILE).read_text())
    assert {s["network"] for s in told["sources"]} == {"unet", "reference_net", "autoencoder"}
    assert told["config"]["base"] == str(base)
    networks = Networks.load(tmp_path)
    assert networks.config.unet.channels == (32, 64)
    assert networks.unet.unet.conv_in.in_channels == 7


def test_stable_diffusion_15_gives_the_paper_s_configuration(tmp_path: Path) -> None:
    for part, settings in {
        "unet": {
            "block_out_channels": [320, 640, 1280, 1280],
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "attention_head_dim": 8,
            "layers_per_block": 2,
            "norm_num_groups": 32,
            "cross_attention_dim": 768,
        },
        "vae": {
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "layers_per_block": 2,
            "latent_channels": 4,
            "norm_num_groups": 32,
        },
    }.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(settings))
    assert model_of(tmp_path, ConvertConfig(), tmp_path / "vae") == FULL


def test_pickles_and_wrong_sources_are_refused(base: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "mm.ckpt"
    torch.save({"state_dict": {"a": Path("x")}}, hostile)
    with pytest.raises(AssetError, match="must hold nothing but tensors"):
        convert(ConvertConfig(base=str(base), motion=str(hostile)), tmp_path / "out")
    folder = tmp_path / "pickled"
    (folder / "unet").mkdir(parents=True)
    (folder / "vae").mkdir()
    (folder / "unet" / "config.json").write_text((base / "unet" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text((base / "vae" / "config.json").read_text())
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"")
    save_file({"x": torch.zeros(1)}, folder / "vae" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(AssetError, match=r"only diffusion_pytorch_model\.bin: convert it once"):
        convert(ConvertConfig(base=str(folder)), tmp_path / "out")
    with pytest.raises(AssetError, match="X-NeMo's folder must hold xnemo_denoising_unet"):
        convert(ConvertConfig(base=str(base), xnemo=str(tmp_path)), tmp_path / "out")
    for settings in ("{}", "[]", '{"block_out_channels": [32, -1], "down_block_types": ["CrossAttn", "x"]}'):
        (folder / "unet" / "config.json").write_text(settings)
        with pytest.raises(AssetError, match="must describe networks as diffusers does"):
            convert(ConvertConfig(base=str(folder)), tmp_path / "out")
    with pytest.raises(ConfigError, match="need `stage=clips`"):
        ConvertConfig(motion="x", stage="images")


def test_the_command_leaves_weights_an_account_and_a_record(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "start"
    assert cli.run(["convert-weights", "--base", str(base), "--stage", "images", "--out", str(out)]) == 0
    assert "base unet" in capsys.readouterr().out
    record = json.loads((out / "run.json").read_text())
    assert record["command"] == "convert-weights" and record["status"] == "done"
    assert record["config"]["base"] == str(base) and record["results"]["tensors_copied"] > 100
    assert (out / REPORT_FILE).is_file() and Networks.load(out).config.motion is False
    assert cli.run(["convert-weights", "--base", str(tmp_path / "none"), "--out", str(tmp_path / "no")]) == 2
    assert "Traceback" not in capsys.readouterr().err
