"""Held-out samples during training: a sheet to look at, and the figures that tell whether the proposal is beaten."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from geodiff.media import write_image
from geodiff.models.autoencoder import decode_clip
from geodiff.models.networks import Networks, build_scheduler
from geodiff.models.sampling import SamplingConfig, sample
from geodiff.sheets import contact_sheet
from geodiff.training.objective import Batch, build_condition, prepare


@torch.no_grad()
def sample_batch(networks: Networks, batch: Batch, config: SamplingConfig, seed: int = 0) -> Tensor:
    """Generate the clips of a training batch from their conditions: (B, 2, T, 3, S, S), about [-1, 1]."""
    prepared = prepare(networks, batch)
    driving = batch["driving"]
    expression = networks.expression_encoder(driving.flatten(0, 1)).unflatten(0, driving.shape[:2])
    condition = build_condition(networks, prepared, expression)
    portrait = torch.stack((batch["reference_image"], batch["reference_normals"]), dim=1)
    reference = networks.autoencoder.encode(portrait.flatten(0, 1)).unflatten(0, (-1, 2))
    latents = sample(
        networks.unet,
        build_scheduler(networks.config),
        condition,
        networks.expression_encoder.null,
        (prepared.latents.shape[2], *prepared.latents.shape[-2:]),
        config=config,
        reference=reference,
        generator=torch.Generator().manual_seed(seed),
    )
    return decode_clip(networks.autoencoder, latents)


def figures(generated: Tensor, batch: Batch) -> dict[str, float]:
    """PSNR (dB, values 0..1) of generated frames and of the proposal, mean normal error in degrees; inside the
    dilated mask.

    The mask is dilated by 2% of the side, the rule of all metrics of this project. Normals are compared where the
    truth has one.
    """
    side = batch["masks"].shape[-1]
    reach = max(1, round(0.02 * side))
    mask = F.max_pool2d(batch["masks"].flatten(0, 1), 2 * reach + 1, stride=1, padding=reach) > 0.5

    def psnr(images: Tensor) -> float:
        squared = ((images.clamp(-1, 1) - batch["images"]) / 2).square().flatten(0, 1)
        return -10 * math.log10(max(float((squared * mask).sum() / (mask.sum() * 3).clamp(min=1)), 1e-10))

    def degrees(normals: Tensor) -> float:
        truth = batch["normals"]
        inside = (truth.norm(dim=2) > 0.5).flatten()
        cosine = F.cosine_similarity(normals, truth, dim=2).flatten()[inside].clamp(-1, 1)
        return float(torch.rad2deg(cosine.acos()).mean()) if len(cosine) else math.nan

    return {
        "psnr": psnr(generated[:, 0]),
        "psnr_proposal": psnr(batch["proposals"]),
        "normal_degrees": degrees(generated[:, 1]),
        "normal_degrees_proposal": degrees(batch["proposal_normals"]),
    }


def write_sheet(path: Path, generated: Tensor, batch: Batch, columns: int = 8) -> None:
    """A PNG: reference, proposal, generated and true frames, then the same for normals; one column a frame."""
    frames = batch["images"].shape[1]
    _write_rows(
        path,
        {
            "reference": batch["reference_image"][:, None].expand(-1, frames, -1, -1, -1),
            "proposal": batch["proposals"],
            "generated": generated[:, 0],
            "truth": batch["images"],
            "mesh normals": batch["proposal_normals"],
            "generated normals": generated[:, 1],
            "true normals": batch["normals"],
        },
        columns,
    )


def write_reconstructions(path: Path, decoded: Tensor, batch: Batch, columns: int = 8) -> None:
    """A PNG: true and decoded frames and normals; one column a frame. decoded: (B, 2, T, 3, S, S)."""
    _write_rows(
        path,
        {
            "truth": batch["images"],
            "decoded": decoded[:, 0],
            "true normals": batch["normals"],
            "decoded normals": decoded[:, 1],
        },
        columns,
    )


def write_crops(path: Path, batch: Batch, columns: int = 8) -> None:
    """A PNG of driving crops."""
    _write_rows(path, {"driving crops": batch["driving"]}, columns)


def _write_rows(path: Path, rows: dict[str, Tensor], columns: int) -> None:
    """rows: label -> (B, T, 3, S, S) in -1..1."""

    def pictures(frames: Tensor) -> list[np.ndarray]:
        shown = (frames.flatten(0, 1)[:columns].clamp(-1, 1) * 0.5 + 0.5).permute(0, 2, 3, 1)
        return list(shown.float().cpu().numpy())

    side = next(iter(rows.values())).shape[-1]
    write_image(path, contact_sheet([(label, pictures(f)) for label, f in rows.items()], tile=min(256, side)))
