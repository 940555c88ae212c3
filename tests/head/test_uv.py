import numpy as np

from geodiff.head.builtin import load_builtin
from geodiff.head.uv import overlapping_texels, texel_map

SQUARE = np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]])


def test_two_halves_of_a_square_do_not_overlap():
    assert overlapping_texels(SQUARE, np.array([[0, 1, 2], [0, 2, 3]]), 64) == 0


def test_a_triangle_laid_over_another_is_counted():
    assert overlapping_texels(SQUARE, np.array([[0, 1, 2], [0, 1, 3]]), 64) > 500


def test_texels_know_their_triangle_and_place():
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    texels = texel_map(SQUARE, faces, 32)
    rows, columns = np.nonzero(texels.face >= 0)
    assert len(rows) > 0.6 * 32 * 32
    corners = SQUARE[faces[texels.face[rows, columns]]]
    places = (corners * texels.barycentrics[rows, columns][..., None]).sum(1)
    expected = np.stack([(columns + 0.5) / 32, 1 - (rows + 0.5) / 32], 1)
    np.testing.assert_allclose(places, expected, atol=1e-5)


def test_texels_outside_every_triangle_are_empty():
    texels = texel_map(SQUARE, np.array([[0, 1, 2]]), 16)
    assert texels.face[0, 0] == -1
    assert not texels.barycentrics[0, 0].any()


def test_the_builtin_head_has_no_overlap():
    head = load_builtin()
    assert overlapping_texels(head.uvs.numpy(), head.faces_uv.numpy(), 512) == 0
    assert head.uvs.min() >= 0 and head.uvs.max() <= 1


def test_the_builtin_layout_is_not_mirrored():
    head = load_builtin()
    corners = head.uvs[head.faces_uv[head.face_region("face")]]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    assert (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0] > 0).all()
