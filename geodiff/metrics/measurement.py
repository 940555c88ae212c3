"""Takes frames one after the other and measures everything that was asked for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from geodiff.metrics.checks import NotMeasured
from geodiff.metrics.picture import Pair, Picture
from geodiff.metrics.registry import Metric, Setup, choose_metrics
from geodiff.metrics.table import Entry, Table

#: Why a metric of a scope has no figure where no frames of that scope came by.
_ABSENT = {
    "frame": "no frames were measured",
    "step": "no two consecutive frames of a view are among those measured (--every-frame)",
    "clip": "no frames were measured",
    "moment": "no frames were measured",
}


@dataclass
class _Figures:
    """values: (camera number or None, figure). reasons: why frames were left out, with how often."""

    values: list[tuple[int | None, float]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)


class Measurement:
    """Measures frames as they come: `add` each, ordered by timestep, then `finish`.

    names: which metrics (`geodiff.metrics.registry.METRICS`), all of them for None. Raises ConfigError for other names.
    Frames are kept only as long as a metric needs them; videos for JOD are kept in 8 bits.
    """

    def __init__(self, names: Iterable[str] | None = None, setup: Setup | None = None) -> None:
        self.setup = setup or Setup()
        self.metrics = choose_metrics(names)
        self._figures = {metric.name: _Figures() for metric in self.metrics}
        self._active = [metric for metric in self.metrics if self._available(metric)]
        self._scopes = {metric.scope for metric in self._active}
        self._previous: dict[int, Pair] = {}
        self._moment: list[Pair] = []
        self._clips: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = defaultdict(list)
        self._frames = 0

    def add(self, pair: Pair) -> None:
        """One frame. Raises ValueError when it comes before a timestep that was already given."""
        if self._moment and pair.t < self._moment[0].t:
            raise ValueError(f"frames must come in the order of time, found {pair.t} after {self._moment[0].t}: sort")
        if self._moment and pair.t > self._moment[0].t:
            self._finish_moment()
        self._frames += 1
        self._moment.append(pair)
        self._measure("frame", [pair], pair.c)
        previous = self._previous.get(pair.c)
        if previous is not None and previous.t + 1 == pair.t:
            self._measure("step", [previous, pair], pair.c)
        self._previous[pair.c] = pair
        if "clip" in self._scopes:
            self._clips[pair.c].append((pair.t, pair.result.bytes, pair.truth.bytes))

    def finish(self) -> Table:
        """The table of everything that was added."""
        self._finish_moment()
        for c, frames in sorted(self._clips.items()):
            self._measure("clip", _longest_run(frames), c)
        self._clips.clear()
        return Table({metric.name: self._entry(metric) for metric in self.metrics}, self._frames)

    def _available(self, metric: Metric) -> bool:
        try:
            metric.available(self.setup)
        except NotMeasured as reason:
            self._figures[metric.name].reasons[str(reason)] += 1
            return False
        return True

    def _finish_moment(self) -> None:
        if self._moment:
            self._measure("moment", self._moment, None)
        self._moment = []

    def _measure(self, scope: str, pairs: Sequence[Pair], camera: int | None) -> None:
        for metric in self._active:
            if metric.scope != scope:
                continue
            figures = self._figures[metric.name]
            try:
                figures.values.append((camera, metric.measure(pairs, self.setup)))
            except NotMeasured as reason:
                figures.reasons[str(reason)] += 1

    def _entry(self, metric: Metric) -> Entry:
        figures = self._figures[metric.name]
        if not figures.values:
            common = figures.reasons.most_common(1)
            return Entry(metric, None, 0, {}, common[0][0] if common else _ABSENT[metric.scope])
        by_view: dict[int, list[float]] = defaultdict(list)
        for camera, value in figures.values:
            if camera is not None:
                by_view[camera].append(value)
        views = {camera: float(np.mean(values)) for camera, values in sorted(by_view.items())}
        return Entry(metric, float(np.mean([value for _, value in figures.values])), len(figures.values), views)


def _longest_run(frames: list[tuple[int, np.ndarray, np.ndarray]]) -> list[Pair]:
    """The longest run of consecutive timesteps of one view."""
    runs: list[list[tuple[int, np.ndarray, np.ndarray]]] = []
    for frame in frames:
        if runs and runs[-1][-1][0] + 1 == frame[0]:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    best = max(runs, key=len)
    return [Pair(_picture(result), _picture(truth), t) for t, result, truth in best]


def _picture(pixels: np.ndarray) -> Picture:
    return Picture(pixels.astype(np.float32) / 255)
