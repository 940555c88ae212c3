"""ICT-FaceKit's arrays from its two forms: a clone of the toolkit's repository (OBJ files), or one archive of arrays.

A clone holds `FaceXModel/generic_neutral_mesh.obj`, `identity000.obj` and on, and one OBJ for each expression, all of
one topology; a mode is its OBJ minus the neutral one. Reading them takes seconds, so the arrays are kept in the cache
folder under the state (names, sizes, times) of the files. Modes are kept in half precision (0.02 mm at worst), as in
the archive, so that both forms give the same head up to the digits that the OBJ files are written with.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from geodiff import assets
from geodiff.errors import HeadModelError, StorageError
from geodiff.files import write_npz
from geodiff.head.obj import read_obj, read_vertices

KEYS = (
    "vertices", "faces", "uv", "faces_uv", "face_material", "material_names", "vertex_part", "part_names",
    "identity", "expression", "expression_names", "landmarks68",
)  # fmt: skip
NEUTRAL = "generic_neutral_mesh.obj"
#: Where the toolkit is had.
SOURCE = "https://github.com/ICT-VGL/ICT-FaceKit"
#: Changes when the cached arrays would be made differently.
CACHE_VERSION = 1

#: The light model's vertex ranges by part, as documented in the toolkit's README: (name, first vertex after it).
PARTS = (
    ("face", 9409), ("head_neck", 11248), ("mouth_socket", 13294), ("eye_socket_left", 13678),
    ("eye_socket_right", 14062), ("gums_tongue", 17039), ("teeth", 21451), ("eyeball_left", 23021),
    ("eyeball_right", 24591), ("lacrimal_left", 24795), ("lacrimal_right", 24999), ("eye_blend_left", 25023),
    ("eye_blend_right", 25047), ("eye_occlusion_left", 25199), ("eye_occlusion_right", 25351),
    ("eyelashes_left", 26035), ("eyelashes_right", 26719),
)  # fmt: skip
#: Parts that no head can do without.
NEEDED_PARTS = ("face", "head_neck", "eyeball_left", "eyeball_right")
#: Vertices of the 68 landmarks in Multi-PIE's order, from the toolkit's README (MIT licence).
LANDMARKS68 = (
    1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608, 3272, 4088, 3443, 268, 493, 1914,
    2044, 1401, 3615, 4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140, 2075, 1147, 4269, 3360, 1507, 1542, 1537,
    1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732, 5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518,
    5957, 5841, 5702, 5711, 5533, 6216, 6207, 6470, 5517, 5966,
)  # fmt: skip
_SIDED = (
    "browDown", "browInnerUp", "browOuterUp", "cheekPuff", "cheekSquint", "eyeBlink", "eyeLookDown", "eyeLookIn",
    "eyeLookOut", "eyeLookUp", "eyeSquint", "eyeWide", "mouthDimple", "mouthFrown", "mouthLowerDown", "mouthPress",
    "mouthSmile", "mouthStretch", "mouthUpperUp", "noseSneer",
)  # fmt: skip
_WHOLE = (
    "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthFunnel", "mouthLeft", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
)  # fmt: skip
#: Pairs of landmarks that mirror each other: jaw, eye corners, mouth corners.
_PAIRS = ((0, 16), (4, 12), (36, 45), (39, 42), (48, 54))


@dataclass(frozen=True)
class Layout:
    """What the files of one release of the toolkit must hold; the default is the light model's current one."""

    parts: tuple[tuple[str, int], ...] = PARTS
    landmarks68: tuple[int, ...] = LANDMARKS68
    num_identity: int = 100
    expressions: tuple[str, ...] = field(default=(*(f"{name}_{side}" for name in _SIDED for side in "LR"), *_WHOLE))

    @property
    def num_vertices(self) -> int:
        return self.parts[-1][1]


LIGHT = Layout()


def read_arrays(path: Path, layout: Layout = LIGHT) -> dict[str, np.ndarray]:
    """The arrays named by KEYS, checked, from a clone (a folder) or an archive. Raises HeadModelError."""
    arrays = read_clone(path, layout) if path.is_dir() else read_archive(path)
    check_arrays(path, arrays)
    return arrays


def read_archive(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz archive, unchecked but for their names. Raises HeadModelError."""
    if not path.is_file():
        raise HeadModelError(
            "an ICT-FaceKit head needs the folder of a clone of the toolkit or an .npz archive, but "
            f"{path} does not exist; check the path, or clone {SOURCE}."
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files if isinstance(archive, np.lib.npyio.NpzFile) else []
            arrays = {key: archive[key] for key in names if key in KEYS}
    except (OSError, ValueError, EOFError, BadZipFile, MemoryError, NotImplementedError) as error:
        raise HeadModelError(
            f"an ICT-FaceKit head is an .npz archive, but {path} cannot be read as one ({error}); fetch it again."
        ) from error
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise HeadModelError(
            f"an ICT-FaceKit archive holds {', '.join(KEYS)}, but {path} lacks {', '.join(missing)}; use another file."
        )
    return arrays


def read_clone(path: Path, layout: Layout = LIGHT) -> dict[str, np.ndarray]:
    """The arrays of a clone of the toolkit (its root, or the folder with the OBJ files), from the cache where its files
    have not changed since. Raises HeadModelError."""
    folder, identities, expressions = _files(path, layout)
    cached = _cache_file(folder, [folder / NEUTRAL, *identities, *expressions])
    if cached.is_file():
        try:
            return read_archive(cached)
        except HeadModelError:
            cached.unlink(missing_ok=True)
    arrays = _parse(folder, identities, expressions, layout)
    check_arrays(folder, arrays)
    _keep(cached, arrays)
    return arrays


def _files(path: Path, layout: Layout) -> tuple[Path, list[Path], list[Path]]:
    """The folder with the OBJ files, those of the identity modes and those of the expressions, in order."""
    folder = next((f for f in (path, path / "FaceXModel") if (f / NEUTRAL).is_file()), None)
    if folder is None:
        raise HeadModelError(
            f"a clone of ICT-FaceKit holds FaceXModel/{NEUTRAL}, but {path} does not; name the clone's folder, or "
            f"clone {SOURCE}."
        )
    others = sorted(file for file in folder.glob("*.obj") if file.name != NEUTRAL)
    identities = [file for file in others if re.fullmatch(r"identity\d+", file.stem)]
    expressions = [file for file in others if file not in identities]
    wanted = [f"identity{i:03d}" for i in range(layout.num_identity)] + list(layout.expressions)
    there = {file.stem for file in others}
    if missing := [name for name in wanted if name not in there]:
        raise HeadModelError(
            f"a clone of ICT-FaceKit holds {len(wanted)} modes as OBJ files, but {folder} lacks {len(missing)} of them "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); clone {SOURCE} again."
        )
    return folder, identities, expressions


def _parse(folder: Path, identities: list[Path], expressions: list[Path], layout: Layout) -> dict[str, np.ndarray]:
    mesh = read_obj(folder / NEUTRAL)
    if len(mesh.vertices) != layout.num_vertices:
        raise HeadModelError(
            f"ICT-FaceKit's light model has {layout.num_vertices} vertices, but {folder / NEUTRAL} has "
            f"{len(mesh.vertices)}; use the current release ({SOURCE})."
        )
    if mesh.faces_uv.min(initial=0) < 0:
        raise HeadModelError(
            f"ICT-FaceKit's meshes have texture coordinates at every corner, but {folder / NEUTRAL} has not; "
            f"clone {SOURCE} again."
        )
    marks = mesh.vertices[list(layout.landmarks68)]
    gap = max(float(np.linalg.norm(marks[a] * [-1, 1, 1] - marks[b])) for a, b in _PAIRS)
    # Releases differ in the order of their vertices; the right one puts landmarks on both sides of the face alike.
    if not gap < 0.1 * float(np.ptp(mesh.vertices[:, 1])):
        raise HeadModelError(
            "ICT-FaceKit's vertices stand in the order of its README's landmark table, but those of "
            f"{folder / NEUTRAL} do not; it is of another release, use the current one ({SOURCE})."
        )
    part = np.searchsorted([end for _, end in layout.parts], np.arange(len(mesh.vertices)), side="right")
    materials, material = np.unique(np.array(mesh.material_names)[mesh.material], return_inverse=True)
    return {
        "vertices": mesh.vertices.astype(np.float32),
        "faces": mesh.faces.astype(np.int32),
        "uv": mesh.uvs.astype(np.float32),
        "faces_uv": mesh.faces_uv.astype(np.int32),
        "face_material": material.astype(np.uint8),
        "material_names": materials,
        "vertex_part": part.astype(np.uint8),
        "part_names": np.array([name for name, _ in layout.parts]),
        "identity": _modes(identities, mesh.vertices),
        "expression": _modes(expressions, mesh.vertices),
        "expression_names": np.array([file.stem for file in expressions]),
        "landmarks68": np.array(layout.landmarks68, np.int32),
    }


def _modes(files: list[Path], neutral: np.ndarray) -> np.ndarray:
    """(N, V, 3) float16: each file's vertices minus the neutral ones."""
    modes = np.zeros((len(files), len(neutral), 3), np.float16)
    for row, file in enumerate(files):
        vertices = read_vertices(file)
        if len(vertices) != len(neutral):
            raise HeadModelError(
                f"ICT-FaceKit's meshes have one topology ({len(neutral)} vertices), but {file} has {len(vertices)} "
                f"vertices; clone {SOURCE} again."
            )
        modes[row] = (vertices - neutral).clip(-6e4, 6e4)
    return modes


def check_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Shapes, kinds, ranges and finiteness of the arrays. Raises HeadModelError with one sentence."""
    sizes: dict[str, int] = {}
    expected: dict[str, tuple[str | int, ...]] = {
        "vertices": ("vertices", 3), "faces": ("faces", 3), "uv": ("uvs", 2), "faces_uv": ("faces", 3),
        "face_material": ("faces",), "material_names": ("materials",), "vertex_part": ("vertices",),
        "part_names": ("parts",), "identity": ("modes", "vertices", 3), "expression": ("expressions", "vertices", 3),
        "expression_names": ("expressions",), "landmarks68": (68,),
    }  # fmt: skip
    for key, shape in expected.items():
        found = arrays[key].shape
        same = [
            sizes.setdefault(s, n) == n if isinstance(s, str) else s == n for s, n in zip(shape, found, strict=False)
        ]
        if len(found) != len(shape) or not all(same) or not all(found):
            wanted = ", ".join(str(s) for s in shape)
            raise HeadModelError(
                f"ICT-FaceKit's {key} has the shape ({wanted}), but in {path} it is {found}; use another file."
            )
        if arrays[key].dtype.kind not in ("U" if key.endswith("_names") else "fiu"):
            raise HeadModelError(
                f"ICT-FaceKit's {key} holds {'names' if key.endswith('_names') else 'numbers'}, but in {path} it holds "
                f"{arrays[key].dtype}; use another file."
            )
    lacking = [name for name in NEEDED_PARTS if name not in arrays["part_names"]]
    if lacking:
        raise HeadModelError(
            f"ICT-FaceKit has the parts {', '.join(NEEDED_PARTS)}, but {path} lacks {', '.join(lacking)}."
        )
    for key in ("vertices", "uv", "identity", "expression"):
        if not np.isfinite(arrays[key]).all():
            raise HeadModelError(f"ICT-FaceKit's {key} are finite, but some in {path} are not; fetch it again.")
    for key, size in (("faces", "vertices"), ("faces_uv", "uvs"), ("landmarks68", "vertices"), ("vertex_part", "parts"),
                      ("face_material", "materials")):  # fmt: skip
        if arrays[key].min() < 0 or arrays[key].max() >= sizes[size]:
            raise HeadModelError(
                f"ICT-FaceKit's {key} are numbers of its {sizes[size]} {size}, but some in {path} lie beyond; fetch it "
                "again."
            )


def _cache_file(folder: Path, files: list[Path]) -> Path:
    """The archive for this folder in this state: another state of the files has another name."""
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    state = hashlib.sha256(str(CACHE_VERSION).encode())
    for file in files:
        info = file.stat()
        state.update(f"{file.name} {info.st_size} {info.st_mtime_ns}\n".encode())
    return assets.cache_folder() / "ict" / f"{place}-{state.hexdigest()[:12]}.npz"


def _keep(cached: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the archive and drop those of earlier states; a cache that cannot be written costs time, nothing else."""
    try:
        write_npz(cached, **arrays)
        for old in cached.parent.glob(f"{cached.name.split('-')[0]}-*.npz"):
            if old != cached:
                old.unlink(missing_ok=True)
    except (StorageError, OSError):
        return
