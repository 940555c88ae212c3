"""Files of FLAME's structure that tests write themselves: contents, and pickles as Python 2 wrote them."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.spatial.transform import Rotation

from geodiff.head.builtin import load_builtin
from geodiff.head.model import HeadModel
from geodiff.types import HeadParams, Motion

NUM_SHAPE, NUM_EXPR = 4, 100
#: Parents of root, neck, jaw and eyes as the files hold them.
PARENTS = np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32)


class Ch:
    """What chumpy writes: an object of `chumpy.ch.Ch` whose state holds the numbers as `x`, beside bookkeeping."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x
        self._dirty_vars = {"x"}
        self._itr = None
        self._cached_parms = {("a", 1): None}


class Select:
    """A rearrangement of another chumpy array, `chumpy.reordering.Select`."""

    def __init__(self, a: Any, idxs: np.ndarray, preferred_shape: tuple[int, ...]) -> None:
        self.a, self.idxs, self.preferred_shape = a, idxs, preferred_shape


Ch.__module__, Select.__module__ = "chumpy.ch", "chumpy.reordering"


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2's strings, as the published files hold them."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_py2_string(self, value: bytes) -> None:
        if self.proto == 0:
            self.write(pickle.STRING + repr(value)[1:].encode("ascii") + b"\n")
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_py2_string


def write(path: Path, value: object, protocol: int = 2, python2: bool = False) -> Path:
    with path.open("wb") as file:
        (Python2Pickler if python2 else pickle.Pickler)(file, protocol).dump(value)
    if python2:
        # scipy's module was called so in those days; names are lines in these protocols, so lengths do not matter.
        path.write_bytes(path.read_bytes().replace(b"cscipy.sparse._csc\n", b"cscipy.sparse.csc\n"))
    return path


def blobs() -> dict[str, Any]:
    """Five blobs, one a joint, with FLAME's keys, types and layout: small, and no face."""
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
        "kintree_table": PARENTS,
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def face(jaw: bool = True) -> dict[str, Any]:
    """A face with FLAME's layout, a little larger than the bundled head and turned: 300 shape modes, of which a few
    move anything, and expressions that are mixtures without names. jaw: whether there is a jaw joint."""
    head = load_builtin()
    turn = Rotation.from_euler("xyz", [3.0, 2.0, -2.0], degrees=True).as_matrix() * 1.04
    vertices = head.template.double().numpy() + 0.7 * head.shape_basis[3].double().numpy()
    template = vertices @ turn.T + [0.002, 0.005, -0.004]
    count = len(template)
    basis = np.zeros((400, count, 3), np.float32)
    modes = head.shape_basis[:8].numpy()
    basis[: len(modes)] = modes @ turn.T.astype(np.float32)
    # Principal components of random faces.
    expressions = head.expr_basis.numpy().reshape(head.num_expr, -1)
    rng = np.random.default_rng(1)
    used = 0.7 * np.abs(rng.normal(size=(600, head.num_expr))) * (rng.random((600, head.num_expr)) < 0.15)
    root = np.linalg.cholesky(np.cov(used.T) + 1e-9 * np.eye(head.num_expr))
    _, strength, directions = np.linalg.svd(root.T @ expressions, full_matrices=False)
    components = (strength[:, None] * directions).reshape(-1, count, 3) @ turn.T
    basis[300 : 300 + len(components)] = components
    weights, regressor = head.skinning.double().numpy(), head.joint_regressor.double().numpy()
    columns, parents = 36, PARENTS
    if not jaw:
        weights[:, 1] += weights[:, 2]
        weights, regressor = np.delete(weights, 2, 1), np.delete(regressor, 2, 0)
        columns, parents = 27, np.array([[2**32 - 1, 0, 1, 1], [0, 1, 2, 3]], np.uint32)
    return {
        "v_template": Ch(template), "f": head.faces.numpy().astype(np.uint32),
        "shapedirs": Ch(basis.transpose(1, 2, 0)), "posedirs": np.zeros((count, 3, columns), np.float32),
        "J_regressor": sparse.csc_matrix(regressor), "J": np.zeros((5, 3)), "weights": weights,
        "kintree_table": parents,
    }  # fmt: skip


def plain(content: dict[str, Any]) -> dict[str, np.ndarray]:
    """The same as arrays alone."""
    arrays = {key: value.x if isinstance(value, Ch) else value for key, value in content.items()}
    arrays["J_regressor"] = content["J_regressor"].toarray()
    return {key: np.ascontiguousarray(value) for key, value in arrays.items() if not isinstance(value, str)}


def weights_of(head: HeadModel, **weights: float) -> HeadParams:
    motion = Motion({k: np.array([v]) for k, v in weights.items()}, np.zeros((1, 3)), np.zeros((1, 2)))
    return head.motion_params(motion, head.zeros())
