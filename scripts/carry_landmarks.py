"""Carry one head's MediaPipe landmarks to another head, so that both mean the same points of a face.

    python scripts/carry_landmarks.py ict:PATH builtin [--out FILE] [--picture FILE]

`scripts/embed_landmarks.py` asks the detector about a painted head, and is a millimetre off here and there,
differently on every head: where one head's nose is marked 0.8 mm lower than the other's, it is tracked with its chin
raised by two degrees. The tracker's corrections were learned with the first head's points
(`scripts/measure_detector.py`, `scripts/train_refiner.py`), so the second one's are moved to where those lie: the mean
faces are laid upon each other by their surfaces, and each point goes to the nearest place of the second one near which
its own was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from embed_landmarks import BROWS, Surface, _closest, _partners, picture
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from geodiff.head import load_head
from geodiff.head.embedding import DATA, save_embedding
from geodiff.head.model import HeadModel, LandmarkEmbedding
from geodiff.tracking.accuracy import TemplateOffset, face_skin, inner_faces, nearest_on_mesh, similarity
from geodiff.tracking.groups import EYES, INNER_LIPS, IRISES

#: How far along the surface a point may move, metres: lids and lips must not change sides, those inside a nostril come
#: out of it.
NEAR, FAR = 0.005, 0.020
#: Share of the skin that fits best, by which the faces are laid upon each other.
KEPT = 0.9


def laid_upon(head: HeadModel, source: HeadModel, rounds: int = 15) -> np.ndarray:
    """(L, 3) landmarks of `source`'s mean face on `head`'s: rigid alignment of the skin to the surface."""
    offset = TemplateOffset.between(source, head)
    rotation, shift = offset.rotation, offset.shift
    skin = source.template.double().numpy()[face_skin(source)]
    vertices, triangles = head.template.double().numpy(), head.faces[~inner_faces(head)].numpy()
    for _ in range(rounds):
        moved = skin @ rotation.T + shift
        nearest = nearest_on_mesh(moved, vertices, triangles)
        away = np.linalg.norm(nearest - moved, axis=1)
        kept = away <= np.quantile(away, KEPT)
        rotation, shift, _ = similarity(skin[kept], nearest[kept], scaled=False)
    assert source.landmarks is not None
    return source.landmarks.points(source.template, source.faces).double().numpy() @ rotation.T + shift


def carried(head: HeadModel, source: HeadModel) -> LandmarkEmbedding:
    """`source`'s landmarks on `head`, mirrored exactly."""
    own = head.landmarks
    assert own is not None and source.landmarks is not None
    assert torch.equal(own.indices, source.landmarks.indices), "both heads must have the same landmarks"
    template, triangles = head.template.double().numpy(), head.faces.numpy()
    goals = laid_upon(head, source)
    partner = _partners(goals)
    goals = (goals + np.array([-1.0, 1.0, 1.0]) * goals[partner]) / 2
    balls = head.face_region("eyeballs").numpy()
    skin = np.flatnonzero(~inner_faces(head).numpy())
    outward, at_source = _normals(head), _normals(source)[source.landmarks.faces.numpy()]
    reach = _along_surface(template, triangles[skin], triangles[own.faces.numpy()])
    close = {int(i) for i in (*EYES, *INNER_LIPS)}
    faces, barycentrics = np.zeros(len(goals), np.int64), np.zeros((len(goals), 3))
    for row, mark in enumerate(own.indices.tolist()):
        if mark in IRISES:
            candidates = np.flatnonzero(balls)
        else:
            limit = NEAR if mark in close else FAR
            alike = mark in close or outward[skin] @ at_source[row] > 0.3
            candidates = skin[(reach[row][triangles[skin]].max(1) < limit) & alike]
        middles = np.linalg.norm(template[triangles[candidates]].mean(1) - goals[row], axis=1)
        faces[row], barycentrics[row] = _closest(template, triangles, candidates[np.argsort(middles)[:40]], goals[row])
    return LandmarkEmbedding(own.indices, torch.from_numpy(faces), torch.from_numpy(barycentrics.astype(np.float32)))


def _normals(head: HeadModel) -> np.ndarray:
    """(F, 3) unit normals of the template's faces."""
    corners = head.template.double().numpy()[head.faces.numpy()]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)


def _along_surface(template: np.ndarray, skin: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(L, V) metres along the edges of the triangles `skin` (K, 3) from the corners `starts` (L, 3), inf beyond FAR."""
    edges = np.concatenate([skin[:, [0, 1]], skin[:, [1, 2]], skin[:, [2, 0]]])
    lengths = np.linalg.norm(template[edges[:, 0]] - template[edges[:, 1]], axis=1)
    graph = csr_matrix((lengths, (edges[:, 0], edges[:, 1])), (len(template), len(template)))
    return np.stack([dijkstra(graph, False, corners, limit=FAR, min_only=True) for corners in starts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="head whose landmarks are taken, e.g. ict:PATH")
    parser.add_argument("head", help="head that gets them, e.g. builtin")
    parser.add_argument("--out", type=Path, help="archive to write (default: the one bundled with geodiff)")
    parser.add_argument("--picture", type=Path, help="also draw the embedding")
    options = parser.parse_args()
    head, source = load_head(options.head), load_head(options.source)
    embedding = carried(head, source)
    assert head.landmarks is not None
    before, after = (one.points(head.template, head.faces).double().numpy() for one in (head.landmarks, embedding))
    moved = 1000 * np.linalg.norm(after - before, axis=1)
    left = 1000 * np.linalg.norm(after - laid_upon(head, source), axis=1)
    print(f"moved by {moved.mean():.2f} mm (mean), at most {moved.max():.1f}; {left.mean():.2f} mm from the source's")
    save_embedding(options.out or DATA / f"{head.name}_mediapipe.npz", embedding, head)
    if options.picture:
        drawn = picture(Surface.of(head, after[np.array(BROWS)]), embedding)
        cv2.imwrite(str(options.picture), drawn[..., ::-1])


if __name__ == "__main__":
    main()
