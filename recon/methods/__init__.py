"""The avatar methods, by name.

A method says how an avatar is made: `fit` takes a clip set (or portraits) and a configuration, `train` exists for
feed-forward methods alone. What it makes is an `Avatar`, and nobody else needs to know more.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geodiff.errors import ConfigError
from geodiff.head.model import HeadModel
from recon.avatar import Avatar, head_record, info_of, read_manifest, read_params
from recon.methods import geodiff4d


@dataclass(frozen=True)
class Method:
    """One way to make avatars.

    fit: (source, config, **context) -> Avatar; the source is a ClipSet or a list of Portraits, as `source` says.
    config: the dataclass of its settings. avatar: the class that it makes. train: (dataset, config) for methods whose
    networks are trained over many people, otherwise None.
    """

    fit: Callable[..., Avatar]
    config: type
    avatar: type[Avatar]
    source: str = "clips"
    train: Callable[..., Any] | None = None


METHODS: dict[str, Method] = {
    "geodiff4d": Method(geodiff4d.fit, geodiff4d.GeoDiff4DConfig, geodiff4d.GeoDiff4DAvatar),
}


def find_method(name: str) -> Method:
    """The method of that name; a ConfigError that names the nearest one otherwise."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1)
        hint = f"did you mean {near[0]!r}" if near else "choose one of these"
        raise ConfigError(f"--method must be one of {sorted(METHODS)}, got {name!r}: {hint}")
    return METHODS[name]


def load_avatar(folder: Path | str, head: HeadModel | None = None, head_spec: str | None = None) -> Avatar:
    """Reads an avatar of any method.

    head: its head model; by default the one recorded is loaded, from head_spec where its file has moved. Raises
    InputError where the folder is no avatar, HeadModelError where the head model is another one or is not found.
    """
    target = Path(folder)
    record = read_manifest(target)
    info, known = info_of(record), head_record(record, target)
    if head is None:
        head, found = known.find(target, head_spec)
        info = replace(info, head_spec=found)
    known.check(head, target)
    params = read_params(target / "flame_param.npz")
    return find_method(record["method"]).avatar.read(target, head, params, info)
