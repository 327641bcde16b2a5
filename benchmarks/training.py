"""Run `train.py` from the benchmarks."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from src.errors import InputError
from src.runs.results import read_results


def run_train_py(*flags: str, **process: Any) -> None:
    """Run `python train.py` with `flags`, and redirect its output to stderr.

    Args:
        flags: `train.py` flags.
        process: additional arguments for `subprocess.Popen`.

    Raises:
        InputError: training failed; the reason has been printed.
        KeyboardInterrupt: Ctrl-C stopped training, after the last checkpoint was written.
    """
    command = [sys.executable, "train.py", *flags]
    training = subprocess.Popen(command, stdout=sys.stderr, **process)
    try:
        code = training.wait()
    except KeyboardInterrupt:
        training.wait()  # the child process also received Ctrl-C
        raise
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise InputError(
            f"python train.py {' '.join(flags)}: failed with exit code {code}; see above"
        )


def train(*flags: str, runs: str | None = None, **process: Any) -> dict[str, Any]:
    """Train, and return the contents of results.json plus the run directory as `run`.

    Args:
        flags: `train.py` flags.
        runs: run folder; by default, a temporary folder.
        process: additional arguments for `subprocess.Popen`.
    """
    runs = runs or tempfile.mkdtemp(prefix="benchmark-")
    before = set(Path(runs).glob("*/version_*"))
    run_train_py("--runs", runs, *flags, **process)
    (run,) = set(Path(runs).glob("*/version_*")) - before
    return read_results(run) | {"run": str(run)}
