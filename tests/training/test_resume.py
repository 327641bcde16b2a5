"""Test that a stopped or killed run, once resumed, matches an uninterrupted run bit for bit."""

import os
import shutil
import signal

import pytest
from program import (
    at_step,
    differences,
    each,
    run,
    send,
    stop_at,
    tiny,
    train,
    validate_as,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.runs.checkpoint import load
from src.runs.results import read_metrics, read_results

HYBRID = """
--model.stem_layers 2
--model.whiten true
--model.whiten_pad false
--data.patch_size null
--model.pool max
--model.zero_init_residual true
--model.positions local
--model.optimizer muon
--model.constant_norm true
--model.momentum 0.6
--model.lr_decay linear
--data.augment.border symmetric
""".split()
SETTINGS = {
    "default": [],
    "workers": ["--data.workers=2"],
    "accumulated": ["--trainer.accumulate_grad_batches=3"],  # 4 steps per 10 batches
    "7 batches, every other epoch validated": [
        "--trainer.limit_train_batches=7",
        "--trainer.check_val_every_n_epoch=2",
    ],
    "validated within epochs": ["--trainer.val_check_interval=0.4"],  # after batches 4 and 8
    "no validation": ["--data.val_fraction=0", "--patience=null"],
    "ensemble of hybrids": [*HYBRID, "--model.ensemble=2"],
    "early stopping": ["--patience=1"],  # stops after two epochs because of FALLING
}
STOPS = {
    "default": [1, 10, 17, 29],
    "workers": [10, 14],
    "accumulated": [2, 4],
    "7 batches, every other epoch validated": [7, 14],
    "validated within epochs": [8, 18],
    "no validation": [13],
    "ensemble of hybrids": [14],
    "early stopping": [12],
}
FALLING = (validate_as, 0.5, 0.4, 0.6)
TIMES = {"train_seconds", "images_per_second"}


def prepare(key: str, *more: tuple) -> tuple:
    return (each, *more, *[FALLING] * (key == "early stopping"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return a function that returns the uninterrupted run for a key of SETTINGS (read-only)."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    runs = {}

    def get(key: str = "default"):
        if key not in runs:
            settings = SETTINGS[key]
            runs[key] = run(folder / key, *settings, epochs=3, prepare=prepare(key))
        return runs[key]

    return get


def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "elsewhere" / "version_7")


def curves_of(run) -> dict[str, list]:
    """Return TensorBoard curves as {tag: [(step, value), ...]}; prefix `val/` marks validation."""
    curves = {}
    for folder in ("", "val/"):
        if not (run / folder).is_dir():
            continue
        events = EventAccumulator(str(run / folder), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            points = events.Scalars(tag)
            curves[folder + tag] = [(point.step, point.value) for point in points]
    del curves["rate/images_per_second"]
    return curves


def metrics_of(run) -> list[dict]:
    """Return the rows of metrics.csv without the training speed."""
    rows = read_metrics(run)
    for row in rows:
        del row["images_per_second"]
    return rows


def assert_equal_checkpoints(a, b) -> None:
    folders = [run / "checkpoints" for run in (a, b)]
    contents = [{path.name: load(path) for path in folder.iterdir()} for folder in folders]
    assert contents[0].keys() >= {"last.ckpt"}
    assert differences(*contents) == []


def assert_equal_runs(a, b) -> None:
    """Check that checkpoints, metrics, curves and results of two runs are identical bit for bit."""
    assert_equal_checkpoints(a, b)
    assert metrics_of(a) == metrics_of(b)
    assert curves_of(a) == curves_of(b)
    different = dict(read_results(a).items() ^ read_results(b).items())
    assert different.keys() <= TIMES


@pytest.mark.parametrize("key", SETTINGS)
def test_stopped_and_resumed(uninterrupted, made, tmp_path, key):
    arguments = tiny(tmp_path, *SETTINGS[key])
    for step in STOPS[key]:
        stopped = train(*arguments, prepare=prepare(key, stop_at(step)))
        assert stopped.code == 143, stopped
        arguments = ["--resume", made]
    resumed = train(*arguments, prepare=prepare(key))
    assert resumed.code == 0, resumed
    assert_equal_runs(made, uninterrupted(key))


def test_killed_between_two_checkpoints(uninterrupted, made, last, tmp_path):
    arguments = tiny(tmp_path, "--checkpoint_every_n_steps=3")
    killed = train(*arguments, prepare=stop_at(17, signal.SIGKILL))
    assert killed.code == -signal.SIGKILL
    assert load(last)["global_step"] == 15
    # --resume without a path resumes the newest run with the given name.
    assert train("--resume", "--runs", tmp_path, "--name", "digits").code == 0
    assert_equal_checkpoints(made, uninterrupted())
    assert metrics_of(made) == metrics_of(uninterrupted())
    curves = {tag: [step for step, _ in curve] for tag, curve in curves_of(made).items()}
    assert all(steps == sorted(set(steps)) for steps in curves.values())
    assert curves["val/curves/accuracy"] == [9, 19, 29]


def kill_before_sync() -> None:
    """Kill the process after it writes a checkpoint but before it syncs and renames the file."""
    os.fsync = lambda descriptor: send(signal.SIGKILL)


def test_killed_while_a_checkpoint_is_written(uninterrupted, made, last, tmp_path):
    arguments = tiny(tmp_path, "--checkpoint_every_n_steps=4")
    killed = train(*arguments, prepare=(at_step, 15, kill_before_sync))
    assert killed.code == -signal.SIGKILL
    assert load(last)["global_step"] == 12
    assert [path.suffix for path in (made / "checkpoints").glob(".*")] == [".tmp"]
    assert train("--resume", made.parent).code == 0
    assert_equal_runs(made, uninterrupted())  # also checks that the temporary file is gone


def test_the_best_checkpoint_of_a_moved_run(uninterrupted, tmp_path):
    moved = copy(uninterrupted("early stopping"), tmp_path)
    best = moved / "checkpoints" / "best.ckpt"
    assert load(best)["epoch"] == 0
    resumed = train("--resume", best, prepare=FALLING)
    assert resumed.code == 0, resumed
    assert f"--resume {moved}" in resumed.out
    assert_equal_runs(moved, uninterrupted("early stopping"))


@pytest.mark.parametrize("key", ["default", "early stopping"])
def test_trained_but_not_tested(uninterrupted, tmp_path, key):
    untested = copy(uninterrupted(key), tmp_path)
    (untested / "results.json").unlink()
    assert train("--resume", untested).code == 0
    assert_equal_runs(untested, uninterrupted(key))


def test_initial_weights_are_not_needed_again(digits_run, tmp_path):
    start = shutil.copy(digits_run / "checkpoints" / "best.ckpt", tmp_path / "start.ckpt")
    flags = ["--model.init_from", start]
    whole = run(tmp_path / "whole", *flags)
    stopped = train(*tiny(tmp_path / "part", *flags, epochs=2), prepare=stop_at(14))
    assert stopped.code == 143, stopped
    (tmp_path / "start.ckpt").unlink()
    part = tmp_path / "part" / "digits" / "version_0"
    resumed = train("--resume", part)
    assert resumed.code == 0, resumed
    assert_equal_runs(whole, part)
    assert str(start) in (part / "config.yaml").read_text()
