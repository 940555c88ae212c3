"""Time and memory of the generator with random weights at real shapes, and what its operations predict.

    python scripts/benchmark_generator.py [--model full|preview|test] [--predict] [--device cpu|cuda] [--steps N]
        [--frames N] [--size N] [--narrow N] [--settings NAME ...] [--tflops N] [--json FILE]

No trained weights are needed: time and memory do not depend on them. Prediction counts operations and tensors on the
meta device and runs on any machine; with --predict nothing else is done. --narrow divides all channels, for a machine
that the full network does not fit. A row for each of --settings (default: those that make sense on the device):
together or apart for the guidance branches, and the settings of RuntimeConfig that the row's name tells.
Seconds are those of one window of --frames frames, both domains, guidance on, the least of --repeats; beside them, on
a CPU, the processor time of all threads, which other work on the machine stretches less.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geodiff.conditioning import Condition as FrameCondition
from geodiff.conditioning import Reference
from geodiff.errors import ConfigError
from geodiff.files import write_json
from geodiff.models.autoencoder import AUTOENCODERS, KLAutoencoder
from geodiff.models.joint_unet import Condition
from geodiff.models.meter import Cost, MemoryMeter, cost, weight_bytes
from geodiff.models.networks import MODELS, ModelConfig, Networks, build_networks
from geodiff.models.runtime import RuntimeConfig
from geodiff.models.sampling import SamplingConfig
from geodiff.types import Camera, HeadParams
from pipelines.portrait_normal import PortraitNormalPipeline

#: TFLOP a frame that the paper's network is reckoned at (25 steps, guidance, two domains), and its seconds on an H800.
PAPER_TFLOP, PAPER_SECONDS = 135.0, 2.74
#: What a card holds beside tensors: the driver's context, work space of kernels, and what an allocator loses.
CONTEXT_GB, ALLOCATOR_LOSS = 1.5, 1.2
HALF = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Setting:
    """One row: how the networks run. together: both guidance branches in one batch."""

    precision: str = "fp32"
    together: bool = True
    runtime: RuntimeConfig = dataclasses.field(default_factory=RuntimeConfig)

    @property
    def half(self) -> bool:
        return self.precision != "fp32"

    def branches(self) -> int:
        return 2 if self.together and self.runtime.memory == "normal" else 1


SETTINGS = {
    "fp32": Setting(),
    "fp32-apart": Setting(together=False),
    "fp32-compiled": Setting(runtime=RuntimeConfig(compile="blocks")),
    "fp32-low": Setting(runtime=RuntimeConfig(memory="low")),
    "bf16-autocast": Setting("bf16"),
    "bf16": Setting("bf16", runtime=RuntimeConfig(half_weights=True, vae_batch=4)),
    "bf16-apart": Setting("bf16", False, RuntimeConfig(half_weights=True, vae_batch=4)),
    "bf16-compiled": Setting("bf16", runtime=RuntimeConfig(half_weights=True, vae_batch=4, compile="blocks")),
    "bf16-graphs": Setting("bf16", runtime=RuntimeConfig(half_weights=True, vae_batch=4, compile="graphs")),
    "bf16-xformers": Setting("bf16", runtime=RuntimeConfig(half_weights=True, vae_batch=4, attention="xformers")),
    "bf16-low": Setting("bf16", runtime=RuntimeConfig(memory="low")),
    "bf16-low-layers": Setting("bf16", runtime=RuntimeConfig(memory="low", offload="layers")),
}
#: Rows by default.
USUAL = {
    "cpu": ("fp32", "fp32-apart", "fp32-compiled", "fp32-low", "bf16-autocast", "bf16"),
    "cuda": ("bf16-autocast", "bf16", "bf16-apart", "bf16-compiled", "bf16-graphs", "bf16-low", "bf16-low-layers"),
}


@dataclass(frozen=True)
class Prediction:
    """Of one frame, TFLOP: denoising, decoding. Of one setting, GB: weights on the device at once, tensors at most."""

    denoise: float
    decode: float
    reference: float
    weights: float
    tensors: float

    def card(self) -> float:
        """GB that a card should have."""
        return self.weights + self.tensors * ALLOCATOR_LOSS + CONTEXT_GB


def model_config(name: str, narrow: int) -> ModelConfig:
    """A model with temporal modules, its channels divided by `narrow`."""
    config = dataclasses.replace(MODELS[name], motion=True)
    if narrow == 1:
        return config
    channels = tuple(width // narrow for width in config.unet.channels)
    groups = min(config.unet.groups, 8)
    if any(width % groups for width in channels):
        raise ConfigError(f"channels / {narrow} must be multiples of {groups}; found {channels}: take another --narrow")
    arguments = config.autoencoder_args
    if config.autoencoder == "kl":
        widths = tuple(width // narrow for width in KLAutoencoder.defaults["block_out_channels"])
        arguments = {"settings": {"block_out_channels": widths, "norm_num_groups": groups}}
    unet = dataclasses.replace(config.unet, channels=channels, groups=groups)
    return dataclasses.replace(config, unet=unet, autoencoder_args=arguments)


def predict(config: ModelConfig, setting: Setting, size: int, frames: int, sampling: SamplingConfig) -> Prediction:
    """Counted on the meta device."""
    with torch.device("meta"):
        networks = build_networks(config).eval()
        for name, module in networks.modules():
            module.to("meta")
            if setting.half and setting.runtime.resolved().half_weights and name in ("unet", "reference_net"):
                torch.nn.Module.to(module, HALF[setting.precision])
        side = size // networks.autoencoder.factor
        channels, encoder = networks.autoencoder.channels, config.encoder
        given = torch.zeros(1, config.reference_domains, channels, side, side), torch.zeros(1, 3, side, side)
        reference = cost(lambda: networks.reference_net(*given), networks.reference_net)
        with torch.no_grad():
            features = networks.unet.project_reference(networks.reference_net(*given))

        def call(batch: int) -> Cost:
            latents = torch.zeros(batch, 2, channels, frames, side, side)
            proposal = latents if config.proposal else None
            condition = Condition(
                torch.zeros(batch, 3, frames, side, side),
                torch.zeros(batch, frames, encoder.tokens, encoder.width),
                features,
                proposal,
                None if proposal is None else torch.zeros(batch, 1, frames, side, side),
            )
            return cost(lambda: networks.unet(latents, torch.zeros(batch), condition), networks.unet)

        guided = 2 if sampling.guidance_scale != 1 else 1
        one = call(min(setting.branches(), guided))
        images = min(setting.runtime.resolved().vae_batch, 2 * frames)
        kept = sum(k.numel() * k.element_size() * 2 for k in features.states.values()) * 2
        decoding = None
        if config.autoencoder != "wavelet":
            decoding = cost(lambda: networks.autoencoder.decode(torch.zeros(images, channels, side, side)))
    if decoding is None:  # A few dense products, which know no meta device.
        transform = AUTOENCODERS[config.autoencoder](**config.autoencoder_args)
        decoding = cost(lambda: transform.decode(torch.zeros(images, channels, side, side)))
    weights = {name: weight_bytes(module) for name, module in networks.modules()}
    offload = setting.runtime.resolved().offload
    held = {"none": sum(weights.values()), "networks": max(weights.values()), "layers": weights["autoencoder"]}[offload]
    calls = guided / min(setting.branches(), guided) * sampling.steps
    # Under autocast full-precision weights are cast and the copies kept through a step.
    cast = weights["unet"] / 2 if setting.half and not setting.runtime.resolved().half_weights else 0
    return Prediction(
        denoise=one.flops * calls / frames / 1e12,
        decode=2 * decoding.flops / images / 1e12,
        reference=reference.flops / 1e12,
        weights=(held + cast) / 1e9,
        tensors=(max(one.peak, decoding.peak, reference.peak) + kept) / 1e9,
    )


def random_inputs(size: int, frames: int) -> tuple[Reference, list[FrameCondition]]:
    """A reference and the conditions of one view, noise throughout."""
    rng = np.random.default_rng(0)

    def image(channels: int) -> np.ndarray:
        return rng.random((size, size, channels), np.float32)

    camera = Camera(torch.eye(4), torch.eye(3), size, size)
    mask = np.ones((size, size), np.float32)
    reference = Reference(image(3), mask, image(3) * 2 - 1, image(3) * 2 - 1, camera, HeadParams.zeros(2, 2))
    view = FrameCondition(image(3) * 2 - 1, image(3), image(3) * 2 - 1, mask, mask, 0 * mask, 0 * mask)
    return reference, [view] * frames


def measure(
    networks: Networks, setting: Setting, device: str, size: int, frames: int, sampling: SamplingConfig, repeats: int
) -> dict[str, float]:
    """Seconds a frame and peak GB of tensors, of the pipeline as it is used."""
    pipeline = PortraitNormalPipeline.from_networks(networks)
    pipeline.prepare(setting.runtime, device, HALF[setting.precision])
    reference, view = random_inputs(size, frames)
    sampling = dataclasses.replace(sampling, branches_together=setting.together)
    tokens = torch.zeros(frames, networks.config.encoder.tokens, networks.config.encoder.width)
    began = time.perf_counter()
    identity = pipeline.encode_reference(reference)
    encoding = time.perf_counter() - began

    def run(steps: int) -> tuple[float, float]:
        began, used = time.perf_counter(), time.process_time()
        pipeline(identity, view, tokens, sampling=dataclasses.replace(sampling, steps=steps))
        return time.perf_counter() - began, time.process_time() - used

    first, _ = run(1)  # Kernels are chosen, blocks compiled.
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds, processor = (min(times) for times in zip(*(run(sampling.steps) for _ in range(repeats)), strict=True))
    peak = 0
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    elif setting.runtime.compile == "none":
        with MemoryMeter() as meter:
            run(1)
        peak = meter.peak
    return {
        "seconds": seconds / frames,
        "processor": processor / frames,
        "first": first,
        "reference": encoding,
        "peak": peak / 1e9,
    }


def row(name: str, found: Prediction, options: argparse.Namespace, measured: dict[str, float] | None) -> list[str]:
    seconds = (found.denoise + found.decode) / options.tflops
    cells = [name, f"{found.denoise:.2f}", f"{found.decode:.2f}", f"{seconds:.3f}"]
    cells += [f"{value:.2f}" for value in (found.weights, found.tensors, found.card())]
    if measured is not None:
        peak = f"{measured['peak']:.2f}" if measured["peak"] else "-"
        cells += [*(f"{measured[name]:.3f}" for name in ("seconds", "processor")), f"{measured['first']:.1f}", peak]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(MODELS), default="full")
    parser.add_argument("--predict", action="store_true", help="count only, measure nothing")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=0, help="pixels of a side; 0 for the model's own")
    parser.add_argument("--narrow", type=int, default=1)
    parser.add_argument("--settings", nargs="*", choices=tuple(SETTINGS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tflops", type=float, default=400.0, help="TFLOP/s that the device sustains, for prediction")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    config = model_config(options.model, options.narrow)
    size = options.size or config.image_size
    sampling = SamplingConfig(
        steps=options.steps, guidance_scale=options.guidance, window=options.frames, overlap=0, init="reference"
    )
    header = ["setting", "TFLOP/frame", "decode", f"s/frame at {options.tflops:g} TFLOP/s"]
    header += ["GB weights", "GB tensors", "GB card"]
    if not options.predict:
        header += [f"s/frame on {options.device}", "processor s/frame", "first call, s", "GB tensors, measured"]
    print(f"{options.model} / {options.narrow}, {size} px, {options.frames} frames, {options.steps} steps")
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    results: dict[str, Any] = {}
    for name in options.settings or USUAL["cuda" if options.predict else options.device]:
        found = predict(config, SETTINGS[name], size, options.frames, sampling)
        measured = None
        if not options.predict:
            networks = build_networks(config)
            measured = measure(
                networks, SETTINGS[name], options.device, size, options.frames, sampling, options.repeats
            )
        results[name] = {"predicted": dataclasses.asdict(found), "measured": measured}
        print("| " + " | ".join(row(name, found, options, measured)) + " |", flush=True)
    if options.model == "full" and options.narrow == 1:
        print(f"\nThe paper: {PAPER_TFLOP:.0f} TFLOP and {PAPER_SECONDS} s a frame on an H800, 25 steps.")
    if options.json is not None:
        write_json(options.json, {"size": size, "frames": options.frames, "steps": options.steps, "rows": results})


if __name__ == "__main__":
    main()
