"""MediaPipe's networks as plain functions: face detector, face mesh, person segmentation. The only module that imports
MediaPipe, on first use; the models are part of its wheel.

The mesh network is run by a graph of our own, on a crop that the caller chose. MediaPipe's own graph looks for the face
in the crop once more, with a detector that fails on profiles, and keeps the network's opinion to itself.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from geodiff.errors import MissingDependencyError

#: Landmarks of the face mesh with irises.
NUM_LANDMARKS = 478
#: The least confident detections that are worth a look.
LOWEST_CONFIDENCE = 0.2


@dataclass(frozen=True)
class Region:
    """A square in an image that may hold a face: centre (2,) and side in pixels; angle: radians by which the face's
    right-to-left direction is turned clockwise in the image, 0 for an upright face. score: the detector's, 0..1."""

    centre: np.ndarray
    side: float
    angle: float = 0.0
    score: float = 1.0


def find_faces(image: np.ndarray, model: int) -> list[Region]:
    """BlazeFace on an image (H, W, 3) uint8 RGB, most confident first. model: 0 for near faces, 1 for far ones.

    The sides are those of the crops that the mesh network was trained on.
    """
    results = _detector(model).process(np.ascontiguousarray(image)).detections or []
    size = np.array(image.shape[1::-1], np.float64)
    regions = []
    for detection in sorted(results, key=lambda found: -found.score[0]):
        data = detection.location_data
        box = data.relative_bounding_box
        corner, extent = np.array([box.xmin, box.ymin]) * size, np.array([box.width, box.height]) * size
        right, left = (np.array([data.relative_keypoints[i].x, data.relative_keypoints[i].y]) * size for i in (0, 1))
        angle = float(np.arctan2(*(left - right)[::-1]))
        regions.append(Region(corner + extent / 2, 1.6 * float(extent.max()), angle, float(detection.score[0])))
    return regions


def face_mesh(crop: np.ndarray) -> tuple[np.ndarray, float]:
    """The mesh network on a square crop (S, S, 3) uint8 RGB of an upright face.

    Returns (478, 3) x, y and relative depth (smaller is nearer) in pixels of the crop, and how sure the network is that
    it sees a face, 0..1.
    """
    return _mesher()(np.ascontiguousarray(crop))


def person_mask(image: np.ndarray) -> np.ndarray:
    """MediaPipe's selfie segmentation: (H, W, 3) uint8 RGB -> (H, W) float32 0..1, coarse (its grid is 256x256)."""
    mask = _segmenter().process(np.ascontiguousarray(image)).segmentation_mask
    return np.clip(np.asarray(mask, np.float32), 0.0, 1.0)


_MESH_GRAPH = """
input_stream: "image"
input_stream: "region"
input_side_packet: "attention"
output_stream: "landmarks"
output_stream: "score"
node {
  calculator: "FaceLandmarksModelLoader"
  input_side_packet: "WITH_ATTENTION:attention"
  output_side_packet: "MODEL:model"
}
node { calculator: "TfLiteCustomOpResolverCalculator" output_side_packet: "OP_RESOLVER:operations" }
node {
  calculator: "ImageToTensorCalculator"
  input_stream: "IMAGE:image"
  input_stream: "NORM_RECT:region"
  output_stream: "TENSORS:input"
  options {
    [mediapipe.ImageToTensorCalculatorOptions.ext] {
      output_tensor_width: 192 output_tensor_height: 192 output_tensor_float_range { min: 0.0 max: 1.0 }
    }
  }
}
node {
  calculator: "InferenceCalculator"
  input_side_packet: "MODEL:model"
  input_side_packet: "OP_RESOLVER:operations"
  input_stream: "TENSORS:input"
  output_stream: "TENSORS:output"
  options { [mediapipe.InferenceCalculatorOptions.ext] { delegate { xnnpack { num_threads: 1 } } } }
}
node {
  calculator: "SplitTensorVectorCalculator"
  input_stream: "output"
  output_stream: "mesh"
  output_stream: "flag"
  options {
    [mediapipe.SplitVectorCalculatorOptions.ext] { ranges { begin: 0 end: 6 } ranges { begin: 6 end: 7 } }
  }
}
node {
  calculator: "TensorsToFloatsCalculator"
  input_stream: "TENSORS:flag"
  output_stream: "FLOAT:score"
  options { [mediapipe.TensorsToFloatsCalculatorOptions.ext] { activation: SIGMOID } }
}
node {
  calculator: "TensorsToFaceLandmarksWithAttention"
  input_stream: "TENSORS:mesh"
  output_stream: "LANDMARKS:landmarks"
}
"""


class _Mesher:
    """The mesh network, loaded once."""

    def __init__(self) -> None:
        mediapipe = _mediapipe()
        with _quiet():
            from google.protobuf import text_format  # noqa: PLC0415 - comes with mediapipe
            from mediapipe.calculators.core import split_vector_calculator_pb2  # noqa: F401, PLC0415
            from mediapipe.calculators.tensor import (  # noqa: F401, PLC0415
                image_to_tensor_calculator_pb2,
                inference_calculator_pb2,
                tensors_to_floats_calculator_pb2,
            )
            from mediapipe.framework import calculator_pb2  # noqa: PLC0415
            from mediapipe.framework.formats import rect_pb2  # noqa: PLC0415
            from mediapipe.python import packet_creator, packet_getter  # noqa: PLC0415
            from mediapipe.python._framework_bindings import calculator_graph, image_frame, resource_util  # noqa: PLC0415

            resource_util.set_resource_dir(str(Path(mediapipe.__file__).parents[1]))
            config = text_format.Parse(_MESH_GRAPH, calculator_pb2.CalculatorGraphConfig())
            self.graph = calculator_graph.CalculatorGraph(graph_config=config)
            self.answer: dict[str, Any] = {}
            self.graph.observe_output_stream(
                "landmarks", lambda _, packet: self.answer.update(landmarks=packet_getter.get_proto(packet))
            )
            self.graph.observe_output_stream(
                "score", lambda _, packet: self.answer.update(score=packet_getter.get_float(packet))
            )
            self.graph.start_run({"attention": packet_creator.create_bool(True)})
            self.format = image_frame.ImageFormat.SRGB
            self.create = packet_creator
            self.region = rect_pb2.NormalizedRect(x_center=0.5, y_center=0.5, width=1.0, height=1.0)
            self.time = 0
            self.lock = threading.Lock()
            self(np.zeros((192, 192, 3), np.uint8))

    def __call__(self, crop: np.ndarray) -> tuple[np.ndarray, float]:
        # protobuf's deprecation notices come on every call.
        with self.lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.time += 1
            self.answer.clear()
            image = self.create.create_image_frame(image_format=self.format, data=crop)
            self.graph.add_packet_to_input_stream("image", image.at(self.time))
            self.graph.add_packet_to_input_stream("region", self.create.create_proto(self.region).at(self.time))
            self.graph.wait_until_idle()
            marks, score = self.answer["landmarks"].landmark, float(self.answer["score"])
        return np.array([(mark.x, mark.y, mark.z) for mark in marks], np.float64) * crop.shape[0], score


def _mediapipe() -> Any:
    try:
        with _quiet():
            import mediapipe  # noqa: PLC0415 - heavy, and its native parts print on import
    except ImportError as error:
        raise MissingDependencyError(
            f"tracking a face needs mediapipe 0.10.14 to 0.10.21, which cannot be imported here ({error}); install it "
            "with `pip install mediapipe==0.10.21`."
        ) from error
    return mediapipe


@lru_cache(maxsize=1)
def _mesher() -> _Mesher:
    return _Mesher()


@lru_cache(maxsize=2)
def _detector(model: int) -> Any:
    return _Silent(lambda: _mediapipe().solutions.face_detection.FaceDetection(
        model_selection=model, min_detection_confidence=LOWEST_CONFIDENCE
    ))  # fmt: skip


@lru_cache(maxsize=1)
def _segmenter() -> Any:
    return _Silent(lambda: _mediapipe().solutions.selfie_segmentation.SelfieSegmentation(model_selection=0))


class _Silent:
    """A MediaPipe solution without its native log lines, which it prints when a part of its graph first runs."""

    def __init__(self, make: Any) -> None:
        with _quiet():
            self.solution = make()
            # The graph opens on its own threads: the first answer says that they are done.
            self.solution.process(np.zeros((64, 64, 3), np.uint8))

    def process(self, image: np.ndarray) -> Any:
        with warnings.catch_warnings():  # protobuf's deprecation notices, on every call
            warnings.simplefilter("ignore")
            return self.solution.process(image)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send the process's native standard error to nowhere; MediaPipe has no switch for its start-up lines."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
