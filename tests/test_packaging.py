"""The wheel that is built from this tree works by itself, from an empty directory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pins(name: str) -> dict[str, list[str]]:
    """Normalised package name -> its lines."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r'[\w.-]+==[\w.]+(; python_version (<|>=) "3\.11")?', line), line
            found.setdefault(re.sub(r"[-_.]+", "-", line.split("==")[0]).lower(), []).append(line)
    return found


def test_lock_and_constraints_agree() -> None:
    lock, constraints = pins("requirements.lock"), pins("constraints.txt")
    assert constraints.pop("torch") == ["torch==2.13.0"]
    assert lock == constraints


def test_lock_covers_what_the_package_needs_and_no_desktop_libraries() -> None:
    lock = pins("requirements.lock")
    text = (ROOT / "pyproject.toml").read_text()
    needed = re.search(r"^dependencies = \[(.*?)^\]", text, re.S | re.M)
    assert needed is not None
    names = [re.match(r"[\w-]+", item) for item in re.findall(r'"([^"]+)"', needed.group(1))]
    for name in (match.group(0) for match in names if match):
        assert name == "torch" or name in lock, f"{name} is needed and not in requirements.lock"
    for name in ("jax", "jaxlib", "sounddevice", "opencv-python", "opencv-contrib-python"):
        assert name not in lock, f"{name} is not used; leave it out of the small install"


def environment(folder: Path) -> dict[str, str]:
    """No way back to this tree, and a cache of its own."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return kept | {"GEODIFF_CACHE": str(folder / "cache"), "PYTHONSAFEPATH": "1", "COLUMNS": "200"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True, capture_output=True)
    (built,) = folder.glob("geodiff-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `geodiff` program of a fresh environment that holds the wheel, and sees this one's other packages."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    python = Path(sysconfig.get_path("scripts", "venv", paths)) / Path(sys.executable).name
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    # Plain path entries are not searched for .pth files, so an editable install of this tree stays out of sight.
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "others.pth").write_text("\n".join(sorted(others)) + "\n")
    return python.parent / "geodiff"


def run(program: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *arguments], cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
    )


def test_the_wheel_carries_presets_data_and_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in ("test", "preview", "full"):
        assert f"geodiff/configs/{name}.yaml" in names
    for path in [p for p in (ROOT / "geodiff" / "data").rglob("*") if p.is_file() and not p.name.startswith(".")]:
        assert path.relative_to(ROOT).as_posix() in names
    assert any(name.endswith("/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"geodiff", "pipelines", "recon"}
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests/")]


def test_the_installed_program_runs_from_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "--version")
    assert (done.returncode, done.stdout.strip()) == (0, "geodiff 0.1.0"), done.stderr
    done = run(installed, tmp_path, "doctor")
    assert "Traceback" not in done.stderr
    assert str(ROOT) not in done.stdout.replace(str(tmp_path), ""), "the installed copy runs, not the tree"
    for line in ("mediapipe", "ffmpeg", "presets", "head builtin"):
        row = next(text for text in done.stdout.splitlines() if text.startswith(line))
        assert row.removeprefix(line).split()[0] == "ok", row
    assert run(installed, tmp_path, "reconstruct", "nothing").returncode == 2


def test_a_generation_from_an_empty_directory(installed: Path, tmp_path: Path, astronaut) -> None:
    from geodiff.media import write_image

    write_image(tmp_path / "portrait.png", astronaut)
    done = run(installed, tmp_path, "generate", "--ref", "portrait.png", "--preset", "test", "--out", "clips")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "clips" / "run.json").exists()
    done = run(installed, tmp_path, "reconstruct", "clips", "--preset", "test", "--out", "avatar")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "avatar" / "avatar.json").exists()
