"""The photograph baked into the head's UV layout, and what it does not show filled in.

Three sources, best first: the photograph where it sees the surface, the photograph at the mirrored point where it
sees that (its colours matched to this side), and a smooth fill from the nearest visible surface of the same kind, with
priors for teeth and mouth, which a photograph with a closed mouth never shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import torch
from scipy import ndimage, sparse
from scipy.spatial import cKDTree
from torch import Tensor

from geodiff.conditioning.reference import Reference
from geodiff.geometry import vertex_normals
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.types import Camera

#: Cosines between normal and view direction at which a surface begins to count as seen and counts fully (75, 60 deg).
FACING = (0.26, 0.5)
#: Depths behind the nearest surface (metres) at which a point begins to be hidden and is hidden.
DEPTH_TOLERANCE = (0.002, 0.005)
#: The same beside a depth discontinuity, where a small misfit would put the nearer surface's pixels on the farther one.
EDGE_TOLERANCE = (0.008, 0.016)
#: The matte is eroded by this share of the side before it counts, so that no background bleeds in.
MATTE_EROSION = 0.012
#: Distances (metres) over which a fill turns from the nearest visible colours into the mean of its kind.
FILL_RANGE = (0.02, 0.12)
#: Colours that a closed mouth hides, for a face of average brightness 0.55; gums and tongue at the front of the mouth
#: turn into its dark depth over MOUTH_DEPTH metres.
TEETH, GUMS, THROAT, REFERENCE_LUMINANCE = (0.84, 0.79, 0.71), (0.50, 0.22, 0.20), (0.10, 0.03, 0.03), 0.55
MOUTH_DEPTH = 0.022
#: Difference to the skin's colour (of the forehead) from which scalp counts as haired.
HAIR_CONTRAST = 0.12

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Chart:
    """Which surface point each texel of a (U, U) texture shows; row 0 is v = 1.

    texels: (N,) flat indices of the covered texels. fragments: their faces and barycentrics as a (1, N) image.
    nearest: (U, U) flat index of the nearest covered texel, to spread colours over the gutters.
    """

    size: int
    texels: np.ndarray
    fragments: mesh.Fragments
    nearest: np.ndarray

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values of the covered texels (N, C) -> a texture (U, U, C) without gaps."""
        full = np.zeros((self.size * self.size, values.shape[1]), np.float32)
        full[self.texels] = values
        return full[self.nearest]


_charts: WeakKeyDictionary[HeadModel, dict[int, Chart]] = WeakKeyDictionary()
_groups: WeakKeyDictionary[HeadModel, dict[str, np.ndarray]] = WeakKeyDictionary()
_smoothers: WeakKeyDictionary[HeadModel, sparse.csr_matrix] = WeakKeyDictionary()


def uv_chart(head: HeadModel, size: int) -> Chart:
    """The chart of a head at a texture size, made once for each head and size."""
    charts = _charts.setdefault(head, {})
    if size not in charts:
        corners = head.uvs[head.faces_uv].reshape(-1, 2)
        flat = torch.stack([corners[:, 0], 1.0 - corners[:, 1], torch.ones(len(corners))], 1)
        faces = torch.arange(len(corners)).reshape(-1, 3)
        K = torch.diag(torch.tensor([float(size), float(size), 1.0]))
        seen = mesh.rasterize(flat, faces, Camera(torch.eye(4), K, size, size))
        texels = np.flatnonzero(seen.mask)
        fragments = mesh.Fragments(
            np.ascontiguousarray(seen.face.reshape(1, -1)[:, texels]),
            np.ascontiguousarray(seen.barycentrics.reshape(1, -1, 3)[:, texels]),
            np.ones((1, len(texels)), np.float32),
        )
        rows, columns = ndimage.distance_transform_edt(~seen.mask, return_distances=False, return_indices=True)
        charts[size] = Chart(size, texels, fragments, rows * size + columns)
    return charts[size]


def vertex_groups(head: HeadModel) -> dict[str, np.ndarray]:
    """Kinds of surface that are filled from their own kind, name -> (V,) bool; every vertex is in exactly one."""
    if head not in _groups:
        regions = {name: mask.numpy() for name, mask in head.regions.items()}
        taken = np.zeros(head.num_vertices, bool)
        groups = {}
        for group in ("eyeballs", "teeth", "mouth_interior", "lips", "scalp"):
            groups[group] = regions[group] & ~taken
            taken |= groups[group]
        groups["skin"] = ~taken
        _groups[head] = groups
    return _groups[head]


class Visibility:
    """How well the reference sees points of the posed mesh; made once for each reference."""

    def __init__(self, head: HeadModel, reference: Reference, vertices: Tensor) -> None:
        matte = reference.mask if reference.detail_mask is None else reference.detail_mask
        self.size = max(matte.shape[0], 512)
        self.camera = reference.camera.resized(self.size, self.size)
        depth = mesh.rasterize(vertices, head.faces, self.camera).depth
        depth = np.where(depth > 0, depth, np.float32(1e3))
        self.near = cv2.erode(depth, np.ones((5, 5), np.uint8))
        # Outside the silhouette nothing hides a point: its own depth counts there.
        self.far = cv2.dilate(np.where(depth < 1e2, depth, 0.0).astype(np.float32), np.ones((3, 3), np.uint8))
        radius = max(1, round(MATTE_EROSION * self.size))
        fine = cv2.resize(matte, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        self.matte = cv2.blur(cv2.erode(fine, ellipse, borderType=cv2.BORDER_REPLICATE), (radius, radius))

    def __call__(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """points, normals: (N, 3) in the reference's world -> (N,) 0..1."""
        local = to_local(points, self.camera)
        pixels = to_pixels(local, self.camera)
        directions = normals @ self.camera.viewmat[:3, :3].numpy().T
        facing = -(directions * local).sum(-1) / np.maximum(np.linalg.norm(local, axis=-1), 1e-6)
        behind = local[:, 2] - sample(self.far, pixels)
        beside = local[:, 2] - sample(self.near, pixels)
        seen = smoothstep(facing, *FACING)
        seen *= 1.0 - smoothstep(behind, *DEPTH_TOLERANCE)
        seen *= 1.0 - smoothstep(beside, *EDGE_TOLERANCE)
        return seen * np.clip(2.0 * sample(self.matte, pixels) - 1.0, 0.0, 1.0)


def to_local(points: np.ndarray, camera: Camera) -> np.ndarray:
    """(N, 3) world -> camera space, OpenCV axes."""
    viewmat = camera.viewmat.numpy()
    return points @ viewmat[:3, :3].T + viewmat[:3, 3]


def to_pixels(local: np.ndarray, camera: Camera) -> np.ndarray:
    """(N, 3) camera space -> (N, 2) pixels."""
    K = camera.K.numpy()
    homogeneous = local @ K.T
    return (homogeneous[:, :2] / np.maximum(homogeneous[:, 2:], 1e-6)).astype(np.float32)


def sample(image: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Bilinear samples of an image (H, W) or (H, W, C) at pixels (N, 2), centres at +0.5 -> (N,) or (N, C)."""
    # cv2.remap takes maps of at most 32767 columns, so the points are laid out as a square.
    count = len(pixels)
    side = max(1, int(np.ceil(np.sqrt(count))))
    padded = np.zeros((side * side, 2), np.float32)
    padded[:count] = pixels - 0.5
    grid = padded.reshape(side, side, 2)
    out = cv2.remap(image, grid, np.empty(0), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return out.reshape(side * side, *image.shape[2:])[:count]


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below low, 1 above high, smooth between."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def bake(head: HeadModel, reference: Reference, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The completed texture of a reference, (U, U, 3) float32 0..1, and how much was seen directly, (U, U) 0..1."""
    chart = uv_chart(head, size)
    photo = reference.image if reference.detail is None else reference.detail
    camera = reference.camera.resized(photo.shape[1], photo.shape[0])
    vertices = head.vertices(reference.params)[0]
    normals = vertex_normals(vertices, head.faces)
    visibility = Visibility(head, reference, vertices)
    fill, matching = _fill_vertices(head, reference, vertices.numpy(), normals.numpy(), visibility)
    flip = head.mirror
    table = np.concatenate(
        [vertices.numpy(), normals.numpy(), vertices[flip].numpy(), normals[flip].numpy(), fill, matching], 1
    )
    texel = mesh.interpolate(chart.fragments, head.faces, table)[0]
    here, there, color, match = texel[:, :6], texel[:, 6:12], texel[:, 12:15], texel[:, 15:18]
    for points, gain in ((there, np.exp(match)), (here, None)):
        seen = visibility(points[:, :3], _unit(points[:, 3:]))
        pixels = to_pixels(to_local(points[:, :3], camera), camera)
        shown = sample(photo, pixels)
        shown = shown if gain is None else np.clip(shown * gain, 0.0, 1.0)
        color = color + seen[:, None] * (shown - color)
    texture = chart.spread(np.concatenate([color, seen[:, None]], 1))
    return np.ascontiguousarray(texture[..., :3]), np.ascontiguousarray(texture[..., 3])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _fill_vertices(
    head: HeadModel, reference: Reference, vertices: np.ndarray, normals: np.ndarray, visibility: Visibility
) -> tuple[np.ndarray, np.ndarray]:
    """Smooth colours (V, 3) for every vertex, and log gains (V, 3) that match mirrored colours to this side."""
    seen = visibility(vertices, normals)
    blurred = _blurred(reference, 0.012)
    camera = reference.camera.resized(blurred.shape[1], blurred.shape[0])
    color = sample(blurred, to_pixels(to_local(vertices, camera), camera))
    flip = head.mirror.numpy()
    place = head.shaped(reference.params, expression=False)[0].numpy()

    both = (np.minimum(seen, seen[flip]) > 0.5) & vertex_groups(head)["skin"]
    ratio = np.clip(np.log((color + 0.03) / (color[flip] + 0.03)), -0.4, 0.4)
    matching = np.zeros_like(color)
    if both.sum() > 50:
        spread = _nearest_mean(place[both], ratio[both], place, FILL_RANGE, np.zeros(3, np.float32))
        matching = np.where(both[:, None], ratio, spread)

    mirrored = np.clip(color[flip] * np.exp(matching), 0.0, 1.0)
    known = np.maximum(seen, 0.8 * seen[flip])
    color = np.where((seen >= 0.8 * seen[flip])[:, None], color, mirrored)
    filled = _fill_groups(head, place, color, known)
    blend = np.clip(known, 0.0, 1.0)[:, None]
    smooth = smoother(head)
    for _ in range(6):
        filled = blend * color + (1.0 - blend) * (smooth @ filled)
    return filled.astype(np.float32), (smooth @ (smooth @ matching)).astype(np.float32)


def _fill_groups(head: HeadModel, place: np.ndarray, color: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Each kind of surface from its own visible part; priors where a kind is not seen at all."""
    groups = vertex_groups(head)
    certain = known > 0.5
    skin = groups["skin"] & certain
    tone = np.median(color[skin], 0) if skin.sum() > 20 else np.array([0.7, 0.55, 0.47], np.float32)
    priors = _priors(place, groups, tone)
    filled = color.astype(np.float32).copy()
    for name, group in groups.items():
        target = group & (known < 0.999)
        source = group & certain
        if not target.any():
            continue
        if name == "scalp":
            source = _haired(source, color, _forehead(place, color, skin))
        # Teeth and mouth are shown by an open mouth only; a few texels between closed lips say nothing about them.
        enough = max(20, round((0.15 if name in ("teeth", "mouth_interior") else 0.02) * group.sum()))
        if source.sum() < enough:
            filled[target] = priors[name][target]
            continue
        mean = np.median(color[source], 0)
        filled[target] = _nearest_mean(place[source], color[source], place[target], FILL_RANGE, mean)
    return filled


def _priors(place: np.ndarray, groups: dict[str, np.ndarray], tone: np.ndarray) -> dict[str, np.ndarray]:
    """Colours (V, 3) of each kind for a photograph that does not show it, in its brightness and saturation."""
    light = float(np.clip(tone @ LUMA / REFERENCE_LUMINANCE, 0.35, 1.2))
    saturation = float(np.clip((tone.max() - tone.min()) / 0.15, 0.0, 1.0))
    front = place[groups["lips"], 2].max() if groups["lips"].any() else place[:, 2].max()
    depth = np.clip(front - 0.012 - place[:, 2], 0.0, None)
    inside = np.exp(-depth / MOUTH_DEPTH)[:, None]
    gums, throat = np.array(GUMS), np.array(THROAT)
    colors = {
        "teeth": np.array(TEETH) * light * (0.25 + 0.75 * inside),
        "mouth_interior": (throat + (gums - throat) * inside) * light,
        "eyeballs": np.array(TEETH) * 0.95 * light,
        "lips": tone * np.array([0.92, 0.68, 0.68]),
        "scalp": tone * 0.6,
        "skin": tone,
    }
    priors = {}
    for name, color in colors.items():
        grey = (color @ LUMA)[..., None]
        toned = color if name == "skin" else grey + saturation * (color - grey)
        priors[name] = np.broadcast_to(np.clip(toned, 0.0, 1.0), place.shape).astype(np.float32)
    return priors


def _forehead(place: np.ndarray, color: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """(3,) colour of the upper fifth of the visible skin (V,) bool."""
    if not skin.any():
        return np.zeros(3, np.float32)
    upper = skin & (place[:, 1] >= np.quantile(place[skin, 1], 0.8))
    return np.median(color[upper], 0)


def _haired(scalp: np.ndarray, color: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """Of the visible scalp (V,) bool, the part that differs from the forehead, where that is enough to fill from.

    The head's hairline and the person's differ; without this a high forehead would colour the back of the head.
    """
    haired = scalp & (np.abs(color - tone).max(-1) > HAIR_CONTRAST)
    return haired if haired.sum() > 0.15 * scalp.sum() else scalp


def _nearest_mean(
    sources: np.ndarray, values: np.ndarray, targets: np.ndarray, reach: tuple[float, float], far: np.ndarray
) -> np.ndarray:
    """Inverse-distance mean of the nearest sources' values, turning into `far` beyond `reach` metres. (N, C)."""
    if len(sources) > 4000:
        kept = np.linspace(0, len(sources) - 1, 4000).round().astype(int)
        sources, values = sources[kept], values[kept]
    count = min(40, len(sources))
    distance, index = cKDTree(sources).query(targets, k=count)
    distance, index = distance.reshape(len(targets), count), index.reshape(len(targets), count)
    weight = 1.0 / (distance + 0.003) ** 2
    mean = (weight[..., None] * values[index]).sum(1) / weight.sum(1)[:, None]
    away = smoothstep(distance[:, 0], *reach)[:, None]
    return (mean + away * (far - mean)).astype(np.float32)


def _blurred(reference: Reference, radius: float) -> np.ndarray:
    """The reference's image, blurred by `radius` (share of the side) inside its matte alone."""
    size = min(reference.size, 256)
    image = cv2.resize(reference.image, (size, size), interpolation=cv2.INTER_AREA)
    matte = cv2.resize(reference.mask, (size, size), interpolation=cv2.INTER_AREA)
    inside = cv2.erode(matte, np.ones((5, 5), np.uint8))[..., None]
    sigma = max(radius * size, 0.5)
    weight = cv2.GaussianBlur(inside, (0, 0), sigma)[..., None]
    return cv2.GaussianBlur(image * inside, (0, 0), sigma) / np.maximum(weight, 1e-3)


def smoother(head: HeadModel) -> sparse.csr_matrix:
    """(V, V) mean over each vertex and its neighbours within the surface."""
    if head not in _smoothers:
        faces, count = head.faces.numpy(), head.num_vertices
        rows = faces[:, [0, 1, 2, 1, 2, 0]].ravel()
        columns = faces[:, [1, 2, 0, 0, 1, 2]].ravel()
        links = sparse.coo_matrix((np.ones(len(rows), np.float32), (rows, columns)), (count, count)).tocsr()
        links.data[:] = 1.0
        links = links + sparse.identity(count, np.float32, format="csr")
        _smoothers[head] = sparse.diags(1.0 / np.asarray(links.sum(1)).ravel()).dot(links).astype(np.float32).tocsr()
    return _smoothers[head]
