"""The main job on a real photograph: portrait -> clip set -> avatar -> video, and one contact sheet of all of it.

    python scripts/demo.py --out out/demo

Runs the three commands that a user would run, on the photograph of the astronaut Eileen Collins that comes with
scikit-image (NASA, public domain). Run again after an interruption, it goes on where it was.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from geodiff.clipset import ClipSet
from geodiff.media import read_image, write_image
from geodiff.motion import builtin_motion
from geodiff.sheets import contact_sheet
from geodiff.types import Drive
from recon.avatar import Avatar, render
from recon.cameras import view_camera
from recon.methods import load_avatar

#: Yaw and elevation in degrees of the avatar's renders in the sheet, and the expression each of them shows.
AVATAR_POSES = (
    (-30, 5, {}),
    (0, 0, {"jawOpen": 0.8}),
    (35, 0, {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9}),
    (15, 10, {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}),
)
BACK_POSES = ((90, 0, {}), (135, 0, {}), (180, 10, {}), (-110, 0, {"jawOpen": 0.5}))
SHEET_VIEWS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    parser.add_argument("--portrait", type=Path, help="another photograph than the bundled one")
    parser.add_argument("--preset", default="preview")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    portrait = out / "portrait.png"
    if options.portrait is not None:
        write_image(portrait, read_image(options.portrait))
    elif not portrait.exists():
        from skimage.data import astronaut

        write_image(portrait, astronaut())
    geodiff("generate", "--ref", portrait, "--out", out / "clips", "--preset", options.preset)
    geodiff("reconstruct", out / "clips", "--out", out / "avatar", "--preset", options.preset)
    geodiff(
        "animate", out / "avatar", "--drive", "builtin:talk", "--camera", "orbit",
        "--out", out / "talking.mp4", "--preset", options.preset,
    )  # fmt: skip
    write_image(out / "contact_sheet.png", demo_sheet(out))
    minutes = (time.monotonic() - started) / 60
    print(f"\nDone in {minutes:.1f} minutes. Look at {out / 'contact_sheet.png'} and {out / 'talking.mp4'}.")


def geodiff(*words: object) -> None:
    """Runs one command of the program, as a user would; its failure ends the demo with its exit code."""
    program = shutil.which("geodiff", path=str(Path(sys.executable).parent)) or "geodiff"
    command = [program, *map(str, words)]
    print(f"\n$ geodiff {' '.join(command[1:])}", flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def demo_sheet(out: Path) -> np.ndarray:
    """The contact sheet of a finished demo folder, (H, W, 3) uint8."""
    clips = ClipSet.open(out / "clips")
    reference = out / "clips" / "reference"
    tracked = [read_image(path) for path in (out / "portrait.png", reference / "overlay.png")]
    tracked += [read_image(reference / name, min_side=1) for name in ("image.png", "normals.png")]
    cameras = list(range(min(SHEET_VIEWS, clips.num_cameras)))
    # Each view shows another moment, so that the row shows expressions as well as views.
    moments = [round(i * (clips.num_timesteps - 1) / max(len(cameras) - 1, 1)) for i in range(len(cameras))]
    frames = [clips.frame(t, c) for t, c in zip(moments, cameras, strict=True)]
    names = [f"{t:05d}_{c:02d}.png" for t, c in zip(moments, cameras, strict=True)]
    proposals = [read_image(out / "clips" / "proposals" / name, min_side=1) for name in names]
    avatar = load_avatar(out / "avatar")
    return contact_sheet(
        [
            ("portrait, tracked mesh, reference crop, reference normals", tracked),
            ("proposals: the portrait carried by the mesh", proposals),
            ("generated views", [frame.image for frame in frames]),
            ("generated normals", [frame.normal for frame in frames if frame.normal is not None]),
            ("avatar: other views and expressions", avatar_renders(avatar, AVATAR_POSES)),
            ("avatar: sides and back", avatar_renders(avatar, BACK_POSES)),
        ]
    )


def avatar_renders(avatar: Avatar, poses: tuple[tuple[float, float, dict[str, float]], ...]) -> list[np.ndarray]:
    """Renders of the avatar, one for each (yaw, elevation, ARKit weights); degrees."""
    images = []
    for yaw, elevation, weights in poses:
        still = builtin_motion("neutral", 1)
        shown = replace(still, weights=still.weights | {name: np.array([value]) for name, value in weights.items()})
        drive = Drive(avatar.own(avatar.head.motion_params(shown, avatar.head.zeros())))
        with torch.no_grad():
            view = render(avatar, drive, view_camera(avatar, yaw, elevation, 256))
        images.append(view.rgb.cpu().numpy())
    return images


if __name__ == "__main__":
    main()
