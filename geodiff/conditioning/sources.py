"""What the photograph tells of each kind of surface: points that it sees, with their colours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from geodiff.conditioning.clothes import Neckline
from geodiff.conditioning.reference import Reference
from geodiff.conditioning.surface import GROUPS, PosedMesh, Visibility, unit
from geodiff.conditioning.teeth import Tints
from geodiff.geometry import smoothstep
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.raster.chart import Chart, sample, to_local, to_pixels
from geodiff.tracking.groups import BROWS
from geodiff.tracking.tones import NO_SKIN
from geodiff.types import Camera

#: Metres above a neckline from which colours are the neck's if they are skin's at all.
ABOVE = 0.006
#: Likelihood of hair from which a point of the scalp begins to have its colour, and has it.
HAIR = (0.4, 0.6)
#: Points of the neck that are enough to colour it where it is bare, or in clothes.
ENOUGH = 10
#: Share of the side by which a brow's darkest colours may lie beside its landmarks, and how many of these must be seen.
BROW, FEW_BROWS = 0.008, 5


@dataclass(frozen=True)
class Sources:
    """Surface points spread evenly over the chart that the photograph sees, itself or mirrored: place (N, 3), color
    (N, 3) freed from shading (so white may be more than 1), hair (N,) 0..1, group (N,) index into GROUPS; and totals,
    the number of points of each group, seen or not. teeth: (T, 3) colours of teeth, None where none are seen."""

    place: np.ndarray
    color: np.ndarray
    hair: np.ndarray
    group: np.ndarray
    totals: np.ndarray
    teeth: np.ndarray | None

    @staticmethod
    def collect(
        head: HeadModel,
        chart: Chart,
        posed: PosedMesh,
        shade: np.ndarray,
        matching: np.ndarray,
        picture: np.ndarray,
        camera: Camera,
        seeing: Visibility,
        groups: dict[str, np.ndarray],
        teeth: np.ndarray | None,
    ) -> Sources:
        """picture: (D, D, 7) colours, those of hair alone, its likelihood, of `camera`. shade: (V,) log of the light
        that the colours are freed from. matching: (V, 3) log gains of mirrored colours that are freed from it."""
        step = max(1, len(chart.texels) // 16000)
        points = mesh.Fragments(*(np.ascontiguousarray(part[:, ::step]) for part in vars(chart.fragments).values()))
        flip = head.mirror.numpy()
        kinds = np.stack([groups[name] for name in GROUPS], 1).astype(np.float32)
        here, gain = np.concatenate([posed.vertices, posed.normals], 1), np.repeat(-shade[:, None], 3, 1)
        columns = [here, here[flip], posed.place, gain, matching + gain[flip], kinds]
        texel = mesh.interpolate(points, head.faces, np.concatenate(columns, 1, dtype=np.float32))[0]
        group = texel[:, 21:].argmax(1)
        places, colors, hairs, kind = [], [], [], []
        seen = np.zeros(len(texel), bool)
        for start, gains in ((0, 15), (6, 18)):
            here = texel[:, start : start + 3]
            certain = (seeing(here, unit(texel[:, start + 3 : start + 6])) > 0.5) & ~seen
            shown = sample(picture, to_pixels(to_local(here, camera), camera))
            places.append(texel[certain, 12:15])
            scalp = group[certain] == GROUPS.index("scalp")
            colors.append(scalp_as_hair(shown[certain], scalp) * np.exp(texel[certain, gains : gains + 3]))
            hairs.append(shown[certain, 6])
            kind.append(group[certain])
            seen |= certain
        totals = np.bincount(group, minlength=len(GROUPS))
        place, color, likely, number = (np.concatenate(parts) for parts in (places, colors, hairs, kind))
        return Sources(place, color, likely, number, totals, teeth)

    @cached_property
    def tone(self) -> np.ndarray:
        """(3,) the skin's usual colour."""
        skin = self.group == GROUPS.index("skin")
        return np.median(self.color[skin], 0) if skin.sum() > 20 else np.array([0.7, 0.55, 0.47], np.float32)

    @property
    def tints(self) -> Tints:
        """Of teeth."""
        return Tints.of(self.tone, self.teeth if self.shows("teeth") else None)

    def shows(self, name: str) -> bool:
        """Whether enough is seen of a kind of surface to fill the rest of it."""
        if name == "teeth" and self.teeth is None:
            return False
        number = GROUPS.index(name)
        # The mouth is shown when it is open only; a few points between closed lips say nothing about it.
        share = 0.15 if name == "mouth_interior" else 0.02
        return bool((self.group == number).sum() >= max(10, share * self.totals[number]))

    def unseen_mouth(self, groups: dict[str, np.ndarray]) -> np.ndarray:
        """(V,) bool teeth and mouth of which the portrait tells nothing."""
        hidden = [groups[name] for name in ("teeth", "mouth_interior") if not self.shows(name)]
        return np.any([np.zeros(len(groups["skin"]), bool), *hidden], axis=0)

    def of_neck(self, neckline: Neckline) -> tuple[np.ndarray, np.ndarray]:
        """(N,) bool each: what colours the neck where it is bare, the face's skin included, and where it is in
        clothes."""
        neck, skin = (self.group == GROUPS.index(name) for name in ("neck", "skin"))
        skin &= self.hair < 0.5
        if neckline.skin is None:
            return neck, neck
        like = neckline.skin.away(self.color) < NO_SKIN[1]
        if neckline.level is None:
            return neck | (skin & like), neck
        dressed = neckline.clothed(self.color) > 0.5
        # A shadow may look like a coat, but not above the neckline.
        bare = neck & like & (~dressed | (neckline.below(self.place) < -ABOVE))
        bare |= skin & like
        bare, covered = (part if part.sum() >= ENOUGH else neck for part in (bare, neck & dressed))
        return bare, covered

    @property
    def skin(self) -> np.ndarray:
        """(N, 3) colours of the face's skin without beards."""
        return self.color[(self.group == GROUPS.index("skin")) & (self.hair < 0.5)]

    def neckline(self) -> Neckline:
        """Where clothes begin."""
        neck = self.group == GROUPS.index("neck")
        return Neckline.found(self.skin, self.place[neck], self.color[neck])


def scalp_as_hair(shown: np.ndarray, scalp: np.ndarray) -> np.ndarray:
    """(N, 3) colours of points; of those on the scalp (N,) bool the hair's alone, where they show hair. shown: (N, 7)
    colours, those of hair alone, and how likely it is hair.

    Close to a hairline, or where hair is thin, colours are mixed with the skin's.
    """
    share = smoothstep(shown[:, 6:], *HAIR) * scalp[:, None]
    return shown[:, :3] + share * (shown[:, 3:6] - shown[:, :3])


def hair_beyond(
    reference: Reference, posed: PosedMesh, seeing: Visibility, photo: np.ndarray, hair: np.ndarray
) -> np.ndarray:
    """(N, 3) colours of the portrait's hair above the chin that lies outside the mesh."""
    size = reference.size
    covered = cv2.resize(seeing.far, (size, size), interpolation=cv2.INTER_AREA) > 0
    chin = posed.vertices[posed.place[:, 1] > np.quantile(posed.place[:, 1], 0.35)]
    row = to_pixels(to_local(chin, reference.camera), reference.camera)[:, 1].max()
    outside = (reference.mask > 0.98) & (hair > 0.5) & ~covered & (np.arange(size)[:, None] < row)
    return cv2.resize(photo, (size, size), interpolation=cv2.INTER_AREA)[outside]


def brow_color(head: HeadModel, reference: Reference, photo: np.ndarray) -> np.ndarray | None:
    """(3,) the brows' colour, which stands for hair that nobody sees; None where no brows are seen, or the head has no
    landmarks."""
    if head.landmarks is None:
        return None
    chosen = np.isin(head.landmarks.indices.numpy(), BROWS)
    camera = reference.camera.resized(photo.shape[1], photo.shape[0])
    points = head.landmark_points(reference.params)[0].numpy()[chosen]
    size = 1 + 2 * max(1, round(BROW * len(photo)))
    darkest = cv2.erode(np.ascontiguousarray(photo, np.float32), np.ones((size, size), np.uint8))
    pixels = to_pixels(to_local(points, camera), camera)
    shown = sample(np.ascontiguousarray(reference.finest_mask, np.float32), pixels) > 0.9
    return np.asarray(np.median(sample(darkest, pixels[shown]), 0)) if shown.sum() >= FEW_BROWS else None
