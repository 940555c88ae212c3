import numpy as np
import torch

from geodiff.geometry import axis_angle_to_matrix, orbit_camera, project
from geodiff.head.builtin import load_builtin
from geodiff.head.model import LandmarkEmbedding
from geodiff.types import Motion


def some_params(head, frames=2):
    random = torch.Generator().manual_seed(0)

    def draw(*shape):
        return 0.1 * torch.randn(*shape, generator=random)

    return head.zeros(frames).replace(
        shape=10 * draw(head.num_shape), expr=draw(frames, head.num_expr), rotation=draw(frames, 3),
        translation=draw(frames, 3), neck_pose=draw(frames, 3), jaw_pose=draw(frames, 3), eyes_pose=draw(frames, 6),
    )  # fmt: skip


def with_landmarks(head):
    from dataclasses import replace

    triangles = torch.tensor([5, 900, 2500])
    weights = torch.tensor([[0.2, 0.3, 0.5]] * 3)
    return replace(head, landmarks=LandmarkEmbedding(torch.arange(3), triangles, weights))


def test_neutral_parameters_give_the_template():
    head = load_builtin()
    torch.testing.assert_close(head.vertices(head.zeros())[0], head.template, atol=1e-6, rtol=0)


def test_global_pose_is_rigid():
    head = load_builtin()
    rotation, translation = torch.tensor([[0.1, -0.4, 0.2]]), torch.tensor([[0.1, 0.0, -1.0]])
    params = head.zeros().replace(rotation=rotation, translation=translation)
    moved = head.vertices(params)[0]
    rotation = axis_angle_to_matrix(params.rotation[0])
    root = head.joints(params)[0]
    expected = (head.template - root) @ rotation.T + root + params.translation[0]
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


def test_landmark_points_agree_with_the_whole_mesh():
    head = with_landmarks(load_builtin())
    params = some_params(head).replace(static_offset=torch.full((head.num_vertices, 3), 0.01))
    direct = head.landmarks.points(head.vertices(params), head.faces)
    torch.testing.assert_close(head.landmark_points(params), direct, atol=1e-5, rtol=0)


def test_without_expression_the_jaw_is_shut_and_the_pose_kept():
    head = load_builtin()
    params = some_params(head)
    plain = head.vertices(params, expression=False, offsets=False)
    same = params.replace(expr=torch.zeros_like(params.expr), jaw_pose=torch.zeros_like(params.jaw_pose))
    torch.testing.assert_close(plain, head.vertices(same))


def test_canonical_head_looks_the_same_from_the_moved_camera():
    head = load_builtin()
    params = some_params(head, 1)
    camera = orbit_camera(0.3, 0.1, 1.0, torch.zeros(3), 300.0, 128, 128)
    still, moved = head.canonicalise(params, camera)
    assert not still.rotation.any() and not still.translation.any()
    before, _ = project(head.vertices(params)[0], camera)
    after, _ = project(head.vertices(still)[0], moved)
    torch.testing.assert_close(before, after, atol=2e-2, rtol=0)


def test_motion_reaches_named_expressions_gaze_and_pose():
    head = load_builtin()
    weights = {"jawOpen": np.array([0.0, 1.0]), "unknown": np.ones(2)}
    motion = Motion(weights, np.zeros((2, 3)), np.array([[0.2, 0.0]] * 2))
    params = head.motion_params(motion, head.zeros())
    assert params.expr[1, head.expression_names.index("jawOpen")] == 1
    assert params.expr[1].sum() == 1
    eyes = head.regions["eyeballs"]
    moved = head.vertices(params)[0] - head.template
    assert moved[eyes].norm(dim=-1).max() > 0.001


def test_gradients_reach_every_parameter():
    head = load_builtin()
    params = some_params(head, 1)
    names = ("shape", "expr", "rotation", "translation", "neck_pose", "jaw_pose", "eyes_pose")
    params = params.replace(**{name: getattr(params, name).clone().requires_grad_() for name in names})
    (head.vertices(params) ** 2).sum().backward()
    for name in names:
        assert getattr(params, name).grad.abs().sum() > 0, name


def test_the_hash_changes_with_the_mesh():
    from dataclasses import replace

    head = load_builtin()
    assert replace(head, template=head.template + 1e-3).hash != head.hash
    assert replace(head).hash == head.hash
    assert replace(head, joint_regressor=head.joint_regressor * 2).hash != head.hash
    assert replace(head, pose_basis=torch.zeros(36, head.num_vertices, 3)).hash != head.hash
