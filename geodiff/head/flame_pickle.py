"""Arrays out of FLAME's pickles without chumpy and without running any code in them.

The published models are Python 2 pickles that hold chumpy, NumPy and scipy arrays. `_Reader` admits the few names that
such a file needs, all of them as harmless stand-ins of ours, and refuses everything else by name.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from geodiff.errors import HeadModelError

#: The arrays that a FLAME model must hold.
KEYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")
#: Largest file that is read, bytes; the published ones have 30 to 110 MB.
MAX_BYTES = 1 << 30


def read_flame(path: Path) -> dict[str, np.ndarray]:
    """FLAME's arrays by their names in the pickle at `path`. Raises HeadModelError."""
    values = read_pickle(path)
    try:
        return {key: _array(value) for key, value in values.items() if key in KEYS}
    except HeadModelError as error:
        raise HeadModelError(f"{error} ({path})") from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise HeadModelError(f"a FLAME model's arrays are whole, but one in {path} is not ({error}).") from error


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in a FLAME pickle, its keys as text. Nothing in the file is run.

    Raises:
        HeadModelError: the file asks for anything but arrays, or is no pickle of a dictionary.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise HeadModelError(f"a FLAME file has at most {MAX_BYTES >> 20} MiB, but this is larger; check the path.")
        content = path.read_bytes()
        value = _Reader(io.BytesIO(content), encoding="latin1").load()
    except HeadModelError as error:
        raise HeadModelError(f"{error} ({path})") from error
    except Exception as error:  # a damaged pickle can fail in any way that its opcodes can
        raise HeadModelError(
            f"a FLAME model is a pickle of arrays, but {path} cannot be read as one ({type(error).__name__}: {error}); "
            "download it again."
        ) from error
    if not isinstance(value, dict):
        raise HeadModelError(f"a FLAME model is a pickled dictionary, but {path} holds a {type(value).__name__}.")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): item for key, item in value.items()}


class _StandIn:
    """An object of the file: keeps the state that it is given and runs nothing."""

    def __new__(cls, *_: Any) -> _StandIn:
        instance = super().__new__(cls)
        instance.__dict__["state"] = {}
        return instance

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.state = {k.decode("latin1") if isinstance(k, bytes) else str(k): v for k, v in state.items()}


class _DType(_StandIn):
    """A NumPy data type, by its name ("f8") and byte order."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        self.name = name.decode("latin1") if isinstance(name, bytes) else name
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if isinstance(state[1], str) else state[1].decode("latin1")

    def numpy(self) -> np.dtype:
        if not isinstance(self.name, str) or self.name[:1] not in tuple("fiub") or not self.name[1:].isdigit():
            raise HeadModelError(f"a FLAME model's arrays hold numbers, but one holds {self.name!r}.")
        order = {"<": "<", ">": ">"}.get(self.order, "=")
        return np.dtype(self.name).newbyteorder(order)  # type: ignore[arg-type]


class _Array(_StandIn):
    """A NumPy array: its state is (version, shape, data type, Fortran order, raw bytes)."""

    def __setstate__(self, state: Any) -> None:
        self.state = dict(zip(("shape", "dtype", "fortran", "raw"), state[-4:], strict=True))

    def array(self) -> np.ndarray:
        raw = self.state["raw"]
        data = np.frombuffer(_bytes(raw), self.state["dtype"].numpy())
        return data.reshape(self.state["shape"], order="F" if self.state["fortran"] else "C")


class _Chumpy(_StandIn):
    """One of chumpy's arrays."""

    def array(self) -> np.ndarray:
        """The numbers inside: leaves hold them as `x`, rearrangements as `a` with flat indices `idxs`."""
        if "x" in self.state:
            return _array(self.state["x"])
        if "a" in self.state and "idxs" in self.state:
            chosen = _array(self.state["a"]).ravel()[_array(self.state["idxs"]).astype(np.int64).ravel()]
            shape = self.state.get("preferred_shape")
            return chosen if shape is None else chosen.reshape(tuple(int(n) for n in _array(shape).ravel()))
        raise HeadModelError(
            "a FLAME model's chumpy arrays hold their numbers directly, but one holds a computation "
            f"({', '.join(sorted(self.state)) or 'nothing'})."
        )


class _Columns(_StandIn):
    """One of scipy's compressed matrices."""

    maker: Any = sparse.csc_matrix

    def array(self) -> np.ndarray:
        parts = tuple(_array(self.state[name]) for name in ("data", "indices", "indptr"))
        shape = self.state["_shape"] if "_shape" in self.state else self.state["shape"]
        matrix = self.maker(parts, shape=tuple(int(n) for n in shape))
        matrix.check_format(full_check=True)
        return np.asarray(matrix.todense())


class _Rows(_Columns):
    maker = sparse.csr_matrix


def _bytes(raw: Any) -> bytes:
    """Python 2 wrote bytes as text, which is read as latin1."""
    if isinstance(raw, str):
        return raw.encode("latin1")
    if isinstance(raw, bytes):
        return raw
    raise HeadModelError(f"a FLAME model's arrays hold numbers, but one holds a {type(raw).__name__}.")


def _reconstruct(*_: Any) -> _Array:
    """NumPy's first step of unpickling an array: an empty one, whose state follows."""
    return _Array()


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    """A NumPy number."""
    return np.frombuffer(_bytes(raw), dtype.numpy())[0]


def _new_object(kind: Any, *_: Any) -> _StandIn:
    """copyreg's way of making an object without its constructor: our stand-ins only."""
    if isinstance(kind, type) and issubclass(kind, _StandIn):
        return kind()
    raise HeadModelError(f"a FLAME model holds arrays alone, but it asks for an object of {kind!r}.")


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Protocol 2 of Python 3 writes bytes as `_codecs.encode(text, "latin1")`."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise HeadModelError("a FLAME model's bytes are written as latin1, but another encoding was asked for.")
    return text.encode("latin1")


def _set(items: Any = ()) -> tuple[Any, ...]:
    """chumpy's bookkeeping holds sets; nothing of them is used."""
    return tuple(items) if isinstance(items, (list, tuple)) else ()


_ADMITTED: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    **{(module, "_reconstructor"): _new_object for module in ("copy_reg", "copyreg")},
    **{(module, "object"): _StandIn for module in ("__builtin__", "builtins")},
    **{(module, "set"): _set for module in ("__builtin__", "builtins")},
    ("_codecs", "encode"): _encode,
    **{(f"scipy.sparse.{module}", "csc_matrix"): _Columns for module in ("csc", "_csc")},
    **{(f"scipy.sparse.{module}", "csr_matrix"): _Rows for module in ("csr", "_csr")},
    **{(module, "Ch"): _Chumpy for module in ("chumpy.ch", "chumpy")},
    ("chumpy.reordering", "Select"): _Chumpy,
}


class _Reader(pickle.Unpickler):
    """An unpickler that knows a dozen names; any other is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        found = _ADMITTED.get((module, name))
        if found is None:
            raise HeadModelError(
                f"a FLAME model holds arrays alone, but it asks for `{module}.{name}`, which could run code; use the "
                "published file."
            )
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise HeadModelError("a FLAME model holds its arrays itself, but this one points outside its file.")


def _array(value: Any) -> np.ndarray:
    if isinstance(value, (_Array, _Chumpy, _Columns)):
        return value.array()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise HeadModelError(f"a FLAME model's arrays hold numbers, but one holds a {type(value).__name__}.")
    return array
