"""VHAP's teeth on FLAME: added to files that have none."""

from __future__ import annotations

from pathlib import Path

import torch
from flame_like import weights_of

from geodiff.head import load_head
from geodiff.head.builtin import load_builtin
from geodiff.head.flame import load_flame
from geodiff.head.flame_teeth import NUM_TEETH
from geodiff.head.model import HeadModel
from geodiff.head.uv import overlapping_texels


def test_teeth(face_file: Path, face_head: HeadModel) -> None:
    head = load_head(f"flame+teeth:{face_file}")
    bare, more = face_head.num_vertices, 120
    assert more == NUM_TEETH and head.num_vertices == bare + more
    assert len(head.faces) == len(face_head.faces) + 168
    assert torch.equal(head.faces[: len(face_head.faces)], face_head.faces)
    teeth = torch.arange(bare, bare + more)
    assert torch.equal(torch.nonzero(head.regions["teeth"])[:, 0], teeth)
    # The order of corners decides the frames that Gaussians are bound to.
    faces = head.faces[-168:] - bare
    assert faces[:2].tolist() == [[0, 31, 30], [0, 1, 31]] and faces[14:16].tolist() == [[7, 8, 37], [8, 38, 37]]
    assert faces[28].tolist() == [60, 75, 76] and faces[56].tolist() == [75, 30, 76]
    assert faces[84].tolist() == [45, 46, 15] and faces[112].tolist() == [90, 106, 105]
    assert faces[-1].tolist() == [118, 119, 59] and faces[-2].tolist() == [118, 59, 58]
    assert len({tuple(sorted(face)) for face in faces.tolist()}) == 168
    # Fronts face forwards, and the teeth lie inside the lips, upper above lower.
    points = head.template[teeth]
    a, b, c = (points[faces[:28, k]] for k in range(3))
    assert bool((torch.linalg.cross(b - a, c - a)[:, 2] > 0).all())
    lips = head.template[head.regions["lips"]]
    assert float(points[:, 2].max()) < float(lips[:, 2].max()) - 0.005
    assert bool((lips.amin(0)[0] < points[:, 0].min()) & (points[:, 0].max() < lips.amax(0)[0]))
    assert float(points[30:45, 1].mean()) > float(points[45:60, 1].mean())
    # The jaw carries the lower teeth alone; shape moves them all together.
    opened = head.zeros().replace(jaw_pose=torch.tensor([[0.3, 0.0, 0.0]]))
    moved = (head.vertices(opened) - head.vertices(head.zeros()))[0, teeth].norm(dim=1)
    lower = torch.tensor([0] * 15 + [1] * 15 + [0] * 15 + [1] * 15 + [0] * 30 + [1] * 30).bool()
    assert float(moved[lower].min()) > 0.01 and float(moved[~lower].max()) < 1e-6
    assert float(head.shape_basis[:8, teeth].abs().max()) > 0
    assert head.landmarks is not None and face_head.landmarks is not None
    assert torch.equal(head.landmarks.faces, face_head.landmarks.faces)


def test_teeth_beside_the_models_own_texture(tmp_path: Path, face_file: Path) -> None:
    (tmp_path / "flame2023.npz").symlink_to(face_file)
    bundled = load_builtin()
    lines = ["v 0 0 0"] * bundled.num_vertices + [f"vt {u} {v}" for u, v in (0.9 * bundled.uvs).tolist()]
    for points, corners in zip(bundled.faces.tolist(), bundled.faces_uv.tolist(), strict=True):
        lines.append("f " + " ".join(f"{v + 1}/{t + 1}" for v, t in zip(points, corners, strict=True)))
    (tmp_path / "head_template_mesh.obj").write_text("\n".join(lines))
    head = load_flame(tmp_path, teeth=True)
    assert len(head.uvs) == len(bundled.uvs) + 120 and head.faces_uv.max() == len(head.uvs) - 1
    assert torch.equal(head.faces_uv[:-168], bundled.faces_uv)
    assert overlapping_texels(head.uvs[-120:].numpy(), head.faces_uv[-168:].numpy() - len(bundled.uvs), 1024) == 0


def test_teeth_without_jaw_follow_the_chin(face_without_jaw: Path) -> None:
    head = load_flame(face_without_jaw, teeth=True)
    opened = head.vertices(weights_of(head, jawOpen=1.0))[0] - head.vertices(head.zeros())[0]
    drop = -opened[-120:, 1]
    assert float(drop[15:30].min()) > 0.01 and float(drop[:15].abs().max()) < 1e-6
