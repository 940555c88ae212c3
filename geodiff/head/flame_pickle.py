"""Arrays out of FLAME's pickles without chumpy and without running any code in them.

The published models are Python 2 pickles that hold chumpy, NumPy and scipy arrays. A pickle is a program for a stack
machine: it names things to import, calls them, and sets their state. `_Reader` runs such programs with nothing to call:
a name is looked up in a table of the few that these files need and stands on the stack as a token, which can do
nothing; the three instructions that would call or change something know tokens and our own stand-ins alone. Any other
name, and any instruction that the files do not need, is refused by name.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from geodiff.errors import HeadModelError
from geodiff.head.stored import (
    ChumpyArray,
    SparseColumns,
    SparseRows,
    StandIn,
    StoredArray,
    StoredBuffer,
    StoredNumber,
    StoredType,
    encode_latin1,
    text_keys,
)  # fmt: skip

#: Largest file that is read, bytes; the published ones have 30 to 110 MB.
MAX_BYTES = 1 << 30


def read_pickle(path: Path, what: str = "FLAME model") -> dict[str, Any]:
    """The dictionary in a pickle of FLAME's, its text keys alone; `array` turns its values into arrays. Nothing in the
    file is run. `what` it is, for the messages.

    Raises:
        HeadModelError: the file asks for anything but arrays, or is no pickle of a dictionary.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise HeadModelError(f"a {what} has at most {MAX_BYTES >> 20} MiB, but this is larger; check the path.")
        value = _Reader(io.BytesIO(path.read_bytes())).load()
    except HeadModelError as error:
        raise HeadModelError(f"{error} ({path})") from error
    except Exception as error:  # a damaged pickle can fail in any way that its instructions can
        raise _unreadable(path, what, error) from error
    return _dictionary(value, path, what)


def read_pickled_npy(path: Path, what: str) -> dict[str, Any]:
    """The dictionary in an .npy file that holds one pickled object (as `np.save(path, dictionary)` writes). Nothing in
    it is run. Raises HeadModelError."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(file)
            if shape != () or not dtype.hasobject:
                raise ValueError(f"it holds {dtype} of shape {shape}")
            value = _Reader(io.BytesIO(file.read(MAX_BYTES))).load()
    except HeadModelError as error:
        raise HeadModelError(f"{error} ({path})") from error
    except Exception as error:  # as above
        raise _unreadable(path, what, error) from error
    if isinstance(value, StoredArray) and value.state.get("shape") == ():
        raw = value.state["raw"]
        value = raw[0] if isinstance(raw, list) and len(raw) == 1 else raw
    return _dictionary(value, path, what)


def _unreadable(path: Path, what: str, error: Exception) -> HeadModelError:
    return HeadModelError(
        f"a {what} is a pickle of arrays, but {path} cannot be read as one ({type(error).__name__}: {error}); "
        "download it again."
    )


def _dictionary(value: Any, path: Path, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise HeadModelError(f"a {what} is a pickled dictionary, but {path} holds a {type(value).__name__}.")
    return text_keys(value)


def _new_object(kind: Any = None, *_: Any) -> StandIn:
    """copyreg's way of making an object without its constructor."""
    if isinstance(kind, _Token) and isinstance(kind.make, type) and issubclass(kind.make, StandIn):
        return kind.make()
    raise HeadModelError("a FLAME model holds arrays alone, but it asks for an object of something else.")


def _nothing(*_: Any) -> None:
    """chumpy's bookkeeping: sets and weak references, of which nothing is used."""


class _Token:
    """A name of the file that is admitted. `make` is not reachable from the file: tokens have no state to set."""

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Callable[..., Any]) -> None:
        self.make = make
        self.name = name


_CHUMPY = ("Ch", "Select", "Ravel", "Reorder", "transpose", "Transpose", "reshape", "Reshape")
_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    # The first step of unpickling an array is an empty one, whatever class and shape are asked for.
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: StoredArray() for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): StoredNumber for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): StoredBuffer for core in ("core", "_core")},
    ("numpy", "ndarray"): StoredArray,
    ("numpy", "dtype"): StoredType,
    **{(module, "_reconstructor"): _new_object for module in ("copy_reg", "copyreg")},
    **{(module, "object"): StandIn for module in ("__builtin__", "builtins")},
    **{(module, "set"): _nothing for module in ("__builtin__", "builtins")},
    ("_codecs", "encode"): encode_latin1,
    **{(f"scipy.sparse.{module}", "csc_matrix"): SparseColumns for module in ("csc", "_csc")},
    **{(f"scipy.sparse.{module}", "csr_matrix"): SparseRows for module in ("csr", "_csr")},
    **{(module, name): ChumpyArray for module in ("chumpy.ch", "chumpy", "chumpy.reordering") for name in _CHUMPY},
}
_TOKENS = {key: _Token(".".join(key), make) for key, make in _NAMES.items()}

#: What the files need that neither calls nor changes anything.
_PLAIN = tuple(
    getattr(pickle, name)
    for line in (
        "PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET NONE NEWTRUE",
        "NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE",
        "BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_TUPLE TUPLE TUPLE1",
        "TUPLE2 TUPLE3 EMPTY_LIST LIST EMPTY_DICT GLOBAL STACK_GLOBAL PERSID BINPERSID",
    )
    for name in line.split()
)


class _Instructions(dict[int, Any]):
    """The table of instructions; those that are not in it are refused by name."""

    def __missing__(self, code: int) -> Any:
        names = [op.name for op in pickletools.opcodes if ord(op.code) == code]
        if not names:
            raise pickle.UnpicklingError(f"there is no instruction {code:#04x}")
        raise HeadModelError(
            f"a FLAME model is a pickle of arrays, but it uses the instruction {names[0]}, which such files do not "
            "need; use the published file."
        )


class _Reader(pickle._Unpickler):
    """The standard library's stack machine in Python, with a table of instructions of our own."""

    dispatch = _Instructions({code[0]: pickle._Unpickler.dispatch[code[0]] for code in _PLAIN})
    stack: list[Any]

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        token = _TOKENS.get((module, name))
        if token is None:
            raise HeadModelError(
                f"a FLAME model holds arrays alone, but it asks for `{module}.{name}`, which could run code; use the "
                "published file."
            )
        return token

    def persistent_load(self, pid: Any) -> Any:
        raise HeadModelError("a FLAME model holds its arrays itself, but this one points outside its file.")

    def call(self) -> None:
        """REDUCE, NEWOBJ: a token and its arguments make one of our own objects."""
        arguments, token = self.stack.pop(), self.stack.pop()
        if not isinstance(token, _Token) or not isinstance(arguments, tuple):
            raise HeadModelError(f"a FLAME model holds arrays alone, but it calls a {type(token).__name__}.")
        self.stack.append(token.make(*arguments))

    def build(self) -> None:
        """BUILD: our own objects keep the state."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, StandIn):
            # A set or a weak reference, which is nothing here.
            if target is None:
                return
            raise HeadModelError(
                f"a FLAME model sets the state of arrays alone, but it sets that of a {type(target).__name__}."
            )
        target.build(state)

    def old_instance(self) -> None:
        """INST, the oldest way to call: its name is checked, and it is refused."""
        module = self.readline()[:-1].decode("ascii", "replace")  # type: ignore[attr-defined]
        name = self.readline()[:-1].decode("ascii", "replace")  # type: ignore[attr-defined]
        self.find_class(module, name)
        raise HeadModelError(f"a FLAME model holds arrays alone, but it asks for an old instance of `{module}.{name}`.")

    def put(self) -> None:
        """SETITEM: into dictionaries, under plain keys."""
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def put_all(self) -> None:
        """SETITEMS."""
        self._put(self.pop_mark())  # type: ignore[attr-defined]

    def make_dictionary(self) -> None:
        """DICT."""
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.stack.append({})
        self._put(items)

    def _put(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise HeadModelError(f"a FLAME model fills dictionaries, but this one fills a {type(target).__name__}.")
        # Other keys are bookkeeping, and hashing what is nested deep enough takes for ever.
        target.update({k: v for k, v in zip(items[::2], items[1::2], strict=True) if isinstance(k, str | bytes | int)})

    def add(self) -> None:
        """APPEND: to lists."""
        value = self.stack.pop()
        self._add([value])

    def add_all(self) -> None:
        """APPENDS."""
        self._add(self.pop_mark())  # type: ignore[attr-defined]

    def _add(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise HeadModelError(f"a FLAME model fills lists, but this one fills a {type(target).__name__}.")
        target.extend(items)

    def empty_set(self) -> None:
        """EMPTY_SET: chumpy's bookkeeping."""
        self.stack.append(None)

    def drop(self) -> None:
        """ADDITEMS: the items of a set go nowhere."""
        self.pop_mark()  # type: ignore[attr-defined]

    def frozen_set(self) -> None:
        """FROZENSET."""
        self.pop_mark()  # type: ignore[attr-defined]
        self.stack.append(None)

    dispatch.update({
        pickle.REDUCE[0]: call, pickle.NEWOBJ[0]: call, pickle.BUILD[0]: build, pickle.INST[0]: old_instance,
        pickle.SETITEM[0]: put, pickle.SETITEMS[0]: put_all, pickle.DICT[0]: make_dictionary, pickle.APPEND[0]: add,
        pickle.APPENDS[0]: add_all, pickle.EMPTY_SET[0]: empty_set, pickle.ADDITEMS[0]: drop,
        pickle.FROZENSET[0]: frozen_set,
    })  # fmt: skip
