"""Training samples of one synthetic person, made under the conditions of use.

The true person is a random head of one model (ICT-FaceKit where it is there); another head, the one that conditions the
generator, is fitted to it by the tracker's own code from its projected landmarks with a detector's errors. References,
proposals and cameras come from that fit; images, normals and masks from the truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from geodiff.conditioning import (
    VIEWPOINT_DEGREES,
    Conditioner,
    HeadFrame,
    Reference,
    crop_reference,
    face_camera,
    framed_camera,
    head_frame,
)
from geodiff.conditioning.frame import CHIN_TO_CROWN
from geodiff.conditioning.noise import fractal_noise
from geodiff.driver import Driver
from geodiff.geometry import orbit_camera, project
from geodiff.head.model import HeadModel
from geodiff.synth.appearance import WILD
from geodiff.synth.backdrop import backdrop
from geodiff.synth.lens import chroma_noise, lateral_color
from geodiff.synth.motion import BLINK, NAMES, random_expressions, random_sequence
from geodiff.synth.subject import Posed, Subject
from geodiff.tracking.fit import FitConfig, FitState, LandmarkFitter
from geodiff.tracking.offsets import fit_offsets
from geodiff.types import Camera, HeadParams, Motion

#: What the proposal shows: the target's tracked expression, the reference's, or none; so that the expression has to
#: come from the latent as well.
PROPOSALS = {"tracked": 0.50, "reference": 0.25, "neutral": 0.25}

#: Portraits' augmentations: standard deviation of red's magnification over green's, and the strongest chroma noise.
FRINGE, CHROMA = 0.0012, 0.012

#: Names of the expression weights that are recorded of each frame.
EXPRESSIONS = (*NAMES, *BLINK)

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class SampleConfig:
    """size: side of the images, pixels. crop: side of the driving crops. references: portraits of a person, each in an
    expression, view and lens of its own; the targets are shared out among them. timesteps, views: single targets are
    timesteps x views. clips: smooth sequences at a fixed camera, of clip_frames frames each. supersample: of the
    targets and the driving crops. detector_noise: standard deviation of a landmark, as a share of the outer eye
    corners' distance. driver_share: of the motions whose driving crops show the driver head instead of the person, as
    built-in motions and parameter files do in use. wild: share of the people, 0..1, in colours that no person has.
    smiles: share of the expressions, 0..1, that show shut teeth in a smile; of the portraits' twice as many.
    ground_truth: with depth, UV, cameras and the parameters of both
    heads."""

    size: int = 256
    crop: int = 64
    references: int = 2
    timesteps: int = 8
    views: int = 2
    clips: int = 1
    clip_frames: int = 8
    supersample: int = 3
    detector_noise: float = 0.012
    driver_share: float = 0.4
    wild: float = WILD
    smiles: float = 0.08
    ground_truth: bool = False


@dataclass(frozen=True)
class Truth:
    """How frames came about. camera, params (T frames): in the true head's world. fitted_camera, fitted: the same
    frames in the world of the head that conditions, as the tracker knows them."""

    camera: Camera
    params: HeadParams
    fitted_camera: Camera
    fitted: HeadParams


@dataclass(frozen=True)
class Target:
    """Frames of one camera: each name of `FRAME_KEYS`, and with ground truth of `TRUTH_KEYS`, -> array. proposal: the
    key of PROPOSALS. reference: number of the portrait. weights: (T, E) the truth's expression, in the order of
    `EXPRESSIONS`."""

    frames: list[Arrays]
    proposal: str
    yaw: float
    elevation: float
    reference: int
    weights: np.ndarray
    truth: Truth | None = None


@dataclass(frozen=True)
class Person:
    """references: arrays named reference_* of each portrait. singles: one-frame targets. clips: targets of clip_frames
    frames. error: of the worst portrait's fit."""

    references: list[Arrays]
    singles: list[Target]
    clips: list[Target]
    error: float


class Session:
    """One portrait of a synthetic person, tracked, and the person seen in the fitted head's world."""

    def __init__(self, subject: Subject, head: HeadModel, seed: int, config: SampleConfig, number: int = 0) -> None:
        self.head, self.config, self.number = head, config, number
        self.rng = np.random.default_rng([seed, 1 + number])
        self.subject = subject
        self.reference, self.error = self._photograph()
        self.conditioner = Conditioner(head, self.reference)
        self.driver = Driver(head)
        self.frame: HeadFrame = head_frame(head, self.reference.params)
        self.distance = self.frame.distance(self.reference.camera)
        self.rotation, self.shift, self.scale = self._alignment()

    def _photograph(self) -> tuple[Reference, float]:
        """A portrait with a mild expression, tracked and cropped."""
        rng, size, truth = self.rng, self.config.size, self.subject.head
        mild = random_expressions(rng, 1, mild=True, smiles=min(1.0, 2 * self.config.smiles))
        self.expression = truth.motion_params(mild, self.subject.params)
        frame = head_frame(truth, self.subject.params)
        side, distance = round(1.6 * size), float(rng.uniform(0.55, 1.5))
        focal = CHIN_TO_CROWN * size * rng.uniform(0.8, 1.4) * distance / frame.height
        yaw, pitch = np.clip(rng.normal(0, [14, 6]), -32, 15)
        camera = orbit_camera(math.radians(yaw), math.radians(pitch), distance, frame.center, focal, side, side)
        camera = _rolled(camera, math.radians(rng.normal(0, 5)), rng.normal(0, 0.03 * side, 2))
        photo = self.subject.render(self.subject.pose(self.expression), camera)
        behind = (1 - photo.mask[..., None]) * (backdrop(side, rng) - 1)
        image = _photographic(photo.image + behind, rng)
        matte = np.clip(cv2.GaussianBlur(photo.mask, (0, 0), rng.uniform(0.6, 1.5)) * 1.5 - rng.uniform(0.1, 0.4), 0, 1)
        fitter = LandmarkFitter(self.head, (side, side), FitConfig())
        points = self._detect(self.expression, camera)
        self._fitter, self._state = fitter, fitter.solve(points, fitter.start(points))
        fit = fitter.result(self._state, points)
        params = fit_offsets(matte, fit.params, fit.camera, self.head, image)
        return crop_reference(image, matte, params, fit.camera, self.head, size), fit.error

    def _detect(self, params: HeadParams, camera: Camera) -> np.ndarray:
        """(1, 478, 2) landmarks as a detector finds them: the true ones with smooth and independent errors."""
        truth, rng = self.subject.head, self.rng
        assert truth.landmarks is not None
        world = truth.landmark_points(params)[0]
        pixels, _ = project(world, camera)
        eyes = float(camera.K[0, 0]) * 0.09 / float((camera.center - world.mean(0)).norm())
        place = (world - world.mean(0)).numpy()
        smooth = np.stack([fractal_noise(place, 0.06, 2, int(rng.integers(1 << 30))) for _ in range(2)], 1)
        error = self.config.detector_noise * eyes * (1.5 * smooth + 0.5 * rng.normal(size=smooth.shape))
        points = np.zeros((1, 478, 2))
        points[0, truth.landmarks.indices.numpy()] = pixels.numpy() + error
        return points

    def _alignment(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        """The similarity that takes the fitted head's world to the truth's: x -> scale * rotation @ x + shift."""
        truth, head = self.subject.head, self.head
        assert truth.landmarks is not None and head.landmarks is not None
        numbers = np.intersect1d(truth.landmarks.indices.numpy(), head.landmarks.indices.numpy())
        goal = _rows(truth, self.expression, numbers)
        own = _rows(head, self.reference.params, numbers)
        goal_mean, own_mean = goal.mean(0), own.mean(0)
        u, s, vt = torch.linalg.svd((goal - goal_mean).T @ (own - own_mean))
        sign = torch.diag(torch.tensor([1.0, 1.0, float(torch.sign(torch.det(u @ vt)))]))
        rotation = u @ sign @ vt
        scale = float((s * sign.diagonal()).sum() / ((own - own_mean) ** 2).sum())
        return rotation, goal_mean - scale * rotation @ own_mean, scale

    def true_camera(self, camera: Camera) -> Camera:
        """The camera of the fitted head's world, moved to the truth's: the same picture."""
        turn = camera.viewmat[:3, :3] @ self.rotation.T
        viewmat = torch.eye(4)
        viewmat[:3, :3] = turn
        viewmat[:3, 3] = self.scale * camera.viewmat[:3, 3] - turn @ self.shift
        return Camera(viewmat, camera.K, camera.width, camera.height)

    def fitted(self, motion: Motion, true: HeadParams, tracked: bool) -> HeadParams:
        """The motion on the fitted head: by its ARKit names, or as the tracker finds it in the truth's landmarks."""
        base = self.reference.params
        params = self.head.motion_params(motion, base)
        if not tracked:
            return params
        camera = self.true_camera(framed_camera(self.frame, 0.0, 0.0, self.distance, 512))
        fitter = LandmarkFitter(self.head, (512, 512), FitConfig())
        points = np.concatenate([self._detect(true.frame(t), camera) for t in range(motion.num_frames)])
        start = FitState(math.log(float(camera.K[0, 0])), self._state.shape, fitter.start_frames(points))
        found = fitter.result(fitter.solve(points, start, shared=False, iterations=10), points).params
        return params.replace(expr=found.expr, jaw_pose=found.jaw_pose, eyes_pose=found.eyes_pose)

    def view(self) -> tuple[float, float]:
        """Yaw and elevation of a target in degrees."""
        if self.rng.random() < 0.5:
            yaw, elevation = VIEWPOINT_DEGREES[self.rng.integers(len(VIEWPOINT_DEGREES))]
            return float(yaw + self.rng.normal(0, 3)), float(elevation + self.rng.normal(0, 3))
        return float(self.rng.uniform(-90, 90)), float(self.rng.uniform(-20, 30))

    def crops(self, true: list[Posed], yaw: float, elevation: float) -> list[np.ndarray]:
        """Driving crops (crop, crop, 3) uint8 of expressions, from a view of their own."""
        base = framed_camera(self.frame, math.radians(yaw), math.radians(elevation), self.distance, 256)
        camera = self.true_camera(face_camera(self.head, self.reference.params, base, self.config.crop))
        frames = [self.subject.render(posed, camera, self.config.supersample).image for posed in true]
        return [as_bytes(frame) for frame in frames]

    def target(self, motion: Motion, kind: str, view: tuple[float, float], cache: _Step | None = None) -> Target:
        """Frames of one camera with all their conditions."""
        step = cache or self.step(motion)
        yaw, elevation = view
        camera = framed_camera(self.frame, math.radians(yaw), math.radians(elevation), self.distance, self.config.size)
        seen = self.true_camera(camera)
        shown = {
            "tracked": step.fitted,
            "reference": self._repeated(self.reference.params, motion.num_frames),
            "neutral": self.head.motion_params(_still(motion.num_frames), self.reference.params),
        }[kind]
        frames = []
        for t, posed in enumerate(step.posed):
            truth = self.subject.render(posed, seen, self.config.supersample, self.config.ground_truth)
            condition = self.conditioner.render(shown.frame(t), camera)
            frames.append({
                "images": as_bytes(truth.image),
                "normals": as_signed_bytes(truth.normals),
                "masks": as_bytes(truth.mask),
                "pose_maps": as_signed_bytes(condition.pose_map),
                "proposals": as_bytes(condition.proposal),
                "proposal_normals": as_signed_bytes(condition.normals),
                "visibility": as_bytes(condition.visibility),
                "driving": step.driving[t],
            })  # fmt: skip
            if truth.depth is not None and truth.uv is not None:
                frames[-1] |= {"depth": depth_levels(truth.depth), "uv": uv_levels(truth.uv)}
        truth_of = Truth(seen, step.true, camera, step.fitted) if self.config.ground_truth else None
        return Target(frames, kind, yaw, elevation, self.number, expression_vectors(motion), truth_of)

    def step(self, motion: Motion) -> _Step:
        """What all views of a motion share: the truth's expressions, the fitted parameters, the driving
        crops."""
        truth = self.subject.head
        true = truth.motion_params(motion, self.subject.params)
        posed = [self.subject.pose(true.frame(t)) for t in range(motion.num_frames)]
        yaw, elevation = self.rng.uniform(-32, 32), self.rng.uniform(-12, 15)
        fitted = self.fitted(motion, true, tracked=self.rng.random() < 0.4)
        if self.rng.random() < self.config.driver_share:
            driving = [as_bytes(crop) for crop in self.driver.crops(fitted, self.config.crop)]
        else:
            driving = self.crops(posed, float(yaw), float(elevation))
        return _Step(posed, true, fitted, driving)

    def _repeated(self, params: HeadParams, count: int) -> HeadParams:
        return params.frames(torch.zeros(count, dtype=torch.int64))

    def reference_arrays(self) -> Arrays:
        return {
            "reference_image": as_bytes(self.reference.image),
            "reference_normals": as_signed_bytes(self.reference.normals),
            "reference_pose_map": as_signed_bytes(self.reference.pose_map),
        }


@dataclass(frozen=True)
class _Step:
    posed: list[Posed]
    true: HeadParams
    fitted: HeadParams
    driving: list[np.ndarray]


def make_person(truth: HeadModel, head: HeadModel, seed: int, config: SampleConfig) -> Person:
    """All samples of one person. truth: the head that people are drawn from. head: the one that conditions."""
    subject = Subject(truth, seed, texture_size=3 * config.size, wild=config.wild)
    sessions = [Session(subject, head, seed, config, number) for number in range(config.references)]
    kinds, odds = list(PROPOSALS), list(PROPOSALS.values())
    singles, clips = [], []
    for number in range(config.timesteps):
        session = sessions[number % len(sessions)]
        motion = random_expressions(session.rng, 1, smiles=config.smiles)
        step = session.step(motion)
        for _ in range(config.views):
            kind = str(session.rng.choice(kinds, p=odds))
            singles.append(session.target(motion, kind, session.view(), step))
    for number in range(config.clips):
        session = sessions[-1 - number % len(sessions)]
        motion = random_sequence(session.rng, config.clip_frames, config.smiles)
        clips.append(session.target(motion, str(session.rng.choice(kinds, p=odds)), session.view()))
    error = max(session.error for session in sessions)
    return Person([session.reference_arrays() for session in sessions], singles, clips, error)


def expression_vectors(motion: Motion) -> np.ndarray:
    """(T, E) float32 weights of a motion in the order of `EXPRESSIONS`."""
    rest = np.zeros(motion.num_frames, np.float32)
    return np.stack([motion.weights.get(name, rest) for name in EXPRESSIONS], 1)


def _rows(head: HeadModel, params: HeadParams, numbers: np.ndarray) -> torch.Tensor:
    """Landmarks (L, 3) with these MediaPipe numbers."""
    assert head.landmarks is not None
    position = {int(n): i for i, n in enumerate(head.landmarks.indices.tolist())}
    return head.landmark_points(params.frame(0))[0][[position[int(n)] for n in numbers]]


def _rolled(camera: Camera, roll: float, offset: np.ndarray) -> Camera:
    """The camera turned about its optical axis, its principal point where it was and the head moved by `offset`
    pixels."""
    turn = torch.eye(4)
    turn[0, 0] = turn[1, 1] = math.cos(roll)
    turn[0, 1], turn[1, 0] = -math.sin(roll), math.sin(roll)
    # A small turn of the camera moves the head in the picture, as in a photograph that is not centred on it.
    focal = float(camera.K[0, 0])
    tilt = torch.eye(4)
    tilt[:3, :3] = _small_rotation(-float(offset[1]) / focal, float(offset[0]) / focal)
    return Camera(turn @ tilt @ camera.viewmat, camera.K, camera.width, camera.height)


def _small_rotation(about_x: float, about_y: float) -> torch.Tensor:
    cx, sx, cy, sy = math.cos(about_x), math.sin(about_x), math.cos(about_y), math.sin(about_y)
    x = torch.tensor([[1.0, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = torch.tensor([[cy, 0, sy], [0, 1.0, 0], [-sy, 0, cy]])
    return x @ y


def _photographic(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What lenses, sensors and files do to a portrait: fringes of colour, a little blur, grain, JPEG. (H, W, 3) 0..1
    -> uint8."""
    (own,) = rng.spawn(1)  # what else is drawn for the person does not depend on how much these draw
    if own.random() < 0.4:
        image = lateral_color(image, float(own.normal(0, FRINGE)))
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.9))
    image = image + rng.normal(0, rng.uniform(0, 0.015), (*image.shape[:2], 1)).astype(np.float32)
    image = image + chroma_noise(image.shape[0], image.shape[1], float(own.uniform(0, CHROMA)), own)
    coded = as_bytes(image)
    if rng.random() < 0.4:
        _, data = cv2.imencode(".jpg", coded, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 95))])
        coded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    return coded


def _still(frames: int) -> Motion:
    return Motion({}, np.zeros((frames, 3), np.float32), np.zeros((frames, 2), np.float32))


def as_bytes(image: np.ndarray) -> np.ndarray:
    """0..1 -> uint8."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def as_signed_bytes(vectors: np.ndarray) -> np.ndarray:
    """-1..1 -> uint8."""
    return as_bytes(vectors / 2 + 0.5)


def depth_levels(depth: np.ndarray) -> np.ndarray:
    """Metres (H, W), 0 where nothing is -> uint16 tenths of a millimetre."""
    return np.clip(depth * 1e4 + 0.5, 0, 65535).astype(np.uint16)


def uv_levels(uv: np.ndarray) -> np.ndarray:
    """Places (H, W, 2) in 0..1, -1 where there is none -> (H, W, 3) uint16: 0..65535, and 65535 where there is one."""
    there = uv[..., :1] >= 0
    levels = np.where(there, np.clip(uv, 0, 1) * 65535 + 0.5, 0)
    return np.concatenate([levels, 65535 * there], -1).astype(np.uint16)
