"""PyTorch3D as a backend of the mesh rasteriser, where the user has built it (it is on no package index).

Its rasteriser takes vertices whose x and y are in its normalised device coordinates and whose z is the depth in the
camera. Those coordinates (PyTorch3D's notes on cameras): +x points left, +y up, +z into the image; the shorter side of
the image spans -1..1, the longer one as much more as it is longer. Pixel centres are at +0.5, as ours are. Our pixels
(u to the right, v down, (0, 0) the upper left corner) are therefore

    x = (W / 2 - u) * 2 / min(W, H),    y = (H / 2 - v) * 2 / min(W, H)

which is also what its notes give for principal points: -(p - W / 2) * 2 / s. Projection, near plane and culling are
done here as in `geodiff.raster.mesh`, so neither its camera classes nor its winding rule matter. Different from our
own backend: a pixel centre that lies exactly on a shared edge may belong to neither face, and of faces that are equally
near either may win.
"""

from __future__ import annotations

import numpy as np
import torch

from geodiff.errors import MissingDependencyError


def to_ndc(screen: np.ndarray, width: int, height: int) -> np.ndarray:
    """(V, 2) pixels -> (V, 2) PyTorch3D's normalised device coordinates."""
    return (np.array([width, height]) / 2 - screen) * (2 / min(width, height))


def available() -> bool:
    try:
        import pytorch3d.renderer.mesh.rasterize_meshes  # noqa: F401
    except ImportError:
        return False
    return True


def fragments(
    screen: np.ndarray, inverse_z: np.ndarray, faces: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Face (H, W) int32, weights (H, W, 3) and depth (H, W) float32 as in `mesh.Fragments`.

    screen: (V, 2) pixels. inverse_z: (V,) 1 / metres, above 0 for every corner of faces (F, 3). Raises
    MissingDependencyError without PyTorch3D.
    """
    try:
        from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
        from pytorch3d.structures import Meshes
    except ImportError as error:
        raise MissingDependencyError(
            "the mesh backend pytorch3d needs PyTorch3D, which is not installed: build it from source, or use numba"
        ) from error
    face = np.full((height, width), -1, np.int32)
    weights, depth = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    if not len(faces):
        return face, weights, depth
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    used, local = np.unique(faces, return_inverse=True)
    points = np.concatenate([to_ndc(screen[used], width, height), 1 / inverse_z[used, None]], 1)
    meshes = Meshes(
        verts=[torch.from_numpy(points).float().to(device)],
        faces=[torch.from_numpy(local.reshape(-1, 3)).long().to(device)],
    )
    found, z, barycentrics, _ = rasterize_meshes(
        meshes, image_size=(height, width), blur_radius=0.0, faces_per_pixel=1, perspective_correct=True
    )
    face[:] = found[0, :, :, 0].cpu().numpy()
    seen = face >= 0
    weights[seen] = barycentrics[0, :, :, 0].cpu().numpy()[seen]
    depth[seen] = z[0, :, :, 0].cpu().numpy()[seen]
    return face, weights, depth
