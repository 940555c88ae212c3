import json
import pickle
import random
from pathlib import Path

import pytest
import torch
from model_helpers import scrambled, tiny
from safetensors.torch import load_file, save_file

from geodiff.assets import weight_hashes
from geodiff.errors import AssetError
from geodiff.models.networks import Networks
from geodiff.models.weight_files import DIFFUSERS_FILE, INDEX_SUFFIX, PICKLED, read_foreign, read_state


def equal(first: Networks, second: Networks) -> bool:
    pairs = zip(first.modules(), second.modules(), strict=True)
    return all(
        torch.equal(value, b.state_dict()[name]) for (_, a), (_, b) in pairs for name, value in a.state_dict().items()
    )


def test_diffusers_layout_whole_and_in_shards(tmp_path: Path) -> None:
    networks = scrambled(tiny(motion=True))
    networks.save(tmp_path, folders=True)
    assert (tmp_path / "unet" / DIFFUSERS_FILE).is_file()
    assert equal(Networks.load(tmp_path), networks)
    assert set(weight_hashes(tmp_path)) == {f"{name}/{DIFFUSERS_FILE}" for name, _ in networks.modules()}

    whole = tmp_path / "unet" / DIFFUSERS_FILE
    state = load_file(whole)
    names = sorted(state)
    shards = {"a.safetensors": names[:10], "b.safetensors": names[10:]}
    for file, part in shards.items():
        save_file({name: state[name].clone() for name in part}, tmp_path / "unet" / file)
    where = {name: file for file, part in shards.items() for name in part}
    (tmp_path / "unet" / (DIFFUSERS_FILE + INDEX_SUFFIX)).write_text(json.dumps({"weight_map": where}))
    whole.unlink()
    assert equal(Networks.load(tmp_path), networks)


def test_loaded_networks_are_real_trainable_and_of_one_precision(tmp_path: Path) -> None:
    networks = scrambled(tiny(motion=True))
    networks.save(tmp_path, torch.float16)
    for dtype in (torch.float32, torch.bfloat16):
        loaded = Networks.load(tmp_path, dtype)
        for (name, fresh), (_, module) in zip(networks.modules(), loaded.modules(), strict=True):
            tensors = [*module.named_parameters(), *module.named_buffers()]
            assert not any(tensor.is_meta for _, tensor in tensors), name
            assert {t.dtype for _, t in tensors if t.is_floating_point()} <= {dtype}
            grads = {key: p.requires_grad for key, p in fresh.named_parameters()}
            assert {key: p.requires_grad for key, p in module.named_parameters()} == grads


def test_a_pickled_network_is_refused_with_the_remedy(tmp_path: Path) -> None:
    networks = scrambled(tiny())
    networks.save(tmp_path, folders=True)
    (tmp_path / "unet" / DIFFUSERS_FILE).rename(tmp_path / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(AssetError, match=r"only diffusion_pytorch_model\.bin: convert it once with `geodiff convert-w"):
        Networks.load(tmp_path)


def test_foreign_files_hold_tensors_alone(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(AssetError, match="holds a list"):
        read_foreign(tmp_path / "list.pth")
    torch.save({"module.a": torch.ones(2), "step": 3}, tmp_path / "wrapped.pth")
    assert list(read_foreign(tmp_path / "wrapped.pth")) == ["a"]
    (tmp_path / "half.safetensors").write_bytes(b"half")
    with pytest.raises(AssetError, match="whole safetensors file"):
        read_foreign(tmp_path / "half.safetensors")


@pytest.mark.parametrize("index", ["{}", "[]", '{"weight_map": {"a": 3}}', '{"weight_map": {}}', "{"])
def test_a_damaged_index_is_refused(tmp_path: Path, index: str) -> None:
    file = tmp_path / (DIFFUSERS_FILE + INDEX_SUFFIX)
    file.write_text(index)
    with pytest.raises(AssetError, match="weight_map|readable JSON"):
        read_state(file)


def test_an_index_names_files_beside_it_alone(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "outer.safetensors")
    file = tmp_path / "inner" / (DIFFUSERS_FILE + INDEX_SUFFIX)
    file.write_text(json.dumps({"weight_map": {"a": "../outer.safetensors"}}))
    with pytest.raises(AssetError, match="whole safetensors file"):
        read_state(file)


class Hostile:
    """Unpickled by Python, it would write a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (exec, (f"open({str(self.mark)!r}, 'w')",))


@pytest.mark.parametrize("suffix", PICKLED)
@pytest.mark.parametrize("archive", [True, False])
def test_hostile_torch_files_run_nothing(tmp_path: Path, suffix: str, archive: bool) -> None:
    file, mark = tmp_path / f"motion{suffix}", tmp_path / "ran"
    for content in ({"a": Hostile(mark)}, Hostile(mark)):
        torch.save(content, file, _use_new_zipfile_serialization=archive)
        with pytest.raises(AssetError, match=r"asks for `(\w+\.)?exec`, which could run code") as caught:
            read_foreign(file)
        assert "\n" not in str(caught.value)
    file.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(AssetError):
        read_foreign(file)
    assert not mark.exists()


@pytest.mark.parametrize("archive", [True, False])
def test_damaged_torch_files_are_told_in_one_sentence(tmp_path: Path, archive: bool) -> None:
    """Bytes changed anywhere in the file's head, where its structure is told."""
    file = tmp_path / "motion.ckpt"
    torch.save({"state_dict": {"a.b": torch.zeros(3, 4)}}, file, _use_new_zipfile_serialization=archive)
    whole, draw, refused = file.read_bytes(), random.Random(1), 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[draw.randrange(min(len(whole), 400))] = draw.randrange(256)
        file.write_bytes(damaged)
        try:
            read_foreign(file)
        except AssetError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50
