"""Time both rasterisers and print a table in Markdown.

    python scripts/benchmark_raster.py [--threads N] [--repeats N] [--reference]

Gaussians lie on a shell about the size of a head that fills four fifths of the image's height, about 30 splats over
each pixel of it; 8 colour channels, alpha and depth; gradients to all five fields. The mesh is a closed sphere of 20k
triangles. Wall-clock time suffers from whatever else the machine does: the least and the median are given, and the
processor time of all threads together (the least), which suffers less.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch

from geodiff.geometry import orbit_camera
from geodiff.raster import mesh
from geodiff.raster.gaussians import View, rasterize
from geodiff.raster.reference import project
from geodiff.types import Camera, Gaussians

CHANNELS = 8
SPLATS_PER_PIXEL = 30.0
#: Half axes of the shell, metres.
SHELL = (0.08, 0.12, 0.10)


@dataclass(frozen=True)
class Timing:
    """Milliseconds."""

    least: float
    median: float
    processor: float

    def cells(self) -> str:
        return f"{self.least:.1f} | {self.median:.1f} | {self.processor:.1f}"


def measure(function: Callable[[], object], repeats: int) -> Timing:
    """After one run that compiles."""
    function()
    wall, processor = [], []
    for _ in range(repeats):
        start, start_processor = time.perf_counter(), time.process_time()
        function()
        wall.append(1e3 * (time.perf_counter() - start))
        processor.append(1e3 * (time.process_time() - start_processor))
    return Timing(min(wall), float(np.median(wall)), min(processor))


def camera(size: int) -> Camera:
    """Sees the shell over four fifths of the image's height."""
    distance = 1.0
    focal = 0.8 * size * math.sqrt(distance**2 - SHELL[1] ** 2) / (2 * SHELL[1])
    return orbit_camera(0.3, 0.1, distance, torch.zeros(3), focal, size, size)


def shell(count: int, scale: float) -> Gaussians:
    """Gaussians whose standard deviations are about `scale` metres."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    thickness = 1 + 0.02 * torch.randn(count, 1, generator=generator)
    return Gaussians(
        means=directions * torch.tensor(SHELL) * thickness,
        quats=torch.randn(count, 4, generator=generator),
        scales=scale * torch.exp(0.4 * torch.randn(count, 3, generator=generator)),
        opacities=0.05 + 0.9 * torch.rand(count, generator=generator),
        colors=torch.rand(count, CHANNELS, generator=generator),
    )


def splats_per_pixel(gaussians: Gaussians, view: Camera) -> float:
    """Area of all ellipses (alpha above 1/255) over the area of the shell's outline."""
    seen = project(gaussians, view.viewmat, view.K, View(view.width, view.height, 0.01, 0.3))
    determinant = seen.conics[:, 0] * seen.conics[:, 2] - seen.conics[:, 1] ** 2
    level = 2.0 * torch.log(255.0 * gaussians.opacities[seen.index])
    outline = math.pi * (view.K[0, 0] * SHELL[0]) * (view.K[1, 1] * SHELL[1])
    return float((math.pi * level / determinant.sqrt()).sum() / outline)


def head_like(count: int, view: Camera) -> Gaussians:
    """The shell whose splats are as large as needed for `SPLATS_PER_PIXEL`."""
    low, high = 1e-5, 0.05
    for _ in range(12):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if splats_per_pixel(shell(count, middle), view) > SPLATS_PER_PIXEL else (middle, high)
    return shell(count, low)


def benchmark_gaussians(count: int, size: int, backend: str, repeats: int) -> str:
    view = camera(size)
    scene = head_like(count, view)
    viewmats, intrinsics = view.viewmat[None], view.K[None]
    gradients = [torch.randn(1, size, size, channels) for channels in (CHANNELS, 1, 1)]

    def forward() -> None:
        with torch.no_grad():
            rasterize(scene, viewmats, intrinsics, size, size, backend=backend)

    def both() -> None:
        leaves = [getattr(scene, f.name).detach().requires_grad_() for f in fields(Gaussians)]
        found = rasterize(Gaussians(*leaves), viewmats, intrinsics, size, size, backend=backend)
        torch.autograd.backward([found.colors, found.alphas, found.depths], gradients)

    cells = [measure(function, repeats).cells() for function in (forward, both)]
    density = splats_per_pixel(scene, view)
    return f"| {backend} | {count // 1000}k / {size} | {density:.0f} | {' | '.join(cells)} |"


def sphere(segments: int) -> tuple[np.ndarray, np.ndarray]:
    around, down = np.meshgrid(np.linspace(0, 2 * np.pi, segments), np.linspace(0, np.pi, segments))
    points = np.stack([np.sin(down) * np.sin(around), np.cos(down), np.sin(down) * np.cos(around)], -1) * SHELL
    index = np.arange(segments * segments).reshape(segments, segments)
    a, b, c, d = (x.reshape(-1) for x in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    return points.reshape(-1, 3), np.concatenate([np.stack([a, c, d], 1), np.stack([a, d, b], 1)])


def benchmark_mesh(size: int, repeats: int) -> list[str]:
    vertices, faces = sphere(101)
    view = camera(size)
    fragments = mesh.rasterize(vertices, faces, view)
    attributes = np.random.default_rng(0).random((len(vertices), 3), np.float32)
    works: dict[str, Callable[[], object]] = {
        "rasterize": lambda: mesh.rasterize(vertices, faces, view),
        "interpolate, 3 channels": lambda: mesh.interpolate(fragments, faces, attributes),
        "render_normals": lambda: mesh.render_normals(vertices, faces, view),
        "render_normals, supersample 2": lambda: mesh.render_normals(vertices, faces, view, 2),
    }
    return [f"| {name} | {len(faces)} / {size} | {measure(f, repeats).cells()} |" for name, f in works.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--reference", action="store_true", help="also time the plain-torch backend (slow)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    print(f"threads: {arguments.threads}; milliseconds: least | median | processor time\n")
    print("| mesh | triangles / size | least | median | processor |\n|---|---|---|---|---|")
    for size in (256, 512):
        print("\n".join(benchmark_mesh(size, arguments.repeats)), flush=True)
    print("\n| Gaussians | N / size | splats a pixel | forward: least | median | processor ", end="")
    print("| and backward: least | median | processor |\n|---|---|---|---|---|---|---|---|---|")
    for count, size in ((5000, 128), (20000, 128), (20000, 256), (20000, 512), (60000, 512)):
        print(benchmark_gaussians(count, size, "cpu", arguments.repeats), flush=True)
    if arguments.reference:
        for count, size in ((5000, 128), (20000, 256)):
            print(benchmark_gaussians(count, size, "reference", max(arguments.repeats // 10, 2)), flush=True)


if __name__ == "__main__":
    main()
