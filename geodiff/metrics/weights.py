"""Where the networks of metrics are found: a folder that the user names, geodiff's cache, other programs' caches.

None of them can be bundled. Looked for, in this order: the named folder, `metrics` in geodiff's cache folder
(`geodiff.assets.cache_folder`), and the places where torchvision, torchmetrics and insightface keep theirs.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from geodiff.assets import cache_folder
from geodiff.files import read_torch
from geodiff.metrics.checks import NotMeasured


def metric_folders(chosen: Path | None = None) -> list[Path]:
    """Folders that are searched, the first first."""
    torch_home = Path(os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch")
    folders = [] if chosen is None else [Path(chosen)]
    folders += [cache_folder() / "metrics", torch_home / "hub" / "checkpoints"]
    return folders + sorted((Path.home() / ".insightface" / "models").glob("*/"))


def find_file(what: str, patterns: tuple[str, ...], chosen: Path | None = None) -> Path:
    """The first file whose name fits a pattern. Raises NotMeasured, saying where it belongs, where there is none."""
    folders = metric_folders(chosen)
    for folder in folders:
        for pattern in patterns:
            if found := sorted(path for path in folder.glob(pattern) if path.is_file()):
                return found[0]
    raise NotMeasured(f"{what} is absent: put {patterns[0]} into {folders[0]}")


def packaged_file(package: str, relative: str) -> Path | None:
    """A data file of an installed package, which is not imported; None where it is not there."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / relative
    return path if path.is_file() else None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name, of a safetensors file or of a torch file, of which only tensors are read.

    Raises NotMeasured where the file holds anything else or is damaged.
    """
    try:
        content = load_file(path) if path.suffix == ".safetensors" else read_torch(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise NotMeasured(f"{path} cannot be read as weights") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise NotMeasured(f"{path} must hold tensors by name, and it does not")
    return content
