"""Run the real `train.py` and `classify.py` in separate processes.

A server process imports the program once and forks for every run. Runs can be stopped,
killed or limited like any process, but do not import PyTorch again.
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
os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}  # overrides the user's shell
os.environ["PYTHONPATH"] = str(ROOT)  # for imports in the server process
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(
    [
        "src.cli.parser",
        "src.training.test",
        "src.inference.predictor",
        "src.extras.report.pictures",
        "sklearn.datasets",
        "torch.utils.tensorboard",
    ]
)

# These settings use every feature that could make a resumed run differ: dropout, augmentation,
# weight averaging, validation and early stopping.
SETTINGS = """
--config configs/digits.yaml
--trainer.accelerator cpu
--trainer.precision 32-true
--trainer.log_every_n_steps 1
--patience 9
--pictures false
--data.batch_size 128
--model.optimizer adamw
--model.weight_decay 0.05
--model.lr 1e-2
--model.warmup_epochs 1
--model.ema_decay 0.9
""".split()
VIT = """
--data.patch_size 2
--model.stem_layers 0
--model.width 8
--model.depth 2
--model.heads 2
--model.mlp_ratio 2
--model.dropout 0.1
--model.attention_dropout 0.1
--model.drop_path 0.2
""".split()
STEPS = 10  # steps per epoch, for 1,294 training images and batch size 128


class Ended(NamedTuple):
    """Result of a program: exit code (negative if killed by a signal), stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def error(self) -> str:
        """The one-line error of a program that exited with code 2."""
        assert self.code == 2, self
        assert self.err.startswith("error: "), self
        assert self.err.count("\n") == 1, self
        return self.err


class Running:
    """A script of this project that runs in a new process.

    Args:
        args: arguments of the script.
        script: path of the script.
        prepare: function and its arguments, called in the new process before the script.
    """

    def __init__(self, *args, script: str = "train.py", prepare: tuple = ()):
        self.folder = Path(tempfile.mkdtemp())
        arguments = [str(arg) for arg in args]
        self.process = forks.Process(target=_main, args=(script, arguments, self.folder, prepare))
        self.process.start()

    def end(self, timeout: float = 120) -> Ended:
        self.process.join(timeout)
        timed_out = self.process.is_alive()
        if timed_out:
            self.process.kill()
            self.process.join()
        out, err = ((self.folder / name).read_text() for name in ("1", "2"))
        shutil.rmtree(self.folder)
        ended = Ended(self.process.exitcode, out, err)
        assert not timed_out, f"still running after {timeout} s: {ended}"
        return ended


def _main(script: str, args: list[str], folder: Path, prepare: tuple) -> None:
    os.chdir(ROOT)
    multiprocessing.set_start_method(None, force=True)  # restores the default for workers
    for number in (1, 2):
        file = os.open(folder / str(number), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
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
        atexit._run_exitfuncs()  # os._exit skips them
        os._exit(code)


def train(*args, prepare: tuple = ()) -> Ended:
    return Running(*args, prepare=prepare).end()


def classify(*args, prepare: tuple = ()) -> Ended:
    return Running(*args, script="classify.py", prepare=prepare).end()


def started(*args, **environment) -> Ended:
    """Run a script in a new interpreter, because a fork cannot test imports, for example."""
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=_restore_interrupt,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def _restore_interrupt() -> None:
    """Restore the default SIGINT action, because shells ignore SIGINT in background jobs."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def call(main, *args) -> Ended:
    """Call the `main` function of a program in this process, to save startup time."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with exit_on_input_error():
                main([str(arg) for arg in args])
        except SystemExit as end:
            code = end.code or 0
    return Ended(code, out.getvalue(), err.getvalue())


def tiny(runs: Path, *more, epochs: int = 3, model: list[str] = VIT) -> list:
    """Return the arguments of a short training run that uses all sources of randomness."""
    return [*SETTINGS, *model, "--runs", runs, "--trainer.max_epochs", epochs, *more]


def run(runs: Path, *more, epochs: int = 2, model: list[str] = VIT, prepare: tuple = ()) -> Path:
    """Complete a short training run and return the run directory."""
    before = set(runs.glob("*/version_*"))
    ended = train(*tiny(runs, *more, epochs=epochs, model=model), prepare=prepare)
    assert ended.code == 0, ended
    (created,) = set(runs.glob("*/version_*")) - before
    return created


# Functions for `prepare` --------------------------------------------------------------------------


def each(*calls: tuple) -> None:
    """Call each function with its arguments; for use as `prepare`."""
    for function, *args in calls:
        function(*args)


def at_step(step: int, action, *args) -> None:
    """Call `action(*args)` after the given number of training steps."""
    from src.training.stopping import StopOnSignal

    original = StopOnSignal.on_train_batch_end

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == step:
            action(*args)
        original(self, trainer, *rest)

    StopOnSignal.on_train_batch_end = on_train_batch_end


def send(*signals: int) -> None:
    """Send the signals to this process."""
    for number in signals:
        os.kill(os.getpid(), number)


def lose_the_reader() -> None:
    """Replace stdout with a broken pipe, as in `train.py | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    sys.stdout = os.fdopen(writer, "w", buffering=1)


def stop_at(step: int, *signals: int) -> tuple:
    """Return a `prepare` that sends signals (default SIGTERM) to the process after `step` steps."""
    return (at_step, step, send, *(signals or (signal.SIGTERM,)))


def without(*modules: str) -> None:
    """Make modules fail to import, as if they were not installed."""
    sys.modules.update(dict.fromkeys(modules))


def validate_as(*accuracies: float, every: int = STEPS) -> None:
    """Replace the validation accuracies with the given values, each for `every` steps.

    Balanced accuracy is 1 - accuracy.
    """
    from src.training.classifier import Classifier

    def on_validation_epoch_end(self) -> None:
        accuracy = accuracies[(self.global_step - 1) // every]
        found = {"val_accuracy": accuracy, "val_balanced_accuracy": 1 - accuracy}
        self.log_dict({"val_loss": self.eval_loss.compute()} | found)
        self.eval_loss.reset()
        self.eval_counts.reset()

    Classifier.on_validation_epoch_end = on_validation_epoch_end


def as_another_user(folder: Path) -> tuple:
    """Return a `prepare` that drops root privileges after making `folder` accessible."""
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


# Comparing ----------------------------------------------------------------------------------------


def differences(a, b, path: str = "") -> list[str]:
    """Return the paths at which two nested structures differ, except for train_seconds."""
    if path.endswith("train_seconds"):
        return []
    if type(a) is not type(b):
        return [path]
    if isinstance(a, list | tuple):
        a, b = dict(enumerate(a)), dict(enumerate(b))
    if isinstance(a, dict):
        found = [f"{path}.{key}" for key in a.keys() ^ b.keys()]
        for key in a.keys() & b.keys():
            found += differences(a[key], b[key], f"{path}.{key}")
        return found
    equal = a.equal(b) if hasattr(a, "equal") else a == b
    return [] if equal else [path]
