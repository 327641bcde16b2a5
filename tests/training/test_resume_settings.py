"""Test which settings can be changed with `--resume` and which changes are rejected."""

import shutil

import pytest
import torch
import yaml
from photos import class_folders
from program import ROOT, call, tiny, train, validate_as

from src.runs.checkpoint import load
from src.runs.directory import find_run
from src.runs.results import read_metrics, read_results
from src.training.resume import flatten
from train import main


def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "elsewhere" / "version_7")


@pytest.fixture
def finished(digits_run, tmp_path, monkeypatch):
    """Copy of a finished two-epoch run. The working directory is the project root."""
    monkeypatch.chdir(ROOT)
    return copy(digits_run, tmp_path)


def times(run) -> dict:
    """Return the modification time of each file."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path: path.stat().st_mtime_ns for path in files}


def settings(run) -> dict:
    return flatten(yaml.safe_load((run / "config.yaml").read_text()))


def test_longer_than_planned(digits_run, finished):
    resumed = train("--resume", finished, "--trainer.max_epochs=3")
    assert resumed.code == 0, resumed
    assert "the schedule had 20 steps and now has 30; it continues at step 20" in resumed.out
    rates = [float(row["learning_rate"]) for row in read_metrics(finished)]
    assert len(rates) == 3
    assert rates[1] == rates[2] == 1e-5  # final rate of both schedules
    assert read_results(finished)["epochs"] == 3
    before, now = settings(digits_run), settings(finished)
    changed = {key for key in now if now[key] != before[key]}
    assert changed == {"trainer.max_epochs", "name"}
    assert now["name"] == "elsewhere"  # the folder name of the copy


def test_images_may_move_but_not_change(made, tmp_path):
    """A different number of images would move training images to the validation split."""
    images = class_folders(tmp_path / "here", "ab", (8, 8), train=5)
    flags = [
        "--data=FolderDataModule",
        f"--data.root={images}",
        "--data.image_size=8",
        "--data.val_fraction=0.2",
        "--data.batch_size=4",
    ]
    first = train(*tiny(tmp_path, *flags, "--trainer.limit_test_batches=0", epochs=1))
    assert first.code == 0, first
    moved = images.rename(tmp_path / "there")
    resume = ["--resume", made, f"--data.root={moved}", "--trainer.max_epochs"]
    assert train(*resume, 2).code == 0
    first = moved / "train" / "a" / "0.png"
    renamed = first.rename(moved / "train" / "a" / "9.png")  # now sorted last
    message = f"error: {made}: images have been added, removed, renamed or replaced in train/a; "
    assert message in train(*resume, 3).error
    renamed.unlink()
    assert message in train(*resume, 3).error


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
    longer = ["--trainer.max_epochs=5", *flags.split()]
    error = call(main, "--resume", finished, *longer).error
    assert message in error
    assert "start a new run" in error
    assert settings(finished) == before


def test_a_checkpoint_that_does_not_fit_is_refused(finished):
    path = finished / "checkpoints" / "last.ckpt"
    content = load(path)
    positions = content["state_dict"]["net.positions"]
    content["state_dict"]["net.positions"] = positions[:, 1:].clone()
    torch.save(content, path)
    resume = ["--resume", finished, "--trainer.max_epochs=5"]
    assert "does not match this run's model" in call(main, *resume).error
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


def test_another_name_or_config_is_refused(finished):
    for flag in (("--name", "other"), ("--config", "configs/mnist.yaml")):
        error = call(main, *flag, "--resume", finished).error
        assert f"{' '.join(flag)}: {finished} is a run of 'elsewhere'; omit {flag[0]}" in error


def test_an_untested_run_says_that_training_is_finished(finished):
    (finished / "results.json").unlink()
    fewer = "--trainer.max_epochs=1"  # than it has already trained for
    resumed = call(main, "--resume", finished, fewer)
    assert resumed.code == 0, resumed
    assert "training is finished; only the test remains. It has trained for 2 epochs" in resumed.out
    assert read_results(finished)["epochs"] == 2


def test_a_run_that_stopped_early_goes_on_with_more_patience(made, tmp_path):
    falling = (validate_as, 0.5, 0.4, 0.3)
    stopped = train(*tiny(tmp_path, "--patience=1"), prepare=falling)
    assert stopped.code == 0, stopped
    before = times(made)
    resumed = train("--resume", made, "--trainer.max_epochs=9")
    assert resumed.code == 0, resumed
    assert "Nothing to do" in resumed.out
    assert "--patience 2" in resumed.out
    assert times(made) == before
    longer = train("--resume", made, "--patience=2", prepare=falling)
    assert longer.code == 0, longer
    assert len(read_metrics(made)) == 3


def test_paths_of_a_run(digits_run, tmp_path, monkeypatch):
    run = copy(digits_run, tmp_path)
    last, best = (run / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    monkeypatch.chdir(run)
    for path in (".", "checkpoints", run.parent, run.parent.parent):
        assert find_run(str(path), tmp_path, "") == (run, last)
    assert find_run("checkpoints/best.ckpt", tmp_path, "") == (run, best)
