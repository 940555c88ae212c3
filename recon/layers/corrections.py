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

#: What tells frames apart comes first: the head may be driven elsewhere than it was tracked.
NAMES = ("expr", "jaw_pose", "eyes_pose", "neck_pose", "rotation", "translation")
_ELSEWHERE = POSE_WIDTHS["rotation"] + POSE_WIDTHS["translation"]
#: Largest difference of parameters that count as the same.
_SAME = 1e-5
_TRACKED, _RESIDUAL = "tracked.", "residual."


@dataclass(frozen=True)
class Corrections:
    """tracked: (T, K) parameters as they were given, in the order of NAMES. residuals: by name, (T, width)."""

    tracked: Tensor
    residuals: dict[str, Tensor]

    @staticmethod
    def between(tracked: HeadParams, refined: HeadParams) -> Corrections:
        """From parameters before and after."""
        return Corrections(_all(tracked), {name: getattr(refined, name) - getattr(tracked, name) for name in NAMES})

    def apply(self, params: HeadParams) -> HeadParams:
        """Parameters of T frames, corrected; those that are already corrected stay."""
        return self.both(params)[1]

    def both(self, params: HeadParams) -> tuple[HeadParams, HeadParams]:
        """Parameters of T frames as a tracker gives them, and corrected, whichever of the two they are."""
        refined = self.tracked + torch.cat([self.residuals[name] for name in NAMES], 1)
        before: dict[str, list[Tensor]] = {name: [] for name in NAMES}
        after: dict[str, list[Tensor]] = {name: [] for name in NAMES}
        for number, row in enumerate(_all(params)):
            same = _like(self.tracked, row)
            done = _like(refined, row) if same is None else None
            for name, residual in self.residuals.items():
                rows = same if done is None else done
                learnt = residual.mean(0) if rows is None else residual[rows].mean(0)
                value = getattr(params, name)[number]
                before[name].append(value if done is None else value - learnt)
                after[name].append(value + learnt if done is None else value)
        tracked, corrected = ({name: torch.stack(v) for name, v in side.items()} for side in (before, after))
        return params.replace(**tracked), params.replace(**corrected)

    def to(self, device: torch.device | str) -> Corrections:
        return Corrections(self.tracked.to(device), {k: v.to(device) for k, v in self.residuals.items()})

    def tensors(self) -> dict[str, Tensor]:
        """What the avatar's file must hold."""
        return {f"{_TRACKED}frames": self.tracked, **{f"{_RESIDUAL}{k}": v for k, v in self.residuals.items()}}

    @staticmethod
    def of(tensors: dict[str, Tensor]) -> Corrections:
        """The inverse of `tensors`."""
        return Corrections(tensors[f"{_TRACKED}frames"], {name: tensors[f"{_RESIDUAL}{name}"] for name in NAMES})


def _all(params: HeadParams) -> Tensor:
    return torch.cat([getattr(params, name) for name in NAMES], 1)


def _like(known: Tensor, row: Tensor) -> Tensor | None:
    """(T,) bool: frames with the same parameters, or the same but for the head's place; None where there is none."""
    for stop in (None, -_ELSEWHERE):
        same = (known[:, :stop] - row[:stop]).abs().amax(1) < _SAME
        if bool(same.any()):
            return same
    return None
