"""The first Gaussians: spread over the triangles, coloured from the frames that see them."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from geodiff.clipset import ClipSet
from geodiff.conditioning import Conditioner, Reference
from geodiff.geometry import project, vertex_normals
from geodiff.head.model import HeadModel
from geodiff.head.rigging import triangle_frames
from geodiff.raster import mesh
from recon.frames import FrameSet
from recon.layers.harmonics import SH_C0
from recon.layers.rigged import Fields

#: How much denser than average the Gaussians of a region lie; the largest weight of a triangle's regions counts.
REGION_WEIGHTS = {
    "neck": 0.5, "scalp": 1.0, "ears": 1.0, "face": 2.0, "mouth_interior": 1.5, "lips": 4.0, "eyes": 4.0,
    "eyeballs": 4.0, "teeth": 5.0,
}  # fmt: skip
#: Regions whose unseen Gaussians may not borrow the colour of another region, and the colours they fall back to.
SEPARATE = {"teeth": (0.85, 0.82, 0.76), "mouth_interior": (0.35, 0.12, 0.11), "eyeballs": (0.86, 0.85, 0.84)}
#: Cosine between a surface and the most frontal view of it above which a point counts as seen: closer to the outline,
#: pixels mix with the background.
SEEN = 0.55
#: The same for points that lend their colour to those that are not seen.
LENDS = 0.65
#: Gaussians a triangle from which on every triangle gets one.
_SPARE = 2
#: Neighbours that an unseen Gaussian takes its colour from.
_NEIGHBOURS = 24
#: Well seen points around a place that it is compared with, and how many are looked at in all.
_NEARBY, _NEARBY_POINTS = 60, 2500
#: How far the tone of the texture's hair may be moved to that of the frames, and what keeps ratios of dark finite.
_TONE_RANGE, _DARK = (0.5, 2.0), 0.03
#: Distance in RGB between what texture and frames show nearby at which the texture counts for little.
_DISTRUST = 0.2
#: Standard deviation in the triangle's plane as a share of the spacing, and across it as a share of that.
SPREAD, FLATNESS = 0.55, 0.15


class Placement(NamedTuple):
    """N Gaussians on the triangles of a head.

    fields: their learnable fields. binding: (N,) int64 triangles. reach: (N,) by how much the neighbourhood that a
    Gaussian has to cover exceeds its triangle, at least 1. barycentrics: (N, 3). points: (N, 3) metres, neutral head.
    facing: (N,) how frontally the frames see them, 0 where none does; 1 before that is known.
    """

    fields: Fields
    binding: Tensor
    reach: Tensor
    barycentrics: Tensor
    points: Tensor
    facing: Tensor


def place_on_triangles(
    head: HeadModel, vertices: Tensor, count: int, opacity: float, seed: int, degree: int = 0
) -> Placement:
    """Flat Gaussians on the triangles, `count` of them, by area and by region.

    vertices: (V, 3) metres, the subject's neutral head. With `_SPARE` Gaussians a triangle or more, every triangle that
    has an area gets one; with fewer a systematic sample is taken, and the Gaussians are wider than their triangles:
    otherwise a head's many small triangles (teeth, eyeballs) would take what hair and shoulders need.
    """
    generator = torch.Generator().manual_seed(seed)
    corners = vertices[head.faces]
    areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1) / 2
    weight = torch.full_like(areas, min(REGION_WEIGHTS.values()))
    for region, value in REGION_WEIGHTS.items():
        inside = head.face_region(region)
        weight[inside] = weight[inside].clamp_min(value)
    expected = areas * weight
    expected *= count / expected.sum()
    # One stratified draw over the cumulative sum gives each triangle its expected number up to rounding.
    edges = torch.cat([torch.zeros(1), expected.cumsum(0)])
    counts = (edges[1:] + 0.5).floor() - (edges[:-1] + 0.5).floor()
    every = len(areas) * _SPARE <= count
    if every:
        counts = torch.where(areas > 0, counts.clamp_min(1), 0 * counts)
    binding = torch.repeat_interleave(torch.arange(len(areas)), counts.long())
    barycentrics = _spread_barycentrics(binding, counts.long(), generator)
    points = (corners[binding] * barycentrics[:, :, None]).sum(1)
    frames = triangle_frames(vertices[None], head.faces)
    # A triangle that stands in for its neighbours has the spacing of the neighbourhood, not its own.
    share = torch.maximum(expected, counts) if every else expected
    spacing = (areas / share.clamp_min(1e-6)).sqrt()[binding]
    scale = frames.scales[0, binding].clamp_min(1e-9)
    rotations, origins = frames.rotations[0, binding], frames.origins[0, binding]
    tangent = (SPREAD * spacing / scale).clamp_min(1e-4)
    number = len(binding)
    quats = torch.zeros(number, 4)
    quats[:, 0] = 1.0
    fields = {
        "means": ((points - origins)[:, None] @ rotations)[:, 0] / scale[:, None],
        "quats": quats,
        "log_scales": torch.stack([tangent, FLATNESS * tangent, tangent], -1).log(),
        "opacity_logits": torch.logit(torch.full((number,), opacity)),
        "sh_dc": torch.zeros(number, 1, 3),
        "sh_rest": torch.zeros(number, (degree + 1) ** 2 - 1, 3),
    }
    return Placement(fields, binding, (spacing / scale).clamp_min(1.0), barycentrics, points, torch.ones(number))


def _spread_barycentrics(binding: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 3): a triangle with one Gaussian has it in the centre, others follow a low-discrepancy sequence."""
    first = counts.cumsum(0) - counts
    number = torch.arange(len(binding)) - first[binding]
    shift = torch.rand(len(counts), 2, generator=generator)[binding]
    # The R2 sequence: multiples of the inverse plastic number and of its square.
    u = (shift[:, 0] + number * 0.7548776662466927) % 1.0
    v = (shift[:, 1] + number * 0.5698402909980532) % 1.0
    folded = u + v > 1
    u, v = torch.where(folded, 1 - u, u), torch.where(folded, 1 - v, v)
    spread = torch.stack([1 - u - v, u, v], -1)
    return torch.where((counts[binding] == 1)[:, None], torch.full_like(spread, 1 / 3), spread)


def observe_colors(
    head: HeadModel,
    frames: FrameSet,
    binding: Tensor,
    barycentrics: Tensor,
    samples: list[int],
    tolerance: float = 0.004,
) -> tuple[Tensor, Tensor]:
    """Mean colours of surface points in the frames that see them, the more frontal the more they count.

    barycentrics: (N, 3) of the points on their triangles. tolerance: metres that a point may lie behind the surface.
    Returns colours (N, 3) in 0..1 and (N,) the cosine of the most frontal view, 0 where no frame sees the point.
    """
    total, weight, best = torch.zeros(len(binding), 3), torch.zeros(len(binding)), torch.zeros(len(binding))
    corners = head.faces[binding]
    for sample in samples:
        vertices = head.vertices(frames.params.frame(int(frames.steps[sample])))[0]
        camera = frames.cameras[sample]
        fragments = mesh.rasterize(vertices, head.faces, camera)
        points = (vertices[corners] * barycentrics[:, :, None]).sum(1)
        normals = (vertex_normals(vertices, head.faces)[corners] * barycentrics[:, :, None]).sum(1)
        facing = torch.nn.functional.cosine_similarity(camera.center - points, normals, dim=-1).clamp_min(0)
        pixels, depth = project(points, camera)
        column, row = pixels.floor().long().unbind(-1)
        inside = (depth > 0) & (column >= 0) & (row >= 0) & (column < camera.width) & (row < camera.height)
        column, row = column.clamp(0, camera.width - 1), row.clamp(0, camera.height - 1)
        surface = torch.from_numpy(fragments.depth)[row, column]
        # The mask is eroded, because its rim mixes with the background.
        mask = cv2.erode((frames.masks[sample].numpy() > 200).astype(np.uint8), np.ones((3, 3), np.uint8))
        seen = inside & (surface > 0) & (depth < surface + tolerance) & (torch.from_numpy(mask)[row, column] > 0)
        share = torch.where(seen, facing**4, torch.zeros_like(facing))
        total += share[:, None] * frames.images[sample][row, column].float() / 255
        weight += share
        best = torch.maximum(best, torch.where(seen, facing, torch.zeros_like(facing)))
    return total / weight.clamp_min(1e-8)[:, None], best


def fill_unseen(head: HeadModel, points: Tensor, binding: Tensor, colors: Tensor, facing: Tensor) -> Tensor:
    """Gives Gaussians that no frame sees the colour of the nearest seen ones of their kind, or the kind's usual colour.

    points: (N, 3) on the neutral head. colors: (N, 3); facing: (N,), as of `observe_colors`. Returns (N, 3).
    """
    filled = colors.clone()
    seen = facing > SEEN
    kind = torch.zeros(len(binding), dtype=torch.int64)
    for number, region in enumerate(SEPARATE, start=1):
        kind[head.face_region(region)[binding]] = number
    for number in range(len(SEPARATE) + 1):
        known, unknown = (kind == number) & (facing > LENDS), (kind == number) & ~seen
        if not unknown.any():
            continue
        if int(known.sum()) >= _NEIGHBOURS:
            _, nearest = cKDTree(points[known].numpy()).query(points[unknown].numpy(), k=_NEIGHBOURS)
            filled[unknown] = colors[known][torch.from_numpy(nearest)].mean(1)
        elif number:
            filled[unknown] = torch.tensor(list(SEPARATE.values())[number - 1])
        else:
            filled[unknown] = 0.5
    return filled


def portrait_texture(head: HeadModel, source: ClipSet) -> Tensor | None:
    """(U, U, 3) in 0..1: the clip set's portrait in the head's UV layout, completed, row 0 at v = 1; None where the
    clip set was not made from a portrait."""
    files = source.reference()
    if files is None:
        return None
    image, normals = files.image.astype(np.float32) / 255, files.normals.astype(np.float32) / 127.5 - 1
    mask = files.mask.astype(np.float32) / 255
    reference = Reference(image, mask, normals, np.zeros_like(image), files.camera, files.params)
    return torch.from_numpy(np.ascontiguousarray(Conditioner(head, reference).texture))


def paint_unseen(
    head: HeadModel, texture: Tensor, binding: Tensor, barycentrics: Tensor, colors: Tensor, facing: Tensor
) -> Tensor:
    """Gives the skin and hair that no frame sees the portrait's completed texture, which has hair where hair belongs.

    texture: (U, U, 3) in 0..1. barycentrics: (N, 3). colors: (N, 3); facing: (N,), as of `observe_colors`. What the
    frames see less and less well fades into it. Hair takes the tone that the frames give it nearby; where texture and
    frames disagree nearby, the frames' colours are carried on. Eyes, teeth and the mouth stay as they are.
    Returns (N, 3).
    """
    size = texture.shape[0]
    uv = (head.uvs[head.faces_uv[binding]] * barycentrics[:, :, None]).sum(1)
    column, row = (uv[:, 0] * size).long().clamp(0, size - 1), ((1 - uv[:, 1]) * size).long().clamp(0, size - 1)
    inner = torch.stack([head.face_region(region)[binding] for region in SEPARATE]).any(0)
    share = ((SEEN - facing) / (SEEN - LENDS / 2)).clamp(0, 1) * ~inner
    painted = texture[row, column].to(colors)
    near, near_painted = _seen_nearby(head, painted, binding, barycentrics, colors, (facing > SEEN) & ~inner)
    # Of means, not a mean of ratios: strands are dark and bright at random.
    hair = (head.regions["scalp"][head.faces[binding]] * barycentrics).sum(1, keepdim=True)
    gain = 1 + hair * (((near + _DARK) / (near_painted + _DARK)).clamp(*_TONE_RANGE) - 1)
    wrong = (near - near_painted * gain).norm(dim=1, keepdim=True) / _DISTRUST
    guess = near + (-wrong.square()).exp() * ((painted * gain).clamp(0, 1) - near)
    return colors + share[:, None] * (guess - colors)


def _seen_nearby(
    head: HeadModel, painted: Tensor, binding: Tensor, barycentrics: Tensor, colors: Tensor, known: Tensor
) -> tuple[Tensor, Tensor]:
    """What the frames (`colors`) and the texture (`painted`) show, (N, 3) each, around the nearest `known` points.

    known: (N,) bool. Where hardly any are, the texture's colours stand for both.
    """
    chosen = known.nonzero()[:, 0]
    if len(chosen) < _NEARBY:
        return painted, painted
    chosen = chosen[:: max(1, len(chosen) // _NEARBY_POINTS)]
    points = (head.template[head.faces[binding[chosen]]] * barycentrics[chosen, :, None]).sum(1)
    _, nearest = cKDTree(points.numpy()).query(head.template.numpy(), k=_NEARBY)
    both = torch.cat([colors[chosen], painted[chosen]], 1)[torch.from_numpy(nearest)].mean(1)
    mean = (both[head.faces[binding]] * barycentrics[:, :, None]).sum(1)
    return mean[:, :3], mean[:, 3:]


def to_harmonic(colors: Tensor) -> Tensor:
    """Colours (N, 3) -> constant harmonics (N, 1, 3)."""
    return ((colors - 0.5) / SH_C0)[:, None]
