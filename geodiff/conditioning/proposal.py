"""The conditioner: what one reference gives the generator in any camera, head pose and expression."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from geodiff.conditioning.fringe import Fringe
from geodiff.conditioning.lips import Lips
from geodiff.conditioning.personal import personal_head, without_identity
from geodiff.conditioning.pixels import Carried, Sheet, carry, scaled_normals
from geodiff.conditioning.reference import Reference, foreground_colors, without_expression
from geodiff.conditioning.texture import bake
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.raster.chart import to_local
from geodiff.types import POSE_WIDTHS, Camera, HeadParams

#: Samples a pixel along each axis.
SUPERSAMPLE = 2
#: Largest side of a texture that is chosen by itself.
MAX_TEXTURE = 1024
#: Pose maps kept; a clip holds its head pose, so one a view is enough.
KEPT_POSE_MAPS = 32
#: Posed heads kept: views of one frame, and its pose map, follow one another.
KEPT_POSES = 6


@dataclass(frozen=True)
class Condition:
    """What the generator is shown of one frame, all float32.

    pose_map: (S, S, 3) -1..1, normals of the posed head without expression and static offsets, zero outside.
    proposal: (S, S, 3) 0..1 on white, the portrait's pixels carried by the fitted mesh, hidden parts filled.
    normals: (S, S, 3) -1..1, the mesh's normals with expression and static offsets, zero outside.
    visibility: (S, S) 0..1, how well the portrait saw what the pixel shows. silhouette: (S, S) 0..1 coverage. mouth:
    (S, S) 0..1, how much of it is teeth and the inside of the mouth; beside: (S, S) 0..1, how much the portrait showed
    there beside the mesh, curls for instance (`Fringe`); the networks do not see these two.
    """

    pose_map: np.ndarray
    proposal: np.ndarray
    normals: np.ndarray
    visibility: np.ndarray
    silhouette: np.ndarray
    mouth: np.ndarray
    beside: np.ndarray


class Conditioner:
    """Conditions for one head and one reference; all that depends on the reference alone is computed once.

    The identity and the static offsets are always the reference's: of the parameters given to `render`, expression and
    pose count. texture_size: side of the UV texture that holds the hidden parts; None for twice the reference's,
    at most MAX_TEXTURE: half of its width is enough for what the photograph does not show.
    """

    def __init__(self, head: HeadModel, reference: Reference, texture_size: int | None = None) -> None:
        self.head = head
        self.reference = reference
        self.texture_size = texture_size or min(MAX_TEXTURE, 2 * reference.size)
        self._photo = foreground_colors(reference)
        self._photo_camera = reference.camera.resized(self._photo.shape[1], self._photo.shape[0])
        self._person = personal_head(head, reference.params, offsets=True)
        self._bare = personal_head(head, reference.params, offsets=False)
        self._corner_uvs = head.uvs[head.faces_uv].numpy()
        self._lips = Lips.of(self._person)
        self._pose_maps: dict[bytes, np.ndarray] = {}
        self._posed: dict[bytes, Tensor] = {}

    @cached_property
    def _baked(self) -> tuple[np.ndarray, np.ndarray]:
        return bake(self.head, self.reference, self.texture_size, self._photo)

    @property
    def texture(self) -> np.ndarray:
        """(U, U, 3) float32 0..1: the completed texture in the head's UV layout, row 0 at v = 1."""
        return self._baked[0]

    @property
    def texture_visibility(self) -> np.ndarray:
        """(U, U) float32 0..1: how much of the texture the photograph shows directly."""
        return self._baked[1]

    @cached_property
    def _photographed(self) -> np.ndarray:
        """(V, 3) metres, the head as the portrait shows it."""
        return self._person.vertices(without_identity(self.reference.params))[0].numpy()

    @cached_property
    def _carried(self) -> Carried:
        """What every frame shows of the reference; the normals (the last three columns of `table`) are the frame's."""
        places = to_local(self._photographed, self._photo_camera)
        inner = (self.head.regions["teeth"] | self.head.regions["mouth_interior"]).numpy()
        return Carried(
            faces=self.head.faces.numpy().astype(np.int32),
            table=np.concatenate([places, np.zeros_like(places)], 1, dtype=np.float32),
            uvs=np.stack([self._corner_uvs[..., 0], 1.0 - self._corner_uvs[..., 1]], -1).astype(np.float32),
            texture=np.concatenate([self.texture, self.texture_visibility[..., None]], 2, dtype=np.float32),
            photo=np.ascontiguousarray(self._photo, np.float32),
            intrinsics=self._photo_camera.K.numpy().astype(np.float32),
            inner=inner[self.head.faces.numpy()].all(1),
        )

    def render(self, params: HeadParams, camera: Camera) -> Condition:
        """The conditions of one frame.

        params: T = 1, canonical, of the reference's identity. camera: square, S pixels.
        """
        params = without_identity(params.detach())
        vertices, carried = self._vertices(self._person, params), self._carried
        normals = mesh.vertex_normals(vertices, carried.faces, mesh.map_axes(camera))
        carried = carried._replace(table=np.concatenate([carried.table[:, :3], normals], 1))
        beside = self._beside(vertices.numpy(), normals, camera)
        layers, silhouette = carry(vertices, carried, camera, SUPERSAMPLE, beside)
        if self._lips is not None:
            hidden = layers[..., 7:8] * (1.0 - layers[..., 6:7])
            layers[..., :3] *= 1.0 - (1.0 - self._lips.light(vertices.numpy())) * hidden
        return Condition(
            pose_map=self._pose_map(params, camera),
            proposal=np.clip(layers[..., :3] + (1.0 - silhouette[..., None]), 0.0, 1.0),
            normals=scaled_normals(layers[..., 3:6], silhouette),
            visibility=np.clip(layers[..., 6], 0.0, 1.0),
            silhouette=silhouette,
            mouth=np.clip(layers[..., 7], 0.0, 1.0),
            beside=np.clip(layers[..., 8], 0.0, 1.0),
        )

    @cached_property
    def _fringe(self) -> tuple[Fringe, np.ndarray]:
        """What stands beside the head in the portrait, and the portrait with its matte (D, D, 4)."""
        matte = self.reference.finest_mask
        matte = matte if self.reference.uncut is None else matte * self.reference.uncut
        fringe = Fringe.around(self._photographed, self._carried.faces, self._photo_camera, matte)
        return fringe, np.concatenate([self._photo, matte[..., None]], 2, dtype=np.float32)

    def _beside(self, vertices: np.ndarray, normals: np.ndarray, camera: Camera) -> Sheet | None:
        """For `carry`: the fringe of a posed head whose vertices (V, 3) have normals (V, 3)."""
        fringe, photo = self._fringe
        strength = fringe.strength(camera)
        if strength == 0 or not len(fringe.faces):
            return None
        turned = (fringe.weights[..., None] * normals[fringe.anchors]).sum(1)
        table = np.concatenate([fringe.places, turned], 1, dtype=np.float32)
        return Sheet(fringe.vertices(vertices), fringe.faces, table, photo, strength)

    def _pose_map(self, params: HeadParams, camera: Camera) -> np.ndarray:
        pose = (params.rotation, params.translation, params.neck_pose, camera.viewmat, camera.K)
        key = b"".join(value.numpy().tobytes() for value in pose) + bytes(f"{camera.width}x{camera.height}", "ascii")
        if key not in self._pose_maps:
            if len(self._pose_maps) >= KEPT_POSE_MAPS:
                self._pose_maps.pop(next(iter(self._pose_maps)))
            still = without_expression(params)
            self._pose_maps[key] = mesh.render_normals(
                self._vertices(self._bare, still), self.head.faces, camera, supersample=SUPERSAMPLE
            )
        return self._pose_maps[key]

    def _vertices(self, person: HeadModel, params: HeadParams) -> Tensor:
        """(V, 3) of `_person` or `_bare`: other views of one frame, and clips that hold still, ask for the same."""
        values = (params.expr, *(getattr(params, name) for name in POSE_WIDTHS))
        key = bytes(person is self._bare) + b"".join(value.numpy().tobytes() for value in values)
        if key not in self._posed:
            if len(self._posed) >= KEPT_POSES:
                self._posed.pop(next(iter(self._posed)))
            self._posed[key] = person.vertices(params)[0]
        return self._posed[key]
