"""Teaches the second look at faces (scripts/train_refiner.py) how expressions move them.

The rest of the network stays as it is: what it concludes from a face, and where it puts the landmarks, are found once.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from geodiff.head.model import HeadModel
from geodiff.tracking.movements import DROP, LIDS, SKIN, MovementNet, counts

#: Common movements that are told apart, and principal components of the landmarks' layout.
MOVEMENTS, LAYOUT = 32, 80
STEPS, BATCH, RATE, NOISE = 9000, 128, 1e-3, 0.02
RANGES = ((0, 30), (30, 50), (50, 70), (70, 95))
#: Degrees up to which a face is one by which others' errors are told: the usual one has a spread of 1.
FRONT = 60
_BACK = torch.tensor([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Looks:
    """What the network makes of N photographs. known, mirrored: (N, C) what answers are concluded from, of a photograph
    and of its mirror image. points, reflected: (N, 478, 2) their landmarks in the faces' frames."""

    known: torch.Tensor
    mirrored: torch.Tensor
    points: torch.Tensor
    reflected: torch.Tensor


@dataclass(frozen=True)
class Standard:
    """Inputs brought to mean 0 and deviation about 1: of what is known (C,), and the layout's `centre` and `basis`."""

    mean: torch.Tensor
    spread: torch.Tensor
    centre: torch.Tensor
    basis: torch.Tensor

    @staticmethod
    def of(known: torch.Tensor, points: torch.Tensor) -> Standard:
        some = points[:, :SKIN].flatten(1)[torch.randperm(len(points))[:6000]]
        centre = some.mean(0)
        _, spread, directions = torch.linalg.svd(some - centre, full_matrices=False)
        basis = directions[:LAYOUT] / (spread[:LAYOUT, None] / math.sqrt(len(some)))
        return Standard(known.mean(0), known.std(0) + 1e-3, centre, basis)

    def __call__(self, known: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        places = (points[:, :SKIN].flatten(1) - self.centre) @ self.basis.T
        return torch.cat([(known - self.mean) / self.spread, places], 1)


def expression_movements(expressions: np.ndarray, head: HeadModel, rest: np.ndarray) -> torch.Tensor:
    """(N, 468, 3) metres, axes of the builtin head, that expressions (N, E) move the landmarks; 0 where the head has
    none. rest: (3, 3) from the builtin head's rest pose to the head's."""
    assert head.landmarks is not None
    numbers = head.landmarks.indices
    shown = head.landmarks.points(head.expr_basis, head.faces) @ torch.from_numpy(rest).float()
    table = torch.zeros(len(shown), SKIN, 3)
    table[:, numbers[numbers < SKIN]] = shown[:, numbers < SKIN]
    return (torch.from_numpy(expressions).float() @ table.flatten(1)).unflatten(1, (SKIN, 3))


def train_movements(
    looks: Looks, goals: torch.Tensor, learned: int, mirror: torch.Tensor, yaw: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Tensors of a `MovementNet` and of its `Movements`. goals: (N, 468, 3) of the photographs, the first `learned` to
    learn from, the others, at angles yaw (M,), to judge by. mirror: (478,) landmark numbers."""
    torch.manual_seed(0)
    count = torch.from_numpy(counts()).float()
    reflected = (goals * _BACK)[:, mirror[:SKIN]]
    weighed = torch.cat([goals[:learned], reflected[:learned]]).mul(count).flatten(1)
    some = weighed[torch.randperm(len(weighed))[:6000]]
    directions = torch.linalg.svd(some, full_matrices=False)[2][:MOVEMENTS].unflatten(1, (SKIN, 3))
    modes, moves = directions * count, directions / count
    told = torch.einsum("klc,nlc->nk", modes, torch.cat([goals, reflected]))
    standard = Standard.of(
        torch.cat([looks.known[:learned], looks.mirrored[:learned]]),
        torch.cat([looks.points[:learned], looks.reflected[:learned]]),
    )
    inputs = torch.cat([standard(looks.known, looks.points), standard(looks.mirrored, looks.reflected)])
    rows = torch.cat([torch.arange(learned), len(goals) + torch.arange(learned)])
    net = _trained(inputs, told, rows)
    turned = torch.einsum("klc,jlc->jk", modes, (moves * _BACK)[:, mirror[:SKIN]])
    with torch.no_grad():
        (own, spread), (other, _) = (net(inputs[start + learned : start + len(goals)]) for start in (0, len(goals)))
    found = (own + other @ turned) / 2
    _report(torch.einsum("klc,nk->nlc", moves, found), goals[learned:], yaw)
    front = yaw < FRONT
    usual = spread[front].median()
    apart = (found - told[learned : len(goals)]).abs() / (spread - usual).exp()[:, None]
    errors = apart[front].mean(0) * math.sqrt(math.pi / 2)
    with torch.no_grad():
        net.spread.bias -= usual
    tables = {"modes": modes, "errors": errors, "centre": standard.centre, "basis": standard.basis}
    return _folded(net, standard) | tables


def _trained(inputs: torch.Tensor, told: torch.Tensor, rows: torch.Tensor) -> MovementNet:
    """Learns from these rows; told: (2 N, K). Its answers are in the units of `told`."""
    mean, unit = told[rows].mean(0), told[rows].std(0).mean()
    goals = (told - mean) / unit
    net = MovementNet(inputs.shape[1], told.shape[1], DROP)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.02)
    began = time.time()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        batch = rows[torch.randint(len(rows), (BATCH,))]
        x = inputs[batch]
        answer, spread = net(x + NOISE * torch.randn_like(x))
        length = (((answer - goals[batch]) ** 2).sum(1) + 1e-3).sqrt()
        # The lengths of errors, and the forecasts' misfit (Laplace).
        loss = length.mean() + 0.1 * (length.detach() / spread.exp() + spread).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % (STEPS // 3) == 0:
            print(f"movements: step {step + 1}, {time.time() - began:.0f} s, loss {loss.item():.3f}", flush=True)
    with torch.no_grad():
        for layer in (net.coefficients, net.direct):
            layer.weight *= unit
            layer.bias *= unit
        net.coefficients.bias += mean
    return net.eval()


def _folded(net: MovementNet, standard: Standard) -> dict[str, torch.Tensor]:
    """The network's tensors, which take what is known as it is."""
    with torch.no_grad():
        for layer in (net.concluded[1], net.direct):
            assert isinstance(layer, nn.Linear)  # the first of the network, and the one beside it
            first = len(standard.mean)
            layer.weight[:, :first] /= standard.spread
            layer.bias -= layer.weight[:, :first] @ standard.mean
    return {name: value.detach() for name, value in net.state_dict().items()}


def _report(found: torch.Tensor, goals: torch.Tensor, yaw: torch.Tensor) -> None:
    for low, high in RANGES:
        here = (yaw >= low) & (yaw < high)
        apart, true = (found - goals)[here], goals[here]
        left = (apart**2).sum() / (true**2).sum()
        cells = [1e3 * values.norm(dim=2).mean() for values in (apart, true, apart[:, LIDS], true[:, LIDS])]
        figures = "{:.2f} of {:.2f} mm, eyes {:.2f} of {:.2f}".format(*cells)
        print(f"movements at {low}-{high} degrees: {100 * left:.1f}% of the square left, {figures}", flush=True)
