"""The test head with all 478 landmarks, spread over its front; the irises lie on the eyeballs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from heads import ellipsoid_head

from geodiff.head.model import HeadModel, LandmarkEmbedding
from geodiff.tracking.groups import IRISES
from geodiff.tracking.landmarks import NUM_LANDMARKS


def marked_head() -> HeadModel:
    """Landmark numbers 33 and 263 are the outer eye corners; the irises lie on the eyeballs."""
    head = ellipsoid_head()
    generator = np.random.default_rng(7)
    normals = torch.linalg.cross(*(head.template[head.faces[:, k]] - head.template[head.faces[:, 0]] for k in (1, 2)))
    centres = head.template[head.faces].mean(1)
    balls = head.face_region("eyeballs").numpy()
    front = (torch.nn.functional.normalize(normals, dim=1)[:, 2] > 0.5).numpy() & (centres[:, 1].abs() < 0.07).numpy()
    skin = np.flatnonzero(front & ~head.regions["eyeballs"][head.faces].any(1).numpy()
                          & ~head.regions["teeth"][head.faces].any(1).numpy())  # fmt: skip
    faces = generator.choice(skin, NUM_LANDMARKS)
    for mark, x in ((33, -0.045), (263, 0.045)):
        faces[mark] = skin[np.linalg.norm(centres[skin].numpy()[:, :2] - [x, 0.025], axis=1).argmin()]
    for half, side in ((IRISES[:5], -1), (IRISES[5:], 1)):
        ball = np.flatnonzero(balls & front & (side * centres[:, 0] > 0).numpy())
        faces[list(half)] = generator.choice(ball, 5)
    weights = generator.dirichlet([2.0, 2.0, 2.0], NUM_LANDMARKS)
    marks = LandmarkEmbedding(
        torch.arange(NUM_LANDMARKS), torch.as_tensor(faces), torch.as_tensor(weights, dtype=torch.float32)
    )
    return replace(head, landmarks=marks)
