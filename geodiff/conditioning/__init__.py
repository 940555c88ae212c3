"""Head and camera in, the signals that condition the generator out: the one crop, pose map, proposal, visibility.

frame.py      the crop rule: head frame, cameras of generated views, the face crop
reference.py  a photograph and its fit -> the cropped reference; border.py: what lies beyond the photograph
surface.py    the fitted surface: its kinds, and which of its points are seen
sources.py    what the photograph tells of each kind
fill.py       colours for what it does not show, in layers (layers.py): bare, in clothes (clothes.py: where these begin;
              garments.py: two of them), in hair
hair.py       hair's texture (noise.py); teeth.py, lips.py: the mouth
texture.py    the photograph baked into the head's UV layout, hidden parts filled
fringe.py     what stands beside the mesh
proposal.py   the conditioner: pose map, proposal, normals and visibility in any camera, drawn by pixels.py
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
