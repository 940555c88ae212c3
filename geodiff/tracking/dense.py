"""The face's own texture as a witness: where points of its surface went, from picture to picture.

Landmarks name places, but not precisely: each picture's err by a millimetre or two in its own way, so a head that
stands still seems to shake, and cameras do not quite agree. The skin itself tells better. The pictures are brought
to the mesh and averaged; the mean texture is drawn where the fit believes the face to be, and optical flow (Kroeger
et al. 2016, DIS) says where each point of it is seen instead. These places are told to the fit, and all is done again.
VHAP (Qian 2024) and its predecessors ask the same of pixels by a photometric loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from geodiff.geometry import vertex_normals
from geodiff.head.model import HeadModel, LandmarkEmbedding
from geodiff.raster import mesh
from geodiff.raster.chart import Chart, sample, to_local, to_pixels, uv_chart
from geodiff.tracking.face_model import FaceModel
from geodiff.tracking.fit import FitState
from geodiff.tracking.settings import DenseConfig
from geodiff.tracking.systems import Normals
from geodiff.types import Camera, HeadParams

#: Regions of the face whose look changes with what moves beside them: lids, eyes, and what lips hide.
_LIVELY = ("eyes", "eyeballs", "teeth", "mouth_interior")
#: Side of a crop as a multiple of the face's, and by how much of it the crop lies higher.
_EXTENT, _RAISED = {"face": 1.25, "skull": 2.2}, {"face": 0.0, "skull": 0.12}
#: Side of the mean texture, of which the face takes about a third.
_TEXTURE = 384
#: Cosines between a point's normal and the direction to the camera below which it does not count.
_FACING = 0.3
#: The same of the skull, whose outline is not that of the hair over it.
_INNER = 0.6
#: Metres by which a point may lie behind what is drawn and count as seen.
_BEHIND = 0.004


@dataclass(frozen=True)
class Crop:
    """A face cut out of a picture. gray: (S, S) float32, brightness with its local mean and spread taken out. zoom,
    corner: pixels of the picture (x, y) are zoom * (x - corner) in the crop."""

    gray: np.ndarray
    zoom: float
    corner: np.ndarray

    def camera(self, camera: Camera) -> Camera:
        """The crop's, of the picture's."""
        side, K = len(self.gray), camera.K.clone()
        K[:2] *= self.zoom
        K[:2, 2] -= torch.as_tensor(self.zoom * self.corner, dtype=K.dtype)
        return Camera(camera.viewmat, K, side, side)

    def back(self, points: np.ndarray) -> np.ndarray:
        """Places in the crop (N, 2) -> in the picture."""
        whole: np.ndarray = points / self.zoom + self.corner
        return whole


def cut_out(image: np.ndarray, points: np.ndarray, side: int, part: str = "face") -> Crop:
    """The crop of side `side` around landmarks (478, 2) of an image (H, W, 3) uint8; of a part as in `Surface`."""
    low, high = points.min(0), points.max(0)
    width = _EXTENT[part] * float((high - low).max())
    corner = (low + high - width) / 2 - [0.0, _RAISED[part] * width]
    zoom = side / width
    # Averaged before it is made smaller, so that nothing flickers.
    gray = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
    if zoom < 1:
        gray = np.asarray(cv2.GaussianBlur(gray, (0, 0), 0.4 / zoom), np.float32)
    warp = np.array([[zoom, 0, zoom * (0.5 - corner[0]) - 0.5], [0, zoom, zoom * (0.5 - corner[1]) - 0.5]])
    cut = cv2.warpAffine(gray, warp, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return Crop(_normalised(cut, side / 14), zoom, corner)


def _normalised(gray: np.ndarray, spread: float) -> np.ndarray:
    """Brightness (S, S) without its local mean, over its local spread: light from elsewhere changes little of it."""
    mean = cv2.GaussianBlur(gray, (0, 0), spread)
    apart = gray - mean
    found: np.ndarray = apart / (np.sqrt(cv2.GaussianBlur(apart**2, (0, 0), spread)) + 2.0)
    return found


@dataclass(frozen=True)
class Tied:
    """Where points of the surface were seen in N frames.

    targets: (N, P, 2) pixels. roots: (N, P) inverse standard deviations, 0 where a point was not seen. limit: residuals
    beyond so many of them lose their pull.
    """

    face: FaceModel
    middle: np.ndarray
    targets: np.ndarray
    roots: np.ndarray
    limit: float

    def __getitem__(self, part: slice | np.ndarray) -> Tied:
        return replace(self, targets=self.targets[part], roots=self.roots[part])

    def _apart(self, state: FitState) -> tuple[np.ndarray, np.ndarray]:
        pixels = self.face.project(state.log_focal, state.shape, state.frames, self.middle)
        apart = self.roots[..., None] * (pixels - self.targets)
        return apart, (apart**2).sum(2)

    def energies(self, state: FitState) -> np.ndarray:
        squared, limit = self._apart(state)[1], self.limit**2
        found: np.ndarray = (squared * limit / (squared + limit)).sum(1)
        return found

    def add(self, normals: Normals, state: FitState, shared: bool) -> None:
        apart, squared = self._apart(state)
        pull = self.limit**2 / (squared + self.limit**2)
        whitening = (self.roots * pull)[..., None, None] * np.eye(2)
        matrix, gradient = self.face.gauss_newton(
            state.log_focal, state.shape, state.frames, self.middle, shared, whitening, apart * pull[..., None]
        )
        local = normals.frames.shape[1]
        normals.frames += matrix[:, :local, :local]
        normals.gradient.frames += gradient[:, :local]
        if shared:
            normals.cross += matrix[:, :local, local:]
            normals.shared += matrix[:, local:, local:].sum(0)
            normals.gradient.shared += gradient[:, local:].sum(0)


class Surface:
    """A part of a head as a textured surface, and the points of it that are followed.

    part: "face", or "skull" for scalp and ears: they only move with the head, but hair and hats stand off them, so what
    they look like is the same in pictures by one camera alone.
    """

    def __init__(self, head: HeadModel, config: DenseConfig, part: str = "face") -> None:
        self.head, self.config, self.part = head, config, part
        regions, faces = {name: mask.numpy() for name, mask in head.regions.items()}, head.faces.numpy()
        lively = np.any([regions[name] for name in _LIVELY], 0)
        if part == "face":
            chosen, count, self.facing = regions["face"] & ~lively, config.points, _FACING
        else:
            chosen, count, self.facing = (regions["scalp"] | regions["ears"]) & ~regions["face"], config.skull, _INNER
        self.faces = chosen[faces].all(1)
        self.points = _embedded(head, self.faces, count)
        self.model = FaceModel(replace(head, landmarks=self.points))
        self.chart = _chart(head, self.faces)
        self._uvs = head.uvs[head.faces_uv].numpy()

    def texture(self, crops: Mapping[tuple[int, int], Crop], params: HeadParams, cameras: list[Camera]) -> np.ndarray:
        """(U, U) the mean of what the crops (time, camera) show."""
        total = np.zeros(len(self.chart.texels), np.float64)
        weight = np.full(len(total), 1e-6)
        for t in sorted({t for t, _ in crops}):
            vertices, normals = self._posed(params, t)
            own = self.chart.fragments
            points, upright = (mesh.interpolate(own, self.head.faces, of)[0] for of in (vertices, normals))
            for (_, c), crop in sorted((cell, crop) for cell, crop in crops.items() if cell[0] == t):
                camera = crop.camera(cameras[c])
                depth = mesh.rasterize(vertices, self.head.faces, camera).depth
                local = to_local(points, camera)
                seen = _seen(local, upright, camera, depth, self.facing) ** 2
                total += seen * sample(crop.gray, to_pixels(local, camera))
                weight += seen
        values = (total / weight).astype(np.float32)
        return self.chart.spread(values[:, None])[..., 0]

    def followed(
        self, crop: Crop, texture: np.ndarray, params: HeadParams, t: int, camera: Camera
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the points are seen in a crop's picture, (P, 2) pixels, and (P,) bool whether they are."""
        own = crop.camera(camera)
        vertices, normals = self._posed(params, t)
        seen = mesh.rasterize(vertices, self.head.faces, own)
        drawn = self._drawn(seen, texture, crop.gray)
        ahead, behind = _flow(drawn, crop.gray), _flow(crop.gray, drawn)
        points, upright = (self.points.points(of, self.head.faces).numpy() for of in (vertices, normals))
        local = to_local(points, own)
        places = to_pixels(local, own)
        went = sample(ahead, places)
        returned = sample(behind, places + went)
        good = _seen(local, upright, own, seen.depth, self.facing) > 0
        good &= ((places > 2) & (places < len(crop.gray) - 2)).all(1)
        good &= np.linalg.norm(went + returned, axis=1) < self.config.agree * len(crop.gray)
        good &= np.linalg.norm(went, axis=1) < self.config.reach * len(crop.gray)
        return crop.back(places + went), good

    def _posed(self, params: HeadParams, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        vertices = self.head.vertices(params.frame(t).replace(static_offset=None))[0]
        return vertices, vertex_normals(vertices, self.head.faces)

    def _drawn(self, seen: mesh.Fragments, texture: np.ndarray, gray: np.ndarray) -> np.ndarray:
        """The texture where its faces are seen, the picture elsewhere: there nothing flows."""
        uvs = mesh.interpolate(seen, self.head.faces, self._uvs)
        places = np.stack([uvs[..., 0], 1 - uvs[..., 1]], -1).reshape(-1, 2) * len(texture)
        drawn = sample(texture, places.astype(np.float32)).reshape(gray.shape)
        return np.where(seen.mask & self.faces[np.maximum(seen.face, 0)], drawn, gray)


def _seen(local: np.ndarray, normals: np.ndarray, camera: Camera, depth: np.ndarray, least: float) -> np.ndarray:
    """(N,) cosine to the camera of points in its space, 0 where they look away or something hides them."""
    turned = normals @ camera.viewmat[:3, :3].numpy().T
    facing = -(turned * local).sum(1) / np.maximum(np.linalg.norm(turned, axis=1) * np.linalg.norm(local, axis=1), 1e-9)
    front = sample(np.where(depth > 0, depth, np.float32(1e3)), to_pixels(local, camera))
    seen: np.ndarray = np.where((facing > least) & (local[:, 2] < front + _BEHIND), facing, 0.0)
    return seen


def _flow(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(S, S, 2) pixels by which what `source` shows is seen elsewhere in `target`."""
    first, second = (np.clip(128 + 42 * image, 0, 255).astype(np.uint8) for image in (source, target))
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    found: np.ndarray = dis.calc(first, second, np.zeros((*source.shape, 2), np.float32))
    return found


def _embedded(head: HeadModel, faces: np.ndarray, count: int) -> LandmarkEmbedding:
    """So many points spread evenly over some faces (F,) bool."""
    corners = head.template[head.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1).numpy() * faces
    rng = np.random.default_rng(0)
    # One in each of as many equal shares of the area, in the faces' order.
    places = (np.arange(count) + rng.random(count)) / count * area.sum()
    chosen = np.minimum(np.searchsorted(np.cumsum(area), places), len(faces) - 1)
    weights = torch.as_tensor(rng.dirichlet([2.0, 2.0, 2.0], count), dtype=torch.float32)
    return LandmarkEmbedding(torch.arange(count), torch.as_tensor(chosen), weights)


def _chart(head: HeadModel, faces: np.ndarray) -> Chart:
    """The head's chart, of some faces alone."""
    whole = uv_chart(head, _TEXTURE)
    own = np.flatnonzero(faces[whole.fragments.face[0]])
    fragments = mesh.Fragments(
        np.ascontiguousarray(whole.fragments.face[:, own]),
        np.ascontiguousarray(whole.fragments.barycentrics[:, own]),
        np.ascontiguousarray(whole.fragments.depth[:, own]),
    )
    return replace(whole, texels=whole.texels[own], fragments=fragments)
