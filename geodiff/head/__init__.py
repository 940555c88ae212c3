"""Head models: one class, three sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geodiff.head.model import HeadModel


def load_head(spec: str) -> HeadModel:
    """The head model that `spec` names: "builtin", "ict:PATH", "flame:PATH", or "flame+teeth:PATH" (FLAME with VHAP's
    teeth).

    Raises:
        HeadModelError: the source is unknown or its file cannot be used.
    """
    from geodiff.errors import HeadModelError

    source, _, path = spec.partition(":")
    if source == "builtin" and not path:
        from geodiff.head.builtin import load_builtin

        return load_builtin()
    if source == "ict" and path:
        from geodiff.head.ict import load_ict

        return load_ict(path)
    if source in ("flame", "flame+teeth") and path:
        from geodiff.head.flame import load_flame

        return load_flame(path, teeth=source == "flame+teeth")
    raise HeadModelError(
        f"a head model is `builtin`, `ict:PATH` or `flame:PATH`, but {spec!r} was given; use one of those."
    )
