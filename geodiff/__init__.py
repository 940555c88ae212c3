"""geodiff: one portrait photograph in, an animatable 4D head avatar of 3D Gaussians out.

This package holds what everything shares; `pipelines` makes clip sets from portraits, `recon` makes avatars from
clip sets.
"""

from __future__ import annotations

__version__ = "0.1.0"
