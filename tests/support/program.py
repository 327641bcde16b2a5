"""Runs the real `train.py` and `classify.py` in processes of their own, which cost no second import of PyTorch.

A server process imports the program once; every run is a fork of it, so that it can be stopped, killed or limited like
any process.
"""

import atexit
import contextlib
import io
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

from src.errors import exit_on_input_error

ROOT = Path(__file__).parents[2]
os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}  # whatever the shell says
os.environ["PYTHONPATH"] = str(
    ROOT
)  # for the server, which imports the modules of the line after the next
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(
    [
        "src.cli.parser",
        "src.training.test",
        "src.inference.predictor",
        "sklearn.datasets",
        "torch.utils.tensorboard",
    ]
)

# Everything that could make a resumed run differ: dropouts, augmentation, averaging, validation, early stopping.
SETTINGS = """
--config configs/digits.yaml --trainer.accelerator cpu --trainer.precision 32-true --trainer.log_every_n_steps 1
--patience 9 --pictures false --data.batch_size 128
--model.optimizer adamw --model.weight_decay 0.05 --model.lr 1e-2 --model.warmup_epochs 1 --model.ema_decay 0.9
""".split()
VIT = """
--data.patch_size 2 --model.stem_layers 0 --model.width 8 --model.depth 2 --model.heads 2 --model.mlp_ratio 2
--model.dropout 0.1 --model.attention_dropout 0.1 --model.drop_path 0.2
""".split()
STEPS = 10  # of an epoch: 1,294 training images, the last, smaller batch dropped


class Ended(NamedTuple):
    """How a program ended: its exit status (negative: the signal that ended it), and what it printed."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def error(self) -> str:
        """The one line that a mistake is told in."""
        assert self.code == 2 and self.err.startswith("error: ") and self.err.count("\n") == 1, self
        return self.err


class Running:
    """A program that has been started: `train.py`, or another script of the project, with the given arguments.

    Args:
        prepare: a function and its arguments, called in the new process before the program.
    """

    def __init__(self, *args, script: str = "train.py", prepare: tuple = ()):
        self.folder = Path(tempfile.mkdtemp())
        self.process = forks.Process(
            target=_main, args=(script, [str(a) for a in args], self.folder, prepare)
        )
        self.process.start()

    def end(self, timeout: float = 120) -> Ended:
        self.process.join(timeout)
        late = self.process.is_alive()
        if late:
            self.process.kill()
            self.process.join()
        ended = Ended(
            self.process.exitcode, *((self.folder / name).read_text() for name in ("1", "2"))
        )
        shutil.rmtree(self.folder)
        assert not late, f"not ended after {timeout} s: {ended}"
        return ended


def _main(script: str, args: list[str], folder: Path, prepare: tuple) -> None:
    os.chdir(ROOT)
    multiprocessing.set_start_method(
        None, force=True
    )  # the program's workers start as they do by default
    for number in (1, 2):
        os.dup2(os.open(folder / str(number), os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stderr = os.fdopen(
        os.dup(2), "w", buffering=1, errors="backslashreplace"
    )  # as Python's own
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        if prepare:
            prepare[0](*prepare[1:])
        sys.argv = [script, *args]
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


def started(*args, **environment) -> Ended:
    """A script started as its users start it, imports and all: for what a fork cannot show."""
    done = subprocess.run(
        [sys.executable, *map(str, args)], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
        timeout=300, preexec_fn=_interruptible,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


def _interruptible() -> None:
    """Ctrl-C counts, even where `pytest &` in a script has begun with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def call(main, *args) -> Ended:
    """The `main` of a program in this process: ten times as fast, for what neither trains nor is stopped."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with exit_on_input_error():
                main([str(arg) for arg in args])
        except SystemExit as end:
            code = end.code or 0
    return Ended(code, out.getvalue(), err.getvalue())


def tiny(runs: Path, *more, epochs: int = 3, model: list[str] = VIT) -> list:
    """Arguments of a short training with everything random in it, in a folder of runs of its own."""
    return [*SETTINGS, *model, "--runs", runs, "--trainer.max_epochs", epochs, *more]


def run(runs: Path, *more, epochs: int = 2, model: list[str] = VIT, prepare: tuple = ()) -> Path:
    """A short training that has to succeed: its run directory."""
    before = set(runs.glob("*/version_*"))
    ended = train(*tiny(runs, *more, epochs=epochs, model=model), prepare=prepare)
    assert ended.code == 0, ended
    (made,) = set(runs.glob("*/version_*")) - before
    return made


def at_step(step: int, action, *args) -> None:
    """For `prepare`: the process calls `action(*args)` when it has done so many steps."""
    from src.training.stopping import Stop

    usual = Stop.on_train_batch_end

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == step:
            action(*args)
        usual(self, trainer, *rest)

    Stop.on_train_batch_end = on_train_batch_end


def send(*signals: int) -> None:
    for number in signals:
        os.kill(os.getpid(), number)


def stop_at(step: int, *signals: int) -> tuple:
    """`prepare`: the process sends itself these signals (SIGTERM, if none) when it has done so many steps."""
    return (at_step, step, send, *(signals or (signal.SIGTERM,)))


def each(*calls: tuple) -> None:
    """For `prepare`: several functions, each with its arguments."""
    for function, *args in calls:
        function(*args)


def without(*modules: str) -> None:
    """For `prepare`: as if these were not installed."""
    sys.modules.update(dict.fromkeys(modules))


def validate_as(*accuracies: float) -> None:
    """For `prepare`: the validation accuracy of every epoch, whatever the network has learned."""
    from src.training.classifier import Classifier

    def on_validation_epoch_end(self) -> None:
        self.log_dict(
            {"val_loss": self.eval_loss.compute(), "val_accuracy": accuracies[self.current_epoch]}
        )
        self.eval_loss.reset()
        self.eval_accuracy.reset()

    Classifier.on_validation_epoch_end = on_validation_epoch_end


def as_another_user(folder: Path) -> tuple:
    """`prepare`: a user whom permissions bind, who can read `folder`; this one, unless it is root."""
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


def differences(a, b, path: str = "") -> list[str]:
    """Where two trees of plain values and tensors are not equal, bit for bit; the seconds they took do not count."""
    if path.endswith("train_seconds"):
        return []
    if type(a) is not type(b):
        return [path]
    if isinstance(a, list | tuple):
        a, b = dict(enumerate(a)), dict(enumerate(b))
    if isinstance(a, dict):
        missing = [f"{path}.{key}" for key in a.keys() ^ b.keys()]
        return missing + [
            d for key in a.keys() & b.keys() for d in differences(a[key], b[key], f"{path}.{key}")
        ]
    return [] if (a.equal(b) if hasattr(a, "equal") else a == b) else [path]
