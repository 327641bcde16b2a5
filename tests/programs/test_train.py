"""train.py as a whole: what a run leaves behind, what its settings do, and one line for every mistake."""

import csv
import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import program
import pytest
import short
import torch
import yaml
from short import ROOT, SETTINGS, STEPS, VIT
from src.training.stop import Stop
from src.inference.predictor import Predictor

from src import classifier
from src.data.modules import DigitsDataModule

RESULTS = {
    "dataset", "model", "parameters", "epochs", "images_seen", "seed", "val_accuracy", "test_accuracy", "test_loss",
    "checkpoint", "checkpoint_epoch", "train_seconds", "images_per_second", "device", "precision", "torch",
}  # fmt: skip
TIMES = {"train_seconds", "images_per_second"}


def results(run):
    return json.loads((run / "results.json").read_text())


def metrics(run):
    with open(run / "metrics.csv") as file:
        return list(csv.DictReader(file))


def timeless(found):
    return {key: value for key, value in found.items() if key not in TIMES}


def weights(run, file="last"):
    return torch.load(run / "checkpoints" / f"{file}.ckpt", weights_only=True)


def same_weights(run, other):
    """Whether the last weights of two runs are equal bit for bit."""
    ours, theirs = weights(run)["state_dict"], weights(other)["state_dict"]
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def accuracy(run, file):
    """Accuracy of a checkpoint on the test images, computed by what classify.py uses."""
    module = DigitsDataModule()
    module.setup("test")
    images, labels = module.sets["test"].images, module.sets["test"].labels
    predictor = Predictor(run / "checkpoints" / f"{file}.ckpt", "cpu")
    return float((predictor.probabilities(images).argmax(1) == labels).double().mean())


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """One run of three epochs, for all that only look."""
    return short.run(tmp_path_factory.mktemp("first") / "runs", epochs=3)


# What a run leaves behind ----------------------------------------------------------------------------------------


def test_a_run_directory_holds_what_it_should(first):
    names = {path.name for path in first.iterdir()}
    assert first.name == "version_0" and first.parent.name == "digits"
    assert {"config.yaml", "metrics.csv", "results.json", "checkpoints"} <= names
    assert {path.name for path in (first / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert [name for name in names if name.startswith("events.out.tfevents")]
    assert not [path for path in first.rglob("*.tmp")]


def test_results_are_complete_and_true(first):
    found = results(first)
    assert set(found) >= RESULTS
    assert (found["dataset"], found["model"], found["epochs"], found["seed"]) == ("digits", "ViT", 3, 0)
    assert found["images_seen"] == 3 * STEPS * 64  # the last, smaller batch of an epoch is dropped
    assert found["images_seen"] / found["train_seconds"] == pytest.approx(found["images_per_second"], rel=0.05)
    assert found["torch"] == torch.__version__ and found["precision"] == "32-true" and "cpu" in found["device"]
    assert found["checkpoint"] == "best.ckpt" and found["test_loss"] > 0
    assert found["test_accuracy"] == pytest.approx(accuracy(first, "best"), abs=1e-6)
    network = Predictor(first / "checkpoints" / "best.ckpt", "cpu").network
    assert found["parameters"] == sum(parameter.numel() for parameter in network.parameters())


def test_metrics_have_a_row_an_epoch(first):
    rows = metrics(first)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [int(row["step"]) for row in rows] == [STEPS, 2 * STEPS, 3 * STEPS]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert all(0 <= float(row[key]) <= 1 for row in rows for key in ("train_accuracy", "val_accuracy"))


def test_its_config_alone_repeats_a_run(first, tmp_path):
    ended = short.train("--config", first / "config.yaml", "--runs", tmp_path)
    again = tmp_path / "digits" / "version_0"
    assert ended.code == 0 and timeless(results(again)) == timeless(results(first))
    assert same_weights(again, first)


def test_another_seed_gives_another_run(first, tmp_path):
    other = short.run(tmp_path, "--seed_everything", 1, epochs=3)
    assert results(other)["seed"] == 1 and not same_weights(other, first)


def test_tensorboard_finds_the_curves_and_the_final_metrics(first):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = EventAccumulator(str(first)).Reload()

    def values(tag):
        return [event.value for event in events.Scalars(tag)]

    for tag in ("train_loss", "train_accuracy", "val_loss", "images_per_second"):
        assert values(tag) == pytest.approx([float(row[tag]) for row in metrics(first)], rel=1e-4)
    assert values("val_accuracy")[:3] == pytest.approx([float(row["val_accuracy"]) for row in metrics(first)], rel=1e-4)
    assert len(values("train_loss_step")) == len(values("learning_rate")) == 3 * STEPS
    rates = values("learning_rate")
    assert rates[0] < rates[STEPS] == max(rates) == pytest.approx(0.01) and rates[-1] == pytest.approx(1e-5)
    final = results(first)
    for tag in ("test_accuracy", "test_loss", "val_accuracy"):
        assert values(tag)[-1] == pytest.approx(final[tag], rel=1e-4)
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["network.width"].number_value == 8 and hparams["lr"].number_value == 0.01


def test_what_to_type_next_is_printed(tmp_path):
    ended = short.train(*SETTINGS, *VIT, "--runs", tmp_path, "--trainer.max_epochs", 1)
    run = tmp_path / "digits" / "version_0"
    assert ended.err == "" and f"Test accuracy {results(run)['test_accuracy']:.4f}" in ended.out
    for command in (f"classify.py IMAGE --ckpt {run}", f"tensorboard --logdir {tmp_path}", f"train.py --resume {run}"):
        assert command in ended.out


def test_a_test_of_some_images_says_so(tmp_path, first):
    ended = short.train(*SETTINGS, *VIT, "--runs", tmp_path, "--trainer.max_epochs", 1, "--data.eval_batch_size", 100,
                        "--trainer.limit_test_batches", 2)  # fmt: skip
    assert "(best.ckpt, epoch 1; only 200 of 359 images" in ended.out
    assert results(tmp_path / "digits" / "version_0")["test_images"] == 200
    assert results(first)["test_images"] == 359


@pytest.mark.parametrize(("warmup", "noted"), [(3, False), (4, True), (9, True)])
def test_a_warm_up_that_never_ends_is_noted(tmp_path, warmup, noted):
    flags = ["--trainer.limit_train_batches", 2, "--trainer.limit_test_batches", 1, "--model.warmup_epochs", warmup]
    ended = short.train(*SETTINGS, *VIT, *flags, "--runs", tmp_path, "--trainer.max_epochs", 4)
    assert ended.code == 0 and ("note: the learning rate never reaches 0.01" in ended.out) == noted


# The choice of the checkpoint ------------------------------------------------------------------------------------


def test_the_best_validation_result_is_tested_not_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "learning_rate", lambda step, *rest: 0.01 if step < 2 * STEPS else 1.0)
    run = short.run(tmp_path, "--model.ema_decay", 0, epochs=3)
    assert [weights(run, file)["epoch"] for file in ("best", "last")] == [1, 2]
    found = results(run)
    assert found["checkpoint"] == "best.ckpt" and found["checkpoint_epoch"] == 2
    assert found["val_accuracy"] == pytest.approx(float(metrics(run)[1]["val_accuracy"]), abs=1e-6)
    assert found["test_accuracy"] == pytest.approx(accuracy(run, "best"), abs=1e-6)
    assert accuracy(run, "best") != accuracy(run, "last")


def test_without_validation_the_last_weights_are_tested(tmp_path):
    run = short.run(tmp_path, "--data.val_fraction", 0)
    assert not (run / "checkpoints" / "best.ckpt").exists()
    found = results(run)
    assert found["checkpoint"] == "last.ckpt" and found["val_accuracy"] is None and found["epochs"] == 2
    assert found["test_accuracy"] == pytest.approx(accuracy(run, "last"), abs=1e-6)
    assert found["images_seen"] == 2 * (1438 // 64) * 64


def test_only_an_epoch_that_was_validated_can_be_the_best(tmp_path):
    run = short.run(tmp_path, "--trainer.check_val_every_n_epoch", 2, epochs=3)
    assert [bool(row["val_accuracy"]) for row in metrics(run)] == [False, True, False]
    assert weights(run, "best")["epoch"] == 1 and results(run)["checkpoint_epoch"] == 2


# What settings do ------------------------------------------------------------------------------------------------


def test_patience_stops_a_training_that_no_longer_gets_better(tmp_path):
    still = ["--model.lr", "1e-12", "--model.min_lr", 0, "--model.ema_decay", 0]
    assert results(short.run(tmp_path, *still, "--patience", 2, epochs=6))["epochs"] == 3


def test_flags_override_the_config_and_stand_in_the_runs_own(tmp_path):
    run = short.run(tmp_path, "--model.depth", 1, "--data.batch_size=100", "--name", "other", epochs=1)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert run.parent.name == config["name"] == "other"
    assert config["model"]["init_args"]["depth"] == 1 and config["data"]["init_args"]["batch_size"] == 100
    assert weights(run)["hyper_parameters"]["network"]["depth"] == 1
    assert metrics(run)[0]["step"] == "12"


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ("--model.ema_decay 0", STEPS),
        ("--model CNN --data.patch_size null --model.dropout 0.1", STEPS),
        ("--model.stem_layers 2 --data.patch_size null --model.pool sequence --model.optimizer muon", STEPS),
        ("--trainer.accumulate_grad_batches 3", 7),
        ("--model.optimizer sgd --model.label_smoothing 0.1 --model.positions sincos --model.pool cls", STEPS),
        ("--data.workers 1 --trainer.precision bf16-mixed", STEPS),
        ("--model.freeze encoder --trainer.gradient_clip_val 0.1", STEPS),
    ],
)
def test_every_kind_of_model_and_training_runs(tmp_path, settings, steps):
    cnn = "CNN" in settings
    run = short.run(tmp_path, *settings.split(), epochs=1, model=[] if cnn else VIT)
    assert results(run)["model"] == ("CNN" if cnn else "ViT") and results(run)["images_seen"] == STEPS * 64
    assert weights(run)["global_step"] == steps
    assert results(run)["test_accuracy"] == pytest.approx(accuracy(run, "best"), abs=0.02)  # bf16 rounds


def test_a_fast_dev_run_leaves_no_results(tmp_path):
    short.run(tmp_path, "--trainer.fast_dev_run", "true")
    assert not list(tmp_path.rglob("*.ckpt")) and not list(tmp_path.rglob("results.json"))


def test_help_and_print_config_end_well(tmp_path):
    printed = short.train("--config", "configs/digits.yaml", "--model.depth", 2, "--print_config", "--runs", tmp_path)
    config = yaml.safe_load(printed.out)
    assert printed.code == 0 and config["model"]["init_args"]["depth"] == 2
    assert "seed_everything" in config and "patch_size" in config["data"]["init_args"]
    shown = short.train("--help")
    assert shown.code == 0 and "--resume" in shown.out and "--trainer.max_epochs" in shown.out
    assert not list(tmp_path.iterdir())


# What the machine cannot do --------------------------------------------------------------------------------------


def compile_with(compiler, cache):
    import torch._inductor.config

    torch._inductor.config.cpp.cxx = (compiler,)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)


@pytest.mark.skipif(not shutil.which("g++"), reason="on the CPU torch.compile needs a C++ compiler, g++")
def test_a_compiled_network_learns_the_same(tmp_path):
    settings = ["--model.dropout", 0, "--model.depth", 1, "--data.augment.mixup", 0, "--trainer.limit_train_batches", 2]
    for name, compiled in (("eager", "false"), ("compiled", "true")):
        flags = [*SETTINGS, *VIT, *settings, "--model.compile", compiled, "--runs", tmp_path, "--name", name]
        compiler = (compile_with, "g++", tmp_path / "cache")
        ended = program.Running(*flags, "--trainer.max_epochs", 1, prepare=compiler).end(180)
        assert ended.code == 0, ended.text
        assert (tmp_path / "cache").is_dir() == (compiled == "true")
    eager, compiled = (weights(tmp_path / name / "version_0")["state_dict"] for name in ("eager", "compiled"))
    assert eager.keys() == compiled.keys()
    for key in eager:
        torch.testing.assert_close(compiled[key], eager[key], rtol=1e-3, atol=1e-4)


def test_without_a_compiler_one_line_says_so(tmp_path):
    flags = program.tiny(tmp_path, "--model.compile", "true", epochs=1)
    ended = program.train(*flags, prepare=(compile_with, tmp_path / "nowhere", tmp_path / "cache"))
    assert "model.compile: the compiler failed (" in ended.error and ended.error.endswith("--model.compile false")


def test_a_part_of_no_batch_is_one_line(tmp_path):
    ended = short.train(*SETTINGS, *VIT, "--runs", tmp_path, "--trainer.limit_train_batches", 0.001)
    assert ended.code == 2 and ended.err.startswith("error: trainer: ") and len(ended.err.splitlines()) == 1


def ask_for_too_much_memory():
    classifier.ViT.training_step = lambda *_: torch.empty(2**60, dtype=torch.uint8)


def test_too_little_memory_is_said_in_one_line(tmp_path):
    ended = program.train(*program.tiny(tmp_path, epochs=1), prepare=(ask_for_too_much_memory,))
    assert "not enough memory (" in ended.error and ended.error.endswith("--data.batch_size or network")


# Two processes ---------------------------------------------------------------------------------------------------


def test_two_processes_train_one_run_together(tmp_path):
    flags = [*SETTINGS, *VIT, "--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "32"]
    done = subprocess.run(
        [sys.executable, "train.py", *flags, "--runs", str(tmp_path), "--trainer.max_epochs", "2"], cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done
    assert done.stdout.count("epoch 2/2") == 1 and done.stdout.count("Test accuracy") == 1
    (run,) = (tmp_path / "digits").iterdir()
    assert results(run)["images_seen"] == 2 * STEPS * 64 and weights(run)["global_step"] == 2 * STEPS
    assert [row["epoch"] for row in metrics(run)] == ["0", "1"]
    assert results(run)["test_accuracy"] == pytest.approx(accuracy(run, "best"), abs=1e-6)


@pytest.mark.parametrize("stopped", [True, False])
def test_a_process_stops_when_another_of_the_training_does(tmp_path, stopped):
    """A signal may reach one process alone; the others would wait for it forever."""
    asked = []
    strategy = SimpleNamespace(reduce_boolean_decision=lambda mine, all: asked.append((mine, all)) or stopped)
    trainer = SimpleNamespace(strategy=strategy, is_global_zero=False, global_step=3)
    with pytest.raises(SystemExit) if stopped else nullcontext():
        Stop(SimpleNamespace(folder=tmp_path), None).on_train_epoch_start(trainer, None)
    assert asked == [(False, False)]


def test_a_process_that_train_py_has_not_started_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("VIT_JOINED_RUN", raising=False)
    ended = short.train(*SETTINGS, *VIT, "--runs", tmp_path)
    assert ended.code == 2 and "start train.py itself" in ended.err and not list(tmp_path.iterdir())
