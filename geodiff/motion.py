"""Built-in motions and motion files: ARKit-named weights, head rotation and gaze, independent of any head model.

A motion file is an npz of plain arrays: `weights` (T, N) in 0..1, `names` (N,) text with Apple's ARKit names,
`rotation` (T, 3) axis-angle in radians, `gaze` (T, 2) yaw and pitch in radians, `fps` (). The first two are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from geodiff.config import choose
from geodiff.errors import ConfigError, InputError
from geodiff.files import frame_rate, read_npz, write_npz
from geodiff.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from geodiff.types import HeadParams, Motion

#: Frames a second that a long motion told in a few frames is shown with at the least, so that it can be watched.
SLOWEST_FPS = 4.0

#: Apple's 52 names.
ARKIT_NAMES = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip

#: Mouth shapes of speech, by what is heard; "~" stands for the left and the right weight. Amplitudes are those of
#: unhurried speech, well below the full range.
VISEMES: dict[str, dict[str, float]] = {
    "rest": {},
    "mbp": {"mouthClose": 0.15, "mouthPress~": 0.35, "mouthRollLower": 0.25, "mouthRollUpper": 0.2, "jawOpen": 0.04},
    "fv": {"jawOpen": 0.08, "mouthRollLower": 0.35, "mouthUpperUp~": 0.25, "mouthStretch~": 0.1},
    "th": {"jawOpen": 0.16, "mouthLowerDown~": 0.25, "mouthUpperUp~": 0.1, "tongueOut": 0.1},
    "dtn": {"jawOpen": 0.13, "mouthLowerDown~": 0.25, "mouthUpperUp~": 0.1, "mouthStretch~": 0.12},
    "sz": {"jawOpen": 0.06, "mouthStretch~": 0.3, "mouthLowerDown~": 0.3, "mouthUpperUp~": 0.15, "mouthSmile~": 0.12},
    "sh": {"jawOpen": 0.1, "mouthFunnel": 0.5, "mouthLowerDown~": 0.2, "mouthUpperUp~": 0.12},
    "kg": {"jawOpen": 0.2, "mouthLowerDown~": 0.15, "mouthStretch~": 0.1},
    "rl": {"jawOpen": 0.18, "mouthFunnel": 0.25, "mouthPucker": 0.1, "mouthLowerDown~": 0.1},
    "aa": {"jawOpen": 0.58, "mouthLowerDown~": 0.3, "mouthUpperUp~": 0.15, "mouthStretch~": 0.08},
    "eh": {"jawOpen": 0.34, "mouthLowerDown~": 0.3, "mouthStretch~": 0.25, "mouthSmile~": 0.15, "mouthUpperUp~": 0.12},
    "ee": {"jawOpen": 0.16, "mouthSmile~": 0.42, "mouthStretch~": 0.25, "mouthLowerDown~": 0.2, "mouthDimple~": 0.2},
    "oh": {"jawOpen": 0.4, "mouthFunnel": 0.55, "mouthPucker": 0.15},
    "oo": {"jawOpen": 0.14, "mouthPucker": 0.7, "mouthFunnel": 0.3},
}

#: "Hello there. My name is nobody: I am a picture that was taught to speak, and so I smile." Seconds at each shape.
SPEECH: tuple[tuple[str, float], ...] = (
    ("rest", 0.25), ("eh", 0.12), ("rl", 0.08), ("oh", 0.2), ("th", 0.08), ("eh", 0.16), ("rl", 0.1), ("rest", 0.3),
    ("mbp", 0.09), ("aa", 0.16), ("ee", 0.08), ("dtn", 0.07), ("eh", 0.13), ("mbp", 0.09), ("ee", 0.1), ("sz", 0.1),
    ("dtn", 0.07), ("oh", 0.15), ("mbp", 0.08), ("aa", 0.14), ("dtn", 0.07), ("ee", 0.16), ("rest", 0.35),
    ("aa", 0.2), ("ee", 0.08), ("eh", 0.11), ("mbp", 0.1), ("eh", 0.08), ("mbp", 0.09), ("ee", 0.11), ("kg", 0.08),
    ("sh", 0.12), ("oo", 0.1), ("th", 0.07), ("aa", 0.13), ("dtn", 0.08), ("oo", 0.08), ("aa", 0.12), ("sz", 0.09),
    ("dtn", 0.08), ("oh", 0.2), ("dtn", 0.08), ("oo", 0.1), ("sz", 0.08), ("mbp", 0.09), ("ee", 0.2), ("kg", 0.09),
    ("rest", 0.3), ("eh", 0.1), ("dtn", 0.07), ("sz", 0.1), ("oh", 0.22), ("aa", 0.18), ("ee", 0.09), ("sz", 0.09),
    ("mbp", 0.1), ("aa", 0.22), ("ee", 0.12), ("rl", 0.15), ("rest", 0.6),
)  # fmt: skip

#: Range of motion: one expression after the other, the ones that matter most when few frames are asked for come first.
POSES: tuple[dict[str, float], ...] = (
    {},
    {"jawOpen": 0.5, "mouthLowerDown~": 0.2},
    {"eyeBlink~": 1.0},
    {"mouthSmile~": 0.9, "cheekSquint~": 0.4},
    {"browInnerUp": 0.9, "browOuterUp~": 0.9, "eyeWide~": 0.5},
    {"mouthPucker": 0.9},
    {"jawOpen": 0.9, "mouthStretch~": 0.2, "mouthLowerDown~": 0.3},
    {"browDown~": 0.9, "eyeSquint~": 0.5},
    {"mouthFunnel": 0.9, "jawOpen": 0.25},
    {"mouthFrown~": 0.9, "mouthShrugLower": 0.4},
    {"mouthSmile~": 0.8, "jawOpen": 0.35, "mouthUpperUp~": 0.4},
    {"mouthUpperUp~": 0.8, "noseSneer~": 0.7},
    {"mouthPress~": 0.7, "mouthRollLower": 0.5, "mouthRollUpper": 0.5},
    {"eyeBlinkLeft": 1.0, "mouthSmileLeft": 0.5},
    {"eyeBlinkRight": 1.0, "mouthSmileRight": 0.5},
    {"jawLeft": 0.8, "mouthLeft": 0.6},
    {"jawRight": 0.8, "mouthRight": 0.6},
    {"mouthStretch~": 0.9, "mouthLowerDown~": 0.5},
    {"cheekPuff": 0.9},
    {"jawForward": 0.7},
)


def builtin_motion(name: str, num_frames: int | None = None, fps: float = 25.0, seed: int = 0) -> Motion:
    """A built-in motion of num_frames frames (None: its natural length). Raises ConfigError for an unknown name.

    talk: about eight seconds of speech with blinks, brow accents, gaze shifts and a slight sway of the head; longer
    requests go on with speech, a different `seed` gives other timing. range_of_motion: one expression after another,
    head still; few frames show the extremes of the most important ones. neutral: nothing moves.
    """
    make = MOTIONS[choose("built-in motion", name, MOTIONS)]
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"a motion needs at least one frame, not {num_frames}")
    return make(num_frames, fps, np.random.default_rng(seed))


def condensed_motion(name: str, num_frames: int) -> Motion:
    """All of a built-in motion in num_frames frames. Raises ConfigError for an unknown name.

    Speech is thinned out evenly over its natural length, range_of_motion chooses its poses; played at the pace of the
    whole motion (see `thinned_fps`). More frames than the natural length has are `builtin_motion`'s.
    """
    natural = builtin_motion(name)
    if num_frames >= natural.num_frames:
        return builtin_motion(name, num_frames)
    chosen = builtin_motion(name, num_frames) if name == "range_of_motion" else spread(natural, num_frames)
    return replace(chosen, fps=thinned_fps(natural.fps, num_frames, natural.num_frames))


def spread(motion: Motion, num_frames: int) -> Motion:
    """num_frames frames taken evenly from a motion, the first and the last among them."""
    chosen = spread_indices(motion.num_frames, num_frames)
    weights = {name: np.asarray(values)[chosen] for name, values in motion.weights.items()}
    fps = thinned_fps(motion.fps, num_frames, motion.num_frames)
    return Motion(weights, motion.rotation[chosen], motion.gaze[chosen], fps)


def spread_indices(length: int, count: int) -> np.ndarray:
    """(count,) frame numbers spread evenly over `length` frames; numbers repeat where count is larger."""
    return np.linspace(0, length - 1, count).round().astype(int)


def thinned_fps(fps: float, kept: int, length: int) -> float:
    """Frames a second at which `kept` of `length` frames take as long as all of them did, and no less than a viewer can
    watch (`SLOWEST_FPS`)."""
    return max(fps * kept / length, min(fps, SLOWEST_FPS))


def in_place(params: HeadParams) -> HeadParams:
    """A filmed performance without its way through the room: turns of head and neck since the first frame, R_0^T R_t,
    and no translation.

    The first frame's pose is taken for the camera's, as `HeadModel.canonicalise` does, so a nod stays a nod from
    wherever it was filmed.
    """

    def since_first(pose: torch.Tensor) -> torch.Tensor:
        matrices = axis_angle_to_matrix(pose.double())
        return matrix_to_axis_angle(matrices[:1].transpose(-1, -2) @ matrices).to(pose.dtype)

    return params.replace(
        rotation=since_first(params.rotation),
        neck_pose=since_first(params.neck_pose),
        translation=torch.zeros_like(params.translation),
    )


def _neutral(num_frames: int | None, fps: float, _rng: np.random.Generator) -> Motion:
    frames = num_frames or round(2 * fps)
    return Motion({}, np.zeros((frames, 3), np.float32), np.zeros((frames, 2), np.float32), fps)


def _talk(num_frames: int | None, fps: float, rng: np.random.Generator) -> Motion:
    keys = _speech_keys(rng, num_frames / fps if num_frames else 0.0)
    times = np.arange(num_frames or round(keys[-1][0] * fps)) / fps
    weights = _blend(keys, times)
    length = float(times[-1]) if len(times) else 0.0
    # Accents of the brows fall on open vowels; a faint smile grows towards the end.
    stressed = [time for time, shape in keys if shape.get("jawOpen", 0.0) > 0.5]
    accents = [time for time in stressed if rng.random() < 0.5]
    for name, height in (("browInnerUp", 0.35), ("browOuterUpLeft", 0.3), ("browOuterUpRight", 0.3)):
        weights[name] = height * _bumps(times, accents, 0.18)
    smile = 0.15 + 0.2 * _smooth((times - 0.75 * length) / max(0.15 * length, 1e-6))
    for side in ("Left", "Right"):
        weights[f"mouthSmile{side}"] = weights.get(f"mouthSmile{side}", 0.0) + smile * 0.6
        weights[f"cheekSquint{side}"] = smile * 0.4
        weights[f"eyeSquint{side}"] = 0.15 * smile
    blink = _blinks(times, rng)
    weights["eyeBlinkLeft"] = weights["eyeBlinkRight"] = blink
    return _finish(weights, _sway(times, rng, accents), _gaze(times, rng), fps)


def _range_of_motion(num_frames: int | None, fps: float, _rng: np.random.Generator) -> Motion:
    hold = 0.8  # seconds from one pose to the next
    if num_frames is None:
        num_frames = round(hold * len(POSES) * fps)
    if num_frames <= 2 * len(POSES):
        # No time for transitions: evenly through the poses, the most important ones where frames are few.
        count = min(num_frames, len(POSES))
        index = np.minimum(np.arange(num_frames) * count // num_frames, count - 1)
        return _still_poses([POSES[i] for i in index], fps)
    keys = [(float(i), _sided(pose)) for i, pose in enumerate(POSES)] + [(float(len(POSES)), {})]
    at = np.linspace(0.0, len(POSES), num_frames)
    # Each pose is reached, held for a third of its time and left.
    eased = np.floor(at) + np.clip((at % 1.0 - 1 / 3) * 1.5, 0.0, 1.0)
    weights = _blend(keys, eased)
    return _finish(weights, np.zeros((num_frames, 3)), np.zeros((num_frames, 2)), fps)


def _still_poses(poses: list[dict[str, float]], fps: float) -> Motion:
    weights: dict[str, np.ndarray] = {}
    for t, pose in enumerate(poses):
        for name, value in _sided(pose).items():
            weights.setdefault(name, np.zeros(len(poses)))[t] = value
    return _finish(weights, np.zeros((len(poses), 3)), np.zeros((len(poses), 2)), fps)


MOTIONS: dict[str, Callable[[int | None, float, np.random.Generator], Motion]] = {
    "talk": _talk,
    "range_of_motion": _range_of_motion,
    "neutral": _neutral,
}


def _sided(shape: dict[str, float]) -> dict[str, float]:
    """ "mouthPress~" -> mouthPressLeft and mouthPressRight."""
    names = [(n, v) for n, v in shape.items() if not n.endswith("~")]
    names += [(n[:-1] + side, v) for n, v in shape.items() if n.endswith("~") for side in ("Left", "Right")]
    return dict(names)


def _speech_keys(rng: np.random.Generator, at_least: float) -> list[tuple[float, dict[str, float]]]:
    """(time in seconds, weights) of every mouth shape, with natural variation of length and strength."""
    keys: list[tuple[float, dict[str, float]]] = [(0.0, {})]
    time = 0.0
    while time < at_least or time == 0.0:
        for name, seconds in SPEECH:
            seconds *= 1.15 * rng.uniform(0.85, 1.2)
            strength = rng.uniform(0.85, 1.15)
            shape = {k: v * strength for k, v in _sided(VISEMES[name]).items()}
            keys.append((time + 0.5 * seconds, shape))
            time += seconds
    keys.append((time, {}))
    return keys


def _blend(keys: list[tuple[float, dict[str, float]]], times: np.ndarray) -> dict[str, np.ndarray]:
    """Smooth (cosine) interpolation between keyed weights."""
    at = np.array([time for time, _ in keys])
    upper = np.clip(np.searchsorted(at, times, side="right"), 1, len(at) - 1)
    lower = upper - 1
    part = _smooth((times - at[lower]) / np.maximum(at[upper] - at[lower], 1e-9))
    result = {}
    for name in sorted({name for _, shape in keys for name in shape}):
        values = np.array([shape.get(name, 0.0) for _, shape in keys])
        result[name] = values[lower] * (1 - part) + values[upper] * part
    return result


def _smooth(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, a cubic without corners between."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _bumps(times: np.ndarray, centers: list[float], width: float) -> np.ndarray:
    """Bell curves of height 1 at the given times, merged by their maximum. width: standard deviation in seconds."""
    if not centers:
        return np.zeros_like(times)
    return np.exp(-0.5 * ((times[:, None] - np.array(centers)) / width) ** 2).max(1)


def _blinks(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lids close in 0.09 s, stay shut for 0.04 s and open in 0.18 s, every 2 to 4 seconds."""
    closed = np.zeros_like(times)
    start = rng.uniform(0.7, 1.3)
    spacing = times[1] - times[0] if len(times) > 1 else 0.04
    while start < times[-1]:
        # On a frame, so that a shut eye is seen at any frame rate.
        start = round(start / spacing) * spacing
        since = times - start
        closing = _smooth((since + 0.09) / 0.09)
        opening = 1.0 - _smooth((since - 0.04) / 0.18)
        closed = np.maximum(closed, np.minimum(closing, opening))
        start += rng.uniform(2.0, 4.0)
    return closed


def _sway(times: np.ndarray, rng: np.random.Generator, accents: list[float]) -> np.ndarray:
    """(T, 3) axis-angle: a slow drift of a few degrees, and a small nod at every accent."""
    rotation = np.zeros((len(times), 3))
    for axis, degrees in enumerate((1.2, 2.5, 1.0)):
        for hertz in (0.17, 0.31, 0.53):
            phase = rng.uniform(0, 2 * np.pi)
            drift = np.sin(2 * np.pi * hertz * times + phase) - np.sin(phase)
            rotation[:, axis] += np.radians(degrees) * drift / 3.0
    rotation[:, 0] += np.radians(1.8) * _bumps(times, accents, 0.16)
    return rotation


def _gaze(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(T, 2): the eyes rest on the viewer and jump aside now and then, as eyes do: within 0.05 s."""
    gaze = np.zeros((len(times), 2))
    time, current = 0.0, np.zeros(2)
    while time < times[-1]:
        away = rng.random() < 0.35
        target = np.radians([rng.uniform(-9, 9), rng.uniform(-4, 5)]) if away else np.radians(rng.normal(0, 0.8, 2))
        jump = _smooth((times - time) / 0.05)[:, None]
        gaze += jump * (target - current)
        current = target
        time += rng.uniform(0.4, 0.9) if away else rng.uniform(0.8, 2.2)
    return gaze


def _finish(weights: dict[str, np.ndarray], rotation: np.ndarray, gaze: np.ndarray, fps: float) -> Motion:
    clipped = {name: np.clip(value, 0.0, 1.0).astype(np.float32) for name, value in weights.items()}
    return Motion(clipped, rotation.astype(np.float32), gaze.astype(np.float32), fps)


def save_motion(path: Path | str, motion: Motion) -> Path:
    """Writes a motion file (see the top of this module) atomically."""
    names = sorted(motion.weights)
    columns = [np.asarray(motion.weights[name], np.float32) for name in names]
    weights = np.stack(columns, 1) if columns else np.zeros((motion.num_frames, 0), np.float32)
    return write_npz(
        path,
        weights=weights,
        names=np.array(names, dtype=np.str_),
        rotation=np.asarray(motion.rotation, np.float32),
        gaze=np.asarray(motion.gaze, np.float32),
        fps=np.float32(motion.fps),
    )


def load_motion(path: Path | str) -> Motion:
    """Reads a motion file. Raises InputError when names, shapes or values are not as stated."""
    arrays = read_npz(path)
    if "weights" not in arrays or "names" not in arrays:
        raise InputError(
            f"a motion file needs the arrays weights and names, and {path} has {', '.join(arrays) or 'none'}"
        )
    weights = arrays["weights"]
    names = [str(name) for name in np.atleast_1d(arrays["names"])]
    if weights.ndim != 2 or weights.shape[1] != len(names) or not len(weights):
        raise InputError(f"weights in {path} must be (frames, {len(names)} names), not {weights.shape}: write it again")
    for name in names:
        if name not in ARKIT_NAMES:
            try:
                choose("name of a weight", name, ARKIT_NAMES)
            except ConfigError as error:
                tail = str(error).rpartition("; ")[2] if "; did you mean" in str(error) else "see Apple's list"
                raise InputError(f"weights in {path} must have ARKit's names, and {name!r} is none: {tail}") from error
    frames = len(weights)
    rotation = arrays.get("rotation", np.zeros((frames, 3)))
    gaze = arrays.get("gaze", np.zeros((frames, 2)))
    fps = frame_rate(arrays.get("fps", 25.0), path)
    if rotation.shape != (frames, 3) or gaze.shape != (frames, 2):
        raise InputError(f"{path} must hold rotation ({frames}, 3) and gaze ({frames}, 2): write it again")
    if not all(np.isfinite(array).all() for array in (weights, rotation, gaze)):
        raise InputError(f"{path} must hold finite numbers, and some are not: write it again")
    return _finish({name: weights[:, i] for i, name in enumerate(names)}, rotation, gaze, fps)
