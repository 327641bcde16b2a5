"""The settings that may change on `--resume`, and what is refused."""

import json
import shutil

import pytest
import torch
import yaml
from photos import class_folders
from program import ROOT, call, tiny, train, validate_as

from src.cli.parser import parse
from src.errors import InputError
from src.runs.checkpoint import load
from src.runs.directory import find_checkpoint, find_run
from src.runs.results import read_metrics
from src.training.resume import flatten
from train import main


def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "elsewhere" / "version_7")


@pytest.fixture
def finished(digits_run, tmp_path, monkeypatch):
    """A copy of a run of two epochs; programs called in this process can find the configs."""
    monkeypatch.chdir(ROOT)
    return copy(digits_run, tmp_path)


def times(run) -> dict:
    """Return when each file was written."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path: path.stat().st_mtime_ns for path in files}


def settings(run) -> dict:
    return flatten(yaml.safe_load((run / "config.yaml").read_text()))


def test_longer_than_planned(digits_run, finished):
    resumed = train("--resume", finished, "--trainer.max_epochs", 3)
    assert resumed.code == 0, resumed
    assert "the schedule had 20 steps, now has 30; it goes on at step 20" in resumed.out
    rates = [float(row["learning_rate"]) for row in read_metrics(finished)]
    assert len(rates) == 3
    assert rates[1] == rates[2] == 1e-5  # both schedules end there
    assert json.loads((finished / "results.json").read_text())["epochs"] == 3
    before, now = settings(digits_run), settings(finished)
    changed = {key for key in now if now[key] != before[key]}
    assert changed == {"trainer.max_epochs", "name"}
    assert now["name"] == "elsewhere"  # the folder's


def test_images_may_move_but_not_change(tmp_path):
    """With other images, some of those that were learned would be held out."""
    images = class_folders(tmp_path / "here", "ab", (8, 8), train=5)
    flags = [
        *("--data", "FolderDataModule"),
        *("--data.root", images),
        *("--data.image_size", 8),
        *("--data.val_fraction", 0.2),
        *("--data.batch_size", 4),
    ]
    first = train(*tiny(tmp_path, *flags, "--trainer.limit_test_batches", 0, epochs=1))
    assert first.code == 0, first
    moved = images.rename(tmp_path / "there")
    run = tmp_path / "digits" / "version_0"
    resume = ["--resume", run, "--data.root", moved, "--trainer.max_epochs"]
    assert train(*resume, 2).code == 0
    (moved / "train" / "a" / "0.png").unlink()
    message = "its images have changed (was 8 train, 2 val, now 7 train, 2 val)"
    assert f"error: {run}: {message}" in train(*resume, 3).error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data.batch_size 64", "data.batch_size (was 128, now 64)"),
        ("--model.width 16", "width (was 8, now 16)"),
        ("--model CNN --data.patch_size null", "class_path (was src.training.classifier.ViT"),
        ("--seed_everything 1", "(was 0, now 1)"),
    ],
)
def test_other_settings_are_refused(finished, flags, message):
    before = settings(finished)
    longer = ["--trainer.max_epochs", 5, *flags.split()]
    error = call(main, "--resume", finished, *longer).error
    assert message in error
    assert "start a new run" in error
    assert settings(finished) == before


def test_a_checkpoint_that_does_not_fit_is_refused(finished):
    path = finished / "checkpoints" / "last.ckpt"
    content = load(path)
    del content["optimizer_states"][0]["state"][0]["exp_avg"]
    positions = content["state_dict"]["net.positions"]
    content["state_dict"]["net.positions"] = positions[:, 1:].clone()
    torch.save(content, path)
    resume = ["--resume", finished, "--trainer.max_epochs", 5]
    assert "does not fit this run's model" in call(main, *resume).error
    content["hyper_parameters"]["network"]["depth"] = 3
    torch.save(content, path)
    assert "network.depth (was 3, now 2)" in call(main, *resume).error


def test_a_finished_run_is_left_alone(finished):
    before = times(finished)
    resumed = call(main, "--resume", finished)
    assert resumed.code == 0, resumed
    assert "Nothing to do" in resumed.out
    assert "--trainer.max_epochs 4" in resumed.out
    assert times(finished) == before


def test_a_run_that_stopped_early_goes_on_with_more_patience(tmp_path):
    falling = (validate_as, 0.5, 0.4, 0.3)
    stopped = train(*tiny(tmp_path, "--patience", 1), prepare=falling)
    assert stopped.code == 0, stopped
    run = tmp_path / "digits" / "version_0"
    before = times(run)
    resumed = train("--resume", run, "--trainer.max_epochs", 9)
    assert resumed.code == 0, resumed
    assert "Nothing to do" in resumed.out
    assert "--patience 2" in resumed.out
    assert times(run) == before
    longer = train("--resume", run, "--patience", 2, prepare=falling)
    assert longer.code == 0, longer
    assert len(read_metrics(run)) == 3


def test_max_steps_is_refused(tmp_path):
    flags = tiny(tmp_path, "--trainer.max_steps", 5)
    with pytest.raises(InputError, match="use trainer.max_epochs"):
        parse([str(flag) for flag in flags])


def test_paths_of_a_run(digits_run, tmp_path, monkeypatch):
    run = copy(digits_run, tmp_path)
    name, runs = run.parent, run.parent.parent
    checkpoints = run / "checkpoints"
    monkeypatch.chdir(run)
    for path in (".", "checkpoints", name):
        assert find_run(str(path), tmp_path, "") == (run, checkpoints / "last.ckpt")
    best = checkpoints / "best.ckpt"
    assert find_run("checkpoints/best.ckpt", tmp_path, "") == (run, best)
    message = "holds runs of several names; give {} one of: {}$"
    with pytest.raises(InputError, match=message.format("--resume", name)):
        find_run(str(runs), tmp_path, "")
    with pytest.raises(InputError, match=message.format("--ckpt", name)):
        find_checkpoint(str(runs))
    (checkpoints / "last.ckpt").unlink()
    with pytest.raises(InputError, match="stopped before its first; start again with python"):
        find_run(str(run), tmp_path, "")
    with pytest.raises(InputError, match="no run named 'x' has a checkpoint"):
        find_run("", tmp_path, "x")
