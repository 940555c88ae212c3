"""A small head for tests that needs no files: an ellipsoid with a nose, eyeballs, teeth, a jaw and a few modes."""

from __future__ import annotations

import numpy as np
import torch

from geodiff.head.model import HeadModel, LandmarkEmbedding

RADII = np.array([0.075, 0.115, 0.095])


def _sphere(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Unit sphere: points, triangles (outward), uvs with a seam at the back, uv triangles, mirror in x."""
    points, uvs, index = [], [], {}
    for i in range(rows + 1):
        polar = np.pi * (0.02 + 0.96 * i / rows)
        for j in range(columns):
            angle = 2 * np.pi * j / columns
            index[i, j] = len(points)
            # Columns start at the back (-z) and run over the person's right (-x) to the front.
            points.append([-np.sin(polar) * np.sin(angle), np.cos(polar), -np.sin(polar) * np.cos(angle)])
    uv_index = {}
    for i in range(rows + 1):
        for j in range(columns + 1):
            uv_index[i, j] = len(uvs)
            uvs.append([j / columns, 1 - i / rows])
    faces, faces_uv = [], []
    for i in range(rows):
        for j in range(columns):
            a, b = index[i, j], index[i, (j + 1) % columns]
            c, d = index[i + 1, j], index[i + 1, (j + 1) % columns]
            faces += [[a, c, b], [b, c, d]]
            ua, ub, uc, ud = uv_index[i, j], uv_index[i, j + 1], uv_index[i + 1, j], uv_index[i + 1, j + 1]
            faces_uv += [[ua, uc, ub], [ub, uc, ud]]
    mirror = np.array([index[i, (-j) % columns] for i in range(rows + 1) for j in range(columns)])
    return np.array(points), np.array(faces), np.array(uvs), np.array(faces_uv), mirror


def ellipsoid_head(rows: int = 36, columns: int = 48) -> HeadModel:
    """A `HeadModel` of about 2000 vertices with 3 shape modes and 4 expressions."""
    skull, faces, uvs, faces_uv, mirror = _sphere(rows, columns)
    ball, ball_faces, ball_uvs, ball_faces_uv, ball_mirror = _sphere(8, 12)
    points = [skull * RADII]
    # A nose, so that something hides something.
    nose = np.exp(-((points[0][:, 0] / 0.012) ** 2) - ((points[0][:, 1] + 0.005) / 0.02) ** 2) * (skull[:, 2] > 0)
    points[0][:, 2] += 0.025 * nose
    # Below the chin the ellipsoid narrows into a neck.
    low = points[0][:, 1] < -0.085
    count = len(skull)
    parts = {"head": slice(0, count)}
    all_faces, all_uvs, all_faces_uv, mirrors = [faces], [uvs * [0.98, 0.72] + [0.01, 0.26]], [faces_uv], [mirror]
    uv_count = len(uvs)
    for slot, (name, centre, radius) in enumerate(
        [
            ("left_eye", [0.032, 0.025, 0.068], [0.013] * 3),
            ("right_eye", [-0.032, 0.025, 0.068], [0.013] * 3),
            ("teeth", [0.0, -0.045, 0.070], [0.02, 0.006, 0.01]),
        ]
    ):
        parts[name] = slice(count, count + len(ball))
        points.append(ball * np.array(radius) + centre)
        all_faces.append(ball_faces + count)
        all_uvs.append(ball_uvs * [0.28, 0.2] + [0.02 + 0.33 * slot, 0.02])
        all_faces_uv.append(ball_faces_uv + uv_count)
        mirrors.append(ball_mirror + count)
        count += len(ball)
        uv_count += len(ball_uvs)
    size = len(ball)
    mirrors[1], mirrors[2] = mirrors[1] + size, mirrors[2] - size
    v = np.concatenate(points)
    inside = {name: np.isin(np.arange(count), np.arange(count)[part]) for name, part in parts.items()}
    skin, front = inside["head"], v[:, 2] > 0.0
    jaw = skin & front & (v[:, 1] < -0.045) & (v[:, 1] > -0.1)
    lips = skin & front & (np.abs(v[:, 1] + 0.045) < 0.008) & (np.abs(v[:, 0]) < 0.025)
    eyes = skin & front & (np.abs(v[:, 1] - 0.025) < 0.02) & (np.abs(np.abs(v[:, 0]) - 0.032) < 0.02)
    neck = np.concatenate([low, np.zeros(count - len(low), bool)])
    scalp = skin & ((v[:, 1] > 0.07) | (~front & (v[:, 1] > -0.03) & (np.abs(v[:, 0]) < 0.07)))
    none = np.zeros(count, bool)
    regions = {
        "face": skin & front & ~scalp & ~neck, "lips": lips, "eyes": eyes,
        "eyeballs": inside["left_eye"] | inside["right_eye"], "teeth": inside["teeth"], "mouth_interior": none,
        "scalp": scalp, "ears": skin & ~front & ~scalp & ~neck, "neck": neck,
    }  # fmt: skip
    weights = np.zeros((count, 5))
    weights[:, 1] = 1.0
    for mask, joint in ((jaw, 2), (inside["left_eye"], 3), (inside["right_eye"], 4)):
        weights[mask] = np.eye(5)[joint]
    shape = np.stack([skin[:, None] * v * row for row in ([0.04, 0, 0], [0, 0.04, 0], [0, 0, 0.04])])
    expr = np.zeros((4, count, 3))
    expr[0, jaw, 1] = -0.015
    corner = skin & front & (np.abs(v[:, 1] + 0.045) < 0.02) & (v[:, 0] > 0.01) & (v[:, 0] < 0.04)
    expr[1, corner] = [0.004, 0.006, 0.0]
    for row, side in ((2, 1), (3, -1)):
        lid = eyes & (side * v[:, 0] > 0) & (v[:, 1] > 0.025)
        expr[row, lid] = [0.0, -0.012, 0.012]
    triangles = np.concatenate(all_faces)
    tensor = lambda array: torch.as_tensor(np.asarray(array), dtype=torch.float32)  # noqa: E731
    return HeadModel(
        name="ellipsoid",
        template=tensor(v),
        faces=torch.as_tensor(triangles),
        shape_basis=tensor(shape),
        expr_basis=tensor(expr),
        joint_regressor=tensor(_joint_regressor(v, inside)),
        skinning=tensor(weights),
        uvs=tensor(np.concatenate(all_uvs)),
        faces_uv=torch.as_tensor(np.concatenate(all_faces_uv)),
        regions={name: torch.as_tensor(mask) for name, mask in regions.items()},
        mirror=torch.as_tensor(np.concatenate(mirrors)),
        expression_names=("jawOpen", "mouthSmileLeft", "eyeBlinkLeft", "eyeBlinkRight"),
        landmarks=_landmarks(v, triangles, regions["face"]),
    )


def _joint_regressor(vertices: np.ndarray, inside: dict[str, np.ndarray]) -> np.ndarray:
    """(5, V): root, neck and jaw as the mean of four vertices near them, the eyes as that of their balls."""
    regressor = np.zeros((5, len(vertices)))
    for joint, centre in enumerate(
        [[0, -0.11, 0], [0, -0.09, 0], [0, 0, 0.02], [0.032, 0.025, 0.068], [-0.032, 0.025, 0.068]]
    ):
        nearest = np.argsort(np.linalg.norm(vertices - centre, axis=1))[:4]
        regressor[joint, nearest] = 0.25
    for joint, name in ((3, "left_eye"), (4, "right_eye")):
        regressor[joint] = inside[name] / inside[name].sum()
    return regressor


def _landmarks(vertices: np.ndarray, faces: np.ndarray, face: np.ndarray) -> LandmarkEmbedding:
    """All 478 numbers of MediaPipe's mesh: the ones that code asks for by number where they belong, the rest spread."""
    steps = np.arange(478)
    spots = np.stack(
        [0.055 * np.sin(steps * 2.4) * np.sqrt(steps / 478), 0.07 * np.cos(steps * 2.4) * np.sqrt(steps / 478)], 1
    )
    spots[[152, 10, 1, 0, 17]] = [(0, -0.085), (0, 0.065), (0, 0), (0, -0.037), (0, -0.053)]
    spots[[61, 291, 57, 287]] = [(-0.025, -0.045), (0.025, -0.045), (-0.028, -0.045), (0.028, -0.045)]
    upper, lower = (246, 161, 160, 159, 158, 157, 173), (7, 163, 144, 145, 153, 154, 155)
    other_upper, other_lower = (466, 388, 387, 386, 385, 384, 398), (249, 390, 373, 374, 380, 381, 382)
    across = np.linspace(-1, 1, 9)
    arc = np.stack([0.013 * across, 0.007 * np.sqrt(1 - across**2)], 1)
    for side, corners, lids in ((-1, (33, 133), (upper, lower)), (1, (263, 362), (other_upper, other_lower))):
        middle = np.array([0.032 * side, 0.025])
        spots[list(corners)] = middle + [[0.013 * side, 0], [-0.013 * side, 0]]
        for sign, lid in zip((1, -1), lids, strict=True):
            spots[list(lid)] = middle + arc[1:-1] * [side, sign]
    brows = ((70, 63, 105, 66, 107), (46, 53, 52, 65, 55)), ((300, 293, 334, 296, 336), (276, 283, 282, 295, 285))
    for side, (top, bottom) in zip((-1, 1), brows, strict=True):
        x = side * np.linspace(0.05, 0.016, 5)
        spots[list(top)], spots[list(bottom)] = np.stack([x, x * 0 + 0.047], 1), np.stack([x, x * 0 + 0.043], 1)
    jaw = (58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288)
    angle = np.linspace(-1.2, 1.2, len(jaw))
    spots[list(jaw)] = np.stack([0.055 * np.sin(angle), -0.085 * np.cos(angle)], 1)
    centres = np.where(face[faces].all(1)[:, None], vertices[faces].mean(1), 1e3)
    nearest = [int(np.argmin(((centres[:, :2] - spot) ** 2).sum(1))) for spot in spots]
    return LandmarkEmbedding(
        torch.arange(478), torch.tensor(nearest), torch.full((478, 3), 1.0 / 3.0, dtype=torch.float32)
    )
