"""Stand-ins for the objects in FLAME's pickles: they keep the state that a file gives them, and can say what numbers
it holds. None of them is NumPy's, scipy's or chumpy's own class, and none does anything but keep."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from geodiff.errors import HeadModelError

#: Largest matrix that is unpacked from a compressed one, numbers; FLAME's joint regressor has 25,115.
MAX_CELLS = 50_000_000
#: Chumpy arrays within chumpy arrays.
MAX_DEPTH = 8
#: Data types of numbers.
_NUMBERS = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))


def array(value: Any, depth: int = 0) -> np.ndarray:
    """The numbers of a value out of `read_pickle`: an array, a chumpy array, a sparse matrix, or a flat list.

    Raises HeadModelError where it holds anything else or is not whole.
    """
    if depth > MAX_DEPTH:
        raise HeadModelError(
            f"a FLAME model's arrays lie at most {MAX_DEPTH} deep in one another, but one lies deeper."
        )
    try:
        if isinstance(value, StandIn):
            return value.array(depth + 1)
        if isinstance(value, np.ndarray | np.generic | int | float):
            return np.asarray(value)
        if isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value):
            return np.asarray(value)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, MemoryError) as error:
        raise HeadModelError(
            f"a FLAME model's arrays are whole, but one is not ({error}); download it again."
        ) from error
    raise HeadModelError(f"a FLAME model's arrays hold numbers, but one holds a {type(value).__name__}.")


def text_keys(items: dict[Any, Any]) -> dict[str, Any]:
    """The items whose keys are text."""
    return {
        k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in items.items() if isinstance(k, str | bytes)
    }


class StandIn:
    """An object of the file: keeps the state that it is given and does nothing with it."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def build(self, state: Any) -> None:
        """The file's BUILD instruction."""
        if isinstance(state, tuple) and len(state) == 2:
            state = state[0]
        if isinstance(state, dict):
            self.state = text_keys(state)

    def array(self, depth: int) -> np.ndarray:
        raise HeadModelError("a FLAME model's arrays hold numbers, but one holds an object.")


class StoredType(StandIn):
    """A NumPy data type, by its name ("f8") and byte order."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        super().__init__()
        self.name, self.order = _text(name).lstrip("<>|="), "="
        if _text(name).startswith(("<", ">")):
            self.order = _text(name)[0]

    def build(self, state: Any) -> None:
        order = _text(state[1])
        if order in ("<", ">"):
            self.order = order

    def numpy(self) -> np.dtype:
        if self.name not in _NUMBERS:
            raise HeadModelError(f"a FLAME model's arrays hold numbers, but one holds the data type {self.name!r}.")
        return np.dtype(f"{self.order}{self.name}")


class StoredArray(StandIn):
    """A NumPy array: its state is (version, shape, data type, Fortran order, raw bytes)."""

    def build(self, state: Any) -> None:
        self.state = dict(zip(("shape", "dtype", "fortran", "raw"), state[-4:], strict=True))

    def array(self, depth: int) -> np.ndarray:
        if not isinstance(self.state["dtype"], StoredType):
            raise HeadModelError("a FLAME model's arrays hold numbers, but one has no data type.")
        kind = self.state["dtype"].numpy()
        data = np.frombuffer(_bytes(self.state["raw"]), kind)
        shape = tuple(_whole(n) for n in self.state["shape"])
        return data.reshape(shape, order="F" if self.state["fortran"] else "C")


class StoredNumber(StoredArray):
    """A NumPy number."""

    def __init__(self, dtype: Any, raw: Any = b"") -> None:
        super().__init__()
        self.state = {"shape": (), "dtype": dtype, "fortran": False, "raw": raw}


class StoredBuffer(StoredArray):
    """A NumPy array as pickle protocol 5 writes it: bytes, data type, shape and order."""

    def __init__(self, raw: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> None:
        super().__init__()
        self.state = {"shape": shape, "dtype": dtype, "fortran": _text(order) == "F", "raw": raw}


class ChumpyArray(StandIn):
    """One of chumpy's arrays."""

    def array(self, depth: int) -> np.ndarray:
        """The numbers inside: leaves hold them as `x`; rearrangements hold the array `a` that they rearrange."""
        state = self.state
        if "x" in state:
            return array(state["x"], depth)
        if "a" in state and "idxs" in state:
            chosen = array(state["a"], depth).ravel()[array(state["idxs"], depth).astype(np.int64).ravel()]
            shape = state.get("preferred_shape")
            return chosen if shape is None else chosen.reshape(_shape(shape, depth))
        if "a" in state and "axes" in state:
            axes = state["axes"]
            return np.transpose(array(state["a"], depth), None if axes is None else _shape(axes, depth))
        if "a" in state and "newshape" in state:
            return array(state["a"], depth).reshape(_shape(state["newshape"], depth))
        raise HeadModelError(
            "a FLAME model's chumpy arrays hold their numbers directly, but one holds a computation "
            f"({', '.join(sorted(state)) or 'nothing'}); use the published file."
        )


class SparseColumns(StandIn):
    """One of scipy's compressed matrices."""

    maker: Any = sparse.csc_matrix

    def array(self, depth: int) -> np.ndarray:
        parts = tuple(array(self.state[name], depth) for name in ("data", "indices", "indptr"))
        shape = _shape(self.state["_shape"] if "_shape" in self.state else self.state["shape"], depth)
        if len(shape) != 2 or min(shape) < 0 or shape[0] * shape[1] > MAX_CELLS:
            raise HeadModelError(f"a FLAME model's matrices have at most {MAX_CELLS} cells, but one is {shape}.")
        matrix = self.maker(parts, shape=shape)
        matrix.check_format(full_check=True)
        return np.asarray(matrix.todense())


class SparseRows(SparseColumns):
    maker = sparse.csr_matrix


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, str):
        return value
    raise HeadModelError(f"a FLAME model's data types have names, but one is a {type(value).__name__}.")


def _whole(value: Any) -> int:
    return int(value if isinstance(value, int) else array(value))


def _shape(value: Any, depth: int) -> tuple[int, ...]:
    return tuple(int(n) for n in array(value, depth).ravel())


def _bytes(raw: Any) -> bytes:
    """Python 2 wrote bytes as text, which is read as latin1."""
    if isinstance(raw, str):
        return raw.encode("latin1")
    if isinstance(raw, bytes | bytearray):
        return bytes(raw)
    raise HeadModelError(f"a FLAME model's arrays hold numbers, but one holds a {type(raw).__name__}.")


def encode_latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """Protocol 2 of Python 3 writes bytes as `_codecs.encode(text, "latin1")`."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise HeadModelError("a FLAME model's bytes are written as latin1, but another encoding was asked for.")
    return text.encode("latin1")
