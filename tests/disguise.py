"""Another head model with the same surface as a given one: other vertices, modes and canonical frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from geodiff.head.model import HeadModel, LandmarkEmbedding
from geodiff.types import HeadParams


def subdivided(faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Midpoints of all edges as pairs of vertices (M, 2), and four triangles (4F, 3) for each."""
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    pairs, where = np.unique(edges, axis=0, return_inverse=True)
    middle = where.reshape(-1, 3) + count
    a, b, c = faces.T
    ab, bc, ca = middle.T
    return pairs, np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])


def disguised(head: HeadModel, seed: int = 0, turn: float = 12.0, landmarks: bool = True) -> HeadModel:
    """The head with every edge halved, its vertices shuffled, its modes mixed among one another, its mean moved along
    them, and its canonical frame turned by so many degrees. Its expressions have no names, as FLAME's."""
    random = np.random.default_rng(seed)
    count = head.num_vertices
    pairs, faces = subdivided(head.faces.numpy(), count)
    total = count + len(pairs)
    order = random.permutation(total)
    place = np.argsort(order)

    def spread(values: Tensor) -> np.ndarray:
        array = values.double().numpy()
        return np.concatenate([array, array[..., pairs, :].mean(-2)], -2)[..., order, :]

    rotation = Rotation.from_rotvec(np.radians(turn) * np.array([0.8, 0.5, -0.33])).as_matrix()
    shift = np.array([0.01, -0.03, 0.02])
    move = lambda field: field @ rotation.T  # noqa: E731
    shape_basis, expr_basis = spread(head.shape_basis), spread(head.expr_basis)
    mix = np.linalg.qr(random.normal(size=(len(shape_basis),) * 2))[0]
    blend = np.linalg.qr(random.normal(size=(len(expr_basis),) * 2))[0]
    template = spread(head.template) + np.tensordot(0.4 * random.normal(size=len(shape_basis)), shape_basis, 1)
    regressor = np.zeros((5, total))
    regressor[:, place[:count]] = head.joint_regressor.numpy()
    tensor = lambda array: torch.as_tensor(array, dtype=torch.float32)  # noqa: E731
    moved = torch.from_numpy(place[faces])
    return replace(
        head,
        name="disguised",
        template=tensor(move(template) + shift),
        shape_basis=tensor(move(np.tensordot(mix, shape_basis, 1))),
        expr_basis=tensor(move(np.tensordot(blend, expr_basis, 1))),
        faces=moved,
        joint_regressor=tensor(regressor),
        skinning=tensor(spread(head.skinning)),
        uvs=tensor(random.random((total, 2))),
        faces_uv=moved,
        regions={name: torch.from_numpy(spread(mask[:, None])[:, 0] > 0.99) for name, mask in head.regions.items()},
        mirror=torch.arange(total),
        expression_names=tuple(f"expression{i:03d}" for i in range(len(expr_basis))),
        arkit_jaw={"jawOpen": torch.tensor([0.35, 0.0, 0.0])},
        landmarks=_landmarks(head, moved) if landmarks else None,
        contacts=None,
    )


def _landmarks(head: HeadModel, faces: Tensor) -> LandmarkEmbedding | None:
    """The nearest corner of each landmark, on the finer mesh: off by a few millimetres, as other people's are."""
    marks = head.landmarks
    if marks is None:
        return None
    corner = marks.barycentrics.argmax(1)
    # Triangle f's k-th corner is the k-th corner of the child k * F + f.
    child = corner * head.faces.shape[0] + marks.faces
    return LandmarkEmbedding(marks.indices, child, torch.nn.functional.one_hot(corner, 3).float())


def motion(head: HeadModel, frames: int, seed: int = 1) -> HeadParams:
    """A person who turns, talks, blinks and looks about: random, within what a tracker finds."""
    generator = torch.Generator().manual_seed(seed)
    rand = lambda *size: torch.randn(*size, generator=generator)  # noqa: E731
    expr = torch.rand(frames, head.num_expr, generator=generator)
    expr = expr * (torch.rand(frames, head.num_expr, generator=generator) < 0.15)
    return head.zeros(frames).replace(
        shape=0.8 * rand(head.num_shape).clamp(-2, 2), expr=expr, rotation=0.3 * rand(frames, 3),
        translation=rand(frames, 3) + torch.tensor([0.0, 0.0, -2.0]), neck_pose=0.15 * rand(frames, 3),
        eyes_pose=torch.cat([0.15 * rand(frames, 2), torch.zeros(frames, 1)] * 2, 1),
    )  # fmt: skip
