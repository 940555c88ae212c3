"""Tracking results on another head model, from the command line: what is kept, what is told, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from disguise import disguised
from flame_like import face, plain
from heads import ellipsoid_head
from other_trackers import cap4d_fit, flame_like, some_cameras, some_params, write_vhap_export
from sample_clips import write_clips

import geodiff.head
from geodiff import cli
from geodiff.clipset import ClipSet
from geodiff.converted import bring
from geodiff.errors import ClipSetError, HeadModelError
from geodiff.files import read_json, read_npz
from geodiff.head import identity, load_head
from geodiff.head.identity import hash_of
from geodiff.head.model import HeadModel


@pytest.fixture(autouse=True)
def _away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEODIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def small() -> HeadModel:
    return ellipsoid_head(24, 32)


@pytest.fixture(scope="module")
def flame() -> HeadModel:
    return flame_like()


@pytest.fixture
def heads(tmp_path: Path, small: HeadModel, flame: HeadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small heads under the names of the real ones: flame:me.pkl is one with FLAME's widths, ict:other.npz another."""
    known = {"builtin": small, "me.pkl": flame, "flame.pkl": flame, "other.npz": disguised(small, seed=2)}

    def load(spec: str) -> HeadModel:
        path = Path(spec.partition(":")[2])
        if spec != "builtin" and not path.exists():
            raise HeadModelError(f"a head model needs its file, but {path} does not exist; check the path.")
        return known[spec if spec == "builtin" else path.name]

    for name in ("me.pkl", "other.npz"):
        (tmp_path / name).touch()
    monkeypatch.setattr(geodiff.head, "load_head", load)
    monkeypatch.setattr(identity, "load_head", load)


def run(text: str) -> int:
    return cli.run(text.split())


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence of a refusal."""
    err = capsys.readouterr().err
    errors = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and "Traceback" not in err, err
    return errors[0]


@pytest.fixture
def clips(tmp_path: Path, small: HeadModel, heads: None) -> Path:
    return write_clips(tmp_path / "clips", small, 32, 3, (0.0, 40.0))


@pytest.fixture
def export(tmp_path: Path, flame: HeadModel) -> Path:
    write_vhap_export(tmp_path / "export", some_params(flame, 3), some_cameras(2))
    return tmp_path / "export"


def test_a_clip_set_there_and_back(
    clips: Path, tmp_path: Path, small: HeadModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("track clips --convert ict:other.npz --out there") == 0
    shown = capsys.readouterr()
    assert "neutral shape" in shown.out and "posed frames" in shown.out and shown.out.strip().endswith("there")
    assert "are on the head model 'disguised' now" in shown.err
    there, source = ClipSet.open("there"), ClipSet.open(clips)
    assert there.head.name == "disguised" and there.head_spec == f"ict:{tmp_path / 'other.npz'}"
    assert there.splits == source.splits and there.has_normals and there.num_cameras == 2
    for name in ("images/00001_01.png", "fg_masks/00000_00.png", "normals/00002_00.png", "transforms_train.json"):
        assert (tmp_path / "there" / name).read_bytes() == (clips / name).read_bytes(), name
    assert hash_of(read_npz(there.params_file(1))) == there.head.hash
    record = read_json("there/run.json")
    assert record["status"] == "done" and record["results"]["frames"] == 3
    assert 0 < record["results"]["frames_face_mean_mm"] < 1.5
    assert record["results"]["canonical_turn_degrees"] == pytest.approx(12, abs=4)
    assert read_json("there/clipset.json")["converted_from"]["hash"] == small.hash

    before = (tmp_path / "there" / "clipset.json").stat().st_mtime_ns
    assert run("track clips --convert ict:other.npz --out there") == 0
    assert "finished before" in capsys.readouterr().err
    assert (tmp_path / "there" / "clipset.json").stat().st_mtime_ns == before
    assert run("track clips --convert ict:other.npz --out there offsets=false") == 2
    assert "the output folder must be new" in told(capsys)

    assert run("track there --convert builtin --out back") == 0
    back = ClipSet.open("back")
    away = small.vertices(back.params) - small.vertices(source.params)
    outer = ~(small.regions["eyeballs"] | small.regions["teeth"] | small.regions["neck"])
    assert away.norm(dim=-1)[:, outer].mean() < 1.5e-3


def test_a_head_that_is_the_same_already(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("track clips --convert builtin --out same") == 0
    assert "on the head model 'ellipsoid' already" in capsys.readouterr().err
    for t in range(3):
        one, other = (read_npz(Path(name) / "flame_param" / f"{t:05d}.npz") for name in ("clips", "same"))
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_exports_of_others_need_their_head(
    export: Path, heads: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("track export --convert builtin --out b") == 2
    sentence = told(capsys)
    assert "needs the head model 'flame', whose file is not recorded: give it as --head flame:PATH" in sentence
    assert run("track export --convert builtin --head flame:me.pkl --out b") == 0
    clips = ClipSet.open("b")
    assert clips.head_name == "ellipsoid" and clips.foreign and clips.num_timesteps == 3
    assert "export" in read_json("b/run.json")["inputs"]["source"]
    # With one FLAME in the folder of heads, that one is taken, and it is said.
    (tmp_path / "cache" / "heads").mkdir(parents=True)
    (tmp_path / "cache" / "heads" / "flame.pkl").touch()
    capsys.readouterr()
    assert run("track export --convert builtin --out c") == 0
    assert "does not say which flame model it needs; taken is flame:" in capsys.readouterr().err
    (tmp_path / "cache" / "heads" / "flame2.pkl").touch()
    assert run("track export --convert builtin --out d") == 2
    assert "of which several are there" in told(capsys)


def test_an_import_keeps_the_parameters(export: Path, heads: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("track export --out plain") == 0
    plain_copy, source = ClipSet.open("plain"), ClipSet.open(export)
    assert np.array_equal(plain_copy.params.expr, source.params.expr)
    with pytest.raises(HeadModelError, match="give it as --head flame:PATH"):
        _ = plain_copy.head
    assert run("track export --head flame:me.pkl --out known") == 0
    known = ClipSet.open("known")
    assert known.head.name == "flame" and np.array_equal(known.params.expr, source.params.expr)
    assert np.array_equal(known.frame(0, 1).image, source.frame(0, 1).image)


def test_results_without_pictures_become_a_drive(heads: None, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("fit.npz", **cap4d_fit(3))
    assert run("track fit.npz --convert builtin --head flame:me.pkl --out motion") == 0
    arrays = read_npz("motion/params.npz")
    assert arrays["expr"].shape == (3, 4) and arrays["fps"] == 30 and np.isfinite(arrays["rotation"]).all()
    assert hash_of(arrays) == load_head_of("builtin").hash


def load_head_of(spec: str) -> HeadModel:
    return geodiff.head.load_head(spec)


@pytest.mark.parametrize(
    ("spoil", "arguments", "words"),
    [
        ("truncate", "--head flame:me.pkl", "must be an npz file"),
        ("nan", "--head flame:me.pkl", "finite head parameters"),
        ("shape", "--head flame:me.pkl", "jaw_pose"),
        ("missing", "--head flame:me.pkl", "is missing"),
        ("list", "--head flame:me.pkl", "transforms"),
        ("", "--head flame:none.pkl", "none.pkl does not exist"),
        ("", "--head flam", "flam"),
        ("", "--head builtin", "belong to a flame head"),
    ],
)
def test_damaged_results(
    spoil: str, arguments: str, words: str, export: Path, heads: None, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = export / "flame_param" / "00001.npz"
    arrays = read_npz(path)
    if spoil == "truncate":
        path.write_bytes(path.read_bytes()[:200])
    elif spoil == "nan":
        np.savez(path, **{**arrays, "expr": np.full_like(arrays["expr"], np.nan)})
    elif spoil == "shape":
        np.savez(path, **{**arrays, "jaw_pose": np.zeros((1, 4), np.float32)})
    elif spoil == "missing":
        path.unlink()
    elif spoil == "list":
        for name in export.glob("transforms*.json"):
            name.write_text(json.dumps({"frames": []}))
    if arguments == "--head flam":
        monkeypatch.setattr(identity, "load_head", load_head)
    assert run(f"track export --convert builtin --out b {arguments}") == 2
    assert words in told(capsys)
    assert not (tmp_path / "b" / "transforms.json").exists()


def test_a_later_version_of_the_layout_is_refused(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = read_json(clips / "clipset.json")
    (clips / "clipset.json").write_text(json.dumps({**meta, "schema": 99}))
    assert run("track clips --convert ict:other.npz --out b") == 2
    assert "has schema 99: update geodiff" in told(capsys)


def test_heads_are_checked_by_hash(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("track clips --convert builtin --head ict:other.npz --out b") == 2
    assert "was made with the head model 'ellipsoid'" in told(capsys)
    assert run("evaluate clips --against clips --head ict:other.npz --out m.json") == 2
    assert "give the one that it was made with, or convert" in told(capsys)
    assert run("reconstruct clips --head ict:other.npz --preset test --out a") == 2
    assert "give the one that it was made with, or convert" in told(capsys)
    assert not Path("a/avatar.json").exists()


def test_what_was_there_stays(clips: Path, small: HeadModel, tmp_path: Path) -> None:
    other = write_clips(tmp_path / "other", small, 32, 2, (0.0,))
    before = (other / "clipset.json").read_bytes()
    with pytest.raises(ClipSetError, match="choose another"):
        bring(clips, other)
    assert (other / "clipset.json").read_bytes() == before
    # Work that a killed run left behind is cleared away.
    (tmp_path / "out" / ".work" / "result" / "images").mkdir(parents=True)
    assert bring(clips, tmp_path / "out").residuals is None
    assert not (tmp_path / "out" / ".work").exists() and ClipSet.open(tmp_path / "out").num_timesteps == 3
    shutil.rmtree(tmp_path / "out")


def test_flame_from_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of FLAME's structure, the bundled head, and the doctor's word about it."""
    (tmp_path / "heads").mkdir()
    np.savez(tmp_path / "heads" / "flame2023.npz", **plain(face()))
    head = load_head("builtin")
    write_clips(tmp_path / "clips", head, 32, 3, (0.0,), normals=False)
    assert run("track clips --convert flame:heads/flame2023.npz --out there shape.points=1500 shape.rounds=8") == 0
    figures = read_json("there/run.json")["results"]
    # The test's FLAME has few modes that move anything.
    assert figures["frames_face_mean_mm"] < 2.5 and figures["frames_whole_mean_mm"] < 2.5
    there = ClipSet.open("there")
    assert there.params.shape.shape == (300,) and there.params.expr.shape[1] >= 100
    assert there.params.jaw_pose[0].abs().max() < 0.01 and there.params.expr[1].abs().max() > 0.3
    capsys.readouterr()
    assert run("doctor --head flame:heads/flame2023.npz") in (0, 2)
    shown = " ".join(capsys.readouterr().out.split())
    assert "300 shapes" in shown and "head_template_mesh.obj" in shown
