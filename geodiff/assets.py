"""Where weights and head models are found, and whether they are what they should be.

Weights are named by text: "bundled:NAME" (in the package), "cache:NAME" (in the cache folder), a folder, or a hub id
("owner/name"). Bundled files are checked against the hashes in `data/weights/manifest.json`.
The cache folder is `GEODIFF_CACHE`, or `geodiff` in the user's cache folder. A user's own head models are looked for in
`GEODIFF_HEADS` (folders, separated as in PATH), or in `heads` in the cache folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from geodiff.errors import AssetError, InputError
from geodiff.files import read_json, write_json

MANIFEST = "manifest.json"
#: The only kinds of files that are fetched or loaded as weights: nothing in them can run code.
WEIGHT_FILES = ("*.safetensors", "*.json")
#: Names under which head models lie in a folder of them.
HEAD_FILES = {
    "flame": ("flame*.pkl", "FLAME*.pkl", "generic_model.*", "flame20*.npz", "flame20*.safetensors"),
    "ict": ("ict*.npz",),
}
#: What lies beside FLAME's model files under similar names.
NO_HEADS = ("embedding", "mask")
ICT_CLONE = ("FaceXModel/generic_neutral_mesh.obj", "generic_neutral_mesh.obj")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")


def data_folder() -> Path:
    """The package's own data: head model, landmark tables, weights."""
    return Path(__file__).resolve().parent / "data"


def weights_folder() -> Path:
    """Bundled weights, one folder for each name."""
    return data_folder() / "weights"


def cache_folder() -> Path:
    """Where downloads and logs go; not created here."""
    if chosen := os.environ.get("GEODIFF_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return Path(base) / "geodiff" if base else Path.home() / ".cache" / "geodiff"


def find_weights(spec: str, parts: tuple[str, ...] = ("", "*/")) -> Path:
    """The folder of weights that `spec` names, checked.

    parts: of a hub repository, the folders that are fetched, "" for its root, with a slash at the end otherwise.
    Raises AssetError when it is missing, incomplete, or not what the manifest says.
    """
    kind, _, name = spec.partition(":")
    if kind == "bundled":
        return _bundled(name)
    if kind == "cache":
        folder = cache_folder() / "weights" / name
        if not folder.is_dir():
            raise AssetError(
                f"the weights {spec!r} must lie in {folder}, and nothing is there: put them there, or name a folder "
                "or a hub id, for instance networks=FOLDER"
            )
        return _folder(folder, spec)
    path = Path(spec).expanduser()
    if path.exists() or not _HUB_ID.fullmatch(spec):
        return _folder(path, spec)
    return _from_hub(spec, parts)


def bundled_names() -> list[str]:
    """Names of the weights that come with this installation."""
    return sorted(_manifest())


def check_weights(name: str) -> None:
    """Compares bundled weights with their recorded sizes and hashes. Raises AssetError."""
    entries = _manifest().get(name)
    if entries is None:
        have = ", ".join(bundled_names()) or "none"
        raise AssetError(
            f"bundled weights must be one of those that come with this installation ({have}), not {name!r}: "
            "name a folder of weights instead, or install a wheel that carries them"
        )
    for file, entry in entries.items():
        path = weights_folder() / name / file
        if not path.is_file():
            raise AssetError(f"the bundled weights {name!r} need {file}, and it is missing: install geodiff again")
        if path.stat().st_size != entry["bytes"] or sha256(path) != entry["sha256"]:
            raise AssetError(
                f"the bundled weights {name!r} must match their recorded hashes, and {file} does not: "
                "install geodiff again"
            )


def weight_hashes(folder: Path | str) -> dict[str, str]:
    """File name -> sha256 of every safetensors file in a folder of weights and the folders right in it; what `run.json`
    records."""
    files = sorted([*Path(folder).glob("*.safetensors"), *Path(folder).glob("*/*.safetensors")])
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def write_manifest() -> Path:
    """Records sizes and hashes of all bundled weights; run after training has put new ones there."""
    entries = {}
    for folder in sorted(p for p in weights_folder().iterdir() if p.is_dir()):
        files = sorted(p for pattern in WEIGHT_FILES for p in folder.glob(pattern))
        entries[folder.name] = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in files}
    return write_json(weights_folder() / MANIFEST, entries)


def sha256(path: Path | str) -> str:
    """Hexadecimal digest of a file."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def heads_folders() -> list[Path]:
    """Where a user's own head models are looked for: the folders that GEODIFF_HEADS names, or `heads` in the cache."""
    if chosen := os.environ.get("GEODIFF_HEADS"):
        return [Path(name).expanduser() for name in chosen.split(os.pathsep) if name]
    return [cache_folder() / "heads"]


def head_specs() -> list[str]:
    """Head models that are there without naming a path: the bundled one, and files in `heads_folders` and in the
    folders right inside them.

    FLAME's licence forbids passing its files on; a user puts `flame*.pkl` or `generic_model.pkl` there.
    """
    found = ["builtin"]
    for folder in heads_folders():
        places = [folder, *sorted(p for p in folder.glob("*") if p.is_dir())]
        for kind, patterns in HEAD_FILES.items():
            for place in places:
                files = [path for pattern in patterns for path in sorted(place.glob(pattern))]
                found += [f"{kind}:{path}" for path in files if not any(word in path.stem for word in NO_HEADS)]
        # A clone of ICT-FaceKit is named by its folder.
        found += [f"ict:{place}" for place in places if any((place / name).is_file() for name in ICT_CLONE)]
    return found


def _bundled(name: str) -> Path:
    check_weights(name)
    return weights_folder() / name


def _manifest() -> dict[str, Any]:
    path = weights_folder() / MANIFEST
    if not path.exists():
        return {}
    try:
        return dict(read_json(path))
    except InputError as error:
        raise AssetError(f"the record of bundled weights is damaged ({error}): install geodiff again") from error


def _folder(path: Path, spec: str) -> Path:
    if not path.is_dir():
        what = "is a file" if path.is_file() else "is not there"
        raise AssetError(
            f"weights are named by bundled:NAME, a folder or a hub id owner/name, and {spec!r} {what}: "
            "check the spelling"
        )
    if not any(path.glob("*.safetensors")) and not any(path.glob("*/*.safetensors")):
        raise AssetError(f"a folder of weights holds safetensors files, and {path} holds none: name another folder")
    return path


def _from_hub(spec: str, parts: tuple[str, ...]) -> Path:
    """Fetches safetensors and JSON files of a hub repository into the hub's own cache."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise AssetError(
            f"fetching the weights {spec!r} from the hub needs huggingface_hub, and it is not installed: "
            "pip install huggingface_hub, or name a folder"
        ) from error
    name, _, revision = spec.partition("@")
    try:
        patterns = [f"{part}{pattern}" for part in parts for pattern in WEIGHT_FILES]
        return _folder(Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns)), spec)
    except AssetError:
        raise
    except Exception as error:  # the hub's client raises its own, requests' and the operating system's errors
        reason = str(error).strip().splitlines()
        raise AssetError(
            f"the weights {spec!r} must be a folder or be reachable on the hub, and fetching them failed "
            f"({reason[0][:160] if reason else type(error).__name__}): check the id and the network, or name a folder"
        ) from error
