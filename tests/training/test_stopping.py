"""A run that is told to stop, or that diverges, leaves a good checkpoint and says how to go on."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from program import Running, at_step, differences, send, started, stop_at, tiny, train

from src.runs.checkpoint import load_checkpoint
from src.runs.directory import new_run


def last(runs):
    return runs / "digits" / "version_0" / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(
    ("number", "name", "code"), [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)]
)
@pytest.mark.parametrize("step", [4, 10, 30])  # within an epoch, at the end of one, at the very end
def test_a_signal_stops_after_the_step(tmp_path, number, name, code, step):
    ended = train(*tiny(tmp_path), prepare=stop_at(step, number))
    assert ended.code == code and ended.err == ""
    assert f"{name}: stopping after this step; once more stops at once" in ended.out
    assert ended.out.endswith(
        f"Stopped by {name}. {last(tmp_path)} is written; go on with:\n"
        f"  python train.py --resume {tmp_path / 'digits' / 'version_0'}\n"
    )
    assert load_checkpoint(last(tmp_path))["global_step"] == step


def test_a_second_signal_stops_at_once(tmp_path):
    assert train(*tiny(tmp_path), prepare=stop_at(4, signal.SIGTERM, signal.SIGINT)).code == 130
    assert not last(tmp_path).exists()


def signal_the_group_at(step: int) -> None:
    os.setsid()
    at_step(step, os.killpg, 0, signal.SIGTERM)


def test_a_signal_to_the_workers_too(tmp_path):
    """As Ctrl-C in a terminal, and `kill` of a process group, do."""
    ended = train(*tiny(tmp_path, "--data.workers", "2"), prepare=(signal_the_group_at, 14))
    assert ended.code == 143 and ended.out.count("stopping after this step") == 1, ended
    assert load_checkpoint(last(tmp_path))["global_step"] == 14


def stop_while_testing() -> None:
    from src.training.classifier import Classifier

    Classifier.on_test_epoch_end = lambda self: send(signal.SIGTERM)


def test_a_signal_during_the_test(tmp_path):
    ended = train(*tiny(tmp_path, epochs=1), prepare=(stop_while_testing,))
    assert ended.code == 143 and "go on with" in ended.out, ended
    run = last(tmp_path).parents[1]
    assert not (run / "results.json").exists()
    assert train("--resume", run).code == 0 and (run / "results.json").exists()


def stop_while_reading() -> None:
    from src.data.modules import ImageDataModule

    ImageDataModule.prepare_data = lambda self: send(signal.SIGINT)


def test_ctrl_c_before_the_training(tmp_path):
    assert train(*tiny(tmp_path), prepare=(stop_while_reading,)) == (
        130,
        "",
        "error: stopped by Ctrl-C\n",
    )


@pytest.mark.parametrize("script", ["train.py", "classify.py"])
def test_ctrl_c_while_libraries_are_imported_is_one_line(tmp_path, script):
    """Which takes seconds; here it comes from a module in place of torch, the first of them."""
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    assert started(script, "x.png", PYTHONPATH=str(tmp_path)) == (
        130,
        "",
        "error: stopped by Ctrl-C\n",
    )


def test_max_time(tmp_path):
    ended = train(*tiny(tmp_path, "--trainer.max_time", "00:00:00:01", epochs=1000))
    assert ended.code == 0 and "Stopped by max_time." in ended.out
    assert last(tmp_path).exists()


# A training that diverges --------------------------------------------------------------------------------------------


def break_at(step: int, what: str) -> None:
    """One weight, or one moment of the optimizer, is not a number at this step."""
    from src.training.classifier import Classifier

    usual = Classifier.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == step and what == "weight":
            self.net.norm.weight.data[0] = torch.nan
        if self.global_step == step and what == "moment":
            next(iter(self.trainer.optimizers[0].state.values()))["exp_avg_sq"][0] = torch.inf
        return usual(self, batch, batch_idx)

    Classifier.training_step = training_step


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path):
    error = train(
        *tiny(tmp_path, "--checkpoint_every_n_steps", "3"), prepare=(break_at, 14, "weight")
    ).error
    assert "the loss became nan (step 14, epoch 2, learning rate 8.95e-03); " in error
    assert (
        f"the last good checkpoint is {last(tmp_path)}; start again with a lower --model.lr"
        in error
    )
    assert load_checkpoint(last(tmp_path))["global_step"] == 12


@pytest.mark.parametrize(
    ("step", "kept"), [(9, 8), (11, 10)]
)  # the last of an epoch, and one within the next
def test_no_checkpoint_holds_what_is_not_a_number(tmp_path, step, kept):
    error = train(
        *tiny(tmp_path, "--checkpoint_every_n_steps", "2"), prepare=(break_at, step, "moment")
    ).error
    assert "an optimizer moment became infinite or NaN" in error and "learning rate" in error
    state = load_checkpoint(last(tmp_path))
    assert state["global_step"] == kept
    assert all(
        moments["exp_avg_sq"].isfinite().all()
        for moments in state["optimizer_states"][0]["state"].values()
    )


def test_a_learning_rate_that_is_far_too_high(tmp_path):
    flags = "--model.lr 1e38 --model.weight_decay 0 --model.warmup_epochs 0".split()
    error = train(*tiny(tmp_path, *flags)).error
    assert (
        "became" in error
        and "there is no checkpoint yet; start again with a lower --model.lr" in error
    )


# Several processes ---------------------------------------------------------------------------------------------------


def test_the_run_is_left_alone_while_another_process_trains_it(tmp_path):
    first = Running(*tiny(tmp_path, epochs=1000))
    run = last(tmp_path).parents[1]
    while not last(tmp_path).exists():
        assert first.process.is_alive(), first.end()
        time.sleep(0.05)
    assert (
        f"{run}: another process is training this run; wait for it, or stop it first"
        in train("--resume", run).error
    )
    second = train(*tiny(tmp_path, epochs=1))  # the same name is no obstacle to a new run
    assert second.code == 0 and "version_1" in second.out
    first.process.kill()
    assert first.end().code == -signal.SIGKILL
    assert train("--resume", run, "--trainer.max_epochs", "2").code == 0


def test_a_killed_run_with_workers_can_be_resumed_at_once(tmp_path):
    workers = ("--data.workers", "2", "--checkpoint_every_n_steps", "3")
    assert (
        train(*tiny(tmp_path, *workers), prepare=stop_at(14, signal.SIGKILL)).code
        == -signal.SIGKILL
    )
    run = last(tmp_path).parents[1]
    (run / "checkpoints" / ".last.ckpt.1.tmp").write_bytes(b"half of a checkpoint")
    assert train("--resume", run).code == 0
    assert sorted(path.name for path in run.glob("**/.*")) == [".lock"]


def test_two_runs_that_see_the_same_free_number_get_different_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Path, "glob", lambda self, pattern: []
    )  # what the other process sees before we are done
    assert [new_run(tmp_path, "x").name for _ in range(3)] == [
        "version_0",
        "version_1",
        "version_2",
    ]


def test_two_runs_that_begin_at_once(tmp_path):
    both = [Running(*tiny(tmp_path, epochs=1)) for _ in range(2)]
    assert [running.end().code for running in both] == [0, 0]
    runs = [tmp_path / "digits" / f"version_{i}" / "checkpoints" / "last.ckpt" for i in range(2)]
    assert differences(*map(load_checkpoint, runs)) == []
