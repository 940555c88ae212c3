"""Checkpoints: all that a run needs to go on exactly, as safetensors and JSON, in a folder that appears at once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from geodiff.errors import InputError
from geodiff.files import make_folder, read_json, save_tensors, storage_errors, write_json
from geodiff.models.networks import Networks
from geodiff.training.tasks import Task

KEPT = 2


class Ema:
    """Exponential moving average of parameters, float32; the decay warms up as (1 + step) / (10 + step)."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.averages = {name: parameter.detach().clone().float() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: dict[str, nn.Parameter], step: int) -> None:
        keep = min(self.decay, (1 + step) / (10 + step))
        names = list(self.averages)
        torch._foreach_lerp_([self.averages[n] for n in names], [parameters[n].detach() for n in names], 1 - keep)

    @torch.no_grad()
    def swap(self, parameters: dict[str, nn.Parameter]) -> None:
        """Exchange averages and parameters; call it again to take it back."""
        for name, average in self.averages.items():
            held = parameters[name].detach().clone()
            parameters[name].copy_(average)
            average.copy_(held)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors, `index.key`."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, kept in state.items() for key, value in kept.items()}


@torch.no_grad()
def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`, for an optimizer over the same parameters in the same order."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            # Fused optimizers want the parameter's own memory layout.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(folder: Path, step: int, task: Task, ema: Ema, optimizer: torch.optim.Optimizer) -> Path:
    """Write `checkpoint-STEP`; older ones are removed but for the last two."""
    target = folder / f"checkpoint-{step:07d}"
    partial = folder / f".{target.name}.partial"
    with storage_errors(target):
        shutil.rmtree(partial, ignore_errors=True)
        make_folder(partial)
        task.save(partial)
        save_tensors(partial / "ema.safetensors", ema.averages)
        save_tensors(partial / "optimizer.safetensors", optimizer_tensors(optimizer))
        write_json(partial / "state.json", {"step": step})
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("checkpoint-*") if (path / "state.json").is_file())


@torch.no_grad()
def averaged_networks(path: Path) -> Networks:
    """The networks of a checkpoint with their averaged weights, for use. Raises AssetError."""
    networks = Networks.load(path)
    averages = load_file(path / "ema.safetensors")
    for network, module in networks.trained().items():
        for name, parameter in module.named_parameters():
            if f"{network}.{name}" in averages:
                parameter.copy_(averages[f"{network}.{name}"])
    return networks


def load_checkpoint(path: Path, task: Task, ema: Ema, optimizer: torch.optim.Optimizer) -> int:
    """Restore everything in place; returns the step. Raises AssetError if the checkpoint belongs to other networks,
    InputError if other parts of them were trained."""
    task.restore(path)
    averages = load_file(path / "ema.safetensors")
    other = sorted(averages.keys() ^ ema.averages.keys())
    if other:
        raise InputError(
            f"a run trains the same tensors from its first step to its last, but {path.parent} was begun with others "
            f"({len(other)} differ, {other[0]} for one): go on in another folder with start={path.parent / 'weights'}"
        )
    for name, average in ema.averages.items():
        average.copy_(averages[name])
    restore_optimizer(optimizer, load_file(path / "optimizer.safetensors"))
    return int(read_json(path / "state.json")["step"])
