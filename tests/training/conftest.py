"""Fixtures for the use of our modules with Lightning's own Trainer."""

import logging
import warnings

import pytest


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    """Let Lightning write its files into a temporary folder, without log lines and hints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("pytorch_lightning"), "level", logging.ERROR)
    hints = ".*(num_workers|many workers|LeafSpec|logging interval|treespec).*"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", hints)
        yield
