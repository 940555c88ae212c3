"""One synthetic person with ground truth: frames, masks and normals in any camera and expression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from geodiff.conditioning.personal import personal_head, without_identity
from geodiff.conditioning.pixels import CoveredSamples, scaled_normals
from geodiff.conditioning.surface import sample
from geodiff.geometry import normals_to_map_axes, vertex_normals
from geodiff.head.model import HeadModel
from geodiff.synth.appearance import Appearance, paint, paint_hair, random_appearance
from geodiff.synth.hair import HairStyle, grow_hair, random_style, scalp_shell
from geodiff.synth.light import Lighting, ShadowMap, ambient_occlusion, random_lighting, shade
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

    vertices: (N, 3) of head and hair. table: (N, 8) their places, normals, occlusion and shininess. shadow: the shadow
    map, None where there is no directional light.
    """

    vertices: torch.Tensor
    table: np.ndarray
    shadow: ShadowMap | None


class Subject:
    """A random person on `head`, the same for the same seed. texture_size: side of the painted texture. natural: no
    colours that no person has."""

    def __init__(self, head: HeadModel, seed: int, texture_size: int = 768, natural: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.head = head
        shape = np.clip(rng.normal(0, 1, head.num_shape) * rng.uniform(0.6, 1.1), -2.5, 2.5)
        self.params: HeadParams = head.zeros().replace(shape=torch.as_tensor(shape, dtype=torch.float32))
        self.look: Appearance = random_appearance(rng, natural)
        self.style: HairStyle = random_style(rng)
        self.light: Lighting = random_lighting(rng)
        self._person = personal_head(head, self.params)
        # Skin above, hair below: the shell's hair hides the head's own paint.
        layers = [paint(head, self.look, texture_size), paint_hair(head, self.look, texture_size)]
        self._texture = np.concatenate(layers) ** np.float32(2.2)
        shaped = head.shaped(self.params, expression=False)[0]
        hair = grow_hair(head, shaped, self.style, self.look)
        self._hair = None if hair is None else torch.as_tensor(hair)
        self._faces, self._corner_uvs, self._static = self._surface()

    def _surface(self) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """Triangles of head and hair, their corners' places in the texture (0..1, from the top), and occlusion and
        shininess of each vertex (N, 2)."""
        head = self.head
        shine = np.full(head.num_vertices, 0.06, np.float32)
        shine[head.regions["lips"].numpy()] = 0.25
        shine[head.regions["teeth"].numpy() | head.regions["mouth_interior"].numpy()] = 0.35
        shine[head.regions["eyeballs"].numpy()] = 1.0
        static = np.stack([ambient_occlusion(head), shine], 1)
        uvs = head.uvs[head.faces_uv].numpy()
        uvs = np.stack([uvs[..., 0], (1 - uvs[..., 1]) / 2], -1)
        if self._hair is None:
            return head.faces, uvs, static
        shell = scalp_shell(head)
        faces = torch.cat([head.faces, torch.as_tensor(shell.faces) + head.num_vertices])
        hair_uvs = np.stack([shell.corner_uvs[..., 0], 0.5 + (1 - shell.corner_uvs[..., 1]) / 2], -1)
        hair = np.tile(np.array([[0.85, 0.04]], np.float32), (len(self._hair), 1))
        return faces, np.concatenate([uvs, hair_uvs]), np.concatenate([static, hair])

    def pose(self, params: HeadParams) -> Posed:
        """The person in the expression of `params` (T = 1; the head itself stays at rest)."""
        vertices = self._person.vertices(without_identity(params))[0]
        if self._hair is not None:
            vertices = torch.cat([vertices, self._hair])
        normals = vertex_normals(vertices, self._faces)
        dark = self.light.color.max() < 0.02
        shadow = None if dark else ShadowMap.make(vertices, self._faces, self.light.direction)
        return Posed(vertices, np.concatenate([vertices.numpy(), normals.numpy(), self._static], 1), shadow)

    def render(self, posed: Posed, camera: Camera, supersample: int = 2) -> Frame:
        """The frame of a posed person in a camera."""
        samples = CoveredSamples.of(posed.vertices, self._faces, camera, supersample)
        surface = samples.interpolate(self._faces, posed.table)
        uv = samples.interpolate(self._faces, self._corner_uvs)
        albedo = sample(self._texture, uv * np.array(self._texture.shape[1::-1], np.float32))
        colors = shade(albedo, surface, camera.center.numpy(), self.light, posed.shadow)
        turned = normals_to_map_axes(torch.from_numpy(surface[:, 3:6]), camera).numpy()
        layers, mask = samples.resolve(np.concatenate([colors, turned], 1))
        return Frame(
            image=np.clip(layers[..., :3] + (1 - mask[..., None]), 0, 1),
            mask=mask,
            normals=scaled_normals(layers[..., 3:6], mask),
        )
