"""numba kernels that are compiled once and kept on disk.

numba keeps compiled code in `NUMBA_CACHE_DIR` where that is set, else beside the source file, else, where that folder
cannot be written, in the user's cache folder. By itself it looks at the file of the kernel alone, and refuses to import
where no folder can be written. A kernel made here is compiled anew when any file that it is made of changes, and, where
it cannot be kept, in every process.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, NullCache

#: Without the GIL; division by zero is no error; no wrapper for C, which would only cost compile time.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}

#: `numba.njit` for functions that only kernels call; they become part of them.
helper: Callable[[Callable], Callable] = numba.njit(**{**_OPTIONS, "no_cpython_wrapper": True})

_announced = threading.Event()


@cache
def _sources_hash() -> str:
    """Of the source files of all kernels."""
    folder = Path(__file__).parent
    files = sorted([*folder.glob("cpu*.py"), *folder.glob("simd*.py"), folder / "gaussians.py"])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _announce(place: str | None) -> None:
    """Tell the user what the process waits for, once."""
    if not _announced.is_set():
        _announced.set()
        later = f"later runs load it from {place}" if place else "set NUMBA_CACHE_DIR to a folder of yours to keep it"
        print(f"compiling the Gaussian rasteriser for this machine, some 10 to 20 seconds; {later}", file=sys.stderr)


class _KernelCache(FunctionCache):
    def _index_key(self, sig: Any, codegen: Any) -> tuple:
        return (*super()._index_key(sig, codegen), _sources_hash())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = super().load_overload(sig, target_context)
        if found is None:
            _announce(self.cache_path)
        return found


class _NoCache(NullCache):
    def load_overload(self, sig: Any, target_context: Any) -> None:
        _announce(None)


def kernel(function: Callable) -> Callable:
    """`numba.njit` for functions that Python calls; what is compiled is kept on disk."""
    dispatcher = numba.njit(**_OPTIONS)(function)
    try:
        dispatcher._cache = _KernelCache(function)
    except RuntimeError:  # no folder can be written
        dispatcher._cache = _NoCache()
    return dispatcher
