"""Clip sets, avatars and parameter files know their head, find it again, and refuse another."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from heads import ellipsoid_head
from sample_clips import write_clips

from geodiff import assets
from geodiff.clipset import ClipSet, ClipSetSpec, ClipSetWriter
from geodiff.errors import HeadModelError
from geodiff.files import read_json, read_npz, write_json, write_npz
from geodiff.head import identity
from geodiff.head.builtin import load_builtin
from geodiff.head.identity import HASH_KEY, HeadRecord, absolute_spec, check_arrays, hash_array, hash_of
from geodiff.head.model import HeadModel
from geodiff.types import HeadParams
from recon.avatar import Avatar, AvatarInfo
from recon.drives import load_drive
from recon.methods import load_avatar


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return ellipsoid_head(12, 16)


@pytest.fixture(scope="module")
def twin(head: HeadModel) -> HeadModel:
    """Another head with as many parameters and vertices."""
    return replace(head, expr_basis=head.expr_basis.flip(0))


@pytest.fixture
def files(head: HeadModel, twin: HeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, HeadModel]:
    """Heads by file: `load_head` finds them where `add` put them, as it finds FLAME's files of a user."""
    known: dict[str, HeadModel] = {}

    def load(spec: str) -> HeadModel:
        if spec == "builtin":
            return load_builtin()
        path = Path(spec.partition(":")[2])
        if not path.exists():
            raise HeadModelError(f"{path} does not exist")
        return {"one": head, "two": twin}[path.read_text()]

    monkeypatch.setattr(identity, "load_head", load)
    monkeypatch.setenv("GEODIFF_HEADS", str(tmp_path / "heads"))
    (tmp_path / "heads").mkdir()
    return known


class Stub(Avatar):
    """An avatar of nothing but its head."""

    method = "geodiff4d"

    def pose(self, drive, camera=None):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def write(self, folder: Path) -> dict[str, object]:
        return {}

    @classmethod
    def read(cls, folder, head, params, info):  # type: ignore[no-untyped-def]
        return cls(head, params, info)


@pytest.fixture
def avatar(head: HeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from recon import methods

    monkeypatch.setitem(methods.METHODS, "geodiff4d", replace(methods.METHODS["geodiff4d"], avatar=Stub))
    return Stub(head, head.zeros(2), AvatarInfo(head_spec=f"ellipsoid:{tmp_path / 'mine.pkl'}")).save(tmp_path / "a")


def test_hashes_travel_in_parameter_files(head: HeadModel, twin: HeadModel, tmp_path: Path) -> None:
    write_npz(tmp_path / "p.npz", expr=np.zeros(3, np.float32), **{HASH_KEY: hash_array(head)})
    arrays = read_npz(tmp_path / "p.npz")
    assert hash_of(arrays) == head.hash and arrays[HASH_KEY].dtype == np.float32
    check_arrays(arrays, head, "p.npz")
    with pytest.raises(HeadModelError, match="convert its clip set with geodiff track --convert"):
        check_arrays(arrays, twin, "p.npz")
    for odd in ({}, {HASH_KEY: np.zeros(3, np.float32)}, {HASH_KEY: np.full(8, np.nan, np.float32)}):
        assert hash_of(odd) is None
        check_arrays(odd, head, "p.npz")


def test_specs_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_spec("flame:a.pkl") == f"flame:{tmp_path / 'a.pkl'}"
    assert absolute_spec("builtin") == "builtin" and absolute_spec("flame") == "flame"


def test_heads_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEODIFF_HEADS", str(tmp_path))
    (tmp_path / "flame").mkdir()
    (tmp_path / "clone" / "FaceXModel").mkdir(parents=True)
    for name in ("flame2023.pkl", "flame_static_embedding.pkl", "flame/generic_model.pkl", "ict_facekit.npz"):
        (tmp_path / name).touch()
    (tmp_path / "clone" / "FaceXModel" / "generic_neutral_mesh.obj").touch()
    found = [spec.replace(str(tmp_path), "") for spec in assets.head_specs()]
    assert found == [
        "builtin", "flame:/flame2023.pkl", "flame:/flame/generic_model.pkl", "ict:/ict_facekit.npz", "ict:/clone",
    ]  # fmt: skip


def test_a_head_that_moved_is_found_again(
    head: HeadModel, files: dict[str, HeadModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(assets.HEAD_FILES, "ellipsoid", ("*.head",))
    record = HeadRecord("ellipsoid", head.hash, f"ellipsoid:{tmp_path / 'mine.pkl'}")
    with pytest.raises(HeadModelError, match="is no longer there: give it as --head ellipsoid:PATH, or put it"):
        record.find("the clips")
    (tmp_path / "mine.pkl").write_text("two")
    with pytest.raises(HeadModelError, match="where another one is now"):
        record.find("the clips")
    (tmp_path / "heads" / "a.head").write_text("two")
    (tmp_path / "heads" / "b.head").write_text("one")
    assert record.find("the clips") == (head, f"ellipsoid:{tmp_path / 'heads' / 'b.head'}")
    (tmp_path / "mine.pkl").write_text("one")
    assert record.find("the clips")[1] == record.spec
    with pytest.raises(HeadModelError, match="the clips was made with the head model 'ellipsoid'.*was given"):
        record.find("the clips", f"ellipsoid:{tmp_path / 'heads' / 'a.head'}")
    with pytest.raises(HeadModelError, match="whose file is not recorded: give it as --head flame:PATH"):
        HeadRecord("flame", None, "flame").find("the export")
    with pytest.raises(HeadModelError, match="builtin head of another version of geodiff"):
        HeadRecord("builtin", "0" * 16, "builtin").find("the clips")


def test_clip_sets_refuse_a_twin(head: HeadModel, twin: HeadModel, tmp_path: Path) -> None:
    """Widths are the same; the hash is not."""
    clips = write_clips(tmp_path / "clips", head, 32, 2, (0.0,), normals=False)
    ClipSet.open(clips, head)
    with pytest.raises(HeadModelError, match="was given: give the one that it was made with, or convert"):
        ClipSet.open(clips, twin)
    # The parameter files say so too, where clipset.json is lost.
    (clips / "clipset.json").unlink()
    with pytest.raises(HeadModelError, match="was given"):
        ClipSet.open(clips, twin)
    assert ClipSet.open(clips, head, "ellipsoid:here").head_spec == "ellipsoid:here"
    with pytest.raises(HeadModelError, match="give it as --head flame:PATH"):
        _ = ClipSet.open(clips).head


def test_a_folder_is_not_continued_with_another_head(head: HeadModel, twin: HeadModel, tmp_path: Path) -> None:
    spec = ClipSetSpec(1, 2, "same", "test")
    ClipSetWriter(tmp_path / "clips", spec, head)
    before = read_json(tmp_path / "clips" / "clipset.json")
    with pytest.raises(HeadModelError, match="holds a clip set made with 'ellipsoid'.*choose another --out"):
        ClipSetWriter(tmp_path / "clips", spec, twin)
    assert read_json(tmp_path / "clips" / "clipset.json") == before
    assert ClipSetWriter(tmp_path / "clips", spec, head).missing_views() == [0]


def test_avatars_know_their_head(
    head: HeadModel, twin: HeadModel, files: dict[str, HeadModel], avatar: Path, tmp_path: Path
) -> None:
    assert read_json(avatar / "avatar.json")["head"]["hash"] == head.hash
    assert hash_of(read_npz(avatar / "flame_param.npz")) == head.hash
    with pytest.raises(HeadModelError, match="no longer there: give it as --head ellipsoid:PATH"):
        load_avatar(avatar)
    (tmp_path / "elsewhere").write_text("one")
    loaded = load_avatar(avatar, head_spec=f"ellipsoid:{tmp_path / 'elsewhere'}")
    assert loaded.head is head and loaded.info.head_spec == f"ellipsoid:{tmp_path / 'elsewhere'}"
    (tmp_path / "other").write_text("two")
    for arguments in ({"head": twin}, {"head_spec": f"ellipsoid:{tmp_path / 'other'}"}):
        with pytest.raises(HeadModelError, match="was given: give the one that it was made with"):
            load_avatar(avatar, **arguments)  # type: ignore[arg-type]
    write_json(avatar / "avatar.json", {**read_json(avatar / "avatar.json"), "head": "builtin"})
    with pytest.raises(Exception, match="must name its head model and its hash"):
        load_avatar(avatar)


def test_drives_of_a_twin_are_refused(head: HeadModel, twin: HeadModel, tmp_path: Path) -> None:
    subject = Stub(head, head.zeros(1), AvatarInfo())
    clips = write_clips(tmp_path / "clips", head, 32, 3, (0.0,), normals=False)
    others = write_clips(tmp_path / "others", twin, 32, 3, (0.0,), normals=False)
    drive = load_drive(subject, str(clips))
    assert drive.num_frames == 3 and torch.allclose(drive.params.expr, ClipSet.open(clips).params.expr)
    assert load_drive(subject, str(clips / "flame_param" / "00001.npz")).num_frames == 1
    with pytest.raises(HeadModelError, match="give the one that it was made with, or convert"):
        load_drive(subject, str(others))
    with pytest.raises(HeadModelError, match="was made with another one"):
        load_drive(subject, str(others / "flame_param" / "00001.npz"))
    # A file that does not say whose it is passes by its width.
    bare = {k: v for k, v in read_npz(others / "flame_param" / "00001.npz").items() if k != HASH_KEY}
    write_npz(tmp_path / "bare.npz", **bare)
    assert load_drive(subject, str(tmp_path / "bare.npz")).num_frames == 1
    shutil.rmtree(others)
    write_npz(tmp_path / "wide.npz", expr=np.zeros((2, 9), np.float32))
    with pytest.raises(HeadModelError, match="must have 4 expression coefficients"):
        load_drive(subject, str(tmp_path / "wide.npz"))


def test_parameters_of_another_tool_name_no_head() -> None:
    assert hash_of({name: np.zeros(3, np.float32) for name in HeadParams.__dataclass_fields__}) is None
