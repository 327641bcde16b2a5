"""Fixtures for the benchmark tests."""

import importlib
import os
import shlex
import sys
import tempfile
from types import SimpleNamespace

import program
import pytest
import torch
from photos import class_folders
from program import ROOT

from benchmarks import training
from src.data.datasets import DATASETS


@pytest.fixture(autouse=True)
def forked_trainings(monkeypatch, tmp_path):
    """Run `train.py` in forks of the test server, without reports and with runs in `tmp_path`."""

    def start(command, stdout, cwd=ROOT, env=None):
        pictures = [] if "--pictures" in command else ["--pictures", "false"]
        ended = program.Running(*command[2:], *pictures, prepare=(os.chdir, cwd)).end()
        print(ended.text, file=stdout)
        return SimpleNamespace(wait=lambda: ended.code)

    def folder(**options):
        return tempfile.mkdtemp(dir=tmp_path)

    monkeypatch.setattr(training, "subprocess", SimpleNamespace(Popen=start))
    monkeypatch.setattr(training, "tempfile", SimpleNamespace(mkdtemp=folder))
    monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True)
def threads():
    """Restore the number of threads after each benchmark."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bench(monkeypatch, capsys):
    """Return a function that runs a benchmark in this process and returns its output."""

    def run(name, flags):
        monkeypatch.setattr(sys, "argv", [name, *shlex.split(flags)])
        capsys.readouterr()
        importlib.import_module(f"benchmarks.{name}").main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def cifar10(tmp_path):
    """Dataset folder that contains a tiny CIFAR-10 with single-color images."""
    classes = DATASETS["cifar10"].classes
    class_folders(tmp_path / "cifar10", classes, (32, 32), "webp", train=7, test=2)
    return tmp_path
