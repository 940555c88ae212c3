"""Lips and lids that touch and go no further: what a linear model cannot say when expressions are added up.

Each opening is a row of columns. A column measures the gap between the two edges, a linear function of a few vertices;
where the gap is negative, the column's vertices go back along the way they came, by as much as is missing:

    v <- v + sum_k max(0, -gap_k(v)) * respond_k

Lids also stay outside the eyeballs: a vertex that would be inside goes out along the radius. And mouthClose, which
means lips shut over an open jaw, goes at most as far as the jaw is open. As long as nothing collides, expressions add
up as in any linear model. Everything is differentiable.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from geodiff.geometry import axis_angle_to_matrix

#: mouthClose may exceed the opening of the jaw by this much: lips pressed together.
CLOSE_MARGIN = 0.1
ROUNDS = 3


@dataclass(frozen=True)
class Contacts:
    """K columns over N vertices, and M vertices of the lids of each of the two eyes, left first.

    vertices: (N,) int64, those that are measured or moved. measure: (K, N, 3), gap in metres per metre of position.
    rest: (K,) added to the measured gap, metres. respond: (K, N, 3) metres moved per metre of missing gap.
    poles: (2, 2) int64, front and back vertex of each eyeball. ball: (3,) radius in metres,
    share of it by which the cornea rises, the cornea's angle in radians. lids: (2, M) int64. clearance: (2, M) metres
    that a vertex keeps from its eyeball.
    jaw: (K,) metres by which a column's gap grows per radian of the jaw joint. mouth: (2,) int64, the expressions
    mouthClose and jawOpen. opening: () radians of the jaw joint that open the mouth as far as jawOpen does.
    """

    vertices: Tensor
    measure: Tensor
    rest: Tensor
    respond: Tensor
    poles: Tensor
    ball: Tensor
    lids: Tensor
    clearance: Tensor
    jaw: Tensor
    mouth: Tensor
    opening: Tensor

    def limited(self, expr: Tensor, jaw_pose: Tensor) -> Tensor:
        """Expression weights (T, E) whose mouthClose fits the opening of the jaw, whose pose is (T, 3)."""
        close, jaw_open = expr[:, self.mouth].unbind(1)
        most = (jaw_open + jaw_pose[:, 0] / self.opening).clamp_min(0) + CLOSE_MARGIN
        return expr.index_add(1, self.mouth[:1], -torch.relu(close - most)[:, None])

    def gaps(self, points: Tensor) -> Tensor:
        """(T, V, 3) unposed vertices -> (T, K) metres between the edges; negative where they pass each other."""
        return torch.einsum("knc,tnc->tk", self.measure, points[:, self.vertices]) + self.rest

    def apply(self, points: Tensor, eyes_pose: Tensor, jaw_pose: Tensor) -> Tensor:
        """(T, V, 3) unposed vertices -> (T, V, 3) without collisions.

        Eyeballs and jaw turn later, with their joints: eyes_pose (T, 6) tells where the corneas are, jaw_pose (T, 3)
        how far the lips will part.
        """
        turns = axis_angle_to_matrix(eyes_pose.reshape(-1, 2, 3))
        gaze = turns[..., 2]
        parted = self.jaw * torch.relu(jaw_pose[:, :1])
        points = self._outside_eyeballs(points, gaze)
        # More than once, because near the corners the columns answer in part only.
        for _ in range(ROUNDS):
            missing = torch.relu(-self.gaps(points) - parted)
            if not missing.any():
                break
            points = points.index_add(1, self.vertices, torch.einsum("tk,knc->tnc", missing, self.respond))
            points = self._outside_eyeballs(points, gaze)
        return points

    def _outside_eyeballs(self, points: Tensor, gaze: Tensor) -> Tensor:
        """Push the lids out of eyeballs that look along gaze (T, 2, 3)."""
        radius, rise, angle = self.ball
        # The front pole lies on the cornea: it is further from the centre than the back one.
        front, back = points[:, self.poles[:, 0]], points[:, self.poles[:, 1]]
        centre = back + (front - back) / (2 + rise)
        offset = points[:, self.lids] - centre[:, :, None]
        distance = offset.norm(dim=-1).clamp_min(1e-6)
        cosine = ((offset * gaze[:, :, None]).sum(-1) / distance).clamp(-1 + 1e-6, 1 - 1e-6)
        bulge = torch.relu(1 - (torch.acos(cosine) / angle) ** 2) ** 2
        missing = torch.relu(radius * (1 + rise * bulge) + self.clearance - distance)
        if not missing.any():
            return points
        push = offset * (missing / distance)[..., None]
        return points.index_add(1, self.lids.flatten(), push.flatten(1, 2))

    def indices(self) -> Tensor:
        """(J,) all vertices that the contacts read or write, sorted."""
        return torch.unique(torch.cat([self.vertices, self.poles.flatten(), self.lids.flatten()]))

    def tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]

    def to(self, device: torch.device | str) -> Contacts:
        return Contacts(*(value.to(device) for value in self.tensors()))

    def restricted(self, kept: Tensor) -> Contacts:
        """The same for a head that has only the vertices `kept` (sorted, with all of the contacts' own)."""
        names = ("vertices", "poles", "lids")
        return replace(self, **{name: torch.searchsorted(kept, getattr(self, name)) for name in names})
