"""MediaPipe's landmark numbers by the part of the face they lie on, and how much each part counts in the fit."""

from __future__ import annotations

import numpy as np

from geodiff.tracking.landmarks import NUM_LANDMARKS

EYES = (
    33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173,
    263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398,
)  # fmt: skip
BROWS = (46, 53, 52, 65, 55, 70, 63, 105, 66, 107, 276, 283, 282, 295, 285, 300, 293, 334, 296, 336)
NOSE = (
    168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 98, 97, 326, 327, 294, 278, 344, 440, 275, 45, 220, 115, 48, 64,
)  # fmt: skip
OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
#: The contour of the face, closed, clockwise from the top of the forehead in the image.
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
    136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
IRISES = tuple(range(468, NUM_LANDMARKS))

#: Landmarks by which a fit is judged.
INNER_FACE = tuple(sorted({*EYES, *BROWS, *NOSE, *OUTER_LIPS, *INNER_LIPS}))

_WEIGHTS = (
    (OVAL, 0.08), (BROWS, 1.0), (NOSE, 1.0), (OUTER_LIPS, 1.2), (INNER_LIPS, 1.5), (EYES, 2.0), (IRISES, 1.0),
)  # fmt: skip


def landmark_weights() -> np.ndarray:
    """(478,) weight of each landmark; cheeks and forehead count little, since the network guesses them, and the contour
    less, since the network draws it along the outline of the turned face (measured by scripts/measure_detector.py)."""
    weights = np.full(NUM_LANDMARKS, 0.4)
    for group, weight in _WEIGHTS:
        weights[list(group)] = weight
    return weights
