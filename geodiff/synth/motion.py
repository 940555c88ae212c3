"""Random expressions in ARKit's names, as people mix them."""

from __future__ import annotations

import numpy as np

from geodiff.types import Motion

#: Groups of names that move together: names, odds of taking part, strength (mean of the beta draw), jitter between
#: names.
GROUPS = (
    (("jawOpen",), 0.45, 0.38, 0.0),
    (("mouthSmileLeft", "mouthSmileRight"), 0.40, 0.5, 0.15),
    (("mouthFrownLeft", "mouthFrownRight"), 0.15, 0.4, 0.15),
    (("mouthPucker",), 0.15, 0.5, 0.0),
    (("mouthFunnel",), 0.15, 0.45, 0.0),
    (("eyeSquintLeft", "eyeSquintRight", "cheekSquintLeft", "cheekSquintRight"), 0.20, 0.4, 0.2),
    (("eyeWideLeft", "eyeWideRight"), 0.15, 0.5, 0.1),
    (("browInnerUp",), 0.25, 0.5, 0.0),
    (("browOuterUpLeft", "browOuterUpRight"), 0.22, 0.5, 0.3),
    (("browDownLeft", "browDownRight"), 0.22, 0.5, 0.15),
    (("mouthLeft",), 0.07, 0.4, 0.0),
    (("mouthRight",), 0.07, 0.4, 0.0),
    (("jawLeft",), 0.05, 0.4, 0.0),
    (("jawRight",), 0.05, 0.4, 0.0),
    (("jawForward",), 0.05, 0.4, 0.0),
    (("mouthStretchLeft", "mouthStretchRight"), 0.12, 0.4, 0.15),
    (("mouthUpperUpLeft", "mouthUpperUpRight"), 0.18, 0.4, 0.15),
    (("mouthLowerDownLeft", "mouthLowerDownRight"), 0.18, 0.4, 0.15),
    (("mouthPressLeft", "mouthPressRight"), 0.10, 0.4, 0.15),
    (("mouthRollLower",), 0.08, 0.4, 0.0),
    (("mouthRollUpper",), 0.08, 0.4, 0.0),
    (("mouthShrugUpper", "mouthShrugLower"), 0.08, 0.4, 0.2),
    (("noseSneerLeft", "noseSneerRight"), 0.12, 0.4, 0.2),
    (("cheekPuff",), 0.05, 0.5, 0.0),
)
NAMES = tuple(dict.fromkeys(name for names, *_ in GROUPS for name in names))
BLINK = ("eyeBlinkLeft", "eyeBlinkRight")
#: What a smile that shows shut teeth is made of, on both sides, and how strong each is at most. Before cameras it is
#: the most usual expression, and the groups hardly ever mix it.
SMILE = {"mouthSmile": 0.9, "mouthUpperUp": 0.5, "mouthLowerDown": 0.7, "cheekSquint": 0.5}


def shut_smile(rng: np.random.Generator, mild: bool = False) -> dict[str, float]:
    """ARKit weights in 0..1 of a smile that shows teeth while the jaw is shut."""
    strength = rng.uniform(0.3, 0.8) if mild else rng.uniform(0.5, 1.0)
    parts = ((f"{name}{side}", part) for name, part in SMILE.items() for side in ("Left", "Right"))
    return {name: float(np.clip(part * strength * rng.normal(1, 0.1), 0, 1)) for name, part in parts}


def random_weights(
    rng: np.random.Generator, mild: bool = False, smiles: float = 0.0
) -> tuple[dict[str, float], np.ndarray]:
    """ARKit weights in 0..1 and gaze (2,) yaw, pitch in radians. mild: near neutral, as in a portrait. smiles: share of
    the draws, 0..1, that smile with shut teeth."""
    weights: dict[str, float] = {}
    if smiles > 0 and rng.random() < smiles:
        gaze = rng.normal(0, [0.16, 0.09]) * (0.5 if mild else 1.0)
        return shut_smile(rng, mild), np.clip(gaze, -0.45, 0.45).astype(np.float32)
    shrink = 0.45 if mild else 1.0
    for names, odds, mean, jitter in GROUPS:
        if rng.random() > odds * shrink:
            continue
        strength = rng.beta(2.0 * mean / 0.5, 2.0 * (1 - mean) / 0.5) * shrink
        for name in names:
            weights[name] = float(np.clip(strength * (1 + rng.normal(0, jitter)), 0, 1))
    if rng.random() < (0.03 if mild else 0.18):
        close = rng.uniform(0.4, 1.0)
        sides = BLINK if rng.random() < 0.85 else (BLINK[rng.integers(2)],)
        weights.update({name: float(np.clip(close + rng.normal(0, 0.03), 0, 1)) for name in sides})
    gaze = rng.normal(0, [0.16, 0.09]) * (0.5 if mild else 1.0)
    return weights, np.clip(gaze, -0.45, 0.45).astype(np.float32)


def _motion(frames: list[tuple[dict[str, float], np.ndarray]]) -> Motion:
    names = sorted({name for weights, _ in frames for name in weights})
    columns = {name: np.array([weights.get(name, 0.0) for weights, _ in frames], np.float32) for name in names}
    gaze = np.stack([g for _, g in frames])
    _follow(columns, gaze)
    return Motion(columns, np.zeros((len(frames), 3), np.float32), gaze)


def _follow(columns: dict[str, np.ndarray], gaze: np.ndarray) -> None:
    """The lids follow the gaze."""
    yaw, pitch = gaze[:, 0] / 0.6, gaze[:, 1] / 0.5
    for side, sign in (("Left", 1.0), ("Right", -1.0)):
        columns[f"eyeLookOut{side}"] = np.clip(sign * yaw, 0, 1)
        columns[f"eyeLookIn{side}"] = np.clip(-sign * yaw, 0, 1)
        columns[f"eyeLookUp{side}"] = np.clip(pitch, 0, 1)
        columns[f"eyeLookDown{side}"] = np.clip(-pitch, 0, 1)


def random_expressions(rng: np.random.Generator, count: int, mild: bool = False, smiles: float = 0.0) -> Motion:
    """`count` unrelated expressions; one in ten is neutral. smiles: see `random_weights`."""
    frames = [random_weights(rng, mild, smiles) for _ in range(count)]
    return _motion([({}, gaze * 0.3) if rng.random() < 0.1 else (weights, gaze) for weights, gaze in frames])


def random_sequence(rng: np.random.Generator, count: int, smiles: float = 0.0) -> Motion:
    """`count` frames that move smoothly through random expressions, now and then with a blink. smiles: see
    `random_weights`."""
    keys = [random_weights(rng, smiles=smiles) for _ in range(3)]
    for weights, _ in keys:
        for name in BLINK:
            weights.pop(name, None)
    t = np.linspace(0, 2, count) * rng.uniform(0.4, 1.0)
    t = t + rng.uniform(0, 2 - t[-1])
    low = np.minimum(t.astype(int), 1)
    ease = (t - low) ** 2 * (3 - 2 * (t - low))
    names = {name for weights, _ in keys for name in weights}
    blink = np.exp(-(((np.arange(count) - rng.uniform(0, count)) / 1.6) ** 2)) if rng.random() < 0.35 else 0 * t
    frames = []
    for i in range(count):
        (a, ga), (b, gb) = keys[low[i]], keys[low[i] + 1]
        weights = {name: (1 - ease[i]) * a.get(name, 0.0) + ease[i] * b.get(name, 0.0) for name in names}
        weights.update({name: float(blink[i]) for name in BLINK})
        frames.append((weights, ((1 - ease[i]) * ga + ease[i] * gb).astype(np.float32)))
    return _motion(frames)
