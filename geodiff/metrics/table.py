"""What a measurement ends in: a table that prints itself and goes into metrics.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from geodiff.metrics.registry import Metric

#: Of `Table.record`; raised when a reader of the old version would misread the new one.
SCHEMA = 2
ARROWS = {"higher": "higher", "lower": "lower", "one": "near 1", "reference": "reference"}


@dataclass(frozen=True)
class Entry:
    """One metric's figures.

    mean: over everything that was measured, None where nothing was. count: of frames, or of what the metric's scope is.
    views: camera number -> mean over its frames, empty for metrics that are of several views. reason: why nothing was
    measured; empty where something was.
    """

    metric: Metric
    mean: float | None
    count: int
    views: dict[int, float]
    reason: str = ""


@dataclass(frozen=True)
class Table:
    """entries: metric name -> figures, in the order of `METRICS`. frames: how many were compared."""

    entries: dict[str, Entry]
    frames: int

    @property
    def mean(self) -> dict[str, float]:
        """Metric name -> figure, of those that were measured."""
        return {name: entry.mean for name, entry in self.entries.items() if entry.mean is not None}

    @property
    def views(self) -> dict[int, dict[str, float]]:
        """Camera number -> metric name -> figure."""
        cameras = sorted({c for entry in self.entries.values() for c in entry.views})
        return {c: {name: e.views[c] for name, e in self.entries.items() if c in e.views} for c in cameras}

    @property
    def not_measured(self) -> dict[str, str]:
        """Metric name -> why it has no figure."""
        return {name: entry.reason for name, entry in self.entries.items() if entry.mean is None}

    def rows(self) -> list[list[str]]:
        """A heading, then one row a metric: name, which way is better, mean, worst view, how many were measured."""
        rows = [["metric", "better", "mean", "worst view", "measured"]]
        for entry in self.entries.values():
            kind = ARROWS[entry.metric.better]
            if entry.mean is None:
                rows.append([title(entry.metric), kind, f"not measured: {entry.reason}", "", "0"])
                continue
            rows.append([title(entry.metric), kind, number(entry.mean), _worst(entry), str(entry.count)])
        return rows

    def view_rows(self) -> list[list[str]]:
        """A heading, then one row a view with the metrics that are of single views."""
        chosen = [entry for entry in self.entries.values() if entry.views]
        rows = [["view", *(title(entry.metric) for entry in chosen)]]
        for c in self.views:
            rows.append([str(c), *(number(entry.views[c]) if c in entry.views else "" for entry in chosen)])
        return rows

    def markdown(self) -> str:
        """Both tables as Markdown."""
        parts = [_markdown(self.rows())]
        if len(self.views) > 1:
            parts.append(_markdown(self.view_rows()))
        return "\n".join(parts)

    def record(self) -> dict[str, Any]:
        """The same for a JSON file.

        schema, frames; metrics: name -> heading, unit, better, scope, count, and mean or not_measured; mean: name ->
        figure; views: camera number -> name -> figure; not_measured: name -> reason.
        """
        metrics = {}
        for name, entry in self.entries.items():
            metric = entry.metric
            figures = {"not_measured": entry.reason} if entry.mean is None else {"mean": entry.mean}
            metrics[name] = {
                "heading": metric.heading, "unit": metric.unit, "better": metric.better, "scope": metric.scope,
                "count": entry.count, **figures,
            }  # fmt: skip
        return {
            "schema": SCHEMA, "frames": self.frames, "mean": self.mean,
            "views": {str(c): values for c, values in self.views.items()}, "not_measured": self.not_measured,
            "metrics": metrics,
        }  # fmt: skip


def title(metric: Metric) -> str:
    return f"{metric.heading} ({metric.unit})" if metric.unit else metric.heading


def number(value: float) -> str:
    """Three digits after the point, one more for figures that would lose them."""
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.4f}"


def _worst(entry: Entry) -> str:
    if len(entry.views) < 2 or entry.metric.better == "reference":
        return ""
    badness = {
        "higher": lambda v: -v, "lower": lambda v: v, "one": lambda v: abs(math.log(max(v, 1e-9))),
    }[entry.metric.better]  # fmt: skip
    camera = max(entry.views, key=lambda c: badness(entry.views[c]))
    return f"{number(entry.views[camera])} (view {camera})"


def _markdown(rows: list[list[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [escaped[0], ["---"] * len(rows[0]), *escaped[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
