"""Run `train.py` from a benchmark."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from src.errors import InputError
from src.runs.results import read_results


def run_train_py(*flags: str, **process: Any) -> None:
    """Run `python train.py *flags`, with its output on stderr.

    Args:
        flags: of `train.py`.
        process: more arguments of `subprocess.Popen`.

    Raises:
        InputError: the training failed; it has printed why.
        KeyboardInterrupt: Ctrl-C stopped the training, which has written its last checkpoint.
    """
    command = [sys.executable, "train.py", *flags]
    training = subprocess.Popen(command, stdout=sys.stderr, **process)
    try:
        code = training.wait()
    except KeyboardInterrupt:
        training.wait()  # it got the Ctrl-C, too
        raise
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise InputError(
            f"python train.py {' '.join(flags)}: failed with exit code {code}; see above"
        )


def train(*flags: str, runs: str | None = None, **process: Any) -> dict[str, Any]:
    """Train, and return the content of results.json, with the run directory as `run`.

    Args:
        flags: of `train.py`.
        runs: folder of the runs; a temporary one by default.
        process: more arguments of `subprocess.Popen`.
    """
    runs = runs or tempfile.mkdtemp(prefix="benchmark-")
    before = set(Path(runs).glob("*/version_*"))
    run_train_py("--runs", runs, *flags, **process)
    (run,) = set(Path(runs).glob("*/version_*")) - before
    return read_results(run) | {"run": str(run)}
