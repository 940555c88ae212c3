"""FLAME's loader, on small files of the published structure, and on files that want to run code."""

from __future__ import annotations

import pickle
import pickletools
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from geodiff.errors import HeadModelError
from geodiff.head import load_head
from geodiff.head.flame import load_flame
from geodiff.head.flame_pickle import read_flame, read_pickle
from geodiff.types import HeadParams

NUM_SHAPE, NUM_EXPR = 4, 100


class Ch:
    """What chumpy writes: an object of `chumpy.ch.Ch` whose state holds the numbers as `x`, beside bookkeeping."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x
        self._dirty_vars = set()
        self._itr = None


Ch.__module__ = "chumpy.ch"


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2's strings, as the published files hold them."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_py2_string(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_py2_string


@pytest.fixture
def chumpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the pickler find the class under chumpy's name; the loader must not need it."""
    package, module = types.ModuleType("chumpy"), types.ModuleType("chumpy.ch")
    module.Ch = Ch
    monkeypatch.setitem(sys.modules, "chumpy", package)
    monkeypatch.setitem(sys.modules, "chumpy.ch", module)


def content() -> dict:
    """A head of five blobs with FLAME's keys, types and layout."""
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(60, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    centres = np.array([[0, -0.05, 0], [0, 0.05, 0], [0, -0.06, 0.04], [0.03, 0.03, 0.03], [-0.03, 0.03, 0.03]])
    radii = np.array([0.05, 0.09, 0.03, 0.012, 0.012])
    template = np.concatenate([c + r * unit for c, r in zip(centres, radii, strict=True)])
    count = len(template)
    joint = np.repeat(np.arange(5), len(unit))
    regressor = np.zeros((5, count))
    regressor[joint, np.arange(count)] = 1 / len(unit)
    return {
        "v_template": Ch(template),
        "f": rng.integers(0, count, (80, 3)).astype(np.uint32),
        "shapedirs": Ch(1e-3 * rng.normal(size=(count, 3, NUM_SHAPE + NUM_EXPR))),
        "posedirs": np.asfortranarray(1e-3 * rng.normal(size=(count, 3, 36))),
        "J_regressor": sparse.csc_matrix(regressor),
        "J": centres,
        "weights": Ch(np.eye(5)[joint]),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def write(path: Path, value: object, protocol: int = 2, python2: bool = False) -> Path:
    with path.open("wb") as file:
        (Python2Pickler if python2 else pickle.Pickler)(file, protocol).dump(value)
    return path


@pytest.mark.parametrize(("protocol", "python2"), [(2, True), (2, False), (4, False)])
def test_reads_the_published_structure(tmp_path: Path, chumpy: None, monkeypatch, protocol: int, python2: bool) -> None:
    truth = content()
    path = write(tmp_path / "generic_model.pkl", truth, protocol, python2)
    names = {argument for _, argument, _ in pickletools.genops(path.read_bytes()) if isinstance(argument, str)}
    assert any("chumpy.ch" in name for name in names)
    monkeypatch.delitem(sys.modules, "chumpy.ch")
    arrays = read_flame(path)
    np.testing.assert_array_equal(arrays["v_template"], truth["v_template"].x)
    np.testing.assert_array_equal(arrays["posedirs"], truth["posedirs"])
    np.testing.assert_allclose(arrays["J_regressor"], truth["J_regressor"].toarray())
    assert arrays["kintree_table"][0, 0] == 2**32 - 1

    head = load_head(f"flame:{path}")
    assert (head.num_shape, head.num_expr, head.name) == (NUM_SHAPE, NUM_EXPR, "flame")
    assert head.expression_names[0] == "expression000" and head.landmarks is None
    assert head.pose_basis is not None and head.pose_basis.shape == (36, head.num_vertices, 3)
    joints = arrays["J_regressor"] @ arrays["v_template"]
    np.testing.assert_allclose(head.joint_regressor @ head.template, joints, atol=1e-6)
    assert torch.equal(head.regions["eyeballs"], head.skinning[:, 3:].sum(1) > 0.5)
    # It poses: the jaw moves the jaw's vertices, and the motion's jawOpen opens it.
    params = HeadParams.zeros(NUM_SHAPE, NUM_EXPR).replace(jaw_pose=torch.tensor([[0.3, 0.0, 0.0]]))
    moved = (head.vertices(params) - head.vertices(head.zeros()))[0].norm(dim=1)
    assert float(moved[head.skinning[:, 2] > 0.5].max()) > 0.01
    assert "jawOpen" in head.arkit_jaw


def test_reads_a_folder_with_uvs_and_landmarks(tmp_path: Path, chumpy: None) -> None:
    truth = content()
    write(tmp_path / "flame2023.pkl", truth)
    lines = ["v 0 0 0"] + [f"vt {u} {u / 2}" for u in np.linspace(0, 1, 9)]
    lines += [f"f {a + 1}/{a % 9 + 1} {b + 1}/{b % 9 + 1} {c + 1}/{c % 9 + 1}" for a, b, c in truth["f"].tolist()]
    (tmp_path / "head_template_mesh.obj").write_text("\n".join(lines))
    np.savez(
        tmp_path / "mediapipe_landmark_embedding.npz", landmark_indices=np.arange(105),
        lmk_face_idx=np.arange(105) % 80, lmk_b_coords=np.full((105, 3), 1 / 3),
    )  # fmt: skip
    head = load_flame(tmp_path)
    assert head.uvs.shape == (9, 2) and head.faces_uv.shape == head.faces.shape
    assert head.landmarks is not None and head.landmarks.points(head.template, head.faces).shape == (105, 3)


class Runs:
    """Asks the unpickler to call something."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_files_run_nothing(tmp_path: Path, protocol: int) -> None:
    import os
    import subprocess

    marker = tmp_path / "ran"
    attacks = [
        Runs(os.system, f"touch {marker}"),
        Runs(eval, f"open({str(marker)!r}, 'w')"),
        Runs(exec, f"open({str(marker)!r}, 'w')"),
        Runs(subprocess.Popen, ["touch", str(marker)]),
        Runs(open, str(marker), "w"),
        Runs(getattr, "text", "upper"),
        Runs(np.load, str(marker)),
    ]
    said = "a FLAME model holds arrays alone, but it asks for `.*`, which could run"
    for number, attack in enumerate(attacks):
        path = write(tmp_path / f"{number}.pkl", {"v_template": attack}, protocol)
        with pytest.raises(HeadModelError, match=said):
            read_pickle(path)
        assert not marker.exists()


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (b"\x80\x04\x8c\x15numpy.core.multiarray\x8c\x18_reconstruct.__globals__\x93.", "asks for"),
        (b"cos\nsystem\n(S'touch ran'\ntR.", "asks for `os.system`"),
        (b"(S'touch ran'\nios\nsystem\n.", "asks for `os.system`"),
        (b"Pelsewhere\n.", "points outside its file"),
        (b"\x80\x02\x82\x01.", "cannot be read as one"),
        (b"I1\n.", "holds a int"),
        (b"", "cannot be read as one"),
    ],
)  # fmt: skip
def test_hostile_opcodes(tmp_path: Path, opcodes: bytes, message: str) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(opcodes)
    with pytest.raises(HeadModelError, match=message):
        read_pickle(path)


def test_arrays_of_objects_are_refused(tmp_path: Path, chumpy: None) -> None:
    truth = content()
    truth["v_template"] = np.array([{"a": 1}, None], dtype=object)
    with pytest.raises(HeadModelError, match="arrays hold numbers, but one holds"):
        load_flame(write(tmp_path / "model.pkl", truth))


def test_wrong_files_are_said(tmp_path: Path, chumpy: None) -> None:
    with pytest.raises(HeadModelError, match="needs its model file, but .* does not exist"):
        load_flame(tmp_path / "missing.pkl")
    with pytest.raises(HeadModelError, match="folder holds generic_model.pkl or flame2023.pkl, but"):
        load_flame(tmp_path)
    truth = content()
    path = write(tmp_path / "model.pkl", truth)
    (tmp_path / "half.pkl").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(HeadModelError, match="cannot be read as one"):
        load_flame(tmp_path / "half.pkl")
    del truth["posedirs"]
    with pytest.raises(HeadModelError, match="lacks posedirs"):
        load_flame(write(path, truth))
    truth = content()
    truth["weights"] = truth["weights"].x[:, :3]
    with pytest.raises(HeadModelError, match="FLAME's weights has the shape"):
        load_flame(write(path, truth))
    truth = content()
    truth["f"] = truth["f"] + np.uint32(10_000)
    with pytest.raises(HeadModelError, match="some point beyond"):
        load_flame(write(path, truth))
