"""Whether hair covers an ear, from what a picture shows over it and beyond it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geodiff.geometry import smoothstep

#: Metres: gaps beyond an ear from which hair begins to cover it and covers it.
OVER_EAR = (0.008, 0.016)
#: Mean evidence of both ears from which they count as covered.
HALF_COVERED = 0.55
#: Shares of an ear's pixels in the hair's colour from which it begins to be covered and is covered.
HAIR_SHARE = (0.4, 0.7)
#: Shares of an ear's pixels in the face's colours below which it begins to be covered and is covered, whatever by; and
#: from which hair's colour tells less of them, and nothing: fair hair and shadows may have both.
SKIN_SHARE, SKINNY = (0.3, 0.1), (0.4, 0.6)
#: Metres that hair stands out beyond an ear that surely is covered, whatever the other one is; of one that lies free
#: nothing stands out farther.
OUT = 0.006
#: Metres of hair beyond an ear that shows no skin: it is covered, whatever colour the hair seems to have.
FAR_OUT = 0.025


@dataclass(frozen=True)
class SeenEar:
    """What a picture shows of an ear, each None where it is not seen. gap, colour: of the rays that leave the mesh
    there, the usual metres of the matte beyond it and how likely these are hair's. hair, skin: shares of the ear's
    pixels in the colours of hair and of the face."""

    gap: float | None = None
    colour: float | None = None
    hair: float | None = None
    skin: float | None = None

    def evidence(self) -> float:
        """0..1 that hair covers it, nan where nothing tells."""
        found = []
        if self.gap is not None and self.colour is not None:
            # Ears that stand out more than the fitted one's are no hair.
            found.append(float(smoothstep(self.gap, *OVER_EAR) * smoothstep(self.colour, *HAIR_SHARE)))
        if self.hair is not None:
            fair = 0.0 if self.skin is None else float(smoothstep(self.skin, *SKINNY))
            found.append(float(smoothstep(self.hair, *HAIR_SHARE)) * (1.0 - fair))
        if self.skin is not None:
            found.append(float(1.0 - smoothstep(self.skin, SKIN_SHARE[1], SKIN_SHARE[0])))
        return max(found, default=float("nan"))

    def surely(self) -> bool:
        """Whether everything says that hair covers it."""
        if self.gap is None or self.colour is None or self.hair is None or self.skin is None:
            return False
        return bool(min(self.hair, self.colour) > HAIR_SHARE[1] and self.skin < SKIN_SHARE[1] and self.gap > OUT)

    def buried(self) -> bool:
        """Whether so much stands out beyond it, and so little skin is seen of it, that its hair's colour does not
        matter."""
        return self.gap is not None and self.skin is not None and self.gap > FAR_OUT and self.skin < SKIN_SHARE[1]

    def free(self) -> bool:
        """Whether nothing stands out beyond it, or, where that is not seen, it shows its skin."""
        if self.gap is None:
            return self.skin is not None and self.skin > SKINNY[1]
        return self.gap <= OUT


def covered_ears(ears: Sequence[SeenEar]) -> np.ndarray:
    """(2,) 0 or 1 of each ear. Mostly one decision for both: an ear in deep shadow looks like hair, and of an ear that
    is not seen the other one tells. Hair as thick as to bury one covers the other too, unless that lies free."""
    evidence = np.array([ear.evidence() for ear in ears])
    known = np.isfinite(evidence)
    both = float(known.any() and evidence[known].mean() > HALF_COVERED)
    thick = any(ear.buried() for ear in ears)
    return np.maximum(both, [float(ear.surely() or (thick and not ear.free())) for ear in ears])
