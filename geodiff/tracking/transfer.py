"""Expressions of one head on another: for every frame the bounded coefficients and the jaw's turn whose motion of the
surface is nearest to the source's, at points that correspond.

Motions are compared, not positions: what the shape could not reach does not leak into the expressions, and a head at
rest stays at rest. Where an expression can be told in two ways (an open mouth by `jawOpen` or by the jaw joint), a weak
prior prefers what the names say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from geodiff.geometry import axis_angle_to_matrix
from geodiff.head.model import JOINTS, HeadModel
from geodiff.tracking.correspond import Match, region_weights
from geodiff.types import HeadParams

#: How much a region counts for expressions.
EXPRESSION_WEIGHTS = {"scalp": 0.1, "neck": 0.05, "ears": 0.1, "face": 1.0, "eyes": 2.0, "lips": 2.0}
JAW = JOINTS.index("jaw")


@dataclass(frozen=True)
class TransferConfig:
    """bound: expression coefficients of heads without ARKit's names stay within so many standard deviations; ARKit's
    weights within 0..1, the source's own where it goes beyond. noise, evidence: as in `ShapeConfig`. spread: standard
    deviation of an ARKit weight about what the names say, of other coefficients 1. jaw_spread: of the jaw about what
    the names say, radians, on heads that open the mouth by it; on heads with `jawOpen` it stays where they say.
    rounds: Gauss-Newton steps; sweeps: passes of coordinate descent in each.
    """

    bound: float = 3.0
    noise: float = 1e-3
    evidence: float = 1000.0
    spread: float = 0.3
    jaw_spread: float = 0.15
    jaw_limits: tuple[tuple[float, float], ...] = ((-0.1, 0.8), (-0.3, 0.3), (-0.3, 0.3))
    rounds: int = 6
    sweeps: int = 60


def named_guess(source: HeadModel, params: HeadParams, target: HeadModel) -> tuple[np.ndarray, np.ndarray]:
    """What the names of the expressions say: expr (T, E) and jaw (T, 3) of the target.

    An ARKit weight goes to the expression, or to the jaw, that carries its name on the target. A jaw that the source
    turned itself stays a turn of the jaw, unless the source opens its mouth by the jaw alone and the target by
    `jawOpen`.
    """
    device = params.expr.device
    expr = torch.zeros(params.num_frames, target.num_expr, device=device)
    jaw = params.jaw_pose.clone()
    if "jawOpen" in target.expression_names and "jawOpen" not in source.expression_names:
        open_angle = float(source.arkit_jaw.get("jawOpen", torch.tensor([0.35, 0.0, 0.0]))[0])
        if open_angle > 0:
            expr[:, target.expression_names.index("jawOpen")] = (jaw[:, 0] / open_angle).clamp(0, 1)
            jaw = torch.zeros_like(jaw)
    for index, name in enumerate(source.expression_names):
        weight = params.expr[:, index, None]
        if name in target.expression_names:
            expr[:, target.expression_names.index(name), None] += weight
        elif name in target.arkit:
            expr = expr + weight * target.arkit[name].to(device)
        if name in target.arkit_jaw:
            jaw = jaw + weight * target.arkit_jaw[name].to(device)
    # Shapes that the source has for each side and the target once, as `browInnerUp` of ICT-FaceKit.
    for name, sides in source.arkit.items():
        if name in target.expression_names and bool(sides.any()):
            expr[:, target.expression_names.index(name)] += params.expr @ sides.to(device) / (sides**2).sum().to(device)
    return expr.double().numpy(), jaw.double().numpy()


class Transfer:
    """Solves for the expressions of one matched identity."""

    def __init__(self, source: HeadModel, target: HeadModel, match: Match, config: TransferConfig) -> None:
        self.source, self.target, self.match, self.config = source, target, match, config
        self.contacts: Any = None
        kept, contacts = match.vertices, getattr(target, "contacts", None)
        if contacts is not None:
            # What keeps lips and lids apart is measured at vertices of its own, which are carried along.
            kept = np.union1d(kept, contacts.vertices.numpy())
            self.contacts = contacts.restricted(torch.from_numpy(kept))
        self.weights = np.zeros(len(kept))
        self.matched = np.searchsorted(kept, match.vertices)
        self.weights[self.matched] = match.weights * region_weights(target, EXPRESSION_WEIGHTS)[match.vertices]
        self.weights /= max(self.weights.sum(), 1e-12)
        shaped = target.template.double().numpy() + np.tensordot(match.shape, target.shape_basis.double().numpy(), 1)
        self.hinge = (target.joint_regressor.double().numpy() @ shaped)[JAW]
        self.unposed = shaped[kept]
        self.rest = self._touching(self.unposed[None])[0]
        self.basis = target.expr_basis[:, kept].double().numpy()
        self.skin = target.skinning[kept, JAW].double().numpy()
        # FLAME's pose correctives of the jaw: nine of the thirty-six columns (neck, jaw, eyes).
        self.correctives = None if target.pose_basis is None else target.pose_basis[9:18, kept].double().numpy()
        self.flat = self.basis.reshape(len(self.basis), -1)
        scale = config.evidence / config.noise**2
        self.each = np.repeat(self.weights, 3) * scale
        self.constant = (self.flat * self.each) @ self.flat.T

    def source_motion(self, params: HeadParams) -> np.ndarray:
        """(T, N, 3) how the source's counterparts move with expression and jaw, in the target's canonical frame; zero
        at vertices without a counterpart."""
        still = self.source.zeros(params.num_frames).replace(shape=params.shape)
        moving = still.replace(expr=params.expr, jaw_pose=params.jaw_pose)
        rest = self.source.vertices(still.frame(0)).double().numpy()
        motion = np.zeros((params.num_frames, len(self.rest), 3))
        for t in range(0, params.num_frames, 16):
            vertices = self.source.vertices(moving.frames(slice(t, t + 16))).double().numpy()
            moved = self.match.on_source(vertices - rest, self.source)
            motion[t : t + 16, self.matched] = moved @ self.match.rotation.T
        return motion

    def target_motion(self, expr: np.ndarray, jaw: np.ndarray) -> np.ndarray:
        """(T, N, 3) how the target's vertices move. expr: (T, E), jaw: (T, 3)."""
        turn = axis_angle_to_matrix(torch.from_numpy(jaw)).numpy() - np.eye(3)
        posed = self._touching(self.unposed + (expr @ self.flat).reshape(len(expr), -1, 3))
        if self.correctives is not None:
            posed = posed + np.tensordot(turn.reshape(len(expr), 9), self.correctives, 1)
        return posed - self.rest + self.skin[:, None] * ((posed - self.hinge) @ turn.transpose(0, 2, 1))

    def _touching(self, points: np.ndarray) -> np.ndarray:
        """Unposed points (T, N, 3) with the head's contacts applied, where it has any."""
        if self.contacts is None:
            return points
        return self.contacts.apply(torch.from_numpy(points).float()).double().numpy()

    def solve(self, params: HeadParams) -> tuple[np.ndarray, np.ndarray]:
        """Expressions (T, E) and jaw (T, 3) of the target for the source's parameters."""
        parts = [self._solve(params.frames(slice(t, t + 64))) for t in range(0, params.num_frames, 64)]
        return np.concatenate([expr for expr, _ in parts]), np.concatenate([jaw for _, jaw in parts])

    def _solve(self, params: HeadParams) -> tuple[np.ndarray, np.ndarray]:
        goal = self.source_motion(params)
        center = np.concatenate(named_guess(self.source, params, self.target), 1)
        lower, upper, precision = self._priors(center)
        value = np.clip(center, lower, upper)
        size = len(self.basis)
        for _ in range(self.config.rounds):
            expr, jaw = value[:, :size], value[:, size:]
            moved = self.target_motion(expr, jaw)
            residual = (goal - moved) * (self.each.reshape(-1, 3))
            by_jaw = np.stack(
                [(self.target_motion(expr, jaw + step) - moved) / 1e-4 for step in 1e-4 * np.eye(3)], 1
            )  # (T, 3, K, 3)
            # The basis turns with the jaw; A^T A of a partly turned vertex is nearly the identity, so that the
            # constant Hessian serves every frame and only the gradient is exact.
            turn = axis_angle_to_matrix(torch.from_numpy(jaw)).numpy() - np.eye(3)
            back = residual + self.skin[:, None] * (residual @ turn)
            flat_jaw = by_jaw.reshape(len(value), 3, -1)
            gradient = np.concatenate(
                [back.reshape(len(value), -1) @ self.flat.T,
                 np.einsum("tjn,tn->tj", flat_jaw, residual.reshape(len(value), -1))], 1
            )  # fmt: skip
            hessian = np.zeros((len(value), size + 3, size + 3))
            hessian[:, :size, :size] = self.constant
            weighted = flat_jaw * self.each
            hessian[:, size:, :size] = weighted @ self.flat.T
            hessian[:, :size, size:] = hessian[:, size:, :size].transpose(0, 2, 1)
            hessian[:, size:, size:] = weighted @ flat_jaw.transpose(0, 2, 1)
            hessian[:, np.arange(size + 3), np.arange(size + 3)] += precision
            gradient -= precision * (value - center)
            step = bounded_step(hessian, gradient, lower - value, upper - value, self.config.sweeps)
            value = value + step
            if np.abs(step).max() < 1e-4:
                break
        return value[:, :size], value[:, size:]

    def _priors(self, center: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bounds (T, E + 3) and inverse variances (E + 3,) of expressions and jaw."""
        c = self.config
        names = self.target.expression_names
        arkit = np.array([is_arkit(name) for name in names], bool)
        lower = np.concatenate([np.where(arkit, 0.0, -c.bound), [low for low, _ in c.jaw_limits]])
        upper = np.concatenate([np.where(arkit, 1.0, c.bound), [high for _, high in c.jaw_limits]])
        jaw_spread = 1e-4 if "jawOpen" in names else c.jaw_spread
        spread = np.concatenate([np.where(arkit, c.spread, 1.0), np.full(3, jaw_spread)])
        free = np.concatenate([arkit, np.ones(3, bool)])
        # A source beyond its own limits is followed there.
        return (
            np.where(free, np.minimum(lower, center), lower),
            np.where(free, np.maximum(upper, center), upper),
            spread**-2.0,
        )


#: What the names of expressions with weights in 0..1 begin with.
_WEIGHT_PREFIXES = ("brow", "cheek", "eye", "jaw", "mouth", "nose", "tongue")


def is_arkit(name: str) -> bool:
    """Whether an expression is a weight in 0..1 under one of ARKit's names, and not a mode of a statistical model."""
    return name.startswith(_WEIGHT_PREFIXES)


def bounded_step(
    hessian: np.ndarray, gradient: np.ndarray, lower: np.ndarray, upper: np.ndarray, sweeps: int
) -> np.ndarray:
    """(T, N) maximisers of g x - x H x / 2 within bounds, by coordinate descent on all T problems at once.

    hessian: (T, N, N) positive definite. gradient, lower, upper: (T, N), lower <= 0 <= upper.
    """
    diagonal = np.einsum("tnn->tn", hessian)
    step = np.zeros_like(gradient)
    slope = gradient.copy()
    for _ in range(sweeps):
        largest = 0.0
        for n in range(gradient.shape[1]):
            moved = np.clip(step[:, n] + slope[:, n] / diagonal[:, n], lower[:, n], upper[:, n]) - step[:, n]
            step[:, n] += moved
            slope -= moved[:, None] * hessian[:, n]
            largest = max(largest, float(np.abs(moved).max()))
        if largest < 1e-5:
            break
    return step
