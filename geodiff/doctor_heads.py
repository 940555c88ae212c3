"""Which head models are there, what their files hold, and how to get what is missing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geodiff import assets
from geodiff.errors import UserError

if TYPE_CHECKING:
    from geodiff.head.model import HeadModel

#: How each source is got.
GET = {
    "flame": "download it from flame.is.tue.mpg.de and put it into {folder}, or name it with --head flame:PATH",
    "ict": "git clone {clone} into {folder}, or name it with --head ict:PATH",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report. state: "ok", "missing" (an extra that is not needed), or "broken" (needed)."""

    name: str
    state: str
    found: str
    remedy: str = ""


def builtin_head() -> Finding:
    """The bundled head, which everything can be done with."""
    from geodiff.head import load_head

    head = load_head("builtin")
    if head.landmarks is None:
        return Finding(
            "head builtin", "broken", "the builtin head has no landmarks that fit it", "install geodiff again"
        )
    return Finding("head builtin", "ok", describe(head))


def user_heads(kind: str) -> list[Finding]:
    """The heads of one source, "flame" or "ict", that are found without naming a path; one line that says how to get
    one where there are none."""
    from geodiff.head.ict_files import SOURCE as ICT_SOURCE

    specs = [spec for spec in assets.head_specs() if spec.startswith(f"{kind}:")]
    folders = " and ".join(str(folder) for folder in assets.heads_folders())
    if not specs:
        why = "GEODIFF_HEADS names it" if os.environ.get("GEODIFF_HEADS") else "GEODIFF_HEADS may name another folder"
        found = f"none in {folders} ({why}); not needed"
        remedy = GET[kind].format(folder=assets.heads_folders()[0], clone=ICT_SOURCE)
        return [Finding(f"head {kind}", "missing", found, remedy)]
    return [_examined(spec, needed=False) for spec in specs]


def named_head(spec: str) -> Finding:
    """The head that the user named; broken where it cannot be used."""
    return _examined(spec, needed=True)


def _examined(spec: str, needed: bool) -> Finding:
    """One head model's file: what it holds, what lies beside it, what is wrong with it."""
    from geodiff.head import load_head

    kind, _, path = spec.partition(":")
    name, bad = f"head {kind}", "broken" if needed else "missing"
    where = f"{path}: " if path else ""
    try:
        head = load_head(spec)
    except UserError as error:
        return Finding(name, bad, f"{where}{error}", "name another file" if needed else "replace it or take it away")
    found, remedy = f"{where}{describe(head)}", ""
    if kind.startswith("flame"):
        from geodiff.head.flame import flame_parts

        parts = flame_parts(path)
        if parts.problems:
            return Finding(name, bad, f"{found}; {'; '.join(parts.problems)}", "replace these files")
        found, remedy = f"{where}{parts.summary}, {_landmarks(head)}, hash {head.hash}", parts.missing
    if head.landmarks is None:
        remedy = "; ".join(part for part in (remedy, "scripts/embed_landmarks.py makes landmarks for tracking") if part)
    return Finding(name, "ok", found, remedy)


def describe(head: HeadModel) -> str:
    """Size, widths and hash of a head."""
    widths = f"{head.num_vertices} vertices, {head.num_shape} shapes, {head.num_expr} expressions"
    return f"{widths}, {_landmarks(head)}, hash {head.hash}"


def _landmarks(head: HeadModel) -> str:
    return "no landmarks" if head.landmarks is None else f"{len(head.landmarks.indices)} landmarks"
