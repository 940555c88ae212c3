"""What every method's `fit` is told beside its source and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recon.optimise import Progress


@dataclass(frozen=True)
class FitContext:
    """Where a fit runs.

    head_spec, encoder: recorded in the avatar (see `AvatarInfo`). checkpoint: file to go on from; fingerprint: what it
    must belong to. folder: for logs, None for none.
    """

    head_spec: str = "builtin"
    encoder: str | None = None
    device: str = "cpu"
    checkpoint: Path | None = None
    fingerprint: str = ""
    progress: Progress | None = None
    folder: Path | None = None
