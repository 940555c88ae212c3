"""Normals estimated by a network in an ONNX file: what it is fed, and that its axes become ours, whatever they are."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from onnx_file import message, value

from geodiff.conditioning import Reference
from geodiff.errors import AssetError, InputError, MissingDependencyError
from geodiff.geometry import orbit_camera
from geodiff.head import load_head
from geodiff.normals import NormalEstimator, find_axes, find_estimator, with_estimated_normals
from geodiff.raster import mesh
from geodiff.types import HeadParams

SIDE = 64


class Stub:
    """A session that gives one map, resized by repetition, and remembers what it was fed."""

    def __init__(self, normals: np.ndarray, *others: tuple[int, ...]) -> None:
        self.normals, self.fed = normals, np.zeros(0)
        self._shapes = [*others, (1, 3, SIDE, SIDE)]

    def get_inputs(self) -> list:
        return [SimpleNamespace(name="image", shape=["batch", 3, SIDE, SIDE])]

    def get_outputs(self) -> list:
        return [SimpleNamespace(name=f"out{i}", shape=list(shape)) for i, shape in enumerate(self._shapes)]

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert names == [f"out{len(self._shapes) - 1}"]
        self.fed = feed["image"]
        return [self.normals.transpose(2, 0, 1)[None].astype(np.float32)]


def conventions() -> list[np.ndarray]:
    """All 48 ways to order and flip three axes, theirs = matrix @ ours."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = signs
            found.append(matrix)
    return found


@pytest.fixture(scope="module")
def portrait() -> Reference:
    """The builtin head from a little to the side, its normals in our axes."""
    head = load_head("builtin")
    params = HeadParams.zeros(head.num_shape, head.num_expr)
    vertices = head.vertices(params)[0]
    camera = orbit_camera(0.25, 0.1, 1.0, vertices.mean(dim=0), 2.0 * SIDE, SIDE, SIDE)
    normals = mesh.render_normals(vertices, head.faces, camera)
    mask = (np.linalg.norm(normals, axis=-1) > 0.5).astype(np.float32)
    assert mask.mean() > 0.1
    image = np.random.default_rng(0).random((SIDE, SIDE, 3)).astype(np.float32)
    return Reference(image, mask, normals, normals, camera, params)


def test_any_axes_become_ours(portrait: Reference) -> None:
    rng = np.random.default_rng(1)
    noisy = portrait.normals + 0.2 * rng.standard_normal(portrait.normals.shape)
    for theirs in conventions():
        axes = find_axes(noisy @ theirs.T, portrait.normals)
        np.testing.assert_array_equal(axes.matrix @ theirs, np.eye(3))
        assert axes.agreement > 0.9


def test_reference_gets_normals_in_our_axes(portrait: Reference) -> None:
    theirs = np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]])
    session = Stub(portrait.normals @ theirs.T, (1, 1, SIDE, SIDE))
    found, axes = with_estimated_normals(portrait, NormalEstimator(session))
    np.testing.assert_array_equal(session.fed[0], portrait.image[..., ::-1].transpose(2, 0, 1))
    inside = portrait.mask > 0
    unit = portrait.normals[inside] / np.linalg.norm(portrait.normals[inside], axis=-1, keepdims=True)
    np.testing.assert_allclose(found.normals[inside], unit, atol=1e-5)
    assert not found.normals[~inside].any()
    # Towards the camera is +z, left in the image is -x, up is +y.
    middle = found.normals[inside]
    assert middle[:, 2].mean() > 0.5
    rows, columns = np.nonzero(inside)
    assert middle[columns < columns.mean() - 8, 0].mean() < middle[columns > columns.mean() + 8, 0].mean()
    assert middle[rows < rows.mean() - 12, 1].mean() > middle[rows > rows.mean() + 12, 1].mean()
    assert str(axes) == "+2 -1 -0"


def test_longer_images_are_padded_and_cut_again(portrait: Reference) -> None:
    session = Stub(portrait.normals)
    wide = np.zeros((SIDE // 2, SIDE, 3), np.float32)
    wide[0], wide[-1] = 0.25, 0.75
    found = NormalEstimator(session)(wide)
    assert found.shape == (SIDE // 2, SIDE, 3)
    assert (session.fed[0, :, : SIDE // 4] == 0.25).all()
    assert (session.fed[0, :, -SIDE // 4 :] == 0.75).all()


def test_networks_that_estimate_no_normals_are_refused(portrait: Reference) -> None:
    with pytest.raises(InputError, match="must give normals that agree with the fitted head"):
        with_estimated_normals(
            portrait, NormalEstimator(Stub(np.random.default_rng(2).standard_normal((SIDE, SIDE, 3))))
        )
    with pytest.raises(InputError, match="it is outside the image"):
        find_axes(portrait.normals, np.zeros_like(portrait.normals))
    depth = Stub(portrait.normals)
    depth._shapes = [(1, 1, SIDE, SIDE)]
    with pytest.raises(AssetError, match="gives maps of 3 channels"):
        NormalEstimator(depth)


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEODIFF_CACHE", str(tmp_path))
    assert find_estimator("mesh") is None
    assert find_estimator("auto") is None
    with pytest.raises(AssetError, match="must be mesh, auto or an ONNX file"):
        find_estimator(str(tmp_path / "none.onnx"))
    (tmp_path / "normals").mkdir()
    file = tmp_path / "normals" / "normal-model.onnx"
    file.write_bytes(b"nothing")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert find_estimator("auto") is None
    with pytest.raises(MissingDependencyError, match="need onnxruntime"):
        find_estimator(str(file))


def test_runs_from_an_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    node = message((1, "image"), (2, "normal"), (4, "Identity"))
    graph = message(
        (1, node), (2, "g"), (11, value("image", 1, 3, SIDE, SIDE)), (12, value("normal", 1, 3, SIDE, SIDE))
    )
    folder = tmp_path / "normals"
    folder.mkdir()
    (folder / "normal-model.onnx").write_bytes(message((1, 8), (7, graph), (8, message((2, 13)))))
    monkeypatch.setenv("GEODIFF_CACHE", str(tmp_path))
    estimator = find_estimator("auto")
    assert estimator is not None
    image = np.random.default_rng(3).random((SIDE, SIDE, 3)).astype(np.float32) + 0.1
    expected = image[..., ::-1] / np.linalg.norm(image, axis=-1, keepdims=True)
    np.testing.assert_allclose(estimator(image), expected, atol=1e-5)
    (folder / "normal-model.onnx").write_bytes(b"nothing")
    with pytest.raises(AssetError, match="must be a whole ONNX file"):
        find_estimator("auto")
