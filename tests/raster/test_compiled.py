"""Where compiled kernels are kept, and what the user hears about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from geodiff.raster import compiled

PROGRAM = """
import os
import numba.core.caching as caching
import numpy as np
from geodiff.raster import compiled
if "NOWHERE" in os.environ:
    caching.FunctionCache._impl_class._locator_classes = []
if "OTHER_SOURCES" in os.environ:
    compiled._hash_of = lambda files: os.environ["OTHER_SOURCES"]
@compiled.kernel
def double(values):
    return values + values
assert double(np.ones(3)).tolist() == [2, 2, 2]
"""

IMPORTS = """
import numba.core.caching as caching
caching.FunctionCache._impl_class._locator_classes = []
import geodiff.conditioning, geodiff.synth.samples, geodiff.tracking.track, recon.reconstruct
from geodiff.doctor import _compiled
from geodiff.raster.compiled import kept
@kept()
def square(x):
    return x * x
assert square(3.0) == 9.0
assert _compiled().state == "missing", _compiled()
"""


def run(folder: Path, source: str = PROGRAM, **environment: str) -> str:
    """What a fresh process that needs a kernel, to be kept in `folder`, says."""
    program = folder / "program.py"
    program.write_text(source)
    settings = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "NUMBA_CACHE_DIR": str(folder / "keep")}
    command = [sys.executable, str(program)]
    return subprocess.run(command, env=settings | environment, capture_output=True, text=True, check=True).stderr


def test_a_kernel_is_compiled_once_and_announced(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert "compiling the Gaussian rasteriser" in first and f"later runs load it from {tmp_path / 'keep'}" in first
    assert run(tmp_path) == ""


def test_a_kernel_is_compiled_anew_when_another_file_of_it_changes(tmp_path: Path) -> None:
    run(tmp_path)
    assert "compiling" in run(tmp_path, OTHER_SOURCES="changed")


def test_without_a_folder_to_write_kernels_still_run(tmp_path: Path) -> None:
    assert "set NUMBA_CACHE_DIR" in run(tmp_path, NOWHERE="1")


def test_every_room_can_be_imported_without_a_folder_to_write(tmp_path: Path) -> None:
    assert run(tmp_path, IMPORTS) == ""


def test_what_is_kept_follows_the_mesh_rasteriser() -> None:
    assert {"mesh.py", "mesh_kernels.py"} <= {path.name for path in compiled._mesh_sources()}
    assert {"cpu_projection.py", "simd.py", "gaussians.py"} <= {path.name for path in compiled._gaussian_sources()}


def test_no_kernel_is_kept_by_numba_alone() -> None:
    """It would refuse to be imported where no folder can be written."""
    root = Path(__file__).parents[2]
    for room in ("geodiff", "pipelines", "recon"):
        for path in (root / room).rglob("*.py"):
            if path.name != "compiled.py":
                assert "cache=True" not in path.read_text(), f"{path}: use geodiff.raster.compiled.kept"
