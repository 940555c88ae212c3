"""`python -m geodiff` is the console script."""

from __future__ import annotations

from geodiff.cli import main

main()
