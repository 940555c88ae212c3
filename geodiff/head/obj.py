"""Wavefront OBJ meshes as arrays, read fast enough for a folder of a hundred and fifty of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from geodiff.errors import HeadModelError

#: Bytes that are read at a time while the end of the vertices is looked for.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class ObjMesh:
    """vertices: (V, 3) float64. uvs: (U, 2) float64. faces, faces_uv: (F, 3) int64, polygons cut into fans; faces_uv is
    -1 where the file has no texture coordinates. material: (F,) int64 into material_names, 0 being "" before any
    `usemtl`."""

    vertices: np.ndarray
    uvs: np.ndarray
    faces: np.ndarray
    faces_uv: np.ndarray
    material: np.ndarray
    material_names: tuple[str, ...]


def read_vertices(path: Path) -> np.ndarray:
    """(V, 3) float64: the vertices of an OBJ file, and nothing else of it. Raises HeadModelError."""
    with _opened(path) as file:
        content = b""
        while block := file.read(_BLOCK):
            content += block
            # Vertices come first in the files that this is for; the rest of such a file need not be read.
            if b"\nf " in block:
                break
    if not content.startswith(b"v ") and b"\nv " not in content:
        raise _damaged(path, "it has no vertices; is it a pointer of Git LFS?")
    start, end = _vertex_run(content)
    run = content[start:end]
    try:
        if run.count(b"\nv ") + 1 == run.count(b"\n") + (not run.endswith(b"\n")):
            numbers = _numbers(run.replace(b"v ", b""))
            if len(numbers) == 3 * (run.count(b"\nv ") + 1):
                return numbers.reshape(-1, 3)
        rest = path.read_bytes().splitlines()
        found = [line.split()[1:4] for line in rest if line.startswith((b"v ", b"v\t"))]
        return np.array(found, dtype=np.float64).reshape(-1, 3)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def read_obj(path: Path) -> ObjMesh:
    """The whole mesh of an OBJ file. Raises HeadModelError where it is damaged."""
    vertices = read_vertices(path)
    uvs: list[list[float]] = []
    corners: list[list[int]] = []
    corners_uv: list[list[int]] = []
    material: list[int] = []
    names = [""]
    current = 0
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("vt "):
                uvs.append([float(number) for number in line.split()[1:3]])
            elif line.startswith("usemtl"):
                name = line[6:].strip()
                if name not in names:
                    names.append(name)
                current = names.index(name)
            elif line.startswith("f "):
                points, textures = _polygon(line, len(vertices), len(uvs))
                for i in range(1, len(points) - 1):
                    corners.append([points[0], points[i], points[i + 1]])
                    corners_uv.append([textures[0], textures[i], textures[i + 1]])
                    material.append(current)
        mesh = ObjMesh(
            vertices,
            np.array(uvs, dtype=np.float64).reshape(-1, 2),
            np.array(corners, dtype=np.int64).reshape(-1, 3),
            np.array(corners_uv, dtype=np.int64).reshape(-1, 3),
            np.array(material, dtype=np.int64),
            tuple(names),
        )
    except (OSError, ValueError, IndexError) as error:
        raise _damaged(path, error) from error
    if not len(mesh.faces):
        raise _damaged(path, "it has no faces")
    if mesh.faces.min() < 0 or mesh.faces.max() >= len(vertices) or mesh.faces_uv.max() >= len(mesh.uvs):
        raise _damaged(path, "its faces point beyond its vertices")
    return mesh


def _numbers(text: bytes) -> np.ndarray:
    """Numbers between white space, (N,) float64. Twice as fast as splitting; ValueError at the first that is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(text, dtype=np.float64, sep=" ")
        except DeprecationWarning as error:
            raise ValueError("a vertex holds something else than numbers") from error


def _polygon(line: str, num_vertices: int, num_uvs: int) -> tuple[list[int], list[int]]:
    """Vertex and texture indices of one `f` line, counted from 0; negative numbers count from the end."""
    points, textures = [], []
    for corner in line.split()[1:]:
        fields = corner.split("/")
        point = int(fields[0])
        points.append(point - 1 if point > 0 else num_vertices + point)
        texture = int(fields[1]) if len(fields) > 1 and fields[1] else 0
        textures.append(texture - 1 if texture >= 0 else num_uvs + texture)
    return points, textures


def _vertex_run(content: bytes) -> tuple[int, int]:
    """Where the first unbroken run of `v` lines begins and ends."""
    start = 0 if content.startswith(b"v ") else content.find(b"\nv ") + 1
    ends = [content.find(mark, start) for mark in (b"\nvt ", b"\nvn ", b"\nf ", b"\ng ", b"\no ", b"\nusemtl ", b"\n#")]
    return start, min((end for end in ends if end >= 0), default=len(content))


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, why: object) -> HeadModelError:
    return HeadModelError(f"{path} must be a whole OBJ mesh, but it cannot be read as one ({why}); fetch it again.")
