"""A run that was stopped and resumed is the run that was never stopped; anything else is refused in one line."""

import json
import os
import shutil
import signal

import pytest
import torch
import yaml
from photos import class_folders
from program import STEPS, at_step, differences, each, run, send, stop_at, tiny, train, validate_as
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.errors import InputError
from src.runs.checkpoint import load_checkpoint
from src.runs.directory import find_checkpoint, find_run
from src.runs.results import read_metrics
from src.training.resume import flatten

HYBRID = "--model.stem_layers 2 --model.whiten true --data.patch_size null".split()
SETTINGS = {
    "": (),
    "workers": ("--data.workers", "2"),
    "accumulate": (
        "--trainer.accumulate_grad_batches",
        "3",
    ),  # steps end in the middle of an epoch's batches
    "part": ("--trainer.limit_train_batches", "7"),
    "seldom": (
        "--trainer.check_val_every_n_epoch",
        "2",
    ),  # the last epoch of three validates nothing
    "often": ("--trainer.val_check_interval", "0.4"),  # after batches 4 and 8, not after 10
    "all": ("--data.val_fraction", "0", "--patience", "null"),
    "hybrids": [*HYBRID, "--model.optimizer", "muon", "--model.ensemble", "2"],
    "impatient": ("--patience", "1"),  # with FALLING, it ends after two epochs
}
FALLING = (validate_as, 0.5, 0.4, 0.6)


def prepared(key: str, *more: tuple) -> tuple:
    return (each, *more, *[FALLING] * (key == "impatient"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run that was never stopped, for a key of SETTINGS."""
    runs, folder = {}, tmp_path_factory.mktemp("undisturbed")

    def undisturbed(key: str = ""):
        if key not in runs:
            runs[key] = run(folder / key, *SETTINGS[key], epochs=3, prepare=prepared(key))
        return runs[key]

    return undisturbed


def scalars(run) -> dict[str, list]:
    """The curves that TensorBoard shows: by tag, a list of (step, value); those of validation as `val/<tag>`."""
    curves = {}
    for folder in ("", "val/"):
        events = EventAccumulator(str(run / folder), size_guidance={"scalars": 0}).Reload()
        tags = events.Tags()["scalars"] if (run / folder).is_dir() else []
        curves |= {folder + tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}
    return {tag: curve for tag, curve in curves.items() if tag != "rate/images_per_second"}


def metrics(run) -> list[dict]:
    """Rows of metrics.csv, but for the speed."""
    return [
        {key: v for key, v in row.items() if key != "images_per_second"}
        for row in read_metrics(run)
    ]


def assert_same(a, b) -> None:
    """Weights, averages, moments, counters, metrics and curves of two runs are equal, bit for bit."""
    files = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (a, b)]
    assert files[0] == files[1]
    for name in files[0]:
        assert differences(*(load_checkpoint(run / "checkpoints" / name) for run in (a, b))) == []
    assert metrics(a) == metrics(b)
    assert scalars(a) == scalars(b)
    results = [json.loads((run / "results.json").read_text()) for run in (a, b)]
    for key in (
        "epochs",
        "images_seen",
        "val_accuracy",
        "test_accuracy",
        "test_loss",
        "checkpoint_epoch",
    ):
        assert results[0][key] == results[1][key], key


@pytest.mark.parametrize(
    ("key", "step"),
    [
        ("", 1),
        ("", 10),
        ("", 17),
        ("", 29),
        ("workers", 10),
        ("workers", 14),
        ("accumulate", 2),
        ("accumulate", 4),
    ]
    + [
        ("part", 7),
        ("seldom", 20),
        ("often", 8),
        ("often", 18),
        ("all", 13),
        ("impatient", 12),
        ("hybrids", 14),
    ],
)
def test_stopped_and_resumed(undisturbed, tmp_path, key, step):
    stopped = train(*tiny(tmp_path, *SETTINGS[key]), prepare=prepared(key, stop_at(step)))
    run = tmp_path / "digits" / "version_0"
    assert stopped.code == 143, stopped
    resumed = train("--resume", run, prepare=prepared(key))
    assert resumed.code == 0, resumed
    assert_same(run, undisturbed(key))


def test_a_run_of_before_an_argument_of_the_network_was_there(undisturbed, tmp_path):
    assert train(*tiny(tmp_path), prepare=stop_at(14)).code == 143
    run = tmp_path / "digits" / "version_0"
    state = load_checkpoint(run / "checkpoints" / "last.ckpt")
    del state["hyper_parameters"]["network"]["whiten"]
    torch.save(state, run / "checkpoints" / "last.ckpt")
    resumed = train("--resume", run)
    assert resumed.code == 0, resumed
    assert_same(run, undisturbed())


def test_resumed_several_times(undisturbed, tmp_path):
    run = tmp_path / "digits" / "version_0"
    assert train(*tiny(tmp_path), prepare=stop_at(3)).code == 143
    stops = ((9, signal.SIGINT, 130), (10, signal.SIGTERM, 143), (24, signal.SIGTERM, 143))
    paths = (
        run,
        run.parent,
        run / "checkpoints",
    )  # the folder of all runs of a name is its newest run
    for (step, number, code), path in zip(stops, paths, strict=True):
        assert train("--resume", path, prepare=stop_at(step, number)).code == code
    assert (
        train("--resume", "--runs", tmp_path, "--name", "digits").code == 0
    )  # the newest of that name
    assert_same(run, undisturbed())


def test_killed_between_two_checkpoints(undisturbed, tmp_path):
    run = tmp_path / "digits" / "version_0"
    every = ("--checkpoint_every_n_steps", "3")
    assert (
        train(*tiny(tmp_path, *every), prepare=stop_at(17, signal.SIGKILL)).code == -signal.SIGKILL
    )
    assert load_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 15
    assert train("--resume", run).code == 0
    checkpoints = [load_checkpoint(r / "checkpoints" / "last.ckpt") for r in (run, undisturbed())]
    assert differences(*checkpoints) == []
    assert metrics(run) == metrics(undisturbed())
    curves = {tag: [step for step, _ in curve] for tag, curve in scalars(run).items()}
    assert all(steps == sorted(set(steps)) for steps in curves.values())
    assert curves["val/curves/accuracy"] == [9, 19, 29]  # the kill cost no epoch's point


def kill_when_written() -> None:
    """The process is killed when the bytes of its next checkpoint are written, but not yet safe."""
    os.fsync = lambda descriptor: send(signal.SIGKILL)


def test_killed_while_a_checkpoint_is_written(undisturbed, tmp_path):
    run = tmp_path / "digits" / "version_0"
    every = ("--checkpoint_every_n_steps", "4")
    assert (
        train(*tiny(tmp_path, *every), prepare=(at_step, 15, kill_when_written)).code
        == -signal.SIGKILL
    )
    assert load_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 12
    assert [path.suffix for path in (run / "checkpoints").glob(".*")] == [".tmp"]
    assert train("--resume", run).code == 0
    assert_same(run, undisturbed())  # and the half-written file is gone


def test_curves_have_every_step_once(undisturbed):
    curves = scalars(undisturbed())
    assert [step for step, _ in curves["steps/loss"]] == list(range(3 * STEPS))
    assert [step for step, _ in curves["val/curves/accuracy"]] == [9, 19, 29]


def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "elsewhere" / "version_7")


def test_from_the_best_checkpoint_of_a_moved_run(undisturbed, tmp_path):
    run = copy(undisturbed("impatient"), tmp_path)
    assert load_checkpoint(run / "checkpoints" / "best.ckpt")["epoch"] == 0
    resumed = train("--resume", run / "checkpoints" / "best.ckpt", prepare=FALLING)
    assert resumed.code == 0 and f"--resume {run}" in resumed.out, resumed
    assert_same(run, undisturbed("impatient"))


def test_longer_than_planned(undisturbed, tmp_path):
    run = copy(undisturbed(), tmp_path)
    resumed = train("--resume", run, "--trainer.max_epochs", "4")
    assert resumed.code == 0
    assert "the schedule had 30 steps, now has 40; it goes on at step 30" in resumed.out
    rates = [float(row["learning_rate"]) for row in metrics(run)]
    assert len(rates) == 4 and rates[2] == rates[3] == 1e-5  # the end of each of the two schedules
    assert [step for step, _ in scalars(run)["steps/loss"]] == list(range(40))
    assert json.loads((run / "results.json").read_text())["epochs"] == 4
    before, now = (
        flatten(yaml.safe_load((r / "config.yaml").read_text())) for r in (undisturbed(), run)
    )
    assert {key for key in now if now[key] != before[key]} == {"trainer.max_epochs", "name"}
    assert now["name"] == "elsewhere"  # it goes by its folder


def test_images_may_move_but_none_may_come_or_go(tmp_path):
    """Else other images are held out: some of those that the run has learned from."""
    images = class_folders(tmp_path / "here", "ab", (8, 8), train=5)
    flags = [
        "--data",
        "FolderDataModule",
        "--data.image_size",
        8,
        "--data.val_fraction",
        0.2,
        "--data.batch_size",
        4,
    ]
    begun = train(*tiny(tmp_path, *flags, "--data.root", images, "--trainer.limit_test_batches", 0))
    assert begun.code == 0, begun
    moved, run = images.rename(tmp_path / "there"), tmp_path / "digits" / "version_0"
    longer = ("--resume", run, "--data.root", moved, "--trainer.max_epochs")
    assert train(*longer, 4).code == 0
    (moved / "train" / "a" / "0.png").unlink()
    said = "its images have changed (was 8 train, 2 val, now 7 train, 2 val); bring them back, or start a new run"
    assert f"error: {run}: {said}" in train(*longer, 5).error


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    [("--data.batch_size", "64", "data.batch_size (was 128, now 64)"), ("--model.width", "16", "width (was 8, now 16)"),
     ("--model", "CNN", "class_path (was src.training.classifier.ViT"), ("--seed_everything", "1", "(was 0, now 1)")],
)  # fmt: skip
def test_another_run_is_refused(undisturbed, tmp_path, flag, value, named):
    run = copy(undisturbed(), tmp_path)
    extra = ("--data.patch_size", "null") if value == "CNN" else ()
    refused = train("--resume", run, flag, value, "--trainer.max_epochs", "5", *extra)
    assert named in refused.error and "start a new run" in refused.error
    assert (run / "config.yaml").read_text() == (undisturbed() / "config.yaml").read_text()


def test_a_checkpoint_of_another_model_is_refused(undisturbed, tmp_path):
    run = copy(undisturbed(), tmp_path)
    state = load_checkpoint(run / "checkpoints" / "last.ckpt")
    del state["optimizer_states"][0]["state"][0]["exp_avg"]
    state["state_dict"]["net.positions"] = state["state_dict"]["net.positions"][:, 1:].clone()
    torch.save(state, run / "checkpoints" / "last.ckpt")
    assert (
        "does not fit this run's model" in train("--resume", run, "--trainer.max_epochs", "5").error
    )
    state["hyper_parameters"]["network"]["depth"] = 3
    torch.save(state, run / "checkpoints" / "last.ckpt")
    assert (
        "network.depth (was 3, now 2)" in train("--resume", run, "--trainer.max_epochs", "5").error
    )


def listing(run) -> dict:
    return {
        path: path.stat().st_mtime_ns
        for path in run.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_finished(undisturbed, tmp_path):
    run = copy(undisturbed(), tmp_path)
    before = listing(run)
    resumed = train("--resume", run)
    assert (
        resumed.code == 0
        and "Nothing to do" in resumed.out
        and "--trainer.max_epochs 6" in resumed.out
    )
    assert listing(run) == before


@pytest.mark.parametrize("key", ["", "impatient"])
def test_trained_but_not_yet_tested(undisturbed, tmp_path, key):
    run = copy(undisturbed(key), tmp_path)
    (run / "results.json").unlink()
    assert train("--resume", run).code == 0
    assert_same(run, undisturbed(key))


def test_stopped_early(undisturbed, tmp_path):
    run = copy(undisturbed("impatient"), tmp_path)
    before = listing(run)
    resumed = train("--resume", run, "--trainer.max_epochs", "9")
    assert resumed.code == 0 and "Nothing to do" in resumed.out and "--patience 2" in resumed.out
    assert listing(run) == before
    longer = train("--resume", run, "--patience", "2", prepare=FALLING)
    assert longer.code == 0 and len(metrics(run)) == 3, longer


def test_the_weights_it_started_from_are_no_longer_needed(digits_run, undisturbed, tmp_path):
    weights = shutil.copy(digits_run / "checkpoints" / "best.ckpt", tmp_path / "start.ckpt")
    start = ("--model.init_from", weights)
    assert train(*tiny(tmp_path / "a", *start)).code == 0
    assert train(*tiny(tmp_path / "b", *start), prepare=stop_at(14)).code == 143
    (tmp_path / "start.ckpt").unlink()
    runs = [tmp_path / name / "digits" / "version_0" for name in "ab"]
    resumed = train("--resume", runs[1])
    assert resumed.code == 0, resumed
    assert_same(*runs)
    assert str(weights) in (runs[1] / "config.yaml").read_text()


def test_max_steps_is_refused(tmp_path):
    assert "use trainer.max_epochs" in train(*tiny(tmp_path, "--trainer.max_steps", "5")).error


def test_what_can_be_resumed(digits_run, tmp_path, monkeypatch):
    run = copy(digits_run, tmp_path)
    monkeypatch.chdir(run)
    assert find_run(".", tmp_path, "")[0] == run
    assert find_run("checkpoints/best.ckpt", tmp_path, "") == (
        run,
        run / "checkpoints" / "best.ckpt",
    )
    with pytest.raises(
        InputError, match=f"folder of runs by name; give --resume one of these: {run.parent}$"
    ):
        find_run(str(run.parents[1]), tmp_path, "")
    with pytest.raises(
        InputError, match=f"folder of runs by name; give --ckpt one of these: {run.parent}$"
    ):
        find_checkpoint(str(run.parents[1]))
    (run / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(
        InputError, match="stopped before its first; begin again with python train.py --config"
    ):
        find_run(str(run), tmp_path, "")
    with pytest.raises(InputError, match="no run named 'x' has a checkpoint"):
        find_run("", tmp_path, "x")
