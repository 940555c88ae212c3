"""One synthetic person with ground truth: frames, masks and normals in any camera and expression."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from geodiff.conditioning.personal import personal_head, without_identity
from geodiff.conditioning.pixels import scaled_normals
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.raster.compiled import kept
from geodiff.raster.shadow import ShadowMap, ambient_occlusion
from geodiff.synth.appearance import WILD, Appearance, paint, random_appearance, wrinkles
from geodiff.synth.hair import HairStyle, beard_layer, hair_layers, random_style
from geodiff.synth.layers import Layer, Stack
from geodiff.synth.light import Lamps, Lighting, lamps, random_lighting
from geodiff.synth.render import HAIR, render
from geodiff.synth.wear import Wear, random_wear, under_hat, wear_layers
from geodiff.types import Camera, HeadParams


@dataclass(frozen=True)
class Frame:
    """image: (H, W, 3) float32 0..1 on white. mask: (H, W) 0..1. normals: (H, W, 3) in the axes of normal maps, hair
    included, zero outside.

    Only when asked for, and of the pixels' centres: depth (H, W) float32 metres along the camera's axis, 0 where
    nothing is seen; uv (H, W, 2) float32, where in the head's own UV layout (v up, as in the head model) the skin seen
    there lies, -1 where none is seen."""

    image: np.ndarray
    mask: np.ndarray
    normals: np.ndarray
    depth: np.ndarray | None = None
    uv: np.ndarray | None = None


@dataclass(frozen=True)
class Posed:
    """One expression of a person, to be seen from any number of views.

    vertices: (N, 3) of head and hair. table: (N, 9) their places, normals, occlusion, shininess and folding. lamps: the
    lights, with the shadows of this expression.
    """

    vertices: np.ndarray
    table: np.ndarray
    lamps: Lamps


class Subject:
    """A random person on `head`, the same for the same seed. texture_size: side of the painted texture. natural: no
    colours that no person has, and nothing before the eyes but clear glasses. wild: how often, 0..1, a person that
    need not be natural has such colours."""

    def __init__(
        self, head: HeadModel, seed: int, texture_size: int = 768, natural: bool = False, wild: float = WILD
    ) -> None:
        rng = np.random.default_rng(seed)
        self.head = head
        shape = np.clip(rng.normal(0, 1, head.num_shape) * rng.uniform(0.6, 1.1), -2.5, 2.5)
        self.params: HeadParams = head.zeros().replace(shape=torch.as_tensor(shape, dtype=torch.float32))
        self.look: Appearance = random_appearance(rng, 0.0 if natural else wild)
        self.style: HairStyle = random_style(rng)
        if self.style.kind == "bald":
            self.look = replace(self.look, scalp_hair=float(rng.uniform(0.0, 0.35)))
        self.wear: Wear = random_wear(rng, eyes_free=natural)
        self.light: Lighting = random_lighting(rng)
        self._person = personal_head(head, self.params)
        self._rest = self._person.template
        self._stack = self._dressed(texture_size)
        self._faces = self._stack.faces.astype(np.int32)
        kinds = [number | (HAIR if layer.hair else 0) for number, layer in enumerate(self.layers)]
        self._layer = np.repeat(np.array(kinds, np.uint8), [len(layer.faces) for layer in self.layers])
        self._texture = self._stack.texture
        self._texture[..., :3] **= np.float32(2.2)
        self._areas = _areas(self._rest.numpy(), self._faces[: len(head.faces)])

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The head's own surface first, then hair, beard and what the person wears."""
        return self._stack.layers

    def _dressed(self, texture_size: int) -> Stack:
        """The head's own surface and everything over it."""
        head = self.head
        shine = np.full(head.num_vertices, 0.06, np.float32)
        shine[head.regions["lips"].numpy()] = 0.25
        shine[head.regions["teeth"].numpy() | head.regions["mouth_interior"].numpy()] = 0.35
        shine[head.regions["eyeballs"].numpy()] = 1.0
        uvs = head.uvs[head.faces_uv].numpy()
        uvs = np.stack([uvs[..., 0], 1 - uvs[..., 1]], -1)
        painted = [paint(head, self.look, texture_size), wrinkles(head, self.look, texture_size)[..., None]]
        skin = Layer(self._rest.numpy(), head.faces.numpy(), uvs, np.concatenate(painted, -1))
        shaped = head.shaped(self.params, expression=False)[0]
        free = under_hat(head, self.wear) < 0
        layers = hair_layers(head, shaped, self.style, self.look, texture_size // 2, free)
        if (beard := beard_layer(head, shaped, self.look)) is not None:
            layers.append(beard)
        layers += wear_layers(head, shaped, self.wear, self.look, 0.5 * self.style.volume)
        return Stack.of(skin, np.stack([ambient_occlusion(head), shine], 1), layers)

    def pose(self, params: HeadParams) -> Posed:
        """The person in the expression of `params` (T = 1; the head itself stays at rest)."""
        head = self._person.vertices(without_identity(params))[0].numpy()
        points, normals = self._stack.posed(head, head - self._rest.numpy())
        shadows = [ShadowMap.make(points, self._faces, light.direction) for light in self.light.lights]
        table = np.concatenate([points, normals, self._stack.static], 1)
        table[: len(head), 8] = self._folding(head)
        return Posed(points, table, lamps(self.light, shadows))

    def _folding(self, vertices: np.ndarray) -> np.ndarray:
        """(V,) how dark wrinkles are: those of age, and more where the expression presses the skin together."""
        areas = _areas(vertices, self._faces[: len(self.head.faces)])
        pressed = np.clip(self._areas / np.maximum(areas, 1e-12) - 1.0, 0, 0.6)
        return (0.12 + 0.5 * self.look.age) * (0.25 * self.look.age + 1.6 * pressed).astype(np.float32)

    def render(self, posed: Posed, camera: Camera, supersample: int = 2, truth: bool = False) -> Frame:
        """The frame of a posed person in a camera. truth: with depth and UV."""
        uvs, texture = self._stack.uvs, self._texture
        colors, normals, mask = render(
            posed.vertices, self._faces, posed.table, self._layer, uvs, texture, posed.lamps, camera, supersample
        )
        turned = normals @ mesh.map_axes(camera).T.astype(np.float32)
        depth, uv = self._places(posed, camera) if truth else (None, None)
        return Frame(
            image=np.clip(colors + (1 - mask[..., None]), 0, 1),
            mask=mask,
            normals=scaled_normals(turned, mask),
            depth=depth,
            uv=uv,
        )

    def _places(self, posed: Posed, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Depth (H, W) and UV (H, W, 2) at the pixels' centres."""
        seen = mesh.rasterize(posed.vertices, self._faces, camera)
        corners = self.head.uvs[self.head.faces_uv].numpy()
        skin = (seen.face >= 0) & (seen.face < len(corners))
        bare = mesh.Fragments(np.where(skin, seen.face, -1), seen.barycentrics, seen.depth)
        return seen.depth, np.where(skin[..., None], mesh.interpolate(bare, self.head.faces, corners), np.float32(-1))


@kept()
def _areas(vertices, faces):  # noqa: ANN001, ANN202
    """(V,) float64 area of the triangles around each vertex. vertices: (V, 3). faces: (F, 3)."""
    areas = np.zeros(len(vertices))
    for f in range(len(faces)):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[j, 0] - vertices[i, 0], vertices[j, 1] - vertices[i, 1], vertices[j, 2] - vertices[i, 2]
        vx, vy, vz = vertices[k, 0] - vertices[i, 0], vertices[k, 1] - vertices[i, 1], vertices[k, 2] - vertices[i, 2]
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        area = np.sqrt(x * x + y * y + z * z)
        areas[i] += area
        areas[j] += area
        areas[k] += area
    return areas
