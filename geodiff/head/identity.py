"""Which head model parameters belong to, and where its file is found again.

Clip sets, avatars and parameter files record their head's name, its hash and where it was (`spec`). Parameters mean
something on that head alone, even where another one has as many of them, so everything that reads them asks here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geodiff.assets import head_specs, heads_folders
from geodiff.errors import HeadModelError
from geodiff.head import load_head
from geodiff.head.model import HeadModel

#: Key of the head's hash in parameter files: its 8 bytes as float32, so that other tools' readers, which turn every
#: array into a tensor of that type, still can.
HASH_KEY = "head_hash"


@dataclass(frozen=True)
class HeadRecord:
    """What a file says about its head. name: its family, empty where only the hash is known. digest: `HeadModel.hash`,
    or None where it is not known. spec: what `load_head` takes, as it was when the file was written, or None."""

    name: str
    digest: str | None = None
    spec: str | None = None

    @staticmethod
    def of(head: HeadModel, spec: str | None) -> HeadRecord:
        return HeadRecord(head.name, head.hash, spec)

    def check(self, head: HeadModel, origin: Path | str) -> None:
        """Raises HeadModelError where `head` is known to be another one. origin: whose record this is."""
        if self.digest is None or self.digest == head.hash:
            return
        if self.name == head.name == "builtin":
            raise HeadModelError(
                f"{origin} must be used with the head model that it was made with, and that is the builtin head of "
                f"another version of geodiff ({self.digest}, here {head.hash}): make it again, or install that version"
            )
        raise HeadModelError(
            f"{origin} was made with the head model {self._called()}, and {head.name!r} ({head.hash}) was given: "
            "give the one that it was made with, or convert its parameters with geodiff track --convert"
        )

    def find(self, origin: Path | str, given: str | None = None) -> tuple[HeadModel, str]:
        """The recorded head and where it is now: what the user gave, else where it was, else in the folders of heads.

        given: what the user named as --head; it must be the recorded head. Where no hash is recorded, the only head of
        that family in the folders of heads is taken. Raises HeadModelError where it is another one, or where none is
        found.
        """
        if given:
            head = load_head(given)
            self.check(head, origin)
            return head, absolute_spec(given)
        if self.name == "builtin" or self.spec == "builtin":
            head = load_head("builtin")
            self.check(head, origin)
            return head, "builtin"
        reason = "whose file is not recorded"
        if self.spec and ":" in self.spec:
            found, reason = _try(self.spec, self.digest)
            if found is not None:
                return found, self.spec
        candidates = [spec for spec in head_specs() if self.name in (spec.partition(":")[0], "")]
        if self.digest is not None:
            # The same file with VHAP's teeth is another head.
            candidates += [
                spec.replace("flame:", "flame+teeth:", 1) for spec in candidates if spec.startswith("flame:")
            ]
        if self.digest is None and len(candidates) > 1:
            reason = f"of which several are there ({', '.join(candidates)})"
        elif self.digest is not None or self.spec in (None, self.name):
            for spec in candidates:
                found, _ = _try(spec, self.digest)
                if found is not None:
                    return found, spec
        raise HeadModelError(
            f"{origin} needs the head model {self._called()}, {reason}: give it as --head {self.name or 'flame'}:PATH, "
            f"or put it into {heads_folders()[0]}"
        )

    def _called(self) -> str:
        known = f"({self.digest})" if self.digest else ""
        return " ".join(part for part in (repr(self.name) if self.name else "", known) if part)


def _try(spec: str, digest: str | None) -> tuple[HeadModel | None, str]:
    """The head of `spec` if it can be read and is the wanted one; otherwise why not."""
    try:
        head = load_head(spec)
    except HeadModelError:
        path = Path(spec.partition(":")[2])
        return None, f"which was {spec} and {'can no longer be read' if path.exists() else 'is no longer there'}"
    if digest is not None and head.hash != digest:
        return None, f"which was {spec}, where another one is now ({head.hash})"
    return head, ""


def absolute_spec(spec: str) -> str:
    """The same head, named so that it is found from any folder."""
    source, colon, path = spec.partition(":")
    return f"{source}:{Path(path).expanduser().absolute()}" if colon and path else spec


def hash_array(head: HeadModel) -> np.ndarray:
    """(8,) float32 of a head's hash, as parameter files hold it."""
    return np.frombuffer(bytes.fromhex(head.hash), np.uint8).astype(np.float32)


def hash_of(arrays: dict[str, Any]) -> str | None:
    """The head's hash in the arrays of a parameter file, or None where it says nothing."""
    found = arrays.get(HASH_KEY)
    if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.shape != (8,):
        return None
    if not np.isin(found, np.arange(256)).all():
        return None
    return found.astype(np.uint8).tobytes().hex()


def check_arrays(arrays: dict[str, Any], head: HeadModel, origin: Path | str) -> None:
    """Raises HeadModelError where a parameter file says that it belongs to another head."""
    digest = hash_of(arrays)
    if digest is not None and digest != head.hash:
        raise HeadModelError(
            f"parameters belong to the head model that they were made with, and {origin} was made with another one "
            f"({digest}) than {head.name!r} ({head.hash}): convert its clip set with geodiff track --convert"
        )
