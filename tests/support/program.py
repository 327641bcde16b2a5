"""Runs the real `train.py` and `classify.py` in processes of their own, which cost no second import of PyTorch.

A server process imports the program once; every run is a fork of it, so that it can be stopped, killed or limited like
any process.
"""

import atexit
import csv
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = str(ROOT)  # for the server, which imports the modules of the line after the next
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["src.cli.parser", "src.training.test", "src.inference.predictor", "sklearn.datasets", "torch.utils.tensorboard"])

# Everything that could make a resumed run differ: dropouts, augmentation, averaging, validation, early stopping.
TINY = """
config: configs/digits.yaml
patience: 9
model.width: 8
model.depth: 2
model.heads: 2
model.mlp_ratio: 2
model.dropout: 0.1
model.attention_dropout: 0.1
model.drop_path: 0.2
model.ema_decay: 0.9
model.warmup_epochs: 1
model.lr: 0.01
data.batch_size: 128
trainer.log_every_n_steps: 1
trainer.accelerator: cpu
"""
STEPS = 10  # of an epoch of TINY: 1,294 training images


class Ended(NamedTuple):
    """How a program ended: its exit status (negative: the signal that ended it) and all that it printed."""

    code: int
    text: str

    @property
    def error(self) -> str:
        """The one line of an error, and nothing worse."""
        lines = [line for line in self.text.splitlines() if line.startswith("error: ")]
        assert self.code == 2 and len(lines) == 1 and "Traceback" not in self.text, self.text
        return lines[0]


class Running:
    """A program that has been started: `train.py`, or another script of the project, with the given arguments.

    Args:
        prepare: a function and its arguments, called in the new process before the program.
    """

    def __init__(self, *args, script: str = "train.py", prepare: tuple = ()):
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
    multiprocessing.set_start_method(None, force=True)  # the program's workers start as they do by default
    for number in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if prepare:
        prepare[0](*prepare[1:])
    sys.argv = [script, *args]
    code = 1
    try:
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()  # a forked process leaves them out, a program does not
        os._exit(code)


def train(*args, prepare: tuple = ()) -> Ended:
    return Running(*args, prepare=prepare).end()


def classify(*args, prepare: tuple = ()) -> Ended:
    return Running(*args, script="classify.py", prepare=prepare).end()


def tiny(runs: Path, *more, epochs: int = 3) -> list[str]:
    """Arguments of a short training with everything random in it, in a folder of runs of its own."""
    flags = [part for line in TINY.split("\n") if line for part in ("--" + line).split(": ")]
    return [*flags, "--runs", str(runs), "--trainer.max_epochs", str(epochs), *more]


def stop_at(step: int, *signals: int) -> None:
    """For `prepare`: the process sends itself these signals (SIGTERM, if none) when it has done so many steps."""
    from src.training.stop import Stop

    usual = Stop.on_train_batch_end

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == step:
            for number in signals or (signal.SIGTERM,):
                os.kill(os.getpid(), number)
        usual(self, trainer, *args)

    Stop.on_train_batch_end = on_train_batch_end


def as_another_user(folder: Path) -> tuple:
    """For `prepare`: a user whom permissions bind, who can read `folder`; this one, unless it is root."""
    if os.getuid():
        return ()
    for parent in [folder, *folder.parents]:
        if parent.parts[:2] == ("/", "tmp") and len(parent.parts) > 2:
            parent.chmod(0o755)
    return (_become_nobody,)


def _become_nobody() -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def metrics(run: Path) -> list[dict]:
    """Rows of metrics.csv, but for the speed."""
    with open(run / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in csv.DictReader(file)]


def differences(a, b, path: str = "") -> list[str]:
    """Where two trees of plain values and tensors are not equal, bit for bit; the seconds they took do not count."""
    if type(a) is not type(b):
        return [path]
    if isinstance(a, dict):
        missing = [f"{path}.{key}" for key in a.keys() ^ b.keys()]
        return missing + [d for k in a.keys() & b.keys() for d in differences(a[k], b[k], f"{path}.{k}")]
    if isinstance(a, list | tuple):
        unequal = [path] * (len(a) != len(b))
        return unequal + [
            d for i, pair in enumerate(zip(a, b, strict=False)) for d in differences(*pair, f"{path}.{i}")
        ]
    equal = a.equal(b) if hasattr(a, "equal") else a == b
    return [] if equal or path.endswith("train_seconds") else [path]
