"""Atomic writing: a file appears whole under its name or not at all, and a full disk is told in one sentence."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geodiff.errors import InputError, StorageError

if TYPE_CHECKING:
    from torch import Tensor

#: Frames a second above which a file is not what it seems.
MAX_FRAME_RATE = 1000.0
_STORAGE_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR,
}  # fmt: skip


def storage_error(path: Path | str, error: OSError) -> StorageError:
    """The user's sentence for an operating-system error met while writing `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"writing {path} needs free disk space and the disk is full: free some space or choose another --out, "
            "then run the same command again; what was finished is kept"
        )
    reason = error.strerror or str(error)
    return StorageError(f"{path} must be writable, and writing it failed ({reason}): choose another output folder")


@contextmanager
def storage_errors(path: Path | str) -> Iterator[None]:
    """Turns operating-system errors that mean 'cannot be written' into a StorageError about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in _STORAGE_ERRNOS:
            raise storage_error(path, error) from error
        raise


def make_folder(path: Path | str) -> Path:
    """Creates a folder with its parents; a StorageError if that cannot be done."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StorageError(f"{folder} must be a folder, and a file of that name is there: choose another") from error
    except OSError as error:
        raise storage_error(folder, error) from error
    return folder


def atomic_write(path: Path | str, write: Callable[[Path], None]) -> Path:
    """Calls `write` with a temporary name in the same folder (same suffix), then moves the file to `path`.

    Whatever stood at `path` before stays as it was when `write` fails. Raises StorageError when the disk is full.
    """
    target = Path(path)
    make_folder(target.parent)
    temporary = None
    try:
        with storage_errors(target):
            handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
            os.close(handle)
            temporary = Path(name)
            write(temporary)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
            temporary = None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return target


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path | str, value: Any) -> Path:
    """Writes JSON atomically; numpy scalars and paths are turned into plain values."""
    text = json.dumps(value, indent=2, default=_plain, allow_nan=False)
    return write_text(path, text + "\n")


def write_text(path: Path | str, text: str) -> Path:
    """Writes a UTF-8 text atomically, its ends of lines as they are."""
    return atomic_write(path, lambda temporary: _write_bytes(temporary, text.encode()))


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def read_json(path: Path | str) -> Any:
    """Reads a JSON file; a missing or broken one is an InputError."""
    file = Path(path)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file} must exist, and it does not: check the path") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file} must be a readable JSON file, and it is not ({error}): write it anew") from error


def write_npz(path: Path | str, **arrays: np.ndarray | np.generic) -> Path:
    """Writes an npz file of plain arrays atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    return atomic_write(path, write)


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Writes a safetensors file atomically, whatever the tensors' device and memory layout.

    metadata: strings for the file's header. Raises StorageError when the disk is full or cannot be written.
    """
    # Imported here: torch takes seconds to load, and most of what writes files does without it.
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(plain, str(temporary), metadata or {"format": "pt"})
        except SafetensorError as error:
            raise _system_error(error) or error from error

    return atomic_write(path, write)


def _system_error(error: Exception) -> OSError | None:
    """The operating system's error that a message of safetensors tells, whose own exception has no number."""
    told = re.search(r"os error (\d+)", str(error))
    return OSError(int(told[1]), os.strerror(int(told[1]))) if told else None


def read_npz(path: Path | str) -> dict[str, np.ndarray]:
    """Reads all arrays of an npz file without ever running code from it; a broken one is an InputError."""
    file = Path(path)
    try:
        # Opened here, because NumPy leaves a damaged archive open.
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError as error:
        raise InputError(f"{file} must exist, and it does not: check the path") from error
    except Exception as error:  # numpy and zipfile raise half a dozen kinds for one cause
        raise InputError(
            f"{file} must be an npz file of plain numeric arrays, and it is not ({error}): write it anew"
        ) from error


def frame_rate(value: Any, path: Path | str) -> float:
    """The frames a second that a file tells, alone or as an array of one. Raises InputError where it cannot be."""
    try:
        rate = float(np.asarray(value, np.float64).reshape(()))
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 < rate <= MAX_FRAME_RATE:
        raise InputError(
            f"{path} must tell fps as one number above 0, at most {MAX_FRAME_RATE:g}, and it tells {value}: "
            "write it anew"
        )
    return rate


def read_torch(path: Path | str) -> Any:
    """What a torch file (.pth, .ckpt, .bin) holds, on the CPU: tensors, numbers, texts and plain containers of them.

    Nothing in the file is run: torch's reader for weights alone admits no other object. Raises ValueError with the
    reason in one line, whatever is wrong with the file.
    """
    # Imported here: torch takes seconds to load, and most of what reads files does without it.
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can fail in any way
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        told = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        first = told[1] if told else str(error).partition("\n")[0].partition(". ")[0]
        reason = f"it asks for `{asked[1]}`, which could run code" if asked else first[:120].strip()
        raise ValueError(reason or type(error).__name__) from error
