"""What the tests of the benchmarks share."""

import importlib
import os
import sys
import tempfile
from types import SimpleNamespace

import program
import pytest
from photos import class_folders
from program import ROOT

from benchmarks import training
from src.data.datasets import CIFAR10


@pytest.fixture(autouse=True)
def trainings_cost_no_import(monkeypatch, tmp_path):
    """A benchmark's `python train.py` becomes a fork of the server of the tests, and its run goes where theirs do.

    Nobody looks at its report, which takes longer than so short a training.
    """

    def start(command, stdout, cwd=ROOT, env=None):
        plain = [] if "--pictures" in command else ["--pictures", "false"]
        ended = program.Running(*command[2:], *plain, prepare=(os.chdir, cwd)).end()
        print(ended.text, file=stdout)
        return SimpleNamespace(wait=lambda: ended.code)

    monkeypatch.setattr(training, "subprocess", SimpleNamespace(Popen=start))
    monkeypatch.setattr(
        training, "tempfile", SimpleNamespace(mkdtemp=lambda **_: tempfile.mkdtemp(dir=tmp_path))
    )
    monkeypatch.chdir(ROOT)


@pytest.fixture
def bench(monkeypatch, capsys):
    """Run a benchmark with arguments, in this process: what it prints."""

    def run(name: str, *args) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        capsys.readouterr()
        importlib.import_module(f"benchmarks.{name}").main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def cifar10(tmp_path):
    """A folder of datasets, in which CIFAR-10 is a few images of one color each."""
    class_folders(tmp_path / "cifar10", CIFAR10, (32, 32), "webp", train=7, test=2)
    return tmp_path
