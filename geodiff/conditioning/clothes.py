"""What is below the chin in a reference: hair that hangs there, skin, and clothes from the neckline down."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from geodiff.conditioning.reference import Reference
from geodiff.conditioning.surface import vertex_groups
from geodiff.geometry import smoothstep
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.tracking.tones import LEAST, NO_SKIN, SHADOW, Tones, lab

#: Metres: height of the slices in which hair beside the neck is looked for, and share of the outer pixels of a slice's
#: hairier side in hair's colour from which the slice has hair, below ears that are seen and where hair covers one.
SLICE, HAIRY = 0.012, (0.5, 0.25)
#: Share of both ears' vertices from which hair covers at least one.
ONE_EAR = 0.4
#: Share of a slice's half width beyond which pixels are at its sides, times the narrowest slice above that a slice may
#: be wide, and slices without hair after which it has ended below an ear that it covers.
SIDES, SHOULDERS, GAP = 0.7, 1.5, 4
#: Slices down to which what looks like hair below an ear that is seen is the shadow of the jaw.
SHADOWED = 10
#: Metres behind the ears from which hair that hangs beside the neck covers it.
BEHIND = 0.02
#: Metres by which a neckline may rise for every metre towards the back; the middle one where nothing tells.
RISES = (0.3, 0.5, 0.7)
#: Share of the points below a neckline that must not have skin's colour.
CLEAR = 0.7
#: Share of what is seen of neck and shoulders, the lowest, that surely is clothes if anything is; the least spread of
#: their colours (CIELAB); by how many of skin's spreads their median differs; and log likelihood ratios from which a
#: colour is rather theirs.
LOWEST, FABRIC, DIFFERENT, LIKELIER = 0.3, (5.0, 3.0, 3.0), 1.0, (0.5, 2.5)
#: Share of the half width from which points are beside the front's middle, and metres over which clothes begin.
BESIDE, HEM = 0.3, 0.002
#: Metres from a neckline that are as good as any number more.
FAR = 1.0


def without_shoulders(
    groups: dict[str, np.ndarray], head: HeadModel, reference: Reference, front: mesh.Fragments, hair: np.ndarray
) -> dict[str, np.ndarray]:
    """The person's kinds of surface, neck and shoulders given back to `neck` where no hair hangs over them; where some
    hangs beside the neck, and covers an ear, the neck's back is `scalp`.

    Static offsets move them because hair is there, or because shoulders or clothes are. front: the posed mesh in the
    reference's camera. hair: (S, S) 0..1 where its pixels are hair.
    """
    neck = vertex_groups(head)["neck"]
    moved = neck & groups["scalp"]
    if not moved.any():
        return groups
    place = head.shaped(reference.params, expression=False, offsets=False)[0].numpy()
    ears = head.regions["ears"].numpy()
    covered = bool(ears.any() and groups["scalp"][ears].mean() > ONE_EAR)
    hanging = _hanging(place, head, reference, front, hair, covered)
    bare = moved & ~(place[:, 1] > hanging)
    # Hair that covers an ear and hangs beside the neck hangs behind as well, however close to it.
    back = place[:, 2] < (place[ears, 2].mean() - BEHIND if covered else -np.inf)
    behind = neck & back & (place[:, 1] > hanging)
    return groups | {
        "neck": (groups["neck"] | bare) & ~behind,
        "scalp": (groups["scalp"] & ~bare) | behind,
    }


def _hanging(
    place: np.ndarray, head: HeadModel, reference: Reference, front: mesh.Fragments, hair: np.ndarray, covered: bool
) -> float:
    """The height (metres, at rest) down to which hair hangs beside the neck; infinity where it does not, minus infinity
    where the picture does not show its end. covered: whether hair covers an ear."""
    neck = vertex_groups(head)["neck"]
    corners = head.faces.numpy()[np.maximum(front.face, 0)]
    shown = front.mask & neck[corners].all(-1) & (reference.mask > 0.9)
    if shown.sum() < LEAST:
        return float("inf")
    spots = (place[corners[shown]] * front.barycentrics[shown][..., None]).sum(1)
    top = float(place[neck, 1].max())
    slices = hung_down(_slices(spots, top - spots[:, 1], hair[shown] > 0.5), covered)
    return top - slices * SLICE if slices > 0 else float("inf")


def hung_down(shares: np.ndarray, covered: bool) -> float:
    """How many slices down hair hangs; infinite where no end of it is seen. shares: (N,) 0..1 of each slice, nan where
    it is not seen. covered: whether hair covers an ear.

    Below ears that are seen it ends where it first becomes too little, and does not hang at all if that is soon: the
    shadow of a jaw and coats may look like hair. Below an ear that it covers it may be missed in between, over less
    than GAP.
    """
    more = np.where(np.isnan(shares), 0.0, shares - HAIRY[int(covered)])
    bare, run = more < 0, GAP if covered else 1
    ended = np.convolve(bare, np.ones(run))[: len(bare)] >= run
    if not covered:
        ended &= np.maximum.accumulate(more > 0)
    if ended.any():
        more[int(ended.argmax()) + 1 - run :] = -1.0
    gain = np.cumsum(more)
    lowest = int(gain.argmax())
    if gain[lowest] <= 0 or (not covered and lowest < SHADOWED):
        return 0.0
    return lowest + 1.0 if bare[lowest + 1 :].any() else float("inf")


def _slices(spots: np.ndarray, depth: np.ndarray, hair: np.ndarray) -> np.ndarray:
    """Of each slice below the chin the share of hair among the pixels of its hairier side; nan where too few are seen.
    spots: (N, 3) metres at rest. depth: (N,) metres below the neck's upper end. hair: (N,) bool."""
    number = np.floor(depth / SLICE).astype(int).clip(0)
    shares = np.full(int(number.max()) + 1, np.nan)
    narrowest = np.inf
    for slice_ in range(len(shares)):
        inside = number == slice_
        if not inside.any():
            continue
        across = spots[inside, 0]
        if len(across) >= LEAST and across.min() < 0 < across.max():
            # Shoulders are wider than what hangs before them.
            narrowest = min(narrowest, float(np.quantile(np.abs(across), 0.98)))
        half = min(np.abs(across).max(), SHOULDERS * narrowest)
        sides = [inside & (side * spots[:, 0] > SIDES * half) & (side * spots[:, 0] <= half) for side in (-1, 1)]
        found = [hair[side].mean() for side in sides if side.sum() >= 4]
        if found:
            shares[slice_] = max(found)
    return shares


@dataclass(frozen=True)
class Neckline:
    """Where clothes begin. level: metres of `height`, infinite where no skin is seen above them; None where a reference
    shows no clothes. rise: metres a metre towards the back. skin, cloth: their colours, where known."""

    level: float | None = None
    rise: float = RISES[1]
    skin: Tones | None = None
    cloth: Tones | None = None

    @staticmethod
    def found(skin: np.ndarray, place: np.ndarray, color: np.ndarray) -> Neckline:
        """skin: (M, 3) 0..1 colours of the face. place: (N, 3) metres at rest and color (N, 3) of what is seen of neck
        and shoulders."""
        if len(skin) < LEAST or len(place) < 4 * LEAST:
            return Neckline()
        tones = Tones.of(skin, SHADOW)
        low = place[:, 1] < np.quantile(place[:, 1], LOWEST)
        cloth = Tones.of(color[low], FABRIC)
        differs = np.linalg.norm((cloth.median - tones.median) / Tones.of(skin, FABRIC).spread) > DIFFERENT
        line = Neckline(None, RISES[1], tones, cloth if differs else None)
        # The front shows where a collar is open; what is hidden is nearer to the sides.
        beside = np.abs(place[:, 0]) > BESIDE * np.quantile(np.abs(place[:, 0]), 0.9)
        return max((line._agreed(place[beside], color[beside], rise) for rise in RISES), key=lambda found: found[0])[1]

    def _agreed(self, place: np.ndarray, color: np.ndarray, rise: float) -> tuple[float, Neckline]:
        """The level that most points agree with, clothes below it and none above it, and by how many points."""
        levels = place[:, 1] + rise * place[:, 2]
        order = np.argsort(levels)
        levels, clothed = levels[order], self.clothed(color)[order]
        gain = np.concatenate([[0.0], np.cumsum(clothed - 0.5)])
        best = int(gain.argmax())
        if best < LEAST or clothed[:best].mean() < CLEAR:
            return 0.0, self
        level = np.inf if best > len(levels) - LEAST // 2 else float(levels[best - 1 : best + 1].mean())
        return float(gain[best] - 0.5 * gain[-1]), replace(self, level=level, rise=rise)

    def height(self, place: np.ndarray) -> np.ndarray:
        """(N,) metres of places (N, 3) at rest above a plane that rises to the back, as collars do."""
        return place[:, 1] + self.rise * place[:, 2]

    def clothed(self, color: np.ndarray) -> np.ndarray:
        """(N,) 0..1 whether colours (N, 3) are rather those of clothes than the face's; no more than a half for what
        is darker than the face and like neither: a deep shadow."""
        if self.skin is None:
            return np.zeros(len(color))
        strange = smoothstep(self.skin.away(color), *NO_SKIN)
        if self.cloth is None:
            return strange
        dark = lab(color)[:, 0] < self.skin.median[0]
        strange = np.where(dark, np.minimum(strange, 1 - 0.5 * smoothstep(self.cloth.away(color), *NO_SKIN)), strange)
        likelier = self.skin.surprise(color) - self.cloth.surprise(color)
        return np.maximum(strange, smoothstep(likelier, *LIKELIER))

    def below(self, place: np.ndarray) -> np.ndarray:
        """(N,) metres, -FAR..FAR, by which places (N, 3) at rest are below the line and so covered by clothes."""
        if self.level is None:
            return np.full(len(place), -FAR)
        return np.clip(self.level - self.height(place), -FAR, FAR)
