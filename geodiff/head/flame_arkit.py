"""ARKit's expressions on a head whose own expressions have no names (FLAME's principal components).

The bundled head says how MediaPipe's landmarks move with each of ARKit's names; the coefficients and the jaw's turn
that move the other head's landmarks in the same way, as far as its priors like it, are that name there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from geodiff.head.model import HeadModel
from geodiff.head.registration import IRIS
from geodiff.types import HeadParams, Motion

#: Names that turn the jaw: axis and sign. It opens about x, and moves to the person's left about y.
JAW_TURNS = {"jawOpen": (0, 1.0), "jawLeft": (1, 1.0), "jawRight": (1, -1.0)}


@dataclass(frozen=True)
class ArkitConfig:
    """noise: standard deviation of a landmark's motion, metres. evidence: how many independent landmarks they count
    for. spread: standard deviation of a coefficient; bound: they stay within so many. jaw: angles that are tried,
    radians. still: weight of a landmark that does not move, over that of the one that moves most. faint: names whose
    landmarks move less than this at most are left out, metres.
    """

    noise: float = 1.5e-3
    evidence: float = 60.0
    spread: float = 1.0
    bound: float = 3.0
    jaw: tuple[float, ...] = tuple(np.linspace(0.0, 0.6, 25).tolist())
    still: float = 0.25
    faint: float = 2e-4


def arkit_coefficients(
    head: HeadModel, source: HeadModel, jaw: bool, config: ArkitConfig | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """ARKit name -> (E,) coefficients, and ARKit name -> (3,) jaw rotation, for `head` with landmarks.

    source: a head with landmarks and ARKit's names. jaw: whether the head's jaw joint moves anything. Names that `head`
    has as expressions of its own are left out; gaze is no expression.
    """
    config = config or ArkitConfig()
    assert head.landmarks is not None and source.landmarks is not None
    common = np.intersect1d(head.landmarks.indices.numpy(), source.landmarks.indices.numpy())
    common = common[common < IRIS]
    here = [int(np.flatnonzero(head.landmarks.indices.numpy() == mark)[0]) for mark in common]
    there = [int(np.flatnonzero(source.landmarks.indices.numpy() == mark)[0]) for mark in common]
    rest = source.landmark_points(source.zeros())[0, there].double().numpy()
    own = head.landmark_points(head.zeros())[0, here].double().numpy()
    scale = np.linalg.norm(own - own.mean(0)) / np.linalg.norm(rest - rest.mean(0))
    weights = head.landmarks.barycentrics[here].double().numpy()
    corners = head.faces[head.landmarks.faces[here]].numpy()
    free = np.array([name not in source.expression_names for name in head.expression_names])
    basis = np.einsum("elkc,lk->elc", head.expr_basis.double().numpy()[:, corners], weights)
    basis = np.ascontiguousarray((basis * free[:, None, None]).transpose(1, 2, 0))
    found, turns = {}, {}
    for name in source.expression_names:
        if name in head.expression_names or name.startswith("eyeLook"):
            continue
        moved = source.landmark_points(_one(source, name))[0, there].double().numpy()
        wanted = scale * (moved - rest)
        if np.abs(wanted).max() < config.faint:
            continue
        solve = _Ridge(basis, wanted, config)
        best = solve(wanted)
        if jaw and name in JAW_TURNS:
            axis, sign = JAW_TURNS[name]
            steps = _turned(head, here, axis, [sign * angle for angle in config.jaw]) - own
            costs = [solve(wanted - step)[1] for step in steps]
            chosen = int(np.argmin(costs))
            best = solve(wanted - steps[chosen])
            turns[name] = torch.zeros(3)
            turns[name][axis] = sign * config.jaw[chosen]
        found[name] = torch.as_tensor(best[0], dtype=torch.float32)
    return found, turns


class _Ridge:
    """Coefficients within bounds and their cost, for one motion of the landmarks after another."""

    def __init__(self, basis: np.ndarray, wanted: np.ndarray, config: ArkitConfig) -> None:
        """basis: (L, 3, E). wanted: (L, 3) motion by which the landmarks are weighed: those that move count most."""
        length = np.linalg.norm(wanted, axis=1)
        weights = config.still + length / length.max()
        strength = config.evidence * weights / weights.sum() / config.noise**2
        self.basis, self.bound = basis.reshape(-1, basis.shape[2]), config.bound
        self.weighted = (basis * strength[:, None, None]).reshape(self.basis.shape)
        self.strength = np.repeat(strength, 3)
        self.precision = 1 / config.spread**2
        self.normal = self.weighted.T @ self.basis + self.precision * np.eye(self.basis.shape[1])

    def __call__(self, wanted: np.ndarray) -> tuple[np.ndarray, float]:
        right = self.weighted.T @ wanted.ravel()
        answer = np.linalg.solve(self.normal, right)
        for _ in range(8):
            over = np.abs(answer) > self.bound
            if not over.any():
                break
            # Those beyond the bound are held there, the rest find their best again.
            answer[over] = np.sign(answer[over]) * self.bound
            rest = ~over
            shift = right[rest] - self.normal[np.ix_(rest, over)] @ answer[over]
            answer[rest] = np.linalg.solve(self.normal[np.ix_(rest, rest)], shift)
        answer = answer.clip(-self.bound, self.bound)
        left: np.ndarray = wanted.ravel() - self.basis @ answer
        return answer, float((self.strength * left**2).sum() + self.precision * (answer**2).sum())


def _one(head: HeadModel, name: str) -> HeadParams:
    """The head with one of ARKit's names at full weight."""
    motion = Motion({name: np.ones(1)}, np.zeros((1, 3)), np.zeros((1, 2)))
    return head.motion_params(motion, head.zeros())


def _turned(head: HeadModel, rows: list[int], axis: int, angles: list[float]) -> np.ndarray:
    """(A, L, 3) landmarks with the jaw turned by each angle about the axis."""
    params = head.zeros(len(angles))
    turns = torch.zeros(len(angles), 3)
    turns[:, axis] = torch.tensor(angles)
    return head.landmark_points(params.replace(jaw_pose=turns))[:, rows].double().numpy()
