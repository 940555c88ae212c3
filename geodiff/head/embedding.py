"""Landmark embeddings on disk: an archive of indices that says which MediaPipe landmark lies where on a head's
surface."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch

from geodiff.head.model import HeadModel, LandmarkEmbedding

DATA = Path(__file__).resolve().parents[1] / "data"


def topology_hash(faces: torch.Tensor | np.ndarray) -> str:
    """Hexadecimal digest of the triangles alone: an embedding fits every head of one topology."""
    array = np.ascontiguousarray(np.asarray(faces), dtype=np.int64)
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def save_embedding(path: Path, embedding: LandmarkEmbedding, head: HeadModel) -> None:
    """Write `indices` (L,), `faces` (L,), `barycentrics` (L, 3), `head_hash` and `topology` atomically."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez_compressed(
            file,
            indices=embedding.indices.numpy().astype(np.int16),
            faces=embedding.faces.numpy().astype(np.int32),
            barycentrics=embedding.barycentrics.numpy().astype(np.float32),
            head_hash=np.array(head.hash),
            topology=np.array(topology_hash(head.faces)),
        )
    os.replace(part, path)


def load_embedding(path: Path, faces: torch.Tensor) -> LandmarkEmbedding | None:
    """The embedding at `path` if it was made for a head with these triangles (F, 3), else None."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as archive:
        if str(archive["topology"]) != topology_hash(faces):
            return None
        return LandmarkEmbedding(
            indices=torch.as_tensor(archive["indices"].astype(np.int64)),
            faces=torch.as_tensor(archive["faces"].astype(np.int64)),
            barycentrics=torch.as_tensor(archive["barycentrics"].astype(np.float32)),
        )
