"""Expressions of one head on another: for every frame the bounded coefficients and the jaw's turn whose motion of the
surface is nearest to the source's, at points that correspond.

Motions are compared, not positions: what the shape could not reach does not leak into the expressions, and a head at
rest stays at rest. Where an expression can be told in two ways (an open mouth by `jawOpen` or by the jaw joint), a weak
prior prefers what the names say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from geodiff.geometry import axis_angle_to_matrix
from geodiff.head.model import JOINTS, HeadModel
from geodiff.tracking.correspond import Match, region_weights
from geodiff.types import HeadParams

#: How much a region counts for expressions.
EXPRESSION_WEIGHTS = {"scalp": 0.1, "neck": 0.05, "ears": 0.1, "face": 1.0, "eyes": 2.0, "lips": 2.0}
JAW = JOINTS.index("jaw")
#: Step of differences by the jaw's turn, radians.
STEP = 1e-3


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
        self.jaw_fixed = "jawOpen" in target.expression_names
        self.reduced, place = target.reduced(torch.from_numpy(match.vertices))
        self.place = place.numpy()
        self.shape = torch.as_tensor(match.shape, dtype=torch.float32)
        self.rest = self._posed(np.zeros((1, target.num_expr)), np.zeros((1, 3)), np.zeros((1, 6)))[0]
        weights = match.weights * region_weights(target, EXPRESSION_WEIGHTS)[match.vertices]
        self.basis = target.expr_basis[:, match.vertices].double().numpy()
        self.skin = target.skinning[match.vertices, JAW].double().numpy()
        self.flat = self.basis.reshape(len(self.basis), -1)
        self.each = np.repeat(weights / max(weights.sum(), 1e-12), 3) * config.evidence / config.noise**2
        self.constant = (self.flat * self.each) @ self.flat.T

    def source_motion(self, params: HeadParams) -> np.ndarray:
        """(T, K, 3) how the source's counterparts move with expression, jaw and gaze, in the target's frame."""
        still = self.source.zeros(params.num_frames).replace(shape=params.shape)
        moving = still.replace(expr=params.expr, jaw_pose=params.jaw_pose, eyes_pose=params.eyes_pose)
        rest = self.source.vertices(still.frame(0)).double().numpy()
        parts = []
        for t in range(0, params.num_frames, 16):
            vertices = self.source.vertices(moving.frames(slice(t, t + 16))).double().numpy()
            parts.append(self.match.on_source(vertices - rest, self.source))
        return np.concatenate(parts) @ self.match.rotation.T

    def target_motion(self, expr: np.ndarray, jaw: np.ndarray, eyes: np.ndarray) -> np.ndarray:
        """(T, K, 3) how the target's vertices move. expr: (T, E), jaw: (T, 3), eyes: (T, 6)."""
        return self._posed(expr, jaw, eyes) - self.rest

    def _posed(self, expr: np.ndarray, jaw: np.ndarray, eyes: np.ndarray) -> np.ndarray:
        pose = {
            name: torch.as_tensor(value, dtype=torch.float32)
            for name, value in (("expr", expr), ("jaw_pose", jaw), ("eyes_pose", eyes))
        }
        params = self.target.zeros(len(expr)).replace(shape=self.shape, **pose)
        return self.reduced.vertices(params)[:, self.place].double().numpy()

    def solve(self, params: HeadParams, eyes: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Expressions (T, E) and jaw (T, 3) of the target for the source's parameters; eyes: (T, 6) of the target."""
        parts = []
        for t in range(0, params.num_frames, 64):
            part = slice(t, t + 64)
            parts.append(self._solve(params.frames(part), eyes[part].double().numpy()))
        return np.concatenate([expr for expr, _ in parts]), np.concatenate([jaw for _, jaw in parts])

    def _solve(self, params: HeadParams, eyes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gauss-Newton; of each frame the best step stays, because contacts bend what is linear otherwise."""
        goal = self.source_motion(params)
        center = np.concatenate(named_guess(self.source, params, self.target), 1)
        lower, upper, precision = self._priors(center)
        value, size = np.clip(center, lower, upper), len(self.basis)
        best, least = value, np.full(len(value), np.inf)
        for number in range(self.config.rounds + 1):
            moved = self.target_motion(value[:, :size], value[:, size:], eyes)
            residual = (goal - moved).reshape(len(value), -1)
            cost = (residual**2) @ self.each + ((value - center) ** 2) @ precision
            better = cost < least
            best = np.where(better[:, None], value, best)
            done = number == self.config.rounds or not (cost < 0.999 * least).any()
            least = np.minimum(cost, least)
            if done:
                break
            hessian, gradient = self._system(value, eyes, moved, residual * self.each)
            hessian[:, np.arange(size + 3), np.arange(size + 3)] += precision
            gradient -= precision * (value - center)
            value = value + bounded_step(hessian, gradient, lower - value, upper - value, self.config.sweeps)
        return best[:, :size], best[:, size:]

    def _system(
        self, value: np.ndarray, eyes: np.ndarray, moved: np.ndarray, pull: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Hessian (T, E + 3, E + 3) and descent (T, E + 3) of the surface's distances. pull: (T, 3K) weighed.

        The basis turns with the jaw. For a partly turned vertex A^T A is nearly the identity, so that one Hessian of
        the expressions serves every frame; only the gradient turns.
        """
        size, frames = len(self.basis), len(value)
        expr, jaw = value[:, :size], value[:, size:]
        by_jaw = np.zeros((frames, 3, pull.shape[1]))
        if not self.jaw_fixed:
            steps = [(self.target_motion(expr, jaw + step, eyes) - moved) / STEP for step in STEP * np.eye(3)]
            by_jaw = np.stack(steps, 1).reshape(frames, 3, -1)
        turn = axis_angle_to_matrix(torch.from_numpy(jaw)).numpy() - np.eye(3)
        force = pull.reshape(frames, -1, 3)
        back = (force + self.skin[:, None] * (force @ turn)).reshape(frames, -1)
        gradient = np.concatenate([back @ self.flat.T, np.einsum("tjn,tn->tj", by_jaw, pull)], 1)
        hessian = np.zeros((frames, size + 3, size + 3))
        weighed = by_jaw * self.each
        hessian[:, :size, :size] = self.constant
        hessian[:, size:, :size] = weighed @ self.flat.T
        hessian[:, :size, size:] = hessian[:, size:, :size].transpose(0, 2, 1)
        hessian[:, size:, size:] = weighed @ by_jaw.transpose(0, 2, 1)
        return hessian, gradient

    def _priors(self, center: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bounds (T, E + 3) and inverse variances (E + 3,) of expressions and jaw."""
        c = self.config
        names = self.target.expression_names
        arkit = np.array([is_arkit(name) for name in names], bool)
        lower = np.concatenate([np.where(arkit, 0.0, -c.bound), [low for low, _ in c.jaw_limits]])
        upper = np.concatenate([np.where(arkit, 1.0, c.bound), [high for _, high in c.jaw_limits]])
        jaw_spread = 1e-4 if self.jaw_fixed else c.jaw_spread
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
