"""From decoded frames to what is stored: foreground mask, image on white, normals that are zero outside."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes, label

from geodiff.conditioning import Condition
from geodiff.media import LUMA

#: A decoded normal longer than this is foreground.
NORMAL_THRESHOLD = 0.5
#: Standard deviation, as a share of the side, of the smoothing that keeps the outline from fraying.
OUTLINE_SOFTNESS = 0.008
#: The mesh's silhouette less this share of the side is foreground whatever the normals say.
CERTAIN_MARGIN = 0.016
#: How far beyond the mesh's silhouette generated hair may reach, as a share of the side.
SILHOUETTE_MARGIN = 0.014
#: What stands out of the mesh's silhouette is at least twice this share of the side wide: less are flecks, no hair.
FLECK = 0.012
#: Standard deviation in pixels, at 256 pixels, of the mask's soft edge.
EDGE_SOFTNESS = 0.6
#: Width of the rim, as a share of the side, in which decoded colours are freed from the white background.
RIM = 0.03
#: How much more of the proposal is taken inside the mouth than where the portrait sees what a frame shows.
MOUTH = 1.3
#: Standard deviation, as a share of the side, of the blur that parts fine detail from the rest.
FINE = 0.008
#: A proposal whose colours are all less saturated than this (largest less smallest channel) is of a grey photograph.
GREY = 0.05
#: Distance from white, in RGB, below which a subject's colour cannot be told from the background.
PALE = 0.25


def foreground_mask(normal_length: np.ndarray, silhouette: np.ndarray) -> np.ndarray:
    """The foreground of a generated frame.

    normal_length: (H, W) length of the decoded normals. silhouette: (H, W) 0..1 coverage by the head mesh, which the
    mask may exceed by `SILHOUETTE_MARGIN` of the side, and whose inside it always holds. Holes are filled; flecks
    beside the mesh, and all but the largest piece, are left out.
    Returns (H, W) float32 in 0..1 with a soft edge.
    """
    side = normal_length.shape[0]
    reach = max(1, round(SILHOUETTE_MARGIN * side))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    mesh = (silhouette > 0.5).astype(np.uint8)
    near = cv2.dilate(mesh, kernel) > 0
    certain = cv2.distanceTransform(mesh, cv2.DIST_L2, 5) > CERTAIN_MARGIN * side
    smooth = cv2.GaussianBlur(normal_length, (0, 0), OUTLINE_SOFTNESS * side)
    solid = binary_fill_holes(((smooth > NORMAL_THRESHOLD) & near) | certain)
    radius = max(1, round(FLECK * side))
    round_ = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    wide = cv2.morphologyEx(solid.astype(np.uint8), cv2.MORPH_OPEN, round_, borderType=cv2.BORDER_REPLICATE)
    solid &= (wide > 0) | (mesh > 0)
    pieces, count = label(solid)
    if count > 1:
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        solid = pieces == sizes.argmax()
    return cv2.GaussianBlur(solid.astype(np.float32), (0, 0), EDGE_SOFTNESS * max(side / 256.0, 0.5))


def composite(
    image: np.ndarray, normals: np.ndarray, silhouette: np.ndarray, beside: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decoded frame -> stored frame.

    image: (H, W, 3) 0..1. normals: (H, W, 3) as decoded, not yet of unit length. silhouette: (H, W) 0..1. beside:
    (H, W) 0..1, how much of it the portrait showed beside the mesh, where that is foreground too.
    Returns image on white (H, W, 3) 0..1, normals (H, W, 3) of unit length times the mask, mask (H, W) 0..1.
    """
    length = np.linalg.norm(normals, axis=-1)
    if beside is not None:
        length = np.maximum(length, (beside > 0.5).astype(np.float32))
    cover = coverage(image, foreground_mask(length, silhouette))
    # Doubt about their direction shortens normals, of hair to less than half, where the colours are in no doubt.
    mask = foreground_mask(np.maximum(length, cover * (silhouette > 0.5)), silhouette)
    mask = smooth_outline(mask, silhouette)
    unit = normals / np.maximum(length, 1e-3)[..., None]
    own = without_white(image, length, cover, mask)
    on_white = own * mask[..., None] + (1.0 - mask[..., None])
    return np.clip(on_white, 0.0, 1.0), unit * mask[..., None], mask


def smooth_outline(mask: np.ndarray, silhouette: np.ndarray) -> np.ndarray:
    """A mask (H, W) with the edge of a silhouette (H, W), which is drawn with several samples a pixel, where both have
    the same outline."""
    apart = ((mask > 0.5) != (silhouette > 0.5)).astype(np.uint8)
    free = cv2.dilate(apart, np.ones((5, 5), np.uint8)).astype(np.float32)
    own = cv2.blur(free, (3, 3))
    return (silhouette + own * (mask - silhouette)).astype(np.float32)


@dataclass(frozen=True)
class Finish:
    """How much of the proposal decoded frames take: short of training, networks are softer than the photograph, and
    smear what they do not understand.

    keep_visible: share, 0..1, of the portrait's own pixels where it sees what a frame shows; of teeth and the inside of
    the mouth `MOUTH` times as much. deviation: how far, 0..1, each colour may be from the proposal's; 1 leaves frames
    alone. detail: share, 0..1, of fine detail (finer than `FINE`) that is the proposal's. These two hold well inside
    the mesh's silhouette: where it ends the networks know better.
    """

    keep_visible: float = 0.0
    deviation: float = 1.0
    detail: float = 0.0

    def __call__(self, image: np.ndarray, condition: Condition) -> np.ndarray:
        """A generated frame (H, W, 3) 0..1 with what it takes of its condition's proposal."""
        share = self.keep_visible
        taken = np.maximum(share * condition.visibility, min(MOUTH * share, 1.0) * condition.mouth)
        apart = (1.0 - taken[..., None]) * (image - condition.proposal)
        if self.deviation < 1 or self.detail > 0:
            solid = (condition.silhouette > 0.5).astype(np.uint8)
            inside = cv2.distanceTransform(solid, cv2.DIST_L2, 5)[..., None] / (RIM * len(image))
            inside = np.clip(inside - 1.0, 0.0, 1.0)
            apart = apart + inside * (np.clip(apart, -self.deviation, self.deviation) - apart)
            coarse = cv2.GaussianBlur(apart.astype(np.float32), (0, 0), FINE * len(image))
            apart = apart + self.detail * inside * (coarse - apart)
        if np.ptp(condition.proposal, axis=-1).max() < GREY:
            # Networks that saw coloured people tint a grey photograph.
            apart = np.broadcast_to(apart @ LUMA[:, None], apart.shape)
        return np.clip(condition.proposal + apart, 0.0, 1.0)


def coverage(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W) 0..1: how much of the subject's colour a pixel holds, the rest being white.

    image: (H, W, 3) 0..1. mask: (H, W) 0..1. The subject's colour is that of the nearest pixel well inside the mask;
    where that is white itself, colours tell nothing and the coverage is 0.
    """
    solid = (mask > 0.5).astype(np.uint8)
    inner = cv2.distanceTransform(solid, cv2.DIST_L2, 5) > RIM * image.shape[0]
    if not inner.any():
        return np.zeros(mask.shape, np.float32)
    _, nearest = cv2.distanceTransformWithLabels(
        (~inner).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), OUTLINE_SOFTNESS * image.shape[0])
    # Labels count the zero pixels, one each.
    colors = np.zeros((int(nearest.max()) + 1, 3), np.float32)
    colors[nearest[inner]] = 1.0 - smooth[inner]
    own, here = colors[nearest], 1.0 - image
    power = (own * own).sum(-1)
    share = (own * here).sum(-1) / np.maximum(power, 1e-6)
    return np.clip(share, 0.0, 1.0).astype(np.float32) * (power > PALE**2)


def without_white(image: np.ndarray, length: np.ndarray, cover: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The subject's own colours along the rim.

    Where the networks are not sure how far the subject reaches, they show a mixture of it and the white background, and
    the normals shrink by the same share: a pixel counts as a mixture where `length` (H, W) of the normals and the
    `cover` (H, W) of its colours both say so. Normals alone would turn hair, where they are short, black. White is
    taken out in the rim only.
    """
    reach = max(1.0, RIM * image.shape[0])
    inside = cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    # A mask without an outside is infinitely far from it.
    rim = np.clip(2.0 - 2.0 * np.minimum(inside, reach) / reach, 0.0, 1.0)
    smooth = cv2.GaussianBlur(length, (0, 0), OUTLINE_SOFTNESS * image.shape[0])
    # Doubt about their direction shortens normals as well, by about a quarter where the head turns away.
    share = 1.0 + rim * (np.clip(np.maximum(1.25 * smooth, cover), 0.7, 1.0) - 1.0)
    return np.clip(1.0 - (1.0 - image) / share[..., None], 0.0, 1.0)
