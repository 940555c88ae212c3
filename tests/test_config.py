from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml

from geodiff import config
from geodiff.errors import ConfigError
from geodiff.training.config import TrainConfig


class Start(enum.Enum):
    reference = 1
    noise = 2


@dataclass
class Inner:
    steps: int = 10
    guidance: float = 2.5


@dataclass
class Outer:
    views: int = 12
    size: int = 64
    name: str = "a"
    weights: str | None = None
    yaws: list[float] = field(default_factory=lambda: [0.0, 25.0])
    sampling: Inner = field(default_factory=Inner)
    start: Start = Start.reference

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ValueError(f"views must be at least 1, not {self.views}: raise it")


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "small.yaml").write_text("generate: {views: 3, sampling: {steps: 4}}\n")
    (tmp_path / "broken.yaml").write_text("generate: {viewz: 3}\n")
    (tmp_path / "empty.yaml").write_text("")
    monkeypatch.setattr(config, "config_folder", lambda: tmp_path)
    return tmp_path


def load(preset: str, *overrides: str) -> Outer:
    return config.load_config(Outer, "generate", preset, list(overrides))


def test_later_layers_win(presets: Path) -> None:
    (presets / "mine.txt").write_text("views: 5\nsampling: {guidance: 1}\n")
    loaded = load("small", f"config={presets / 'mine.txt'}", "size=128", "sampling.steps=7", "yaws=[1,2,3]")
    assert loaded == Outer(views=5, size=128, yaws=[1.0, 2.0, 3.0], sampling=Inner(7, 1.0))
    assert load("empty") == Outer()
    assert load("small", "sampling.guidance=1e-3").sampling.guidance == 1e-3
    assert load("small", "weights=null").weights is None
    assert load("small", "start=noise").start is Start.noise


@dataclass
class Words:
    precision: str = "bf16"
    log: bool = True


@pytest.mark.parametrize("word", ["no", "off", "yes", "on"])
def test_words_stay_words_where_words_are_asked_for(presets: Path, word: str) -> None:
    """YAML's truth values: `precision=no` names a precision, `log=no` turns logging off."""
    (presets / "mine.txt").write_text(f"precision: {word}\nlog: {word}\n")
    truth = word in ("yes", "on")
    for overrides in ([f"precision={word}", f"log={word}"], [f"config={presets / 'mine.txt'}"]):
        found = config.load_config(Words, "generate", "empty", overrides)
        assert found == Words(word, truth)
        (presets / "again.txt").write_text(config.to_yaml(found))
        assert config.load_config(Words, "generate", "empty", [f"config={presets / 'again.txt'}"]) == found
    assert not config.load_config(Words, "generate", "empty", ["log=False"]).log


def test_training_without_mixed_precision_can_be_asked_for() -> None:
    assert config.load_config(TrainConfig, "train_images", "preview", ["precision=no"]).precision == "no"


def test_user_file_may_hold_sections(presets: Path) -> None:
    (presets / "mine.txt").write_text("generate: {views: 6}\nreconstruct: {iterations: 3}\n")
    assert load("small", f"config={presets / 'mine.txt'}").views == 6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("veiws=3", "'veiws' does not; did you mean 'views'"),
        ("sampling.step=3", "'sampling.step' does not; did you mean 'sampling.steps'"),
        ("guidance=3", "did you mean 'sampling.guidance'"),
        ("qqqqqq=3", "the keys are views, size"),
        ("views=many", "'views' a value of the wrong kind"),
        ("sampling=3", "'sampling' a value of the wrong kind"),
        ("start=nose", "'start' a value of the wrong kind"),
        ("views", "must read key=value"),
        ("=3", "must read key=value"),
        ("name=[a", "must be YAML"),
        ("views=0", "views must be at least 1, not 0"),
        ("config=none.yaml", "none.yaml must exist"),
    ],
)
def test_wrong_overrides_are_named(presets: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("small", override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_preset_lists_the_known(presets: Path) -> None:
    with pytest.raises(ConfigError, match=r"one of broken, empty, small, not 'smal'; did you mean 'small'"):
        load("smal")
    with pytest.raises(ConfigError, match="preset 'broken' may only set keys that exist"):
        load("broken")


def test_yaml_round_trip(presets: Path) -> None:
    loaded = load("small")
    assert yaml.safe_load(config.to_yaml(loaded)) == config.to_container(loaded)
    assert config.to_container(loaded)["start"] == "reference"


def test_choose() -> None:
    assert config.choose("method", "a", ["a", "b"]) == "a"
    with pytest.raises(
        ConfigError, match="the method must be one of geodiff4d, not 'geodif'; did you mean 'geodiff4d'"
    ):
        config.choose("method", "geodif", ["geodiff4d"])


@pytest.mark.parametrize("preset", ["test", "preview", "full"])
def test_presets_fit_their_rooms(preset: str) -> None:
    from geodiff.batch import Options, reconstruct_config
    from geodiff.tracking.track import TrackConfig
    from recon.animate import AnimateConfig

    reconstruct_config("geodiff4d", Options(preset), [])
    config.load_config(AnimateConfig, "animate", preset)
    config.load_config(TrackConfig, "track", preset)


@pytest.mark.parametrize("preset", ["test", "preview", "full"])
def test_presets_fit_the_generation(preset: str) -> None:
    from geodiff.batch import Options, generate_config

    usual, fast = (generate_config(Options(preset), [], fast) for fast in (False, True))
    assert fast.sampling.steps < usual.sampling.steps
    assert fast == replace(usual, sampling=replace(usual.sampling, steps=fast.sampling.steps))
    assert generate_config(Options(preset), ["sampling.steps=7"], fast=True).sampling.steps == 7


def test_the_three_presets_are_there() -> None:
    assert config.preset_names() == ["full", "preview", "test"]
    for name in config.preset_names():
        sections = {"generate", "generate_fast", "reconstruct", "animate", "track", "train_images", "train_clips"}
        assert sections <= set(config.load_preset(name))
