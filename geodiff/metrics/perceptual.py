"""LPIPS: distance of pictures in the features of a recognition network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from geodiff.metrics.checks import NotMeasured, check_pair
from geodiff.metrics.weights import find_file, packaged_file, read_tensors


@dataclass(frozen=True)
class Backbone:
    """A convolutional network's features up to its last tapped layer, with torchvision's layer numbers.

    layers: (channels, kernel, stride, padding) of a convolution with its ReLU, or ("pool", kernel, stride). taps: how
    many channels each tapped layer has, by the number of the convolution. files: names of its weights.
    """

    layers: tuple[tuple[int, int, int, int] | tuple[str, int, int], ...]
    taps: tuple[int, ...]
    files: tuple[str, ...]


_POOL = ("pool", 2, 2)
BACKBONES = {
    "alex": Backbone(
        ((64, 11, 4, 2), ("pool", 3, 2), (192, 5, 1, 2), ("pool", 3, 2), (384, 3, 1, 1), (256, 3, 1, 1),
         (256, 3, 1, 1)),
        (0, 1, 2, 3, 4), ("alexnet*.safetensors", "alexnet*.pth"),
    ),
    "vgg": Backbone(
        ((64, 3, 1, 1), (64, 3, 1, 1), _POOL, (128, 3, 1, 1), (128, 3, 1, 1), _POOL,
         (256, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1), _POOL, (512, 3, 1, 1), (512, 3, 1, 1), (512, 3, 1, 1), _POOL,
         (512, 3, 1, 1), (512, 3, 1, 1), (512, 3, 1, 1)),
        (1, 3, 6, 9, 12), ("vgg16*.safetensors", "vgg16*.pth"),
    ),
}  # fmt: skip


class Lpips(nn.Module):
    """Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", equation 1.

    The published weights version 0.1: torchvision's backbone trained on ImageNet, and one non-negative weight a channel
    of each of five layers.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str) -> None:
        super().__init__()
        self.backbone = BACKBONES[net]
        self.features = nn.ModuleDict()
        self.order: list[tuple[str, int | None]] = []
        number, convolution, channels, widths = 0, 0, 3, []
        for layer in self.backbone.layers:
            if layer[0] == "pool":
                self.features[str(number)] = nn.MaxPool2d(int(layer[1]), int(layer[2]))
                self.order.append((str(number), None))
                number += 1
                continue
            out, kernel, stride, padding = (int(value) for value in layer)
            self.features[str(number)] = nn.Conv2d(channels, out, kernel, stride, padding)
            tap = self.backbone.taps.index(convolution) if convolution in self.backbone.taps else None
            if tap is not None:
                widths.append(out)
            self.order += [(str(number), tap)]
            number, convolution, channels = number + 2, convolution + 1, out
        self.heads = nn.ParameterList([nn.Parameter(torch.zeros(width)) for width in widths])
        # ImageNet's mean and deviation for images in -1..1.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)

    def taps(self, image: Tensor) -> list[Tensor]:
        """image: (1, 3, H, W) in -1..1 -> features of the five layers, of unit length at every place."""
        x, found = (image - self.shift) / self.scale, []
        for name, tap in self.order:
            x = self.features[name](x)
            if isinstance(self.features[name], nn.Conv2d):
                x = torch.relu(x)
            if tap is not None:
                found.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return found

    def layer_maps(self, image: Tensor, truth: Tensor) -> list[Tensor]:
        """Weighted squared difference (1, 1, h, w) at every place of the five layers."""
        pairs = zip(self.heads, self.taps(image), self.taps(truth), strict=True)
        return [((x - y).square() * head[:, None, None]).sum(1, keepdim=True) for head, x, y in pairs]

    def load(self, features: dict[str, Tensor], heads: dict[str, Tensor], origin: Path) -> Lpips:
        """features: a torchvision state dictionary. heads: `lin0.model.1.weight` and so on. Raises NotMeasured."""
        wanted = {name: value for name, value in self.state_dict().items() if name.startswith("features.")}
        given = {name: features[name] for name in wanted if name in features}
        for i, head in enumerate(self.heads):
            name = f"heads.{i}"
            wanted[name] = head
            found = [value for key, value in heads.items() if key.startswith(f"lin{i}.")]
            if len(found) == 1:
                given[name] = found[0].reshape(-1)
        wrong = [name for name in wanted if name not in given or given[name].shape != wanted[name].shape]
        if wrong:
            raise NotMeasured(f"{origin} and the LPIPS layer weights must fit the network, and {wrong[0]} does not")
        self.load_state_dict({name: value.float() for name, value in given.items()})
        return self.eval().requires_grad_(False)


def lpips(network: Lpips, image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Learned perceptual image patch similarity (Zhang et al. 2018, equation 1), 0 for equal images.

    With a mask the layers' maps are resampled to the image and averaged over the mask; what lies outside is still seen
    by filters that reach across its border. image, truth: (H, W, 3) in 0..1. Raises ValueError for other shapes, values
    that are not finite and an empty mask.
    """
    check_pair(image, truth, mask)
    if min(truth.shape[:2]) < 32:
        raise NotMeasured("frames must have at least 32 pixels a side for five layers")
    x, y = (torch.as_tensor(np.float32(a)).permute(2, 0, 1)[None] * 2 - 1 for a in (image, truth))
    with torch.inference_mode():
        maps = network.layer_maps(x, y)
        if mask is None:
            return float(sum(layer.mean() for layer in maps))
        size = (truth.shape[0], truth.shape[1])
        chosen = torch.as_tensor(mask)
        large = (nn.functional.interpolate(layer, size, mode="bilinear")[0, 0] for layer in maps)
        return float(sum(layer[chosen].mean() for layer in large))


@lru_cache(maxsize=4)
def load_lpips(net: str, folder: Path | None = None) -> Lpips:
    """The network with its weights. net: "alex" or "vgg". Raises NotMeasured where its files are absent or others."""
    title = {"alex": "AlexNet", "vgg": "VGG-16"}[net]
    path = find_file(f"{title}'s ImageNet weights file (torchvision's)", BACKBONES[net].files, folder)
    heads = packaged_file("torchmetrics", f"functional/image/lpips_models/{net}.pth")
    try:
        heads = find_file("LPIPS's layer weights file", (f"lpips_{net}.safetensors", f"lpips_{net}.pth"), folder)
    except NotMeasured as error:
        if heads is None:
            raise NotMeasured(f"{error}, or pip install 'geodiff[eval]', which brings them") from error
    return Lpips(net).load(read_tensors(path), read_tensors(heads), path)
