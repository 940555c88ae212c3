"""YAML and `key=value` overrides -> typed configuration.

Order, later wins: the dataclass's defaults, the preset's section (`configs/PRESET.yaml`), the user's own YAML
(`config=FILE` among the overrides), the other overrides. A key that the dataclass does not have is an error that names
the nearest one that it has.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from geodiff.errors import ConfigError

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """YAML in which only true and false are truth values, as in version 1.2, so that `precision=no` is a word.

    Fields that are truth values still take yes, no, on and off: the schema reads those.
    """


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != _BOOL or first in "tTfF"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

#: What the command line takes when no --preset is given.
DEFAULT_PRESET = "preview"


def config_folder() -> Path:
    """Where the presets are: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def preset_names() -> list[str]:
    """Names that --preset takes."""
    return sorted(path.stem for path in config_folder().glob("*.yaml"))


def load_preset(name: str) -> dict[str, Any]:
    """The sections of a preset. Raises ConfigError for an unknown name."""
    if name not in preset_names():
        raise ConfigError(
            f"the preset must be one of {', '.join(preset_names())}, not {name!r}{_nearest(name, preset_names())}"
        )
    return _read_yaml(config_folder() / f"{name}.yaml")


def load_config(
    schema: type[T],
    section: str,
    preset: str = DEFAULT_PRESET,
    overrides: list[str] | None = None,
    also: tuple[str, ...] = (),
) -> T:
    """The configuration of one stage.

    schema: dataclass with defaults for every field (nested dataclasses allowed). section: the part of the preset that
    belongs to it. overrides: "key=value" with dots for nested keys; "config=FILE" names a YAML file of such keys,
    either bare or under the section's name. also: sections of the preset that are laid over the first. Raises
    ConfigError.
    """
    files, assignments = split_overrides(schema, overrides or [])
    sections = load_preset(preset)
    layers = [(f"preset {preset!r}", sections.get(name) or {}) for name in (section, *also)]
    for file in files:
        content = _read_yaml(Path(file))
        layers.append((file, content.get(section, content) or {}))
    layers.append(("the command line", parse_assignments(assignments)))
    return merge(schema, layers)


def merge(schema: type[T], layers: list[tuple[str, dict[str, Any]]]) -> T:
    """Merges (source, mapping) layers over the schema's defaults; later ones win. Raises ConfigError."""
    config = OmegaConf.structured(schema)
    for source, values in layers:
        if not isinstance(values, dict):
            raise ConfigError(
                f"{source} must hold keys and values, and it holds {type(values).__name__}: see --dry-run"
            )
        check_keys(schema, values, source)
        try:
            config = OmegaConf.merge(config, OmegaConf.create(values))
        except OmegaConfBaseException as error:
            raise _wrong_value(error, source) from error
    try:
        assert isinstance(config, DictConfig)
        return typing.cast(T, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise _wrong_value(error, "the configuration") from error
    except ValueError as error:  # a dataclass's own __post_init__ checks
        raise ConfigError(str(error)) from error


def split_overrides(schema: type, overrides: list[str]) -> tuple[list[str], list[str]]:
    """(configuration files, assignments); `config=` is an assignment where the schema has a field of that name."""
    own = any(f.name == "config" for f in dataclasses.fields(schema))
    files = [item.split("=", 1)[1] for item in overrides if item.startswith("config=") and not own]
    return files, [item for item in overrides if own or not item.startswith("config=")]


def parse_assignments(items: list[str]) -> dict[str, Any]:
    """["a.b=1"] -> {"a": {"b": 1}}; values are YAML. Raises ConfigError."""
    result: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(
                f"an override must read key=value, and {item!r} does not: write it as, for instance, seed=3"
            )
        try:
            value = _Loader(text).get_single_data() if text.strip() else ("" if text else None)
        except yaml.YAMLError as error:
            raise ConfigError(f"the value of {key!r} must be YAML, and {text!r} is not: put it in quotes") from error
        if isinstance(value, str):
            value = _number(value)
        place = result
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"the key {key!r} is given both as a value and as a group: leave one of them out")
        place[parts[-1]] = value
    return result


def _number(text: str) -> Any:
    """YAML reads 1e-3 as text; here it is a number."""
    try:
        return float(text)
    except ValueError:
        return text


def check_keys(schema: type, values: dict[str, Any], source: str, prefix: str = "") -> None:
    """Raises ConfigError for the first key that the schema does not have."""
    hints = typing.get_type_hints(schema)
    names = [f.name for f in dataclasses.fields(schema)]
    for key, value in values.items():
        if key not in names:
            full = f"{prefix}{key}"
            tail = (
                _nearest(full, keys_of(schema, prefix))
                or f"; the keys are {', '.join(prefix + name for name in names)}"
            )
            raise ConfigError(f"{source} may only set keys that exist, and {full!r} does not{tail}")
        nested = _dataclass_of(hints[key])
        if nested is None:
            continue
        if isinstance(value, dict):
            check_keys(nested, value, source, f"{prefix}{key}.")
        elif value is not None:
            group = ", ".join(keys_of(nested, f"{prefix}{key}."))
            raise ConfigError(f"{source} gives {prefix + key!r} a value of the wrong kind ({value!r}): set {group}")


def keys_of(schema: type, prefix: str = "") -> list[str]:
    """All keys of a schema, nested ones with dots."""
    hints = typing.get_type_hints(schema)
    keys = []
    for field in dataclasses.fields(schema):
        keys.append(prefix + field.name)
        nested = _dataclass_of(hints[field.name])
        if nested is not None:
            keys += keys_of(nested, f"{prefix}{field.name}.")
    return keys


def _dataclass_of(hint: Any) -> type | None:
    """The dataclass behind a type hint, through Optional; None where there is none."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = [option for option in typing.get_args(hint) if dataclasses.is_dataclass(option)]
        hint = found[0] if found else None
    return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None


def to_container(config: Any) -> Any:
    """A configuration as plain dictionaries, lists and scalars, for YAML and JSON."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_container(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {str(key): to_container(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_container(value) for value in config]
    if isinstance(config, enum.Enum):
        return config.name
    if isinstance(config, Path):
        return str(config)
    return config


def to_yaml(config: Any) -> str:
    """A configuration as YAML text, in the order of its fields."""
    return yaml.safe_dump(to_container(config), sort_keys=False, default_flow_style=False)


def choose(kind: str, name: str, options: typing.Iterable[str]) -> str:
    """`name`, when it is one of the options; otherwise a ConfigError that lists them and names the nearest."""
    known = list(options)
    if name in known:
        return name
    raise ConfigError(f"the {kind} must be one of {', '.join(known)}, not {name!r}{_nearest(name, known)}")


def _nearest(key: str, known: list[str]) -> str:
    leaves = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    close = difflib.get_close_matches(key, [*known, *leaves], n=1, cutoff=0.5)
    return f"; did you mean {leaves.get(close[0], close[0])!r}?" if close else ""


def _wrong_value(error: OmegaConfBaseException, source: str) -> ConfigError:
    key = getattr(error, "full_key", None) or getattr(error, "key", None) or "a key"
    reason = str(error).strip().splitlines()[0]
    return ConfigError(f"{source} gives {key!r} a value of the wrong kind ({reason}): see --dry-run for what it may be")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise ConfigError(
            f"the configuration file {path} must exist and be readable ({error.strerror}): check the path"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"the configuration file {path} must be YAML, and it is not ({line}): correct it") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"the configuration file {path} must hold keys and values, and it does not: correct it")
    return content
