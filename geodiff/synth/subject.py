"""One synthetic person with ground truth: frames, masks and normals in any camera and expression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from geodiff.conditioning.personal import personal_head, without_identity
from geodiff.conditioning.pixels import CoveredSamples, scaled_normals
from geodiff.conditioning.surface import sample
from geodiff.geometry import normals_to_map_axes
from geodiff.head.model import HeadModel
from geodiff.synth.appearance import Appearance, paint, random_appearance, wrinkles
from geodiff.synth.hair import HairStyle, beard_layer, hair_layers, random_style
from geodiff.synth.layers import Layer, Stack
from geodiff.synth.light import Lighting, ShadowMap, ambient_occlusion, random_lighting, shade
from geodiff.synth.wear import Wear, random_wear, under_hat, wear_layers
from geodiff.types import Camera, HeadParams


@dataclass(frozen=True)
class Frame:
    """image: (H, W, 3) float32 0..1 on white. mask: (H, W) 0..1. normals: (H, W, 3) in the axes of normal maps, hair
    included, zero outside."""

    image: np.ndarray
    mask: np.ndarray
    normals: np.ndarray


@dataclass(frozen=True)
class Posed:
    """One expression of a person, to be seen from any number of views.

    vertices: (N, 3) of head and hair. table: (N, 9) their places, normals, occlusion, shininess and folding. shadow:
    the shadow map, None where there is no directional light.
    """

    vertices: torch.Tensor
    table: np.ndarray
    shadow: ShadowMap | None


class Subject:
    """A random person on `head`, the same for the same seed. texture_size: side of the painted texture. natural: no
    colours that no person has, and nothing before the eyes but clear glasses."""

    def __init__(self, head: HeadModel, seed: int, texture_size: int = 768, natural: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.head = head
        shape = np.clip(rng.normal(0, 1, head.num_shape) * rng.uniform(0.6, 1.1), -2.5, 2.5)
        self.params: HeadParams = head.zeros().replace(shape=torch.as_tensor(shape, dtype=torch.float32))
        self.look: Appearance = random_appearance(rng, natural)
        self.style: HairStyle = random_style(rng)
        self.wear: Wear = random_wear(rng, eyes_free=natural)
        self.light: Lighting = random_lighting(rng)
        self._person = personal_head(head, self.params)
        self._rest = self._person.template
        self._stack = self._dressed(texture_size)
        self._faces = torch.as_tensor(self._stack.faces)
        self._texture = self._stack.texture
        self._texture[..., :3] **= np.float32(2.2)
        self._areas = _areas(self._rest.numpy(), head.faces.numpy())

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
        vertices = torch.from_numpy(points)
        dark = self.light.color.max() < 0.02
        shadow = None if dark else ShadowMap.make(vertices, self._faces, self.light.direction)
        folded = np.zeros((len(points), 1), np.float32)
        folded[: len(head), 0] = self._folding(head)
        return Posed(vertices, np.concatenate([points, normals, self._stack.static, folded], 1), shadow)

    def _folding(self, vertices: np.ndarray) -> np.ndarray:
        """(V,) how dark wrinkles are: those of age, and more where the expression presses the skin together."""
        areas = _areas(vertices, self.head.faces.numpy())
        pressed = np.clip(self._areas / np.maximum(areas, 1e-12) - 1.0, 0, 0.6)
        return (0.12 + 0.5 * self.look.age) * (0.25 * self.look.age + 1.6 * pressed).astype(np.float32)

    def render(self, posed: Posed, camera: Camera, supersample: int = 2) -> Frame:
        """The frame of a posed person in a camera."""
        samples = CoveredSamples.of(posed.vertices, self._faces, camera, supersample)
        surface = samples.interpolate(self._faces, posed.table)
        uv = samples.interpolate(self._faces, self._stack.uvs)
        # Both sides of hair are seen: its normals face the camera.
        towards = camera.center.numpy() - surface[:, :3]
        surface[:, 3:6] *= np.where((surface[:, 3:6] * towards).sum(1, keepdims=True) < 0, -1, 1)
        painted = sample(self._texture, uv * np.array(self._texture.shape[1::-1], np.float32))
        albedo = painted[:, :3] * (1 - np.clip(surface[:, 8:] * painted[:, 3:], 0, 0.6))
        colors = shade(albedo, surface, camera.center.numpy(), self.light, posed.shadow)
        turned = normals_to_map_axes(torch.from_numpy(surface[:, 3:6]), camera).numpy()
        layers, mask = samples.resolve(np.concatenate([colors, turned], 1))
        return Frame(
            image=np.clip(layers[..., :3] + (1 - mask[..., None]), 0, 1),
            mask=mask,
            normals=scaled_normals(layers[..., 3:6], mask),
        )


def _areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V,) area of the triangles around each vertex."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return sum(np.bincount(faces[:, k], area, len(vertices)) for k in range(3))
