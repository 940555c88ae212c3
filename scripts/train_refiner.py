"""Make the data of the second look at faces (`geodiff.tracking.refine`) and train its network, from nothing.

    python scripts/train_refiner.py ict:PATH/ict_facekit.npz --data DIR [--people 4000] [--epochs 20] [--name refiner]

Synthetic people are photographed, and the landmark detector is asked where their landmarks are (`refiner_lessons`); the
network learns what it misses once `calibration` has been applied, and how the heads are turned. The same command goes
on where it was stopped. The last people are held out and their errors are told.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from refiner_lessons import Lessons, collect, lessons
from refiner_movements import Looks, expression_movements, train_movements
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geodiff.assets import weights_folder, write_manifest
from geodiff.files import save_tensors
from geodiff.head import load_head
from geodiff.head.builtin import load_builtin
from geodiff.tracking.accuracy import TemplateOffset
from geodiff.tracking.calibration import load_calibration
from geodiff.tracking.refine import FILE, MOVEMENT, PIXELS, REACH, UPRIGHT, Refiner, RefinerNet, read_refiner
from geodiff.training.faces import KEPT_REACH

TO_PICTURE = torch.from_numpy(UPRIGHT).float()
#: Principal components of what the detector says and of its errors.
SAID, ERRORS = 40, 64
BATCH, HELD_OUT, DROP = 64, 100, 0.15
#: Steps after which training is kept, to go on from there.
KEPT = 500
RANGES = ((0, 10), (10, 30), (30, 50), (50, 70), (70, 95))


class Normalised(nn.Module):
    """A convolution with batch normalisation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class Trainee(RefinerNet):
    """`RefinerNet` with batch normalisation and dropout."""

    def __init__(self, inputs: int, modes: int) -> None:
        super().__init__(inputs, modes, Normalised, DROP)
        nn.init.zeros_(self.answer.weight)
        nn.init.zeros_(self.answer.bias)
        begin_turns(self)

    def folded(self) -> dict[str, torch.Tensor]:
        """The tensors of a `RefinerNet`, normalisation made part of the convolutions."""
        tensors = {k: v for k, v in self.state_dict().items() if not k.startswith("trunk")}
        for name, layer in self.named_modules():
            if isinstance(layer, Normalised):
                folded = fuse_conv_bn_eval(layer.conv, layer.norm)
                tensors |= {f"{name}.{key}": value for key, value in folded.state_dict().items()}
        return {name: value.detach() for name, value in tensors.items()}


def begin_turns(net: RefinerNet) -> None:
    """Have a network tell nothing of rotations yet, and say that it errs by 3 degrees."""
    last = net.rotation[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    nn.init.constant_(last.bias[-3:], math.log(0.05))


@dataclass(frozen=True)
class Tables:
    """What `Refiner` holds beside the network, and the mirrored landmark numbers (478,)."""

    centre: torch.Tensor
    basis: torch.Tensor
    modes: torch.Tensor
    mirror: torch.Tensor

    @staticmethod
    def stored(refiner: Refiner) -> Tables:
        """Those of a trained network."""
        arrays = (torch.from_numpy(a).float() for a in (refiner.centre, refiner.basis, refiner.modes))
        return Tables(*arrays, torch.from_numpy(refiner.calibration.mirror))

    @staticmethod
    def of(all_: Lessons, rows: torch.Tensor, mirror: np.ndarray) -> Tables:
        """Principal components of what the detector says and of its errors, with their mirror images."""
        said = all_.said[rows].numpy()
        some = np.random.default_rng(0).permutation(2 * len(said))[:3000]
        both = np.concatenate([said, mirrored(said, mirror)])[some].reshape(len(some), -1)
        centre = both.mean(0)
        _, spread, directions = np.linalg.svd(both - centre, full_matrices=False)
        basis = directions[:SAID] / (spread[:SAID, None] / np.sqrt(len(both)))
        error = (all_.true - all_.base)[rows].numpy()
        root = np.sqrt(np.repeat(all_.weights.numpy(), 2)) + 1e-9
        error = np.concatenate([error, mirrored(error, mirror)])[some].reshape(len(some), -1) * root
        # Hopeless faces must not own the components.
        length = np.maximum(np.linalg.norm(error, axis=1, keepdims=True), 0.03)
        modes = np.linalg.svd(error / np.sqrt(length), full_matrices=False)[2][:ERRORS]
        modes *= np.sqrt(((error @ modes.T) ** 2).mean(0))[:, None]
        modes = np.where(root > 1e-6, modes / root, 0)
        arrays = (torch.from_numpy(a.astype(np.float32)) for a in (centre, basis, modes))
        return Tables(*arrays, torch.from_numpy(mirror))


def mirrored(values: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """(N, 478, C) of the mirrored pictures."""
    return (values * ([-1, 1, 1][: values.shape[2]]))[:, mirror]


class Teacher:
    """Serves batches and tells errors."""

    def __init__(self, all_: Lessons, tables: Tables, seed: int = 0) -> None:
        self.all, self.tables = all_, tables
        self.random = torch.Generator().manual_seed(seed)

    def __call__(self, net: RefinerNet, rows: torch.Tensor, learning: bool) -> tuple[torch.Tensor, ...]:
        """Errors of the landmarks (B,) in units of the frame, and of the pose (B, 3) in radians that a fit makes of
        them; of the pose that the net tells (B, 3), and the logarithms (B, 3) of what the net says that these are.
        learning: with all that befalls photographs and detectors."""
        a, t, n = self.all, self.tables, len(rows)
        flip = torch.rand(n, generator=self.random) < (0.5 if learning else 0.0)
        axes, shift = self._slip(n) if learning else (torch.eye(2).expand(n, 2, 2), torch.zeros(n, 2))
        crops = self._crops(rows, axes, shift, learning)
        crops = torch.where(flip[:, None, None, None], crops.flip(3), crops)
        back = torch.tensor([-1.0, 1.0, 1.0])
        said = torch.where(flip[:, None, None], (a.said[rows] * back)[:, t.mirror], a.said[rows])
        inputs = self._inputs(said, rows)
        if learning:
            inputs = inputs + 0.05 * torch.randn(inputs.shape, generator=self.random)
        with torch.autocast("cpu", torch.bfloat16, enabled=learning):
            answer, turns, _ = (v.float() for v in net(crops.to(memory_format=torch.channels_last), inputs))
        moved = (answer @ t.modes).unflatten(1, (-1, 2))
        moved = torch.where(flip[:, None, None], (moved * back[:2])[:, t.mirror], moved)
        goal = a.true[rows] @ axes.transpose(1, 2) + shift[:, None] - a.base[rows]
        error = (moved - goal) * (a.weights > 0)[:, None]
        length = ((error**2).sum(2) @ a.weights + 1e-5).sqrt()
        further = torch.where(flip[:, None], turns[:, :3] * -back, turns[:, :3])
        turned = torch.eye(3).repeat(n, 1, 1)
        turned[:, :2, :2] = axes / torch.linalg.det(axes).sqrt()[:, None, None]
        away = rotations(further) @ a.facing[rows] @ TO_PICTURE @ (turned @ a.pose[rows]).transpose(1, 2)
        fitted = torch.einsum("nkj,nj->nk", a.turns[rows], error.flatten(1))
        return length, fitted, vectors(away), turns[:, 3:]

    def _inputs(self, said: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(B, K + 2) as `Refiner.inputs`; said: (B, 478, 3) what the detector says, mirrored or not."""
        sure = self.all.sureness[rows, None]
        return torch.cat([(said.flatten(1) - self.tables.centre) @ self.tables.basis.T, sure, sure**2], 1)

    def _slip(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Detectors slip: the picture is turned, scaled (B, 2, 2) and shifted (B, 2) beneath the landmarks, a little
        mostly, sometimes much."""
        g = self.random
        much = torch.where(torch.rand(count, generator=g) < 0.12, 5.0, 1.0)
        angle = much * math.radians(1.2) * torch.randn(count, generator=g)
        scale = torch.exp(much * 0.012 * torch.randn(count, generator=g))
        c, s = scale * torch.cos(angle), scale * torch.sin(angle)
        shift = much[:, None] * 0.015 * torch.randn(count, 2, generator=g)
        return torch.stack([torch.stack([c, -s], 1), torch.stack([s, c], 1)], 1), shift

    def _crops(self, rows: torch.Tensor, axes: torch.Tensor, shift: torch.Tensor, learning: bool) -> torch.Tensor:
        """(B, 1, 96, 96) as `refine.normalised` makes them; learning: with a camera's and a scene's accidents."""
        kept = self.all.crops[rows].float() / 255
        grey = torch.tensor([0.299, 0.587, 0.114]).expand(len(kept), 3)
        if learning:
            grey = (grey + 0.25 * torch.randn(grey.shape, generator=self.random)).clamp(0.02)
            grey = grey / grey.sum(1, keepdim=True)
        picture = torch.einsum("nhwc,nc->nhw", kept[..., :3], grey)[:, None]
        if learning:
            picture = self._before_others(picture, kept[..., 3][:, None])
        inverse = torch.linalg.inv(axes)
        place = torch.cat([inverse * (REACH / KEPT_REACH), -(inverse @ shift[..., None]) / KEPT_REACH], 2)
        grid = F.affine_grid(place, [len(kept), 1, PIXELS, PIXELS], align_corners=False)
        picture = F.grid_sample(picture, grid, padding_mode="border", align_corners=False)
        picture = self._spoiled(picture) if learning else picture
        mean, spread = picture.mean((2, 3), keepdim=True), picture.std((2, 3), keepdim=True)
        return (picture - mean) / (spread + 0.02)

    def _before_others(self, picture: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Some people before something else than their walls: parts of other pictures, larger and upside down."""
        rows = torch.nonzero(torch.rand(len(picture), generator=self.random) < 0.3).flatten()
        other = picture[rows - 1].flip(2)[:, :, :68, :68]
        other = F.interpolate(other, size=picture.shape[2:], mode="bilinear")
        picture[rows] = picture[rows] * mask[rows] + other * (1 - mask[rows])
        return picture

    def _spoiled(self, picture: torch.Tensor) -> torch.Tensor:
        """Gamma, uneven light, blur, coarse pixels, noise, and things before the face."""
        g, n = self.random, len(picture)

        def some(share: float) -> torch.Tensor:
            return torch.nonzero(torch.rand(n, generator=g) < share).flatten()

        picture = picture.clamp(1e-3, 1) ** torch.exp(0.35 * torch.randn(n, 1, 1, 1, generator=g))
        along, slope = torch.linspace(-1, 1, PIXELS), 0.35 * torch.randn(2, n, 1, 1, 1, generator=g)
        picture = picture * torch.exp(slope[0] * along + slope[1] * along[:, None])
        for size, share in ((3, 0.3), (5, 0.12)):
            rows = some(share)
            padded = F.pad(picture[rows], (size // 2,) * 4, mode="replicate")
            picture[rows] = F.avg_pool2d(padded, size, 1)
        rows = some(0.1)
        picture[rows] = F.interpolate(F.avg_pool2d(picture[rows], 2), size=(PIXELS, PIXELS), mode="bilinear")
        strength = 0.15 * torch.rand(n, 1, 1, 1, generator=g) ** 3
        picture = picture + strength * torch.randn(picture.shape, generator=g)
        for row in some(0.35).tolist():
            height, width = torch.randint(5, 28, (2,), generator=g).tolist()
            top, left = torch.randint(0, PIXELS - 5, (2,), generator=g).tolist()
            patch = picture[row, 0, top : top + height, left : left + width]
            grain = 0.1 * float(torch.rand(1, generator=g)) * torch.randn(patch.shape, generator=g)
            patch.copy_(torch.rand(1, generator=g) + grain)
        return picture

    def looks(self, net: RefinerNet, rows: torch.Tensor) -> Looks:
        """What `Refiner` has of photographs (B,) before it asks how they move."""
        with torch.no_grad():
            parts = [[self._look(net, part, flip) for flip in (False, True)] for part in rows.split(128)]
        known, moved = ([torch.cat([part[flip][i] for part in parts]) for flip in (0, 1)] for i in (0, 1))
        back, mirror, base = torch.tensor([-1.0, 1.0]), self.tables.mirror, self.all.base[rows]
        points = base + (moved[0] + (moved[1] * back)[:, mirror]) / 2
        return Looks(known[0], known[1], points, (points * back)[:, mirror])

    def _look(self, net: RefinerNet, rows: torch.Tensor, flip: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N) what a photograph's or its mirror image's answers are concluded from, and (B, 478, 2) the landmarks'
        corrections."""
        a, t, n = self.all, self.tables, len(rows)
        crops, said = self._crops(rows, torch.eye(2).expand(n, 2, 2), torch.zeros(n, 2), learning=False), a.said[rows]
        if flip:
            crops, said = crops.flip(3), (said * torch.tensor([-1.0, 1.0, 1.0]))[:, t.mirror]
        answer, _, known = net(crops, self._inputs(said, rows))
        return known, (answer @ t.modes).unflatten(1, (-1, 2))

    def tell(self, net: RefinerNet, rows: torch.Tensor) -> str:
        """Mean errors by head angle: landmarks in percent of the frame's unit; mean turns in degrees by the landmarks,
        and of the pose itself with its median."""
        with torch.no_grad():
            parts = [self(net, part, learning=False) for part in rows.split(128)]
        length, fitted, turn, said = (torch.cat(values) for values in zip(*parts, strict=True))
        fits, degrees, yaw, cells = *(torch.rad2deg(v.norm(dim=1)) for v in (fitted, turn)), self.all.yaw[rows], []
        for low, high in RANGES:
            here = (yaw >= low) & (yaw < high)
            figures = (100 * length[here].mean(), fits[here].mean(), degrees[here].mean(), degrees[here].median())
            cells.append(f"{low}-{high}: " + "{:.1f}%, {:.2f}, {:.2f} ({:.2f})".format(*figures))
        axes = ", ".join(f"{value:.2f}" for value in torch.rad2deg(turn.abs().median(0).values))
        match = float(torch.corrcoef(torch.stack([said.mean(1), (turn.norm(dim=1) + 1e-3).log()]))[0, 1])
        return "; ".join(cells) + f"; about x, y, z {axes}; the error's forecast correlates by {match:.2f}"


def rotations(vectors: torch.Tensor) -> torch.Tensor:
    """(B, 3, 3) of rotation vectors (B, 3) (Rodrigues)."""
    angle = (vectors**2).sum(1).add(1e-12).sqrt()[:, None, None]
    cross = torch.linalg.cross(torch.eye(3)[None], vectors[:, None], dim=2)
    return torch.eye(3) + torch.sinc(angle / math.pi) * cross + (1 - angle.cos()) / angle**2 * (cross @ cross)


def vectors(rotations: torch.Tensor) -> torch.Tensor:
    """(B, 3) of the rotations' axes, as long as the chords of their angles, in radians."""
    twice = torch.stack(
        [rotations[:, (i + 2) % 3, (i + 1) % 3] - rotations[:, (i + 1) % 3, (i + 2) % 3] for i in range(3)], 1
    )
    # 2 sin(angle / 2) instead of sin(angle), which shrinks again beyond a right angle.
    cosine = (rotations.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    return twice / (2 * (1 + cosine).clamp(0.02)).sqrt()[:, None]


def train(
    net: RefinerNet, teacher: Teacher, rows: torch.Tensor, held: torch.Tensor, epochs: float, minutes: float, kept: Path
) -> RefinerNet:
    """A network whose weights are the means over the last steps. kept: file of a training that was stopped."""
    net = net.to(memory_format=torch.channels_last)
    mean = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.997), use_buffers=True
    )
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.02)
    parts = {"net": net, "mean": mean, "optimizer": optimizer}
    steps, began, step, spent, done, reported = int(epochs * len(rows) / BATCH), time.time(), 0, 0.0, 0.0, 0.0
    if kept.is_file():
        earlier = torch.load(kept, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(earlier[name])
        step, spent = earlier["step"], earlier["spent"]
    while done < 1:
        for batch in rows[torch.randperm(len(rows), generator=teacher.random)].split(BATCH)[: len(rows) // BATCH or 1]:
            done = max(step / steps, (spent + time.time() - began) / (60 * minutes))
            rate = 2e-3 * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * min(done, 1.0)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = objective(*teacher(net, batch, learning=True))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            mean.update_parameters(net)
            step += 1
            if step % KEPT == 0:
                state = {name: part.state_dict() for name, part in parts.items()}
                torch.save(state | {"step": step, "spent": spent + time.time() - began}, kept)
            if done >= 1:
                break
        if done - reported > 0.1 or done >= 1:
            reported = done
            mean.eval()
            print(f"step {step}, {spent + time.time() - began:.0f} s: {teacher.tell(mean.module, held)}", flush=True)
    trained = mean.module
    assert isinstance(trained, RefinerNet)
    return trained.eval()


def objective(length: torch.Tensor, fitted: torch.Tensor, turn: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """What is made small, of what `Teacher` tells: the lengths of errors rather than their squares, for faces whose
    landmarks are meaningless; and the forecasts' misfit (Laplace)."""
    poses = sum(((value**2).sum(1) + 1e-5).sqrt().mean() / 0.04 for value in (fitted, turn))
    said = said.clamp(-6, 1)
    forecast = (turn.detach().abs() / said.exp() + said).mean()
    return length.mean() / 0.03 + poses + 0.1 * forecast


def known_but_turns(refiner: Refiner) -> RefinerNet:
    """A trained network of which what tells the head's rotation alone is to be learned."""
    begin_turns(refiner.net)
    refiner.net.requires_grad_(False).rotation.requires_grad_(True)
    return refiner.net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", help="head model of the people: ict:PATH, builtin, flame:PATH")
    parser.add_argument("--data", type=Path, required=True, help="folder for the people's photographs")
    parser.add_argument("--people", type=int, default=4000)
    parser.add_argument("--jobs", type=int, default=2, help="processes that make photographs")
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--minutes", type=float, default=60, help="training ends after these at the latest")
    parser.add_argument(
        "--only", choices=("turns", "movements"), help="train what tells the head's rotation, or the face's movement, "
        "alone, and leave the rest as it is",
    )  # fmt: skip
    parser.add_argument("--name", default="refiner", help="of the bundled weights, or a folder to write to")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    calibration = load_calibration()
    assert calibration is not None
    truth = load_head(options.truth)
    rest = TemplateOffset.between(load_builtin(), truth).rotation
    samples = collect(options.truth, options.people, options.data, options.jobs)
    all_ = lessons(samples, calibration, rest)
    known = all_.person < options.people - HELD_OUT
    rows, held = (torch.nonzero(which).flatten() for which in (known, ~known))
    folder = Path(options.name) if "/" in options.name else weights_folder() / options.name
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{len(rows)} photographs to learn from, {len(held)} to judge by", flush=True)
    movements: dict[str, torch.Tensor] = {}
    net: RefinerNet
    if options.only:
        earlier = read_refiner(folder / FILE)
        net, tables, movements = earlier.net, Tables.stored(earlier), earlier.movement_tensors()
    else:
        tables = Tables.of(all_, rows, calibration.mirror)
        net = Trainee(len(tables.basis) + 2, len(tables.modes))
    teacher = Teacher(all_, tables)
    if options.only != "movements":
        net = known_but_turns(earlier) if options.only else net
        kept = options.data / f"training-{folder.name}{'-turns' if options.only else ''}.pt"
        net = train(net, teacher, rows, held, options.epochs, options.minutes, kept)
        kept.unlink(missing_ok=True)
    if options.only != "turns":
        order = torch.cat([rows, held])
        goals, looks = expression_movements(samples["expression"], truth, rest)[order], teacher.looks(net.eval(), order)
        movements = train_movements(looks, goals, len(rows), tables.mirror, all_.yaw[held])
    tensors = net.folded() if isinstance(net, Trainee) else net.state_dict()
    tensors |= {"centre": tables.centre, "basis": tables.basis, "modes": tables.modes}
    tensors |= {MOVEMENT + name: value for name, value in movements.items()}
    save_tensors(folder / FILE, {name: value.half() for name, value in tensors.items()})
    if "/" not in options.name:
        write_manifest()
    print(f"{(folder / FILE).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
