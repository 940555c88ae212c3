"""What a person wears over the head's own surface: hair, beard, glasses, hats, clothes, each a mesh with a texture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from geodiff.raster import mesh


@dataclass(frozen=True)
class Anchor:
    """What carries a layer's vertices when the face moves: corners (N, 3) head vertices and their weights (N, 3)."""

    corners: np.ndarray
    weights: np.ndarray

    def moved(self, vertices: np.ndarray, displacement: np.ndarray) -> np.ndarray:
        """Layer vertices (N, 3) carried by the head's displacement (V, 3)."""
        return vertices + np.einsum("nk,nkc->nc", self.weights, displacement[self.corners])


@dataclass(frozen=True)
class Layer:
    """A mesh of N vertices and M triangles around the unposed head.

    vertices: (N, 3) metres. faces: (M, 3). uvs: (M, 3, 2) places of the corners in the layer's own texture, 0..1 from
    the top left. texture: (h, w, 3) float32 sRGB in 0..1, or (h, w, 4) with the depth of wrinkles. normals: (N, 3), or
    None for those of the mesh. occlusion, shine: of the whole layer, 0..1. anchor: None for what is rigid with the
    skull. hair: whether normals are those of hair, not of the triangles; of each triangle's first and last corners the
    one with the higher number lies farther along the hair. dark: (N,) 0..0.6 how far it is darkened where the texture's
    fourth channel is 1.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray
    texture: np.ndarray
    normals: np.ndarray | None = None
    occlusion: float = 0.9
    shine: float = 0.04
    anchor: Anchor | None = None
    hair: bool = False
    dark: np.ndarray | None = None


@dataclass(frozen=True)
class Stack:
    """Layers joined into one mesh with one texture; the first is the head's own surface.

    faces: (M, 3). uvs: (M, 3, 2) into `texture` (H, W, 4). static: (N, 3) occlusion, shine and darkness of each vertex.
    """

    layers: tuple[Layer, ...]
    faces: np.ndarray
    uvs: np.ndarray
    texture: np.ndarray
    static: np.ndarray
    starts: tuple[int, ...] = field(default=())

    @staticmethod
    def of(base: Layer, base_static: np.ndarray, layers: Sequence[Layer]) -> Stack:
        """base: the head. base_static: (V, 2) its occlusion and shine."""
        # What does not move keeps its normals.
        everything = (
            base,
            *(layer if layer.anchor else replace(layer, normals=_own_normals(layer)) for layer in layers),
        )
        width = base.texture.shape[1]
        textures = [_of_width(_with_wrinkles(layer.texture), width) for layer in everything]
        heights = [len(texture) for texture in textures]
        tops = np.cumsum([0, *heights[:-1]]) / sum(heights)
        starts = np.cumsum([0, *(len(layer.vertices) for layer in everything)])
        static = [np.pad(base_static, ((0, 0), (0, 1))), *(_static(layer) for layer in layers)]
        scale = np.array(heights) / sum(heights)
        uvs = [
            np.stack([layer.uvs[..., 0], top + share * _inset(layer.uvs[..., 1], height)], -1)
            for layer, top, share, height in zip(everything, tops, scale, heights, strict=True)
        ]
        return Stack(
            layers=everything,
            faces=np.concatenate([layer.faces + first for layer, first in zip(everything, starts, strict=False)]),
            uvs=np.concatenate(uvs).astype(np.float32),
            texture=np.concatenate(textures),
            static=np.concatenate(static).astype(np.float32),
            starts=tuple(int(first) for first in starts),
        )

    def posed(self, head: np.ndarray, displacement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices and normals (N, 3) for the head's vertices (V, 3), moved from their rest by displacement (V, 3)."""
        points, normals = [head], [_normals(head, self.layers[0].faces)]
        for layer in self.layers[1:]:
            moved = layer.vertices if layer.anchor is None else layer.anchor.moved(layer.vertices, displacement)
            points.append(moved)
            normals.append(_own_normals(replace(layer, vertices=moved)))
        return np.concatenate(points).astype(np.float32), np.concatenate(normals).astype(np.float32)


def _static(layer: Layer) -> np.ndarray:
    table = np.tile(np.array([[layer.occlusion, layer.shine, 0.0]]), (len(layer.vertices), 1))
    if layer.dark is not None:
        table[:, 2] = layer.dark
    return table


def _with_wrinkles(texture: np.ndarray) -> np.ndarray:
    return texture if texture.shape[-1] == 4 else np.pad(texture, ((0, 0), (0, 0), (0, 1)))


def _of_width(texture: np.ndarray, width: int) -> np.ndarray:
    if texture.shape[1] == width:
        return texture
    height = max(8, round(texture.shape[0] * min(1.0, width / texture.shape[1])))
    return cv2.resize(texture, (width, height), interpolation=cv2.INTER_LINEAR)


def _inset(v: np.ndarray, height: int) -> np.ndarray:
    """Texture rows kept half a texel from the seams between layers."""
    return np.clip(v, 0.5 / height, 1 - 0.5 / height)


def _own_normals(layer: Layer) -> np.ndarray:
    return _normals(layer.vertices, layer.faces) if layer.normals is None else layer.normals


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    return mesh.vertex_normals(vertices, faces)
