"""Test creating, finding and locking run directories."""

import os
import re
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


def test_a_run_directory_needs_a_folder(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="cannot create a run directory .* a different --runs"):
        create_run(file, "x")


def write(path: Path, seconds: int) -> None:
    """Create an empty file with the given modification time."""
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.utime(path, (seconds, seconds))


def test_best_checkpoint_is_preferred(tmp_path):
    run = create_run(tmp_path, "mnist")
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = run / "checkpoints" / name
        write(checkpoint, 0)
        assert find_checkpoint(str(run)) == checkpoint
        assert find_checkpoint(None, tmp_path) == checkpoint


def test_the_newest_finished_run_of_a_name_is_found(tmp_path):
    name = tmp_path / "cifar100_cpu"
    with pytest.raises(InputError, match="no checkpoint found; train .* configs/cifar100_cpu"):
        find_pretrained(str(name))
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


def test_a_command_works_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command("train.py") == "python train.py"
    monkeypatch.chdir(ROOT.parent)
    assert command("train.py") == f"python {shlex.quote(ROOT.name)}/train.py"
    monkeypatch.chdir(tmp_path)
    assert command("train.py") == f"python {shlex.quote(str(ROOT / 'train.py'))}"
    hint = f"{re.escape(command('train.py'))} --config configs/cifar100_cpu.yaml"
    with pytest.raises(InputError, match=hint):
        find_pretrained(str(tmp_path / "cifar100_cpu"))


def test_an_unknown_run_is_an_error(tmp_path):
    with pytest.raises(InputError, match="nowhere: no checkpoint found; check the path"):
        find_pretrained(str(tmp_path / "nowhere"))


def test_locking_a_run_deletes_half_written_files(tmp_path):
    leftover = tmp_path / ".config.yaml.1.tmp"
    leftover.touch()
    lock_run(tmp_path)
    assert not leftover.exists()
