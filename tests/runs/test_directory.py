"""Test creating, finding and locking run directories."""

import os
import shlex
from pathlib import Path

import pytest

from src.errors import ROOT, InputError, command
from src.runs.directory import create_run, find_checkpoint, find_pretrained, lock_run


def test_a_new_run_gets_the_next_number(tmp_path):
    for name in ("mnist/version_9", "mnist/version_x"):
        (tmp_path / name).mkdir(parents=True)
    created = [create_run(tmp_path, name).name for name in ("mnist", "mnist", "new")]
    assert created == ["version_10", "version_11", "version_0"]


def write(path: Path, seconds: int) -> None:
    """Create an empty file with the given modification time."""
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.utime(path, (seconds, seconds))


def test_the_best_checkpoint_of_the_newest_run_is_found(tmp_path, monkeypatch):
    runs = [create_run(tmp_path / "data" / "runs", name) for name in ("a", "b", "b", "c")]
    for run, seconds in zip(runs, (1, 4, 3, 2), strict=True):
        for name in ("last.ckpt", "best.ckpt"):
            write(run / "checkpoints" / name, seconds)
    newest = runs[1] / "checkpoints" / "best.ckpt"
    for folder in (newest.parent, runs[1], runs[1].parent, runs[1].parents[1]):
        assert find_checkpoint(str(folder)) == newest
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(None).absolute() == newest
    newest.unlink()  # training without validation writes only last.ckpt
    assert find_checkpoint(None).absolute() == newest.with_name("last.ckpt")


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no run with a checkpoint found; train first"):
        find_checkpoint(str(tmp_path))


def test_locking_a_run_deletes_half_written_files(tmp_path):
    leftover = tmp_path / ".config.yaml.1.tmp"
    leftover.touch()
    lock_run(tmp_path)
    assert not leftover.exists()


def test_the_best_checkpoint_is_preferred(tmp_path):
    run = create_run(tmp_path, "mnist")
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = run / "checkpoints" / name
        write(checkpoint, 0)
        assert find_checkpoint(str(run)) == checkpoint


def test_pretrained_weights_come_from_the_newest_finished_run(tmp_path):
    name = tmp_path / "cifar100_cpu"
    with pytest.raises(InputError, match="train it first with .* configs/cifar100_cpu.yaml"):
        find_pretrained(str(name))
    with pytest.raises(InputError, match=r"nowhere: .* bundled weights \(cifar100, mnist\)"):
        find_pretrained(str(tmp_path / "nowhere"))
    runs = [create_run(tmp_path, name.name) for _ in range(3)]
    checkpoints = [run / "checkpoints" / "last.ckpt" for run in runs]
    for seconds, checkpoint in enumerate(checkpoints):
        write(checkpoint, seconds)
    with pytest.raises(InputError, match=f"none of its runs is finished; .* --resume {runs[2]}"):
        find_pretrained(str(name))
    assert find_pretrained(str(runs[2])) == str(checkpoints[2])
    for seconds, run in enumerate(runs[:2]):
        write(run / "results.json", seconds)
    assert find_pretrained(str(name)) == str(checkpoints[1])
    assert find_pretrained(str(tmp_path)) == str(checkpoints[1])


def test_a_command_works_from_the_current_folder(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command("train.py") == "python train.py"
    monkeypatch.chdir(ROOT.parent)
    assert command("train.py") == f"python {shlex.quote(ROOT.name)}/train.py"
