"""FLAME (Li et al. 2017) as a `HeadModel`, from the files that its users have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

from geodiff.errors import HeadModelError
from geodiff.head.embedding import load_embedding
from geodiff.head.flame_pickle import KEYS, read_flame
from geodiff.head.model import PARENTS, HeadModel, LandmarkEmbedding

#: Where the shape basis ends and the expression basis begins.
NUM_SHAPE = 300


def load_flame(path: str | Path) -> HeadModel:
    """FLAME 2020 or 2023 from its pickle, or from a folder that holds one.

    UVs are read from `head_template_mesh.obj` and landmarks from `mediapipe_landmark_embedding.npz` where they lie
    beside the model; without the former the UVs are a cylindrical unwrapping, without the latter there are no
    landmarks.

    Raises:
        HeadModelError: the file is missing, not FLAME, or holds anything but arrays.
    """
    file = _find(Path(path))
    arrays = read_flame(file)
    _check(file, arrays)
    template = arrays["v_template"].astype(np.float32)
    faces = torch.as_tensor(arrays["f"].astype(np.int64))
    basis = np.transpose(arrays["shapedirs"], (2, 0, 1)).astype(np.float32)
    split = NUM_SHAPE if basis.shape[0] > NUM_SHAPE else max(basis.shape[0] - 100, 0)
    names = tuple(f"expression{i:03d}" for i in range(basis.shape[0] - split))
    skinning = arrays["weights"].astype(np.float32)
    uvs, faces_uv = _uvs(file.parent / "head_template_mesh.obj", template, arrays["f"])
    mirror = cKDTree(template).query(template * [-1.0, 1.0, 1.0])[1]
    return HeadModel(
        name="flame",
        template=torch.as_tensor(template),
        faces=faces,
        shape_basis=torch.as_tensor(basis[:split].copy()),
        expr_basis=torch.as_tensor(basis[split:].copy()),
        joint_regressor=torch.as_tensor(arrays["J_regressor"].astype(np.float32)),
        skinning=torch.as_tensor(skinning),
        uvs=torch.as_tensor(uvs, dtype=torch.float32),
        faces_uv=torch.as_tensor(faces_uv, dtype=torch.int64),
        regions={k: torch.as_tensor(v) for k, v in _regions(template, arrays["f"], skinning).items()},
        mirror=torch.as_tensor(mirror, dtype=torch.int64),
        expression_names=names,
        landmarks=_landmarks(file.parent, faces),
        pose_basis=torch.as_tensor(np.transpose(arrays["posedirs"], (2, 0, 1)).astype(np.float32).copy()),
        arkit_jaw={"jawOpen": torch.tensor([0.35, 0.0, 0.0])},
    )


def _find(path: Path) -> Path:
    if path.is_dir():
        for name in ("generic_model.pkl", "flame2023.pkl", "flame2023_no_jaw.pkl"):
            if (path / name).is_file():
                return path / name
        raise HeadModelError(f"a FLAME folder holds generic_model.pkl or flame2023.pkl, but {path} has neither.")
    if not path.is_file():
        raise HeadModelError(
            f"a FLAME head needs its model file, but {path} does not exist; download it from the FLAME website."
        )
    return path


def _check(file: Path, arrays: dict[str, np.ndarray]) -> None:
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise HeadModelError(f"a FLAME model holds {', '.join(KEYS)}, but {file} lacks {', '.join(missing)}.")
    count = arrays["v_template"].shape[0]
    expected = {
        "v_template": (count, 3), "f": (None, 3), "shapedirs": (count, 3, None), "posedirs": (count, 3, 36),
        "J_regressor": (5, count), "weights": (count, 5),
    }  # fmt: skip
    for key, shape in expected.items():
        found = arrays[key].shape
        if len(found) != len(shape) or any(want not in (None, have) for want, have in zip(shape, found, strict=True)):
            raise HeadModelError(f"FLAME's {key} has the shape {shape}, but in {file} it is {found}; use another file.")
    parents = arrays["kintree_table"][0].astype(np.int64)
    # The root's parent is stored as 2^32 - 1.
    if tuple(parents[1:].tolist()) != PARENTS[1:]:
        raise HeadModelError(f"FLAME's joints have the parents {PARENTS}, but in {file} they are {parents.tolist()}.")
    if arrays["f"].min() < 0 or arrays["f"].max() >= count:
        raise HeadModelError(
            f"FLAME's triangles join its {count} vertices, but in {file} some point beyond them; use another file."
        )


def _regions(template: np.ndarray, faces: np.ndarray, skinning: np.ndarray) -> dict[str, np.ndarray]:
    """Region masks (V,). FLAME names none; these follow from its joints' weights and its canonical proportions."""
    x, y, z = template.T
    balls = skinning[:, 3:].sum(1) > 0.99
    eye = template[balls].mean(0) if balls.any() else np.array([0.0, 0.03, 0.03])
    skin = ~balls
    lips = skin & (np.abs(y - (eye[1] - 0.062)) < 0.011) & (np.abs(x) < 0.026) & (z > eye[2])
    around = np.zeros(len(template), bool)
    for side in (skinning[:, 3] > 0.99, skinning[:, 4] > 0.99):
        if side.any():
            centre = template[side].mean(0)
            around |= skin & (np.linalg.norm(template - centre, axis=1) < 0.024) & (z > centre[2])
    neck = skin & (y < eye[1] - 0.115 - 0.45 * (eye[2] + 0.02 - z).clip(0, 0.06))
    ears = skin & (np.abs(x) > 0.066) & (np.abs(y - eye[1] + 0.015) < 0.042) & (z < eye[2] - 0.03) & (z > eye[2] - 0.11)
    hairline = np.interp(z - eye[2], [-0.2, -0.1, -0.03, 0.03], [-0.05, 0.0, 0.03, 0.065]) + eye[1]
    scalp = skin & ~ears & ~neck & (y > hairline)
    none = np.zeros(len(template), bool)
    return {
        "face": skin & ~neck & ~ears & ~scalp, "lips": lips, "eyes": around, "eyeballs": balls, "teeth": none,
        "mouth_interior": none.copy(), "scalp": scalp, "ears": ears, "neck": neck,
    }  # fmt: skip


def _uvs(mesh: Path, template: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uvs (U, 2) and faces_uv (F, 3): from FLAME's template mesh, or unwrapped around the vertical axis."""
    if mesh.is_file():
        uvs, corners = [], []
        for line in mesh.read_text().splitlines():
            if line.startswith("vt "):
                uvs.append([float(number) for number in line.split()[1:3]])
            elif line.startswith("f "):
                corners.append([int(corner.split("/")[1]) - 1 for corner in line.split()[1:4]])
        if len(corners) == len(faces):
            return np.array(uvs), np.array(corners)
    angle = np.arctan2(template[:, 0], template[:, 2]) / (2 * np.pi) + 0.5
    height = (template[:, 1] - template[:, 1].min()) / max(float(np.ptp(template[:, 1])), 1e-9)
    return np.stack([angle, height], 1), faces.astype(np.int64)


def _landmarks(folder: Path, faces: torch.Tensor) -> LandmarkEmbedding | None:
    """FLAME's published MediaPipe embedding (105 landmarks), or one made by scripts/embed_landmarks.py, or None."""
    ours = folder / "flame_mediapipe.npz"
    published = folder / "mediapipe_landmark_embedding.npz"
    if ours.is_file():
        return load_embedding(ours, faces)
    if not published.is_file():
        return None
    try:
        with np.load(published, allow_pickle=False) as archive:
            index, where, weights = (archive[k] for k in ("landmark_indices", "lmk_face_idx", "lmk_b_coords"))
    except (OSError, ValueError, KeyError) as error:
        raise HeadModelError(
            f"FLAME's landmark embedding is an archive of arrays, but {published} is not ({error}); download it again."
        ) from error
    return LandmarkEmbedding(
        torch.as_tensor(index.astype(np.int64)),
        torch.as_tensor(where.astype(np.int64)),
        torch.as_tensor(weights.astype(np.float32)),
    )
