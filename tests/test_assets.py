from __future__ import annotations

import sys
from pathlib import Path

import pytest

from geodiff import assets
from geodiff.errors import AssetError


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(assets, "weights_folder", lambda: tmp_path)
    monkeypatch.setenv("GEODIFF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "unet.safetensors").write_bytes(b"weights")
    (tmp_path / "small" / "model.json").write_text("{}")
    assets.write_manifest()
    return tmp_path


def test_bundled_weights_are_found_and_checked(bundle: Path) -> None:
    assert assets.bundled_names() == ["small"]
    assert assets.find_weights("bundled:small") == bundle / "small"
    assert list(assets.weight_hashes(bundle / "small")) == ["unet.safetensors"]
    (bundle / "small" / "unet.safetensors").write_bytes(b"weighty")
    with pytest.raises(AssetError, match="unet.safetensors does not: install geodiff again"):
        assets.find_weights("bundled:small")
    (bundle / "small" / "unet.safetensors").unlink()
    with pytest.raises(AssetError, match="is missing: install geodiff again"):
        assets.find_weights("bundled:small")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("bundled:large", r"come with this installation \(small\), not 'large'"),
        ("nowhere", "is not there: check the spelling"),
        ("cache:none", "nothing is there: put them there, or name a folder"),
        ("../up/and/away", "is not there"),
    ],
)
def test_wrong_names(bundle: Path, spec: str, words: str) -> None:
    with pytest.raises(AssetError, match=words):
        assets.find_weights(spec)


def test_folders(bundle: Path) -> None:
    assert assets.find_weights(str(bundle / "small")) == bundle / "small"
    (bundle / "empty").mkdir()
    with pytest.raises(AssetError, match="holds none"):
        assets.find_weights(str(bundle / "empty"))


def test_hub_failures_are_one_sentence(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args, **_kwargs) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(AssetError, match=r"fetching them failed \(no route\): check the id and the network") as caught:
        assets.find_weights("owner/model@main")
    assert "\n" not in str(caught.value)


def test_heads_in_the_cache(bundle: Path) -> None:
    assert assets.head_specs() == ["builtin"]
    (bundle / "cache" / "heads").mkdir(parents=True)
    (bundle / "cache" / "heads" / "flame2023.pkl").touch()
    assert assets.head_specs()[1] == f"flame:{bundle / 'cache' / 'heads' / 'flame2023.pkl'}"


def test_only_the_named_parts_of_a_hub_repository_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def fetch(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        (tmp_path / "unet").mkdir(exist_ok=True)
        (tmp_path / "unet" / "a.safetensors").write_bytes(b"")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert assets.find_weights("someone/model@v2", parts=("unet/", "vae/")) == tmp_path
    assert asked == [
        ("someone/model", "v2", ["unet/*.safetensors", "unet/*.json", "vae/*.safetensors", "vae/*.json"]),
    ]


def test_a_missing_hub_client_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(AssetError, match="needs huggingface_hub, and it is not installed: pip install"):
        assets.find_weights("someone/model")
