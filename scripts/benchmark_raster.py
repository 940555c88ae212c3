"""Time both rasterisers and print tables in Markdown.

    python scripts/benchmark_raster.py [--threads N] [--repeats N] [--twin N]

Gaussians lie on a shell about the size of a head that fills four fifths of the image's height, about 30 splats over
each pixel of it; 8 colour channels, alpha and depth; gradients to all five fields. The mesh is a closed sphere of 20k
triangles. Wall-clock time suffers from whatever else the machine does: the least and the median are given, and the
processor time of all threads together (the least), which suffers less. The ratio to the plain-torch twin is one of
processor times, of runs taken in turn.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache, partial

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


def camera(size: int, yaw: float = 0.3) -> Camera:
    """Sees the shell over four fifths of the image's height."""
    distance = 1.0
    focal = 0.8 * size * math.sqrt(distance**2 - SHELL[1] ** 2) / (2 * SHELL[1])
    return orbit_camera(yaw, 0.1, distance, torch.zeros(3), focal, size, size)


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


@dataclass(frozen=True)
class Scene:
    """What is rendered: Gaussians of the shell from `views` directions."""

    gaussians: Gaussians
    cameras: list[Camera]

    @classmethod
    def make(cls, count: int, size: int, views: int = 1) -> Scene:
        return cls(head_like(count, camera(size)), [camera(size, 0.3 + 0.4 * i) for i in range(views)])

    def render(self, backend: str, gradients: bool) -> None:
        """All views in one call, with or without the gradients of all fields."""
        size = self.cameras[0].width
        viewmats, intrinsics = torch.stack([c.viewmat for c in self.cameras]), torch.stack([c.K for c in self.cameras])
        with torch.set_grad_enabled(gradients):
            leaves = [getattr(self.gaussians, f.name).detach().requires_grad_(gradients) for f in fields(Gaussians)]
            found = rasterize(Gaussians(*leaves), viewmats, intrinsics, size, size, backend=backend)
        if gradients:
            outputs = [found.colors, found.alphas, found.depths]
            torch.autograd.backward(outputs, [_noise(tuple(o.shape)) for o in outputs])


@cache
def _noise(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def benchmark_gaussians(count: int, size: int, repeats: int, twin: int) -> str:
    """A row of the table; twin: how often the plain-torch twin runs, 0 for not at all."""
    scene = Scene.make(count, size)
    cells = []
    for gradients in (False, True):
        works = [partial(scene.render, "cpu", gradients)] + [partial(scene.render, "reference", gradients)] * (twin > 0)
        parts = [[measure(work, share) for work, share in zip(works, (-(-repeats // 3), twin), strict=False)]]
        parts += [[measure(works[0], -(-repeats // 3))] for _ in range(2)]
        kernel = best([part[0] for part in parts])
        ratio = f"{parts[0][1].processor / kernel.processor:.0f}" if twin else ""
        cells.append(f"{kernel.cells()} | {ratio}")
    density = splats_per_pixel(scene.gaussians, scene.cameras[0])
    return f"| {count // 1000}k / {size} | {density:.0f} | {' | '.join(cells)} |"


def best(timings: list[Timing]) -> Timing:
    return Timing(
        min(t.least for t in timings), float(np.median([t.median for t in timings])), min(t.processor for t in timings)
    )


def benchmark_views(count: int, size: int, views: int, repeats: int) -> list[str]:
    """Several views in one call and in as many calls."""
    scene = Scene.make(count, size, views)
    alone = [Scene(scene.gaussians, [each]) for each in scene.cameras]
    rows = []
    for gradients in (False, True):
        one = measure(partial(scene.render, "cpu", gradients), repeats)
        several = measure(lambda: [each.render("cpu", gradients) for each in alone], repeats)  # noqa: B023
        what = "forward and backward" if gradients else "forward"
        rows.append(f"| {what}, {views} views | {count // 1000}k / {size} | {one.cells()} | {several.cells()} |")
    return rows


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
    parser.add_argument("--twin", type=int, default=3, help="runs of the plain-torch twin (slow); 0 for none")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    print(
        f"threads: {arguments.threads}; load: {os.getloadavg()[0]:.1f}; milliseconds: least | median | processor time\n"
    )
    print("| mesh | triangles / size | least | median | processor |\n|---|---|---|---|---|")
    for size in (256, 512):
        print("\n".join(benchmark_mesh(size, arguments.repeats)), flush=True)
    print("\n| N / size | splats a pixel | forward: least | median | processor | times the twin ", end="")
    print("| and backward: least | median | processor | times the twin |\n|---|---|---|---|---|---|---|---|---|---|")
    for count, size in ((5000, 128), (20000, 128), (20000, 256), (60000, 256), (20000, 512), (60000, 512)):
        print(benchmark_gaussians(count, size, arguments.repeats, arguments.twin), flush=True)
    print("\n| | N / size | one call: least | median | processor | a call each: least | median | processor |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(benchmark_views(20000, 256, 8, arguments.repeats // 3)), flush=True)


if __name__ == "__main__":
    main()
