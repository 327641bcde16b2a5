"""Runs the real `train.py` and `classify.py` in processes of their own, which cost no second import of PyTorch.

A server process imports the program once; every run is a fork of it, so that it can be stopped, killed or limited like
any process.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = str(ROOT)  # for the server, which imports the modules of the next line
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["src.cli", "src.predict", "sklearn.datasets", "tensorboard.compat"])

# Everything that could make a resumed run differ: dropouts, augmentation, averaging, validation, early stopping.
TINY = """
config: configs/digits.yaml
model.width: 8
model.depth: 2
model.heads: 2
model.mlp_ratio: 2
model.dropout: 0.1
model.attention_dropout: 0.1
model.drop_path: 0.2
model.ema_decay: 0.9
model.warmup_epochs: 1
data.batch_size: 64
trainer.log_every_n_steps: 1
trainer.accelerator: cpu
"""
STEPS = 20  # of one epoch of TINY: 1,294 training images


class Ended(NamedTuple):
    """How a program ended: its exit status (negative: the signal that ended it) and all that it printed."""

    code: int
    text: str

    @property
    def error(self) -> str:
        """The one line on standard error."""
        lines = [line for line in self.text.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in self.text, self.text
        return lines[0]


class Running:
    """A program that has been started: `train.py`, or another script of the project, with the given arguments.

    Args:
        prepare: a function and its arguments, called in the new process before the program.
    """

    def __init__(self, *args: str, script: str = "train.py", prepare: tuple = ()):
        handle, self.output = tempfile.mkstemp()
        os.close(handle)
        self.process = forks.Process(target=_main, args=(script, [str(a) for a in args], self.output, prepare))
        self.process.start()

    def text(self) -> str:
        return Path(self.output).read_text()

    def end(self, timeout: float = 60) -> Ended:
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError(self.text())
        ended = Ended(self.process.exitcode, self.text())
        os.unlink(self.output)
        return ended


def _main(script: str, args: list[str], output: str, prepare: tuple) -> None:
    os.chdir(ROOT)
    for number in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if prepare:
        prepare[0](*prepare[1:])
    sys.argv = [script, *args]
    runpy.run_path(script, run_name="__main__")


def tiny(runs: Path, *more: str, epochs: int = 3) -> list[str]:
    """Arguments of a short training with everything random in it, in a folder of runs of its own."""
    flags = [part for line in TINY.split("\n") if line for part in ("--" + line).split(": ")]
    return [*flags, "--runs", str(runs), "--trainer.max_epochs", str(epochs), *more]


def train(*args: str, prepare: tuple = ()) -> Ended:
    return Running(*args, prepare=prepare).end()


def stop_at(step: int, number: int = signal.SIGTERM) -> None:
    """For `prepare`: the process sends itself a signal as soon as it has done so many steps."""
    from src.callbacks import Stop

    usual = Stop.on_train_batch_end

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == step:
            os.kill(os.getpid(), number)
        usual(self, trainer, *args)

    Stop.on_train_batch_end = on_train_batch_end
