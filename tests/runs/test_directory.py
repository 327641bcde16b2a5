"""Which run directory is made, and which checkpoint stands for it."""

import os

import pytest

from src.errors import InputError
from src.runs.directory import claim_run, find_checkpoint, find_trained, new_run


def test_a_new_run_gets_the_next_number(tmp_path):
    for name in ("mnist/version_9", "mnist/version_x"):
        (tmp_path / name).mkdir(parents=True)
    made = [new_run(tmp_path, name).name for name in ("mnist", "mnist", "new")]
    assert made == ["version_10", "version_11", "version_0"]
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError, match="cannot make a run directory there: .*; choose another --runs"
    ):
        new_run(tmp_path / "file", "x")


def test_a_run_without_a_best_checkpoint_stands_for_its_last(tmp_path):
    checkpoints = new_run(tmp_path, "mnist") / "checkpoints"
    checkpoints.mkdir()
    for name in ("last.ckpt", "best.ckpt"):
        (checkpoints / name).touch()
        assert (
            find_checkpoint(str(checkpoints.parent))
            == find_checkpoint(None, tmp_path)
            == checkpoints / name
        )


def test_the_folder_of_a_name_stands_for_its_newest_finished_run(tmp_path):
    name = tmp_path / "cifar100_cpu"
    with pytest.raises(
        InputError, match="no trained run; train it first: .* configs/cifar100_cpu.yaml"
    ):
        find_trained(str(name))
    runs = [new_run(tmp_path, name.name) for _ in range(3)]
    for seconds, run in enumerate(runs):
        (run / "checkpoints").mkdir()
        (run / "checkpoints" / "last.ckpt").touch()
        os.utime(run / "checkpoints" / "last.ckpt", (seconds, seconds))
    with pytest.raises(
        InputError, match=f"no run there is finished; go on with it: .* --resume {runs[2]}; or give"
    ):
        find_trained(str(name))
    assert find_trained(str(runs[2])) == runs[2] / "checkpoints" / "last.ckpt"
    for seconds, run in enumerate(runs[:2]):
        (run / "results.json").touch()
        os.utime(run / "results.json", (seconds, seconds))
    assert find_trained(str(name)) == runs[1] / "checkpoints" / "last.ckpt"
    with pytest.raises(InputError, match="nowhere: there is no trained run; check the path"):
        find_trained(str(tmp_path / "nowhere"))


def test_a_claimed_run_is_locked(tmp_path):
    run, lock = claim_run(tmp_path, "mnist", None)
    assert run == tmp_path / "mnist" / "version_0" and not lock.closed
    assert claim_run(tmp_path, "mnist", None)[0].name == "version_1"
    assert claim_run(tmp_path, "mnist", run)[0] == run
