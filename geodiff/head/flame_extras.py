"""What may lie beside FLAME's model file: texture coordinates, region masks, eyelids, landmark embeddings.

Each is taken where it is there and left where it is not; one that is there and cannot be used is told.
"""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from geodiff.errors import HeadModelError
from geodiff.head.embedding import load_embedding
from geodiff.head.flame_files import FlameArrays
from geodiff.head.flame_pickle import read_pickle, read_pickled_npy
from geodiff.head.model import LandmarkEmbedding
from geodiff.head.obj import read_obj
from geodiff.head.stored import array

TEMPLATE_MESH = "head_template_mesh.obj"
MASKS = "FLAME_masks.pkl"
EYELIDS = ("l_eyelid.npy", "r_eyelid.npy")
EYELID_NAMES = ("eyeBlinkLeft", "eyeBlinkRight")
#: Embeddings of MediaPipe's landmarks: one made by scripts/embed_landmarks.py, and the published one (105 points).
OWN_EMBEDDING = "flame_mediapipe.npz"
MEDIAPIPE_EMBEDDING = "mediapipe_landmark_embedding.npz"
#: Published embedding of the 68 landmarks (Multi-PIE's order) with eyes, a pickled dictionary.
IBUG_EMBEDDING = "landmark_embedding_with_eyes.npy"

#: MediaPipe's numbers of the 51 landmarks of Multi-PIE's 68 that do not lie on the contour: brows, nose, eyes, lips.
MEDIAPIPE_OF_51 = (
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 168, 197, 5, 4, 98, 97, 2, 326, 327, 33, 160, 158, 133, 153, 144,
    362, 385, 387, 263, 373, 380, 61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14,
    87,
)  # fmt: skip


def read_uvs(folder: Path, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """uvs (U, 2) and faces_uv (F, 3) of FLAME's template mesh, or None where it is not there. Raises HeadModelError."""
    path = folder / TEMPLATE_MESH
    if not path.is_file():
        return None
    mesh = read_obj(path)
    if len(mesh.faces) != len(faces) or mesh.faces_uv.min() < 0:
        raise HeadModelError(
            f"FLAME's template mesh has texture coordinates for the model's {len(faces)} triangles, but {path} has "
            f"{len(mesh.faces)} triangles {'with' if mesh.faces_uv.min() >= 0 else 'without'} them; use the one of "
            "this model, or take it away."
        )
    # The same triangles may stand in another order.
    if np.array_equal(mesh.faces, faces):
        return mesh.uvs, mesh.faces_uv
    row = {tuple(sorted(face)): number for number, face in enumerate(mesh.faces.tolist())}
    try:
        rows = np.array([row[tuple(sorted(face))] for face in faces.tolist()])
    except KeyError as error:
        raise HeadModelError(
            f"FLAME's template mesh has the model's triangles, but {path} has others; use the one of this model, or "
            "take it away."
        ) from error
    corner = (mesh.faces[rows][:, None, :] == faces[:, :, None]).argmax(-1)
    return mesh.uvs, np.take_along_axis(mesh.faces_uv[rows], corner, 1)


def read_masks(folder: Path, count: int) -> dict[str, np.ndarray]:
    """FLAME's vertex masks by their names, (V,) bool each; empty where they are not there. Raises HeadModelError."""
    path = folder / MASKS
    if not path.is_file():
        return {}
    masks = {}
    for name, value in read_pickle(path, "file of FLAME's masks").items():
        index = array(value)
        if (
            index.dtype.kind not in "iu"
            or index.ndim != 1
            or (len(index) and not 0 <= index.min() <= index.max() < count)
        ):
            raise HeadModelError(
                f"FLAME's masks are lists of the model's {count} vertices, but {name!r} in {path} is not; use the "
                "published file, or take it away."
            )
        masks[name] = np.isin(np.arange(count), index)
    return masks


def read_eyelids(folder: Path, count: int) -> np.ndarray | None:
    """(2, V, 3) blendshapes that close the left and the right eye, or None where they are not there.

    Raises HeadModelError.
    """
    paths = [folder / name for name in EYELIDS]
    if not any(path.is_file() for path in paths):
        return None
    shapes = []
    for path in paths:
        try:
            shape = np.load(path, allow_pickle=False)
            shape = np.asarray(shape, dtype=np.float32).reshape(count, 3)
        except (OSError, ValueError, EOFError) as error:
            raise HeadModelError(
                f"FLAME's eyelids are two arrays of the model's {count} vertices, {EYELIDS[0]} and {EYELIDS[1]}, but "
                f"{path} is not one ({error}); fetch it again, or take both away."
            ) from error
        if not np.isfinite(shape).all():
            raise HeadModelError(f"FLAME's eyelids are finite, but some in {path} are not; fetch it again.")
        shapes.append(shape)
    return np.stack(shapes)


def read_landmarks(folder: Path, faces: np.ndarray) -> LandmarkEmbedding | None:
    """MediaPipe's landmarks on FLAME as a file beside the model says, the fullest first, or None. Raises
    HeadModelError."""
    if (folder / OWN_EMBEDDING).is_file():
        return load_embedding(folder / OWN_EMBEDDING, torch.as_tensor(faces))
    published = folder / MEDIAPIPE_EMBEDDING
    if published.is_file():
        try:
            with np.load(published, allow_pickle=False) as archive:
                index, where, weights = (archive[k] for k in ("landmark_indices", "lmk_face_idx", "lmk_b_coords"))
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise HeadModelError(
                f"FLAME's landmark embedding is an archive of arrays, but {published} is not ({error}); download it "
                "again."
            ) from error
        return _embedding(published, index, where, weights, len(faces))
    ibug = folder / IBUG_EMBEDDING
    if not ibug.is_file():
        return None
    values = read_pickled_npy(ibug, "landmark embedding of FLAME's")
    try:
        where, weights = (array(values[k]) for k in ("static_lmk_faces_idx", "static_lmk_bary_coords"))
    except KeyError:
        try:
            # All 68 or more, of which the first 17 are the contour.
            where, weights = (array(values[k])[0, 17:68] for k in ("full_lmk_faces_idx", "full_lmk_bary_coords"))
        except (KeyError, IndexError) as error:
            raise HeadModelError(
                f"FLAME's landmark embedding holds static_lmk_faces_idx or full_lmk_faces_idx, but {ibug} holds "
                f"{', '.join(sorted(values))}; download it again."
            ) from error
    return _embedding(ibug, np.array(MEDIAPIPE_OF_51), where.reshape(-1), weights.reshape(-1, 3), len(faces))


def _embedding(path: Path, index: np.ndarray, where: np.ndarray, weights: np.ndarray, count: int) -> LandmarkEmbedding:
    whole = index.ndim == where.ndim == 1 and weights.shape == (len(index), 3) and len(index) == len(where) > 0
    if whole:
        whole = all(a.dtype.kind in "iu" for a in (index, where)) and weights.dtype.kind == "f"
    if whole:
        whole = 0 <= where.min() <= where.max() < count and 0 <= index.min() <= index.max() < 478
        whole = whole and bool(np.abs(weights.sum(1) - 1).max() < 1e-3)
    if not whole:
        raise HeadModelError(
            f"a landmark embedding gives a triangle (of {count}) and three weights that add up to 1 for each landmark, "
            f"but {path} does not; use the one of this model, or take it away."
        )
    return LandmarkEmbedding(
        torch.as_tensor(index.astype(np.int64)),
        torch.as_tensor(where.astype(np.int64)),
        torch.as_tensor(weights.astype(np.float32)),
    )


def regions(
    flame: FlameArrays, masks: dict[str, np.ndarray], transferred: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Region masks (V,) by the names of `head.model.REGIONS`: FLAME's masks where they are given, else those that were
    transferred from another head, else estimates."""
    found = {**_estimated_regions(flame), **(transferred or {})}
    if not masks:
        return found
    none = np.zeros(len(flame.template), bool)

    def of(*names: str) -> np.ndarray:
        return np.any([masks.get(name, none) for name in names], axis=0)

    given = {
        "eyeballs": of("left_eyeball", "right_eyeball"), "lips": of("lips"), "scalp": of("scalp"), "neck": of("neck"),
        "ears": of("left_ear", "right_ear"),
        "eyes": of("eye_region", "left_eye_region", "right_eye_region") & ~of("left_eyeball", "right_eyeball"),
    }  # fmt: skip
    found.update({name: mask for name, mask in given.items() if mask.any()})
    if "face" in masks:
        other = found["eyeballs"] | found["scalp"] | found["ears"] | found["neck"]
        found["face"] = masks["face"] & ~other
    return found


def _estimated_regions(flame: FlameArrays) -> dict[str, np.ndarray]:
    """Without masks: from the joints' weights and FLAME's canonical proportions."""
    template, skinning = flame.template, flame.weights
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
