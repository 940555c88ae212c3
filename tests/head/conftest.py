"""Small files of FLAME's published structure, and what reads them."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from flame_like import Ch, Select, face, plain

from geodiff.head import load_head
from geodiff.head.model import HeadModel


@pytest.fixture
def chumpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the pickler find the classes under chumpy's names; the loader must not need them."""
    for name, members in (("chumpy", {}), ("chumpy.ch", {"Ch": Ch}), ("chumpy.reordering", {"Select": Select})):
        module = types.ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(scope="module")
def face_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flame") / "flame2023.npz"
    np.savez(path, **plain(face()))
    return path


@pytest.fixture(scope="module")
def face_without_jaw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flame") / "flame2023_no_jaw.npz"
    np.savez(path, **plain(face(jaw=False)))
    return path


@pytest.fixture(scope="module")
def face_head(face_file: Path) -> HeadModel:
    return load_head(f"flame:{face_file}")
