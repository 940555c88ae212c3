"""LPIPS and CSIM: their formulas with random weights, and what is said where weights are absent."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from onnx_file import message, value
from safetensors.torch import save_file
from torch.nn import functional

from geodiff.metrics import identity, perceptual, weights
from geodiff.metrics.checks import NotMeasured
from geodiff.metrics.identity import FIVE_POINTS, TEMPLATE, ArcFace, align, csim, load_arcface, similarity
from geodiff.metrics.perceptual import BACKBONES, Lpips, load_lpips, lpips


@pytest.fixture(autouse=True)
def _no_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEODIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(perceptual, "packaged_file", lambda package, relative: None)
    load_lpips.cache_clear()
    load_arcface.cache_clear()


def _weights(net: str, folder: Path) -> dict[str, torch.Tensor]:
    """Random weights under torchvision's and LPIPS's names, written to a folder."""
    generator = torch.Generator().manual_seed(1)
    features = {
        name: torch.randn(value.shape, generator=generator) * (0.05 if value.ndim > 1 else 0.1)
        for name, value in Lpips(net).state_dict().items()
        if name.startswith("features.")
    }
    heads = {
        f"lin{i}.model.1.weight": torch.rand(1, len(head), 1, 1, generator=generator)
        for i, head in enumerate(Lpips(net).heads)
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({**features, "classifier.1.weight": torch.zeros(2)}, folder / BACKBONES[net].files[0].replace("*", "-1"))
    torch.save(heads, folder / f"lpips_{net}.pth")
    return {**features, **heads}


def _images() -> tuple[np.ndarray, np.ndarray]:
    truth = cv2.resize(skimage.data.astronaut(), (96, 80), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return cv2.GaussianBlur(truth, (0, 0), 1.5), truth


def _alexnet_distance(w: dict[str, torch.Tensor], image: np.ndarray, truth: np.ndarray) -> float:
    """Equation 1 of Zhang et al. 2018, layer by layer as the paper's network has them."""

    def layers(picture: np.ndarray) -> list[torch.Tensor]:
        x = torch.as_tensor(picture).permute(2, 0, 1)[None] * 2 - 1
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = (x - shift[:, None, None]) / scale[:, None, None]
        x, found = torch.relu(functional.conv2d(x, w["features.0.weight"], w["features.0.bias"], 4, 2)), []
        found.append(x)
        for number, padding in ((3, 2), (6, 1), (8, 1), (10, 1)):
            if number < 8:
                x = functional.max_pool2d(x, 3, 2)
            x = functional.conv2d(x, w[f"features.{number}.weight"], w[f"features.{number}.bias"], padding=padding)
            x = torch.relu(x)
            found.append(x)
        return [y / torch.sqrt((y**2).sum(1, keepdim=True) + 1e-8) for y in found]

    total = 0.0
    for i, (a, b) in enumerate(zip(layers(image), layers(truth), strict=True)):
        total += float((w[f"lin{i}.model.1.weight"] * (a - b) ** 2).sum(1).mean())
    return total


def test_lpips_is_the_paper_s_formula(tmp_path: Path) -> None:
    w = _weights("alex", tmp_path)
    image, truth = _images()
    network = load_lpips("alex", tmp_path)
    assert lpips(network, image, truth) == pytest.approx(_alexnet_distance(w, image, truth), rel=1e-4)
    assert lpips(network, truth, truth) == 0.0


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_in_a_mask(tmp_path: Path, net: str) -> None:
    _weights(net, tmp_path)
    network = load_lpips(net, tmp_path)
    _, truth = _images()
    spoiled = truth.copy()
    spoiled[:, :24] = 0.5
    left = np.zeros(truth.shape[:2], bool)
    left[:, :24] = True
    assert lpips(network, spoiled, truth, left) > 2 * lpips(network, spoiled, truth, ~left) > 0
    with pytest.raises(ValueError, match="at least one pixel"):
        lpips(network, truth, truth, np.zeros_like(left))
    with pytest.raises(NotMeasured, match="32 pixels"):
        lpips(network, truth[:20], truth[:20])


def test_absent_weights_say_where_they_belong(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match=r"AlexNet's ImageNet weights .* absent: put alexnet\*.safetensors into"):
        load_lpips("alex", tmp_path)
    with pytest.raises(NotMeasured, match="cache"):
        load_lpips("vgg")
    _weights("vgg", tmp_path)
    (tmp_path / "lpips_vgg.pth").unlink()
    load_lpips.cache_clear()
    with pytest.raises(NotMeasured, match=r"layer weights file is absent: .*geodiff\[eval\]"):
        load_lpips("vgg", tmp_path)


def test_weights_of_another_network_or_none_are_refused(tmp_path: Path) -> None:
    w = _weights("alex", tmp_path)
    path = tmp_path / "alexnet-1.safetensors"
    save_file({k: v[:1].clone() for k, v in w.items() if k.startswith("features")}, path)
    with pytest.raises(NotMeasured, match=r"must fit the network, and features\.0\.\w+ does not"):
        load_lpips("alex", tmp_path)
    path.write_bytes(b"no weights")
    with pytest.raises(NotMeasured, match="cannot be read as weights"):
        load_lpips("alex", tmp_path)


class _Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a weights file ran')",))


def test_a_weights_file_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"features.0.weight": _Evil()}, tmp_path / "alexnet.pth")
    with pytest.raises(NotMeasured, match="cannot be read as weights"):
        weights.read_tensors(tmp_path / "alexnet.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(NotMeasured, match="tensors by name"):
        weights.read_tensors(tmp_path / "list.pth")


def test_weights_are_looked_for_in_other_programs_caches(tmp_path: Path) -> None:
    _weights("alex", tmp_path / "torch" / "hub" / "checkpoints")
    assert load_lpips("alex").order
    folder = tmp_path / "home" / ".insightface" / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    (folder / "w600k_r50.onnx").write_bytes(b"")
    assert weights.find_file("an ArcFace network", identity.ARCFACE_FILES) == folder / "w600k_r50.onnx"


class _Session:
    """A network whose vector is the mean colour of the aligned face."""

    class _Input:
        name, shape = "face", ("batch", 3, 112, 112)

    def get_inputs(self) -> list[_Input]:
        return [self._Input()]

    def run(self, outputs: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert feeds["face"].shape == (1, 3, 112, 112) and np.abs(feeds["face"]).max() <= 1
        return [feeds["face"].mean((2, 3))]


def _marked(angle: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """A picture of (300, 300) with a dot on each of the five points of a turned template, and landmarks there."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (TEMPLATE - 56) @ turn.T + 150
    image = np.zeros((300, 300, 3), np.uint8)
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), 3, (255, 255, 255), -1)
    landmarks = np.zeros((478, 2), np.float32)
    landmarks[list(FIVE_POINTS)] = points + 0.5
    return image, landmarks


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.5, 1.7), (-2.0, 1.2)])
def test_faces_are_turned_onto_the_template(angle: float, scale: float) -> None:
    face = align(*_marked(angle, scale))
    assert face.shape == (112, 112, 3)
    for x, y in TEMPLATE:
        assert face[round(y), round(x), 0] > 200
    assert np.mean(face > 100) < 0.03


def test_similarity_is_exact_where_one_exists() -> None:
    matrix = similarity(TEMPLATE * 2 @ np.array([[0, 1], [-1, 0]]) + [3, 4], TEMPLATE)
    assert np.abs(np.linalg.det(matrix[:, :2]) - 0.25) < 1e-9
    with pytest.raises(ValueError, match="478"):
        align(np.zeros((9, 9, 3), np.uint8), np.zeros((68, 2)))


def test_csim() -> None:
    network = ArcFace(_Session())
    image, landmarks = _marked(0.0, 1.0)
    red, cyan = (np.tile(np.uint8(c), (300, 300, 1)) for c in ((255, 0, 0), (0, 255, 255)))
    same = csim(network.embed(red, landmarks), network.embed(red, landmarks))
    assert same == pytest.approx(1.0)
    assert csim(network.embed(red, landmarks), network.embed(cyan, landmarks)) == pytest.approx(-1.0)
    assert csim(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(np.sqrt(0.5))
    with pytest.raises(NotMeasured, match="zero"):
        csim(np.zeros(3), np.ones(3))


def test_absent_arcface_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match=r"ArcFace network is absent: put arcface\*.onnx into"):
        load_arcface(tmp_path)
    (tmp_path / "arcface.onnx").write_bytes(b"nothing")
    with pytest.raises(NotMeasured, match="onnxruntime is not installed|cannot be read"):
        load_arcface(tmp_path)


def _onnx(side: int) -> bytes:
    """A network that gives the mean colour of a picture (1, 3, side, side)."""

    nodes = (
        message((1, "face"), (2, "mean"), (4, "GlobalAveragePool")),
        message((1, "mean"), (2, "id"), (4, "Flatten")),
    )
    graph = message(
        *((1, node) for node in nodes), (2, "g"), (11, value("face", 1, 3, side, side)), (12, value("id", 1, 3))
    )
    return message((1, 8), (7, graph), (8, message((2, 13))))


def test_arcface_runs_from_an_onnx_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "arcface.onnx").write_bytes(_onnx(112))
    image, landmarks = _marked(0.3, 1.2)
    image[:] = (255, 0, 0)
    assert load_arcface(tmp_path).embed(image, landmarks) == pytest.approx([1, -1, -1])
    (tmp_path / "arcface.onnx").write_bytes(_onnx(64))
    load_arcface.cache_clear()
    with pytest.raises(NotMeasured, match=r"faces of shape \(1, 3, 112, 112\)"):
        load_arcface(tmp_path)
