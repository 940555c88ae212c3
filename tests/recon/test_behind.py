"""Drawn frames for the directions that no frame shows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from sample_clips import paint, picture, sample_camera, sample_clips

from geodiff.geometry import axis_angle_to_matrix
from geodiff.head.model import HeadModel
from geodiff.types import Camera, HeadParams
from recon.avatar import render
from recon.frames import FrameSet, collect
from recon.layers.behind import DIRECTIONS, BehindConfig, with_unseen_views
from recon.methods.geodiff4d import GeoDiff4DAvatar, GeoDiff4DConfig, fit_frames


def drawn(head: HeadModel, frames: FrameSet, texture: torch.Tensor | None = None) -> list[int]:
    return list(range(len(frames), len(with_unseen_views(head, frames, BehindConfig(), texture))))


def test_they_show_the_head_as_it_looks_from_there(small_head: HeadModel, frames: FrameSet) -> None:
    more = with_unseen_views(small_head, frames, BehindConfig())
    assert more.held_out == frames.held_out and torch.equal(more.images[: len(frames)], frames.images)
    for number in range(len(frames), len(more)):
        params = more.params.frame(int(more.steps[number]))
        image, mask, normals = picture(small_head, params, more.cameras[number], paint(small_head))
        known = more.masks[number].numpy() > 127
        assert (known == (mask > 127)).mean() > 0.97
        assert more.normals is not None
        both = (mask == 255) & (more.masks[number].numpy() == 255)
        error = (more.normals[number].numpy()[both].astype(float) - normals[both]) / 127.5
        assert abs(error).mean() < 0.02
        # Hair is dark and skin is not, though most of what is shown no frame saw.
        shown = torch.from_numpy(more.images[number].numpy()[both].astype("float32")).mean()
        assert abs(float(shown) - float(image[both].mean())) < 30


def test_no_direction_is_drawn_that_a_frame_shows(small_head: HeadModel, frames: FrameSet) -> None:
    ring = tuple(float(yaw) for yaw in range(-180, 180, 45))
    assert len(drawn(small_head, frames)) >= 4
    around = collect(sample_clips(small_head, 48, 1, ring), [])
    flat = [way for way in DIRECTIONS if abs(way[1]) < 30]
    assert len(drawn(small_head, around)) == len(DIRECTIONS) - len(flat)


def test_a_head_that_turns_shows_its_sides_to_one_camera(small_head: HeadModel) -> None:
    """Directions are the head's: a camera that stands still sees a back that is turned to it."""
    camera = sample_camera(0.0, 48)

    def turned(degrees: list[float]) -> FrameSet:
        params = small_head.zeros(len(degrees))
        turn = torch.zeros(len(degrees), 3)
        turn[:, 1] = torch.tensor(degrees).deg2rad()
        params = params.replace(rotation=turn)
        return seen_by_one(small_head, params, camera)

    still, turning = turned([0.0] * 4), turned([0.0, 90.0, 180.0, -90.0])
    assert len(drawn(small_head, turning)) < len(drawn(small_head, still))


def seen_by_one(head: HeadModel, params: HeadParams, camera: Camera) -> FrameSet:
    clip = sample_clips(head, 48, params.num_frames, (0.0,))[0]
    pictures = [picture(head, params.frame(t), camera, paint(head)) for t in range(params.num_frames)]
    for t, (image, mask, normals) in enumerate(pictures):
        clip.images[t], clip.masks[t] = image, mask
        assert clip.normals is not None
        clip.normals[t] = normals
    frames = collect([replace(clip, params=params, camera=camera)])
    return replace(frames, train=list(range(len(frames))), held_out=[])


@pytest.mark.parametrize("degrees", [0.0, 35.0])
def test_the_cameras_keep_the_lens_and_the_place_of_the_picture(small_head: HeadModel, degrees: float) -> None:
    turn = torch.tensor([[0.0, math.radians(degrees), 0.0]])
    params = small_head.zeros(1).replace(rotation=turn, translation=torch.tensor([[0.1, 0.0, -0.2]]))
    rest = sample_camera(0.0, 48)
    pose = torch.eye(4)
    pose[:3, :3], pose[:3, 3] = axis_angle_to_matrix(turn)[0], params.translation[0]
    frames = seen_by_one(small_head, params, replace(rest, viewmat=rest.viewmat @ torch.linalg.inv(pose)))
    more = with_unseen_views(small_head, frames, BehindConfig())
    size = float(frames.masks[0].float().mean())
    for number in range(len(frames), len(more)):
        assert float(more.cameras[number].K[0, 0]) == pytest.approx(float(rest.K[0, 0]))
        assert 0.6 < float(more.masks[number].float().mean()) / size < 1.5
        columns = (more.masks[number] > 127).any(0).nonzero()[:, 0]
        assert abs(float(columns.float().mean()) - 23.5) < 5


def test_the_portraits_texture_covers_what_no_frame_sees(small_head: HeadModel, frames: FrameSet) -> None:
    pale = torch.full((16, 16, 3), 0.3)
    plain, textured = (with_unseen_views(small_head, frames, BehindConfig(), t) for t in (None, pale))
    assert torch.equal(plain.masks, textured.masks) and not torch.equal(plain.images, textured.images)
    assert textured.images[len(frames) :][textured.masks[len(frames) :] == 0].min() == 255


def test_an_avatar_looks_the_better_from_behind(
    small_head: HeadModel, frames: FrameSet, quick: GeoDiff4DConfig, avatar: GeoDiff4DAvatar
) -> None:
    """Of a head whose back no frame shows, what the method guesses is closer to the truth than without drawn frames."""
    without = fit_frames(small_head, frames, replace(quick, behind=BehindConfig(enabled=False)))
    camera = sample_camera(-150.0, 48)
    image, mask, _ = picture(small_head, small_head.zeros(1), camera, paint(small_head))
    errors = []
    for made in (avatar, without):
        view = render(made, made.neutral(), camera)
        difference = (view.rgb.numpy() - image / 255.0) ** 2
        errors.append(difference.mean() + ((view.alpha[..., 0].numpy() - mask / 255.0) ** 2).mean())
    assert errors[0] < 0.95 * errors[1]


def test_clip_sets_without_masks_stay_as_they_are(small_head: HeadModel, frames: FrameSet) -> None:
    bare = replace(frames, has_masks=False)
    assert with_unseen_views(small_head, bare, BehindConfig()) is bare
