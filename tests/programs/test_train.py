"""train.py as a whole: what a run leaves behind, what its settings do, and what the machine cannot do."""

import json
import os

import pytest
import torch
import torch.nn.functional as F
import yaml
from photos import class_folders
from program import STEPS, VIT, differences, run, tiny, train, validate_as
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from src.data.datasets import DATASETS, read_digits
from src.inference.predictor import Predictor
from src.runs.checkpoint import load_checkpoint
from src.runs.results import read_metrics
from src.training import classifier

RESULTS = {
    "dataset", "model", "parameters", "epochs", "images_seen", "seed", "val_accuracy", "test_accuracy", "test_loss",
    "checkpoint", "checkpoint_epoch", "train_seconds", "images_per_second", "device", "precision", "torch",
}  # fmt: skip
TIMES = {"train_seconds", "images_per_second"}


def results(run) -> dict:
    return json.loads((run / "results.json").read_text())


def checkpoint(run, file: str = "last") -> dict:
    return load_checkpoint(run / "checkpoints" / f"{file}.ckpt")


def evaluated(run, file: str) -> dict:
    """Accuracy and loss of a checkpoint on the test images, computed by what classify.py uses."""
    images, labels = read_digits("test")
    probabilities = Predictor(run / "checkpoints" / f"{file}.ckpt", "cpu").probabilities(images)
    accuracy = (probabilities.argmax(1) == labels).double().mean()
    return {
        "test_accuracy": float(accuracy),
        "test_loss": float(F.nll_loss(probabilities.log(), labels)),
    }


def assert_tested(run, file: str) -> None:
    assert results(run)["checkpoint"] == f"{file}.ckpt"
    for key, value in evaluated(run, file).items():
        assert results(run)[key] == pytest.approx(value, rel=1e-4), key


@pytest.fixture(scope="module")
def again(digits_run, tmp_path_factory):
    """A run from the config.yaml that another left behind, and nothing else: how it ended, and where it is."""
    runs = tmp_path_factory.mktemp("again")
    return train(
        "--config", digits_run / "config.yaml", "--runs", runs
    ), runs / "digits" / "version_0"


# What a run leaves behind ----------------------------------------------------------------------------------------


def test_a_run_directory_holds_what_it_should(digits_run):
    names = {path.name for path in digits_run.iterdir()}
    assert digits_run.name == "version_0" and digits_run.parent.name == "digits"
    assert {"config.yaml", "metrics.csv", "results.json", "checkpoints"} <= names
    assert {path.name for path in (digits_run / "checkpoints").iterdir()} == {
        "best.ckpt",
        "last.ckpt",
    }
    assert [name for name in names if name.startswith("events.out.tfevents")]
    assert not list(digits_run.rglob("*.tmp"))


def test_results_are_complete_and_true(digits_run):
    found = results(digits_run)
    assert set(found) >= RESULTS
    assert (found["dataset"], found["model"], found["epochs"], found["seed"]) == (
        "digits",
        "ViT",
        2,
        0,
    )
    assert found["images_seen"] == 2 * STEPS * 128 and found["test_images"] == 359
    assert found["images_seen"] / found["train_seconds"] == pytest.approx(
        found["images_per_second"], rel=0.05
    )
    assert (
        found["torch"] == torch.__version__
        and found["precision"] == "32-true"
        and "cpu" in found["device"]
    )
    assert_tested(digits_run, "best")
    network = Predictor(digits_run / "checkpoints" / "best.ckpt", "cpu").classifier.network
    assert found["parameters"] == sum(parameter.numel() for parameter in network.parameters())


def test_metrics_have_a_row_an_epoch(digits_run):
    rows = read_metrics(digits_run)
    assert [(row["epoch"], int(row["step"])) for row in rows] == [("0", STEPS), ("1", 2 * STEPS)]
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    assert all(
        0 <= float(row[key]) <= 1 for row in rows for key in ("train_accuracy", "val_accuracy")
    )


def test_its_config_alone_repeats_a_run(digits_run, again):
    ended, repeated = again
    assert ended.code == 0, ended
    ours, theirs = (
        {k: v for k, v in results(r).items() if k not in TIMES} for r in (digits_run, repeated)
    )
    assert ours == theirs
    assert (
        differences(checkpoint(digits_run)["state_dict"], checkpoint(repeated)["state_dict"]) == []
    )


def test_what_to_type_next_is_printed(again):
    ended, run = again
    assert ended.err == "" and f"Test accuracy {results(run)['test_accuracy']:.4f}" in ended.out
    for command in (
        f"classify.py IMAGE --ckpt {run}",
        f"--logdir {run.parents[1]}",
        f"train.py --resume {run}",
    ):
        assert command in ended.out
    assert "note: " not in ended.out and "; only" not in ended.out


def test_a_warm_up_without_end_and_a_test_of_some_images_are_said(tmp_path):
    ended = train(
        *tiny(tmp_path, "--data.eval_batch_size", 100, "--trainer.limit_test_batches", 2, epochs=1)
    )
    note = "note: the learning rate never reaches 0.01: the warm-up has 10 steps, the training 10; lower model.warmup_"
    assert note in ended.out
    assert "(best.ckpt, epoch 1; only 200 of 359 images" in ended.out
    assert results(tmp_path / "digits" / "version_0")["test_images"] == 200


def test_another_seed_gives_another_run(digits_run, tmp_path):
    other = run(tmp_path, "--seed_everything", 1)
    assert results(other)["seed"] == 1
    ours, theirs = (checkpoint(r)["state_dict"]["net.head.weight"] for r in (digits_run, other))
    assert not torch.allclose(ours, theirs)


def test_tensorboard_finds_the_curves_and_the_final_metrics(digits_run):
    rows, final = read_metrics(digits_run), results(digits_run)
    events, validation = (
        EventAccumulator(str(folder)).Reload() for folder in (digits_run, digits_run / "val")
    )

    def values(tag, of=events):
        return [event.value for event in of.Scalars(tag)]

    def column(name):
        return pytest.approx([float(row[name]) for row in rows], rel=1e-4)

    assert values("curves/loss") == column("train_loss") and values("curves/accuracy") == column(
        "train_accuracy"
    )
    assert values("curves/loss", validation) == column("val_loss")
    assert values("curves/accuracy", validation) == column("val_accuracy")
    assert values("rate/images_per_second") == column("images_per_second")
    rates = values("rate/learning_rate")
    assert len(values("steps/loss")) == len(values("steps/update_ratio")) == len(rates) == 2 * STEPS
    assert rates[0] < rates[STEPS] == max(rates) == pytest.approx(0.01) and rates[
        -1
    ] == pytest.approx(1e-5)
    for key in ("test_accuracy", "test_loss", "val_accuracy"):
        assert values(f"summary/{key}") == pytest.approx([final[key]], rel=1e-4)
    assert {tag.split("/")[0] for tag in events.Tags()["scalars"]} == {
        "curves",
        "rate",
        "steps",
        "summary",
    }
    assert set(validation.Tags()["scalars"]) == {"curves/accuracy", "curves/loss"}
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert set(hparams) == {
        "lr",
        "weight_decay",
        "width",
        "depth",
        "batch_size",
        "augment",
        "epochs",
    }
    assert hparams["width"].number_value == 8 and hparams["lr"].number_value == 0.01
    assert hparams["epochs"].number_value == 2 and "rotate 10" in hparams["augment"].string_value


def test_digits_are_learned(tmp_path):
    """The config's own network and recipe, cut to a tenth of its length; guessing gives 0.10."""
    flags = ["--trainer.max_epochs", 6, "--model.warmup_epochs", 1, "--trainer.accelerator", "cpu"]
    ended = train("--config", "configs/digits.yaml", "--runs", tmp_path, *flags)
    assert ended.code == 0, ended
    assert results(tmp_path / "digits" / "version_0")["test_accuracy"] > 0.35


# The choice of the checkpoint ------------------------------------------------------------------------------------


def test_the_best_validation_result_is_tested_not_the_last(tmp_path):
    best = run(tmp_path, epochs=3, prepare=(validate_as, 0.4, 0.6, 0.5))
    assert [checkpoint(best, file)["epoch"] for file in ("best", "last")] == [1, 2]
    assert results(best)["checkpoint_epoch"] == 2 and results(best)[
        "val_accuracy"
    ] == pytest.approx(0.6)
    assert_tested(best, "best")
    assert evaluated(best, "last")["test_loss"] != pytest.approx(
        results(best)["test_loss"], rel=1e-3
    )


def test_without_validation_the_last_weights_are_tested(tmp_path):
    whole = run(tmp_path, "--data.val_fraction", 0, "--patience", "null")
    assert not (whole / "checkpoints" / "best.ckpt").exists()
    assert (
        results(whole)["val_accuracy"] is None
        and results(whole)["images_seen"] == 2 * (1438 // 128) * 128
    )
    assert_tested(whole, "last")


def test_only_an_epoch_that_was_validated_can_be_the_best(tmp_path):
    seldom = run(tmp_path, "--trainer.check_val_every_n_epoch", 2, epochs=3)
    assert [bool(row["val_accuracy"]) for row in read_metrics(seldom)] == [False, True, False]
    assert checkpoint(seldom, "best")["epoch"] == 1 and results(seldom)["checkpoint_epoch"] == 2


def test_patience_stops_a_training_that_no_longer_gets_better(tmp_path):
    still = run(tmp_path, "--patience", 2, epochs=6, prepare=(validate_as, *[0.5] * 6))
    assert results(still)["epochs"] == 3


# What settings do ------------------------------------------------------------------------------------------------


def test_flags_override_the_config_and_stand_in_the_runs_own(tmp_path):
    other = run(tmp_path, "--model.depth", 1, "--data.batch_size=100", "--name", "other", epochs=1)
    config = yaml.safe_load((other / "config.yaml").read_text())
    assert other.parent.name == config["name"] == "other"
    assert (
        config["model"]["init_args"]["depth"] == 1
        and config["data"]["init_args"]["batch_size"] == 100
    )
    assert checkpoint(other)["hyper_parameters"]["network"]["depth"] == 1
    assert read_metrics(other)[0]["step"] == "12"


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ("--model CNN --data.patch_size null --model.dropout 0.1 --model.optimizer adam", STEPS),
        (
            "--model.stem_layers 2 --data.patch_size null --model.pool sequence --model.optimizer muon",
            STEPS,
        ),
        ("--model.ema_decay 0 --trainer.accumulate_grad_batches 3", 4),
        (
            "--model.optimizer sgd --model.label_smoothing 0.1 --model.positions sincos --model.pool cls",
            STEPS,
        ),
        ("--data.workers 1 --trainer.precision bf16-mixed --model.freeze encoder", STEPS),
    ],
)
def test_every_kind_of_model_and_training_runs(tmp_path, settings, steps):
    cnn = "CNN" in settings
    made = run(tmp_path, *settings.split(), epochs=1, model=[] if cnn else VIT)
    assert (
        results(made)["model"] == ("CNN" if cnn else "ViT")
        and results(made)["images_seen"] == STEPS * 128
    )
    assert checkpoint(made)["global_step"] == steps
    assert results(made)["test_loss"] == pytest.approx(
        evaluated(made, "best")["test_loss"], rel=0.02
    )  # bf16 rounds


def test_a_fast_dev_run_leaves_no_results(tmp_path):
    run(tmp_path, "--trainer.fast_dev_run", "true")
    assert not list(tmp_path.rglob("*.ckpt")) and not list(tmp_path.rglob("results.json"))


def test_class_folders_of_a_named_dataset_are_learned_the_same_as_ones_own_images(tmp_path):
    """Decoding, order, split, batches, augmentation and normalization: one road."""
    info = DATASETS["cifar10"]
    folder = class_folders(tmp_path / "cifar10", info.classes, (32, 32), train=26, test=2)
    changes = ["--data.patch_size", 16, "--data.augment.flip", "true", "--data.augment.erase", 0.5]
    as_folder = [
        "--data.image_size",
        32,
        "--data.mean",
        list(info.mean),
        "--data.std",
        list(info.std),
    ]
    named = run(tmp_path / "a", "--data", "CIFAR10DataModule", "--data.root", tmp_path, *changes)
    own = run(
        tmp_path / "b", "--data", "FolderDataModule", "--data.root", folder, *as_folder, *changes
    )
    assert results(own) == results(named) | {key: results(own)[key] for key in TIMES}
    assert not differences(checkpoint(own)["state_dict"], checkpoint(named)["state_dict"])


def test_help_and_print_config_end_well(tmp_path):
    printed = train(
        "--config", "configs/digits.yaml", "--model.depth", 2, "--print_config", "--runs", tmp_path
    )
    config = yaml.safe_load(printed.out)
    assert printed.code == 0 and config["model"]["init_args"]["depth"] == 2
    assert "seed_everything" in config and "patch_size" in config["data"]["init_args"]
    shown = train("--help")
    assert shown.code == 0 and "--resume" in shown.out and "--trainer.max_epochs" in shown.out
    assert not list(tmp_path.iterdir())


# What the machine cannot do --------------------------------------------------------------------------------------


def compile_to_nothing_faster() -> None:
    """torch.compile traces the network, but leaves its operations as they are: seconds in place of minutes."""
    usual = torch.nn.Module.compile

    def backend(graph, inputs):
        print("a graph of", len(graph.graph.nodes), "nodes")
        return graph

    torch.nn.Module.compile = lambda self: usual(self, backend=backend)


def test_a_compiled_network_learns_the_same_under_the_same_names(tmp_path):
    flags = "--model.dropout 0 --model.attention_dropout 0 --model.drop_path 0 --trainer.limit_train_batches 2".split()
    eager = run(tmp_path / "eager", *flags, epochs=1)
    compiled = tiny(tmp_path / "compiled", *flags, "--model.compile", "true", epochs=1)
    ended = train(*compiled, prepare=(compile_to_nothing_faster,))
    assert ended.code == 0 and "a graph of" in ended.out, ended
    ours, theirs = (
        checkpoint(r)["state_dict"] for r in (eager, tmp_path / "compiled" / "digits" / "version_0")
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def hide_the_compiler(cache) -> None:
    import torch._inductor.config

    torch._inductor.config.cpp.cxx = ("no-such-compiler",)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)


def test_without_a_compiler_one_line_says_so(tmp_path):
    error = train(
        *tiny(tmp_path, "--model.compile", "true"), prepare=(hide_the_compiler, tmp_path / "cache")
    ).error
    assert "model.compile: the compiler failed (" in error and error.endswith(
        "--model.compile false\n"
    )


def test_a_part_of_no_batch_is_one_line(tmp_path):
    assert train(*tiny(tmp_path, "--trainer.limit_train_batches", 0.001)).error.startswith(
        "error: trainer: "
    )


def ask_for_too_much_memory() -> None:
    classifier.ViT.training_step = lambda *_: torch.empty(2**60, dtype=torch.uint8)


def test_too_little_memory_is_said_in_one_line(tmp_path):
    error = train(*tiny(tmp_path, epochs=1), prepare=(ask_for_too_much_memory,)).error
    assert "not enough memory (" in error and error.endswith("--data.batch_size or network\n")


# Two processes ---------------------------------------------------------------------------------------------------


def test_two_processes_train_one_run_together(tmp_path):
    devices = ["--trainer.devices", 2, "--trainer.strategy", "ddp", "--data.batch_size", 64]
    ended = train(
        *tiny(tmp_path, *devices, epochs=2)
    )  # Lightning starts the second as its users do
    assert ended.code == 0 and ended.err == "", ended
    assert ended.out.count("epoch 2/2") == 1 and ended.out.count("Test accuracy") == 1
    (joined,) = (tmp_path / "digits").iterdir()
    assert (
        results(joined)["images_seen"] == 2 * STEPS * 128
        and checkpoint(joined)["global_step"] == 2 * STEPS
    )
    assert [row["epoch"] for row in read_metrics(joined)] == ["0", "1"]
    assert_tested(joined, "best")
