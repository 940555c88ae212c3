"""Head and camera in, the signals that condition the generator out: the one crop, pose map, proposal, visibility.

frame.py      the crop rule: head frame, cameras of generated views, the face crop
reference.py  a photograph and its fit -> the cropped reference
surface.py    the fitted surface: UV chart, visibility
fill.py       colours for what the photograph does not show
texture.py    the photograph baked into the head's UV layout, hidden parts filled
proposal.py   the conditioner: pose map, proposal, normals and visibility in any camera
"""

from geodiff.conditioning.frame import (
    CHIN_TO_CROWN,
    VIEWPOINT_DEGREES,
    HeadFrame,
    face_camera,
    framed_camera,
    head_frame,
    resample,
)
from geodiff.conditioning.proposal import Condition, Conditioner
from geodiff.conditioning.reference import Reference, crop_reference

__all__ = [
    "CHIN_TO_CROWN",
    "VIEWPOINT_DEGREES",
    "Condition",
    "Conditioner",
    "HeadFrame",
    "Reference",
    "crop_reference",
    "face_camera",
    "framed_camera",
    "head_frame",
    "resample",
]
