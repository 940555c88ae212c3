"""What refinement learnt about tracked head parameters, for whoever drives the avatar with parameters like them.

A tracker's errors on one person have a part that is always there and one that changes from frame to frame. Parameters
of a frame that the avatar was fitted to get what was learnt for that frame; all others get the mean, because the
Gaussians were fitted to a head that stood where the residuals put it. Without that, a refined avatar driven by the same
tracker would be off by the very error that refinement found.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geodiff.types import POSE_WIDTHS, HeadParams

NAMES = ("expr", *POSE_WIDTHS)
#: What tells frames apart; the head may be driven elsewhere.
_KEYS = ("expr", "jaw_pose", "eyes_pose", "neck_pose")
#: Largest difference of parameters that count as the same.
_SAME = 1e-5
_TRACKED, _RESIDUAL = "tracked.", "residual."


@dataclass(frozen=True)
class Corrections:
    """tracked: (T, K) expression, jaw, eyes and neck as they were given. residuals: by name, (T, width)."""

    tracked: Tensor
    residuals: dict[str, Tensor]

    @staticmethod
    def between(tracked: HeadParams, refined: HeadParams) -> Corrections:
        """From parameters before and after."""
        return Corrections(_key(tracked), {name: getattr(refined, name) - getattr(tracked, name) for name in NAMES})

    def apply(self, params: HeadParams) -> HeadParams:
        """Parameters of T frames, corrected; those that are already corrected stay."""
        refined = self.tracked + torch.cat([self.residuals[name] for name in _KEYS], 1)
        keys = _key(params)
        changed: dict[str, list[Tensor]] = {name: [] for name in NAMES}
        for row in range(params.num_frames):
            same = (self.tracked - keys[row]).abs().amax(1) < _SAME
            done = not bool(same.any()) and bool(((refined - keys[row]).abs().amax(1) < _SAME).any())
            for name, residual in self.residuals.items():
                learnt = residual[same].mean(0) if bool(same.any()) else residual.mean(0)
                changed[name].append(getattr(params, name)[row] + (0 if done else learnt))
        return params.replace(**{name: torch.stack(rows) for name, rows in changed.items()})

    def to(self, device: torch.device | str) -> Corrections:
        return Corrections(self.tracked.to(device), {k: v.to(device) for k, v in self.residuals.items()})

    def tensors(self) -> dict[str, Tensor]:
        """What the avatar's file must hold."""
        return {f"{_TRACKED}keys": self.tracked, **{f"{_RESIDUAL}{k}": v for k, v in self.residuals.items()}}

    @staticmethod
    def of(tensors: dict[str, Tensor]) -> Corrections:
        """The inverse of `tensors`."""
        return Corrections(tensors[f"{_TRACKED}keys"], {name: tensors[f"{_RESIDUAL}{name}"] for name in NAMES})


def _key(params: HeadParams) -> Tensor:
    return torch.cat([getattr(params, name) for name in _KEYS], 1)
