"""CSIM: whether two pictures show the same person, by a face recognition network."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from geodiff.metrics.checks import NotMeasured
from geodiff.metrics.motion import cosine
from geodiff.metrics.weights import find_file

#: Names under which ArcFace networks are published as ONNX files.
ARCFACE_FILES = ("arcface*.onnx", "w600k_*.onnx", "glintr100*.onnx", "ms1mv3*.onnx")
#: Side of the aligned face, and where its eyes, nose tip and mouth corners lie (the template of Deng et al. 2019).
SIDE = 112
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float64
)
#: MediaPipe's landmarks of the same five points: iris centres (the person's right first), nose tip, mouth corners.
FIVE_POINTS = (468, 473, 4, 61, 291)


class ArcFace:
    """An ArcFace network (Deng et al. 2019) from an ONNX file: aligned face -> vector of identity."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.input = session.get_inputs()[0].name

    def embed(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """image: (H, W, 3) uint8 RGB. landmarks: (478, 2) pixels. Returns the vector, as long as the network gives."""
        face = align(image, landmarks)
        # Trained on RGB in -1..1.
        batch = ((face.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None]
        return np.asarray(self.session.run(None, {self.input: batch})[0], np.float64).reshape(-1)


def align(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(112, 112, 3) uint8: the face turned, scaled and moved so that its five points lie on the template's.

    The similarity is the least-squares one (Umeyama 1991). Raises ValueError for landmarks of another shape.
    """
    if landmarks.ndim != 2 or landmarks.shape[1] != 2 or len(landmarks) <= max(FIVE_POINTS):
        raise ValueError(f"landmarks must have shape (478, 2), found {landmarks.shape}")
    # Landmarks have pixel centres at +0.5, OpenCV and the template at whole numbers.
    matrix = similarity(landmarks[list(FIVE_POINTS)].astype(np.float64) - 0.5, TEMPLATE)
    return cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, 3) matrix of the rotation, scale and shift that bring points (N, 2) closest to target (N, 2)."""
    mean, target_mean = points.mean(0), target.mean(0)
    # As complex numbers a rotation with a scale is one factor.
    a, b = (points - mean) @ np.array([1, 1j]), (target - target_mean) @ np.array([1, 1j])
    factor = (np.conj(a) @ b) / max(float((np.conj(a) @ a).real), 1e-12)
    turn = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.concatenate([turn, (target_mean - turn @ mean)[:, None]], 1)


def csim(vector: np.ndarray, other: np.ndarray) -> float:
    """Cosine similarity of two identity vectors, -1..1 (SplitAvatar, appendix A.2, equation 20; GeoDiff4D, section
    5.1)."""
    return cosine(vector, other, "an identity vector is zero")


@lru_cache(maxsize=2)
def load_arcface(folder: Path | None = None) -> ArcFace:
    """The network from a file that the user has. Raises NotMeasured where it or onnxruntime is absent."""
    path = find_file("an ArcFace network", ARCFACE_FILES, folder)
    try:
        import onnxruntime
    except ImportError as error:
        raise NotMeasured("onnxruntime is not installed: pip install 'geodiff[eval]'") from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own that derive from Exception alone
        raise NotMeasured(f"{path} cannot be read as an ONNX network") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or list(inputs[0].shape)[1:] != [3, SIDE, SIDE]:
        raise NotMeasured(f"{path} must take faces of shape (1, 3, {SIDE}, {SIDE}), and it does not")
    return ArcFace(session)
