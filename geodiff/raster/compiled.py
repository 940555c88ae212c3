"""numba kernels that are compiled once and kept on disk.

numba keeps compiled code in `NUMBA_CACHE_DIR` where that is set, else beside the source file, else, where that folder
cannot be written, in the user's cache folder. By itself it looks at the file of the kernel alone, and refuses to import
where no folder can be written. A kernel made here is compiled anew when any file that it is made of changes, and, where
it cannot be kept, in every process. `kernel` and `helper` are for the Gaussian rasteriser, `kept` for all others.
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
def _hash_of(files: tuple[Path, ...]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@cache
def _gaussian_sources() -> tuple[Path, ...]:
    folder = Path(__file__).parent
    return (*sorted([*folder.glob("cpu*.py"), *folder.glob("simd*.py")]), folder / "gaussians.py")


@cache
def _mesh_sources() -> tuple[Path, ...]:
    """Kernels of other rooms call those of the mesh rasteriser, which become part of them."""
    return tuple(sorted(Path(__file__).parent.glob("mesh*.py")))


def _announce(place: str | None) -> None:
    """Tell the user what the process waits for, once."""
    if not _announced.is_set():
        _announced.set()
        later = f"later runs load it from {place}" if place else "set NUMBA_CACHE_DIR to a folder of yours to keep it"
        print(f"compiling the Gaussian rasteriser for this machine, some 10 to 20 seconds; {later}", file=sys.stderr)


class _KernelCache(FunctionCache):
    """Compiled code of one function, valid while numba, the machine, its file and `sources` are the same."""

    def __init__(self, function: Callable, sources: Callable[[], tuple[Path, ...]], announced: bool) -> None:
        super().__init__(function)
        self.sources, self.announced = sources, announced

    def _index_key(self, sig: Any, codegen: Any) -> tuple:
        return (*super()._index_key(sig, codegen), _hash_of(self.sources()))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = super().load_overload(sig, target_context)
        if found is None and self.announced:
            _announce(self.cache_path)
        return found


class _NoCache(NullCache):
    def __init__(self, announced: bool) -> None:
        self.announced = announced

    def load_overload(self, sig: Any, target_context: Any) -> None:
        if self.announced:
            _announce(None)


def _keep(dispatcher: Any, sources: Callable[[], tuple[Path, ...]], announced: bool) -> Any:
    try:
        dispatcher._cache = _KernelCache(dispatcher.py_func, sources, announced)
    except RuntimeError:  # no folder can be written
        dispatcher._cache = _NoCache(announced)
    return dispatcher


def kernel(function: Callable) -> Callable:
    """`numba.njit` for functions of the Gaussian rasteriser that Python calls; what is compiled is kept on disk."""
    return _keep(numba.njit(**_OPTIONS)(function), _gaussian_sources, announced=True)


def kept(**options: Any) -> Callable[[Callable], Callable]:
    """`numba.njit(cache=True, nogil=True, **options)`, for kernels that are made of their own file and, where they call
    them, of the mesh rasteriser's."""
    return lambda function: _keep(numba.njit(nogil=True, **options)(function), _mesh_sources, announced=False)


def kept_in() -> str | None:
    """The folder in which compiled kernels of this package are kept; None where no folder can be written."""
    try:
        return FunctionCache(kept_in).cache_path
    except RuntimeError:
        return None
