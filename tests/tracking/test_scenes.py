"""Cuts are told from pans, from movement and from light."""

from __future__ import annotations

import numpy as np

from geodiff.tracking.scenes import alike, change, is_cut, signature


def scene(seed: int) -> np.ndarray:
    """(120, 400, 3) a smooth coloured picture."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (6, 20, 3))
    return np.kron(coarse, np.ones((20, 20, 1))).astype(np.uint8)


def decisions(frames: list[np.ndarray], face_jumps: bool = False) -> list[bool]:
    signatures = [signature(frame) for frame in frames]
    changes = np.stack([change(a, b) for a, b in zip(signatures, signatures[1:], strict=False)])
    return [is_cut(changes[: t + 1], face_jumps) for t in range(len(changes))]


def test_a_cut_is_found_at_its_frame() -> None:
    frames = [scene(0)[:, :160]] * 8 + [scene(1)[:, :160]] * 8
    assert np.flatnonzero(decisions(frames)).tolist() == [7]


def test_pans_and_shakes_are_no_cuts() -> None:
    wide = scene(0)
    pan = [wide[:, 5 * t : 5 * t + 160] for t in range(40)]
    assert not any(decisions(pan))
    rng = np.random.default_rng(0)
    shaken = [np.roll(wide[:, :160], tuple(rng.integers(-4, 5, 2)), (0, 1)) for _ in range(20)]
    assert not any(decisions(shaken))


def test_slow_changes_of_light_are_no_cuts() -> None:
    frames = [(scene(0)[:, :160] * (1 - 0.02 * t)).astype(np.uint8) for t in range(30)]
    assert not any(decisions(frames))


def test_two_cameras_in_one_room_need_the_face_to_jump() -> None:
    """The colours are the same, only elsewhere."""
    one = scene(0)[:, :160]
    frames = [one] * 6 + [np.ascontiguousarray(one[::-1, ::-1])] * 6
    assert not any(decisions(frames))
    assert np.flatnonzero(decisions(frames, face_jumps=True)).tolist() == [5]


def test_a_picture_is_alike_itself_a_little_moved() -> None:
    wide = scene(2)
    assert alike(signature(wide[:, :160]), signature(wide[:, 4:164]))
    assert not alike(signature(wide[:, :160]), signature(scene(3)[:, :160]))
