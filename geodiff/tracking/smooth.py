"""One person's frames over time: a fixed-interval smoother instead of a filter, so that nothing lags.

All frames of a shot are solved together. The head's pose is drawn to constant velocity, expressions and gaze to their
neighbours' values; large steps of the latter, such as a blink or a glance, lose the pull of the prior instead of being
flattened by it (Geman and McClure's energy, as for landmarks). Long shots are solved in windows that reach into the
future and start from frames that are settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from geodiff.tracking.face_model import FrameStates
from geodiff.tracking.fit import FitState, LandmarkFitter
from geodiff.tracking.systems import Normals
from geodiff.tracking.witnesses import Witness

#: Expressions whose names begin so are quick: lids, and the jaw with what moves the lips in speech.
_LIDS = ("eyeBlink", "eyeSquint", "eyeWide")
_JAW = ("jawOpen", "mouthClose")

#: A step that gains less than this share of the energy is the last.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class SmoothConfig:
    """Standard deviations of what changes within a thirtieth of a second; smaller is steadier.

    turn: change of the angular velocity, radians per thirtieth. shift: of the velocity across the view, metres. zoom:
    of the logarithm of the distance. expr, lids, jaw: expression weights, and those of eyelids and jaw; gaze: radians.
    limit: steps beyond this many standard deviations lose their pull (expressions, gaze). window: frames that are
    solved together. ahead: of these, how many of the last serve only the others. gap: frames further apart than this
    many seconds are not tied to each other. iterations: at most so many steps.
    """

    turn: float = 0.008
    shift: float = 0.0008
    zoom: float = 0.006
    expr: float = 0.12
    lids: float = 0.35
    jaw: float = 0.3
    gaze: float = 0.08
    limit: float = 2.0
    window: int = 256
    ahead: int = 24
    gap: float = 0.5
    iterations: int = 8


class Smoothness:
    """The energy that ties frames at `times` (T,), in thirtieths of a second, to one another."""

    def __init__(self, times: np.ndarray, spreads: Spreads, scale: float, gap: float) -> None:
        self.spreads = spreads
        self.steps = np.diff(times)[:, None]
        #: The centre is smoothed in metres; `scale`: pixels per metre.
        self.unit = np.ones(len(spreads.step))
        self.unit[3:5] = 1.0 / scale
        self.near = self.steps <= 30.0 * gap
        self.far = self.near[1:] & self.near[:-1]

    def _rows(self, states: FrameStates) -> tuple[np.ndarray, np.ndarray]:
        """Steps (T - 1, D) and changes of velocity (T - 2, D), both in standard deviations."""
        change = np.diff(states.vector, axis=0) * self.unit
        turns = states.rotation[1:] @ states.rotation[:-1].transpose(0, 2, 1)
        change[:, :3] = Rotation.from_matrix(turns).as_rotvec() if len(turns) else 0.0
        speed = change / self.steps
        bends = np.diff(speed, axis=0) / np.sqrt((self.steps[1:] + self.steps[:-1]) / 2)
        return self.near * change / np.sqrt(self.steps) / self.spreads.step, self.far * bends / self.spreads.bend

    def energies(self, states: FrameStates) -> np.ndarray:
        steps, bends = self._rows(states)
        limit, squared = self.spreads.limit**2, steps**2
        energies = np.zeros(len(states))
        energies[:-1] += (squared * limit / (squared + limit)).sum(1)
        energies[1:-1] += (bends**2).sum(1)
        return energies

    def add(self, states: FrameStates, normals: Normals) -> None:
        steps, bends = self._rows(states)
        count, width = len(states), len(self.unit)
        diagonal = np.zeros((count, width))
        normals.near, normals.far = np.zeros((max(count - 1, 0), width)), np.zeros((max(count - 2, 0), width))
        gradient = normals.gradient.frames

        limit = self.spreads.limit**2
        pull = (limit / (steps**2 + limit)) ** 2
        slope = self.near * self.unit / (self.spreads.step * np.sqrt(self.steps))
        gradient[1:] += pull * slope * steps
        gradient[:-1] -= pull * slope * steps
        weight = pull * slope**2
        diagonal[1:] += weight
        diagonal[:-1] += weight
        normals.near -= weight

        before, after = 1.0 / self.steps[:-1], 1.0 / self.steps[1:]
        slope = self.far * self.unit / self.spreads.bend / np.sqrt((self.steps[1:] + self.steps[:-1]) / 2)
        parts = (before * slope, -(before + after) * slope, after * slope)
        for lag, part in enumerate(parts):
            gradient[lag : count - 2 + lag] += part * bends
            diagonal[lag : count - 2 + lag] += part**2
        normals.near[:-1] += parts[0] * parts[1]
        normals.near[1:] += parts[1] * parts[2]
        normals.far += parts[0] * parts[2]
        view = np.einsum("tdd->td", normals.frames)
        view += diagonal


@dataclass(frozen=True)
class Spreads:
    """Standard deviations (D,) of a frame's unknowns: `step` of their change, `bend` of the change of their velocity,
    infinite where there is none; steps beyond `limit` standard deviations lose their pull."""

    step: np.ndarray
    bend: np.ndarray
    limit: np.ndarray


def spreads(config: SmoothConfig, expression_names: tuple[str, ...], steadiness: float = 1.0) -> Spreads:
    """The configuration by unknown. steadiness divides all standard deviations."""
    expr = np.full(len(expression_names), config.expr)
    for prefixes, spread in ((_LIDS, config.lids), (_JAW, config.jaw)):
        expr[[name.startswith(prefixes) for name in expression_names]] = spread
    free = np.full(6, np.inf)
    bend = [*[config.turn] * 3, *[config.shift] * 2, config.zoom]
    step = np.concatenate([free, expr, np.full(4, config.gaze), [config.jaw * 0.3]])
    return Spreads(
        step=step / steadiness,
        bend=np.concatenate([bend, np.full(len(step) - 6, np.inf)]) / steadiness,
        limit=np.full(len(step), config.limit),
    )


def smooth_shot(
    fitter: LandmarkFitter,
    points: np.ndarray,
    times: np.ndarray,
    shared: FitState,
    spread: Spreads,
    config: SmoothConfig,
    witnesses: Sequence[Witness] = (),
) -> FrameStates:
    """The frames of one shot, identity and focal length given.

    points: (T, 478, 2) landmarks of the frames in which the face was found. times: (T,) when, in thirtieths of a
    second. shared: the focal length and the shape. witnesses: what else is known of the frames. Each window starts from
    two settled frames of the one before.
    """
    count, window = len(points), max(config.window, config.ahead + 8)
    settled: list[FrameStates] = []
    done = 0
    while done < count:
        held = min(done, 2)
        part = slice(done - held, min(done - held + window, count))
        start = _start(fitter, points[done : part.stop], shared)
        scale = float(np.exp(np.median(start.log_scale)))
        if held:
            start = FrameStates.concatenate([settled[-1][-held:], start])
        state = fitter.solve(
            points[part],
            replace(shared, frames=start),
            shared=False,
            iterations=config.iterations,
            coupling=Smoothness(times[part], spread, scale, config.gap),
            held=held,
            tolerance=TOLERANCE,
            witnesses=[witness[part] for witness in witnesses],
        )
        done = count if part.stop == count else part.stop - config.ahead
        settled.append(state.frames[held : done - part.start])
    return FrameStates.concatenate(settled)


def _start(fitter: LandmarkFitter, points: np.ndarray, shared: FitState) -> FrameStates:
    """The key frames' mean face, aligned with every frame."""
    usual = replace(shared.frames[:1], expr=shared.frames.expr.mean(0)[None])
    start = fitter.start_frames(points, fitter.face.local(shared.shape, usual)[0][0])
    return replace(start, expr=np.repeat(usual.expr, len(points), 0))
