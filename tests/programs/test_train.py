"""Test train.py: output files, effects of settings and error messages."""

import json
import os

import pytest
import torch
import torch.nn.functional as F
import yaml
from photos import class_folders
from program import (
    STEPS,
    VIT,
    at_step,
    differences,
    lose_the_reader,
    run,
    tiny,
    train,
    validate_as,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.data.datasets import DATASETS, read_digits
from src.inference.predictor import Predictor
from src.runs.checkpoint import load
from src.runs.results import read_metrics, read_results

RESULTS = set(
    """
    dataset model parameters epochs images_seen seed val_accuracy test_accuracy test_loss checkpoint
    checkpoint_epoch train_seconds images_per_second device precision torch
    """.split()
)
TIMES = ("train_seconds", "images_per_second")


def without_times(run) -> dict:
    return {key: value for key, value in read_results(run).items() if key not in TIMES}


def checkpoint(run, name: str = "last") -> dict:
    return load(run / "checkpoints" / f"{name}.ckpt")


def evaluate(run, name: str) -> dict:
    """Return a checkpoint's test accuracy and uncalibrated loss, computed with the `Predictor`."""
    images, labels = read_digits("test")
    predictor = Predictor(run / "checkpoints" / f"{name}.ckpt", "cpu")
    predictor.classifier.temperature = 1.0
    probabilities = predictor.probabilities(images)
    accuracy = (probabilities.argmax(1) == labels).double().mean()
    loss = F.nll_loss(probabilities.log(), labels)
    return {"test_accuracy": float(accuracy), "test_loss": float(loss)}


def assert_tested(run, name: str, rel: float = 1e-4) -> None:
    found = read_results(run)
    assert found["checkpoint"] == f"{name}.ckpt"
    for key, value in evaluate(run, name).items():
        assert found[key] == pytest.approx(value, rel=rel), key


# Output files -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repeated(digits_run, tmp_path_factory):
    """Program result and directory of a run that uses only the config.yaml of `digits_run`."""
    runs = tmp_path_factory.mktemp("repeated")
    ended = train("--config", digits_run / "config.yaml", "--runs", runs)
    assert ended.code == 0, ended
    return ended, runs / "digits" / "version_0"


def test_results(digits_run):
    found = read_results(digits_run)
    assert set(found) >= RESULTS
    expected = {
        "dataset": "digits",
        "model": "ViT",
        "epochs": 2,
        "seed": 0,
        "images_seen": 2 * STEPS * 128,
        "test_images": 359,
        "precision": "32-true",
        "torch": torch.__version__,
    }
    assert {key: found[key] for key in expected} == expected
    assert "cpu" in found["device"]
    speed = found["images_seen"] / found["train_seconds"]
    assert found["images_per_second"] == pytest.approx(speed, rel=0.05)
    network = Predictor(digits_run / "checkpoints" / "best.ckpt", "cpu").classifier.network
    assert found["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert_tested(digits_run, "best")


def test_the_config_alone_repeats_a_run(digits_run, repeated):
    other = repeated[1]
    assert without_times(other) == without_times(digits_run)
    ours, theirs = (checkpoint(one)["state_dict"] for one in (digits_run, other))
    assert differences(ours, theirs) == []


def test_the_next_commands_are_printed(repeated):
    ended, run = repeated
    assert ended.err == ""
    assert f"Test accuracy {read_results(run)['test_accuracy']:.4f}" in ended.out
    assert f"classify.py IMAGE --ckpt {run}" in ended.out
    assert f"--logdir {run.parents[1]}" in ended.out
    assert f"train.py --resume {run}" in ended.out
    assert "note: " not in ended.out


def test_note_on_an_incomplete_test(tmp_path):
    flags = ["--data.eval_batch_size", 100, "--trainer.limit_test_batches", 2]
    ended = train(*tiny(tmp_path, *flags, epochs=1))
    assert "(best.ckpt, epoch 1; only the first 200 of 359 images" in ended.out
    assert read_results(tmp_path / "digits" / "version_0")["test_images"] == 200


def test_metrics_are_in_the_table_and_in_tensorboard(digits_run):
    training = EventAccumulator(str(digits_run)).Reload()
    validation = EventAccumulator(str(digits_run / "val")).Reload()
    rows = read_metrics(digits_run)
    assert [row["step"] for row in rows] == [str(STEPS), str(2 * STEPS)]
    curves = {
        "train_loss": (training, "curves/loss"),
        "train_accuracy": (training, "curves/accuracy"),
        "val_loss": (validation, "curves/loss"),
        "val_accuracy": (validation, "curves/accuracy"),
        "val_balanced_accuracy": (validation, "curves/balanced_accuracy"),
    }
    for name, (events, tag) in curves.items():
        values = [event.value for event in events.Scalars(tag)]
        assert values == pytest.approx([float(row[name]) for row in rows], rel=1e-4), name
    assert len(validation.Tags()["scalars"]) == 3
    sections = {tag.split("/")[0] for tag in training.Tags()["scalars"]}
    assert sections == {"curves", "rate", "steps", "summary"}
    rates = [event.value for event in training.Scalars("rate/learning_rate")]
    assert len(rates) == len(training.Scalars("steps/loss")) == 2 * STEPS
    assert rates[STEPS] == max(rates) == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(1e-5)


def test_digits_are_learned(tmp_path):
    """Train with the config's recipe for 10% of its epochs; chance-level accuracy is 0.10."""
    flags = """
    --config configs/digits.yaml
    --trainer.max_epochs 6
    --model.warmup_epochs 1
    --trainer.accelerator cpu
    --pictures false
    --runs
    """
    ended = train(*flags.split(), tmp_path)
    assert ended.code == 0, ended
    assert read_results(tmp_path / "digits" / "version_0")["test_accuracy"] > 0.35


# Checkpoint selection -----------------------------------------------------------------------------


def test_the_best_checkpoint_is_tested_not_the_last(tmp_path):
    best = run(tmp_path, epochs=3, prepare=(validate_as, 0.4, 0.6, 0.5))
    assert checkpoint(best, "best")["epoch"] == 1
    assert checkpoint(best, "last")["epoch"] == 2
    found = read_results(best)
    assert found["checkpoint_epoch"] == 2
    assert found["val_accuracy"] == pytest.approx(0.6)
    assert_tested(best, "best")
    assert found["test_loss"] != pytest.approx(evaluate(best, "last")["test_loss"], rel=1e-3)


def test_without_validation_the_last_checkpoint_is_tested(tmp_path):
    whole = run(tmp_path, "--data.val_fraction", 0, "--patience", "null")
    assert not (whole / "checkpoints" / "best.ckpt").exists()
    assert read_results(whole)["val_accuracy"] is None
    assert read_results(whole)["images_seen"] == 2 * (1438 // 128) * 128
    assert_tested(whole, "last")


def test_only_a_validated_epoch_can_be_the_best(tmp_path):
    seldom = run(tmp_path, "--trainer.check_val_every_n_epoch", 2, epochs=3)
    validated = [bool(row["val_accuracy"]) for row in read_metrics(seldom)]
    assert validated == [False, True, False]
    assert checkpoint(seldom, "best")["epoch"] == 1
    assert read_results(seldom)["checkpoint_epoch"] == 2


# Settings -----------------------------------------------------------------------------------------


def test_flags_override_the_config_and_are_written(tmp_path):
    flags = ["--model.depth", 1, "--data.batch_size=100", "--name", "other"]
    other = run(tmp_path, *flags, epochs=1)
    config = yaml.safe_load((other / "config.yaml").read_text())
    assert other.parent.name == config["name"] == "other"
    assert config["model"]["init_args"]["depth"] == 1
    assert config["data"]["init_args"]["batch_size"] == 100
    assert checkpoint(other)["hyper_parameters"]["network"]["depth"] == 1
    assert read_metrics(other)[0]["step"] == "12"


IMAGES = "--data.patch_size null"
KINDS = {
    f"--model CNN {IMAGES} --model.dropout 0.1 --model.optimizer adam": STEPS,
    f"--model.stem_layers 2 {IMAGES} --model.pool sequence --model.optimizer muon": STEPS,
    "--model.ema_decay 0 --trainer.accumulate_grad_batches 3": 4,
    "--data.workers 1 --trainer.precision bf16-mixed --model.freeze encoder": STEPS,
}


@pytest.mark.parametrize("flags", KINDS)
def test_every_kind_of_model_and_training(tmp_path, flags):
    kind = "CNN" if "CNN" in flags else "ViT"
    made = run(tmp_path, *flags.split(), epochs=1, model=VIT if kind == "ViT" else [])
    assert read_results(made)["model"] == kind
    assert read_results(made)["images_seen"] == STEPS * 128
    assert checkpoint(made)["global_step"] == KINDS[flags]
    assert_tested(made, "best", rel=0.02)  # bf16 is less precise


def test_own_images_are_trained_on_like_a_named_dataset(tmp_path):
    """Check that training on class folders gives the same results as on CIFAR-10 files."""
    info = DATASETS["cifar10"]
    folder = class_folders(tmp_path / "cifar10", info.classes, (32, 32), train=26, test=2)
    flags = ["--data.patch_size", 16, "--data.augment.flip", "true", "--data.augment.erase", 0.5]
    named = ["--data", "CIFAR10DataModule", "--data.root", tmp_path]
    own = ["--data", "FolderDataModule", "--data.root", folder]
    for key in ("image_size", "mean", "std"):
        own += [f"--data.{key}", json.dumps(getattr(info, key))]
    ours = run(tmp_path / "own", *own, *flags)
    theirs = run(tmp_path / "named", *named, *flags)
    assert without_times(ours) == without_times(theirs)
    assert differences(checkpoint(ours)["state_dict"], checkpoint(theirs)["state_dict"]) == []


# Failures -----------------------------------------------------------------------------------------


def test_a_lost_reader_of_stdout_ends_the_program_quietly(tmp_path):
    ended = train(*tiny(tmp_path), prepare=(at_step, 14, lose_the_reader))
    assert ended.code == 141
    assert ended.err == ""
    stopped = tmp_path / "digits" / "version_0"
    assert checkpoint(stopped)["global_step"] == STEPS
    resumed = train("--resume", stopped)
    assert resumed.code == 0, resumed
    assert len(read_metrics(stopped)) == 3


def hide_the_compiler(cache) -> None:
    import torch._inductor.config

    torch._inductor.config.cpp.cxx = ("no-such-compiler",)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)


def test_a_missing_compiler_is_one_line(tmp_path):
    prepare = (hide_the_compiler, tmp_path / "cache")
    error = train(*tiny(tmp_path, "--model.compile", "true"), prepare=prepare).error
    assert "model.compile: compilation failed (" in error
    assert error.endswith("--model.compile false\n")


def ask_for_too_much_memory() -> None:
    from src.training.classifier import Classifier

    Classifier.training_step = lambda *_: torch.empty(2**60, dtype=torch.uint8)


def test_too_little_memory_is_one_line(tmp_path):
    error = train(*tiny(tmp_path, epochs=1), prepare=(ask_for_too_much_memory,)).error
    assert "out of memory (" in error
    assert error.endswith("use a smaller --data.batch_size or network\n")
