import csv
import dataclasses
from pathlib import Path

import pytest
import torch
from model_helpers import scrambled, tiny
from torch.utils.data import Dataset

from geodiff.errors import AssetError, ConfigError
from geodiff.models.networks import Networks, build_networks
from geodiff.training.checkpoint import checkpoints
from geodiff.training.loop import StepSampler, TrainConfig, Trainer, learning_rate, train
from geodiff.training.objective import LossConfig, Objective, clean_latents, prepare
from geodiff.training.sheet import figures, sample_batch
from geodiff.training.stages import networks_for

SIDE = 32


class RandomClips(Dataset[dict[str, torch.Tensor]]):
    """Smooth random frames under the dataset's names; the truth is the proposal moved towards the reference."""

    def __init__(self, length: int = 6, frames: int = 2) -> None:
        self.length, self.frames = length, frames

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)

        def smooth(*shape: int) -> torch.Tensor:
            coarse = torch.rand(*shape, 4, 4, generator=generator) * 1.6 - 0.8
            return torch.nn.functional.interpolate(coarse.reshape(-1, 1, 4, 4), size=(SIDE, SIDE)).reshape(
                *shape, SIDE, SIDE
            )

        reference, proposals = smooth(3), smooth(self.frames, 3)
        return {
            "reference_image": reference,
            "reference_normals": smooth(3),
            "reference_pose_map": smooth(3),
            "images": 0.5 * proposals + 0.5 * reference,
            "normals": smooth(self.frames, 3),
            "masks": torch.ones(self.frames, 1, SIDE, SIDE),
            "pose_maps": smooth(self.frames, 3),
            "proposals": proposals,
            "proposal_normals": smooth(self.frames, 3),
            "visibility": torch.ones(self.frames, 1, SIDE, SIDE) * 0.5,
            "driving": torch.rand(self.frames, 3, 64, 64, generator=generator) * 2 - 1,
        }


def batch_of(count: int = 2, frames: int = 2) -> dict[str, torch.Tensor]:
    data = RandomClips(frames=frames)
    return torch.utils.data.default_collate([data[i] for i in range(count)])


def quick(**changes: object) -> TrainConfig:
    defaults = TrainConfig(
        steps=6, batch=2, lr=2e-3, warmup=1, log_every=1, sheet_every=0, checkpoint_minutes=1e9, ema_decay=0.5
    )
    return dataclasses.replace(defaults, **changes)


def fresh(**changes: object) -> Networks:
    torch.manual_seed(0)
    return build_networks(tiny(**changes))


@pytest.mark.parametrize(("prediction", "motion"), [("sample", False), ("epsilon", True), ("v_prediction", False)])
def test_training_lowers_the_loss(tmp_path: Path, prediction: str, motion: bool) -> None:
    networks = fresh(prediction=prediction, proposal=prediction == "sample", motion=motion)
    loss = LossConfig(expression_drop=0, proposal_drop=0, augment=0)

    def fixed_loss() -> float:
        with torch.no_grad():
            return float(Objective(networks, loss)(batch_of(), torch.Generator().manual_seed(7))[0])

    before = fixed_loss()
    train(networks, RandomClips(2), quick(steps=16, loss=loss), tmp_path)
    assert fixed_loss() < 0.95 * before
    with (tmp_path / "log.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, 17))
    assert Networks.load(tmp_path / "weights").config == networks.config


def test_resume_is_bit_exact(tmp_path: Path) -> None:
    whole = train(fresh(), RandomClips(), quick(), tmp_path / "whole")
    config = quick()
    half = tmp_path / "half"
    half.mkdir()
    first = Trainer(fresh(), RandomClips(), config, half, None)
    for batch in first.loader:
        first._train_step(batch)
        if first.step == 3:
            break
    first.save()
    resumed = train(fresh(), RandomClips(), config, half)
    for name, tensor in whole.unet.state_dict().items():
        assert torch.equal(tensor, resumed.unet.state_dict()[name]), name


def test_time_limit_stops_with_a_checkpoint(tmp_path: Path) -> None:
    train(fresh(), RandomClips(), quick(max_minutes=1e-9), tmp_path)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-0000001"]
    train(fresh(), RandomClips(), quick(), tmp_path)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-0000001", "checkpoint-0000006"]
    with pytest.raises(AssetError, match="networks it began with"):
        train(fresh(motion=True), RandomClips(), quick(), tmp_path)


def test_sheets_and_validation_figures(tmp_path: Path) -> None:
    train(fresh(), RandomClips(), quick(steps=2, sheet_every=1, sheet_clips=2), tmp_path, held_out=RandomClips(3))
    assert (tmp_path / "sheets" / "0000002.png").stat().st_size > 1000
    with (tmp_path / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert float(rows[0]["psnr_proposal"]) == float(rows[1]["psnr_proposal"])


def test_untrained_network_gives_back_the_proposal() -> None:
    batch = batch_of()
    networks = fresh()
    generated = sample_batch(networks, batch, quick().sampling)
    torch.testing.assert_close(generated[:, 0], batch["proposals"], atol=1e-4, rtol=0)
    measured = figures(generated, batch)
    assert measured["psnr"] == pytest.approx(measured["psnr_proposal"], abs=0.01)
    perfect = figures(torch.stack((batch["images"], batch["normals"]), dim=1), batch)
    assert perfect["psnr"] > 90
    assert perfect["normal_degrees"] < 0.1


def test_bf16_step_and_pixel_terms_are_finite() -> None:
    networks = scrambled(tiny())
    objective = Objective(networks, LossConfig(pixel=1.0, gradient=1.0))
    with torch.autocast("cpu", torch.bfloat16):
        loss, parts = objective(batch_of(), torch.Generator().manual_seed(0))
    loss.backward()
    assert torch.isfinite(loss)
    assert {"image", "normal", "pixel", "gradient"} == set(parts)


def test_padded_frames_do_not_count() -> None:
    networks = scrambled(tiny())
    objective = Objective(networks, LossConfig())
    batch = batch_of() | {"frame_mask": torch.tensor([[1.0, 0.0], [1.0, 0.0]])}

    def loss_of(images: torch.Tensor) -> float:
        return float(objective(batch | {"images": images}, torch.Generator().manual_seed(0))[0].detach())

    padded = batch["images"].clone()
    padded[:, 1] = 0.3
    real = batch["images"].clone()
    real[:, 0] = 0.3
    assert loss_of(padded) == pytest.approx(loss_of(batch["images"]), rel=1e-5)
    assert loss_of(real) != pytest.approx(loss_of(batch["images"]), rel=1e-3)


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
def test_targets_stand_for_the_clean_latents(prediction: str) -> None:
    networks = fresh(prediction=prediction, proposal=False)
    objective = Objective(networks, LossConfig())
    latents = prepare(networks, batch_of()).latents
    noise, time = torch.randn_like(latents), torch.tensor([10, 700])
    noisy = objective.scheduler.add_noise(latents, noise, time)
    target = objective._target(latents, noise, time)
    torch.testing.assert_close(clean_latents(objective.scheduler, target, noisy, time), latents, atol=1e-4, rtol=1e-3)


def test_dropped_proposals_change_the_loss_and_everything_learns() -> None:
    networks = scrambled(tiny())
    generator = torch.Generator().manual_seed(0)
    loss, _ = Objective(networks, LossConfig(proposal_drop=1.0))(batch_of(), generator)
    other, _ = Objective(networks, LossConfig(proposal_drop=0.0))(batch_of(), torch.Generator().manual_seed(0))
    assert float(loss.detach()) != pytest.approx(float(other.detach()), rel=1e-4)
    loss.backward()
    for name, module in networks.trained().items():
        silent = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
        assert not silent, name


def test_second_stage_starts_as_the_first_one_ended(tmp_path: Path) -> None:
    scrambled(tiny()).save(tmp_path)
    flat, video = networks_for("images", tiny(), tmp_path), networks_for("clips", tiny(), tmp_path)
    batch = batch_of(frames=3)
    config = dataclasses.replace(quick().sampling, steps=2)
    torch.testing.assert_close(
        sample_batch(video, batch, config), sample_batch(flat, batch, config), atol=1e-3, rtol=1e-3
    )
    video.save(tmp_path / "video")
    with pytest.raises(ConfigError, match="cannot start from weights with temporal modules"):
        networks_for("images", tiny(), tmp_path / "video")
    with pytest.raises(ConfigError, match="stage must be one of images, clips"):
        networks_for("videos", tiny())


def test_weights_alone_go_on_after_their_moments_are_gathered(tmp_path: Path) -> None:
    networks = fresh()
    before = {name: tensor.clone() for name, tensor in networks.unet.state_dict().items()}
    config = quick(first_step=3, moment_warmup=2, steps=5)
    gathered = train(networks, RandomClips(), config, tmp_path / "gathered")
    assert all(torch.equal(tensor, before[name]) for name, tensor in gathered.unet.state_dict().items())
    config = dataclasses.replace(config, steps=6)
    assert [learning_rate(config, step) > 0 for step in (3, 4, 5)] == [False, False, True]
    resumed = train(fresh(), RandomClips(), config, tmp_path / "gathered")
    assert any(not torch.equal(tensor, before[name]) for name, tensor in resumed.unet.state_dict().items())


def test_schedule_and_data_order() -> None:
    config = TrainConfig(steps=100, warmup=10, lr=1.0, final_lr=0.1, batch=3, seed=1)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 10) == pytest.approx(1.0)
    assert learning_rate(config, 100) == pytest.approx(0.1)
    whole = list(StepSampler(5, config, 0))
    assert whole[40:] == list(StepSampler(5, config, 40))
    flat = [index for batch in whole for index in batch]
    assert sorted(flat[:5]) == sorted(flat[5:10]) == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="dataset is empty"):
        StepSampler(0, config, 0)
