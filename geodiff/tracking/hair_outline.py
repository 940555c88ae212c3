"""What a picture says about hair: the matte's outline against the mesh's, and colours that tell hair from the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from scipy import ndimage, sparse

from geodiff.geometry import project, smoothstep
from geodiff.head.model import HeadModel
from geodiff.raster.mesh import Fragments, rasterize
from geodiff.tracking.hair_color import hair_likelihood
from geodiff.tracking.hair_ears import SeenEar, covered_ears
from geodiff.tracking.hair_hanging import BELOW_EARS, NO_GAP, below_ears, hanging, hung, widest
from geodiff.tracking.hair_rays import ARCH, DEPTH, ROW, rays_around, row_of_ears, window, window_camera
from geodiff.tracking.hair_surface import HairSurface
from geodiff.tracking.tones import LEAST, NO_SKIN, SHADOW, Tones
from geodiff.types import Camera, HeadParams

#: Metres by which a visible ear's outline is believed to differ from the fitted one's.
EAR_SHIFT = 0.010
#: Metres within the outline over which its likelihood of hair is taken.
EDGE = 0.010
#: Metres on both sides of the upper outline within which strands and gaps between them count.
WISPS = 0.012
#: Metres over which strands that hang make a mass or do not.
STRANDS = 0.004
#: Metres by which hair usually stands off the skull, where the picture ends below the crown and shows some; and the
#: share of the matte that has to have its colour.
USUAL, SOME = 0.016, 0.004
#: Rays beside those that leave the picture that may end at its border, and over how many neighbours tell.
ASKEW, NEIGHBOURS = 3, 20
#: Weight of such a ray beside one that ends in the picture.
GUESSED = 0.3


@dataclass(frozen=True)
class Evidence:
    """The outline's equations: rows (R, V) @ amount = target (R,) metres, each with a weight (R,) in metres.

    level: (V,) metres, what the upper outline and the sides suggest for the back.
    """

    rows: sparse.csr_matrix
    target: np.ndarray
    weight: np.ndarray
    level: np.ndarray


@dataclass(frozen=True)
class Belief:
    """What the picture says before anything has moved.

    covered: (2,) 0 or 1 whether hair covers each ear, as `HairSurface.ears`. person: (R,) radius in pixels at which the
    matte ends on each ray.
    cut: (R,) bool, the picture ends there first. hair: (R,) 0..1 whether the matte beyond the bald mesh is hair.
    behind: (R,) bool, face or ears are in front of what can move. ear: (R,) bool, a ray that leaves the bald mesh at a
    visible ear which no hair overhangs. low: height in metres, at rest, where the hair that hangs ends.
    """

    covered: np.ndarray
    person: np.ndarray
    cut: np.ndarray
    hair: np.ndarray
    behind: np.ndarray
    ear: np.ndarray
    low: float


@dataclass(frozen=True)
class View:
    """The picture around the head at a working size, and rays in it.

    matte: (h, w) 0..1, known: (h, w) bool, inside the picture. likelihood: (h, w) 0..1 hair by its colour, skin: (h, w)
    bool what has the face's colours, or None.
    origin, unit: (R, 2) pixels. side: (R,) -1, 1 for the rays below the skull's middle, 0 for those above. radii: (N,).
    """

    camera: Camera
    faces: np.ndarray
    moving: np.ndarray
    matte: np.ndarray
    known: np.ndarray
    likelihood: np.ndarray | None
    skin: np.ndarray | None
    origin: np.ndarray
    unit: np.ndarray
    side: np.ndarray
    radii: np.ndarray
    metres: float
    bald: Fragments
    paths: np.ndarray

    @staticmethod
    def around(
        head: HeadModel,
        params: HeadParams,
        camera: Camera,
        surface: HairSurface,
        matte: np.ndarray,
        image: np.ndarray | None,
        pixels: int,
    ) -> View:
        """The view of a fitted head; `pixels`: height of face and scalp in it."""
        bald = head.vertices(params, offsets=False)[0]
        skull = (head.regions["face"] | head.regions["scalp"]).numpy()
        points = project(bald, camera)[0].double().numpy()
        low, high = points[skull].min(0), points[skull].max(0)
        scale = pixels / max(float(high[1] - low[1]), 1.0)
        margin = 0.45 * pixels / scale
        x0, y0 = np.floor(low - margin).astype(int)
        x1, y1 = np.ceil(high + margin + [0, 0.35 * pixels / scale]).astype(int)
        x0, y0 = min(x0, camera.width - 2), min(y0, camera.height - 2)
        size = (max(8, round((x1 - x0) * scale)), max(8, round((y1 - y0) * scale)))
        near = window_camera(camera, (x0, y0, x1, y1), size)
        box = (x0, y0, x1, y1)
        known = window(np.ones(matte.shape, np.float32), box, size) > 0.99
        small = window(np.clip(matte, 0, 1).astype(np.float32), box, size)
        fragments = rasterize(bald, head.faces, near)
        likelihood = skin = None
        if image is not None:
            picture = window(image, box, size)
            likelihood = hair_likelihood(picture, small, fragments, head, row_of_ears(bald, near, surface))
            skin = _skin(picture, small, fragments, head)
        origin, unit, side, metres = rays_around(bald, near, surface, params, head)
        radii = np.arange(0.0, 0.5 * max(size), 0.5)
        paths = (origin[:, None] + unit[:, None] * radii[:, None] - 0.5).astype(np.float32)
        return View(
            near, head.faces.numpy(), surface.moving(), small, known, likelihood, skin,
            origin, unit, side, radii, metres, fragments, paths,
        )  # fmt: skip

    def over(self, surface: HairSurface) -> View:
        """The same view of a surface of which more, or less, can move."""
        return replace(self, moving=surface.moving())

    def along(self, image: np.ndarray, outside: float = 0.0) -> np.ndarray:
        """(R, N) values of an image (h, w) along the rays."""
        return cv2.remap(image.astype(np.float32), self.paths, np.empty(0), cv2.INTER_LINEAR,
                         borderMode=cv2.BORDER_CONSTANT, borderValue=(outside,))  # fmt: skip

    def believe(self, surface: HairSurface, vertices: np.ndarray) -> Belief:
        """Compare the matte with the bald mesh, posed vertices (V, 3)."""
        points = torch.as_tensor(vertices)
        whole = Rim.of(self, points, np.ones(len(self.faces), bool))
        ears = surface.ears[0] | surface.ears[1]
        skull = Rim.of(self, points, self.moving & ~ears[self.faces].any(1))
        at_ears = [(whole.weights * ear[whole.corners]).sum(1) > 0.5 for ear in surface.ears]
        person = self._person(0.7 * skull.radius)
        gap = (person - whole.radius) * self.metres
        colour = self._between(whole.radius - 2, person)
        covered = covered_ears(
            [self._seen_ear(ear, gap, colour, at) for ear, at in zip(surface.ears, at_ears, strict=True)]
        )
        visible = np.any([at & (one < 0.5) for at, one in zip(at_ears, covered, strict=True)], axis=0)
        # Over a visible ear the matte may show hair, or the ear itself standing out more than the fitted one.
        beyond = gap > NO_GAP
        behind = (whole.radius - skull.radius) * self.metres > 0.002
        hair = np.where(visible, beyond & (colour > 0.6) & (self.likelihood is not None), beyond | ~behind) * 1.0
        sides = [np.flatnonzero(self.side == side) for side in (-1, 1)]
        below = np.array([below_ears(gap[rays], colour[rays], visible[rays]) for rays in sides])
        hangs = self.likelihood is not None and (np.nanmean(below) if np.isfinite(below).any() else 0.0) > BELOW_EARS
        if max(covered.max(), float(hangs)) > 0:
            mass = self._mass()
            person = np.where(mass > whole.radius + NO_GAP / self.metres, mass, person)
            gap = (person - whole.radius) * self.metres
            colour = self._between(whole.radius - 2, person)
        edge = self._between(person - EDGE / self.metres, person)
        flare = widest(edge if self.likelihood is not None else 0 * edge)
        known = self.known[self._pixel(np.zeros(len(person)))]
        low = np.inf
        for side, rays in zip((-1, 1), sides, strict=True):
            own = float(covered[self._ear_of(surface, points, side)])
            shown = np.where(visible[rays], 1.0, colour[rays])
            part = hanging(person[rays] * self.metres, gap[rays], shown, flare[rays])
            # Beside the ears the ears tell, below them whether hair hangs there.
            lowest = surface.rest[ears, 1].min() if ears.any() else surface.centre[1]
            beside = np.arange(1, len(rays) + 1) * ROW < surface.centre[1] - lowest
            hair[rays] *= part * np.where(beside, 1.0, max(own, float(hangs)))
            low = min(low, surface.centre[1] - ROW * hung(hair[rays], known[rays], own))
        cut = ~self.known[self._pixel(person + 2)]
        return Belief(covered, person, cut, hair, behind, visible & (hair < 0.5), low)

    def _mass(self) -> np.ndarray:
        """(R,) radius in pixels at which what has the hair's colour ends on the rays that go sideways; 0 on the others,
        and where there is none."""
        if self.likelihood is None:
            return np.zeros(len(self.side))
        likely = np.where(self.likelihood > 0.5, self.matte, np.float32(0))
        hair = cv2.GaussianBlur(likely.astype(np.float32), (0, 0), STRANDS / self.metres)
        return np.where(self.side != 0, self._farthest(hair), 0.0)

    def _ear_of(self, surface: HairSurface, points: torch.Tensor, side: int) -> int:
        """Number of the ear that is on a side of the picture. points: (V, 3) posed vertices."""
        if not (surface.ears[0].any() and surface.ears[1].any()):
            return int(surface.ears[1].any())
        across = project(points.float(), self.camera)[0][:, 0].numpy()
        left, right = (float(across[ear].mean()) for ear in surface.ears)
        return int(right * side > left * side)

    def _seen_ear(self, ear: np.ndarray, gap: np.ndarray, colour: np.ndarray, outline: np.ndarray) -> SeenEar:
        """ear: (V,) bool. gap, colour: (R,) of the rays. outline: (R,) bool, rays that leave the mesh at the ear."""
        shown = ear[self.faces].all(1)[np.maximum(self.bald.face, 0)] & self.bald.mask
        inside = shown & (self.matte > 0.9)
        outline = outline & (self.side != 0)
        beyond, enough = shown.any() and outline.sum() >= 4, inside.sum() >= 40
        return SeenEar(
            gap=float(np.median(gap[outline])) if beyond else None,
            colour=float(np.median(colour[outline])) if beyond else None,
            hair=float((self.likelihood[inside] > 0.5).mean()) if self.likelihood is not None and enough else None,
            skin=float(self.skin[inside].mean()) if self.skin is not None and enough else None,
        )

    def _between(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """(R,) mean likelihood of hair between two radii (R,); 1 where no colours are known."""
        if self.likelihood is None:
            return np.ones(len(start))
        inside = (self.radii[None] > start[:, None]) & (self.radii[None] < end[:, None])
        return (self.along(self.likelihood) * inside).sum(1) / np.maximum(inside.sum(1), 1)

    def shows_hair(self) -> bool:
        """Whether some of the person has hair's colour, where colours are known."""
        if self.likelihood is None:
            return True
        person = self.matte > 0.5
        return bool((self.likelihood[person] > 0.5).sum() > SOME * max(person.sum(), 1))

    def _pixel(self, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of the pixels at radius (R,) along the rays."""
        where = np.floor(self.origin + self.unit * radius[:, None]).astype(int)
        height, width = self.matte.shape
        return where[:, 1].clip(0, height - 1), where[:, 0].clip(0, width - 1)

    def _farthest(self, mask: np.ndarray) -> np.ndarray:
        """(R,) radius in pixels of the farthest point of a mask (h, w) on each ray; 0 where there is none."""
        inside = self.along(mask) > 0.5
        last = inside.shape[1] - 1 - inside[:, ::-1].argmax(1)
        return np.where(inside.any(1), self.radii[last], 0.0)

    def _person(self, start: np.ndarray) -> np.ndarray:
        """(R,) radius in pixels at which the matte, followed outwards from `start`, ends."""
        along = np.where(self.along(self.known.astype(np.float32)) > 0.99, self.along(self.matte), 0.0)
        along = np.where(self.radii[None] < start[:, None], 1.0, along)
        first = (along < 0.5).argmax(1)
        first = np.where((along >= 0.5).all(1), along.shape[1] - 1, np.maximum(first, 1))
        rows = np.arange(len(along))
        inner, outer = along[rows, first - 1], along[rows, first]
        part = np.clip((inner - 0.5) / np.maximum(inner - outer, 1e-6), 0, 1)
        radius = self.radii[first - 1] + 0.5 * part
        # Above, the outline leaves as much of the matte outside as it covers of what is none.
        away, near = self.radii[None] - radius[:, None], WISPS / self.metres
        strands = (along * ((away >= 0) & (away < near))).sum(1)
        gaps = ((1 - along) * ((away < 0) & (away >= -near))).sum(1)
        return radius + np.where(self.side == 0, 0.5 * (strands - gaps), 0.0)


def look(
    view: View, belief: Belief, vertices: np.ndarray, reach: np.ndarray, amount: np.ndarray, surface: HairSurface
) -> Evidence:
    """Compare the outline of the mesh with offsets `amount` (V,) with the matte's.

    vertices: (V, 3) posed, offsets included. reach: (V, 3) how a unit of offset moves each vertex in the world.
    """
    points = torch.as_tensor(vertices)
    ears = np.any([ear & (one < 0.5) for ear, one in zip(surface.ears, belief.covered, strict=True)], axis=0)
    whole = Rim.of(view, points, np.ones(len(view.faces), bool))
    moving = Rim.of(view, points, view.moving & ~ears[view.faces].any(1))
    # What makes the outline itself is pulled to the matte; what lies behind face or ears, where hair shows beyond them.
    mine = (whole.radius - moving.radius) * view.metres < 0.002
    behind = belief.behind & ((belief.person - whole.radius) * view.metres > -0.002)
    weight = moving.seen * belief.hair * (mine | behind)
    weight = weight * (moving.weights * surface.free[moving.corners]).sum(1) ** 2
    gap = (belief.person - np.where(mine, whole.radius, moving.radius)) * view.metres
    risen = (moving.weights * amount[moving.corners]).sum(1)
    gap, weight = _beyond_the_picture(gap, weight, belief.cut, view.side, risen, USUAL * view.shows_hair())
    rows, target, length = moving.equations(view, reach, amount, _along(gap, weight, view.side))
    # A ray that runs along its surface says little about how far out that is.
    weight = weight * smoothstep(length, 0.2, 0.6)
    level = _level(view, surface, moving, target / np.maximum(length, 0.3), weight)

    shift = np.clip((belief.person - whole.radius) * view.metres, -EAR_SHIFT, EAR_SHIFT)
    ear_rows, ear_target, _ = whole.equations(view, reach, amount, shift)
    at_ear = (whole.weights * ears[whole.corners]).sum(1) > 0.5
    ear_weight = 0.5 * belief.ear * at_ear * whole.seen * ~belief.cut
    spacing = np.where(view.side == 0, np.pi / (ARCH - 1) * np.maximum(whole.radius, 1) * view.metres, ROW)
    return Evidence(
        sparse.vstack([rows, ear_rows]).tocsr(),
        np.concatenate([target, ear_target]),
        np.concatenate([weight * spacing, ear_weight * spacing]),
        level,
    )


def _skin(picture: np.ndarray, matte: np.ndarray, bald: Fragments, head: HeadModel) -> np.ndarray | None:
    """(h, w) bool what of a picture (h, w, 3) uint8 has the colours of the face; None where hardly any of it is
    seen."""
    features = (head.regions["eyes"] | head.regions["lips"]).numpy()
    face = bald.of(head.faces, head.regions["face"].numpy()) & ~bald.of(head.faces, features, every=False)
    known = face & (matte > 0.9)
    if known.sum() < LEAST:
        return None
    colors = picture.reshape(-1, 3).astype(np.float32) / 255
    away = Tones.of(colors[known.ravel()], SHADOW).away(colors)
    return np.asarray(away < NO_SKIN[0]).reshape(known.shape)


@dataclass(frozen=True)
class Rim:
    """Where rays leave a mesh: radius (R,) pixels, corners (R, 3) vertices and weights (R, 3) of the surface there,
    depth (R,) metres, seen (R,) bool whether the ray meets it at all."""

    radius: np.ndarray
    corners: np.ndarray
    weights: np.ndarray
    depth: np.ndarray
    seen: np.ndarray

    @staticmethod
    def of(view: View, points: torch.Tensor, chosen: np.ndarray) -> Rim:
        fragments = rasterize(points, view.faces[chosen], view.camera)
        radius = view._farthest(fragments.mask)
        spot = view._pixel(np.maximum(radius - 0.5, 0))
        face = fragments.face[spot]
        corners = view.faces[chosen][np.maximum(face, 0)]
        return Rim(radius, corners, fragments.barycentrics[spot].astype(np.float64), fragments.depth[spot], face >= 0)

    def equations(
        self, view: View, reach: np.ndarray, amount: np.ndarray, gap: np.ndarray
    ) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
        """Rows (R, V) and targets (R,) in metres of the offsets that close gaps (R,) measured at the skull's depth, and
        how far (R,) a unit of offset moves along the ray."""
        turned = reach[self.corners] @ view.camera.viewmat[:3, :3].numpy().astype(np.float64).T
        along = np.einsum("rkc,rc->rk", turned[..., :2], view.unit) * self.weights
        where = (np.repeat(np.arange(len(gap)), 3), self.corners.ravel())
        rows = sparse.coo_matrix((along.ravel(), where), (len(gap), len(amount))).tocsr()
        nearer = np.where(self.seen, self.depth / float(view.camera.K[0, 0]) / view.metres, 1.0)
        return rows, rows @ amount + gap * nearer, along.sum(1)


def _beyond_the_picture(
    gap: np.ndarray, weight: np.ndarray, cut: np.ndarray, side: np.ndarray, risen: np.ndarray, usual: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gaps of rays that leave the picture: at least up to its border, and as much as their neighbours' hair stands off,
    or as is `usual` (metres) where there are none. risen: (R,) metres that hair stands off already."""
    if not cut.any():
        return gap, weight
    arch = np.flatnonzero(side == 0)
    # Beside a border that lies askew the last ones end at it as well.
    left = ndimage.binary_dilation(cut[arch], iterations=ASKEW)
    known = arch[~left]
    filled, kept = gap.copy(), np.where(cut & (side != 0), 0.0, weight)
    guess = np.full(len(arch), usual)
    if len(known):
        away = np.abs(arch[:, None] - known).min(1) / NEIGHBOURS
        guess += np.exp(-away) * (np.interp(arch, known, (gap + risen)[known]) - usual)
    filled[arch] = np.where(left, np.maximum(gap[arch], guess - risen[arch]), gap[arch])
    kept[arch] = np.where(left, GUESSED * weight[arch], weight[arch])
    return filled, kept


def _along(gap: np.ndarray, weight: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Gaps (R,) smoothed over neighbouring rays: outlines are known to a pixel, and strands are no shape."""
    smooth = gap.copy()
    for part in (-1, 0, 1):
        rays = np.flatnonzero(side == part)
        mass = ndimage.gaussian_filter1d(weight[rays] + 1e-6, 1.5, mode="nearest")
        smooth[rays] = ndimage.gaussian_filter1d((weight[rays] + 1e-6) * gap[rays], 1.5, mode="nearest") / mass
    return smooth


def _level(view: View, surface: HairSurface, rim: Rim, offset: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(V,) metres: offsets (R,) of the outline, carried to what is not seen: the usual one above, on the neck those of
    the same height."""
    upper = (view.side == 0) & (weight > 0.8 * GUESSED)
    common = max(float(np.median(offset[upper])), 0.0) if upper.any() else 0.0
    height = (surface.rest[rim.corners, 1] * rim.weights).sum(1)
    lower = np.flatnonzero(view.side != 0)
    steps = np.arange(surface.centre[1] - DEPTH, surface.centre[1], 0.006)
    total = np.zeros(len(steps))
    mass = np.full(len(steps), 1e-3)
    place = np.clip(((height[lower] - steps[0]) / 0.006).round().astype(int), 0, len(steps) - 1)
    np.add.at(total, place, (offset * weight)[lower])
    np.add.at(mass, place, np.ones(len(lower)))
    profile = np.clip(ndimage.gaussian_filter1d(total / mass, 1.0), 0.0, None)
    # Hair that the lowest ray still meets goes on below it.
    seen = np.flatnonzero(mass > 0.5)
    if len(seen):
        profile[: seen[0] + 1] = profile[min(seen[0] + 1, len(profile) - 1)]
    below = np.interp(surface.rest[:, 1], steps, profile)
    return np.maximum(common * surface.scalp, np.where(surface.rest[:, 1] < surface.centre[1], below, 0.0))
