import math

import numpy as np
import pytest
import torch

from geodiff.geometry import orbit_camera, vertex_normals
from geodiff.head.authoring.assemble import build_head
from geodiff.head.authoring.landmarks import mirror_of, read_landmarks
from geodiff.head.builtin import LANDMARKS, head_from_arrays, load_builtin
from geodiff.head.model import JOINTS, REGIONS
from geodiff.raster.mesh import rasterize, render_normals
from geodiff.types import Camera

ARKIT = [
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight", "tongueOut",
]  # fmt: skip


@pytest.fixture(scope="module")
def head():
    return load_builtin()


def expressed(head, **weights):
    expression = torch.zeros(1, head.num_expr)
    for name, weight in weights.items():
        expression[0, head.expression_names.index(name)] = weight
    return head.vertices(head.zeros().replace(expr=expression))[0]


def eye_centre(head, joint):
    return head.joints(head.zeros())[JOINTS.index(joint)]


def test_sizes(head):
    assert 5000 <= head.num_vertices <= 9000
    assert head.num_shape >= 40
    assert set(head.expression_names) == set(ARKIT)
    assert set(head.regions) == set(REGIONS)
    assert all(mask.any() for mask in head.regions.values())


def test_at_most_500_landmarks_and_no_more_than_landmarks():
    landmarks = read_landmarks(LANDMARKS)
    assert len(landmarks.names) <= 500
    assert len(set(landmarks.names)) == len(landmarks.names)
    assert (mirror_of(landmarks.names)[mirror_of(landmarks.names)] == np.arange(len(landmarks.names))).all()


def test_metres_and_axes(head):
    low, high = head.template.min(0).values, head.template.max(0).values
    assert 0.35 < high[1] - low[1] < 0.45
    assert low[1] < -0.2 and high[0] > 0.13, "neck and shoulders"
    nose = head.template[head.regions["face"]][:, 2].argmax()
    assert abs(head.template[head.regions["face"]][nose, 0]) < 0.003
    assert eye_centre(head, "left_eye")[0] > 0.02


def test_mirror_is_exact(head):
    assert (head.mirror[head.mirror] == torch.arange(head.num_vertices)).all()
    image = head.template[head.mirror] * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(image, head.template, atol=1e-6, rtol=0)
    for mask in head.regions.values():
        assert (mask[head.mirror] == mask).all()


def test_left_and_right_expressions_are_mirror_images(head):
    left = head.expr_basis[head.expression_names.index("mouthSmileLeft")]
    right = head.expr_basis[head.expression_names.index("mouthSmileRight")]
    image = right[head.mirror] * torch.tensor([-1.0, 1.0, 1.0])
    assert (image - left).norm(dim=-1).max() < 0.0015
    assert left[head.template[:, 0] > 0.01].norm(dim=-1).max() > 0.008


def test_skinning(head):
    torch.testing.assert_close(head.skinning.sum(1), torch.ones(head.num_vertices))
    assert (head.skinning >= 0).all()
    torch.testing.assert_close(head.joint_regressor.sum(1), torch.ones(5), atol=1e-4, rtol=0)
    eyes = head.skinning[head.regions["eyeballs"]]
    assert (eyes[:, 3:].max(1).values == 1).all()


def test_the_mesh_is_closed_but_for_the_sockets_behind_the_eyes(head):
    edges = torch.cat([head.faces[:, [0, 1]], head.faces[:, [1, 2]], head.faces[:, [2, 0]]]).numpy()
    directed = {tuple(edge) for edge in edges.tolist()}
    assert len(directed) == len(edges), "an edge is used twice in the same direction"
    border = {a for a, b in directed if (b, a) not in directed}
    places = head.template[sorted(border)]
    behind_eyes = (places[:, 2] > 0.05) & (places[:, 2] < 0.08) & (places[:, 1] > 0)
    assert behind_eyes.all()


def test_faces_look_outwards(head):
    middle = torch.tensor([0.0, 0.03, 0.01])
    normals = vertex_normals(head.template, head.faces)
    scalp = head.regions["scalp"]
    assert ((head.template[scalp] - middle) * normals[scalp]).sum(-1).min() > 0


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_lids_slide_over_the_eyeball(head, strength):
    """The visible part of the lids stays in front of the eyeball while the eye closes."""
    vertices = expressed(head, eyeBlinkLeft=strength, eyeBlinkRight=strength)
    side = 240
    centre = eye_centre(head, "left_eye")
    camera = orbit_camera(0.0, 0.0, 1.0, centre, 12.0 * side, side, side)
    shown = rasterize(vertices, head.faces, camera).face
    ball = head.face_region("eyeballs").numpy()
    seen = int((ball[shown] & (shown >= 0)).sum())
    open_seen = rasterize(head.template, head.faces, camera).face
    whole = int((ball[open_seen] & (open_seen >= 0)).sum())
    assert whole > 1000
    assert seen < (0.75 if strength == 0.5 else 0.05) * whole


def test_the_mouth_opens_and_shows_what_is_inside(head):
    side = 240
    target = torch.tensor([0.0, -0.05, 0.09])
    camera = orbit_camera(0.0, 0.0, 1.0, target, 8.0 * side, side, side)
    inside = (head.face_region("mouth_interior") | head.face_region("teeth")).numpy()

    def seen(vertices):
        face = rasterize(vertices, head.faces, camera).face
        return int((inside[face] & (face >= 0)).sum())

    assert seen(head.template) < 40
    assert seen(expressed(head, jawOpen=1.0)) > 2000


def test_lips_stay_shut_over_an_open_jaw(head):
    """jawOpen with mouthClose keeps the lips together, as ARKit means it."""
    inside = (head.face_region("mouth_interior") | head.face_region("teeth")).numpy()
    camera = orbit_camera(0.0, 0.0, 1.0, torch.tensor([0.0, -0.06, 0.09]), 2000.0, 240, 240)
    face = rasterize(expressed(head, jawOpen=0.5, mouthClose=0.5), head.faces, camera).face
    assert int((inside[face] & (face >= 0)).sum()) < 600


def edge_lengths(head, vertices, region):
    """(E,) lengths in metres of the edges that lie in a region of vertices."""
    edges = (
        torch.cat([head.faces[:, [0, 1]], head.faces[:, [1, 2]], head.faces[:, [2, 0]]]).sort(1).values.unique(dim=0)
    )
    edges = edges[region[edges].all(1)]
    return (vertices[edges[:, 0]] - vertices[edges[:, 1]]).norm(dim=-1)


def test_vertices_are_dense_where_expressions_happen(head):
    for region, most in (("eyes", 0.0025), ("lips", 0.003), ("face", 0.004)):
        assert edge_lengths(head, head.template, head.regions[region]).median() < most
    for place in ((0.03, 0.05, 0.09), (0.045, -0.01, 0.08), (0.032, -0.03, 0.09), (0.0, -0.08, 0.1)):
        near = (head.template - torch.tensor(place)).norm(dim=-1) < 0.015
        assert edge_lengths(head, head.template, near).median() < 0.006
    assert edge_lengths(head, head.template, head.regions["scalp"]).median() > 0.008


def outer_skin(head):
    inner = head.regions["eyeballs"] | head.regions["teeth"] | head.regions["mouth_interior"]
    return ~inner


def test_expressions_combine_without_tearing(head):
    """Six expressions at full strength, whichever: few sharp folds appear, and no edge becomes a long thread."""
    skin = outer_skin(head)
    faces = head.faces[skin[head.faces].all(-1)]
    corners = {}
    for number, face in enumerate(faces.tolist()):
        for a, b in ((0, 1), (1, 2), (2, 0)):
            corners.setdefault(tuple(sorted((face[a], face[b]))), []).append(number)
    pairs = torch.tensor([pair for pair in corners.values() if len(pair) == 2])

    def folded(vertices):
        a, b, c = (vertices[faces[:, k]] for k in range(3))
        normals = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
        return (normals[pairs[:, 0]] * normals[pairs[:, 1]]).sum(-1) < -0.2

    random = torch.Generator().manual_seed(0)
    rest = folded(head.template)
    shares = []
    for _ in range(30):
        expression = torch.zeros(1, head.num_expr)
        expression[0, torch.randperm(head.num_expr, generator=random)[:6]] = 1.0
        vertices = head.shaped(head.zeros().replace(expr=expression))[0]
        shares.append(float((folded(vertices) & ~rest).float().mean()))
        assert edge_lengths(head, vertices, skin & ~head.regions["neck"]).max() < 0.032
    assert max(shares) < 0.005
    assert sum(shares) / len(shares) < 0.002


def random_faces(head, count, seed, **weights):
    random = torch.Generator().manual_seed(seed)
    expression = torch.zeros(1, head.num_expr)
    for name, weight in weights.items():
        expression[0, head.expression_names.index(name)] = weight
    for _ in range(count):
        shape = torch.randn(head.num_shape, generator=random).clamp(-2, 2)
        yield head.zeros().replace(shape=shape, expr=expression)


LIDS = [
    {"eyeBlinkLeft": 1.0}, {"eyeBlinkLeft": 0.5}, {"eyeBlinkLeft": 1.0, "eyeSquintLeft": 1.0},
    {"eyeBlinkLeft": 1.0, "eyeLookDownLeft": 1.0}, {"eyeBlinkLeft": 1.0, "browDownLeft": 1.0, "cheekSquintLeft": 1.0},
]  # fmt: skip


@pytest.mark.parametrize("weights", LIDS)
@pytest.mark.parametrize("gaze", [(0.0, 0.0), (0.0, 0.4), (0.3, -0.4)])
def test_lids_stay_outside_the_eyeballs_of_anyone(head, weights, gaze):
    """Other people, any gaze: no lid goes into the ball, cornea included, and a blink shows no more than a slit."""
    ball = head.face_region("eyeballs").numpy()
    radius, rise, angle = head.contacts.ball
    for params in random_faces(head, 4, 5, **weights):
        params = params.replace(eyes_pose=torch.tensor([[*gaze, 0.0] * 2]))
        vertices = head.vertices(params)[0]
        centre = head.joints(params)[JOINTS.index("left_eye")]
        axis = head.joint_transforms(params)[0, JOINTS.index("left_eye"), :3, 2]
        offset = vertices[head.contacts.lids[0]] - centre
        away = torch.acos((offset @ axis / offset.norm(dim=-1)).clamp(-1, 1)) / angle
        surface = radius * (1 + rise * torch.relu(1 - away**2) ** 2)
        allowed = head.contacts.clearance[0].clamp_max(0.0)
        assert (offset.norm(dim=-1) - surface - allowed).min() > -2e-5
        if weights["eyeBlinkLeft"] == 1.0:
            camera = orbit_camera(0.0, 0.0, 1.0, centre, 5000.0, 240, 240)
            face = rasterize(vertices, head.faces, camera).face
            slit = (ball[face] & (face >= 0)).sum(0) / 5.0
            assert np.percentile(slit, 95) <= 1.0, "millimetres"


@pytest.mark.parametrize("names", [
    ("mouthClose",), ("mouthShrugLower", "mouthPressLeft", "mouthPressRight"), ("mouthPucker", "mouthRollLower"),
    ("mouthFrownLeft", "mouthFrownRight", "mouthShrugLower", "mouthShrugUpper"), (),
])  # fmt: skip
def test_lips_touch_and_do_not_pass_through_each_other(head, names):
    lips = (head.contacts.jaw != 0).nonzero()[:, 0]
    for params in random_faces(head, 4, 6, **dict.fromkeys(names, 1.0)):
        gaps = head.contacts.gaps(head.shaped(params))[0, lips] - head.contacts.rest[lips]
        assert gaps.min() > -0.0025
        if not names:
            assert gaps.abs().max() < 0.0008


def test_the_jaw_joint_and_mouth_close_work_together(head):
    """The lips follow mouthClose as far as either jawOpen or the jaw joint opens the mouth."""
    index = head.expression_names.index("mouthClose")
    expression = torch.zeros(1, head.num_expr)
    expression[0, index] = 1.0
    alone = head.contacts.limited(expression, torch.zeros(1, 3))
    turned = head.contacts.limited(expression, head.contacts.opening * torch.tensor([[0.5, 0.0, 0.0]]))
    assert 0.05 < alone[0, index] < 0.2
    assert abs(turned[0, index] - alone[0, index] - 0.5) < 1e-5


def test_the_tongue_comes_out_between_the_lips(head):
    tongue = head.regions["mouth_interior"] & (
        head.expr_basis[head.expression_names.index("tongueOut")].norm(dim=-1) > 0
    )
    tip = head.template[tongue][:, 2].max()
    lips = head.template[head.regions["lips"]][:, 2].max()
    out = expressed(head, tongueOut=1.0, jawOpen=0.4)
    assert tip < lips - 0.008
    assert out[tongue][:, 2].max() > out[head.regions["lips"]][:, 2].max() + 0.003


def test_texture_islands_do_not_overlap(head):
    size = 1024
    uvs = (head.uvs * size).double().numpy()
    points = np.c_[uvs, np.ones(len(uvs))]
    camera = Camera(torch.eye(4), torch.eye(3), size, size)
    near = rasterize(points, head.faces_uv, camera).face
    far = rasterize(points, head.faces_uv.flip(0), camera).face
    assert (near[near >= 0] == len(head.faces_uv) - 1 - far[far >= 0]).all()
    assert (near >= 0).mean() > 0.85


def test_random_identities_stay_smooth(head):
    """No triangle of face or scalp turns inside out under modes of identity."""
    random = torch.Generator().manual_seed(0)
    kept = head.face_region("face") | head.face_region("scalp")

    def normals(vertices):
        a, b, c = (vertices[head.faces[kept][:, k]] for k in range(3))
        return torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)

    rest = normals(head.template)
    for _ in range(5):
        params = head.zeros().replace(shape=torch.randn(head.num_shape, generator=random))
        turned = (normals(head.vertices(params)[0]) * rest).sum(-1)
        assert (turned < 0).float().mean() < 0.004


def test_the_mouth_stays_behind_the_lips_of_other_people(head):
    random = torch.Generator().manual_seed(1)
    inside = (head.face_region("mouth_interior") | head.face_region("teeth")).numpy()
    for yaw in (-0.7, 0.0, 0.7) * 3:
        params = head.zeros().replace(shape=torch.randn(head.num_shape, generator=random))
        camera = orbit_camera(yaw, 0.0, 1.0, torch.tensor([0.0, -0.05, 0.09]), 2000.0, 240, 240)
        face = rasterize(head.vertices(params)[0], head.faces, camera).face
        assert int((inside[face] & (face >= 0)).sum()) < 250


def test_the_back_of_the_head_is_round(head):
    camera = orbit_camera(math.pi, 0.0, 1.2, torch.tensor([0.0, 0.05, 0.0]), 500.0, 128, 128)
    normals = render_normals(head.template, head.faces, camera)
    assert normals[64, 64, 2] > 0.9
    assert np.abs(np.diff(normals[40:90, 50:78], axis=0)).max() < 0.2


def test_jaw_and_eyes_turn_about_their_joints(head):
    jaw, eyes = torch.tensor([[0.2, 0.0, 0.0]]), torch.tensor([[0.0, 0.3] + [0.0] * 4])
    params = head.zeros().replace(jaw_pose=jaw, eyes_pose=eyes)
    moved = head.vertices(params)[0] - head.template
    chin = head.regions["face"] & (head.template[:, 1] < -0.08) & (head.template[:, 2] > 0.09)
    assert moved[chin, 1].max() < -0.005
    assert moved[head.regions["scalp"]].norm(dim=-1).max() < 1e-4
    ball = head.skinning[:, JOINTS.index("left_eye")] == 1
    pupil = head.template[ball][:, 2].argmax()
    assert moved[ball][pupil, 0] > 0.003


def test_the_asset_is_what_the_landmarks_give(head):
    arrays = build_head(read_landmarks(LANDMARKS))
    built = head_from_arrays(arrays)
    assert built.faces.shape == head.faces.shape
    assert (built.faces == head.faces).float().mean() > 0.98
    torch.testing.assert_close(built.template, head.template, atol=1e-4, rtol=0)
    assert (built.shape_basis - head.shape_basis).abs().max() < 1e-4
    assert (built.expr_basis - head.expr_basis).abs().max() < 2e-4
