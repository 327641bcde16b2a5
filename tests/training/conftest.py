"""Fixtures shared by the training tests."""

import logging
import warnings

import pytest


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    """Hide Lightning's log messages and hints, and let it write files to a temporary folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("pytorch_lightning"), "level", logging.ERROR)
    hints = ".*(num_workers|many workers|LeafSpec|logging interval|treespec).*"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", hints)
        yield


@pytest.fixture
def made(tmp_path):
    """Path of the run directory that a run with `program.tiny(tmp_path)` creates."""
    return tmp_path / "digits" / "version_0"


@pytest.fixture
def last(made):
    """Path of last.ckpt in the run directory."""
    return made / "checkpoints" / "last.ckpt"
