"""Where the first Gaussians lie, and what colour they have."""

from __future__ import annotations

import pytest
import torch
from sample_clips import paint

from geodiff.head.builtin import load_builtin
from geodiff.head.model import HeadModel
from geodiff.head.rigging import triangle_frames
from recon.frames import FrameSet
from recon.layers.hull import HullConfig, carve, grow_scalp
from recon.layers.initialise import SEEN, fill_unseen, observe_colors, paint_unseen, place_on_triangles
from recon.layers.rigged import PosedHeads, bound_frames, pose_fields


@pytest.mark.parametrize("count", [400, 3000])
def test_gaussians_lie_flat_on_their_triangles(small_head: HeadModel, count: int) -> None:
    vertices = small_head.vertices(small_head.zeros())[0]
    placement = place_on_triangles(small_head, vertices, count, 0.8, seed=0)
    bound = bound_frames(vertices, small_head.faces, placement.binding)
    posed = pose_fields(placement.fields, vertices, small_head.faces, placement.binding, None)
    torch.testing.assert_close(posed.means, placement.points, atol=1e-6, rtol=0)
    corners = vertices[small_head.faces[placement.binding]]
    torch.testing.assert_close((corners * placement.barycentrics[:, :, None]).sum(1), placement.points)
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flat = torch.nn.functional.cosine_similarity(normal, bound.rotations[:, :, 1], dim=-1)
    assert float(flat.abs().min()) > 0.999
    assert (posed.scales.argmin(-1) == 1).all()
    assert abs(len(placement.binding) - count) < 0.25 * count or count < len(small_head.faces)


def test_every_triangle_has_one_where_there_are_enough(small_head: HeadModel) -> None:
    vertices = small_head.vertices(small_head.zeros())[0]
    faces = len(small_head.faces)
    placement = place_on_triangles(small_head, vertices, 2 * faces, 0.8, seed=0)
    assert len(torch.unique(placement.binding)) == faces
    sparse = place_on_triangles(small_head, vertices, faces // 12, 0.8, seed=0)
    assert abs(len(sparse.binding) - faces // 12) < 5 and float(sparse.reach.max()) > 1.5


def test_teeth_and_eyes_are_denser_than_the_skull(small_head: HeadModel) -> None:
    vertices = small_head.vertices(small_head.zeros())[0]
    placement = place_on_triangles(small_head, vertices, 20_000, 0.8, seed=0)
    corners = vertices[small_head.faces]
    areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1) / 2
    counts = torch.bincount(placement.binding, minlength=len(areas))
    density = {
        r: counts[m].sum() / areas[m].sum() for r in ("teeth", "scalp") if (m := small_head.face_region(r)).any()
    }
    assert density["teeth"] > 3 * density["scalp"]


def test_colours_are_those_of_the_paint(small_head: HeadModel, frames: FrameSet) -> None:
    vertices = small_head.vertices(small_head.zeros())[0]
    placement = place_on_triangles(small_head, vertices, 2000, 0.8, seed=0)
    colors, facing = observe_colors(small_head, frames, placement.binding, placement.barycentrics, frames.train)
    seen = facing > SEEN
    assert 0.3 < float(seen.float().mean()) < 0.95
    truth = torch.from_numpy(paint(small_head))[small_head.faces[placement.binding]]
    truth = (truth * placement.barycentrics[:, :, None]).sum(1)
    # Shading darkens, but it does not turn hair into skin.
    cosine = torch.nn.functional.cosine_similarity(colors[seen], truth[seen], dim=-1)
    assert float(cosine.median()) > 0.99
    filled = fill_unseen(small_head, placement.points, placement.binding, colors, facing)
    torch.testing.assert_close(filled[seen], colors[seen])
    assert torch.isfinite(filled).all() and float(filled.min()) > 0


def test_what_no_frame_sees_has_the_portraits_texture(small_head: HeadModel) -> None:
    vertices = small_head.vertices(small_head.zeros())[0]
    placement = place_on_triangles(small_head, vertices, 2000, 0.8, seed=0)
    texture = torch.zeros(32, 32, 3)
    texture[:16] = torch.tensor([0.1, 0.6, 0.2])  # the upper half of the layout: v above 0.5
    texture[16:] = torch.tensor([0.7, 0.1, 0.3])
    facing = (torch.arange(len(placement.binding)) % 2).float()
    v = (small_head.uvs[small_head.faces_uv[placement.binding]] * placement.barycentrics[:, :, None]).sum(1)[:, 1]
    shown = torch.where((v > 0.5)[:, None], texture[0, 0], texture[-1, 0])
    painted = paint_unseen(small_head, texture, placement.binding, placement.barycentrics, shown, facing)
    assert torch.equal(painted[facing == 1], shown[facing == 1])
    inner = torch.stack([small_head.face_region(r) for r in ("eyeballs", "teeth", "mouth_interior")]).any(0)
    inner = inner[placement.binding]
    wrong = torch.where((facing == 1)[:, None], shown, torch.rand(shown.shape))
    painted = paint_unseen(small_head, texture, placement.binding, placement.barycentrics, wrong, facing)
    assert torch.equal(painted[inner], wrong[inner])
    for rows in (v > 0.58, v < 0.42):
        assert (rows & ~inner & (facing == 0)).sum() > 20
        torch.testing.assert_close(painted[rows & ~inner], shown[rows & ~inner], atol=0.02, rtol=0)


def test_the_texture_takes_the_tone_of_seen_hair_and_gives_way_to_seen_skin(small_head: HeadModel) -> None:
    vertices = small_head.vertices(small_head.zeros())[0]
    placement = place_on_triangles(small_head, vertices, 4000, 0.8, seed=0)
    binding, weights = placement.binding, placement.barycentrics
    texture = torch.full((16, 16, 3), 0.6)
    texture[:, ::2] = 0.4  # strands
    facing = (placement.points[:, 0] > 0).float()
    hair = small_head.regions["scalp"][small_head.faces[binding]].all(1)
    skin = ~small_head.regions["scalp"][small_head.faces[binding]].any(1)
    shown = torch.where(hair[:, None], torch.tensor([0.36, 0.35, 0.34]), torch.tensor([0.9, 0.2, 0.1]))
    painted = paint_unseen(small_head, texture, binding, weights, shown, facing)
    near_middle = (facing == 0) & (placement.points[:, 0].abs() < 0.05)
    assert near_middle[hair].any() and near_middle[skin].any()
    tone = painted[near_middle & hair]
    assert abs(float(tone.mean()) - 0.35) < 0.03 and float(tone.std()) > 0.03
    inner = torch.stack([small_head.face_region(r) for r in ("eyeballs", "teeth", "mouth_interior")]).any(0)[binding]
    carried = painted[near_middle & skin & ~inner]
    assert float((carried - torch.tensor([0.9, 0.2, 0.1])).abs().max(1).values.quantile(0.8)) < 0.1


def test_hair_shoulders_and_teeth_keep_their_share() -> None:
    """The bundled head has 16,660 triangles, a fifth of them in eyeballs, teeth and mouth, on a tenth of its area."""
    head = load_builtin()
    vertices = head.vertices(head.zeros())[0]
    placement = place_on_triangles(head, vertices, 18_000, 0.8, seed=0)
    assert abs(len(placement.binding) - 18_000) < 200
    share = {name: float(head.face_region(name)[placement.binding].float().mean()) for name in head.regions}
    assert share["scalp"] > 0.12 and share["neck"] > 0.15 and share["face"] > 0.2 and share["ears"] > 0.02
    assert share["teeth"] > 0.03 and share["lips"] > 0.01 and share["eyes"] > 0.01
    # All of the surface is covered: the width of a Gaussian follows the spacing around it.
    wide = placement.fields["log_scales"].exp()[:, 0] * _scales(head, vertices)[placement.binding]
    assert 0.0003 < float(wide.median()) < 0.003


def _scales(head: HeadModel, vertices: torch.Tensor) -> torch.Tensor:
    return triangle_frames(vertices[None], head.faces).scales[0]


def test_heads_are_posed_once(small_head: HeadModel, frames: FrameSet) -> None:
    cache = PosedHeads(small_head, frames.params)
    for t in range(frames.params.num_frames):
        torch.testing.assert_close(cache.vertices(t), small_head.vertices(frames.params.frame(t))[0])


def test_scalp_grows_into_the_silhouette(small_head: HeadModel, frames: FrameSet) -> None:
    """Frames of the true head, parameters of one whose scalp was pressed in: the hull finds what is missing."""
    pressed = torch.zeros(small_head.num_vertices, 3)
    scalp = small_head.regions["scalp"]
    pressed[scalp] = -0.15 * small_head.template[scalp]
    params = frames.params.replace(static_offset=pressed)
    grown = grow_scalp(small_head, params, frames, HullConfig(limit=0.03, step=0.001, smoothing=2))
    top = scalp & (small_head.template[:, 1] > 0.09)
    missing = pressed[top, 1].abs().mean()
    left = grown[top, 1].abs().mean()
    assert float(left) < 0.5 * float(missing)
    assert not grown[~scalp].any()


def test_what_leaves_the_silhouettes_is_carved(small_head: HeadModel, frames: FrameSet) -> None:
    """Frames of the true head, parameters of one whose scalp was puffed up; a head that fits stays as it is."""
    puffed = torch.zeros(small_head.num_vertices, 3)
    scalp = small_head.regions["scalp"]
    puffed[scalp] = 0.15 * small_head.template[scalp]
    config = HullConfig(step=0.001, smoothing=6)
    top = scalp & (small_head.template[:, 1] > 0.09)
    found = carve(small_head, frames.params.replace(static_offset=puffed), frames, config)
    assert float(found[top, 1].abs().mean()) < 0.35 * float(puffed[top, 1].abs().mean())
    kept = carve(small_head, frames.params, frames, config)
    assert float(kept.norm(dim=1).mean()) < 0.001
    assert not kept[small_head.regions["face"]].any()
