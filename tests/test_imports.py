"""The import order of the rooms: lower ones never import higher ones."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Lowest first; rooms of one row may not import each other unless the row says so in SAME.
ORDER = [
    {"errors", "types", "geometry", "files"},
    {"config", "assets", "encoding", "media", "runs", "motion"},
    {"head"},
    {"raster"},
    {"tracking"},
    {"conditioning", "driver", "sheets", "normals"},
    {"clipset"},
    {"models"},
    {"metrics"},
    {"synth"},
    {"training"},
    {"tracked", "captures", "imported", "converted", "console", "doctor_heads", "doctor"},
    {"batch"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
COMPOSITION_ROOTS = {"cli", "batch"}
PACKAGES = ("geodiff", "pipelines", "recon")
#: The one module that may import mediapipe.
MEDIAPIPE = Path("geodiff/tracking/perception.py")


def modules() -> list[Path]:
    return sorted(p.relative_to(ROOT) for name in PACKAGES for p in (ROOT / name).rglob("*.py"))


def imports(path: Path) -> list[str]:
    """Dotted names that a module imports anywhere, also inside functions; type-checking blocks are left out."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            names += [f"{module}.{alias.name}" for alias in node.names] if module in PACKAGES else [module]
    return names


def room(path: Path) -> str:
    return path.parts[1].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=str)
def test_import_order(path: Path) -> None:
    package = path.parts[0]
    for name in imports(path):
        head, _, rest = name.partition(".")
        if package == "pipelines":
            assert head != "recon", f"{path} imports {name}: pipelines and recon meet at the clip set on disk"
        elif package == "recon":
            assert head != "pipelines", f"{path} imports {name}: pipelines and recon meet at the clip set on disk"
        elif room(path) not in COMPOSITION_ROOTS:
            assert head not in ("pipelines", "recon"), f"{path} imports {name}: only cli and batch may"
        if package == "geodiff" and head == "geodiff" and room(path) != "__init__":
            other = rest.partition(".")[0]
            if other in LEVEL:
                assert LEVEL[other] <= LEVEL[room(path)], f"{path} imports {name}, which is a higher room"
        if head == "mediapipe":
            assert path == MEDIAPIPE, f"{path} imports mediapipe: only {MEDIAPIPE} may"


def test_every_room_has_its_place() -> None:
    rooms = {room(path) for path in modules() if path.parts[0] == "geodiff"} - {"__init__", "__main__"}
    assert rooms <= set(LEVEL), f"say in ORDER where {sorted(rooms - set(LEVEL))} belong"


def test_nothing_that_can_run_code_is_loaded() -> None:
    for path in modules():
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path
            if isinstance(node, ast.keyword) and node.arg == "weights_only":
                assert isinstance(node.value, ast.Constant) and node.value.value is True, path
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("pickle.load", "pickle.loads", "yaml.load"):
                raise AssertionError(f"{path} calls {ast.unparse(node)}")
