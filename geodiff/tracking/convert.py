"""Parameters of one head model as parameters of another, by fitting the one's surface to the other's.

Shape: fitted to the neutral surface (`correspond`). Expressions and jaw: frame by frame, by the motion of points that
correspond (`transfer`). Poses are exact: the target's skull gets the rigid motion of the source's skull, the neck bends
by the same rotation about the target's own joint. Eyes look where they looked. What is left between the two surfaces is
measured and reported, in millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from geodiff.errors import HeadModelError
from geodiff.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from geodiff.head.model import JOINTS, HeadModel
from geodiff.tracking.correspond import Match, ShapeConfig, match_heads, region_weights, skin_faces, vertex_areas
from geodiff.tracking.surfaces import Surface
from geodiff.tracking.transfer import Transfer, TransferConfig
from geodiff.types import HeadParams

NECK = JOINTS.index("neck")
#: Where residuals are measured: name -> regions of the source. Necks end at different heights, so they are left out.
MEASURED = {"face": ("face", "lips", "eyes"), "ears": ("ears",), "whole": ("face", "lips", "eyes", "ears", "scalp")}


@dataclass(frozen=True)
class ConvertConfig:
    """shape, expression: how each is fitted. offsets: carry the source's static offsets over to the target's nearest
    vertices. measured_frames: at most so many frames are measured, spread over the sequence.
    """

    shape: ShapeConfig = field(default_factory=ShapeConfig)
    expression: TransferConfig = field(default_factory=TransferConfig)
    offsets: bool = True
    measured_frames: int = 12


@dataclass(frozen=True)
class Distances:
    """From the source's surface to the target's, millimetres: region -> (mean, 95th percentile) by area."""

    by_region: dict[str, tuple[float, float]]

    @staticmethod
    def of(distances: np.ndarray, regions: dict[str, np.ndarray], areas: np.ndarray) -> Distances:
        """distances: (T, N) metres; regions: name -> (N,) bool; areas: (N,) that the points stand for."""
        figures = {}
        for name, mask in regions.items():
            if mask.any():
                values = 1e3 * distances[:, mask].ravel()
                share = np.tile(areas[mask], len(distances))
                order = values.argsort()
                high = np.searchsorted(np.cumsum(share[order]), 0.95 * share.sum())
                mean = float((values * share).sum() / share.sum())
                figures[name] = (mean, float(values[order][min(int(high), len(order) - 1)]))
        return Distances(figures)


@dataclass(frozen=True)
class Residuals:
    """What the conversion could not reach.

    neutral: the shape alone. frames: posed and with expressions, in the world, without static offsets. with_offsets:
    the same with the source's static offsets, against the target's where they were carried; None where the source has
    none. turn, shift: between the heads' canonical frames, degrees and millimetres. beyond: the largest coefficient of
    the shape, standard deviations.
    """

    neutral: Distances
    frames: Distances
    with_offsets: Distances | None
    turn: float
    shift: float
    beyond: float

    def figures(self) -> dict[str, float]:
        """Flat, for run.json."""
        parts = {"neutral": self.neutral, "frames": self.frames, "offsets": self.with_offsets}
        flat = {
            f"{part}_{region}_{name}_mm": round(value, 4)
            for part, distances in parts.items() if distances is not None
            for region, pair in distances.by_region.items()
            for name, value in zip(("mean", "p95"), pair, strict=True)
        }  # fmt: skip
        return {**flat, "canonical_turn_degrees": round(self.turn, 4), "canonical_shift_mm": round(self.shift, 4),
                "largest_shape_coefficient": round(self.beyond, 4)}  # fmt: skip

    def rows(self) -> list[tuple[str, ...]]:
        """A table with a heading: mean and 95% of the distances by region."""
        names = list(self.neutral.by_region)
        rows: list[tuple[str, ...]] = [("distance (mm), mean / 95%", *names)]
        parts = [("neutral shape", self.neutral), ("posed frames", self.frames)]
        if self.with_offsets is not None:
            parts.append(("with static offsets", self.with_offsets))
        for label, distances in parts:
            rows.append((label, *(f"{mean:.2f} / {high:.2f}" for mean, high in distances.by_region.values())))
        return rows


@dataclass(frozen=True)
class Conversion:
    """params: on the target, as many frames as the source's. residuals: see there."""

    params: HeadParams
    residuals: Residuals


def convert(
    params: HeadParams, source: HeadModel, target: HeadModel, config: ConvertConfig | None = None
) -> Conversion:
    """Converts T frames of one identity from `source` to `target`.

    Raises HeadModelError where the parameters are not the source's or the two surfaces do not meet.
    """
    config = config or ConvertConfig()
    _check(params, source)
    match = match_heads(source, params, target, config.shape)
    eyes = _gaze(params.eyes_pose, match)
    expr, jaw = Transfer(source, target, match, config.expression).solve(params, eyes)
    offset = None
    if config.offsets and params.static_offset is not None:
        offset = carried_offsets(source, params, target, match)
    still = target.zeros(params.num_frames).replace(
        shape=_tensor(match.shape), expr=_tensor(expr), jaw_pose=_tensor(jaw), static_offset=offset,
        eyes_pose=eyes,
    )  # fmt: skip
    posed = _posed(params, source, still, target, match)
    return Conversion(posed, measure(params, source, posed, target, match, config.measured_frames))


def _check(params: HeadParams, source: HeadModel) -> None:
    found = (params.shape.shape[0], params.expr.shape[1])
    if found != (source.num_shape, source.num_expr):
        raise HeadModelError(
            f"parameters to convert must be those of their head, {source.name!r} with {source.num_shape} shape and "
            f"{source.num_expr} expression coefficients, and these have {found[0]} and {found[1]}: name the head that "
            "they were tracked with as --head"
        )
    if params.static_offset is not None and len(params.static_offset) != source.num_vertices:
        raise HeadModelError(
            f"offsets to convert must be of the {source.num_vertices} vertices of {source.name!r}, and these are of "
            f"{len(params.static_offset)}: name the head that they were tracked with as --head"
        )
    values = (params.shape, params.expr, params.rotation, params.translation, params.neck_pose, params.jaw_pose)
    if not all(bool(torch.isfinite(value).all()) for value in (*values, params.eyes_pose)):
        raise HeadModelError("parameters to convert must be finite numbers, and some are not: track them again")


def _posed(params: HeadParams, source: HeadModel, still: HeadParams, target: HeadModel, match: Match) -> HeadParams:
    """The target's root, neck and translation, so that its skull moves exactly as the source's.

    With A the motion from the source's canonical frame to the target's, and G the world transform of the neck joint,
    which carries the skull: G_target = G_source A^-1. The neck bends about the axis as it stands in the target's frame.
    """
    between = torch.eye(4, dtype=torch.float64)
    between[:3, :3], between[:3, 3] = torch.from_numpy(match.rotation), torch.from_numpy(match.shift)
    wanted = _double(source).joint_transforms(_double_params(params))[:, NECK] @ torch.linalg.inv(between)
    turn = between[:3, :3]
    root = axis_angle_to_matrix(params.rotation.double()) @ turn.T
    posed = still.replace(
        rotation=matrix_to_axis_angle(root).float(), neck_pose=(params.neck_pose.double() @ turn.T).float()
    )
    found = _double(target).joint_transforms(_double_params(posed))[:, NECK]
    return posed.replace(translation=(wanted[:, :3, 3] - found[:, :3, 3]).float())


def _gaze(eyes: Tensor, match: Match) -> Tensor:
    """(T, 6): eyes that look in the same directions of the world. At rest every head looks along its own +z."""
    forward = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    looks = axis_angle_to_matrix(eyes.double().reshape(-1, 2, 3)) @ forward
    looks = looks @ torch.from_numpy(match.rotation).T
    axis = torch.linalg.cross(forward.expand_as(looks), looks)
    sine = torch.linalg.vector_norm(axis, dim=-1, keepdim=True)
    angle = torch.atan2(sine, looks[..., 2:])
    return (axis * angle / sine.clamp(min=1e-12)).reshape(-1, 6).float()


def carried_offsets(source: HeadModel, params: HeadParams, target: HeadModel, match: Match) -> Tensor:
    """(V, 3) the source's static offsets at the target's outer vertices, from the nearest point of the source's shaped
    surface; fading where that is far, zero inside the head."""
    assert params.static_offset is not None
    neutral = source.shaped(params.frame(0), expression=False, offsets=False)[0].double().numpy()
    faces = skin_faces(source)
    fitted = _shaped(target, match.shape)
    outer = np.unique(skin_faces(target))
    found = Surface(neutral, faces).nearest((fitted[outer] - match.shift) @ match.rotation)
    corners = params.static_offset.double().numpy()[faces[found.faces]]
    offset = np.zeros_like(fitted)
    fade = np.exp(-((found.distances / 0.02) ** 2))
    offset[outer] = (corners * found.barycentrics[:, :, None]).sum(1) * fade[:, None] @ match.rotation.T
    return _tensor(offset)


def measure(
    params: HeadParams, source: HeadModel, converted: HeadParams, target: HeadModel, match: Match, frames: int = 12
) -> Residuals:
    """Distances between the surfaces; see `Residuals`."""
    weights = region_weights(source, dict.fromkeys(MEASURED["whole"], 1.0))
    points = np.flatnonzero(weights)
    regions = {
        name: np.any([source.regions[part].numpy()[points] for part in parts], axis=0)
        for name, parts in MEASURED.items()
    }
    faces = skin_faces(target)
    areas = vertex_areas(source.template.double().numpy(), skin_faces(source))[points]
    neutral = source.shaped(params.frame(0), expression=False, offsets=False)[0].double().numpy()
    rest = Surface(_shaped(target, match.shape), faces).nearest(match.to_target(neutral[points])).distances
    chosen = torch.from_numpy(np.unique(np.linspace(0, params.num_frames - 1, frames).round().astype(int)))

    def between(offsets: bool) -> Distances:
        rows = []
        for t in chosen:
            here = source.vertices(params.frame(int(t)), offsets=offsets)[0, points].double().numpy()
            there = target.vertices(converted.frame(int(t)), offsets=offsets)[0].double().numpy()
            rows.append(Surface(there, faces).nearest(here).distances)
        return Distances.of(np.stack(rows), regions, areas)

    return Residuals(
        neutral=Distances.of(rest[None], regions, areas),
        frames=between(False),
        with_offsets=None if params.static_offset is None else between(True),
        turn=float(np.degrees(Rotation.from_matrix(match.rotation).magnitude())),
        shift=float(1e3 * np.linalg.norm(match.shift)),
        beyond=float(np.abs(match.shape).max(initial=0.0)),
    )


def _shaped(target: HeadModel, shape: np.ndarray) -> np.ndarray:
    return target.shaped(target.zeros().replace(shape=_tensor(shape)), expression=False)[0].double().numpy()


def _tensor(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32)


class _Skeleton(HeadModel):
    """The joints of a head in double precision: poses of heads far from the origin must not lose digits."""

    def __init__(self, head: HeadModel) -> None:
        regressor = head.joint_regressor.double()
        for name, value in {
            "template": regressor @ head.template.double(),
            "shape_basis": torch.einsum("jv,svc->sjc", regressor, head.shape_basis.double()),
            "joint_regressor": torch.eye(len(JOINTS), dtype=torch.float64),
        }.items():
            object.__setattr__(self, name, value)


def _double(head: HeadModel) -> HeadModel:
    return _Skeleton(head)


def _double_params(params: HeadParams) -> HeadParams:
    names = ("shape", "expr", "rotation", "translation", "neck_pose", "jaw_pose", "eyes_pose")
    return params.replace(static_offset=None, **{name: getattr(params, name).double() for name in names})
