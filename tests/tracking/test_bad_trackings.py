"""Bad, damaged and hostile files of other trackers: told in one sentence, and nothing in them is run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from other_trackers import (
    cap4d_fit,
    flame_like,
    pixel3dmm_frame,
    rotation,
    some_cameras,
    some_params,
    write_pixel3dmm,
)

from geodiff.errors import InputError, UserError
from geodiff.head.model import HeadModel
from geodiff.imported import FORMATS, is_tracking, read_tracking
from geodiff.tracking.importers import read_orbit, write_orbit
from geodiff.tracking.importers.pixel3dmm import load_frame


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return flame_like()


def fit_with(**changes: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        arrays = {**cap4d_fit(), **changes}
        np.savez(folder / "fit.npz", **{k: v for k, v in arrays.items() if v is not None})
        return folder / "fit.npz"

    return write


def truncated_fit(folder: Path) -> Path:
    path = fit_with()(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


BAD_FITS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated": (truncated_fit, "must be an npz file of plain numeric arrays"),
    "objects": (fit_with(expr=np.array([None, {}], object)), "must be an npz file of plain numeric arrays"),
    "text": (fit_with(rot=np.array([["a"] * 3] * 3)), "must hold rot as numbers"),
    "no expr": (fit_with(expr=None), "must hold expr, and it does not"),
    "no resolutions": (fit_with(resolutions=None), "must hold resolutions, and it does not"),
    "NaN": (fit_with(tra=np.full((3, 3), np.nan)), "must hold finite numbers, and tra has NaN"),
    "frames": (fit_with(rot=np.zeros((2, 3))), r"must hold rot of shape \(3, 3\), not \(2, 3\)"),
    "narrow": (fit_with(expr=np.zeros((3, 1))), r"must hold expr of shape \(any, 65\)"),
    "focal": (fit_with(fx=np.zeros((2, 1))), "positive focal length"),
    "three focals": (fit_with(fx=np.ones((3, 1))), "must hold fx for each of 2 cameras, not 3"),
    "skewed": (fit_with(extr=np.stack([np.diag([2.0, 1, 1, 1])] * 2)), "must hold extr as rotations"),
    "mirrored": (fit_with(extr=np.stack([np.diag([-1.0, 1, 1, 1])] * 2)), "must hold extr as rotations"),
    "flat": (fit_with(extr=np.zeros((2, 3, 4))), "must hold extr of shape"),
    "names": (fit_with(camera_order=np.array(["a", "a"])), "must name each of its 2 cameras once"),
}


@pytest.mark.parametrize("name", BAD_FITS)
def test_bad_fits_of_cap4d(tmp_path: Path, name: str) -> None:
    write, words = BAD_FITS[name]
    path = write(tmp_path)
    assert is_tracking(path)
    with pytest.raises(InputError, match=words) as caught:
        read_tracking(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_bad_orbits(tmp_path: Path) -> None:
    np.savez(tmp_path / "orbit.npz", extr=np.stack([np.eye(4)] * 3), fx=np.ones(2))
    with pytest.raises(InputError, match="must hold resolution"):
        read_orbit(tmp_path / "orbit.npz")
    with pytest.raises(InputError, match="must have one size, and it has 2"):
        write_orbit(tmp_path / "o.npz", [some_cameras(1)[0], some_cameras(1)[0].resized(10, 10)])


class Hostile:
    """Its unpickling would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


def frame_with(head: HeadModel, part: str = "flame", **changes: object) -> dict:
    frame = pixel3dmm_frame(some_params(head), 0, rotation(np.array([0.1, 0.2, 0.3])), np.zeros(3))
    if part:
        frame[part] = {k: v for k, v in {**frame[part], **changes}.items() if v is not None}
        return frame
    return {k: v for k, v in {**frame, **changes}.items() if v is not None}


BAD_FRAMES: dict[str, tuple[str, dict, str]] = {
    "no flame": ("", {"flame": None}, "must hold the dictionary 'flame'"),
    "no camera": ("", {"camera": np.zeros(3)}, "must hold the dictionary 'camera'"),
    "no lids": ("flame", {"eyelids": None}, "must hold eyelids, and it does not"),
    "axis-angle": ("flame", {"R": np.zeros((1, 3))}, r"must hold R of shape \(6\), not \(1, 3\)"),
    "NaN": ("flame", {"t": np.full((1, 3), np.nan)}, "must hold finite numbers, and t has NaN"),
    "no rotation": ("flame", {"jaw": np.zeros((1, 6))}, "must hold rotations"),
    "two rotations": ("flame", {"R_rotation_matrix": np.eye(3)[None]}, "must be one rotation"),
    "objects": ("flame", {"exp": "many"}, "must hold exp as numbers"),
    "no size": ("", {"img_size": None}, "must hold img_size"),
    "focal": ("camera", {"fl": np.zeros((1, 1))}, "positive focal length"),
    "sheared": ("camera", {"R_base_0": np.full((1, 3, 3), 0.5)}, "must hold R_base_0 as rotations"),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_bad_frames_of_pixel3dmm(tmp_path: Path, head: HeadModel, name: str) -> None:
    part, changes, words = BAD_FRAMES[name]
    folder = write_pixel3dmm(tmp_path / "run", [frame_with(head), frame_with(head, part, **changes)])
    with pytest.raises(InputError, match=words) as caught:
        read_tracking(folder)
    assert "\n" not in str(caught.value)


def test_hostile_frames_run_nothing(tmp_path: Path, head: HeadModel) -> None:
    mark = tmp_path / "ran"
    folder = write_pixel3dmm(tmp_path / "run", [frame_with(head, "flame", shape=Hostile(mark))])
    with pytest.raises(InputError, match="asks for `(posix|os|nt).system`"):
        read_tracking(folder)
    frame = folder / "checkpoint" / "00000.frame"
    for content in (pickle.dumps(Hostile(mark)), pickle.dumps({"flame": [Hostile(mark)]}, protocol=2)):
        frame.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_tracking(folder)
        assert "\n" not in str(caught.value)
    torch.save({"flame": np.array([Hostile(mark)], object)}, frame)
    with pytest.raises(InputError):
        load_frame(frame)
    assert not mark.exists()


def test_damaged_frames(tmp_path: Path, head: HeadModel) -> None:
    folder = write_pixel3dmm(tmp_path / "run", [frame_with(head)])
    frame = folder / "checkpoint" / "00000.frame"
    whole = frame.read_bytes()
    for content in (b"", b"not a frame", whole[: len(whole) // 2], whole[:-40]):
        frame.write_bytes(content)
        with pytest.raises(InputError, match="holds arrays alone, and .* cannot be read as one") as caught:
            read_tracking(folder)
        assert "\n" not in str(caught.value)
    torch.save([1, 2], frame)
    with pytest.raises(InputError, match="is a dictionary, and .* holds a list"):
        read_tracking(folder)


def test_what_is_no_tracking(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", expr=np.zeros((3, 4)))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "coeffs.mat").write_bytes(b"x")
    for path in (tmp_path / "other.npz", tmp_path / "folder", tmp_path / "none"):
        assert not is_tracking(path)
        with pytest.raises(InputError, match="is one of VHAP, Pixel3DMM, CAP4D") as caught:
            read_tracking(path)
        assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)
    assert set(FORMATS) == {"VHAP", "Pixel3DMM", "CAP4D"}


def test_a_tracking_folder_of_vhap_is_no_export(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    np.savez(tmp_path / "run" / "tracked_flame_params_30.npz", expr=np.zeros((3, 100)))
    with pytest.raises(InputError, match="is its tracking folder: run its `vhap/export_as_nerf_dataset.py`"):
        read_tracking(tmp_path / "run")
