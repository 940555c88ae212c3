"""The bundled head: free for any use, always there. Authored by `geodiff.head.authoring` from measured landmarks.

Expressions carry ARKit's names. eyeLook* move the lids alone: the eyeballs turn with `eyes_pose`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from geodiff.errors import HeadModelError
from geodiff.head.contact import Contacts
from geodiff.head.embedding import load_embedding
from geodiff.head.model import REGIONS, HeadModel

DATA = Path(__file__).resolve().parent.parent / "data"
ASSET = DATA / "builtin_head.npz"
LANDMARKS = DATA / "landmarks.npz"
EMBEDDING = DATA / "builtin_mediapipe.npz"
#: Stored in half precision: bases, whose error is then below a thousandth of a millimetre per millimetre moved.
HALF = ("shape_basis", "expr_basis")


def pack(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a built head as they are stored in the asset."""
    return {name: value.astype(np.float16) if name in HALF else value for name, value in arrays.items()}


def head_from_arrays(arrays: dict[str, np.ndarray], name: str = "builtin") -> HeadModel:
    """A `HeadModel` from stored arrays. The bases are exact multiples of what the asset's half precision holds."""
    packed = pack(arrays)

    def real(key: str) -> Tensor:
        return torch.from_numpy(packed[key].astype(np.float32))

    def index(key: str) -> Tensor:
        return torch.from_numpy(packed[key].astype(np.int64))

    return HeadModel(
        name=name,
        template=real("template"),
        faces=index("faces"),
        shape_basis=real("shape_basis"),
        expr_basis=real("expr_basis"),
        joint_regressor=real("joint_regressor"),
        skinning=real("skinning"),
        uvs=real("uvs"),
        faces_uv=index("faces_uv"),
        mirror=index("mirror"),
        regions={key: torch.from_numpy(mask.copy()) for key, mask in zip(REGIONS, packed["regions"], strict=True)},
        expression_names=tuple(packed["expression_names"].tolist()),
        contacts=Contacts(
            vertices=index("contact_vertices"),
            measure=real("contact_measure"),
            rest=real("contact_rest"),
            respond=real("contact_respond"),
            poles=index("contact_poles"),
            ball=real("contact_ball"),
            lids=index("contact_lids"),
            clearance=real("contact_clearance"),
            jaw=real("contact_jaw"),
            mouth=index("contact_mouth"),
            opening=real("contact_opening"),
        ),
    )


@lru_cache(maxsize=1)
def load_builtin() -> HeadModel:
    """The bundled head with its landmark embedding, if one made for it is there. Read once; do not change its tensors.

    Raises:
        HeadModelError: the bundled file is missing or damaged.
    """
    try:
        with np.load(ASSET, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    except (OSError, ValueError) as error:
        raise HeadModelError(
            f"The builtin head needs its bundled file {ASSET.name}, which cannot be read ({error}); reinstall geodiff."
        ) from error
    head = head_from_arrays(arrays)
    object.__setattr__(head, "landmarks", load_embedding(EMBEDDING, head.faces))
    return head
