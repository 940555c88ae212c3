"""The ICT-FaceKit loader, on a tiny archive of the same structure and on the real one where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from geodiff.errors import HeadModelError
from geodiff.head import ict_files, load_head
from geodiff.head.ict import SOLID_PARTS, arkit_name, load_ict
from geodiff.head.ict_files import KEYS, Layout, read_clone
from geodiff.head.model import REGIONS

PARTS = (*SOLID_PARTS, "eyelashes_left")


def blob(centre: tuple[float, float, float], radii: tuple[float, float, float], rows: int = 8, columns: int = 12):
    """A closed sphere-like grid: vertices, triangles."""
    angles = 2 * np.pi * np.arange(columns) / columns
    polar, around = np.meshgrid(np.linspace(0.05, np.pi - 0.05, rows), angles, indexing="ij")
    unit = np.stack([np.sin(polar) * np.sin(around), np.cos(polar), np.sin(polar) * np.cos(around)], -1).reshape(-1, 3)
    faces = []
    for i in range(rows - 1):
        for j in range(columns):
            a, b = i * columns + j, i * columns + (j + 1) % columns
            faces += [[a, a + columns, b], [b, a + columns, b + columns]]
    return unit * radii + centre, np.array(faces)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """A head of ellipsoids with the toolkit's parts, centimetres."""
    shapes = {
        "face": blob((0, 0, 2), (7.5, 11, 10), 24, 36), "head_neck": blob((0, 3, -1), (7.8, 12, 9), 14, 20),
        "mouth_socket": blob((0, -3.5, 8), (2, 1, 2)), "eye_socket_left": blob((3.1, 3.6, 7.5), (1.4, 1.4, 1.2)),
        "eye_socket_right": blob((-3.1, 3.6, 7.5), (1.4, 1.4, 1.2)), "gums_tongue": blob((0, -3.6, 8), (1.8, 0.6, 1.6)),
        "teeth": blob((0, -3.6, 9), (1.5, 0.8, 1.0)), "eyeball_left": blob((3.1, 3.6, 8), (1.5, 1.5, 1.5)),
        "eyeball_right": blob((-3.1, 3.6, 8), (1.5, 1.5, 1.5)), "eyelashes_left": blob((3.1, 4, 9.7), (1, 0.2, 0.2)),
    }  # fmt: skip
    vertices, faces, part, count = [], [], [], 0
    for index, name in enumerate(PARTS):
        v, f = shapes[name]
        vertices.append(v)
        faces.append(f + count)
        part += [index] * len(v)
        count += len(v)
    v, f, part = np.concatenate(vertices).astype(np.float32), np.concatenate(faces), np.array(part, np.uint8)
    face = np.flatnonzero(part == 0)

    def near(x: float, y: float) -> int:
        front = face[v[face, 2] > 0]
        return int(front[np.argmin((v[front, 0] - x) ** 2 + (v[front, 1] - y) ** 2)])

    marks = [near(-7.4 * np.cos(a), 2 - 12 * np.sin(a)) for a in np.linspace(0, np.pi, 17)]
    marks += [near(x, 5.5) for x in np.linspace(-5, 5, 10)]
    marks += [near(0, y) for y in (3.7, 2.5, 1.5, 0.4)] + [near(x, -1.2) for x in np.linspace(-1.5, 1.5, 5)]
    for side in (-1, 1):
        angles = np.pi - np.arange(6) * np.pi / 3
        marks += [near(side * 3.1 + 1.4 * np.cos(a), 3.4 + 0.6 * np.sin(a)) for a in angles]
    marks += [near(2.5 * np.cos(a), -3.5 + np.sin(a)) for a in np.pi - np.arange(12) * np.pi / 6]
    marks += [near(2.0 * np.cos(a), -3.5 + 0.5 * np.sin(a)) for a in np.pi - np.arange(8) * np.pi / 4]
    low = ((part == PARTS.index("teeth")) | (part == 0)) & (v[:, 1] < -3.6) & (v[:, 2] > 3)
    opened = np.zeros_like(v)
    hinge, angle = np.array([0, -0.5, 1.8]), np.radians(20)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    opened[low] = ((v - hinge) @ turn.T + hinge - v)[low]
    brow = np.zeros_like(v)
    brow[near(1, 5.5), 1] = 0.5
    expressions = {"jawOpen": opened, "browInnerUp_L": brow, "browInnerUp_R": brow * [-1, 1, 1], "eyeBlink_L": -brow}
    path = tmp_path_factory.mktemp("ict") / "tiny.npz"
    uv = np.random.default_rng(0).uniform(0.05, 0.95, (len(v), 2)) + np.stack([part % 7, 0 * part], 1)
    np.savez(
        path, vertices=v, faces=f.astype(np.int32), uv=uv.astype(np.float32), faces_uv=f.astype(np.int32),
        face_material=np.zeros(len(f), np.uint8), material_names=np.array(["M_Face"]), vertex_part=part,
        part_names=np.array(PARTS), identity=(0.02 * v[None] * [[[1, 0, 0]], [[0, 1, 0]]]).astype(np.float16),
        expression=np.stack(list(expressions.values())).astype(np.float16),
        expression_names=np.array(list(expressions)), landmarks68=np.array(marks, np.int32),
    )  # fmt: skip
    return path


def test_tiny_archive(archive: Path) -> None:
    head = load_head(f"ict:{archive}")
    assert head.name == "ict" and head.num_shape == 2
    assert head.expression_names == ("jawOpen", "browInnerUpLeft", "browInnerUpRight", "eyeBlinkLeft")
    assert head.arkit["browInnerUp"].tolist() == [0, 1, 1, 0]
    assert head.landmarks is None, "the bundled embedding is for the real topology"
    # Metres, eyes where FLAME has them.
    assert 0.2 < float(head.template[:, 1].max() - head.template[:, 1].min()) < 0.3
    joints = head.joint_regressor @ head.template
    np.testing.assert_allclose(joints[3:].mean(0), [0, 0.032, 0.025], atol=1e-4)
    np.testing.assert_allclose(joints[3] - joints[4], [0.062, 0, 0], atol=1e-4)


def test_lashes_are_left_out(archive: Path) -> None:
    with np.load(archive) as arrays:
        solid = int((arrays["vertex_part"] < len(SOLID_PARTS)).sum())
    assert load_ict(archive).num_vertices == solid


def check_rig(head) -> None:
    assert set(REGIONS) <= set(head.regions)
    for name in ("face", "lips", "eyes", "eyeballs", "teeth", "scalp", "neck"):
        assert bool(head.regions[name].any()), name
    torch.testing.assert_close(head.skinning.sum(1), torch.ones(head.num_vertices), atol=1e-5, rtol=0)
    assert float(head.skinning.min()) >= -1e-6
    assert float(head.uvs.min()) >= 0 and float(head.uvs.max()) <= 1
    flipped = head.template[head.mirror] * torch.tensor([-1.0, 1.0, 1.0])
    assert float((flipped - head.template).norm(dim=1).median()) < 1e-3
    # A turned eye moves its ball about its centre and nothing else.
    params = head.zeros()
    turned = head.vertices(params.replace(eyes_pose=torch.tensor([[0.0, 0.4, 0, 0, 0, 0]])))[0]
    moved = (turned - head.vertices(params)[0]).norm(dim=1) > 1e-6
    left = head.regions["eyeballs"] & (head.template[:, 0] > 0)
    assert bool(moved[left].float().mean() > 0.9) and not bool(moved[~left].any())
    # The jaw joint lowers the lower teeth, and leaves the crown.
    opened = head.vertices(params.replace(jaw_pose=torch.tensor([[0.3, 0, 0]])))[0]
    drop = (head.template - opened)[:, 1]
    assert float(drop[head.regions["teeth"]].max()) > 0.01
    assert float(drop[head.regions["scalp"]].abs().max()) < 0.004


def test_rig_of_the_tiny_archive(archive: Path) -> None:
    check_rig(load_ict(archive))


def test_real_archive(shared_data: Path) -> None:
    head = load_ict(shared_data / "ict" / "ict_facekit.npz")
    check_rig(head)
    assert head.num_shape == 100 and head.num_expr == 57
    assert {"eyeBlinkLeft", "jawOpen", "mouthSmileRight"} <= set(head.expression_names)
    assert head.landmarks is not None and len(head.landmarks.indices) == 478
    marks = head.landmarks.points(head.template, head.faces)
    joints = head.joint_regressor @ head.template
    # Irises on the eyeballs, in front of their centres; lids on the skin; both sides alike.
    assert bool(head.regions["eyeballs"][head.faces[head.landmarks.faces[468:]]].all())
    torch.testing.assert_close(marks[468, :2], joints[4, :2], atol=2.5e-3, rtol=0)
    assert not bool(head.regions["eyeballs"][head.faces[head.landmarks.faces[:468]]].any())
    torch.testing.assert_close(marks[33] * torch.tensor([-1.0, 1, 1]), marks[263], atol=1.5e-3, rtol=0)


def write_obj(path: Path, vertices: np.ndarray, rest: list[str] = ()) -> None:
    lines = [
        "# a licence",
        "mtllib model.mtl",
        *("v {:.9g} {:.9g} {:.9g}".format(*v) for v in vertices.tolist()),
        *rest,
    ]
    path.write_text("\n".join(lines) + "\n")


def write_clone(folder: Path, arrays: dict[str, np.ndarray], quads: bool = False) -> Layout:
    """OBJ files as a clone of the toolkit holds them, and the layout that says so. Pairs of triangles with the corners
    (a, b, c) and (a, c, d) become quads if wanted."""
    (folder / "FaceXModel").mkdir(parents=True)
    rest = ["vt {:.9g} {:.9g}".format(*uv) for uv in arrays["uv"].tolist()]
    corners = [[f"{v + 1}/{t + 1}" for v, t in zip(*pair, strict=True)]
               for pair in zip(arrays["faces"].tolist(), arrays["faces_uv"].tolist(), strict=True)]  # fmt: skip
    material, row = -1, 0
    while row < len(corners):
        if arrays["face_material"][row] != material:
            material = arrays["face_material"][row]
            rest.append(f"usemtl {arrays['material_names'][material]}")
        polygon = corners[row]
        following = (
            corners[row + 1] if row + 1 < len(corners) and arrays["face_material"][row + 1] == material else None
        )
        if quads and following and following[0] == polygon[0] and following[1] == polygon[2]:
            polygon, row = [*polygon, following[2]], row + 1
        rest.append("f " + " ".join(polygon))
        row += 1
    neutral = arrays["vertices"].astype(np.float64)
    write_obj(folder / "FaceXModel" / ict_files.NEUTRAL, neutral, rest)
    for number, mode in enumerate(arrays["identity"]):
        write_obj(folder / "FaceXModel" / f"identity{number:03d}.obj", neutral + mode, rest[:9])
    for name, mode in zip(arrays["expression_names"], arrays["expression"], strict=True):
        write_obj(folder / "FaceXModel" / f"{name}.obj", neutral + mode, rest)
    ends = [int(np.flatnonzero(arrays["vertex_part"] == part).max()) + 1 for part in range(len(arrays["part_names"]))]
    names = [str(name) for name in arrays["part_names"]]
    expressions = tuple(str(name) for name in arrays["expression_names"])
    marks = tuple(arrays["landmarks68"].tolist())
    return Layout(tuple(zip(names, ends, strict=True)), marks, len(arrays["identity"]), expressions)


@pytest.fixture
def clone(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Layout]:
    monkeypatch.setenv("GEODIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "clone", write_clone(tmp_path / "clone", dict(np.load(archive)))


def same_arrays(found: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> None:
    order = np.argsort(truth["expression_names"])
    for key in KEYS:
        expected = truth[key][order] if key.startswith("expression") else truth[key]
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(found[key].astype(np.float64), expected.astype(np.float64), atol=2e-3, rtol=0)
        else:
            np.testing.assert_array_equal(found[key], expected)


def test_a_clone_is_read_and_kept(clone: tuple[Path, Layout], archive: Path, tmp_path: Path, monkeypatch) -> None:
    folder, layout = clone
    same_arrays(read_clone(folder, layout), dict(np.load(archive)))
    (kept,) = (tmp_path / "cache" / "ict").glob("*")
    # The second time nothing is parsed, whichever folder of the clone is named.
    with monkeypatch.context() as patch:
        patch.setattr(ict_files, "read_obj", None)
        patch.setattr(ict_files, "read_vertices", None)
        again = load_ict(folder, layout)
        read_clone(folder / "FaceXModel", layout)
    check_rig(again)
    assert again.num_vertices == load_ict(archive).num_vertices
    # Another state of the files is read anew and takes the old one's place; so is a damaged cache.
    (folder / "FaceXModel" / "identity001.obj").write_bytes((folder / "FaceXModel" / "identity000.obj").read_bytes())
    changed = read_clone(folder, layout)
    np.testing.assert_array_equal(changed["identity"][0], changed["identity"][1])
    (fresh,) = (tmp_path / "cache" / "ict").glob("*")
    assert fresh != kept
    fresh.write_bytes(fresh.read_bytes()[:1000])
    same = read_clone(folder, layout)
    np.testing.assert_array_equal(same["identity"], changed["identity"])


def test_a_clone_without_a_cache(clone: tuple[Path, Layout], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the cache would be")
    assert read_clone(*clone)["identity"].shape[0] == 2


def test_clones_of_the_real_data(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEODIFF_CACHE", str(tmp_path / "cache"))
    arrays = dict(np.load(shared_data / "ict" / "ict_facekit.npz"))
    chosen = np.flatnonzero(np.isin(arrays["expression_names"], ["browDown_L", "jawOpen"]))
    arrays.update(
        identity=arrays["identity"][:2],
        expression=arrays["expression"][chosen],
        expression_names=arrays["expression_names"][chosen],
    )
    layout = write_clone(tmp_path / "clone", arrays, quads=True)
    assert layout.parts == ict_files.PARTS and layout.landmarks68 == ict_files.LANDMARKS68
    text = (tmp_path / "clone" / "FaceXModel" / ict_files.NEUTRAL).read_text()
    assert text.count("\nf ") < 27_000, "the test's files hold quads, as the toolkit's do"
    same_arrays(read_clone(tmp_path / "clone", layout), arrays)


def damage_vertices(folder: Path) -> None:
    path = folder / "identity001.obj"
    path.write_text(path.read_text().replace("v ", "v x", 40))


def rotate_vertices(folder: Path) -> None:
    lines = (folder / ict_files.NEUTRAL).read_text().splitlines()
    rows = [i for i, line in enumerate(lines) if line.startswith("v ")]
    moved = [lines[i] for i in rows[50:] + rows[:50]]
    (folder / ict_files.NEUTRAL).write_text("\n".join([*lines[: rows[0]], *moved, *lines[rows[-1] + 1 :]]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / ict_files.NEUTRAL).unlink(), "FaceXModel/generic_neutral_mesh.obj, but .* does not; name"),
        (lambda f: (f / "jawOpen.obj").unlink(), r"as OBJ files, but .* lacks 1 of them \(jawOpen\); clone"),
        (lambda f: (f / "identity000.obj").unlink(), r"lacks 1 of them \(identity000\)"),
        (lambda f: write_obj(f / "jawOpen.obj", np.zeros((7, 3))), "have one topology .* but .*jawOpen.obj has 7 vert"),
        (lambda f: (f / "jawOpen.obj").write_text("version https://git-lfs"), "has no vertices; is it a pointer"),
        (lambda f: write_obj(f / ict_files.NEUTRAL, np.zeros((7, 3)), ["f 1/1 2/1 3/1"]), "beyond its vertices"),
        (lambda f: write_obj(f / ict_files.NEUTRAL, np.zeros((7, 3)), ["f 1 2 3"]), "but .* has 7; use the current"),
        (lambda f: write_obj(f / ict_files.NEUTRAL, np.zeros((7, 3))), "whole OBJ mesh, .*it has no faces"),
        (lambda f: write_obj(f / ict_files.NEUTRAL, np.zeros((7, 3)), ["f 1 2 a"]), "whole OBJ mesh, but it cannot"),
        (rotate_vertices, "order of its README's landmark table, but those of .* another release"),
        (damage_vertices, "identity001.obj must be a whole OBJ mesh, but it cannot be read as one"),
        (lambda f: write_obj(f / "jawOpen.obj", np.full((1912, 3), np.nan)), "expression are finite, but some in"),
    ],
)  # fmt: skip
def test_damaged_clones_are_said(clone: tuple[Path, Layout], damage, message: str) -> None:
    folder, layout = clone
    damage(folder / "FaceXModel")
    with pytest.raises(HeadModelError, match=message):
        load_ict(folder, layout)


def test_wrong_paths_are_said(tmp_path: Path) -> None:
    with pytest.raises(HeadModelError, match="clone of ICT-FaceKit holds FaceXModel/generic_neutral_mesh.obj, but"):
        load_ict(tmp_path)
    with pytest.raises(HeadModelError, match="does not exist; check the path, or clone https"):
        load_ict(tmp_path / "missing.npz")


def with_nan(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flat[5] = np.nan
    return array


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("identity", with_nan, "ICT-FaceKit's identity are finite, but some in"),
        ("vertices", with_nan, "ICT-FaceKit's vertices are finite, but some in"),
        ("identity", lambda a: a[:, :100], r"identity has the shape \(modes, vertices, 3\), but .* \(2, 100, 3\)"),
        ("expression", lambda a: a[:0], r"expression has the shape"),
        ("faces", lambda a: a + 10**6, "faces are numbers of its 1912 vertices, but some in .* lie beyond"),
        ("landmarks68", lambda a: a[:51], r"landmarks68 has the shape \(68\), but"),
        ("vertex_part", lambda a: a + 90, "vertex_part are numbers of its 10 parts, but"),
        ("part_names", lambda a: np.array(["x" + n for n in a]), "has the parts face, head_neck, .* lacks face"),
        ("vertices", lambda a: a.astype("U9"), "vertices holds numbers, but in .* it holds <U9"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_said(tmp_path: Path, archive: Path, key: str, change, message: str) -> None:
    arrays = dict(np.load(archive))
    arrays[key] = change(arrays[key])
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(HeadModelError, match=message):
        load_ict(tmp_path / "wrong.npz")


def test_damaged_archives_are_said(tmp_path: Path, archive: Path) -> None:
    broken = tmp_path / "broken.npz"
    broken.write_bytes(archive.read_bytes()[:500])
    with pytest.raises(HeadModelError, match="cannot be read as one"):
        load_ict(broken)
    half = tmp_path / "half.npz"
    half.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(HeadModelError, match="cannot be read as one"):
        load_ict(half)
    with half.open("wb") as file:
        np.savez(file, **{key: np.array([None]) for key in KEYS})
    with pytest.raises(HeadModelError, match="cannot be read as one .*allow_pickle=False"):
        load_ict(half)
    partial = tmp_path / "partial.npz"
    np.savez(partial, vertices=np.zeros((3, 3)))
    with pytest.raises(HeadModelError, match=f"lacks {KEYS[1]}"):
        load_ict(partial)


def test_names() -> None:
    assert arkit_name("eyeBlink_L") == "eyeBlinkLeft"
    assert arkit_name("PupilDilate_R") == "pupilDilateRight"
    assert arkit_name("jawOpen") == "jawOpen"


@pytest.mark.parametrize("spec", ["", "smpl:x", "ict:", "builtin:x"])
def test_unknown_heads_are_said(spec: str) -> None:
    with pytest.raises(HeadModelError, match="a head model is `builtin`, `ict:PATH` or `flame:PATH`"):
        load_head(spec)
