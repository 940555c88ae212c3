"""Surface normals of photographs by a network in an ONNX file that the user has (the paper uses DAViD), in our axes.

A file does not say which axes its normals have, nor in which order it gives them. They are measured: of all turns and
flips of axes, the one is taken under which the estimated normals agree best with those of the fitted head mesh, which
are in our own axes (camera space, x right, y up, z towards the camera); see `geodiff.geometry`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from geodiff.assets import cache_folder
from geodiff.conditioning import Reference
from geodiff.errors import AssetError, InputError, MissingDependencyError

#: Side of the network's input where its file leaves it open: DAViD's.
SIDE = 512
#: Names under which the file is looked for in the folder `normals` of the cache, best first.
FILES = ("normal-model*.onnx", "multi-task-model*.onnx", "*.onnx")
#: Mean cosine to the mesh's normals under the best axes below which the file is no estimator of normals.
MIN_AGREEMENT = 0.6


class Session(Protocol):
    """The part of onnxruntime's InferenceSession that is used."""

    def get_inputs(self) -> list[Any]: ...
    def get_outputs(self) -> list[Any]: ...
    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class Axes:
    """matrix: (3, 3) signed permutation, ours = matrix @ theirs. agreement: mean cosine to the mesh's normals."""

    matrix: np.ndarray
    agreement: float

    def __str__(self) -> str:
        """Our x, y and z in the network's components, for instance "+0 -1 -2"."""
        return " ".join(f"{'+' if row.sum() > 0 else '-'}{np.abs(row).argmax()}" for row in self.matrix)


class NormalEstimator:
    """A network from a square colour image (1, 3, side, side), BGR in 0..1, to normals (1, 3, side, side), alone or
    among other outputs."""

    def __init__(self, session: Session, name: str = "the network") -> None:
        self._session = session
        shape = list(session.get_inputs()[0].shape)
        outputs = [output for output in session.get_outputs() if len(output.shape) == 4 and output.shape[1] == 3]
        if len(shape) != 4 or shape[1] != 3 or not outputs:
            raise AssetError(
                f"an estimator of normals takes images of 3 channels and gives maps of 3 channels, and {name} takes "
                f"{shape} and gives {[list(output.shape) for output in session.get_outputs()]}: choose another file"
            )
        self._input, self._output = session.get_inputs()[0].name, outputs[0].name
        self.side = shape[2] if isinstance(shape[2], int) else SIDE

    @staticmethod
    def open(path: Path | str) -> NormalEstimator:
        """From an ONNX file. Raises MissingDependencyError without onnxruntime, AssetError for an unusable file."""
        file = Path(path).expanduser()
        if not file.is_file():
            raise AssetError(f"normals={path} must be mesh, auto or an ONNX file, and it is not there: check the path")
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(
                f"normals from {file.name} need onnxruntime, and it is not installed: pip install 'geodiff[eval]', or "
                "set normals=mesh"
            ) from error
        chosen = [
            p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in onnxruntime.get_available_providers()
        ]
        try:
            session = onnxruntime.InferenceSession(str(file), providers=chosen)
        except Exception as error:  # onnxruntime raises classes of its own that derive from Exception alone
            reason = str(error).splitlines()[0][:160]
            raise AssetError(f"{file} must be a whole ONNX file, and it is not ({reason}): fetch it again") from error
        return NormalEstimator(session, file.name)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) RGB in 0..1 -> (H, W, 3) float32 unit vectors in the network's own axes.

        Shorter sides are padded by repeating the border.
        """
        height, width = image.shape[:2]
        long = max(height, width)
        top, left = (long - height) // 2, (long - width) // 2
        square = cv2.copyMakeBorder(
            np.ascontiguousarray(image[..., ::-1], np.float32),
            top, long - height - top, left, long - width - left, cv2.BORDER_REPLICATE,
        )  # fmt: skip
        shrink = cv2.INTER_AREA if long > self.side else cv2.INTER_LINEAR
        small = cv2.resize(square, (self.side, self.side), interpolation=shrink)
        found = self._session.run([self._output], {self._input: small.transpose(2, 0, 1)[None]})[0][0]
        whole = cv2.resize(found.transpose(1, 2, 0), (long, long), interpolation=cv2.INTER_CUBIC)
        vectors = whole[top : top + height, left : left + width].astype(np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def find_axes(estimated: np.ndarray, known: np.ndarray, name: str = "the network") -> Axes:
    """The axes of `estimated` (N, 3) or (H, W, 3), from the mesh's normals of the same pixels in ours, zero where there
    are none. Raises InputError where none of the 48 fits.
    """
    used = np.linalg.norm(known, axis=-1) > 0.5
    if not used.any():
        raise InputError(f"the axes of {name} are measured on the fitted head, and it is outside the image")
    # (3, 3): mean of ours times theirs; a signed permutation's agreement is a sum of three of its entries.
    moments = known[used].T @ estimated[used] / used.sum()
    rows = np.arange(3)
    agreement, order, signs = max(
        (
            (float(np.abs(moments[rows, order]).sum()), order, np.sign(moments[rows, order]))
            for order in itertools.permutations(range(3))
        ),
        key=lambda candidate: candidate[0],
    )
    if agreement < MIN_AGREEMENT:
        raise InputError(
            f"{name} must give normals that agree with the fitted head in some axes, and the best agreement is "
            f"{agreement:.2f} of 1: choose another file, or set normals=mesh"
        )
    matrix = np.zeros((3, 3), np.float32)
    matrix[rows, order] = np.where(signs == 0, 1, signs)
    return Axes(matrix, agreement)


def with_estimated_normals(reference: Reference, estimator: NormalEstimator) -> tuple[Reference, Axes]:
    """The reference with estimated normals (paper 3.2), in our axes and scaled by the matte, instead of the mesh's."""
    estimated = estimator(reference.image)
    axes = find_axes(estimated, reference.normals)
    normals = (estimated @ axes.matrix.T) * reference.mask[..., None]
    return dataclasses.replace(reference, normals=normals.astype(np.float32)), axes


def resolve(setting: str) -> str:
    """What the setting `normals` stands for here: mesh, or a file. auto is the first file in the cache's folder
    `normals` where there is one and onnxruntime is installed, else mesh.
    """
    if setting != "auto":
        return setting
    folder = cache_folder() / "normals"
    found = next((path for pattern in FILES for path in sorted(folder.glob(pattern))), None)
    return "mesh" if found is None or importlib.util.find_spec("onnxruntime") is None else str(found)


def find_estimator(setting: str) -> NormalEstimator | None:
    """The estimator that the setting `normals` names: mesh (None), a file, or auto."""
    chosen = resolve(setting)
    return None if chosen == "mesh" else NormalEstimator.open(chosen)
