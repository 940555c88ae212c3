from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from geodiff.errors import InputError, StorageError
from geodiff.files import frame_rate, read_torch, save_tensors, write_text


def test_tensors_of_any_layout_are_written(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T.requires_grad_(), "b": torch.ones(2, dtype=torch.float16)}
    path = save_tensors(tmp_path / "t.safetensors", tensors, {"step": "3"})
    read = safetensors.torch.load_file(path)
    assert torch.equal(read["a"], tensors["a"]) and torch.equal(read["b"], tensors["b"])
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]
    with safetensors.safe_open(str(path), "pt") as file:
        assert file.metadata() == {"step": "3"}


def test_a_full_disk_is_told_and_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_tensors(tmp_path / "t.safetensors", {"a": torch.ones(2)})

    def full(tensors: dict, name: str, metadata: dict) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(StorageError, match="the disk is full"):
        save_tensors(path, {"a": torch.zeros(2)})
    assert torch.equal(safetensors.torch.load_file(path)["a"], torch.ones(2))
    monkeypatch.setattr(safetensors.torch, "save_file", lambda *a: (_ for _ in ()).throw(SafetensorError("odd")))
    with pytest.raises(SafetensorError, match="odd"):
        save_tensors(path, {"a": torch.zeros(2)})


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_safetensors_still_words_the_systems_errors_so(tmp_path: Path) -> None:
    """The number is read from its message: a real write that the system refuses shows that it is there."""
    code = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from geodiff.files import save_tensors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    save_tensors(Path(sys.argv[1]), {'a': torch.zeros(100_000)})\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "t.safetensors")]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("StorageError"), done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_texts_are_written_whole_and_as_they_are(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "t.csv", "ä\r\nb\n")
    assert (tmp_path / "a" / "t.csv").read_bytes() == "ä\r\nb\n".encode()


@pytest.mark.parametrize("value", [0, -5, float("nan"), float("inf"), 1e9, [], [25, 25], "fast", None])
def test_impossible_frame_rates_are_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"a\.npz must tell fps as one number above 0"):
        frame_rate(value, "a.npz")


def test_frame_rates_stand_alone_or_in_an_array() -> None:
    assert frame_rate(np.array([12.5], np.float32), "a") == 12.5 and frame_rate(30, "a") == 30


def test_torch_files_that_are_missing_say_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        read_torch(tmp_path / "none.pth")
