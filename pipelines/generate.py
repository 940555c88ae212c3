"""From one portrait to a clip set: track, condition, generate view by view, write.

Views are finished one after the other and written at once, so a run that is killed goes on with the first view that is
missing; each view draws its noise from its own seed, so the result does not depend on where it was interrupted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from geodiff.clipset import ClipSetSpec, ClipSetWriter
from geodiff.clipset.layout import INDEXINGS
from geodiff.conditioning import crop_reference, framed_camera, head_frame
from geodiff.config import choose
from geodiff.errors import ConfigError
from geodiff.geometry import project
from geodiff.head.model import HeadModel
from geodiff.media import read_image, write_image
from geodiff.models.networks import Networks
from geodiff.models.runtime import RuntimeConfig
from geodiff.models.sampling import SamplingConfig
from geodiff.normals import find_estimator, with_estimated_normals
from geodiff.normals import resolve as resolve_normals
from geodiff.tracking.overlay import draw_overlay
from geodiff.tracking.track import Track, track_image
from geodiff.types import Camera, HeadParams
from pipelines.foreground import Finish
from pipelines.motion import DRIVE_CROPS, HEAD_POSES, DriveSequence, resolve_drive
from pipelines.viewpoints import Viewpoint, select_viewpoints
from pipelines.views import (
    PRECISIONS,
    Generation,
    Job,
    ViewMaker,
    load_networks,
    make_views,
    make_views_on,
)

#: Share of the scalp that lies above the photograph from which a notice tells that hair is made up.
MUCH_CUT = 0.4
#: Called with the stage's name and how much of it is done, 0..1.
Progress = Callable[[str, float], None]


@dataclass
class GenerateConfig:
    """Everything about a generation but the portrait.

    image_size: side of the frames, pixels; 0 takes the size that the networks were trained at. networks: what
    `load_networks` takes. drive, head_pose, drive_crop: see `resolve_drive`. indexing: see `geodiff.clipset`.
    save_proposals: keep the proposals beside the frames.
    keep_visible, deviation, detail: how much frames take of the proposal, see `Finish`.
    normals: of the reference, "mesh" for the fitted mesh's, an ONNX file that estimates them (DAViD's), or "auto" for
    such a file in the cache folder where there is one. precision: of the denoiser, "auto" or a name in PRECISIONS;
    auto is bf16 on a GPU and fp32 elsewhere. runtime: how the networks run, which changes results by rounding only.
    """

    image_size: int = 0
    views: int = 12
    frames: int = 16
    drive: str = "builtin:range_of_motion"
    head_pose: str = "fixed"
    drive_crop: str = "photo"
    networks: str = "bundled:preview"
    indexing: str = "multiview"
    save_proposals: bool = True
    keep_visible: float = 0.0
    deviation: float = 1.0
    detail: float = 0.0
    normals: str = "mesh"
    precision: str = "auto"
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ConfigError(f"frames must be at least 1, got {self.frames}: 16 is usual")
        if self.image_size < 0:
            raise ConfigError(f"image_size must be 0 or more, got {self.image_size}: 0 takes the networks' own size")
        for name, alone in (("keep_visible", 0), ("deviation", 1), ("detail", 0)):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} must lie between 0 and 1, got {value}: {alone} leaves frames alone")
        select_viewpoints(self.views)
        choose("indexing", self.indexing, INDEXINGS)
        choose("head_pose", self.head_pose, HEAD_POSES)
        choose("drive_crop", self.drive_crop, DRIVE_CROPS)
        choose("precision", self.precision, ("auto", *PRECISIONS))

    @property
    def finish(self) -> Finish:
        return Finish(self.keep_visible, self.deviation, self.detail)

    def resolved_precision(self, device: str) -> str:
        """A name in PRECISIONS."""
        if self.precision != "auto":
            return self.precision
        return "bf16" if device.startswith("cuda") else "fp32"


def generate(
    ref: Path,
    out: Path,
    config: GenerateConfig,
    *,
    head: HeadModel,
    head_spec: str = "builtin",
    face: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    devices: tuple[str, ...] = (),
    preset: str = "preview",
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> Path:
    """Writes the clip set of a portrait to `out` and returns its path.

    ref: image file. face: which face where there are several, 0 is the largest; None takes the largest and says so.
    devices: share the views, a process for each; none for `device` alone.
    Raises the errors of `geodiff.errors` for input that cannot be used.
    """
    report = progress or (lambda stage, done: None)
    config = replace(config, normals=resolve_normals(config.normals))
    networks = load_networks(config.networks)
    size = config.image_size or networks.config.image_size
    if size % networks.autoencoder.factor:
        raise ConfigError(
            f"image_size must be a multiple of the autoencoder's factor {networks.autoencoder.factor}, not {size}"
        )
    report("track", 0.0)
    image = read_image(ref, note=notice)
    track = track_image(image, head, face_index=face)
    if track.num_faces > 1 and face is None and notice is not None:
        notice(
            f"{track.num_faces} faces were found and the largest is taken: choose another with "
            f"--face 0..{track.num_faces - 1}"
        )
    report("track", 1.0)
    plan = _prepare(image, track, head, size, config, notice)
    precision = config.resolved_precision(device)
    spec = ClipSetSpec(
        num_cameras=config.views,
        num_frames=plan.drive.params.num_frames,
        fingerprint=_fingerprint(image, track, plan.drive, config, seed, networks, precision),
        preset=preset,
        indexing=config.indexing,
        fps=plan.drive.fps,
        expression_encoder=networks.expression_encoder.weights_hash(),
        head_spec=head_spec,
    )
    # Refuses a folder of another run, so nothing is written before it.
    writer = ClipSetWriter(out, spec, head)
    writer.write_reference(plan.reference)
    write_image(out / "reference" / "portrait.png", image)
    write_image(out / "reference" / "overlay.png", draw_overlay(image, track, head))
    job = Job(
        plan, spec, config.networks, precision, config.runtime, config.sampling, config.finish,
        config.save_proposals, seed,
    )  # fmt: skip
    _write_views(writer, job, networks, devices or (device,), report)
    return writer.finish()


def _write_views(
    writer: ClipSetWriter, job: Job, networks: Networks, devices: tuple[str, ...], report: Progress
) -> None:
    """All views that are missing, and the expression tokens that drive them."""

    def told(done: float) -> None:
        report("generate", done)

    if len(devices) == 1:
        maker = ViewMaker.on(devices[0], job, networks)
        make_views(writer, maker, told)
    else:
        make_views_on(devices, writer, job, told)
        maker = ViewMaker.on("cpu", dataclasses.replace(job, precision="fp32", runtime=RuntimeConfig()), networks)
    repeats = job.spec.num_timesteps // job.spec.num_frames
    writer.write_expression(maker.latents.repeat(repeats, 1, 1))


def _prepare(
    image: np.ndarray,
    track: Track,
    head: HeadModel,
    size: int,
    config: GenerateConfig,
    notice: Callable[[str], None] | None,
) -> Generation:
    """The cropped reference, the driving sequence on its identity, and the cameras."""
    if notice is not None and cut_share(track.params, track.camera, head) > MUCH_CUT:
        notice("the photograph ends below the crown: the hair above is made up; one with the whole head is better")
    reference = crop_reference(image, track.matte, track.params, track.camera, head, size)
    if (estimator := find_estimator(config.normals)) is not None:
        reference, axes = with_estimated_normals(reference, estimator)
        if notice is not None:
            notice(f"the reference's normals are estimated ({axes.agreement:.2f} of 1 with the fitted head's)")
    drive = resolve_drive(config.drive, config.frames, head, reference.params, config.head_pose, config.drive_crop)
    frame = head_frame(head, reference.params)
    distance = float((reference.camera.center - frame.center).norm())
    cameras = tuple(_camera(view, frame, distance, size) for view in select_viewpoints(config.views))
    return Generation(head, reference, drive, cameras)


def cut_share(params: HeadParams, camera: Camera, head: HeadModel) -> float:
    """Share of a fitted head's scalp (T = 1), 0..1, that lies above its camera's picture."""
    if not head.regions["scalp"].any():
        return 0.0
    pixels, _ = project(head.vertices(params)[0][head.regions["scalp"]], camera)
    return float((pixels[:, 1] < 0).float().mean())


def _camera(view: Viewpoint, frame: Any, distance: float, size: int) -> Camera:
    return framed_camera(frame, view.yaw, view.elevation, distance, size)


def _fingerprint(
    image: np.ndarray,
    track: Track,
    drive: DriveSequence,
    config: GenerateConfig,
    seed: int,
    networks: Networks,
    precision: str,
) -> str:
    """Digest of all that decides what the frames look like; the fit stands for which face was chosen, the drive's
    parameters and crops for the content of its file."""
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes())
    settings = asdict(config) | {"precision": precision}
    del settings["save_proposals"], settings["runtime"]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(str(seed).encode())
    for params in (track.params, drive.params):
        for part in fields(params):
            value = getattr(params, part.name)
            digest.update(part.name.encode() + (b"" if value is None else value.cpu().contiguous().numpy().tobytes()))
    for tensor in (track.camera.viewmat, track.camera.K):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    digest.update(np.ascontiguousarray(drive.crops).tobytes())
    for _, module in networks.modules():
        for tensor in module.state_dict().values():
            digest.update(_sample_bytes(tensor))
    return digest.hexdigest()[:16]


def _sample_bytes(tensor: Tensor) -> bytes:
    """A few values and the size of a tensor: enough to tell other weights apart without hashing all of them."""
    flat = tensor.detach().reshape(-1)
    return str(tuple(tensor.shape)).encode() + flat[:: max(1, len(flat) // 64)].float().cpu().numpy().tobytes()
