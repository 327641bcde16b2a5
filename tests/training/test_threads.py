"""Test the choice of the number of threads, and the note on a busy machine."""

import copy
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import program
import pytest
import torch
import yaml
from pytorch_lightning import Trainer

from src.data.modules import DigitsDataModule
from src.training import threads
from src.training.classifier import CNN
from src.training.threads import ProcessorShare, choose, measure, seconds_waited, training_step
from src.transforms.augment import Augmentation
from train import main


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def without_setting(monkeypatch, two_threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_speeds_are_measured_with_every_number_of_threads(monkeypatch, two_threads):
    """Use a clock that only the training steps advance."""
    seconds = [0.0]

    def step(size):
        seconds[0] += size * {1: 0.004, 2: 0.002}[torch.get_num_threads()]

    monkeypatch.setattr(threads.time, "perf_counter", lambda: seconds[0])
    assert measure(step, 1, 1000) == pytest.approx({1: 250, 2: 500})
    assert 1.2 < seconds[0] < 2
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [({1: 100, 2: 190}, 2), ({1: 100, 2: 103}, 1), ({1: 90, 2: 30}, 1), ({1: 9, 2: 19, 4: 20}, 2)],
)
def test_the_smallest_of_the_fastest_numbers_is_chosen(speeds, chosen):
    assert choose(speeds) == chosen


def test_a_run_measures_once_and_keeps_the_number(tmp_path, made, monkeypatch, without_setting):
    monkeypatch.chdir(program.ROOT)
    monkeypatch.setattr(threads, "measure", lambda *_: {1: 100.0, 2: 50.0, 4: 200.0})
    first = program.call(main, *program.tiny(tmp_path, epochs=1))
    assert (
        "using 4 of 4 threads (images/s measured: 100 with 1, 50 with 2, 200 with 4)" in first.out
    )
    assert yaml.safe_load((made / "config.yaml").read_text())["threads"] == 4

    monkeypatch.setattr(threads, "measure", lambda *_: pytest.fail("measured again"))
    torch.set_num_threads(2)
    resumed = program.call(main, "--resume", made, "--trainer.max_epochs=2")
    assert resumed.code == 0, resumed
    assert torch.get_num_threads() == 4
    assert "threads before and now" not in resumed.out

    changed = program.call(main, "--resume", made, "--trainer.max_epochs=3", "--threads=2")
    assert "the number of threads was 4 and is now 2" in changed.out
    assert torch.get_num_threads() == 2


def test_networks_that_reduce_images_to_one_token_are_measured(tmp_path, without_setting):
    """Batch norm needs at least two values per channel."""
    one_token = ["--model.stem_layers=3", "--model.width=8", "--data.patch_size=null"]
    ended = program.call(main, *program.tiny(tmp_path, *one_token, epochs=1))
    assert ended.code == 0, ended


def test_omp_num_threads_is_respected(tmp_path, made, monkeypatch, two_threads):
    monkeypatch.chdir(program.ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(threads, "measure", lambda *_: pytest.fail("measured"))
    program.call(main, *program.tiny(tmp_path, epochs=1))
    assert yaml.safe_load((made / "config.yaml").read_text())["threads"] == 2


@pytest.mark.parametrize("value", ["0", "-1", "many", "null", "1.5"])
def test_invalid_numbers_of_threads(value, tmp_path, monkeypatch):
    monkeypatch.chdir(program.ROOT)
    ended = program.call(main, *program.tiny(tmp_path), f"--threads={value}")
    assert "threads" in ended.error


def test_measuring_changes_neither_weights_nor_random_numbers(two_threads):
    data = DigitsDataModule(patch_size=None, augment=Augmentation(mixup=0.2, rotate=10))
    model = CNN(data.info, dropout=0.5)
    weights = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    training_step(Trainer(logger=False, accelerator="cpu"), model, data)(8)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("waited", "notes"), [(0.0, 0), (9.0, 1)])
def test_a_busy_machine_is_noted_once(waited, notes, monkeypatch, capsys):
    clock = iter([0.0, waited, waited, 2 * waited])
    monkeypatch.setattr(threads, "seconds_waited", lambda: next(clock))
    monkeypatch.setattr(threads, "MIN_EPOCH_SECONDS", 0)
    trainer = SimpleNamespace(is_global_zero=True, current_epoch=0)
    share = ProcessorShare()
    for _ in range(2):
        share.on_train_epoch_start(trainer, None)
        share.on_train_epoch_end(trainer, None)
    assert capsys.readouterr().out.count("other programs slow down this training") == notes


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux counts waiting times")
def test_waiting_for_the_processor_is_counted():
    """More busy threads than processors have to wait for each other."""
    before = seconds_waited()
    processes = len(os.sched_getaffinity(0))
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    end = time.monotonic() + 20
    while seconds_waited() - before < 0.02 and time.monotonic() < end:
        sum(range(10000))
    for process in load:
        process.kill()
        process.wait()
    assert seconds_waited() - before >= 0.02
