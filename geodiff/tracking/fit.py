"""Damped least squares of a head model on face landmarks: pose, focal length, identity, expression, gaze.

Levenberg-Marquardt with Gaussian priors and box constraints. One solver for one or many frames of a person: the
frames share focal length and identity, everything else is theirs. All frames are evaluated at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from geodiff.head.model import HeadModel
from geodiff.tracking.descent import descend
from geodiff.tracking.face_model import FaceModel, FrameStates
from geodiff.tracking.groups import INNER_FACE, OVAL, landmark_weights
from geodiff.tracking.landmarks import OUTER_EYE_CORNERS
from geodiff.tracking.priors import FramePriors
from geodiff.tracking.systems import Normals, Unknowns
from geodiff.types import Camera, HeadParams

if TYPE_CHECKING:
    from geodiff.tracking.witnesses import Witness

#: Metres between the outer corners of the eyes, about.
EYES = 0.09
#: Frames that are evaluated at once: enough for the vector units, few enough for the processor's cache.
_PART = 16


@dataclass(frozen=True)
class FitConfig:
    """How landmarks are fitted.

    noise: standard deviation of a landmark as a share of the outer eye corners' distance. outlier: residuals beyond
    this many standard deviations lose their pull. field_of_view: prior mean of the horizontal angle of the image's
    longer side, degrees, with focal_spread the standard deviation of the logarithm of the focal length. distance: prior
    mean of the distance to the head in metres, with distance_spread in logarithms. shape_prior, expr_prior: strength of
    the priors; arkit_spread: standard deviation of an expression weight in 0..1, wide_spread: of those that close the
    lids and open the jaw (`priors.WIDE`), which use their whole range every few seconds. bound: coefficients stay
    within this many standard deviations. gaze_spread: radians. iterations: at most so many steps. hidden: how much a
    landmark on the side that faces away counts, as a share of one that is seen: the detector guesses it. turned, moved:
    standard deviations of the rotation and of the movements that a face was seen in (`witnesses`), as shares of their
    usual errors; less than 1, since the landmarks, which err together, count as if each erred by itself; 0 leaves them
    out.
    """

    noise: float = 0.015
    outlier: float = 4.0
    field_of_view: float = 28.0
    focal_spread: float = 0.3
    distance: float = 1.2
    distance_spread: float = 0.2
    shape_prior: float = 1.5
    expr_prior: float = 1.5
    arkit_spread: float = 0.35
    wide_spread: float = 1.2
    bound: float = 3.0
    gaze_spread: float = 0.25
    iterations: int = 30
    hidden: float = 0.02
    turned: float = 0.4
    moved: float = 0.25
    bitten: float = 0.0005


@dataclass(frozen=True)
class Fit:
    """params: HeadParams of the frames. camera: at the origin, looking along -z. errors: (T,) mean distance of the
    inner face's landmarks as a share of the distance between the outer eye corners."""

    params: HeadParams
    camera: Camera
    errors: np.ndarray

    @property
    def error(self) -> float:
        return float(self.errors.mean())


@dataclass(frozen=True)
class FitState:
    """The solver's unknowns: shared logarithm of the focal length in pixels and shape (S,), and the frames' own."""

    log_focal: float
    shape: np.ndarray
    frames: FrameStates


class Coupling(Protocol):
    """What ties the frames of a video to one another; see `geodiff.tracking.smooth`."""

    def energies(self, states: FrameStates) -> np.ndarray:
        """(T,) energy by frame."""
        ...

    def add(self, states: FrameStates, normals: Normals) -> None:
        """Adds the energy's gradient and matrix."""
        ...


@dataclass(frozen=True)
class Observed:
    """Landmarks of T frames as the fit sees them.

    points: (T, L, 2) pixels, of the landmarks that the head model has. eyes: (T,) distance of the outer eye corners,
    pixels. across: (T, M, 2, 2) projections across the face's contour at its M landmarks.
    """

    points: np.ndarray
    eyes: np.ndarray
    across: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, part: slice | np.ndarray) -> Observed:
        return Observed(self.points[part], self.eyes[part], self.across[part])


def fit_landmarks(
    points: np.ndarray,
    image_size: tuple[int, int],
    head: HeadModel,
    config: FitConfig | None = None,
    witnesses: Sequence[Witness] = (),
) -> Fit:
    """Fit a head to landmarks (478, 2) of one image, or (T, 478, 2) of several frames of one person and one camera.

    image_size: (width, height) in pixels; the principal point is the image's middle. witnesses: what else is known
    of the frames.
    """
    fitter = LandmarkFitter(head, image_size, config or FitConfig())
    points = np.asarray(points, np.float64)
    frames = points[None] if points.ndim == 2 else points
    return fitter.result(fitter.solve(frames, fitter.start(frames), witnesses=witnesses), frames)


class LandmarkFitter:
    """Fits one head to landmarks of images of one size.

    middle: (2,) the principal point in pixels, the image's middle by default. face: the head's, where it is known.
    """

    def __init__(
        self,
        head: HeadModel,
        image_size: tuple[int, int],
        config: FitConfig,
        middle: np.ndarray | None = None,
        face: FaceModel | None = None,
    ) -> None:
        self.face = face or FaceModel(head)
        self.config = config
        self.image_size = image_size
        self.middle = np.array(image_size, np.float64) / 2 if middle is None else middle
        self.weights = landmark_weights()[self.face.indices]
        position = {int(mark): row for row, mark in enumerate(self.face.indices)}
        self._on_contour = [i for i, mark in enumerate(OVAL) if mark in position]
        self._contour_rows = np.array([position[OVAL[i]] for i in self._on_contour], int)
        self.usual = FramePriors.of(head, config)

    def start(self, frames: np.ndarray) -> FitState:
        """Neutral identity and expression; pose by aligning the mean face's front view. frames: (T, 478, 2)."""
        return FitState(self._usual_focal, np.zeros(self.face.num_shape), self.start_frames(frames))

    def start_frames(self, frames: np.ndarray, face: np.ndarray | None = None) -> FrameStates:
        """Scaled orthographic poses (two rows of the affine fit, made orthonormal) of a face on (T, 478, 2).

        face: (L, 3) its landmarks before the pose; the head model's mean by default.
        """
        roots = np.sqrt(self.weights)[:, None]
        system = np.insert(self.face.mean if face is None else face, 3, 1.0, axis=1)
        affine = (np.linalg.pinv(roots * system) * roots.T) @ frames[:, self.face.indices]
        rows = affine[:, :3].transpose(0, 2, 1) * np.array([[1.0], [-1.0]])
        scale = np.linalg.norm(rows, axis=2).mean(1)
        rows = rows / scale[:, None, None]
        u, _, vt = np.linalg.svd(np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], 1))
        count = len(frames)
        return FrameStates(
            rotation=u @ vt,
            centre=affine[:, 3].copy(),
            log_scale=np.log(scale),
            expr=np.zeros((count, self.face.num_expr)),
            gaze=np.zeros((count, 4)),
            jaw=np.zeros(count),
        )

    def solve(
        self,
        frames: np.ndarray,
        state: FitState,
        shared: bool = True,
        iterations: int | None = None,
        coupling: Coupling | None = None,
        held: int = 0,
        tolerance: float = 1e-4,
        witnesses: Sequence[Witness] = (),
    ) -> FitState:
        """Levenberg-Marquardt from `state`. frames: (T, 478, 2).

        shared: also solve for focal length and shape; otherwise each frame is solved on its own, or all together where
        a coupling ties them. held: the first frames that stay as they are. tolerance: share of the energy
        that a step has to gain for another to follow. witnesses: what else is known of the frames.
        """
        problem = _Landmarks(self, self.observe(frames), shared, coupling, held, witnesses)
        alone = not shared and coupling is None
        return descend(problem, state, alone, iterations or self.config.iterations, tolerance)

    def observe(self, frames: np.ndarray) -> Observed:
        """What the fit takes from landmarks (T, 478, 2)."""
        left, right = OUTER_EYE_CORNERS
        # Landmarks of the contour hold across it only: along it they slide on the surface as the head turns.
        contour = frames[:, OVAL]
        tangents = (np.roll(contour, -1, 1) - np.roll(contour, 1, 1))[:, self._on_contour]
        tangents = tangents / np.maximum(np.linalg.norm(tangents, axis=2, keepdims=True), 1e-9)
        return Observed(
            points=frames[:, self.face.indices],
            eyes=np.linalg.norm(frames[:, left] - frames[:, right], axis=1),
            across=np.eye(2) - 0.7 * tangents[..., None] * tangents[..., None, :],
        )

    def _whitening(self, seen: Observed, states: FrameStates) -> np.ndarray:
        """(T, L, 2, 2) roots of the landmarks' information, inverse pixels."""
        # The pose foreshortens the eyes' distance; the head's scale does not change with it.
        sigma = self.config.noise * np.maximum(seen.eyes, EYES * np.exp(states.log_scale))
        visible = np.clip((self.face.facing(states) + 0.35) / 0.5, self.config.hidden, 1.0)
        roots = np.sqrt(self.weights * visible) / sigma[:, None]
        whitening = roots[..., None, None] * np.eye(2)
        whitening[:, self._contour_rows] = whitening[:, self._contour_rows] @ seen.across
        return whitening

    def _residuals(self, seen: Observed, state: FitState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Whitened residuals (T, L, 2), the whitening, and the squared lengths (T, L) of the residuals."""
        pixels = self.face.project(state.log_focal, state.shape, state.frames, self.middle)
        whitening = self._whitening(seen, state.frames)
        residuals = (whitening @ (pixels - seen.points)[..., None])[..., 0]
        return residuals, whitening, (residuals**2).sum(2)

    def _energies(
        self, seen: Observed, state: FitState, coupling: Coupling | None, witnesses: Sequence[Witness] = ()
    ) -> np.ndarray:
        """(T + 1,) energy by frame, and that of the common unknowns."""
        c = self.config
        frames = self.seen_energies(seen, state, witnesses)
        frames += self.usual.energies(state.frames) + self._distances(state) ** 2
        if coupling is not None:
            frames += coupling.energies(state.frames)
        focal = (state.log_focal - self._usual_focal) / c.focal_spread
        return np.append(frames, focal**2 + (state.shape**2).sum() * c.shape_prior**2)

    def seen_energies(self, seen: Observed, state: FitState, witnesses: Sequence[Witness] = ()) -> np.ndarray:
        """(T,) energy of what was seen of each frame, without priors."""
        frames, limit = np.zeros(len(seen)), self.config.outlier**2

        def fill(part: slice) -> None:
            squared = self._residuals(seen[part], replace(state, frames=state.frames[part]))[2]
            # Geman and McClure's robust energy.
            frames[part] = (squared * limit / (squared + limit)).sum(1)

        _each_part(fill, len(seen))
        for witness in witnesses:
            frames += witness.energies(state)
        return frames

    def _normals(
        self,
        seen: Observed,
        state: FitState,
        shared: bool,
        coupling: Coupling | None,
        witnesses: Sequence[Witness] = (),
    ) -> Normals:
        """Gauss-Newton matrix and gradient (half of the energy's) by (log focal, shape) and the frames' vectors."""
        normals = self.seen_normals(seen, state, shared, witnesses)
        self.usual.add(normals, state.frames)
        self._add_priors(normals, state, shared)
        if coupling is not None:
            coupling.add(state.frames, normals)
        return normals

    def seen_normals(self, seen: Observed, state: FitState, shared: bool, witnesses: Sequence[Witness] = ()) -> Normals:
        """The same of what was seen alone, without priors."""
        normals = self.no_normals(len(seen))
        parts = _each_part(lambda part: self._fill_part(normals, part, seen[part], state, shared), len(seen))
        for matrix, gradient in parts:
            normals.shared += matrix
            normals.gradient.shared += gradient
        for witness in witnesses:
            witness.add(normals, state, shared)
        return normals

    def no_normals(self, count: int) -> Normals:
        """Zeros for so many frames."""
        common, local = 1 + self.face.num_shape, 11 + self.face.num_expr
        return Normals(
            shared=np.zeros((common, common)),
            cross=np.zeros((count, local, common)),
            frames=np.zeros((count, local, local)),
            gradient=Unknowns(np.zeros(common), np.zeros((count, local))),
        )

    def _fill_part(
        self, normals: Normals, part: slice, seen: Observed, state: FitState, shared: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """What some frames' landmarks say: filled in for the frames, returned for the shared unknowns."""
        some, limit = replace(state, frames=state.frames[part]), self.config.outlier**2
        residuals, whitening, squared = self._residuals(seen, some)
        # Geman and McClure's weights.
        pull = (limit / (squared + limit))[..., None]
        whitening, residuals = whitening * pull[..., None], residuals * pull
        matrix, gradient = self.face.gauss_newton(
            state.log_focal, state.shape, some.frames, self.middle, shared, whitening, residuals
        )
        local = normals.frames.shape[1]
        normals.frames[part], normals.gradient.frames[part] = matrix[:, :local, :local], gradient[:, :local]
        if not shared:
            return np.zeros_like(normals.shared), np.zeros_like(normals.gradient.shared)
        normals.cross[part] = matrix[:, :local, local:]
        return matrix[:, local:, local:].sum(0), gradient[:, local:].sum(0)

    def _add_priors(self, normals: Normals, state: FitState, shared: bool) -> None:
        """Adds what is usual of lenses, distances and shapes."""
        c, frames = self.config, state.frames
        distance, inverse = self._distances(state), 1 / c.distance_spread
        normals.frames[:, 5, 5] += inverse**2
        normals.gradient.frames[:, 5] -= distance * inverse
        if shared:
            normals.cross[:, 5, 0] -= inverse**2
            normals.shared[0, 0] += len(frames) * inverse**2 + c.focal_spread**-2.0
            focal = (state.log_focal - self._usual_focal) / c.focal_spread
            normals.gradient.shared[0] += distance.sum() * inverse + focal / c.focal_spread
            self.add_shape_prior(normals, state.shape)

    def add_shape_prior(self, normals: Normals, shape: np.ndarray) -> None:
        """Adds what is usual of shapes (S,), the last of the common unknowns."""
        trust, rows = self.config.shape_prior**2, np.arange(1, len(normals.shared))
        normals.shared[rows, rows] += trust
        normals.gradient.shared[1:] += shape * trust

    @property
    def _usual_focal(self) -> float:
        half = np.radians(self.config.field_of_view) / 2
        return float(np.log(max(self.image_size) / 2 / np.tan(half)))

    def _distances(self, state: FitState) -> np.ndarray:
        """(T,) logarithm of the distance to the head from its usual value, in standard deviations."""
        c = self.config
        return (state.log_focal - state.frames.log_scale - np.log(c.distance)) / c.distance_spread

    def _bounds(self, state: FitState, shared: bool, held: int) -> tuple[Unknowns, Unknowns, Unknowns, Unknowns]:
        """Values, lower and upper bounds of all unknowns, and which of them are solved for."""
        longest = max(self.image_size) / 2
        bound = np.full(self.face.num_shape, self.config.bound)
        value = Unknowns(np.array([state.log_focal, *state.shape]), state.frames.vector)
        shape = value.frames.shape
        # Lenses between 8 and 75 degrees.
        wide, narrow = (np.log(longest / np.tan(np.radians(half))) for half in (37.5, 4))
        lower = Unknowns(np.array([wide, *-bound]), np.broadcast_to(self.usual.lower, shape))
        upper = Unknowns(np.array([narrow, *bound]), np.broadcast_to(self.usual.upper, shape))
        free = Unknowns(np.full(len(value.shared), shared), np.tile(self.usual.free, (len(state.frames), 1)))
        free.frames[:held] = False
        return value, lower, upper, free

    @staticmethod
    def _moved(state: FitState, step: Unknowns) -> FitState:
        frames = state.frames.moved(state.frames.vector + step.frames)
        return FitState(state.log_focal + float(step.shared[0]), state.shape + step.shared[1:], frames)

    def errors(self, frames: np.ndarray, state: FitState) -> np.ndarray:
        """(T,) mean distance of the inner face's landmarks / distance of the outer eye corners."""
        rows = np.flatnonzero(np.isin(self.face.indices, INNER_FACE))
        seen = self.observe(frames)
        distances = np.zeros(len(seen))

        def fill(part: slice) -> None:
            pixels = self.face.project(state.log_focal, state.shape, state.frames[part], self.middle)
            distances[part] = np.linalg.norm((pixels - seen.points[part])[:, rows], axis=2).mean(1)

        _each_part(fill, len(seen))
        return distances / np.maximum(seen.eyes, 1e-9)

    def camera(self, state: FitState) -> Camera:
        width, height = self.image_size
        focal = float(np.exp(state.log_focal))
        K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
        return Camera(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])), K, width, height)

    def result(self, state: FitState, frames: np.ndarray) -> Fit:
        params = self.face.params(state.log_focal, state.shape, state.frames, self.middle)
        return Fit(params, self.camera(state), self.errors(frames, state))


@dataclass(frozen=True)
class _Landmarks:
    """Landmarks of frames, and what else is known of them, as a problem; see `LandmarkFitter.solve`."""

    fitter: LandmarkFitter
    seen: Observed
    shared: bool
    coupling: Coupling | None
    held: int
    witnesses: Sequence[Witness]

    def energies(self, state: FitState) -> np.ndarray:
        return self.fitter._energies(self.seen, state, self.coupling, self.witnesses)

    def normals(self, state: FitState) -> Normals:
        return self.fitter._normals(self.seen, state, self.shared, self.coupling, self.witnesses)

    def bounds(self, state: FitState) -> tuple[Unknowns, Unknowns, Unknowns, Unknowns]:
        return self.fitter._bounds(state, self.shared, self.held)

    def moved(self, state: FitState, step: Unknowns) -> FitState:
        return self.fitter._moved(state, step)

    def mixed(self, state: FitState, trial: FitState, better: np.ndarray) -> FitState:
        return replace(trial, frames=state.frames.where(better, trial.frames))


def _each_part(work: Callable[[slice], Any], count: int) -> list[Any]:
    """What `work` returns for every few of `count` frames; some calls go side by side where there are enough."""
    parts = [slice(first, min(first + _PART, count)) for first in range(0, count, _PART)]
    if len(parts) < 3:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, parts))
