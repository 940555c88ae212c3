"""The expression encoder by itself: it learns to read, and the generator's training takes it over."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from model_helpers import tiny
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset
from training_helpers import quick, write_set

from geodiff.conditioning import face_camera, head_frame
from geodiff.errors import AssetError, ConfigError, InputError
from geodiff.files import read_npz, write_npz
from geodiff.geometry import orbit_camera, project
from geodiff.head.builtin import load_builtin
from geodiff.models.expression_encoder import ExpressionEncoder
from geodiff.models.networks import build_networks
from geodiff.tracking.aligned import Aligned
from geodiff.tracking.calibration import load_calibration
from geodiff.training.augment import AugmentConfig
from geodiff.training.dataset import HELD_OUT_EVERY
from geodiff.training.faces import DRIVING_REACH, KEPT_PIXELS, SHOWN_FILE, face_file, movements, write_shown
from geodiff.training.loop import train_task
from geodiff.training.reading import ExpressionCrops, ReadingConfig, reading_figures
from geodiff.training.run import DataConfig, run_stage, stage_config
from geodiff.training.stages import with_encoder
from geodiff.training.tasks import ENCODER_FILE, ReadingTask


class Bars(Dataset[dict[str, Tensor]]):
    """Crops in which two bars are as bright as two expressions are strong."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        expression = torch.rand(1, 2, generator=torch.Generator().manual_seed(index))
        crop = torch.zeros(1, 3, 16, 16)
        crop[..., :8, :], crop[..., 8:, :] = expression[0, 0] * 2 - 1, expression[0, 1] * 2 - 1
        return {"driving": crop, "expression": expression}


def reading_task() -> ReadingTask:
    torch.manual_seed(0)
    encoder = ExpressionEncoder(tokens=2, width=8, channels=(8, 8), bottleneck=8, crop=16)
    return ReadingTask(encoder, torch.tensor([0.29, 0.29]), ReadingConfig(AugmentConfig(strength=0.0)))


def test_tokens_learn_to_tell_expressions(tmp_path: Path) -> None:
    crops = Bars()
    batch = torch.utils.data.default_collate([crops[i] for i in range(100, 132)])
    before = reading_figures(reading_task().objective, batch)
    task = reading_task()
    train_task(task, crops, quick(steps=150, batch=16, lr=5e-3), tmp_path)
    after = reading_figures(task.objective, batch)
    assert before["unexplained"] > 0.9
    assert after["unexplained"] < 0.4
    assert after["token_spread"] > 0.1


def test_a_run_goes_on_where_it_was_and_its_encoder_is_taken_over(tmp_path: Path) -> None:
    data, out = write_set(tmp_path / "set", (0, 1)), tmp_path / "run"
    config = stage_config("expression", "test", ["steps=2", "sheet_every=0"])
    run_stage(config, DataConfig([data]), out)
    weights = run_stage(dataclasses.replace(config, steps=3), DataConfig([data]), out)
    assert len((out / "log.csv").read_text().splitlines()) == 4

    networks = build_networks(tiny())
    networks.expression_encoder.null.data.fill_(0.25)
    before = networks.expression_encoder.squeeze.weight.clone()
    with_encoder(networks, weights)
    assert not torch.equal(networks.expression_encoder.squeeze.weight, before)
    assert torch.equal(networks.expression_encoder.null, torch.full_like(networks.expression_encoder.null, 0.25))
    assert all(parameter.requires_grad for parameter in networks.expression_encoder.parameters())
    with pytest.raises(AssetError, match="do not fit"):
        with_encoder(build_networks(tiny(encoder=dataclasses.replace(tiny().encoder, tokens=3))), weights)


def test_an_encoder_may_stay_as_it_was_taught(tmp_path: Path) -> None:
    data = write_set(tmp_path / "set", (0, 1))
    taught = run_stage(
        stage_config("expression", "test", ["steps=1", "sheet_every=0"]), DataConfig([data]), tmp_path / "taught"
    )
    names = ["steps=2", "sheet_every=0", f"encoder={taught}", "encoder_fixed=true", "ema_decay=0.1"]
    weights = run_stage(stage_config("images", "test", names), DataConfig([data]), tmp_path / "run")
    before, after = (load_file(folder / ENCODER_FILE) for folder in (taught, weights))
    assert all(torch.equal(before[name].float(), after[name].float()) for name in before if name != "null")
    # Null tokens, where they are learned, still are; and what is trained cannot change within a run.
    networks = with_encoder(build_networks(tiny()), None, fixed=True)
    learned = networks.expression_encoder.null.requires_grad
    others = [p.requires_grad for name, p in networks.expression_encoder.named_parameters() if name != "null"]
    assert not any(others) and learned == build_networks(tiny()).expression_encoder.null.requires_grad
    released = ["steps=3", *names[1:3], "ema_decay=0.1"]
    with pytest.raises(InputError, match="go on in another folder with start="):
        run_stage(stage_config("images", "test", released), DataConfig([data]), tmp_path / "run")
    with pytest.raises(ConfigError, match="neither `encoder` nor `start`"):
        stage_config("images", "test", ["encoder_fixed=true"])


def write_faces(folder: Path, people: int) -> Path:
    write_npz(folder / SHOWN_FILE, shown=np.array([[0.0, 0.003], [0.001, 0.0]], np.float32))
    for person in range(people):
        crops = np.full((3, KEPT_PIXELS, KEPT_PIXELS, 4), person, np.uint8)
        write_npz(face_file(folder, person), crop=crops, expression=np.array([[person, -person]] * 3, np.float32))
    return folder


def test_photographed_faces_are_read_by_person(tmp_path: Path) -> None:
    folder = write_faces(tmp_path, HELD_OUT_EVERY + 1)
    seen, held = ExpressionCrops([folder]), ExpressionCrops([folder], "held_out")
    assert (len(seen), len(held)) == (3 * HELD_OUT_EVERY, 3)
    for crops, index, person in ((seen, 4, 1), (held, 0, HELD_OUT_EVERY - 1), (seen, len(seen) - 1, HELD_OUT_EVERY)):
        sample = crops[index]
        torch.testing.assert_close(sample["driving"], torch.full((1, 3, 64, 64), person / 127.5 - 1))
        # One movement, of which the expressions of all people are multiples.
        away = (person - HELD_OUT_EVERY / 2) / np.arange(HELD_OUT_EVERY + 1).std()
        np.testing.assert_allclose(sample["expression"].abs(), [[abs(away), 0.0]], atol=1e-4)
    assert seen.spread.tolist() == [seen.spread[0].item()] * 2
    write_npz(face_file(folder, 0), crop=np.zeros((3, 8, 8, 4), np.uint8))
    with pytest.raises(InputError, match="make the photographs anew"):
        ExpressionCrops([folder])
    (write_faces(folder, 1) / SHOWN_FILE).unlink()
    with pytest.raises(InputError, match="what expressions show"):
        ExpressionCrops([folder])


def test_movements_count_as_much_as_they_move() -> None:
    """Of two expressions that vary alike, the one that moves three times as much is the first movement."""
    expressions = np.random.default_rng(0).normal(size=(4000, 2)).astype(np.float32)
    told = movements(expressions, np.array([[0.001, 0.0, 0.0], [0.0, 0.0, 0.003]], np.float32))
    assert np.abs(np.corrcoef(told[:, 0], expressions[:, 1])[0, 1]) > 0.999
    np.testing.assert_allclose(told.std(0), [1, 1 / 3], rtol=0.05)


def test_what_expressions_show_comes_from_the_people_s_head(tmp_path: Path) -> None:
    head = load_builtin()
    write_shown(tmp_path, head)
    shown = read_npz(tmp_path / SHOWN_FILE)["shown"].reshape(head.num_expr, -1, 3)
    assert head.landmarks is not None
    opened = shown[head.expression_names.index("jawOpen")]
    assert np.linalg.norm(opened, axis=1).argmax() in np.flatnonzero(opened[:, 1] < -0.005)


def test_crops_of_photographed_faces_are_those_that_the_encoder_is_driven_with() -> None:
    """The face as large and in the same place as in `face_camera`'s crop, from the front."""
    head, calibration = load_builtin(), load_calibration()
    assert calibration is not None
    params = head.zeros()
    frame = head_frame(head, params)
    camera = orbit_camera(0.0, 0.0, 1.2, frame.center, 1200.0, 512, 512)
    crop = face_camera(head, params, camera, 64)
    marks = head.landmark_points(params)[0]
    points, depth = project(marks, crop)
    z = ((depth - depth.mean()) * crop.K[0, 0] / depth.mean()).numpy()
    aligned = Aligned.of(points.numpy(), z, calibration.mean)
    assert 32 / aligned.size == pytest.approx(DRIVING_REACH, rel=0.03)
    assert np.abs(aligned.inside(np.array([[32.0, 32.0]]))).max() < 0.1


def test_only_synthetic_sets_tell_expressions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="synthetic sets alone"):
        ExpressionCrops([tmp_path])
    with pytest.raises(InputError, match="held_out"):
        ExpressionCrops([write_set(tmp_path / "set", (0, 1))], "held_out")
