"""The published results of other trackers: they lie where their pictures show heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from geodiff.geometry import axis_angle_to_matrix, project
from geodiff.imported import read_tracking
from geodiff.tracking.importers import read_orbit
from geodiff.types import HeadParams


def test_lincoln_lies_on_his_portrait(shared_data: Path) -> None:
    """With the bundled head, whose face is another: where the features fall, and that only the origin fits as pivot."""
    from geodiff.head import load_head
    from geodiff.media import read_image
    from geodiff.tracking.importers import about_root
    from geodiff.tracking.landmarks import detect_faces

    head = load_head("builtin")
    tracking = read_tracking(shared_data / "portraits" / "lincoln_cap4d_fit.npz")
    assert tracking.params.shape.any() and tracking.fps == 30 and tracking.num_cameras == 1
    face = detect_faces(read_image(shared_data / "portraits" / "lincoln.png"))[0]
    posed = head.zeros().replace(rotation=tracking.params.rotation, translation=tracking.params.translation)

    def offsets(params: HeadParams) -> np.ndarray:
        points, _ = project(head.landmark_points(params)[0], tracking.camera(0))
        return (points.numpy() - face.points[head.landmarks.indices.numpy()]) / face.eye_distance

    off = offsets(about_root(posed, head))
    assert np.linalg.norm(off, axis=1).mean() < 0.2, "of the distance between the eyes' outer corners"
    assert np.linalg.norm(off - off.mean(0), axis=1).mean() < 0.04, "the orientation and the size"
    wrong = posed.replace(rotation=posed.rotation * torch.tensor([-1.0, 1.0, 1.0]))
    bent = offsets(about_root(wrong, head))
    assert np.linalg.norm(bent - bent.mean(0), axis=1).mean() > 0.055
    eyes = [int((head.landmarks.indices == i).nonzero()) for i in (33, 133, 362, 263)]
    assert abs(off[eyes, 0].mean()) < 0.03 < abs(offsets(posed)[eyes, 0].mean())


def test_driving_sample(shared_data: Path) -> None:
    tracking = read_tracking(shared_data / "driving" / "cap4d_fit.npz")
    assert tracking.num_frames == 384 and tracking.fps == 24 and tracking.params.expr.shape == (384, 64)
    assert any("its shape is the mean" in note for note in tracking.notes)
    # The last coefficient moves the lids alone: it never crosses zero, as expressions do.
    blink = tracking.codes["blink"]
    assert blink.shape == (384, 1) and float(blink.max()) < 0 and float(blink.min()) < -0.4


def test_orbit_sample_circles_an_upright_head(shared_data: Path) -> None:
    """Rendered with the bundled head where the driving sample has its own: up is up, and the face turns away."""
    from geodiff.head import load_head
    from geodiff.tracking.importers import about_root

    head = load_head("builtin")
    fit = read_tracking(shared_data / "driving" / "cap4d_fit.npz").params.frame(0)
    params = about_root(head.zeros().replace(rotation=fit.rotation, translation=fit.translation), head)
    cameras = read_orbit(shared_data / "driving" / "cap4d_orbit.npz")
    assert len(cameras) == 384
    vertices = head.vertices(params)[0]
    at = {int(i): k for k, i in enumerate(head.landmarks.indices)}
    points = head.landmark_points(params)[0]
    middle = fit.translation[0]
    yaws, leans = [], []
    for camera in cameras[::16]:
        pixels, depth = project(points, camera)
        seen, _ = project(vertices, camera)
        assert float(depth.min()) > 1.0 and float(seen.min()) > -120
        assert pixels[at[10], 1] < pixels[at[1], 1] < pixels[at[152], 1], "brow above nose above chin"
        assert pixels[at[33], 0] < pixels[at[263], 0], "the person's right is on the left of the picture"
        away = camera.center - middle
        yaws.append(float(torch.atan2(away[0], away[2])))
        leans.append(float(pixels[at[1], 0] - (pixels[at[234], 0] + pixels[at[454], 0]) / 2))
    assert max(yaws) > 0.5 and min(yaws) < -0.5
    # From the person's left (+x), the nose points to the left of the picture.
    assert np.corrcoef(yaws, leans)[0, 1] < -0.95


def test_orientation_agrees_with_our_tracker(shared_data: Path) -> None:
    from geodiff.head import load_head
    from geodiff.media import read_image
    from geodiff.tracking.track import track_image

    ours = track_image(read_image(shared_data / "portraits" / "lincoln.png"), load_head("builtin")).params
    theirs = read_tracking(shared_data / "portraits" / "lincoln_cap4d_fit.npz").params
    between = axis_angle_to_matrix(ours.rotation + ours.neck_pose)[0].T @ axis_angle_to_matrix(theirs.rotation)[0]
    angle = torch.rad2deg(torch.acos(((between.trace() - 1) / 2).clamp(-1, 1)))
    assert float(angle) < 8.0
