"""Where compiled kernels are kept, and what the user hears about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os
import numba.core.caching as caching
import numpy as np
from geodiff.raster import compiled
if "NOWHERE" in os.environ:
    caching.FunctionCache._impl_class._locator_classes = []
if "OTHER_SOURCES" in os.environ:
    compiled._sources_hash = lambda: os.environ["OTHER_SOURCES"]
@compiled.kernel
def double(values):
    return values + values
assert double(np.ones(3)).tolist() == [2, 2, 2]
"""


def run(folder: Path, **environment: str) -> str:
    """What a fresh process that needs a kernel, to be kept in `folder`, says."""
    program = folder / "program.py"
    if not program.exists():
        program.write_text(PROGRAM)
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
