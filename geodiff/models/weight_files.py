"""Files of weights: where a network's tensors lie in a folder, and how they are read without running any code.

A folder holds one file per network (`unet.safetensors`), or one folder per network as diffusers lays them out
(`unet/diffusion_pytorch_model.safetensors`, in one piece or in shards with an index).
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from geodiff.errors import AssetError, InputError
from geodiff.files import read_json, read_torch

#: Name of a network's file in diffusers' layout, and of the index where it is cut into shards.
DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
INDEX_SUFFIX = ".index.json"
#: Other names under which one network's tensors are found in its folder, best first.
OTHER_FILES = ("diffusion_pytorch_model.fp16.safetensors", "model.safetensors")
#: Files of Python objects. They are never loaded to generate; the converter reads tensors, and nothing else, from them.
PICKLED = (".bin", ".ckpt", ".pt", ".pth")


def network_file(folder: Path, name: str) -> Path:
    """The file of network `name` in a folder of weights: `name.safetensors`, or diffusers' layout, or its index.

    Raises AssetError where there is none, or only a pickled one.
    """
    flat = folder / f"{name}.safetensors"
    return flat if flat.is_file() else folder_file(folder / name, f"the network {name!r} in {folder}")


def folder_file(folder: Path, what: str) -> Path:
    """The file, or the index of the shards, of one network in its own folder. what: names it in errors."""
    for candidate in (DIFFUSERS_FILE, DIFFUSERS_FILE + INDEX_SUFFIX, *OTHER_FILES):
        if (folder / candidate).is_file():
            return folder / candidate
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    pickled = [p for p in (*folder.glob("*"), *folder.parent.glob(f"{folder.name}.*")) if p.suffix in PICKLED]
    if pickled:
        raise AssetError(
            f"weights are read from safetensors files, because others can run code, and of {what} there is only "
            f"{pickled[0].name}: convert it once with `geodiff convert-weights`, or fetch the safetensors file"
        )
    raise AssetError(f"{what} needs a file {DIFFUSERS_FILE}, and none is there: fetch the weights again")


def read_state(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, or of the shards that an index names. Raises AssetError."""
    files = [path]
    if path.name.endswith(INDEX_SUFFIX):
        files = _shards(path)
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            state |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise AssetError(
                f"{file} must be a whole safetensors file, and it is not ({error}): fetch it again"
            ) from error
    return state


def _shards(index: Path) -> list[Path]:
    """The files beside an index that it names. Raises AssetError."""
    try:
        named = read_json(index)
    except InputError as error:
        raise AssetError(str(error)) from error
    where = named.get("weight_map") if isinstance(named, dict) else None
    if not isinstance(where, dict) or not where or not all(isinstance(name, str) for name in where.values()):
        raise AssetError(
            f"{index} must tell in weight_map which file holds each tensor, and it does not: fetch it again"
        )
    return [index.parent / Path(name).name for name in sorted(set(where.values()))]


def read_foreign(path: Path) -> dict[str, Tensor]:
    """Tensors by name of another program's file, for conversion: safetensors, or a torch file of which only tensors in
    plain containers are admitted; a `state_dict` inside and a leading `module.` are looked through. Raises AssetError.
    """
    if path.suffix not in PICKLED:
        return read_state(path)
    try:
        content = read_torch(path)
    except ValueError as error:
        raise AssetError(
            f"{path} must hold nothing but tensors, and it cannot be read as such ({error}): "
            "fetch it again, or take its safetensors form"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise AssetError(f"{path} must hold tensors by name, and it holds a {type(content).__name__}: choose another")
    return {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
