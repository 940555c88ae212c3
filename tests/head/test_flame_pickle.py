"""Pickles that want to do something, or to take all memory: the reader of FLAME's refuses them in a sentence."""

from __future__ import annotations

import copyreg
import os
import pickle
import random
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from flame_like import Ch, blobs, write

from geodiff.errors import HeadModelError
from geodiff.head import flame_pickle, stored
from geodiff.head.flame_extras import read_landmarks
from geodiff.head.flame_files import read_flame
from geodiff.head.flame_pickle import read_pickle
from geodiff.head.stored import array


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that appears when something has run."""
    return tmp_path / "ran"


class Runs:
    """Asks the unpickler to call something."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.call


def refused(path: Path, marker: Path, message: str) -> None:
    with pytest.raises(HeadModelError, match=message) as caught:
        read_pickle(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not marker.exists(), "something has run"


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_calls_are_refused_by_name(tmp_path: Path, marker: Path, protocol: int) -> None:
    writes = f"open({str(marker)!r}, 'w')"
    attacks = [
        (Runs(os.system, f"touch {marker}"), ".*.system"),
        (Runs(eval, writes), ".*.eval"),
        (Runs(exec, writes), ".*.exec"),
        (Runs(open, str(marker), "w"), ".*open"),
        (Runs(getattr, "text", "upper"), ".*.getattr"),
        (Runs(__import__, "antigravity"), ".*__import__"),
        (Runs(subprocess.Popen, ["touch", str(marker)]), ".*.Popen"),
        (Runs(np.load, str(marker), None, True), "numpy.load"),
        (Runs(np.fromfile, str(marker)), "numpy.*fromfile"),
        (Runs(np.memmap, str(marker), "u1", "w+", 0, (5,)), "numpy.*memmap"),
        (Runs(np.frombuffer, b"12345678"), "numpy.*frombuffer"),
        (Runs(pickle.loads, pickle.dumps(Runs(os.system, f"touch {marker}"))), ".*pickle.loads"),
        (Runs(types.FunctionType, 1, {}), ".*Function.*|types.*|.*CodeType.*"),
        # Hidden one in another, in places that are never looked at, and under keys that are not FLAME's.
        ({"other": [[Runs(os.system, f"touch {marker}")]]}, ".*.system"),
        ({Runs(os.system, f"touch {marker}"): 1}, ".*.system"),
        (Runs(os.system, Runs(os.system, f"touch {marker}")), ".*.system"),
    ]
    for number, (attack, name) in enumerate(attacks):
        try:
            path = write(tmp_path / f"{number}.pkl", {"v_template": attack}, protocol)
        except (pickle.PicklingError, TypeError):
            continue
        refused(path, marker, f"holds arrays alone, but it asks for `{name}`, which could run code")
    assert "antigravity" not in sys.modules


def line(text: str) -> bytes:
    return text.encode() + b"\n"


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        # Names: old and new ways of asking, attributes of admitted names, look-alikes.
        (b"cos\nsystem\n(S'touch ran'\ntR.", "asks for `os.system`"),
        (b"(S'touch ran'\nios\nsystem\n.", "asks for `os.system`"),
        (b"\x80\x04" + short("os") + short("system") + b"\x93.", "asks for `os.system`"),
        (b"\x80\x04" + short("numpy.core.multiarray") + short("_reconstruct.__globals__") + b"\x93.", "asks for"),
        (b"\x80\x04" + short("numpy") + short("ndarray.tofile") + b"\x93.", "asks for `numpy.ndarray.tofile`"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "asks for `numpy.core.multiarray.fromfile`"),
        (b"cnumpy.core\nmultiarray\n.", "asks for `numpy.core.multiarray`"),
        (b"cchumpy.ch\nos\n.", "asks for `chumpy.ch.os`"),
        (b"cchumpy.utils\nCh\n.", "asks for `chumpy.utils.Ch`"),
        (b"cscipy.sparse.csc\nload_npz\n.", "asks for `scipy.sparse.csc.load_npz`"),
        (b"cscipy.sparse.csc\ncsc_matrix.__init__\n.", "asks for"),
        (b"ccopy_reg\n_inverted_registry\n.", "asks for"),
        (b"c__builtin__\ngetattr\n(cnumpy\nndarray\nS'tofile'\ntR.", "asks for `__builtin__.getattr`"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\n(I0\ntS'b'\ntR.", "asks for `os.system`"),
        # Objects and state: nothing but our own objects can be called or changed.
        (b"(S'x'\nicchumpy.ch\nCh\n.", "asks for `cchumpy.ch.Ch`"),
        (b"(S'x'\nichumpy.ch\nCh\n.", "old instance of `chumpy.ch.Ch`"),
        (b"(cchumpy.ch\nCh\no.", "uses the instruction OBJ"),
        (b"S'text'\n(tR.", "but it calls a str"),
        (b"(tS'text'\nR.", "but it calls a tuple"),
        (ARRAY + b"(cnumpy\nndarray\n(I0\ntS'b'\ntR(tR.", "but it calls a StoredArray"),
        (ARRAY + b"}S'__defaults__'\nI1\nsb.", "sets the state of arrays alone, but it sets that of a _Token"),
        (ARRAY + b"(N}S'__code__'\nI1\nstb.", "sets the state of arrays alone"),
        (b"cchumpy.ch\nCh\n(N}S'__reduce__'\nI1\nstb.", "sets the state of arrays alone"),
        (b"]}S'x'\nI1\nsb.", "sets that of a list"),
        (b"\x80\x02cos\nsystem\n)\x81.", "asks for `os.system`"),
        (b"ccopy_reg\n_reconstructor\n(S'x'\nc__builtin__\nobject\nNtR.", "an object of something else"),
        (b"ccopy_reg\n_reconstructor\n(c__builtin__\nset\nc__builtin__\nobject\nNtR.", "an object of something else"),
        (b"\x80\x04" + b"cchumpy.ch\nCh\n)}\x92.", "uses the instruction NEWOBJ_EX"),
        (ARRAY + b"I1\na.", "fills lists, but this one fills a _Token"),
        (ARRAY + b"(I1\nI2\ne.", "fills lists, but this one fills a _Token"),
        (ARRAY + b"I1\nI2\ns.", "fills dictionaries, but this one fills a _Token"),
        # Ways out of the file.
        (b"Pelsewhere\n.", "points outside its file"),
        (b"S'elsewhere'\nQ.", "points outside its file"),
        (b"\x80\x02\x82\xf1.", "uses the instruction EXT1"),
        (b"\x80\x02\x83\xf1\x00.", "uses the instruction EXT2"),
        (b"\x80\x02\x84\xf1\x00\x00\x00.", "uses the instruction EXT4"),
        (b"\x80\x05\x97.", "uses the instruction NEXT_BUFFER"),
        (b"\x80\x05\x98.", "uses the instruction READONLY_BUFFER"),
        (b"\xff.", "cannot be read as one .*no instruction 0xff"),
        # What is no pickle, or none of a dictionary.
        (b"I1\n.", "is a pickled dictionary, but .* holds a int"),
        (b"", "cannot be read as one"),
        (b".", "cannot be read as one"),
        (b"\x80\x09.", "cannot be read as one"),
        (b"PK\x03\x04", "cannot be read as one|points outside"),
        # Claims of more than there is.
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f12", "cannot be read as one"),
        (b"\x80\x04\x96\xff\xff\xff\xff\xff\xff\xff\x7f12", "cannot be read as one"),
        (b"\x80\x02}r\xff\xff\xff\x7f.1", ""),
        (b"\x80\x02\x8b\xff\xff\xff\x7f1", "cannot be read as one"),
    ],
)  # fmt: skip
def test_programs(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, program: bytes, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(copyreg._inverted_registry, 0xF1, ("os", "system"))
    path = tmp_path / "model.pkl"
    path.write_bytes(program)
    if message:
        refused(path, marker, message)
    else:
        assert read_pickle(path) == {}
    assert not marker.exists()


def test_admitted_names_do_nothing_by_themselves() -> None:
    """No name is a real class or function of NumPy, scipy or chumpy, or anything that runs text."""
    for token in flame_pickle._TOKENS.values():
        assert token.make.__module__ in (flame_pickle.__name__, stored.__name__), token.name
        with pytest.raises(AttributeError):
            token.extra = 1


def test_wrong_classes_and_shapes_make_no_array(tmp_path: Path, marker: Path) -> None:
    """`_reconstruct` is asked for another class and a terabyte; what counts is the state that follows."""
    huge = ARRAY + b"(cnumpy\ndtype\n(I1099511627776\ntS'b'\ntR"
    path = tmp_path / "model.pkl"
    path.write_bytes(b"}S'v_template'\n" + huge + b"s.")
    value = read_pickle(path)["v_template"]
    with pytest.raises(HeadModelError, match="arrays are whole, but one is not"):
        array(value)
    assert not marker.exists()


def in_key(value: bytes) -> bytes:
    return b"}S'v_template'\n" + value + b"s."


#: An object of a class, without its constructor.
NEW = b"ccopy_reg\n_reconstructor\n(c%s\nc__builtin__\nobject\nNtR"
CHUMPY = NEW % b"chumpy.ch\nCh"


def matrix(shape: str) -> bytes:
    """A compressed matrix of one cell that claims a shape."""
    one = "\\x01" + 7 * "\\x00"
    number = f"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'i8'\nI0\nI1\ntRS'{one}'\ntR"
    parts = "".join(f"S'{name}'\n{number}s" for name in ("data", "indices", "indptr"))
    return NEW % b"scipy.sparse.csc\ncsc_matrix" + f"}}{parts}S'_shape'\n{shape}sb".encode()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (matrix("(I2000000000\nI2000000000\nt"), "matrices have at most 50000000 cells, but one is"),
        (matrix("(I-1\nI-5\nt"), "matrices have at most"),
        # An array whose `x` is itself; text, objects and lists of lists where numbers should be.
        (CHUMPY + b"p1\n}S'x'\ng1\nsb", "at most 8 deep"),
        (CHUMPY + b"}S'a'\nI1\nsS'b'\nI2\nsb", r"a computation \(a, b\)"),
        (b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR", "hold numbers, but one holds an object"),
        (b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRI5\ntR", "holds the data type 'O8'"),
        (b"cnumpy.core.multiarray\nscalar\n(I5\nI5\ntR", "one has no data type"),
        (b"((I1\nI2\nl(I1\nI2\nll", "one holds a list"),
        (b"c__builtin__\nset\n((lI1\natR", "one holds a NoneType"),
    ],
)  # fmt: skip
def test_values_that_are_no_arrays(tmp_path: Path, value: bytes, message: str) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(in_key(value))
    with pytest.raises(HeadModelError, match=message):
        array(read_pickle(path)["v_template"])


def test_nested_doubles_take_no_time(tmp_path: Path) -> None:
    """Each tuple holds the one before twice: written out, or hashed, it would be larger than any memory."""
    bomb = b"(I1\ntp0\n" + b"".join(b"0(g%d\ng%d\ntp%d\n" % (i, i, i + 1) for i in range(60))
    path = tmp_path / "model.pkl"
    start = time.perf_counter()
    path.write_bytes(in_key(bomb))
    with pytest.raises(HeadModelError, match="one holds a tuple"):
        array(read_pickle(path)["v_template"])
    path.write_bytes(b"}" + bomb + b"I1\ns.")
    assert read_pickle(path) == {}
    path.write_bytes(b"\x80\x04\x8f(" + bomb + b"\x90" + b"0}.")
    assert read_pickle(path) == {}
    assert time.perf_counter() - start < 5.0


def test_pickled_embeddings_run_nothing(tmp_path: Path, marker: Path) -> None:
    values = np.array({"static_lmk_faces_idx": Runs(os.system, f"touch {marker}")}, dtype=object)
    np.save(tmp_path / "landmark_embedding_with_eyes.npy", values, allow_pickle=True)
    with pytest.raises(HeadModelError, match="asks for `.*.system`"):
        read_landmarks(tmp_path, np.zeros((80, 3), np.int64))
    assert not marker.exists()


def test_damaged_bytes_are_an_error_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever byte of a file is changed, it is read or refused: nothing else is raised."""
    for name, members in (("chumpy", {}), ("chumpy.ch", {"Ch": Ch})):
        module = types.ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    content = {**blobs(), "shapedirs": Ch(np.zeros((300, 3, 104), np.float16))}
    whole = write(tmp_path / "model.pkl", content, 2, python2=True).read_bytes()
    # The instructions, not the numbers between them.
    places = [i for i in range(len(whole)) if i < 400 or whole[i : i + 1] in b"qRtbcU("][:4000]
    pick = random.Random(0)
    path = tmp_path / "changed.pkl"
    for _ in range(150):
        changed = bytearray(whole)
        for place in pick.sample(places, pick.choice([1, 1, 3])):
            changed[place] = pick.randrange(256)
        path.write_bytes(bytes(changed))
        try:
            read_flame(path)
        except HeadModelError as error:
            assert "\n" not in str(error)
