"""A small head with FLAME's widths, pictures of it, and files as other trackers write them.

The writers follow the formats' own descriptions and use NumPy alone, so that they share nothing with the readers.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from heads import ellipsoid_head
from PIL import Image

from geodiff.geometry import orbit_camera
from geodiff.head.model import HeadModel
from geodiff.raster.mesh import interpolate, rasterize
from geodiff.types import Camera, HeadParams

WIDTH, HEIGHT = 96, 80
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def flame_like(num_shape: int = 300, num_expr: int = 100) -> HeadModel:
    """The ellipsoid head under FLAME's name: its modes first, zeros up to FLAME's widths, small pose correctives."""
    head = ellipsoid_head(rows=24, columns=32)
    vertices = head.num_vertices
    generator = torch.Generator().manual_seed(5)
    shape, expr = torch.zeros(num_shape, vertices, 3), torch.zeros(num_expr, vertices, 3)
    shape[: head.num_shape], expr[: head.num_expr] = head.shape_basis, head.expr_basis
    names = tuple(f"expression{i:03d}" for i in range(num_expr))
    basis = 1e-3 * torch.randn(36, vertices, 3, generator=generator)
    return replace(head, name="flame", shape_basis=shape, expr_basis=expr, expression_names=names, pose_basis=basis)


def asymmetric(head: HeadModel) -> np.ndarray:
    """(V, 3) colours in which left, up and front differ."""
    low, high = head.template.min(0).values, head.template.max(0).values
    return ((head.template - low) / (high - low)).numpy()


def picture(vertices: torch.Tensor, head: HeadModel, camera: Camera) -> np.ndarray:
    """(H, W, 3) float32 of vertices (V, 3) in the camera, black outside."""
    return interpolate(rasterize(vertices, head.faces, camera), head.faces, asymmetric(head))


def some_params(head: HeadModel, frames: int = 3, seed: int = 1) -> HeadParams:
    """A turned, talking head half a metre or so below and behind the origin."""
    random = np.random.default_rng(seed)

    def rows(width: int, size: float) -> torch.Tensor:
        return torch.from_numpy(random.normal(0, size, (frames, width)).astype(np.float32))

    expr = torch.zeros(frames, head.num_expr)
    expr[:, :4] = torch.from_numpy(random.uniform(0, 1, (frames, 4)).astype(np.float32))
    shape = torch.zeros(head.num_shape)
    shape[:3] = torch.tensor([0.8, -0.6, 0.5])
    return HeadParams(
        shape=shape,
        expr=expr,
        rotation=torch.tensor([0.3, -0.4, 0.2]) + rows(3, 0.1),
        translation=torch.tensor([0.03, -0.02, -0.05]) + rows(3, 0.01),
        neck_pose=rows(3, 0.1),
        jaw_pose=rows(3, 0.05),
        eyes_pose=rows(6, 0.1),
    )


def some_cameras(count: int) -> list[Camera]:
    """Cameras around the head with differing intrinsics and principal points off the centre."""
    cameras = []
    for c in range(count):
        camera = orbit_camera(
            0.5 * c - 0.2, 0.15 * c, 0.9, torch.tensor([0.02, 0.0, 0.0]), 210.0 + 9 * c, WIDTH, HEIGHT
        )
        K = camera.K.clone()
        K[0, 2] += 3.5 - c
        K[1, 2] -= 2.25
        K[1, 1] *= 1.02
        cameras.append(replace(camera, K=K))
    return cameras


def rotation(vector: np.ndarray) -> np.ndarray:
    """Rodrigues' formula in NumPy: (3,) -> (3, 3)."""
    angle = np.linalg.norm(vector)
    if angle == 0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def write_vhap_export(
    folder: Path, params: HeadParams, cameras: list[Camera], first: int = 0, offset: np.ndarray | None = None
) -> None:
    """VHAP's layout: timesteps from `first` on, every camera sees all of them; random pictures and masks."""
    random = np.random.default_rng(0)
    for name in ("images", "fg_masks", "flame_param"):
        (folder / name).mkdir(parents=True)
    frames = []
    for i in range(params.num_frames):
        t = first + i
        values = {k: getattr(params, k)[i : i + 1].numpy() for k in POSES}
        static = {} if offset is None else {"static_offset": offset[None].astype(np.float32)}
        np.savez(folder / "flame_param" / f"{t:05d}.npz", shape=params.shape.numpy(), **values, **static)
        for c, camera in enumerate(cameras):
            size = (camera.height, camera.width)
            Image.fromarray(random.integers(0, 255, (*size, 3), np.uint8)).save(folder / f"images/{t:05d}_{c:02d}.png")
            Image.fromarray(random.integers(0, 255, size, np.uint8)).save(folder / f"fg_masks/{t:05d}_{c:02d}.png")
            fx, fy, cx, cy = (float(camera.K[k]) for k in ((0, 0), (1, 1), (0, 2), (1, 2)))
            frames.append({
                "timestep_index": t, "timestep_index_original": t, "timestep_id": f"frame_{t:05d}",
                "camera_index": c, "camera_id": f"2220000{c}",
                "cx": cx, "cy": cy, "fl_x": fx, "fl_y": fy, "h": size[0], "w": size[1],
                "camera_angle_x": 2 * np.arctan(size[1] / (2 * fx)),
                "camera_angle_y": 2 * np.arctan(size[0] / (2 * fy)),
                "transform_matrix": (np.linalg.inv(camera.viewmat.double().numpy()) @ FLIP).tolist(),
                "file_path": f"images/{t:05d}_{c:02d}.png", "fg_mask_path": f"fg_masks/{t:05d}_{c:02d}.png",
                "flame_param_path": f"flame_param/{t:05d}.npz",
            })  # fmt: skip
    zeros = {k: np.zeros_like(getattr(params, k)[:1].numpy()) for k in POSES}
    zeros["jaw_pose"] = np.array([[0.3, 0, 0]], np.float32)
    np.savez(folder / "canonical_flame_param.npz", shape=params.shape.numpy(), **zeros)
    write_lists(folder, frames)


POSES = ("expr", "rotation", "translation", "neck_pose", "jaw_pose", "eyes_pose")


def write_lists(folder: Path, frames: list[dict], names: tuple[str, ...] = ("", "_train", "_val", "_test")) -> None:
    """transforms.json and its splits: the last timestep is for the test, the last camera for validation."""
    last, view = max(f["timestep_index"] for f in frames), max(f["camera_index"] for f in frames)
    parts = {
        "": frames,
        "_test": [f for f in frames if f["timestep_index"] == last],
        "_val": [f for f in frames if f["timestep_index"] != last and f["camera_index"] == view and view > 0],
    }
    held = [id(f) for part in ("_test", "_val") for f in parts[part]]
    parts["_train"] = [f for f in frames if id(f) not in held]
    for name in names:
        shared = {k: frames[0][k] for k in ("cx", "cy", "fl_x", "fl_y", "h", "w", "camera_angle_x") if k in frames[0]}
        content = {"frames": parts[name], **shared, "timestep_indices": [], "camera_indices": []}
        (folder / f"transforms{name}.json").write_text(json.dumps(content))


def cap4d_vertices(head: HeadModel, fit: dict[str, np.ndarray], t: int) -> np.ndarray:
    """(V, 3) world vertices as CAP4D skins them, lids aside: joints without a chain, the whole about the origin."""
    array = lambda name: getattr(head, name).double().numpy()  # noqa: E731
    expr = np.zeros(head.num_expr)
    expr[: fit["expr"].shape[1] - 1] = fit["expr"][t, :-1]
    shape = np.zeros(head.num_shape)
    shape[: len(fit["shape"])] = fit["shape"]
    v = array("template") + np.einsum("s,svc->vc", shape, array("shape_basis"))
    v = v + np.einsum("e,evc->vc", expr, array("expr_basis"))
    joints = array("joint_regressor") @ v
    turns = np.stack([np.eye(3)] * 5)
    turns[0] = rotation(fit["neck_rot"][t]) if "neck_rot" in fit else np.eye(3)
    turns[3] = turns[4] = rotation(fit["eye_rot"][t])
    feature = (turns[[0, 2, 3, 4]] - 2 * np.eye(3)).reshape(-1)
    posed = v + np.einsum("p,pvc->vc", feature, array("pose_basis"))
    moved = sum(
        weight[:, None] * ((posed - joint) @ turn.T + joint)
        for weight, joint, turn in zip(array("skinning").T, joints, turns, strict=True)
    )
    return moved @ rotation(fit["rot"][t]).T + fit["tra"][t]


def cap4d_fit(frames: int = 3, cameras: list[Camera] | None = None, seed: int = 2) -> dict[str, np.ndarray]:
    """The arrays of a fit.npz; the cameras' worlds have y up, so the flip that CAP4D applies is taken out of extr."""
    random = np.random.default_rng(seed)
    cameras = some_cameras(2) if cameras is None else cameras
    shape, expr = np.zeros(150), np.zeros((frames, 65))
    shape[:3], expr[:, :4], expr[:, -1] = [0.8, -0.6, 0.5], random.uniform(0, 1, (frames, 4)), 0.3
    at = {"fx": (0, 0), "fy": (1, 1), "cx": (0, 2), "cy": (1, 2)}
    single = {
        "shape": shape, "expr": expr, "rot": [0.3, -0.4, 0.2] + random.normal(0, 0.1, (frames, 3)),
        "tra": [0.03, -0.02, -0.05] + random.normal(0, 0.01, (frames, 3)),
        "eye_rot": random.normal(0, 0.1, (frames, 3)),
        "extr": np.stack([c.viewmat.double().numpy() @ FLIP for c in cameras]),
        **{k: np.array([[float(c.K[place])] for c in cameras]) for k, place in at.items()},
    }  # fmt: skip
    return {
        **{k: np.asarray(v, np.float32) for k, v in single.items()},
        "resolutions": np.array([[c.height, c.width] for c in cameras]),
        "camera_order": np.array([f"cam{c}" for c in range(len(cameras))]),
        "fps": np.array(30),
    }


def pixel3dmm_frame(params: HeadParams, t: int, turn: np.ndarray, shift: np.ndarray, by_rows: bool = True) -> dict:
    """What one checkpoint holds. params: with the root at rest; turn (3, 3) and shift (3,) move the head."""

    def six(matrix: np.ndarray) -> np.ndarray:
        return (matrix[:2] if by_rows else matrix[:, :2].T).reshape(6)

    vectors = {k: getattr(params, k)[t].double().numpy() for k in POSES}
    eyes = np.concatenate([six(rotation(vectors["eyes_pose"][:3])), six(rotation(vectors["eyes_pose"][3:]))])
    flame = {
        "exp": vectors["expr"], "shape": params.shape.numpy(), "eyes": eyes, "eyelids": np.array([0.1, 0.2]),
        "jaw": six(rotation(vectors["jaw_pose"])), "neck": six(rotation(vectors["neck_pose"])), "R": six(turn),
        "R_rotation_matrix": turn, "t": shift,
    }  # fmt: skip
    camera = {
        "R_base_0": rotation(np.array([0.02, 0.05, 0.0])), "t_base_0": np.array([0.01, 0.0, -1.0]),
        "fl": np.array([3.0]), "pp": np.array([0.02, -0.03]),
    }  # fmt: skip
    rows = lambda part: {k: np.asarray(v, np.float32)[None] for k, v in part.items()}  # noqa: E731
    return {
        "flame": rows(flame), "camera": rows(camera), "img_size": np.array([256, 256]), "frame_id": t,
        "global_step": 7, "joint_transforms": np.zeros((1, 5, 4, 4), np.float32),
    }  # fmt: skip


def write_pixel3dmm(folder: Path, frames: list[dict]) -> Path:
    """The tracking folder with one checkpoint a frame."""
    (folder / "checkpoint").mkdir(parents=True)
    for t, frame in enumerate(frames):
        torch.save(frame, folder / "checkpoint" / f"{t:05d}.frame")
    return folder
