"""FLAME's loader, on small files of the published structure."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from flame_like import NUM_EXPR, NUM_SHAPE, Ch, Select, blobs, plain, weights_of, write
from safetensors.numpy import save_file
from scipy import sparse

from geodiff.errors import HeadModelError
from geodiff.geometry import vertex_normals
from geodiff.head import flame_extras, load_head
from geodiff.head.builtin import load_builtin
from geodiff.head.flame import flame_parts, load_flame
from geodiff.head.flame_files import read_flame
from geodiff.head.model import REGIONS, HeadModel
from geodiff.head.registration import register, transfer_regions
from geodiff.head.uv import overlapping_texels, texel_map
from geodiff.tracking.groups import INNER_FACE
from geodiff.types import HeadParams, Motion


@pytest.mark.parametrize(("protocol", "python2"), [(0, True), (1, True), (2, True), (2, False), (4, False), (5, False)])
def test_reads_the_published_structure(tmp_path: Path, chumpy: None, monkeypatch, protocol: int, python2: bool) -> None:
    truth = blobs()
    path = write(tmp_path / "generic_model.pkl", truth, protocol, python2)
    assert b"chumpy.ch" in path.read_bytes()
    assert not python2 or b"cscipy.sparse.csc\n" in path.read_bytes()
    monkeypatch.delitem(sys.modules, "chumpy.ch")
    arrays = read_flame(path)
    np.testing.assert_array_equal(arrays.template, truth["v_template"].x.astype(np.float32))
    np.testing.assert_array_equal(arrays.pose, truth["posedirs"].transpose(2, 0, 1).astype(np.float32))
    np.testing.assert_allclose(arrays.regressor, truth["J_regressor"].toarray(), atol=1e-7)
    np.testing.assert_array_equal(arrays.faces, truth["f"])
    assert arrays.jaw

    head = load_head(f"flame:{path}")
    assert (head.num_shape, head.num_expr, head.name) == (NUM_SHAPE, NUM_EXPR, "flame")
    assert head.expression_names[0] == "expression000"
    assert head.landmarks is None, "five blobs are no face"
    assert head.pose_basis is not None and head.pose_basis.shape == (36, head.num_vertices, 3)
    joints = truth["J_regressor"] @ truth["v_template"].x
    np.testing.assert_allclose(head.joint_regressor @ head.template, joints, atol=1e-6)
    assert torch.equal(head.regions["eyeballs"], head.skinning[:, 3:].sum(1) > 0.5)
    # It poses: the jaw moves the jaw's vertices, and the motion's jawOpen opens it.
    params = HeadParams.zeros(NUM_SHAPE, NUM_EXPR).replace(jaw_pose=torch.tensor([[0.3, 0.0, 0.0]]))
    moved = (head.vertices(params) - head.vertices(head.zeros()))[0].norm(dim=1)
    assert float(moved[head.skinning[:, 2] > 0.5].max()) > 0.01
    assert "jawOpen" in head.arkit_jaw


def test_reads_rearranged_chumpy_arrays(tmp_path: Path, chumpy: None) -> None:
    truth = blobs()
    weights = truth["weights"].x
    order = np.random.default_rng(0).permutation(weights.size)
    truth["weights"] = Select(Ch(weights.ravel()[order]), np.argsort(order).astype(np.uint32), weights.shape)
    arrays = read_flame(write(tmp_path / "model.pkl", truth, 2, python2=True))
    np.testing.assert_array_equal(arrays.weights, weights.astype(np.float32))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_reads_converted_files(tmp_path: Path, suffix: str) -> None:
    truth = plain(blobs())
    path = tmp_path / f"flame2020{suffix}"
    if suffix == ".npz":
        np.savez(path, **truth)
    else:
        save_file({k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in truth.items()}, path)
    arrays = read_flame(path)
    np.testing.assert_array_equal(arrays.template, truth["v_template"].astype(np.float32))
    assert load_flame(tmp_path).num_vertices == len(truth["v_template"])


def test_a_model_without_jaw_joint(tmp_path: Path, chumpy: None) -> None:
    """Four joints become five, of which the jaw is inert; a jaw that weighs nothing is told as well."""
    truth = blobs()
    weights, regressor = truth["weights"].x.copy(), truth["J_regressor"].toarray()
    weights[:, 1] += weights[:, 2]
    inert = {**truth, "weights": np.where(np.arange(5) == 2, 0.0, weights)}
    four = {
        **truth, "weights": np.delete(weights, 2, 1), "J_regressor": sparse.csc_matrix(np.delete(regressor, 2, 0)),
        "posedirs": np.delete(truth["posedirs"], np.arange(9, 18), 2),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1], [0, 1, 2, 3]], np.uint32),
    }  # fmt: skip
    for content in (inert, four):
        head = load_flame(write(tmp_path / "flame2023_no_jaw.pkl", content, 2, python2=True))
        assert head.skinning.shape[1] == 5 and not head.arkit_jaw
        assert not flame_parts(tmp_path).jaw and "no jaw joint" in flame_parts(tmp_path).summary
    eyes = head.zeros().replace(eyes_pose=torch.tensor([[0.1, 0.2, 0.0, -0.1, 0.1, 0.0]]))
    five = load_flame(write(tmp_path / "flame2023.pkl", truth))
    # The eyes' joints and correctives have stayed theirs; the jaw moves nothing.
    assert head.pose_basis is not None and five.pose_basis is not None
    torch.testing.assert_close(head.pose_basis[18:], five.pose_basis[18:])
    torch.testing.assert_close(head.joints(eyes)[3:], five.joints(eyes)[3:])
    jaw = head.zeros().replace(jaw_pose=torch.tensor([[0.5, 0.0, 0.0]]))
    torch.testing.assert_close(head.vertices(jaw), head.vertices(head.zeros()))


def test_texture_coordinates(tmp_path: Path, chumpy: None) -> None:
    truth = blobs()
    write(tmp_path / "flame2023.pkl", truth)
    faces = np.unique(np.sort(truth["f"], 1), axis=0)
    faces = faces[(np.diff(faces.astype(int), axis=1) > 0).all(1)]
    truth["f"] = faces
    write(tmp_path / "flame2023.pkl", truth)
    texture = np.random.default_rng(3).integers(0, 9, faces.shape)
    lines = ["v 0 0 0"] * 300 + [f"vt {u} {u / 2}" for u in np.linspace(0, 1, 9)]
    # The file names the triangles in another order, beginning at other corners.
    for row in np.random.default_rng(4).permutation(len(faces)):
        corners = [f"{v + 1}/{t + 1}" for v, t in zip(np.roll(faces[row], 1), np.roll(texture[row], 1), strict=True)]
        lines.append("f " + " ".join(corners))
    (tmp_path / "head_template_mesh.obj").write_text("\n".join(lines))
    head = load_flame(tmp_path)
    assert head.uvs.shape == (9, 2)
    np.testing.assert_array_equal(head.faces_uv, texture)
    (tmp_path / "head_template_mesh.obj").write_text("\n".join(lines[:-1]))
    with pytest.raises(HeadModelError, match="for the model's .* triangles, but .*; use the one of this model"):
        load_flame(tmp_path)


def test_regions(tmp_path: Path, chumpy: None) -> None:
    write(tmp_path / "flame2023.pkl", blobs())
    guessed = load_flame(tmp_path)
    masks = {
        "lips": np.arange(5), "scalp": np.arange(10, 20), "face": np.arange(0, 15), "left_ear": np.array([20]),
        "right_ear": np.array([21]), "neck": np.arange(30, 40), "eye_region": np.arange(5, 8), "boundary": np.arange(3),
    }  # fmt: skip
    write(tmp_path / "FLAME_masks.pkl", masks, 2, python2=True)
    head = load_flame(tmp_path)
    assert set(REGIONS) <= set(head.regions)
    assert torch.nonzero(head.regions["lips"])[:, 0].tolist() == list(range(5))
    assert torch.nonzero(head.regions["ears"])[:, 0].tolist() == [20, 21]
    assert torch.nonzero(head.regions["face"])[:, 0].tolist() == list(range(10)), "the scalp is no face"
    assert torch.equal(head.regions["eyeballs"], guessed.regions["eyeballs"]), "no mask, so by the joints"
    write(tmp_path / "FLAME_masks.pkl", {"lips": np.array([10_000])})
    with pytest.raises(HeadModelError, match="lists of the model's 300 vertices, but 'lips' in .* is not"):
        load_flame(tmp_path)


def test_eyelids_are_expressions(tmp_path: Path, chumpy: None) -> None:
    truth = blobs()
    write(tmp_path / "flame2023.pkl", truth)
    lids = 1e-3 * np.random.default_rng(0).normal(size=(2, 1, 300, 3)).astype(np.float32)
    np.save(tmp_path / "l_eyelid.npy", lids[0])
    with pytest.raises(HeadModelError, match=r"are two arrays .* but .*r_eyelid.npy is not one"):
        load_flame(tmp_path)
    np.save(tmp_path / "r_eyelid.npy", lids[1, 0])
    head = load_flame(tmp_path)
    assert head.num_expr == NUM_EXPR + 2 and head.expression_names[-2:] == ("eyeBlinkLeft", "eyeBlinkRight")
    shut = Motion({"eyeBlinkRight": np.ones(1)}, np.zeros((1, 3)), np.zeros((1, 2)))
    moved = head.vertices(head.motion_params(shut, head.zeros())) - head.vertices(head.zeros())
    np.testing.assert_allclose(moved[0], lids[1, 0], atol=1e-6)
    np.save(tmp_path / "r_eyelid.npy", lids[1, 0, :7])
    with pytest.raises(HeadModelError, match="two arrays of the model's 300 vertices"):
        load_flame(tmp_path)


def test_landmarks_of_files(tmp_path: Path, face_file: Path, face_head: HeadModel) -> None:
    """Landmarks that a file names stay where it puts them; the rest are found, the better for them."""
    (tmp_path / "flame2023.npz").symlink_to(face_file)
    assert face_head.landmarks is not None
    chosen = np.arange(0, 420, 4)
    np.savez(
        tmp_path / "mediapipe_landmark_embedding.npz", landmark_indices=chosen,
        lmk_face_idx=face_head.landmarks.faces[chosen], lmk_b_coords=np.full((105, 3), 1 / 3),
    )  # fmt: skip
    marks = load_flame(tmp_path).landmarks
    assert marks is not None and len(marks.indices) == 478
    assert torch.equal(marks.faces[chosen], face_head.landmarks.faces[chosen])
    np.testing.assert_allclose(marks.barycentrics[chosen], 1 / 3, atol=1e-6)
    (tmp_path / "mediapipe_landmark_embedding.npz").unlink()
    # The 68 landmarks come as a pickled dictionary, which is read without being run.
    where = face_head.landmarks.faces[list(flame_extras.MEDIAPIPE_OF_51)].numpy()
    full = np.concatenate([np.zeros(17, np.int64), where])[None]
    values = {"full_lmk_faces_idx": full, "full_lmk_bary_coords": np.full((1, 68, 3), 1 / 3)}
    np.save(tmp_path / "landmark_embedding_with_eyes.npy", values, allow_pickle=True)
    marks = load_flame(tmp_path).landmarks
    assert marks is not None
    assert marks.faces[list(flame_extras.MEDIAPIPE_OF_51)].tolist() == where.tolist()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mediapipe_landmark_embedding.npz", b"PK\x03\x04 half", "archive of arrays, but .* is not"),
        ("landmark_embedding_with_eyes.npy", b"\x93NUMPY\x01\x00", "embedding of FLAME's is a pickle of arrays"),
        ("l_eyelid.npy", b"", "eyelids are two arrays"),
        ("FLAME_masks.pkl", b"\x80\x02]", "file of FLAME's masks is a pickle of arrays, but"),
        ("head_template_mesh.obj", b"v 1 2\n", "must be a whole OBJ mesh"),
    ],
)  # fmt: skip
def test_damaged_companions_are_said(tmp_path: Path, chumpy: None, name: str, content: bytes, message: str) -> None:
    write(tmp_path / "flame2023.pkl", blobs())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HeadModelError, match=message):
        load_flame(tmp_path)
    parts = flame_parts(tmp_path)
    assert len(parts.problems) == 1 and name in parts.problems[0]


def test_landmark_embeddings_of_another_model_are_said(tmp_path: Path, chumpy: None) -> None:
    write(tmp_path / "flame2023.pkl", blobs())
    np.savez(
        tmp_path / "mediapipe_landmark_embedding.npz", landmark_indices=np.arange(105),
        lmk_face_idx=np.arange(105) + 9000, lmk_b_coords=np.full((105, 3), 1 / 3),
    )  # fmt: skip
    with pytest.raises(HeadModelError, match=r"gives a triangle \(of 80\) and three weights .* but .* does not"):
        load_flame(tmp_path)


def lip_gap(head: HeadModel, params: HeadParams) -> float:
    """Millimetres between the middles of the inner lips (MediaPipe's 13 and 14)."""
    points = head.landmark_points(params)[0]
    return 1e3 * float((points[13] - points[14]).norm())


def test_landmarks_are_found_without_a_file(face_head: HeadModel) -> None:
    source = load_builtin()
    assert face_head.landmarks is not None and source.landmarks is not None
    # The face is the bundled head's surface, moved: its landmarks are known.
    truth = face_head.template[source.faces[source.landmarks.faces]]
    truth = (truth * source.landmarks.barycentrics[..., None]).sum(1)
    error = 1e3 * (face_head.landmarks.points(face_head.template, face_head.faces) - truth).norm(dim=1)
    assert float(error[list(INNER_FACE)].mean()) < 0.5 and float(error.mean()) < 1.0
    balls = face_head.regions["eyeballs"][face_head.faces[face_head.landmarks.faces]].all(-1)
    assert bool(balls[468:].all()) and not bool(balls[:468].any())


def test_landmarks_are_found_on_the_toolkits_head(shared_data: Path) -> None:
    head = load_head(f"ict:{shared_data / 'ict' / 'ict_facekit.npz'}")
    source = load_builtin()
    fit = register(head, source)
    assert fit is not None and head.landmarks is not None
    found = fit.landmarks
    truth = head.landmarks.points(head.template, head.faces)
    error = 1e3 * (found.points(head.template, head.faces) - truth).norm(dim=1)
    assert float(error[list(INNER_FACE)].mean()) < 1.5
    regions = transfer_regions(head, source, fit)
    for name, share in (("lips", 0.8), ("eyes", 0.4), ("ears", 0.5), ("scalp", 0.6), ("neck", 0.6), ("face", 0.8)):
        truth = head.regions[name].numpy()
        overlap = (regions[name] & truth).sum() / (regions[name] | truth).sum()
        assert overlap > share, (name, overlap)


@pytest.mark.parametrize("jaw", [True, False])
def test_motions_move_it_as_they_move_the_bundled_head(jaw: bool, face_head: HeadModel, face_without_jaw: Path) -> None:
    head = face_head if jaw else load_flame(face_without_jaw)
    assert ("jawOpen" in head.arkit_jaw) == jaw
    source = load_builtin()
    for name, share in (("jawOpen", 0.8), ("mouthSmileLeft", 0.7), ("eyeBlinkRight", 0.6), ("mouthPucker", 0.6)):
        here, there = (
            1e3 * (h.landmark_points(weights_of(h, **{name: 1.0})) - h.landmark_points(h.zeros()))[0, :468]
            for h in (head, source)
        )
        along = float((here * there).sum() / (there * there).sum())
        assert share < along < 1.3, (name, along)
        assert float((here - 1.04 * there).norm() / there.norm()) < 0.5, name
    assert lip_gap(head, weights_of(head, jawOpen=1.0)) > lip_gap(head, head.zeros()) + 15
    assert max(float(c.abs().max()) for c in head.arkit.values()) <= 3.0


def test_mirrored_vertices(face_head: HeadModel) -> None:
    flip = torch.tensor([-1.0, 1.0, 1.0])
    normals = vertex_normals(face_head.template, face_head.faces)
    # Where the lips touch, what lies nearest to the mirrored vertex may be the other lip's; it faces the other way.
    lips = face_head.regions["lips"]
    agreement = (normals[face_head.mirror] * normals * flip).sum(1)[lips]
    assert float(agreement.mean()) > 0.8
    assert float(((face_head.template[face_head.mirror] - face_head.template * flip).norm(dim=1)).median()) < 0.006
    balls = face_head.regions["eyeballs"]
    assert float((balls[face_head.mirror] == balls).float().mean()) > 0.9


def test_heads_without_texture_are_unwrapped(face_head: HeadModel) -> None:
    uvs, faces_uv = face_head.uvs.numpy(), face_head.faces_uv.numpy()
    assert uvs.min() >= 0 and uvs.max() <= 1
    used = texel_map(uvs, faces_uv, 512).face
    assert overlapping_texels(uvs, faces_uv, 512) < 0.005 * (used >= 0).sum()
    assert (used >= 0).mean() > 0.3
    # Few seams in the middle of the face: most corners that triangles share have one place.
    middle = (face_head.regions["face"] & (face_head.template[:, 0].abs() < 0.03)).numpy()
    middle &= face_head.template[:, 2].numpy() > float(face_head.template[:, 2].max()) - 0.05
    inside = middle[face_head.faces.numpy()].all(1)
    pairs = np.unique(np.stack([face_head.faces[inside].numpy(), faces_uv[inside]], -1).reshape(-1, 2), axis=0)
    assert len(pairs) < 1.5 * len(np.unique(pairs[:, 0]))


def test_parts_are_reported(tmp_path: Path, chumpy: None) -> None:
    write(tmp_path / "generic_model.pkl", blobs())
    parts = flame_parts(tmp_path)
    assert parts.file == tmp_path / "generic_model.pkl" and parts.jaw and not parts.problems
    assert parts.summary == "300 vertices, 4 shapes, 100 expressions, jaw joint; nothing beside it"
    assert "FLAME_masks.pkl (exact regions)" in parts.missing
    write(tmp_path / "FLAME_masks.pkl", {"lips": np.arange(5)})
    assert flame_parts(tmp_path).summary.endswith("beside it FLAME_masks.pkl")


def change(key: str, how) -> dict:
    content = plain(blobs())
    content[key] = how(content[key].copy())
    return content


def spoiled(array: np.ndarray) -> np.ndarray:
    array.flat[7] = np.nan
    return array


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: change("v_template", spoiled), "v_template holds finite numbers, but in .* it does not; download"),
        (lambda: change("shapedirs", spoiled), "FLAME's shapedirs holds finite numbers"),
        (lambda: change("v_template", lambda a: 100 * a), r"to 0.8 m high, but in .* it is 2\d\.\d; convert it"),
        (lambda: change("weights", lambda a: a[:, :3]), r"weights has the shape \(300, 5\), but in .* \(300, 3\)"),
        (lambda: change("weights", lambda a: 2 * a), "skinning weights are positive and add up to 1"),
        (lambda: change("posedirs", lambda a: a[..., :9]), r"posedirs has the shape \(300, 3, 36\)"),
        (lambda: change("shapedirs", lambda a: a[:200]), r"shapedirs has the shape \(300, 3, any\)"),
        (lambda: change("J_regressor", lambda a: a.T), r"J_regressor has the shape \(5, 300\)"),
        (lambda: change("f", lambda a: a + np.uint32(10_000)), "some point beyond them; use another file"),
        (lambda: change("kintree_table", lambda a: np.tile(a, 11)), "this is another model, use FLAME 2020 or 2023"),
        (lambda: {k: v for k, v in plain(blobs()).items() if k != "posedirs"}, "lacks posedirs; use the"),
        (lambda: {**blobs(), "v_template": np.array([{"a": 1}, None], dtype=object)}, "holds the data type 'O8'"),
        (lambda: {**blobs(), "v_template": "text"}, "arrays hold numbers, but one holds a str"),
        (lambda: [1, 2], "a FLAME model is a pickled dictionary, but .* holds a list"),
    ],
)  # fmt: skip
def test_wrong_contents_are_said(tmp_path: Path, chumpy: None, content, message: str) -> None:
    with pytest.raises(HeadModelError, match=message) as caught:
        load_flame(write(tmp_path / "model.pkl", content()))
    assert "\n" not in str(caught.value)


def test_wrong_files_are_said(tmp_path: Path, chumpy: None) -> None:
    with pytest.raises(HeadModelError, match="needs its model file, but .* does not exist"):
        load_flame(tmp_path / "missing.pkl")
    with pytest.raises(HeadModelError, match="folder holds generic_model.pkl or flame2023.pkl, but"):
        load_flame(tmp_path)
    with pytest.raises(HeadModelError, match="a head model is `builtin`"):
        load_head("flame:")
    path = write(tmp_path / "model.pkl", blobs())
    whole = path.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(HeadModelError, match="cannot be read as one"):
            load_flame(path)
    for suffix in (".npz", ".safetensors"):
        (tmp_path / f"model{suffix}").write_bytes(b"\x80\x02}.")
        with pytest.raises(HeadModelError, match="plain arrays, but .* cannot be read as such .*published .pkl"):
            load_flame(tmp_path / f"model{suffix}")
    # What careless conversions leave: pickled objects in an archive.
    np.savez(tmp_path / "model.npz", v_template=np.array({"x": 1}, dtype=object))
    with pytest.raises(HeadModelError, match="cannot be read as such .*allow_pickle=False"):
        load_flame(tmp_path / "model.npz")


def test_no_model_of_others_is_in_the_repository() -> None:
    root = Path(__file__).parents[2]
    for folder in ("geodiff", "pipelines", "recon", "configs", "tests", "scripts", "docs"):
        assert not [path for suffix in ("*.pkl", "*.npy", "*.obj") for path in (root / folder).rglob(suffix)]
