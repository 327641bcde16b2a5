"""A training on digits that takes half a second, for tests of what a run leaves behind."""

import contextlib
import io
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from src.errors import exit_on_input_error
from train import main

ROOT = Path(__file__).parents[2]
STEPS = 20  # of one epoch: 1,294 training images in batches of 64, the last one dropped
SETTINGS = """
--config configs/digits.yaml --trainer.accelerator cpu --trainer.log_every_n_steps 1
--data.batch_size 64 --model.lr 1e-2 --model.warmup_epochs 1 --model.ema_decay 0.9
""".split()
VIT = "--model.width 8 --model.depth 2 --model.heads 2 --model.mlp_ratio 2 --model.dropout 0.1".split()


class Ended(NamedTuple):
    """How a program ended, and what it printed."""

    code: int
    out: str
    err: str


def call(program, *args) -> Ended:
    """Run the `main` of a program with these arguments in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with exit_on_input_error():
                program([str(arg) for arg in args])
        except SystemExit as end:
            code = end.code or 0
    return Ended(code, out.getvalue(), err.getvalue())


def train(*args) -> Ended:
    """train.py with these arguments, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["train.py"])
        return call(main, *args)


def run(runs: Path, *more, epochs: int = 2, model: list[str] = VIT) -> Path:
    """A short training that has to succeed: its run directory."""
    before = set(runs.glob("*/version_*"))
    ended = train(*SETTINGS, *model, "--runs", runs, "--trainer.max_epochs", epochs, *more)
    assert ended.code == 0, ended
    (made,) = set(runs.glob("*/version_*")) - before
    return made
