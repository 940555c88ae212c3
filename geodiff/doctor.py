"""What works on this machine, what is missing, and how to get it."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from geodiff import __version__, assets, config
from geodiff.doctor_heads import Finding, builtin_head, named_head, user_heads
from geodiff.errors import UserError

#: Free space below which a clip set at full size may not fit, bytes.
ENOUGH_SPACE = 5_000_000_000


def examine(folder: Path | None = None, head: str | None = None) -> list[Finding]:
    """Looks at everything that geodiff needs or can use. folder: where output would go (default: here). head: a head
    model to look at closely, as `geodiff.head.load_head` takes it; one that cannot be used is broken.
    """
    findings = [_python(), Finding("geodiff", "ok", f"{__version__} in {Path(__file__).resolve().parent}")]
    checks: tuple[Callable[[], Finding], ...] = (
        _torch, _cuda, _tracker, _opencv, _ffmpeg, _presets, _weights, _compiled, builtin_head,
    )  # fmt: skip
    for check in checks:
        try:
            findings.append(check())
        except Exception as error:  # a broken installation fails in ways nobody can list; the report must go on
            name = check.__name__.strip("_").replace("_", " ")
            findings.append(Finding(name, "broken", f"{type(error).__name__}: {error}", "install geodiff again"))
    findings += [*user_heads("flame"), *user_heads("ict")]
    if head:
        findings.append(named_head(head))
    findings += [_extra(*extra) for extra in EXTRAS]
    findings.append(_space(folder or Path.cwd()))
    return findings


def healthy(findings: list[Finding]) -> bool:
    """Whether the main job can be done."""
    return all(finding.state != "broken" for finding in findings)


EXTRAS = (
    ("gsplat", "gsplat", "fast Gaussian rasteriser for CUDA", "pip install 'geodiff[cuda]'"),
    ("xformers", "xformers", "attention with less GPU memory", "pip install 'geodiff[cuda]'"),
    ("viser", "viser", "`geodiff view`", "pip install 'geodiff[view]'"),
    ("torchmetrics", "torchmetrics", "LPIPS, with weights of yours", "pip install 'geodiff[eval]'"),
    ("onnxruntime", "onnxruntime", "CSIM and DAViD's normals, with files of yours", "pip install 'geodiff[eval]'"),
    ("tensorboard", "tensorboard", "logs of training for TensorBoard", "pip install 'geodiff[train]'"),
    ("pytorch3d", "pytorch3d", "another mesh rasteriser, from Python", "build it from source, see docs/install.md"),
)


def _python() -> Finding:
    version = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        return Finding("python", "ok", f"{version} on {platform.system()} {platform.machine()}")
    return Finding("python", "broken", version, "use Python 3.10, 3.11 or 3.12")


def _torch() -> Finding:
    import torch

    return Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")


def _cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        size = torch.cuda.get_device_properties(0).total_memory / 1e9
        return Finding("cuda", "ok", f"{torch.cuda.get_device_name(0)}, {size:.0f} GB")
    why = "this torch is a CPU build" if torch.version.cuda is None else "torch sees no GPU"
    return Finding("cuda", "missing", f"{why}; the preview preset does without", "install a CUDA build of torch")


def _tracker() -> Finding:
    found = _version("mediapipe")
    remedy = "pip install --no-deps mediapipe==0.10.21 (see docs/install.md)"
    if found is None:
        return Finding("mediapipe", "broken", "not installed; it finds the face", remedy)
    import numpy as np

    from geodiff.tracking.landmarks import detect_faces

    detect_faces(np.zeros((128, 128, 3), np.uint8))
    return Finding("mediapipe", "ok", f"{found}, its models load")


def _opencv() -> Finding:
    try:
        import cv2
    except ImportError as error:
        remedy = (
            "pip uninstall opencv-python opencv-contrib-python, then "
            "pip install --force-reinstall --no-deps opencv-contrib-python-headless==4.11.0.86"
        )
        return Finding("opencv", "broken", str(error), remedy)
    return Finding("opencv", "ok", cv2.__version__)


def _ffmpeg() -> Finding:
    from imageio_ffmpeg import get_ffmpeg_exe, get_ffmpeg_version

    return Finding("ffmpeg", "ok", f"{get_ffmpeg_version()} ({Path(get_ffmpeg_exe()).name})")


def _presets() -> Finding:
    names = config.preset_names()
    if not names:
        return Finding("presets", "broken", f"none in {config.config_folder()}", "install geodiff again")
    return Finding("presets", "ok", ", ".join(names))


def _weights() -> Finding:
    names = assets.bundled_names()
    if not names:
        remedy = "install a wheel that carries weights, or name a folder of weights with networks=FOLDER"
        return Finding("weights", "broken", "none came with this installation", remedy)
    try:
        for name in names:
            assets.check_weights(name)
    except UserError as error:
        return Finding("weights", "broken", str(error), "install geodiff again")
    folder = assets.weights_folder()
    size = sum(path.stat().st_size for name in names for path in (folder / name).iterdir()) / 1e6
    return Finding("weights", "ok", f"{', '.join(names)} ({size:.1f} MB), hashes match")


def _compiled() -> Finding:
    """Where numba keeps what it has compiled; without it every run compiles anew."""
    import numba

    from geodiff.raster.compiled import kept_in

    if place := kept_in():
        return Finding("numba", "ok", f"{numba.__version__}, keeps its compiled code in {place}")
    return Finding(
        "numba", "missing", f"{numba.__version__}, compiles anew in every run: it can write to no folder",
        "set NUMBA_CACHE_DIR to a folder of yours",
    )  # fmt: skip


def _extra(module: str, package: str, purpose: str, remedy: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(package, "missing", f"not installed; for {purpose}", remedy)
    return Finding(package, "ok", f"{_version(package) or 'installed'}; for {purpose}")


def _space(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free in {folder}"
    if free < ENOUGH_SPACE:
        return Finding("disk", "missing", text, "choose an --out with more room for clip sets at full size")
    return Finding("disk", "ok", text)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
