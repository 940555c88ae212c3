import csv
import dataclasses
from pathlib import Path

import pytest
import torch
from model_helpers import scrambled, tiny
from training_helpers import RandomClips, batch_of, fresh, quick

from geodiff.errors import AssetError, ConfigError
from geodiff.models.networks import Networks
from geodiff.training.augment import AugmentConfig, augment_crops
from geodiff.training.batches import StepSampler, batches
from geodiff.training.checkpoint import checkpoints
from geodiff.training.config import TrainConfig, learning_rate
from geodiff.training.draws import Draws
from geodiff.training.loop import Clock, Trainer, train, train_task
from geodiff.training.objective import LossConfig, Objective, clean_latents, prepare
from geodiff.training.reconstruction import ReconstructionConfig
from geodiff.training.run import stage_config
from geodiff.training.sheet import figures, sample_batch
from geodiff.training.stages import networks_for
from geodiff.training.tasks import AutoencoderTask, GeneratorTask


@pytest.mark.parametrize(("prediction", "motion"), [("sample", False), ("epsilon", True), ("v_prediction", False)])
def test_training_lowers_the_loss(tmp_path: Path, prediction: str, motion: bool) -> None:
    networks = fresh(prediction=prediction, proposal=prediction == "sample", motion=motion)
    loss = LossConfig(expression_drop=0, proposal_drop=0, augment=AugmentConfig(0))

    def fixed_loss() -> float:
        with torch.no_grad():
            return float(Objective(networks, loss)(batch_of(), Draws(7, range(2)))[0])

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
    first = Trainer(GeneratorTask(fresh(), config.loss), RandomClips(), config, half)
    source, clock = batches(RandomClips(), config, 0, first.share), Clock(0)
    for _ in range(3):
        first._train_step(source, clock)
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
        loss, parts = objective(batch_of(), Draws(0, range(2)))
    loss.backward()
    assert torch.isfinite(loss)
    assert {"image", "normal", "pixel", "gradient"} == set(parts)


def test_padded_frames_do_not_count() -> None:
    networks = scrambled(tiny())
    objective = Objective(networks, LossConfig())
    batch = batch_of() | {"frame_mask": torch.tensor([[1.0, 0.0], [1.0, 0.0]])}

    def loss_of(images: torch.Tensor) -> float:
        return float(objective(batch | {"images": images}, Draws(0, range(2)))[0].detach())

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
    loss, _ = Objective(networks, LossConfig(proposal_drop=1.0))(batch_of(), Draws(0, range(2)))
    other, _ = Objective(networks, LossConfig(proposal_drop=0.0))(batch_of(), Draws(0, range(2)))
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


def test_parts_of_a_step_add_up_to_it(tmp_path: Path) -> None:
    config = quick(steps=1, batch=4, lr=1e-3)
    whole = train(fresh(), RandomClips(), config, tmp_path / "whole").unet.state_dict()
    parts = train(fresh(), RandomClips(), dataclasses.replace(config, microbatch=1), tmp_path / "parts")
    before = fresh().unet.state_dict()
    moved = sum(float((whole[name] - before[name]).square().sum()) for name in whole)
    apart = sum(float((whole[name] - tensor).square().sum()) for name, tensor in parts.unet.state_dict().items())
    assert apart < 1e-3 * moved


def test_augmentation_is_per_clip_bounded_repeatable_and_configured() -> None:
    crops = (torch.rand(2, 1, 3, 32, 32) * 2 - 1).expand(2, 4, 3, 32, 32)
    first = augment_crops(crops, Draws(1, range(2)), AugmentConfig())
    torch.testing.assert_close(first, augment_crops(crops, Draws(1, range(2)), AugmentConfig()))
    torch.testing.assert_close(first[1:], augment_crops(crops[1:], Draws(1, [1]), AugmentConfig()))
    assert first.shape == crops.shape
    assert first.abs().max() <= 1
    assert (first[:, 0] - first[:, 1]).abs().mean() < 0.1, "frames of a clip share their augmentation"
    assert (first - crops).abs().mean() > 0.02
    still = AugmentConfig(zoom=0, roll=0, shift=0, blur=0, noise=0, contrast=0, saturation=0)
    brighter = augment_crops(crops * 0.5, Draws(1, range(2)), still) - crops * 0.5
    torch.testing.assert_close(brighter, brighter[:, :1, :1, :1, :1].expand_as(brighter), atol=1e-4, rtol=0)
    assert augment_crops(crops, Draws(1, range(2)), AugmentConfig(strength=0)) is crops
    with pytest.raises(ConfigError, match="at most 1"):
        AugmentConfig(strength=2)


def test_checkpointed_gradients_are_the_same() -> None:
    def gradients(checkpointed: bool) -> list[torch.Tensor]:
        networks = scrambled(tiny(motion=True))
        if checkpointed:
            GeneratorTask(networks, LossConfig()).prepare(quick(gradient_checkpointing=True))
        for module in networks.trained().values():
            module.train()
        Objective(networks, LossConfig())(batch_of(), Draws(0, range(2)))[0].backward()
        return [p.grad for p in networks.unet.parameters() if p.grad is not None]

    for plain, checkpointed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-5, rtol=1e-4)


def test_tensorboard_gets_losses_and_sheets(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = quick(steps=2, sheet_every=2, sheet_clips=1, tensorboard=True)
    train(fresh(), RandomClips(), config, tmp_path, held_out=RandomClips(1))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss", "grad_norm", "samples_per_second", "held out/psnr"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["held out"]


def test_an_autoencoder_is_trained_resumed_and_used(tmp_path: Path) -> None:
    config = stage_config("autoencoder", "test", ["steps=3", "lr=1e-3"])
    small = {"settings": {"encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8]}}
    small["settings"] |= {"num_encoder_blocks": [1, 1], "num_decoder_blocks": [1, 1]}
    for steps in (2, 3):
        torch.manual_seed(0)
        task = AutoencoderTask("tiny", small, config.reconstruction)
        train_task(task, RandomClips(), dataclasses.replace(config, steps=steps), tmp_path, RandomClips(2))
    with (tmp_path / "log.csv").open() as file:
        assert [float(row["kl"]) > 0 for row in csv.DictReader(file)] == [True] * 3
    networks = networks_for("images", tiny(), autoencoder=tmp_path / "weights")
    assert networks.config.autoencoder == "tiny"
    assert networks.autoencoder.factor == 2
    assert not any(parameter.requires_grad for parameter in networks.autoencoder.parameters())
    for name, tensor in networks.autoencoder.state_dict().items():
        assert torch.equal(tensor, task.autoencoder.state_dict()[name])
    with pytest.raises(ConfigError, match="fixed transform"):
        AutoencoderTask("wavelet", {}, config.reconstruction)


def test_kl_autoencoders_learn_too() -> None:
    settings = {"block_out_channels": [8, 8], "norm_num_groups": 4, "layers_per_block": 1}
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    task = AutoencoderTask("kl", {"settings": settings | kinds}, ReconstructionConfig())
    loss, parts = task.objective(batch_of(), Draws(0, range(2)))
    loss.backward()
    assert float(parts["kl"]) > 0
    assert all(p.grad is not None for p in task.parameters().values())
