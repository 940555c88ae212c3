"""The clip set on disk: what a generation writes and a reconstruction reads.

A superset of a VHAP export (the dataset format of GaussianAvatars), so that the field's data and viewers keep working:

    transforms.json, transforms_{train,val,test}.json, canonical_flame_param.npz
    images/{t:05d}_{c:02d}.png   fg_masks/...   normals/...   flame_param/{t:05d}.npz
    expression.safetensors       latents (T, tokens, width) of the expression encoder
    reference/                   portrait crop, its normals, mask, head parameters, camera
    videos/view_{c:02d}.mp4      what a person looks at
    clipset.json                 schema version, head model and its hash, preset, domains, which views are finished

`indexing: multiview` shares timestep t among all cameras; `indexing: monocular` gives every frame a timestep of its
own, view c's frame i being timestep c * frames + i.
"""

from __future__ import annotations

from geodiff.clipset.layout import SCHEMA_VERSION, default_splits
from geodiff.clipset.reader import ClipFrame, ClipSet, ReferenceFiles
from geodiff.clipset.writer import ClipSetSpec, ClipSetWriter

__all__ = [
    "SCHEMA_VERSION",
    "ClipFrame",
    "ClipSet",
    "ClipSetSpec",
    "ClipSetWriter",
    "ReferenceFiles",
    "default_splits",
]
