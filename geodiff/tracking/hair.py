"""Hair that stands off the skull: static offsets of the scalp, so that the mesh's outline meets the matte.

The outline of the fitted mesh is compared with the matte along rays: from the middle of the skull upwards, and sideways
from the line below it. One sparse least-squares problem then asks for the offset of every vertex: the outline shall
meet the matte, the offsets shall be smooth, the face shall stay where it is, and the back of the head, which one
picture does not show, shall have the thickness of the top and the sides. An ear that hair covers is smoothed away under
it. Where hair hangs, the sides and the back of the neck take part, and the shoulders, down to where it ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu

from geodiff.head.model import HeadModel
from geodiff.tracking.hair_outline import Evidence, View, look
from geodiff.tracking.hair_surface import HairSurface
from geodiff.types import Camera, HeadParams

#: Weight of a uniform graph's squared differences against the integral of the squared gradient (equilateral triangles).
GRAPH = 0.58
#: Residual of later rounds as a share of the right side, and conjugate gradient steps after which a factorisation is
#: cheaper.
CLOSE, MOST = 1e-9, 40


@dataclass(frozen=True)
class HairConfig:
    """How hair is fitted; lengths in metres.

    limit, sink: largest offset outwards and inwards. membrane, plate: lengths that weigh the offsets' squared gradient
    and squared Laplacian against the outline's squared distance: more is smoother. prior, symmetry, hold: lengths that
    weigh, weaker where they are longer, the guess for what the picture does not show, the difference between left and
    right, and the offset of skin that is half free to move. thickness, front, hanging: shares of the outline's usual
    offset that the back of the head, the hair over the forehead and the hair behind the neck get. rounds: repetitions
    of measuring and solving, because the outline moves to other vertices. pixels: chin to crown in the working image.
    """

    limit: float = 0.11
    sink: float = 0.012
    membrane: float = 0.0003
    plate: float = 0.004
    prior: float = 0.6
    symmetry: float = 0.3
    hold: float = 0.02
    thickness: float = 0.8
    hanging: float = 1.15
    front: float = 0.6
    rounds: int = 4
    pixels: int = 220


def fit_hair(
    matte: np.ndarray,
    params: HeadParams,
    camera: Camera,
    head: HeadModel,
    config: HairConfig | None = None,
    image: np.ndarray | None = None,
) -> torch.Tensor:
    """Static offsets (V, 3) in metres for the fitted head (T = 1) under a matte (H, W) in 0..1.

    image: (H, W, 3) uint8 RGB of the same picture; its colours tell hair from clothes and ears. Without it, hair is
    what the matte shows beyond the ears.
    """
    config = config or HairConfig()
    surface = HairSurface(head, params)
    view = View.around(head, params, camera, surface, matte, image, config.pixels)
    bald = head.vertices(params, offsets=False)[0].double().numpy()
    belief = view.believe(surface, bald)
    surface = surface.hanging(belief.low)
    view = view.over(surface)
    base = surface.smoothed_away(belief.covered)
    still = head.vertices(params.replace(static_offset=_tensor(base)))[0].double().numpy()
    reach = head.vertices(params.replace(static_offset=_tensor(base + surface.outward)))[0].double().numpy() - still
    solver = _Solver(surface, belief.covered, config)
    amount = np.zeros(head.num_vertices)
    for _ in range(config.rounds):
        amount = solver.solve(look(view, belief, still + amount[:, None] * reach, reach, amount, surface))
    return _tensor(base + surface.unfolded(amount, base)[:, None] * surface.outward)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(array, dtype=torch.float32)


class _Solver:
    """The part of the least-squares problem that does not change between rounds."""

    def __init__(self, surface: HairSurface, covered: np.ndarray, config: HairConfig) -> None:
        self.surface, self.config = surface, config
        self.index = np.flatnonzero(surface.free > 0)
        count = surface.size
        graph = surface.graph
        laplacian = (sparse.diags(np.asarray(graph.sum(1)).ravel()) - graph) * GRAPH
        area = np.maximum(surface.area, np.median(surface.area[self.index]) * 0.3)
        # Visible ears move as one piece: their offsets are tied together.
        plate = laplacian.T @ sparse.diags(1.0 / area) @ laplacian
        stiff = config.membrane * laplacian + config.plate**3 * plate + surface.tied(covered)
        mirrored = sparse.coo_matrix((np.ones(count), (np.arange(count), surface.mirror)), (count, count))
        apart = sparse.identity(count) - mirrored
        stiff = stiff + apart.T @ sparse.diags(surface.area / config.symmetry) @ apart
        # What may not move is held the more, the less free it is.
        held = surface.area * (1 - surface.free) ** 2 / np.maximum(surface.free, 1e-3) / config.hold
        self.guess = surface.area * surface.unseen / config.prior
        matrix = (stiff + sparse.diags(held + self.guess + 1e-9)).tocsr()
        self.fixed = matrix[self.index][:, self.index]
        self._factor: SuperLU | None = None
        self._last = np.zeros(len(self.index))

    def solve(self, evidence: Evidence) -> np.ndarray:
        """Offsets (V,) in metres along `HairSurface.outward`."""
        config, index = self.config, self.index
        rows = evidence.rows[:, index]
        weights = sparse.diags(evidence.weight)
        matrix = self.fixed + rows.T @ weights @ rows
        right = rows.T @ (evidence.weight * evidence.target)
        share = config.thickness + (config.front - config.thickness) * self.surface.ahead
        share = share + (config.hanging - share) * self.surface.behind_neck
        right = right + (self.guess * share * evidence.level)[index]
        amount = np.zeros(self.surface.size)
        amount[index] = self._solved(matrix, np.asarray(right).ravel())
        return np.clip(amount, -config.sink, config.limit)

    def _solved(self, matrix: sparse.csr_matrix, right: np.ndarray) -> np.ndarray:
        """The solution of a symmetric positive definite system. Rounds differ in the outline's few equations alone:
        the first is factored, and helps conjugate gradients to solve the others."""
        if self._factor is not None:
            found = _conjugate_gradients(matrix, right, self._last, self._factor)
            if found is not None:
                self._last = found
                return found
        self._factor = splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
        self._last = self._factor.solve(right)
        return self._last


def _conjugate_gradients(
    matrix: sparse.csr_matrix, right: np.ndarray, start: np.ndarray, near: SuperLU
) -> np.ndarray | None:
    """The solution from a start, to CLOSE; None where MOST steps do not get there. near: of a similar matrix."""
    x = start.copy()
    rest = right - matrix @ x
    enough = CLOSE**2 * _dot(right, right)
    step = ahead = near.solve(rest)
    power = _dot(rest, ahead)
    for _ in range(MOST):
        if _dot(rest, rest) <= enough:
            return x
        image = matrix @ step
        length = power / _dot(step, image)
        x += length * step
        rest -= length * image
        ahead = near.solve(rest)
        power, before = _dot(rest, ahead), power
        step = ahead + power / before * step
    return None


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """The scalar product, the same in every run: BLAS adds up in an order that depends on where arrays lie."""
    return float((a * b).sum())
