"""What a set is checked against: its digest, and how each portrait looks, recorded once.

The digest covers all that is drawn; it would not notice another renderer or other skins. So the portraits, reduced to a
few colours, are compared as well, with room for what machines round differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from geodiff.files import read_json, write_json
from geodiff.head.model import HeadModel
from geodiff.synth.bench.definition import VERSION, digest
from geodiff.synth.bench.tasks import Bench

PATH = Path(__file__).resolve().parents[2] / "data" / "synthbench.json"
#: Side of the reduced portraits, and the difference in levels of 8 bits that is still the same picture.
GRID, TOLERANCE = 6, 6


@dataclass(frozen=True)
class Check:
    """same: whether the set is the recorded one; None where nothing is recorded for it. text: the same in words."""

    digest: str
    same: bool | None
    text: str


def set_name(bench: Bench) -> str:
    """Name of a set in the record: head and sizes."""
    c = bench.config
    return f"{kind_of(bench.truth)} {c.size}px photo {c.photo}px supersample {c.supersample} texture {c.texture}px"


def kind_of(truth: HeadModel) -> str:
    return f"{truth.name} ({truth.hash[:12]})"


def thumbnail(image: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 as the mean colours of a few squares, in hexadecimal digits."""
    return cv2.resize(image, (GRID, GRID), interpolation=cv2.INTER_AREA).tobytes().hex()


def check(bench: Bench, portraits: Mapping[int, str], path: Path = PATH) -> Check:
    """Whether a set is the recorded one. portraits: identity -> `thumbnail` of the photograph, of those it showed."""
    found = digest(bench.config, bench.truth)
    known = read_json(path)["sets"].get(set_name(bench)) if path.is_file() else None
    if known is None:
        return Check(found, None, f"{found}: not recorded; compare only with results of the same set and head")
    if known["digest"] != found:
        return Check(
            found, False,
            f"{found} is not the recorded one ({known['digest']}): what is drawn has changed, and these figures do "
            "not compare with those of the recorded set",
        )  # fmt: skip
    worst = {i: _difference(known["portraits"].get(str(i)), now) for i, now in sorted(portraits.items())}
    other = [i for i, difference in worst.items() if difference > TOLERANCE]
    if other:
        return Check(
            found, False,
            f"{found}: the portraits of people {', '.join(map(str, other))} look different from those recorded (by "
            f"up to {max(worst.values()):.0f} levels): people or renderer have changed, and these figures do not "
            "compare with those of the recorded set",
        )  # fmt: skip
    return Check(found, True, f"{found}, as recorded")


def record(bench: Bench, path: Path = PATH) -> None:
    """Record a set, in place of what was known under its name."""
    known: dict[str, Any] = read_json(path) if path.is_file() else {"version": VERSION, "sets": {}}
    portraits = {str(i): text for i, text in thumbnails(bench).items()}
    known["version"] = VERSION
    known["sets"][set_name(bench)] = {"digest": digest(bench.config, bench.truth), "portraits": portraits}
    write_json(path, known)


def thumbnails(bench: Bench) -> dict[int, str]:
    """Identity -> thumbnail of the photograph, of all people that are shown."""
    return {i: thumbnail(bench.person(i).photo.image) for i in range(bench.config.identities)}


def _difference(known: str | None, found: str) -> float:
    """Largest difference of two thumbnails in levels; none where the portrait was not recorded."""
    if known is None:
        return 0.0
    before, now = (np.frombuffer(bytes.fromhex(text), np.uint8).astype(np.float32) for text in (known, found))
    return float(np.abs(before - now).max())
