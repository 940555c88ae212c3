"""The tables of a run, as Markdown and as a JSON record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from geodiff.metrics.table import ARROWS, number
from geodiff.synth.bench.definition import VERSION
from geodiff.synth.bench.observe import AVATAR_KINDS
from geodiff.synth.bench.scores import FIGURES, NORMAL_METRICS, Figure, Mean, Score, chosen, groups, means

SCHEMA = 1
HEADINGS = {
    "self": "Self-reenactment from one view",
    "cross": "Cross-reenactment",
    "avatar": "Avatar: new views, new expressions",
    "normals": "Normals (frames of self-reenactment)",
}
#: The tables by group: not more than one can read.
GROUPED = ("psnr", "psnr_seen", "psnr_hidden", "ssim", "high_frequency", "normal_degrees", "mask_iou", "akd", "aed")


@dataclass(frozen=True)
class Run:
    """What was run. methods: task -> name of the method. about: facts for people and for the record, in order.
    lost: frames that could not be asked for. as_recorded: whether the set is the recorded one; None where none is."""

    scores: list[Score]
    methods: dict[str, str]
    tasks: Sequence[str]
    about: dict[str, Any]
    lost: list[str] = field(default_factory=list)
    as_recorded: bool | None = None


def record(run: Run) -> dict[str, Any]:
    """For a JSON file: schema, version, what was run; summary: task -> kind of parameters -> method -> group of frames
    -> figure -> mean and count (or not_measured); frames: every score."""
    return {
        "schema": SCHEMA, "version": VERSION, **run.about, "methods": run.methods, "lost": run.lost,
        "as_recorded": run.as_recorded,
        "figures": {name: vars(figure) for name, figure in FIGURES.items()},
        "summary": {task: _summary(_frames(run, task), task) for task in run.tasks},
        "frames": [score.record() for score in run.scores],
    }  # fmt: skip


def markdown(run: Run) -> str:
    """The tables for people."""
    lines = [f"# SynthBench {VERSION}", ""]
    lines += [f"- {name.replace('_', ' ')}: {_words(value)}" for name, value in run.about.items() if value is not None]
    if run.lost:
        lines += ["", f"{len(run.lost)} frames are missing:", *(f"- {text}" for text in run.lost)]
    for task in run.tasks:
        lines += ["", *_section(run, task)]
    return "\n".join(lines) + "\n"


def _words(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _frames(run: Run, task: str) -> list[Score]:
    return chosen(run.scores, task="self" if task == "normals" else task)


def _kept(found: dict[str, Mean], task: str) -> dict[str, Mean]:
    return {name: mean for name, mean in found.items() if task != "normals" or name in NORMAL_METRICS}


def _summary(scores: list[Score], task: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in AVATAR_KINDS:
        for method in ("result", "proposal"):
            part = chosen(scores, kind=kind, method=method)
            if part:
                named = {name: _kept(means(group), task) for name, group in groups(part).items()}
                values = {n: {key: _entry(mean) for key, mean in group.items()} for n, group in named.items()}
                found.setdefault(kind, {})[method] = values
    return found


def _entry(mean: Mean) -> dict[str, Any]:
    return (
        {"not_measured": mean.reason, "count": 0} if mean.value is None else {"mean": mean.value, "count": mean.count}
    )


def _section(run: Run, task: str) -> list[str]:
    scores = _frames(run, task)
    name = run.methods.get("self" if task == "normals" else task, "result")
    columns = [
        (kind, method)
        for kind in AVATAR_KINDS
        for method in ("result", "proposal")
        if chosen(scores, kind=kind, method=method)
    ]
    if name == "proposal":
        columns = [column for column in columns if column[1] == "result"]
    if not columns:
        return [f"## {HEADINGS[task]}", "", "Nothing was measured."]
    count = len(chosen(scores, kind=columns[0][0], method="result"))
    lines = [f"## {HEADINGS[task]}", "", f"{count} frames, {columns[0][0]} parameters first.", ""]
    found = [_kept(means(chosen(scores, kind=kind, method=method)), task) for kind, method in columns]
    rows = [["", "better", *(f"{_called(method, name)}, {kind}" for kind, method in columns), "measured"]]
    absent = []
    for key in found[0]:
        entries = [part.get(key, Mean(None, 0)) for part in found]
        if all(entry.value is None for entry in entries):
            absent.append(f"- {_title(FIGURES[key])}: not measured: {entries[0].reason}")
            continue
        rows.append([_title(FIGURES[key]), ARROWS[FIGURES[key].better], *map(_cell, entries), str(entries[0].count)])
    lines += [*_table(rows), *([""] if absent else []), *absent]
    return lines + _by_group(scores, task, name, columns)


def _by_group(scores: list[Score], task: str, name: str, columns: Sequence[tuple[str, str]]) -> list[str]:
    """The headline kind's figures by view angle, expression and part."""
    kind = columns[0][0]
    methods = [method for other, method in columns if other == kind]
    parts = {method: groups(chosen(scores, kind=kind, method=method)) for method in methods}
    labels = [label for label in parts[methods[0]] if label != "all"]
    if not labels:
        return []
    found = {(m, label): _kept(means(parts[m].get(label, [])), task) for m in methods for label in labels}
    rows = [["", *(f"{_group_title(label)} ({len(parts[methods[0]][label])})" for label in labels)]]
    for key in GROUPED:
        for method in methods:
            entries = [found[method, label].get(key, Mean(None, 0)) for label in labels]
            if any(entry.value is not None for entry in entries):
                rows.append([f"{_title(FIGURES[key])}, {_called(method, name)}", *map(_cell, entries)])
    return ["", f"By view angle and expression (number of frames), {kind} parameters:", "", *_table(rows)]


def _group_title(label: str) -> str:
    """What a group of `scores.groups` is called in tables."""
    if label[0].isdigit():
        return f"{label} degrees"
    return {"views": "new views", "expressions": "new expressions"}.get(label, f"{label} expressions")


def _called(method: str, name: str) -> str:
    return name if method == "result" else method


def _title(figure: Figure) -> str:
    return f"{figure.heading} ({figure.unit})" if figure.unit else figure.heading


def _cell(mean: Mean) -> str:
    return "" if mean.value is None else number(mean.value)


def _table(rows: list[list[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [escaped[0], ["---"] * len(rows[0]), *escaped[1:]]
    return [f"| {' | '.join(line)} |" for line in lines]
