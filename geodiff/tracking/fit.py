"""Damped least squares of a head model on face landmarks: pose, focal length, identity, expression, gaze.

Levenberg-Marquardt with Gaussian priors and box constraints. One solver for one or several frames of a person: the
frames share focal length and identity, everything else is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from geodiff.head.model import HeadModel
from geodiff.tracking.face_model import FaceModel, FrameState
from geodiff.tracking.groups import INNER_FACE, OVAL, landmark_weights
from geodiff.tracking.landmarks import OUTER_EYE_CORNERS
from geodiff.types import Camera, HeadParams

#: Names that begin so belong to expressions with weights in 0..1, as ARKit's; others are in standard deviations.
_WEIGHT_PREFIXES = ("brow", "cheek", "eye", "jaw", "mouth", "nose", "tongue", "pupil")


@dataclass(frozen=True)
class FitConfig:
    """How landmarks are fitted.

    noise: standard deviation of a landmark as a share of the outer eye corners' distance. outlier: residuals beyond
    this many standard deviations lose their pull. field_of_view: prior mean of the horizontal angle of the image's
    longer side, degrees, with focal_spread the standard deviation of the logarithm of the focal length. distance:
    prior mean of the distance to the head in metres, with distance_spread in logarithms. shape_prior, expr_prior:
    strength of the priors; arkit_spread: standard deviation of an expression weight in 0..1. bound: coefficients stay
    within this many standard deviations. gaze_spread: radians. iterations: at most so many steps.
    """

    noise: float = 0.02
    outlier: float = 4.0
    field_of_view: float = 31.0
    focal_spread: float = 0.25
    distance: float = 1.1
    distance_spread: float = 0.25
    shape_prior: float = 1.5
    expr_prior: float = 1.5
    arkit_spread: float = 0.35
    bound: float = 3.0
    gaze_spread: float = 0.25
    iterations: int = 30


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


@dataclass
class FitState:
    """The solver's unknowns: shared logarithm of the focal length in pixels and shape (S,), and the frames' own."""

    log_focal: float
    shape: np.ndarray
    frames: list[FrameState]


def fit_landmarks(
    points: np.ndarray, image_size: tuple[int, int], head: HeadModel, config: FitConfig | None = None
) -> Fit:
    """Fit a head to landmarks (478, 2) of one image, or (T, 478, 2) of several frames of one person and one camera.

    image_size: (width, height) in pixels; the principal point is the image's middle.
    """
    fitter = LandmarkFitter(head, image_size, config or FitConfig())
    points = np.asarray(points, np.float64)
    frames = points[None] if points.ndim == 2 else points
    return fitter.result(fitter.solve(frames, fitter.start(frames)), frames)


class LandmarkFitter:
    """Fits one head to landmarks of images of one size."""

    def __init__(self, head: HeadModel, image_size: tuple[int, int], config: FitConfig) -> None:
        self.face = FaceModel(head)
        self.config = config
        self.image_size = image_size
        self.middle = np.array(image_size, np.float64) / 2
        self.weights = landmark_weights()[self.face.indices]
        self.lower, self.upper, self.spread = self._frame_priors(head)

    def _frame_priors(self, head: HeadModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bounds and standard deviations (11 + E,) of a frame's vector."""
        c = self.config
        arkit = np.array([name.startswith(_WEIGHT_PREFIXES) for name in head.expression_names])
        lower = np.where(arkit, 0.0, -c.bound)
        upper = np.where(arkit, 1.0, c.bound)
        spread = np.where(arkit, c.arkit_spread, 1.0) / c.expr_prior
        opens = "jawOpen" in head.expression_names
        jaw = (0.0, 1e-9) if opens else (-0.02, 0.5)
        free = np.full(6, np.inf)
        return (
            np.concatenate([-free, lower, np.full(4, -0.7), [jaw[0]]]),
            np.concatenate([free, upper, np.full(4, 0.7), [jaw[1]]]),
            np.concatenate([free, spread, np.full(4, c.gaze_spread), [0.15]]),
        )

    def start(self, frames: np.ndarray) -> FitState:
        """Neutral identity and expression; pose by aligning the mean face's front view. frames: (T, 478, 2)."""
        longest = max(self.image_size)
        log_focal = float(np.log(longest / 2 / np.tan(np.radians(self.config.field_of_view) / 2)))
        states = [self.start_frame(points) for points in frames]
        return FitState(log_focal, np.zeros(self.face.num_shape), states)

    def start_frame(self, points: np.ndarray) -> FrameState:
        """Scaled orthographic pose (two rows of the affine fit, made orthonormal) of the mean face on points (478,
        2)."""
        observed = points[self.face.indices]
        weights = np.sqrt(self.weights)[:, None]
        system = np.concatenate([self.face.mean, np.ones((len(observed), 1))], 1)
        affine = np.linalg.lstsq(weights * system, weights * observed, rcond=None)[0]
        rows = affine[:3].T * np.array([[1.0], [-1.0]])
        scale = float(np.linalg.norm(rows, axis=1).mean())
        u, _, vt = np.linalg.svd(np.stack([*rows / scale, np.cross(*rows) / scale**2]))
        return FrameState(
            rotation=u @ vt,
            centre=affine[3].copy(),
            log_scale=float(np.log(scale)),
            expr=np.zeros(self.face.num_expr),
            gaze=np.zeros(4),
            jaw=0.0,
        )

    def solve(
        self,
        frames: np.ndarray,
        state: FitState,
        shared: bool = True,
        anchors: list[FrameState] | None = None,
        anchor_spread: np.ndarray | None = None,
        iterations: int | None = None,
    ) -> FitState:
        """Levenberg-Marquardt from `state`. frames: (T, 478, 2).

        shared: also solve for focal length and shape. anchors: states that the frames are drawn to, with standard
        deviations anchor_spread (11 + E,): the frame before, in a video.
        """
        damping = 1e-3
        energy, hessian, gradient = self._normal_equations(frames, state, shared, anchors, anchor_spread)
        for _ in range(iterations or self.config.iterations):
            step = self._bounded_step(state, hessian, gradient, damping, shared)
            trial = self._moved(state, step, shared)
            new = self._normal_equations(frames, trial, shared, anchors, anchor_spread)
            if new[0] < energy:
                done = energy - new[0] < 1e-4 * energy
                state, (energy, hessian, gradient), damping = trial, new, max(damping / 5, 1e-7)
                if done:
                    break
            else:
                damping *= 8
                if damping > 1e6:
                    break
        return state

    def _normal_equations(
        self,
        frames: np.ndarray,
        state: FitState,
        shared: bool,
        anchors: list[FrameState] | None,
        anchor_spread: np.ndarray | None,
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy, Gauss-Newton matrix and gradient by (log focal, shape, frame 0, frame 1, ...)."""
        head, local = 1 + self.face.num_shape, 11 + self.face.num_expr
        size = head + local * len(frames)
        hessian, gradient = np.zeros((size, size)), np.zeros(size)
        energy = 0.0
        for t, (points, frame) in enumerate(zip(frames, state.frames, strict=True)):
            pixels, by_shared, by_frame = self.face.jacobian(
                state.log_focal, state.shape, frame, self.middle, shared
            )
            residual, root = self._residuals(points, pixels, frame)
            squared = (residual**2).sum(1)
            # Geman and McClure's robust energy and its weights.
            limit = self.config.outlier**2
            energy += float((squared * limit / (squared + limit)).sum())
            pull = (limit / (squared + limit))[:, None]
            own = slice(head + t * local, head + (t + 1) * local)
            where = np.r_[0:head, own] if by_shared is not None else np.r_[own]
            jac = by_frame if by_shared is None else np.concatenate([by_shared, by_frame], 2)
            jac = ((root * pull[..., None]) @ jac).reshape(-1, len(where))
            residual = (residual * pull).ravel()
            hessian[np.ix_(where, where)] += jac.T @ jac
            gradient[where] += jac.T @ residual
            vector = frame.vector
            prior = vector / self.spread
            energy += float((prior**2).sum()) + self._couple_eyes(hessian, gradient, own.stop, frame)
            gradient[own] += prior / self.spread
            hessian[own, own] += np.diag(self.spread**-2.0)
            distance = (state.log_focal - frame.log_scale - np.log(self.config.distance)) / self.config.distance_spread
            energy += distance**2
            row = np.array([1, -1]) / self.config.distance_spread
            self._add_row(hessian, gradient, [0, own.start + 5], row, distance)
            if anchors is not None and anchor_spread is not None:
                away = vector - anchors[t].vector
                away[:3] = Rotation.from_matrix(frame.rotation @ anchors[t].rotation.T).as_rotvec()
                energy += float(((away / anchor_spread) ** 2).sum())
                gradient[own] += away / anchor_spread**2
                hessian[own, own] += np.diag(anchor_spread**-2.0)
        if shared:
            energy += self._shared_priors(hessian, gradient, state)
        return energy, hessian, gradient

    def _residuals(self, points: np.ndarray, pixels: np.ndarray, frame: FrameState) -> tuple[np.ndarray, np.ndarray]:
        """Whitened residuals (L, 2) and the (L, 2, 2) roots of the information that whiten them."""
        observed = points[self.face.indices]
        eyes = np.linalg.norm(points[OUTER_EYE_CORNERS[0]] - points[OUTER_EYE_CORNERS[1]])
        # The pose foreshortens the eyes' distance; the head's scale does not change with it.
        sigma = self.config.noise * max(eyes, 0.09 * np.exp(frame.log_scale))
        # What turns away from the camera is guessed by the detector.
        seen = np.clip((self.face.facing(frame) + 0.35) / 0.5, 0.02, 1.0)
        root = np.sqrt(self.weights * seen) / sigma
        matrices = root[:, None, None] * np.eye(2)
        matrices = self._slide_contour(points, matrices)
        return (matrices @ (pixels - observed)[..., None])[..., 0], matrices

    def _slide_contour(self, points: np.ndarray, matrices: np.ndarray) -> np.ndarray:
        """Landmarks of the face's contour hold across it only: along it they slide on the surface as the head turns."""
        position = {int(mark): row for row, mark in enumerate(self.face.indices)}
        marks = [i for i, mark in enumerate(OVAL) if mark in position]
        rows = [position[OVAL[i]] for i in marks]
        contour = points[list(OVAL)]
        tangents = (np.roll(contour, -1, 0) - np.roll(contour, 1, 0))[marks]
        tangents /= np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-9)
        matrices[rows] = matrices[rows] @ (np.eye(2) - 0.7 * tangents[:, :, None] * tangents[:, None])
        return matrices

    def _couple_eyes(self, hessian: np.ndarray, gradient: np.ndarray, stop: int, frame: FrameState) -> float:
        """Both eyes look the same way, up to a little vergence. Returns the energy."""
        energy = 0.0
        for axis, spread in ((0, 0.04), (1, 0.02)):
            value = (frame.gaze[axis] - frame.gaze[axis + 2]) / spread
            self._add_row(hessian, gradient, [stop - 5 + axis, stop - 3 + axis], np.array([1, -1]) / spread, value)
            energy += float(value**2)
        return energy

    def _shared_priors(self, hessian: np.ndarray, gradient: np.ndarray, state: FitState) -> float:
        c = self.config
        mean = np.log(max(self.image_size) / 2 / np.tan(np.radians(c.field_of_view) / 2))
        focal = (state.log_focal - mean) / c.focal_spread
        self._add_row(hessian, gradient, [0], np.array([1 / c.focal_spread]), focal)
        shape = slice(1, 1 + self.face.num_shape)
        gradient[shape] += state.shape * c.shape_prior**2
        hessian[shape, shape] += np.eye(self.face.num_shape) * c.shape_prior**2
        return float(focal**2 + (state.shape**2).sum() * c.shape_prior**2)

    @staticmethod
    def _add_row(hessian: np.ndarray, gradient: np.ndarray, where: list[int], row: np.ndarray, value: float) -> None:
        hessian[np.ix_(where, where)] += np.outer(row, row)
        gradient[where] += row * value

    def _bounded_step(
        self, state: FitState, hessian: np.ndarray, gradient: np.ndarray, damping: float, shared: bool
    ) -> np.ndarray:
        """The damped Newton step of the unknowns that are not held at a bound; the rest stay."""
        value, lower, upper = self._bounds(state)
        free = np.ones(len(value), bool)
        if not shared:
            free[: 1 + self.face.num_shape] = False
        free &= ~((value <= lower + 1e-12) & (gradient > 0)) & ~((value >= upper - 1e-12) & (gradient < 0))
        step = np.zeros(len(value))
        for _ in range(4):  # Unknowns that would leave their box are set on its wall and the others solved again.
            chosen = np.flatnonzero(free)
            matrix = hessian[np.ix_(chosen, chosen)]
            matrix = matrix + np.diag(damping * np.maximum(np.diag(matrix), 1e-9))
            fixed = np.flatnonzero(~free & (step != 0))
            right = -gradient[chosen] - hessian[np.ix_(chosen, fixed)] @ step[fixed]
            step[chosen] = np.linalg.solve(matrix, right)
            out = free & ((value + step < lower) | (value + step > upper))
            if not out.any():
                break
            step[out] = np.clip(value + step, lower, upper)[out] - value[out]
            free &= ~out
        return np.clip(value + step, lower, upper) - value

    def _bounds(self, state: FitState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values, lower and upper bounds of all unknowns."""
        longest = max(self.image_size) / 2
        bound = np.full(self.face.num_shape, self.config.bound)
        count = len(state.frames)
        value = np.concatenate([[state.log_focal], state.shape, *(f.vector for f in state.frames)])
        # Lenses between 8 and 75 degrees.
        lower = np.concatenate([[np.log(longest / np.tan(np.radians(37.5)))], -bound, np.tile(self.lower, count)])
        upper = np.concatenate([[np.log(longest / np.tan(np.radians(4)))], bound, np.tile(self.upper, count)])
        return value, lower, upper

    def _moved(self, state: FitState, step: np.ndarray, shared: bool) -> FitState:
        head, local = 1 + self.face.num_shape, 11 + self.face.num_expr
        frames = [
            frame.moved(frame.vector + step[head + t * local : head + (t + 1) * local])
            for t, frame in enumerate(state.frames)
        ]
        if not shared:
            return replace(state, frames=frames)
        return FitState(state.log_focal + float(step[0]), state.shape + step[1:head], frames)

    def errors(self, frames: np.ndarray, state: FitState) -> np.ndarray:
        """(T,) mean distance of the inner face's landmarks / distance of the outer eye corners."""
        rows = np.flatnonzero(np.isin(self.face.indices, INNER_FACE))
        errors = []
        for points, frame in zip(frames, state.frames, strict=True):
            pixels = self.face.project(state.log_focal, state.shape, frame, self.middle)
            distance = np.linalg.norm(pixels[rows] - points[self.face.indices[rows]], axis=1).mean()
            eyes = np.linalg.norm(points[OUTER_EYE_CORNERS[0]] - points[OUTER_EYE_CORNERS[1]])
            errors.append(distance / max(eyes, 1e-9))
        return np.array(errors)

    def camera(self, state: FitState) -> Camera:
        width, height = self.image_size
        focal = float(np.exp(state.log_focal))
        K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
        return Camera(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])), K, width, height)

    def result(self, state: FitState, frames: np.ndarray) -> Fit:
        params = self.face.params(state.log_focal, state.shape, state.frames, self.middle)
        return Fit(params, self.camera(state), self.errors(frames, state))
