"""The contract of the Gaussian rasteriser, run on every backend; `tests/gpu` runs it on CUDA.

The reference backend in float64 is the truth for random scenes; the rest are scenes whose image is known.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geodiff.errors import MissingDependencyError
from geodiff.geometry import look_at, orbit_camera
from geodiff.raster.gaussians import ALPHA_MAX, Rendered, rasterize
from geodiff.types import Gaussians

WIDTH, HEIGHT = 71, 45  # no multiples of a tile or a block
#: gsplat's exponential is an approximation, and its sums are added in any order.
FORWARD, BACKWARD = {"cuda": 1e-3}, {"cuda": 1e-2}
FIELDS = [f.name for f in fields(Gaussians)]
ZEROS = torch.zeros(1, 5, dtype=torch.float64)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Images this small gain nothing from threads, and threads that spin while others compute make tests slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def make_scene(seed: int, count: int = 300, channels: int = 5, scale: float = 0.006) -> Gaussians:
    """A shell about the size of a head, float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    directions = torch.nn.functional.normalize(normal(count, 3), dim=1)
    return Gaussians(
        means=directions * torch.tensor([0.09, 0.08, 0.1]) * (1 + 0.1 * normal(count, 1)),
        quats=normal(count, 4),
        scales=scale * torch.exp(0.5 * normal(count, 3)),
        opacities=0.05 + 0.9 * torch.rand(count, generator=generator, dtype=torch.float64),
        colors=torch.rand(count, channels, generator=generator, dtype=torch.float64),
    )


def make_cameras(yaws: tuple[float, ...] = (0.4,), distance: float = 0.8) -> tuple[Tensor, Tensor]:
    cameras = [orbit_camera(yaw, 0.2, distance, torch.zeros(3), 150.0, WIDTH, HEIGHT) for yaw in yaws]
    intrinsics = torch.stack([c.K for c in cameras])
    intrinsics[:, 0, 2] += 3.3
    return torch.stack([c.viewmat for c in cameras]), intrinsics


def render(
    backend: str, gaussians: Gaussians, viewmats: Tensor, intrinsics: Tensor, backgrounds: Tensor | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Rendered:  # fmt: skip
    """In the backend's own precision and place, brought back as float64."""
    dtype = torch.float64 if backend == "reference" else torch.float32
    device = "cuda" if backend == "cuda" else "cpu"

    def put(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype)

    moved = Gaussians(*(put(getattr(gaussians, name)) for name in FIELDS))
    backgrounds = None if backgrounds is None else put(backgrounds)
    found = rasterize(moved, put(viewmats), put(intrinsics), *size, backgrounds=backgrounds, backend=backend)
    return Rendered(*(getattr(found, f.name).cpu().double() for f in fields(Rendered)))


def one_splat(depth: float = 2.0, opacity: float = 0.8, sigma: float = 0.02, **changes: Tensor) -> Gaussians:
    """A round Gaussian on the optical axis of `straight_camera`."""
    splat = Gaussians(
        means=torch.tensor([[0.0, 0.0, depth]]),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        scales=torch.full((1, 3), sigma),
        opacities=torch.tensor([opacity]),
        colors=torch.tensor([[1.0, 0.5, 0.25]]),
    )
    return replace(splat, **changes)


def straight_camera() -> tuple[Tensor, Tensor]:
    """At the origin, along +z; the axis passes through the centre of the pixel (20, 30) of row 20."""
    return torch.eye(4)[None], torch.tensor([[[200.0, 0, 30.5], [0, 200.0, 20.5], [0, 0, 1]]])


def together(*splats: Gaussians) -> Gaussians:
    return Gaussians(*(torch.cat([getattr(s, name) for s in splats]) for name in FIELDS))


def loss_and_gradients(backend: str, gaussians: Gaussians, cameras: tuple, backgrounds: Tensor, seed: int = 0) -> tuple:
    """Rendered maps, and gradients of a random linear function of them in all inputs."""
    inputs = [*(getattr(gaussians, name) for name in FIELDS), cameras[0].double(), backgrounds]
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    found = render(backend, Gaussians(*leaves[:5]), leaves[5], cameras[1], leaves[6])
    generator = torch.Generator().manual_seed(seed)
    maps = (found.colors, found.alphas, found.depths)
    loss = sum((m * torch.randn(m.shape, generator=generator, dtype=m.dtype)).sum() for m in maps)
    return maps, dict(zip([*FIELDS, "viewmats", "backgrounds"], torch.autograd.grad(loss, leaves), strict=True))


@pytest.mark.parametrize(("seed", "channels"), [(0, 1), (1, 3), (2, 8), (3, 9), (4, 6)])
def test_equals_the_reference_forward_and_backward(backend: str, seed: int, channels: int) -> None:
    scene, cameras = make_scene(seed, channels=channels), make_cameras((0.4, -1.0))
    backgrounds = torch.rand(2, channels, dtype=torch.float64)
    maps, gradients = loss_and_gradients(backend, scene, cameras, backgrounds)
    true_maps, true_gradients = loss_and_gradients("reference", scene, cameras, backgrounds)
    for found, true in zip(maps, true_maps, strict=True):
        torch.testing.assert_close(found, true, rtol=0, atol=FORWARD.get(backend, 5e-5))
    for name, true in true_gradients.items():
        error = (gradients[name] - true).norm() / true.norm()
        assert error < BACKWARD.get(backend, 1e-4), f"gradient of {name}: relative error {error:.1e}"


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 60),
    scale=st.sampled_from([0.0005, 0.005, 0.05]),
    distance=st.sampled_from([0.15, 0.5, 3.0]),
)
def test_random_scenes(backend: str, seed: int, count: int, scale: float, distance: float) -> None:
    """Also from inside the shell, with splats behind the camera and larger than the image. A pixel may differ where
    alpha meets 1/255 or the transmittance its end to within rounding; such pixels are rare, and the step is small."""
    scene, cameras = make_scene(seed, count, scale=scale), make_cameras(distance=distance)
    found, true = render(backend, scene, *cameras), render("reference", scene, *cameras)
    error = (found.colors - true.colors).abs().amax(-1)
    assert error.max() < 5e-3
    assert (error > FORWARD.get(backend, 5e-5)).double().mean() < 2e-3


def test_autograd_of_the_reference_is_the_slope() -> None:
    """Finite differences, in a scene without the steps of the contract's thresholds."""
    splats = together(one_splat(2.0, 0.5, 0.2), one_splat(2.5, 0.6, 0.3))
    splats = replace(splats, quats=torch.tensor([[1.0, 0.2, 0.1, 0.3], [0.9, -0.2, 0.4, 0.1]]))
    viewmats, intrinsics = straight_camera()

    def image(*inputs: Tensor) -> Tensor:
        found = rasterize(Gaussians(*inputs[:5]), inputs[5], intrinsics.double(), 6, 5, backend="reference")
        return torch.cat([found.colors, found.depths], -1)

    intrinsics = intrinsics - torch.tensor([[[0, 0, 28.0], [0, 0, 18.0], [0, 0, 0]]])
    inputs = [*(getattr(splats, name) for name in FIELDS), viewmats]
    assert torch.autograd.gradcheck(image, [t.double().requires_grad_() for t in inputs], eps=1e-6, atol=1e-5)


def test_a_splat_looks_as_computed_by_hand(backend: str) -> None:
    """Variance in pixels: (200 * 0.02 / 2)^2 + 0.3."""
    found = render(backend, one_splat(), *straight_camera())
    for dx, dy in [(0, 0), (1, 0), (0, -3), (2, 3)]:
        alpha = 0.8 * math.exp(-0.5 * (dx * dx + dy * dy) / 4.3)
        assert found.alphas[0, 20 + dy, 30 + dx, 0].item() == pytest.approx(alpha, rel=1e-4)
        assert found.colors[0, 20 + dy, 30 + dx, 1].item() == pytest.approx(0.5 * alpha, rel=1e-4)
        assert found.depths[0, 20 + dy, 30 + dx, 0].item() == pytest.approx(2.0, rel=1e-4)
    assert found.alphas[0, 20, 40] == 0 and found.depths[0, 20, 40] == 0


def test_nearer_splats_cover_farther_ones(backend: str) -> None:
    near, far = one_splat(1.0, 0.6), one_splat(3.0, 0.5, colors=torch.tensor([[0.0, 0.0, 1.0]]))
    for scene in (together(near, far), together(far, near)):
        found = render(backend, scene, *straight_camera())
        pixel = found.colors[0, 20, 30]
        torch.testing.assert_close(pixel, torch.tensor([0.6, 0.3, 0.15 + 0.2]).double(), rtol=0, atol=1e-4)
        assert found.alphas[0, 20, 30].item() == pytest.approx(0.8, abs=1e-4)
        assert found.depths[0, 20, 30].item() == pytest.approx((0.6 * 1.0 + 0.2 * 3.0) / 0.8, abs=1e-4)


def test_backgrounds_fill_what_is_free(backend: str) -> None:
    background = torch.tensor([[0.2, 0.4, 1.0]])
    found = render(backend, one_splat(), *straight_camera(), background)
    torch.testing.assert_close(found.colors[0, 0, 0], background[0].double())
    expected = 0.8 * torch.tensor([1.0, 0.5, 0.25]) + 0.2 * background[0]
    torch.testing.assert_close(found.colors[0, 20, 30], expected.double(), rtol=0, atol=1e-4)


def test_alpha_is_held_below_one_and_faint_alpha_is_nothing(backend: str) -> None:
    found = render(backend, one_splat(opacity=1.0), *straight_camera())
    assert found.alphas.max().item() == pytest.approx(ALPHA_MAX, abs=1e-5)
    assert found.alphas[found.alphas > 0].min() >= 1 / 255 - 1e-6
    assert not render(backend, one_splat(opacity=0.9 / 255), *straight_camera()).alphas.any()


def test_no_gradient_flows_through_a_held_alpha(backend: str) -> None:
    opacity = torch.tensor([1.0], requires_grad=True)
    found = render(backend, one_splat(opacities=opacity), *straight_camera())
    (held,) = torch.autograd.grad(found.alphas[0, 20, 30].sum(), opacity, retain_graph=True)
    (free,) = torch.autograd.grad(found.alphas[0, 20, 32].sum(), opacity)
    assert held == 0 and free > 0


def test_pixels_stop_when_nothing_more_shines_through(backend: str) -> None:
    scene = together(*(one_splat(1.0 + 0.1 * i, 0.92) for i in range(8)))
    found = render(backend, scene, *straight_camera())
    assert found.alphas[0, 20, 30].item() == pytest.approx(1 - 0.08**3, abs=2e-6)  # the fourth would leave 4e-5


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_visible(backend: str, count: int) -> None:
    scene = together(one_splat(-1.0), one_splat(0.005), one_splat(means=torch.tensor([[50.0, 0, 1]])))
    scene = Gaussians(*(getattr(scene, name)[:count].clone().requires_grad_() for name in FIELDS))
    background = torch.tensor([[0.1, 0.2, 0.3]])
    found = render(backend, scene, *straight_camera(), background)
    assert not found.alphas.any() and not found.depths.any()
    torch.testing.assert_close(found.colors, background.double().expand_as(found.colors))
    for gradient in torch.autograd.grad(found.colors.sum() + found.depths.sum(), list(scene.__dict__.values())):
        assert not gradient.any()


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (64, 32), (5, 100)])
def test_any_size(backend: str, size: tuple[int, int]) -> None:
    scene, cameras = make_scene(5), make_cameras()
    found, true = render(backend, scene, *cameras, size=size), render("reference", scene, *cameras, size=size)
    assert found.alphas.shape == (1, size[1], size[0], 1)
    torch.testing.assert_close(found.colors, true.colors, rtol=0, atol=FORWARD.get(backend, 5e-5))


def test_views_are_independent(backend: str) -> None:
    scene, (viewmats, intrinsics) = make_scene(6), make_cameras((0.0, 2.0, -2.0))
    every = render(backend, scene, viewmats, intrinsics)
    assert every.colors.shape == (3, HEIGHT, WIDTH, 5)
    for i in range(3):
        alone = render(backend, scene, viewmats[i : i + 1], intrinsics[i : i + 1])
        torch.testing.assert_close(every.colors[i : i + 1], alone.colors)


@pytest.mark.parametrize("name", [*FIELDS, "viewmats"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(backend: str, name: str, value: float) -> None:
    scene, (viewmats, intrinsics) = one_splat(), straight_camera()
    if name == "viewmats":
        viewmats = torch.full_like(viewmats, value)
    else:
        scene = replace(scene, **{name: torch.full_like(getattr(scene, name), value)})
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        render(backend, scene, viewmats, intrinsics)


def test_wrong_shapes_and_names_are_refused() -> None:
    viewmats, intrinsics = straight_camera()
    with pytest.raises(ValueError, match=r"opacities must have shape \(1,\), found \(1, 1\)"):
        rasterize(one_splat(opacities=torch.ones(1, 1)), viewmats, intrinsics, 8, 8)
    with pytest.raises(ValueError, match=r"Ks must have shape \(1, 3, 3\)"):
        rasterize(one_splat(), viewmats, intrinsics[0], 8, 8)
    with pytest.raises(ValueError, match="at least one pixel, found 0x8"):
        rasterize(one_splat(), viewmats, intrinsics, 0, 8)
    with pytest.raises(ValueError, match="backend must be one of auto, cpu, cuda, reference, found 'vulkan'"):
        rasterize(one_splat(), viewmats, intrinsics, 8, 8, backend="vulkan")


@pytest.mark.skipif(importlib.util.find_spec("gsplat") is not None, reason="gsplat is installed")
def test_cuda_backend_says_what_is_missing() -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install geodiff\[cuda\]"):
        rasterize(one_splat(), *straight_camera(), 8, 8, backend="cuda")


def test_cpu_backend_is_the_same_bit_for_bit_with_any_number_of_threads() -> None:
    scene, cameras = make_scene(7, count=3000), make_cameras((0.4, -1.0))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            results.append(loss_and_gradients("cpu", scene, cameras, torch.zeros(2, 5, dtype=torch.float64)))
    finally:
        torch.set_num_threads(threads)
    for maps, gradients in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(maps, results[0][0], strict=True))
        assert all(torch.equal(gradients[name], results[0][1][name]) for name in gradients)


def test_gradients_over_views_add_up(backend: str) -> None:
    """Also where a splat is seen by some of the views only."""
    scene, (viewmats, intrinsics) = make_scene(9, count=37), make_cameras((0.0, 1.5, 3.1), distance=0.12)
    fields_of = [getattr(scene, name) for name in FIELDS]

    def gradients(chosen: slice) -> list[Tensor]:
        leaves = [tensor.clone().requires_grad_() for tensor in fields_of]
        found = render(backend, Gaussians(*leaves), viewmats[chosen], intrinsics[chosen])
        return list(torch.autograd.grad(found.colors.square().sum() + found.alphas.sum(), leaves))

    together, apart = gradients(slice(None)), [gradients(slice(i, i + 1)) for i in range(3)]
    for found, parts in zip(together, zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(found, sum(parts), rtol=1e-4, atol=1e-4 * float(found.abs().max()))


def test_images_of_earlier_calls_are_left_alone() -> None:
    """The cpu backend uses memory again, but not what somebody still holds."""
    scene, (viewmats, intrinsics) = make_scene(10), make_cameras((0.0, 1.0, 2.0))
    alone = [render("cpu", scene, viewmats[i : i + 1], intrinsics[i : i + 1]).colors for i in range(3)]
    copies = [image.clone() for image in alone]
    floats = Gaussians(*(getattr(scene, name).float() for name in FIELDS))
    held = [
        rasterize(floats, viewmats[i : i + 1].float(), intrinsics[i : i + 1].float(), WIDTH, HEIGHT).colors[0, :, :, 1:]
        for i in (0, 1, 2, 0, 1, 2)
    ]
    for i, image in enumerate(held):
        torch.testing.assert_close(image.double(), copies[i % 3][0, :, :, 1:], rtol=0, atol=0)


def test_views_are_rendered_from_several_threads_at_once() -> None:
    scene, (viewmats, intrinsics) = make_scene(11, count=2000), make_cameras((0.0, 1.0, 2.0, 3.0))
    alone = [loss_and_gradients("cpu", scene, (viewmats[i : i + 1], intrinsics[i : i + 1]), ZEROS) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(loss_and_gradients, "cpu", scene, (viewmats[i : i + 1], intrinsics[i : i + 1]), ZEROS)
            for i in (0, 1, 2, 3, 0, 1, 2, 3)
        ]
        for i, job in enumerate(jobs):
            assert torch.equal(job.result()[0][0], alone[i % 4][0][0])
            assert torch.equal(job.result()[1]["means"], alone[i % 4][1]["means"])


def test_rendering_without_gradients_keeps_nothing_for_them() -> None:
    scene, cameras = make_scene(12), make_cameras()
    with torch.no_grad():
        assert render("cpu", scene, *cameras).colors.grad_fn is None
    leaf = replace(scene, colors=scene.colors.clone().requires_grad_())
    assert render("cpu", leaf, *cameras).colors.grad_fn is not None


@pytest.mark.parametrize("wanted", ["colors", "means", "viewmats", "backgrounds"])
def test_gradients_of_one_input_alone(wanted: str) -> None:
    scene, cameras = make_scene(13), make_cameras()
    _, every = loss_and_gradients("cpu", scene, cameras, ZEROS)
    inputs = {**{name: getattr(scene, name) for name in FIELDS}, "viewmats": cameras[0].double(), "backgrounds": ZEROS}
    leaf = inputs[wanted] = inputs[wanted].clone().requires_grad_()
    fields_of = Gaussians(*(inputs[name] for name in FIELDS))
    found = render("cpu", fields_of, inputs["viewmats"], cameras[1], inputs["backgrounds"])
    generator = torch.Generator().manual_seed(0)
    maps = (found.colors, found.alphas, found.depths)
    loss = sum((m * torch.randn(m.shape, generator=generator, dtype=m.dtype)).sum() for m in maps)
    assert torch.equal(torch.autograd.grad(loss, leaf)[0], every[wanted])


def test_cpu_backend_stays_vectorised() -> None:
    """The kernels against the plain-torch twin: a ratio, in one process, holds on any machine.

    Processor time of one thread, the least of several runs taken in turn, so that other work on the machine, which
    makes both slower, does not count for one of them alone. Measured: 60 to 75. The limit is below what losing vector
    code anywhere would leave.
    """
    scene = make_scene(8, count=20_000, channels=8, scale=0.0015)
    scene = Gaussians(*(getattr(scene, name).float() for name in FIELDS))
    viewmat = look_at(torch.tensor([0.0, 0.0, 0.8]), torch.zeros(3))[None]
    intrinsics = torch.tensor([[[800.0, 0, 128], [0, 800.0, 128], [0, 0, 1]]])

    def seconds(backend: str) -> float:
        leaves = [getattr(scene, name).clone().requires_grad_() for name in FIELDS]
        start = time.thread_time()
        found = rasterize(Gaussians(*leaves), viewmat, intrinsics, 256, 256, backend=backend)
        torch.autograd.backward([found.colors, found.depths], [torch.ones_like(found.colors), found.depths.detach()])
        return time.thread_time() - start

    seconds("cpu")  # compiles
    spent: dict[str, list[float]] = {"reference": [], "cpu": []}
    for _ in range(3):
        spent["reference"].append(seconds("reference"))
        spent["cpu"] += [seconds("cpu") for _ in range(10)]
    ratio = min(spent["reference"]) / min(spent["cpu"])
    assert ratio > 40, f"the cpu backend is only {ratio:.0f} times as fast as the reference"
