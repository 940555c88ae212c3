"""FLAME (Li et al. 2017) as a `HeadModel`, from the files that its users have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

from geodiff.errors import HeadModelError
from geodiff.geometry import vertex_normals
from geodiff.head import flame_extras as extras
from geodiff.head.flame_arkit import arkit_coefficients
from geodiff.head.flame_files import FlameArrays, find_flame, read_flame
from geodiff.head.flame_teeth import add_teeth, texture, triangles
from geodiff.head.model import HeadModel
from geodiff.head.registration import register, transfer_regions
from geodiff.head.unwrap import unwrap

#: Jaw rotation of ARKit's `jawOpen` where nothing better is known, radians.
JAW_OPEN = 0.35


def load_flame(path: str | Path, teeth: bool = False) -> HeadModel:
    """FLAME 2020 or 2023 from its model file, or from a folder that holds one.

    Taken where they lie in the same folder: texture coordinates (`head_template_mesh.obj`; else our own
    unwrapping), regions (`FLAME_masks.pkl`; else those of the bundled head, fitted to the template), eyelids
    (`l_eyelid.npy`, `r_eyelid.npy`), landmarks (`flame_mediapipe.npz`, `mediapipe_landmark_embedding.npz` or
    `landmark_embedding_with_eyes.npy`). Landmarks that no file names are found by the same fit, if it comes near.

    Eyelids become two more expressions, `eyeBlinkLeft` and `eyeBlinkRight`, after FLAME's own: 0 is as modelled, 1 is
    shut. Their sources add them after skinning, to a head that does not turn; here they are added before it, so that
    lids turn with the head. At rest, and with the jaw and the eyes alone moved, both are the same.

    The joints are FLAME's five. In a model without jaw joint the jaw is there and moves nothing, and the mouth opens by
    expressions. `HeadModel.arkit` and `arkit_jaw` say what ARKit's names are in FLAME's own expressions and jaw,
    found by comparing landmarks with the bundled head's.

    teeth: append 120 vertices of teeth with VHAP's counts (`flame_teeth`).

    Raises:
        HeadModelError: a file is missing, not FLAME, damaged, or holds anything but arrays.
    """
    flame = read_flame(find_flame(Path(path).expanduser()))
    folder = flame.file.parent
    masks = extras.read_masks(folder, len(flame.template))
    layout = extras.read_uvs(folder, flame.faces)
    lids = extras.read_eyelids(folder, len(flame.template))
    named = extras.read_landmarks(folder, flame.faces)
    names = tuple(f"expression{i:03d}" for i in range(len(flame.expression)))
    if lids is not None:
        names += extras.EYELID_NAMES
        flame = replace(flame, expression=np.concatenate([flame.expression, lids]))
    bare = _assemble(flame, names, extras.regions(flame, masks), layout)
    source, found = _bundled(), None
    if source is not None and bool(bare.regions["eyeballs"].any()):
        found = register(bare, source, named)
    moved = transfer_regions(bare, source, found) if source is not None and found is not None else None
    regions = extras.regions(flame, masks, moved)
    if teeth:
        count = len(flame.template)
        flame = add_teeth(flame, regions["lips"])
        more = len(flame.template) - count
        regions = {name: np.concatenate([mask, np.full(more, name == "teeth")]) for name, mask in regions.items()}
        if layout:
            uvs, faces_uv = layout
            layout = np.concatenate([uvs, texture()]), np.concatenate([faces_uv, triangles() + len(uvs)])
    head = _assemble(flame, names, regions, layout or unwrap(flame.template, flame.faces))
    head = replace(head, landmarks=named if found is None else found.landmarks)
    turn = {"jawOpen": torch.tensor([JAW_OPEN, 0.0, 0.0])} if flame.jaw else {}
    if source is None or found is None:
        return replace(head, arkit_jaw=turn)
    arkit, arkit_jaw = arkit_coefficients(head, source, flame.jaw)
    return replace(head, arkit=arkit, arkit_jaw={**turn, **arkit_jaw})


def _bundled() -> HeadModel | None:
    """The head that others are compared with, if it can say where its landmarks are."""
    from geodiff.head.builtin import load_builtin

    source = load_builtin()
    return source if source.landmarks is not None else None


def _assemble(
    flame: FlameArrays,
    names: tuple[str, ...],
    regions: dict[str, np.ndarray],
    layout: tuple[np.ndarray, np.ndarray] | None,
) -> HeadModel:
    uvs, faces_uv = layout or (np.zeros((1, 2)), np.zeros_like(flame.faces))
    template, faces = torch.as_tensor(flame.template), torch.as_tensor(flame.faces)
    return HeadModel(
        name="flame",
        template=template,
        faces=faces,
        shape_basis=torch.as_tensor(flame.shape),
        expr_basis=torch.as_tensor(flame.expression),
        joint_regressor=torch.as_tensor(flame.regressor),
        skinning=torch.as_tensor(flame.weights),
        uvs=torch.as_tensor(uvs, dtype=torch.float32),
        faces_uv=torch.as_tensor(faces_uv, dtype=torch.int64),
        regions={name: torch.as_tensor(mask) for name, mask in regions.items()},
        mirror=_mirror(template, faces),
        expression_names=names,
        pose_basis=torch.as_tensor(flame.pose),
    )


def _mirror(template: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """(V,) the vertex on the other side: the nearest that faces the mirrored way, since the lips' two sides touch."""
    flip = np.array([-1.0, 1.0, 1.0])
    points, normals = template.numpy(), vertex_normals(template, faces).numpy()
    own = np.concatenate([points, 5e-3 * normals], 1)
    other = np.concatenate([points * flip, 5e-3 * normals * flip], 1)
    return torch.as_tensor(cKDTree(own).query(other)[1], dtype=torch.int64)


@dataclass(frozen=True)
class FlameParts:
    """What a FLAME model and the files beside it offer, for a report.

    optional: file name -> what it gives and whether it is there. problems: sentences about files that cannot be used.
    """

    file: Path
    vertices: int
    shapes: int
    expressions: int
    jaw: bool
    optional: dict[str, tuple[str, bool]]
    problems: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line."""
        there = [name for name, (_, found) in self.optional.items() if found]
        jaw = "jaw joint" if self.jaw else "no jaw joint, the mouth opens by expressions"
        beside = f"; beside it {', '.join(there)}" if there else "; nothing beside it"
        return f"{self.vertices} vertices, {self.shapes} shapes, {self.expressions} expressions, {jaw}{beside}"

    @property
    def missing(self) -> str:
        """What could be put beside the model file and what for; empty where all is there."""
        lacking = [f"{name} ({what})" for name, (what, found) in self.optional.items() if not found]
        return f"put beside it if you have them: {', '.join(lacking)}" if lacking else ""


def flame_parts(path: str | Path) -> FlameParts:
    """What the FLAME model at `path` (a file or a folder) holds, and which optional files lie beside it.

    Raises:
        HeadModelError: the model file itself cannot be used.
    """
    flame = read_flame(find_flame(Path(path).expanduser()))
    folder, count = flame.file.parent, len(flame.template)
    checks = (
        (extras.TEMPLATE_MESH, "texture coordinates", lambda: extras.read_uvs(folder, flame.faces)),
        (extras.MASKS, "exact regions", lambda: extras.read_masks(folder, count)),
        (extras.MEDIAPIPE_EMBEDDING, "landmarks", lambda: extras.read_landmarks(folder, flame.faces)),
        (extras.EYELIDS[0], "the left eyelid", lambda: extras.read_eyelids(folder, count)),
        (extras.EYELIDS[1], "the right eyelid", lambda: None),
    )
    optional, problems = {}, []
    for name, what, read in checks:
        optional[name] = (what, (folder / name).is_file())
        try:
            read()
        except HeadModelError as error:
            problems.append(str(error))
    return FlameParts(flame.file, count, len(flame.shape), len(flame.expression), flame.jaw, optional, tuple(problems))
