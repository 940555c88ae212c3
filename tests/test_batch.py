from __future__ import annotations

import json
from pathlib import Path

import pytest

from geodiff import batch
from geodiff.errors import ConfigError, FaceError, InputError, StorageError
from geodiff.files import read_json


def make_portraits(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    return [folder / name for name in names]


class Work:
    """Stands in for generation and reconstruction; records what it was asked for."""

    def __init__(self, **errors: BaseException) -> None:
        self.errors = errors
        self.done: list[str] = []

    def __call__(self, portrait: Path, folder: Path) -> dict[str, float]:
        self.done.append(folder.name)
        if error := self.errors.get(folder.name):
            raise error
        (folder / "avatar").mkdir(parents=True, exist_ok=True)
        (folder / "avatar" / "avatar.json").write_text("{}")
        return {"psnr": 20.0}


def run(out: Path, work: Work, portraits: list[Path], settings: object = "a") -> dict:
    return batch.Batch(out, settings, work, lambda sentence: None).run(portraits)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEODIFF_CACHE", str(tmp_path / "cache"))


def test_one_bad_portrait_does_not_stop_the_rest(tmp_path: Path) -> None:
    portraits = make_portraits(tmp_path / "in", "a.png", "b.png", "c.png", "d.png")
    work = Work(b=FaceError("no face\nhere"), c=RuntimeError("odd"))
    results = run(tmp_path / "out", work, portraits)
    assert [results[name]["status"] for name in "abcd"] == ["done", "refused", "fault", "done"]
    assert results["b"]["message"] == "no face here"
    assert results["c"]["message"].startswith("RuntimeError: odd (details in ")
    assert results["a"]["figures"] == {"psnr": 20.0}
    assert read_json(tmp_path / "out" / "results.json") == results
    table = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert len(table) == 5 and table[2].startswith("b,refused,")
    assert batch.batch_exit_code(results) == 1
    assert batch.batch_exit_code({k: results[k] for k in "ab"}) == 2
    assert batch.batch_exit_code({"a": results["a"]}) == 0


def test_a_stopped_batch_goes_on(tmp_path: Path) -> None:
    portraits = make_portraits(tmp_path / "in", "a.png", "b.png", "c.png")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", Work(b=KeyboardInterrupt()), portraits)
    again = Work()
    assert set(run(tmp_path / "out", again, portraits)) == {"a", "b", "c"}
    assert again.done == ["b", "c"], "a was finished before"
    portraits[0].write_bytes(b"another photograph")
    (tmp_path / "out" / "c" / "avatar" / "avatar.json").unlink()
    third = Work()
    run(tmp_path / "out", third, portraits)
    assert third.done == ["a", "c"], "what changed or was lost is made again"


def test_other_settings_are_refused_before_anything_is_touched(tmp_path: Path) -> None:
    portraits = make_portraits(tmp_path / "in", "a.png", "b.png")
    run(tmp_path / "out", Work(), portraits)
    before = (tmp_path / "out" / "results.json").read_bytes()
    other = Work()
    with pytest.raises(ConfigError, match="choose another --out"):
        run(tmp_path / "out", other, portraits, settings="b")
    assert not other.done and (tmp_path / "out" / "results.json").read_bytes() == before


def test_results_of_portraits_that_are_not_listed_are_kept(tmp_path: Path) -> None:
    portraits = make_portraits(tmp_path / "in", "a.png", "b.png")
    first = run(tmp_path / "out", Work(b=InputError("broken")), portraits)
    results = run(tmp_path / "out", Work(), make_portraits(tmp_path / "in", "a.png", "c.png"))
    assert set(results) == {"a", "c"} and batch.batch_exit_code(results) == 0
    kept = read_json(tmp_path / "out" / "results.json")
    assert kept["b"] == first["b"] and set(kept) == {"a", "b", "c"}
    assert len((tmp_path / "out" / "results.csv").read_text().splitlines()) == 4


def test_failed_portraits_are_tried_again(tmp_path: Path) -> None:
    portraits = make_portraits(tmp_path / "in", "a.png", "b.png")
    run(tmp_path / "out", Work(a=InputError("broken")), portraits)
    again = Work()
    assert run(tmp_path / "out", again, portraits)["a"]["status"] == "done"
    assert again.done == ["a"]


def test_a_full_disk_ends_the_batch(tmp_path: Path) -> None:
    portraits = make_portraits(tmp_path / "in", "a.png", "b.png", "c.png")
    work = Work(b=StorageError("the disk is full"))
    with pytest.raises(StorageError):
        run(tmp_path / "out", work, portraits)
    assert work.done == ["a", "b"]
    assert read_json(tmp_path / "out" / "results.json")["a"]["status"] == "done"


def test_folders_and_manifests(tmp_path: Path) -> None:
    portraits = make_portraits(tmp_path / "in", "b.JPG", "a.png", ".hidden.png", "notes.txt")
    folder = tmp_path / "in"
    expected = [folder / "a.png", folder / "b.JPG"]
    assert batch.read_portraits(folder) == expected
    listed = {
        "list.txt": "# faces\na.png\n\nb.JPG\n",
        "list.csv": "name,path\nx,a.png\ny,b.JPG\n",
        "plain.csv": "a.png\nb.JPG\n",
        "list.json": json.dumps(["a.png", {"path": "b.JPG"}]),
    }
    for name, text in listed.items():
        (folder / name).write_text(text)
        assert batch.read_portraits(folder / name) == expected, name
    (folder / "absolute.txt").write_text(str(portraits[0]))
    assert batch.read_portraits(folder / "absolute.txt") == [portraits[0]]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.xml", "x", "must be a .txt, .csv or .json"),
        ("a.txt", "# nothing\n", "at least one portrait"),
        ("a.json", "{", "readable JSON"),
        ("a.json", "[1]", "JSON list of paths"),
        ("a.csv", "path\n", "at least one portrait"),
    ],
)
def test_wrong_manifests(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        batch.read_portraits(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        batch.read_portraits(tmp_path / "none")


def test_names_of_folders_differ() -> None:
    paths = [Path("x/a.png"), Path("y/a.jpg"), Path("b.png")]
    assert batch.job_names(paths) == ["a", "a-2", "b"]
    with pytest.raises(InputError, match="rename one"):
        batch.job_names([Path("a.png"), Path("x/a.png"), Path("a-2.png")])


def test_overrides_name_their_stage() -> None:
    stages = batch.stage_overrides(["generate.views=3", "reconstruct.losses.normal=0", "generate.frames=2"])
    assert stages == {"generate": ["views=3", "frames=2"], "reconstruct": ["losses.normal=0"]}
    with pytest.raises(ConfigError, match="must begin with the stage"):
        batch.stage_overrides(["views=3"])
